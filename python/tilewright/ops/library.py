"""The ``torch.ops.tilewright`` namespace and what registering an operation takes."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import torch

LIBRARY = torch.library.Library("tilewright", "DEF")
"""Owns every schema; it must live as long as the process, or torch forgets the operations."""

# Inductor may otherwise change the strides of what reaches an operation after its output was laid out.
_STRIDES = getattr(torch.Tag, "needs_exact_strides", torch.Tag.needs_fixed_stride_order)
TAGS = (torch.Tag.pt2_compliant_tag, _STRIDES)


# Bound once: every dotted name that a call looks up costs 20 ns, and it passes here each time.
_functorch_active = torch._C._are_functorch_transforms_active
_forward_ad = torch.autograd.forward_ad


def transforms_active() -> bool:
    """Whether functorch transforms or forward-mode AD are in force, which bypass registered gradients."""
    return _functorch_active() or _forward_ad._current_level >= 0


def any_requires_grad(*tensors: torch.Tensor | None) -> bool:
    for tensor in tensors:  # noqa: SIM110 - a generator in any() takes three times as long, on every call
        if tensor is not None and tensor.requires_grad:
            return True
    return False


def define(schema: str) -> Any:
    """Makes an operation's name known to torch; returns its OpOverload, to be given to `implement`."""
    LIBRARY.define(schema, tags=TAGS)
    return getattr(torch.ops.tilewright, schema.partition("(")[0]).default


def implement(
    overload: Any,
    *,
    kernels: tuple[Callable[..., Any], Callable[..., Any]],
    fake: Callable[..., Any],
    decomposition: Callable[..., Any],
    autocast: Callable[..., Any],
    setup_context: Callable[..., None],
    backward: Callable[..., Any],
    flops: Callable[..., int],
) -> None:
    """Registers everything that the design asks of an operation.

    `kernels` run on CPU and on CUDA tensors; other devices take the `decomposition` into ATen.
    `autocast` gets the device type first, then the operation's arguments.
    """
    name = overload._schema.name.partition("::")[2]
    for key, kernel in zip(("CPU", "CUDA"), kernels, strict=True):
        LIBRARY.impl(name, kernel, key)

    def elsewhere(*args: Any, **kwargs: Any) -> Any:
        # Checked here: other layouts (sparse, say) of the devices that have kernels come this way too.
        fake(*args, **kwargs)
        return decomposition(*args, **kwargs)

    LIBRARY.impl(name, elsewhere, "CompositeExplicitAutograd")
    torch.library.register_fake(f"tilewright::{name}", fake, lib=LIBRARY)
    LIBRARY.impl(name, _autograd_kernel(overload, setup_context, backward), "Autograd", with_keyset=True)
    for device_type, key in (("cpu", "AutocastCPU"), ("cuda", "AutocastCUDA")):
        LIBRARY.impl(name, _autocast_kernel(autocast, device_type, key), key)
    _flop_formulas[getattr(torch.ops.tilewright, name)] = flops
    _decompositions[overload] = decomposition


def _autograd_kernel(
    overload: Any, setup_context: Callable[..., None], backward: Callable[..., Any]
) -> Callable[..., Any]:
    """What ``torch.library.register_autograd`` would make, with the schema's defaults worked out beforehand.

    torch's own fills them in on every call with gradients, which takes 6 of its 22 µs. `setup_context` is
    called as there (``ctx, inputs, keyword_only_inputs, output``), always with every argument.
    """
    arguments = overload._schema.arguments
    defaults = [argument.default_value for argument in arguments if not argument.kwarg_only]
    keyword_defaults = {
        argument.name: argument.default_value for argument in arguments if argument.kwarg_only
    }
    below = torch._C._AutoDispatchBelowAutograd
    after_autograd = torch._C._after_autograd_keyset

    class Function(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, keyset: Any, given: Any, keywords: Any, *inputs: Any) -> Any:
            with below():
                output = overload.redispatch(keyset & after_autograd, *given, **keywords)
            # The dispatcher drops arguments that equal their defaults; setup_context sees all of them.
            setup_context(ctx, inputs, {**keyword_defaults, **keywords}, output)
            return output

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> Any:
            return None, None, None, *backward(ctx, *grads)

    apply: Callable[..., Any] = Function.apply
    Function.__name__ = f"Tilewright{overload._schema.name.partition('::')[2].title().replace('_', '')}"

    def autograd(keyset: Any, *args: Any, **keywords: Any) -> Any:
        if torch.is_grad_enabled() and torch._C._any_requires_grad(*args):
            return apply(keyset, args, keywords, *args, *defaults[len(args) :])
        with below():
            return overload.redispatch(keyset & after_autograd, *args, **keywords)

    return autograd


def _autocast_kernel(autocast: Callable[..., Any], device_type: str, key: str) -> Callable[..., Any]:
    excluded = torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, key))

    def cast_and_call(*args: Any, **kwargs: Any) -> Any:
        with torch._C._ExcludeDispatchKeyGuard(excluded):
            return autocast(device_type, *args, **kwargs)

    return cast_and_call


_decompositions: dict[Any, Callable[..., Any]] = {}


def decomposition_table() -> dict[Any, Callable[..., Any]]:
    """Every tilewright operation's decomposition into ATen, as ``ExportedProgram.run_decompositions`` takes it."""
    return dict(_decompositions)


# FLOP formulas. torch.utils.flop_counter imports Triton, 0.2 s of it, so it is not imported here: the formulas
# are handed over when somebody else imports it.
_FLOP_COUNTER = "torch.utils.flop_counter"
_flop_formulas: dict[Any, Callable[..., int]] = {}


def _register_flop_formulas(flop_counter: ModuleType) -> None:
    for packet, formula in _flop_formulas.items():
        if packet not in flop_counter.flop_registry:
            flop_counter.register_flop_formula(packet, get_raw=True)(formula)


class _AfterImport(importlib.abc.MetaPathFinder):
    """Registers the formulas right after torch's FLOP counter was imported."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != _FLOP_COUNTER:
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            _register_flop_formulas(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def install_flop_formulas() -> None:
    """Hands the FLOP formulas to torch now if its counter is loaded, else as soon as it is."""
    if _FLOP_COUNTER in sys.modules:
        _register_flop_formulas(sys.modules[_FLOP_COUNTER])
    elif not any(isinstance(finder, _AfterImport) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterImport())
