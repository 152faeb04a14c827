"""Which modules can be swapped, and how: a module stays the same object and becomes one of another class.

Names, references, tied and shared modules, parameters, optimizers and hooks of parents then hold what they held.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeGuard

import torch
from torch.nn import Parameter

from tilewright.acceleration import fused
from tilewright.acceleration.conv1d import CONV1D_NAMES, Conv1D
from tilewright.acceleration.fused import ORIGINAL, Fused
from tilewright.holders import WatchedParameters
from tilewright.kernels.dtypes import KERNEL_DTYPES
from tilewright.nn import Conv2d, PackedLayer
from tilewright.ops.checks import dtype_text
from tilewright.packing import Packing

_LAYERS: dict[type[torch.nn.Module], type[Fused]] = {
    torch.nn.Conv2d: fused.Conv2d,
    torch.nn.Linear: fused.Linear,
}
_METHODS = ("forward", "_conv_forward", "_call_impl", "__call__")
_STRIDES = "_tilewright_strides"

_READ_PAST_FORWARD = (torch.nn.MultiheadAttention, torch.nn.TransformerEncoderLayer)
"""Modules that, in inference, compute with the weights of their children and do not call them."""


def is_layer(module: torch.nn.Module) -> bool:
    """Whether a report is to speak of the module: it is a layer that could be swapped, or of a subclass of one."""
    return isinstance(module, (PackedLayer, *_LAYERS)) or _is_conv1d(type(module))


def is_accelerated(module: torch.nn.Module) -> TypeGuard[PackedLayer]:
    """Whether it is a layer that was swapped."""
    return isinstance(module, PackedLayer) and ORIGINAL in module.__dict__


def target_of(module: torch.nn.Module) -> type[Fused] | None:
    """The class that a module of exactly this class becomes."""
    found = _LAYERS.get(type(module))
    return Conv1D if found is None and _is_conv1d(type(module)) else found


def _is_conv1d(kind: type) -> bool:
    return f"{kind.__module__}.{kind.__qualname__}" in CONV1D_NAMES


def obstacle(module: torch.nn.Module) -> str | None:
    """Why a layer must stay as it is; None if nothing stands against swapping it."""
    kind, target = type(module), target_of(module)
    if target is None:
        if isinstance(module, PackedLayer):
            return "it is a layer of tilewright.nn already"
        if torch.nn.utils.parametrize.is_parametrized(module):
            return "it is parametrized"
        return f"it is a {kind.__module__}.{kind.__qualname__}, a subclass whose forward may differ"
    reason = oddity(module)
    if reason is not None:
        return reason
    parameters = module.__dict__["_parameters"]
    if set(parameters) != {"weight", "bias"} or module.__dict__["_buffers"] or module.__dict__["_modules"]:
        return "its parameters are not the usual ones (pruned, or with a weight norm)"
    weight, bias = parameters["weight"], parameters["bias"]
    if type(weight) is not Parameter or (bias is not None and type(bias) is not Parameter):
        return f"its weight is a {type(weight).__name__}, no plain parameter"
    if weight.dtype not in KERNEL_DTYPES:
        return f"no kernel of tilewright's computes {dtype_text(weight.dtype)}"
    return None


def oddity(module: torch.nn.Module) -> str | None:
    """What else than its class and its parameters would decide what a module does; None if nothing."""
    state = vars(module)
    hooks = [name for name, value in state.items() if name.endswith("_hooks") and value]
    if hooks:
        return f"it has hooks ({', '.join(hooks)})"
    own = [name for name in _METHODS if name in state]
    if own:
        return f"it has a {own[0]} of its own"
    if state.get("_compiled_call_impl") is not None:
        return "it is compiled (module.compile())"
    return None


def read_past_forward(model: torch.nn.Module) -> dict[torch.nn.Module, str]:
    """Layers whose forward may not be called, and why."""
    found: dict[torch.nn.Module, str] = {}
    for module in model.modules():
        reason = None
        if isinstance(module, _READ_PAST_FORWARD):
            reason = f"{type(module).__name__} computes with its weight and does not call it"
        elif isinstance(module, torch.jit.ScriptModule):
            reason = "it is part of a ScriptModule"
        if reason is not None:
            found.update((below, reason) for below in module.modules())
    return found


def swap(module: torch.nn.Module, target: type[torch.nn.Module]) -> None:
    """Makes the module one of the class `target`."""
    state = module.__dict__
    state[ORIGINAL] = type(module)
    if issubclass(target, Fused):
        state["_packing"] = Packing()
        state["_parameters"] = WatchedParameters(state["_parameters"])
        state["_activation"] = "none"
    module.__class__ = target


def make_plain(layer: Fused) -> None:
    """Makes a fused layer that nobody follows one that does not look for who calls it."""
    layer.__class__ = type(layer).plain  # type: ignore[assignment]


def swap_back(module: torch.nn.Module) -> None:
    """Makes the module what it was before `swap` and `lay_out`."""
    state = module.__dict__
    strides = state.pop(_STRIDES, None)
    if strides is not None:
        _with_strides(state["_parameters"]["weight"], *strides)
    original = state.pop(ORIGINAL)
    if isinstance(module, PackedLayer):
        del state["_packing"], state["_activation"]
        state["_parameters"] = dict(state["_parameters"])
    module.__class__ = original


def swapped(model: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """Every module in the model that was swapped, once."""
    return (module for module in model.modules() if ORIGINAL in module.__dict__)


# --- memory formats -----------------------------------------------------------------------------------------------


def lay_out(model: torch.nn.Module) -> None:
    """Lays the weights of all swapped convolutions out in channels_last; the parameters stay the same objects."""
    for module in swapped(model):
        if isinstance(module, Conv2d):
            weight: Any = module.__dict__["_parameters"]["weight"]
            last = weight.detach().contiguous(memory_format=torch.channels_last)
            if last.stride() != weight.stride():
                module.__dict__[_STRIDES] = weight.stride(), last.stride()
                weight.data = last
            _repack(module)


def lay_back(model: torch.nn.Module) -> None:
    """Undoes `lay_out`."""
    for module in swapped(model):
        strides = module.__dict__.pop(_STRIDES, None)
        if strides is not None:
            _with_strides(module.__dict__["_parameters"]["weight"], *strides)
            _repack(module)


def _repack(layer: Any) -> None:
    """Has the next call pack the weight: that it was laid out anew says nothing of how often it changes."""
    layer.__dict__["_packing"].drop("the weight was laid out anew")
    layer.__dict__["_packing"].restless = 0


def _with_strides(weight: Any, strides: tuple[int, ...], ours: tuple[int, ...]) -> None:
    """Lays a weight out as it was, unless somebody has laid it out otherwise since."""
    if weight is not None and weight.stride() == ours:
        old = torch.empty_strided(weight.shape, strides, dtype=weight.dtype, device=weight.device)
        weight.data = old.copy_(weight.detach())
