"""Layers that do the work of those that follow them, and the BatchNorms and activations that let them.

A fused layer keeps its parameters, its place in the model and its class (it becomes a subclass); so do those that
follow. In plain inference, when the call comes from where its result certainly goes to them (`flow.py`), it computes
what they would make of it, and puts a mark on the result by which they know that there is nothing left to do. In every
other case (training, gradients, hooks, tracing, compiling, export, a call from elsewhere) each module does its own.
"""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.modules import module as torch_modules

from tilewright import nn
from tilewright.acceleration.flow import (
    SEQUENTIAL,
    Followed,
    Path,
    after_in_sequence,
    caller_of,
    child,
    flow_of,
)
from tilewright.acceleration.folding import folded
from tilewright.errors import Error
from tilewright.nn.packed_layer import PackedLayer, frozen_for
from tilewright.settings import current as _options

_is_compiling = torch.compiler.is_compiling
compiled_around = torch._C._dynamo.eval_frame.get_eval_frame_callback
"""What compiles the functions that are called from here; None where nobody does. This layer may run as it is written,
for whatever reason, while those that follow it are compiled, and a compiled module looks for no mark."""

get_frame = sys._getframe
_LOCALS_ARE_COPIES = sys.version_info < (3, 13)
_hooks_of_all: tuple[Any, Any] = (
    torch_modules._global_forward_hooks,
    torch_modules._global_forward_pre_hooks,
)

_NOWHERE: Followed = ((), ())
_IN_SEQUENCE: Followed = ((), ((),))

_CALLED_INSTEAD = frozenset({"forward", "_call_impl", "_compiled_call_impl"})
"""What a module is called by, if it is in its ``__dict__``, in place of its class's forward."""

ORIGINAL = "_tilewright_original"
"""Where a module that was swapped keeps what it was, in its ``__dict__``."""


# --- those that follow --------------------------------------------------------------------------------------------


def _is_done(module: Any, x: Any) -> bool:
    """Whether the layer before has done the module's work on x; takes the mark away."""
    if _is_compiling() or x.__class__ is not Tensor:
        return False
    mark = getattr(x, "_tilewright_done", None)
    if mark is None:
        return False
    if mark[0] is not module:
        raise Error(
            f"{type(module).__name__}: x comes from an accelerated layer that did the work of another "
            f"{type(mark[0]).__name__}; expected that one to take it; call tilewright.restore(model)"
        )
    if len(mark) > 1:
        x._tilewright_done = mark[1:]  # type: ignore[attr-defined]
    else:
        del x._tilewright_done  # type: ignore[attr-defined]
    return True


class BatchNorm2d(torch.nn.BatchNorm2d):
    """torch's, unless the convolution before has done its work."""

    def forward(self, input: Tensor) -> Tensor:
        return input if _is_done(self, input) else _normalized(self, input, super().forward)


class BatchNorm1d(torch.nn.BatchNorm1d):
    """torch's, unless the linear layer before has done its work."""

    def forward(self, input: Tensor) -> Tensor:
        return input if _is_done(self, input) else _normalized(self, input, super().forward)


def _normalized(norm: Any, x: Any, forward: Any) -> Any:
    if not isinstance(x, Tensor) and not norm.training and norm.running_mean is not None:
        # A proxy: torch.fx takes torch's own modules for leaves, and would step into this one.
        statistics = norm.running_mean, norm.running_var
        return functional.batch_norm(x, *statistics, norm.weight, norm.bias, False, 0.0, norm.eps)
    return forward(x)


class ReLU(torch.nn.ReLU):
    """torch's, unless the layer before has done its work."""

    def forward(self, input: Tensor) -> Tensor:
        return input if _is_done(self, input) else super().forward(input)


class GELU(torch.nn.GELU):
    """torch's, unless the layer before has done its work."""

    def forward(self, input: Tensor) -> Tensor:
        return input if _is_done(self, input) else super().forward(input)


class SiLU(torch.nn.SiLU):
    """torch's, unless the layer before has done its work."""

    def forward(self, input: Tensor) -> Tensor:
        return input if _is_done(self, input) else super().forward(input)


NORMS: dict[type[torch.nn.Module], type[torch.nn.Module]] = {
    torch.nn.BatchNorm2d: BatchNorm2d,
    torch.nn.BatchNorm1d: BatchNorm1d,
}
ACTIVATIONS: dict[type[torch.nn.Module], type[torch.nn.Module]] = {
    torch.nn.ReLU: ReLU,
    torch.nn.GELU: GELU,
    torch.nn.SiLU: SiLU,
}


