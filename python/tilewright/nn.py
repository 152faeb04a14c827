"""Layers with tilewright's kernels behind them, drop-in for torch's: same parameters, same state_dict.

>>> layer = tilewright.nn.Linear(768, 3072, activation="gelu")             # gelu(torch.nn.Linear(...)(x)), fused
>>> layer = tilewright.nn.Linear.from_torch(module, activation="relu")     # shares the parameters of `module`
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import profiler
from torch.nn import Parameter
from torch.overrides import handle_torch_function, has_torch_function

from tilewright.errors import ArgumentError
from tilewright.holders import WatchedParameters, weight_of
from tilewright.kernels.dtypes import KERNEL_DTYPES
from tilewright.kernels.epilogue import ACTIVATIONS
from tilewright.kernels.matmul.problem import MatmulProblem
from tilewright.ops import linear
from tilewright.ops.library import any_requires_grad, is_grad_enabled, watched
from tilewright.ops.matmul_kernels import linear_problem
from tilewright.ops.packed import FrozenWeight, frozen_linear
from tilewright.packing import Packing, plain
from tilewright.settings import current as _options

__all__ = ["Linear"]

_is_compiling = torch.compiler.is_compiling
_is_autocast = torch.is_autocast_enabled
_autocast_dtype = torch.get_autocast_dtype
_strided = torch.strided


class Linear(torch.nn.Linear):
    """A fully connected layer with a fused epilogue: ``y = act(x·weightᵀ + bias + residual)``.

    A `torch.nn.Linear` with an activation: parameters, initialization and state_dict are torch's, in both directions,
    and code that looks for `torch.nn.Linear` finds it.

    In training, wherever a gradient is wanted, and wherever somebody watches or rewrites the call (``torch.compile``,
    ``torch.export``, functorch, forward-mode AD, FLOP counters, fake tensors, tensor subclasses), it is
    `tilewright.linear`. In inference on a CPU it goes past torch's dispatcher, and the weight is kept *packed*: laid
    out for the kernel that runs, once, by the first call. That takes about as much memory as the weight itself
    (`packed_bytes`); training mode frees it, ``tilewright.options(pack=False)`` does without.

    A packed weight is not used once the weight has changed. In-place updates, ``load_state_dict``, ``.to()``, optimizer
    steps and replaced parameters are noticed, and so are writes that torch does not count (``weight.data[0] = 2``,
    NumPy views, DLPack): whoever writes must have got the weight from the module. The module takes note of that, has
    the next call read all of the weight to see whether it changed, and does not use a packed weight while others
    refer to the weight or to its memory. What it cannot notice are uncounted writes through an address that was kept
    without the tensor (``data_ptr``, ctypes), and through a weight that was got past Python (``dict.get(...)``,
    compiled code that returns it) and let go of again before the next call.

    A weight that others refer to all the time (an optimizer, a tied module, compiled code, the module that
    `from_torch` got) is therefore not packed, nor is one that lies in shared memory or was made in inference mode;
    `packing` says so. Where it is but others that refer to it, ``pack(frozen=True)`` packs it on your word.

    Args:
        in_features, out_features, bias, device, dtype: as for `torch.nn.Linear`.
        activation: ``"none"``, ``"relu"``, ``"gelu"`` (erf), ``"gelu_tanh"`` or ``"silu"``; may be set later too.

    Shapes:
        x (..., in_features), residual broadcasts to (..., out_features), y (..., out_features).

    Raises:
        ArgumentError: unknown activation. Calls raise the errors of `tilewright.linear`.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        activation: str = "none",
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.__dict__["_packing"] = Packing()
        super().__init__(in_features, out_features, bias, device, dtype)
        self.__dict__["_parameters"] = WatchedParameters(self.__dict__["_parameters"])
        self.activation = activation

    @classmethod
    def from_torch(cls, module: torch.nn.Linear, activation: str = "none") -> Linear:
        """A layer with the parameters (the same objects), dtype, device and mode of a `torch.nn.Linear`.

        While `module` is alive it holds the weight too, so the weight is not packed by itself (see the class).

        Raises:
            ArgumentError: `module` is no `torch.nn.Linear`, was not run yet (a lazy one), is parametrized (pruned,
                weight-normalized), or has hooks, which would be lost.
        """
        if not isinstance(module, torch.nn.Linear):
            raise ArgumentError(
                f"Linear.from_torch: module is of type {type(module).__name__}; expected a torch.nn.Linear"
            )
        parameters = module.__dict__["_parameters"]
        weight, bias = parameters.get("weight"), parameters.get("bias")
        if weight is None or torch.nn.parameter.is_lazy(weight) or "bias" not in parameters:
            raise ArgumentError(
                "Linear.from_torch: module has no plain weight and bias; expected an initialized torch.nn.Linear; run "
                "a lazy module once, remove parametrizations (torch.nn.utils.parametrize.remove_parametrizations)"
            )
        hooks = [name for name, value in vars(module).items() if name.endswith("_hooks") and value]
        if hooks:
            raise ArgumentError(
                f"Linear.from_torch: module has hooks ({', '.join(hooks)}), which the new layer would not run; "
                "remove them first"
            )
        layer = cls(module.in_features, module.out_features, bias is not None, activation, device="meta")
        layer.weight = weight
        layer.bias = bias
        return layer.train(module.training)

    # --- the call --------------------------------------------------------------------------------------------

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """``act(x·weightᵀ + bias + residual)``; x (..., in_features), residual added before the activation."""
        if self._infers(x, residual):
            return self._infer(x, residual)
        # Read as anybody reads it, with a note: whoever sees the call, or computes gradients, may keep it.
        weight, bias = self.weight, self.bias
        operands: tuple[Any, Any] = (x, residual)
        for operand in operands:
            if operand is not None and not isinstance(operand, Tensor) and has_torch_function((operand,)):
                # A proxy of torch.fx: the whole call is one node of its graph.
                node: Tensor = handle_torch_function(
                    linear, (operand,), x, weight, bias, activation=self.activation, residual=residual
                )
                return node
        return linear(x, weight, bias, activation=self.activation, residual=residual)

    def _infers(self, x: Tensor, residual: Tensor | None) -> bool:
        """Whether it is plain inference on a CPU: nobody wants a gradient, watches the call, or rewrites it."""
        return (
            not _is_compiling()
            and not self.training
            and x.__class__ is Tensor
            and x.is_cpu
            and x.layout is _strided
            and not x.is_neg()
            and not watched()
            and (residual is None or plain(residual))
            and not (is_grad_enabled() and self._wants_gradient(x, residual))
        )

    def _wants_gradient(self, x: Tensor, residual: Tensor | None) -> bool:
        return any_requires_grad(x, residual, weight_of(self), self.bias)

    def _infer(self, x: Tensor, residual: Tensor | None) -> Tensor:
        """The result, of which no gradient is wanted: by the packed weight if there is one."""
        found = self._frozen(x)
        if found is None:
            # Read without a note, where it can be: nothing gets to keep the weight here.
            quiet: Tensor | None = weight_of(self)
            weight = self.weight if quiet is None else quiet
            return linear(x, weight, self.bias, activation=self.activation, residual=residual)
        frozen, bias, bias_key, autocast = found
        if autocast:
            x = x.to(frozen.weight.dtype)
        if profiler._is_profiler_enabled:
            with profiler.record_function("tilewright::frozen_linear"):
                return frozen_linear(x, frozen, bias, bias_key, self.activation, residual)
        return frozen_linear(x, frozen, bias, bias_key, self.activation, residual)

    def _frozen(self, x: Tensor) -> tuple[FrozenWeight, Tensor | None, Any, bool] | None:
        """The packed weight in the dtype that x is multiplied in, bias and bias_key, and whether autocast casts x.

        None if a packed weight is not to be used.
        """
        packing: Packing = self.__dict__["_packing"]
        snapshot = packing.current(self) if _options().pack else None
        if snapshot is None:
            return None
        dtype, autocast = x.dtype, _is_autocast("cpu")
        if autocast and dtype in KERNEL_DTYPES:
            dtype = _autocast_dtype("cpu")
        frozen = snapshot.frozen.get(dtype)
        if frozen is None:
            if not autocast or dtype not in KERNEL_DTYPES:
                return None
            frozen = snapshot.of(dtype)
        try:
            bias = self.__dict__["_parameters"]["bias"]
            return frozen, bias, snapshot.bias_key(bias), autocast
        except (KeyError, TypeError):  # parametrized or pruned; no plain tensor
            return None

    # --- the packed weight -----------------------------------------------------------------------------------

    def pack(self, *examples: Tensor | int, frozen: bool = False) -> int:
        """Packs the weight now rather than in the first call, and returns `packed_bytes`.

        Args:
            *examples: inputs, or numbers of rows, that the layer will be called with: which kernel runs and what it
                packs may depend on them. By default 1 and 128 rows.
            frozen: pack a weight that others hold too. You promise that it will not be written behind torch's back
                (through ``.data``, a NumPy array, an address). Counted writes are noticed as ever, others only if they
                change one of 64 words spread over the weight, which costs up to 5 µs per call; after an edit of single
                elements call `repack`.

        Raises:
            ArgumentError: the layer is in training mode, or the weight cannot be packed, with the reason.
        """
        packing: Packing = self.__dict__["_packing"]
        if self.training:
            raise ArgumentError("Linear.pack: the layer is in training mode; call eval() first")
        if not _options().pack:
            raise ArgumentError("Linear.pack: tilewright.options(pack=False) is in force; leave it first")
        packing.promised = packing.promised or frozen
        packing.restless = 0
        with torch.no_grad():
            if packing.current(self) is None:
                remedy = (
                    "; pack(frozen=True) packs it on your word that they will not write"
                    if packing.held
                    else ""
                )
                raise ArgumentError(f"Linear.pack: the weight was not packed: {packing.reason}{remedy}")
            for example in examples or (1, 128):
                x = example
                if not isinstance(x, Tensor):
                    x = torch.zeros(x, self.in_features, dtype=weight_of(self).dtype)
                self.forward(x)
        return self.packed_bytes()

    def unpack(self) -> None:
        """Frees what was packed and takes back the promise of ``pack(frozen=True)``. The next call may pack again;
        ``tilewright.options(pack=False)`` keeps it from that."""
        packing: Packing = self.__dict__["_packing"]
        packing.promised = False
        packing.drop("it was unpacked")
        packing.restless = 0

    def repack(self) -> None:
        """Has the next call pack the weight anew: after a write that could not be noticed."""
        packing: Packing = self.__dict__["_packing"]
        packing.drop("it is to be packed anew")
        packing.restless = 0

    def packed_bytes(self) -> int:
        """Memory that packed forms of the weight hold, beside the weight itself."""
        snapshot = self.__dict__["_packing"].snapshot
        return 0 if snapshot is None else snapshot.bytes()

    def packing(self) -> str:
        """Whether the weight is packed, in words; if not, why not."""
        packing: Packing = self.__dict__["_packing"]
        if packing.snapshot is None:
            return f"not packed: {packing.reason}"
        held = f" (resting: {packing.reason})" if packing.held else ""
        return f"packed, {self.packed_bytes()} bytes{held}"

    def problem(self, x: Tensor, residual: Tensor | None = None) -> tuple[str, MatmulProblem]:
        """(operation, problem) that such a call would pose now; ``tilewright.explain(layer, x)`` explains it."""
        found = self._frozen(x) if self._infers(x, residual) else None
        if found is None:
            return "matmul", linear_problem(
                x, self.weight, self.bias, activation=self.activation, residual=residual
            )
        weight, bias = found[:2]
        x = x.to(weight.weight.dtype)
        return "matmul", linear_problem(
            x, weight.weight, bias, activation=self.activation, residual=residual, frozen=True
        )

    # --- the module ------------------------------------------------------------------------------------------

    @property
    def activation(self) -> str:
        """What is applied last: ``"none"``, ``"relu"``, ``"gelu"``, ``"gelu_tanh"`` or ``"silu"``."""
        found: str = self.__dict__["_activation"]
        return found

    @activation.setter
    def activation(self, activation: str) -> None:
        if activation not in ACTIVATIONS:
            raise ArgumentError(
                f"Linear: activation is {activation!r}; expected one of {', '.join(ACTIVATIONS)}"
            )
        self.__dict__["_activation"] = activation

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, activation={self.activation}"

    def train(self, mode: bool = True) -> Linear:
        if mode:
            self.__dict__["_packing"].drop("the layer was in training mode")
        super().train(mode)
        return self

    def register_parameter(self, name: str, param: Parameter | None) -> None:
        super().register_parameter(name, param)
        self.__dict__["_packing"].drop("a parameter was replaced")

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Linear:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.__dict__["_packing"].drop("the layer was moved or cast")
        return self

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles, which start without anything packed."""
        state = self.__dict__.copy()
        del state["_packing"]
        state["_parameters"] = dict(state["_parameters"])
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__["_packing"] = Packing()
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self.__dict__["_parameters"] = WatchedParameters(self.__dict__["_parameters"])
