"""The ``torch.ops.tilewright`` namespace, and everything that makes an operation torch's own.

An `Operation` is a schema and a NamedTuple of its arguments. What implements it (fake, decomposition, autocast,
gradients, FLOPs) takes one such tuple, ``given``, with every default filled in; only the kernels, which are on every
call's way, take the arguments one by one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from tilewright.ops import flop_formulas

LIBRARY = torch.library.Library("tilewright", "DEF")
"""Owns every schema; it must live as long as the process, or torch forgets the operations."""

# Inductor may otherwise change the strides of what reaches an operation after its output was laid out.
_STRIDES = getattr(torch.Tag, "needs_exact_strides", torch.Tag.needs_fixed_stride_order)
TAGS = (torch.Tag.pt2_compliant_tag, _STRIDES)


# Bound once: every dotted name that a call looks up costs 20 ns, and it passes here each time.
_functorch_active = torch._C._are_functorch_transforms_active
_forward_ad = torch.autograd.forward_ad
is_grad_enabled = torch.is_grad_enabled
_is_compiling = torch.compiler.is_compiling
_dispatch_modes = torch._C._len_torch_dispatch_stack
_function_modes = torch._C._len_torch_function_stack
_tracing_state = torch._C._get_tracing_state
_below_autograd = torch._C._AutoDispatchBelowAutograd
_after_autograd = torch._C._after_autograd_keyset
is_excluded = torch._C._dispatch_tls_is_dispatch_key_excluded
set_excluded = torch._C._dispatch_tls_set_dispatch_key_excluded
AUTOGRAD = torch._C.DispatchKey.AutogradFunctionality


def transforms_active() -> bool:
    """Whether functorch transforms or forward-mode AD are in force, which bypass registered gradients."""
    return _functorch_active() or _forward_ad._current_level >= 0


def watched() -> bool:
    """Whether anybody but autograd and autocast would see an operation pass torch's dispatcher.

    Tracing, dispatch and function modes (FLOP counter, fake tensors, a default device), functorch, forward-mode AD.
    """
    return (
        _dispatch_modes() > 0
        or _function_modes() > 0
        or _tracing_state() is not None
        or _functorch_active()
        or _forward_ad._current_level >= 0
    )


def jit_tracing() -> bool:
    """Whether ``torch.jit.trace`` is at work."""
    return _tracing_state() is not None


def any_requires_grad(*tensors: Tensor | None) -> bool:
    for tensor in tensors:  # noqa: SIM110 - a generator in any() takes three times as long, on every call
        if tensor is not None and tensor.requires_grad:
            return True
    return False


def autocast_operand(operand: Tensor, device_type: str) -> Tensor:
    """The operand in the autocast dtype, where autocast of the device casts it."""
    casts = (
        operand.is_floating_point() and operand.dtype != torch.float64 and operand.device.type == device_type
    )
    return operand.to(torch.get_autocast_dtype(device_type)) if casts else operand


Given = TypeVar("Given", bound=NamedTuple)


def _default(argument: Any) -> Any:
    """A schema argument's default, lists as tuples; ... where it has none."""
    value = argument.default_value if argument.has_default_value() else ...
    return tuple(value) if isinstance(value, list) else value