_ACTIVATION_NAMES = {ReLU: "relu", torch.nn.ReLU: "relu", SiLU: "silu", torch.nn.SiLU: "silu"}
_GELU_NAMES = {"none": "gelu", "tanh": "gelu_tanh"}


def activation_of(module: Any) -> str | None:
    """The name of what an activation module computes, torch's or ours; None of any other module."""
    kind = type(module)
    if kind is GELU or kind is torch.nn.GELU:
        return _GELU_NAMES.get(module.approximate)
    return _ACTIVATION_NAMES.get(kind)


# --- the layers ---------------------------------------------------------------------------------------------------


class Fused(PackedLayer):
    """What fused layers share. The layer itself comes second: ``class Linear(Fused, nn.Linear)``."""

    plain: ClassVar[type[PackedLayer]]
    """The layer itself."""
    norm: ClassVar[type[torch.nn.Module] | None]
    """The BatchNorm that can be folded into it."""
    norm_dims: ClassVar[int]
    """Dimensions of the input where that BatchNorm's channels are the output's."""

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        if residual is not None or not self._infers(input, None) or compiled_around() is not None:
            return super().forward(input, residual)
        return self._infer_for(input, self._followers(get_frame(1)))

    def _infer_for(self, x: Tensor, followers: tuple[Any, ...]) -> Tensor:
        """The call for those that take its result, with their work done where it can be."""
        if followers:
            y = self._fused(x, followers)
            if y is not None:
                y._tilewright_done = followers  # type: ignore[attr-defined]
                return y
        return self._infer(self._prepared(x), None, self.__dict__["_activation"])

    def _prepared(self, x: Tensor) -> Tensor:
        """The operation's input."""
        return x

    def _fused(self, x: Tensor, followers: tuple[Any, ...]) -> Tensor | None:
        """What the followers would make of the output; None if they had better do so themselves."""
        activation = activation_of(followers[-1])
        if activation is not None and len(followers) == 1:
            return self._infer(self._prepared(x), None, activation)
        if x.dim() != self.norm_dims:
            return None
        snapshot = self.__dict__["_packing"].current(self) if _options().pack else None
        kept = None if snapshot is None else folded(self, followers[0], snapshot)
        found = None if kept is None else frozen_for(kept, x)
        if kept is None or found is None:
            return None
        operands = found[0], kept.bias, kept.bias_key, found[1]
        return self._infer_frozen(self._prepared(x), operands, None, activation or "none")

    def _followers(self, frame: FrameType) -> tuple[Any, ...]:
        """The modules whose work this call may do: a BatchNorm, an activation, or both in this order."""
        caller = caller_of(frame)
        if caller is None or self.__dict__["_forward_hooks"] or _hooks_of_all[0] or _hooks_of_all[1]:
            return ()
        code = caller.f_code
        flow = flow_of(code)
        known = _IN_SEQUENCE if code is SEQUENTIAL else flow.calls.get(caller.f_lasti, _NOWHERE)
        if known is _NOWHERE:
            return ()
        values = caller.f_locals
        owner = values.get(flow.owner)
        if _LOCALS_ARE_COPIES:
            values.clear()  # or the caller's frame would keep the tensors of this moment alive
        if not isinstance(owner, torch.nn.Module):
            return ()
        callee, paths = known
        if known is _IN_SEQUENCE:
            paths = after_in_sequence(owner, self)
        elif child(owner, callee) is not self:
            return ()
        return willing(self, owner, paths)


def willing(layer: Fused, owner: torch.nn.Module, paths: tuple[Path, ...]) -> tuple[Any, ...]:
    """Those at the paths whose work the layer can do in the state that they are in now."""
    found: list[Any] = []
    for path in paths:
        module: Any = child(owner, path)
        is_norm = type(module) is layer.norm and not found and not module.training
        if not is_norm and activation_of(module) is None:
            break
        state = module.__dict__
        if (
            ORIGINAL not in state
            or state["_forward_hooks"]
            or state["_forward_pre_hooks"]
            or not _CALLED_INSTEAD.isdisjoint(state)
        ):
            break
        found.append(module)
        if not is_norm:
            break
    return tuple(found)


class Conv2d(Fused, nn.Conv2d):
    """`tilewright.nn.Conv2d` that does the work of a BatchNorm and an activation behind it."""

    plain = nn.Conv2d
    norm = BatchNorm2d
    norm_dims = 4

    def _prepared(self, x: Tensor) -> Tensor:
        return x if self.padding_mode == "zeros" else self._padded(x)


class Linear(Fused, nn.Linear):
    """`tilewright.nn.Linear` that does the work of a BatchNorm and an activation behind it."""

    plain = nn.Linear
    norm = BatchNorm1d
    norm_dims = 2