class Operation(Generic[Given]):
    """An operation's name, known to torch; `implement` gives it its meaning.

    Args:
        schema: as ``torch.library.define`` takes it. No argument is keyword-only: those take the dispatcher up
            to 0.6 µs longer.
        arguments: a NamedTuple class with the schema's argument names and defaults.
    """

    def __init__(self, schema: str, arguments: type[Given]) -> None:
        declared = [
            (argument.name, _default(argument))
            for argument in torch._C.parse_schema(f"tilewright::{schema}").arguments
        ]
        named = [(name, arguments._field_defaults.get(name, ...)) for name in arguments._fields]
        if declared != named:
            raise TypeError(
                f"schema {schema}: its arguments are {declared}, {arguments.__name__} has {named}"
            )
        LIBRARY.define(schema, tags=TAGS)
        self.name = schema.partition("(")[0]
        self.packet = getattr(torch.ops.tilewright, self.name)
        self.overload = self.packet.default
        self.arguments = arguments
        # What the overload's own __call__ calls, 0.2 µs later.
        self._direct = getattr(self.overload, "_op", self.overload)

    def implement(
        self,
        *,
        cpu: Callable[..., Any],
        cuda: Callable[..., Any],
        fake: Callable[[Given], Any],
        decomposition: Callable[[Given], Any],
        autocast: Callable[[str, Given], Given],
        setup_context: Callable[[Any, Given, Any], None],
        backward: Callable[..., tuple[Tensor | None, ...]],
        flops: Callable[[Given], int],
    ) -> None:
        """Registers everything that the design asks of an operation.

        Args:
            cpu, cuda: the kernels for tensors there; other devices take the decomposition.
            fake: checks the arguments and returns empty outputs.
            decomposition: the same by ATen operators alone, to be called on arguments that `fake` has checked.
            autocast: ``(device type, given)`` to the arguments as autocast wants them.
            setup_context: ``(ctx, given, output)``; ``ctx.needs_input_grad`` begins with the schema's arguments.
            backward: ``(ctx, *gradients of the outputs)`` to gradients of the schema's first arguments; those
                after are taken to have none.
            flops: how many, for torch's counter.
        """
        self._fake, self._decomposition, self._autocast = fake, decomposition, autocast
        arguments = self.arguments

        def faked(*args: Any, **keywords: Any) -> Any:
            return fake(arguments(*args, **keywords))

        def decomposed(*args: Any, **keywords: Any) -> Any:
            return decomposition(arguments(*args, **keywords))

        def elsewhere(*args: Any) -> Any:
            # Checked here: other layouts (sparse, say) of the devices that have kernels come this way too.
            given = arguments(*args)
            fake(given)
            return decomposition(given)

        LIBRARY.impl(self.name, cpu, "CPU")
        LIBRARY.impl(self.name, cuda, "CUDA")
        LIBRARY.impl(self.name, elsewhere, "CompositeExplicitAutograd")
        torch.library.register_fake(f"tilewright::{self.name}", faked, lib=LIBRARY)
        LIBRARY.impl(self.name, _autograd_kernel(self, setup_context, backward), "Autograd", with_keyset=True)
        for device_type, key in (("cpu", "AutocastCPU"), ("cuda", "AutocastCUDA")):
            LIBRARY.impl(self.name, _autocast_kernel(self, autocast, device_type, key), key)
        flop_formulas.add(self.packet, lambda *args, out_val=None: flops(arguments(*args)))
        _decompositions[self.overload] = decomposed

    def call(self, args: tuple[Any, ...], gradients: bool) -> Any:
        """The shortest way to run the operation.

        Args:
            args: its first arguments, without those at the end that have their default: each costs the dispatcher
                some 0.1 µs.
            gradients: whether autograd is to record the call.
        """
        if _is_compiling():
            return self.overload(*args)
        # In inference mode, and inside another operation's kernel, the autograd key is excluded already.
        if gradients or is_excluded(AUTOGRAD):
            return self._direct(*args)
        # Past the autograd key, which alone costs 3 µs. By hand: torch's guard (_below_autograd) takes 0.35 µs more.
        set_excluded(AUTOGRAD, True)
        try:
            return self._direct(*args)
        finally:
            set_excluded(AUTOGRAD, False)

    def decompose(self, given: Given) -> Any:
        """The decomposition in place of the operation: same checks, same autocast."""
        device_type = given[0].device.type
        if torch.is_autocast_enabled(device_type):
            given = self._autocast(device_type, given)
        self._fake(given)
        return self._decomposition(given)


def _autograd_kernel(
    operation: Operation[Given],
    setup_context: Callable[[Any, Given, Any], None],
    backward: Callable[..., tuple[Tensor | None, ...]],
) -> Callable[..., Any]:
    """What ``torch.library.register_autograd`` would make, with the schema's defaults worked out beforehand.

    torch's own fills them in on every call with gradients, which takes 6 of its 22 µs.
    """
    overload, arguments = operation.overload, operation.arguments
    defaults = [None if value is ... else value for value in map(_default, overload._schema.arguments)]
    inputs_count = len(defaults) + 2
    below, after = _below_autograd, _after_autograd

    class Function(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *inputs: Any) -> Any:
            keyset, args = inputs[-2:]
            with below():
                output = overload.redispatch(keyset & after, *args)
            setup_context(ctx, arguments(*inputs[:-2]), output)
            return output

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> Any:
            found = backward(ctx, *grads)
            return *found, *(None,) * (inputs_count - len(found))

    apply: Callable[..., Any] = Function.apply
    Function.__name__ = f"Tilewright{operation.name.title().replace('_', '')}"

    def autograd(keyset: Any, *args: Any) -> Any:
        if is_grad_enabled() and torch._C._any_requires_grad(*args):
            # The dispatcher drops arguments that equal their defaults; setup_context sees all of them.
            return apply(*args, *defaults[len(args) :], keyset, args)
        with below():
            return overload.redispatch(keyset & after, *args)

    return autograd


def _autocast_kernel(
    operation: Operation[Given], autocast: Callable[[str, Given], Given], device_type: str, key: str
) -> Callable[..., Any]:
    excluded = torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, key))
    overload, arguments = operation.overload, operation.arguments

    def cast_and_call(*args: Any) -> Any:
        with torch._C._ExcludeDispatchKeyGuard(excluded):
            return overload(*autocast(device_type, arguments(*args)))

    return cast_and_call


_decompositions: dict[Any, Callable[..., Any]] = {}


def decomposition_table() -> dict[Any, Callable[..., Any]]:
    """Every tilewright operation's decomposition into ATen, as ``ExportedProgram.run_decompositions`` takes it."""
    return dict(_decompositions)
