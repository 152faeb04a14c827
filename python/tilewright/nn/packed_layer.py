"""What the layers share: an activation, and in inference on CPUs a packed weight."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from torch.autograd import profiler
from torch.nn import Parameter
from torch.overrides import handle_torch_function, has_torch_function

from tilewright import ops
from tilewright.errors import ArgumentError
from tilewright.holders import WatchedParameters, weight_of
from tilewright.kernels.dtypes import KERNEL_DTYPES
from tilewright.kernels.epilogue import ACTIVATIONS
from tilewright.ops.library import any_requires_grad, is_grad_enabled, watched
from tilewright.ops.packed import FrozenWeight
from tilewright.packing import Packing, plain
from tilewright.settings import current as _options

_is_compiling = torch.compiler.is_compiling
_is_autocast = torch.is_autocast_enabled
_autocast_dtype = torch.get_autocast_dtype
_strided = torch.strided


class PackedLayer(torch.nn.Module):
    """The base of a layer; the class that it replaces comes second: ``class Linear(PackedLayer, torch.nn.Linear)``.

    In training, wherever a gradient is wanted, and wherever somebody watches or rewrites the call (``torch.compile``,
    ``torch.export``, functorch, forward-mode AD, FLOP counters, fake tensors, tensor subclasses), a layer is its
    operation. In inference on a CPU it goes past torch's dispatcher, and the weight is kept *packed*: laid out for the
    kernel that runs, once, by the first call. That takes about as much memory as the weight itself (`packed_bytes`);
    training mode frees it, ``tilewright.options(pack=False)`` does without.

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
    """

    weight: Any
    bias: Any
    weight_dims: ClassVar[int]
    """Dimensions of the weight."""
    transposed: ClassVar[bool] = False
    """Whether the weight is (in, out), and not (out, in) as a linear layer's."""
    replaces: ClassVar[type[torch.nn.Module]]
    """torch's own class."""
    operation: ClassVar[Any]
    """The public function, as a staticmethod."""

    def __init__(self, activation: str, *args: Any, **keywords: Any) -> None:
        self.__dict__["_packing"] = Packing()
        super().__init__(*args, **keywords)
        self.__dict__["_parameters"] = WatchedParameters(self.__dict__["_parameters"])
        self.activation = activation

    # --- what each layer says of itself ----------------------------------------------------------------------

    def _run(
        self,
        operation: Callable[..., Any],
        x: Tensor,
        weight: Any,
        bias: Any,
        residual: Tensor | None,
        activation: str,
    ) -> Any:
        """The operation, or what takes the same arguments, with those that the layer keeps."""
        raise NotImplementedError

    def _run_frozen(
        self,
        x: Tensor,
        weight: FrozenWeight,
        bias: Tensor | None,
        bias_key: Any,
        residual: Tensor | None,
        activation: str,
    ) -> Tensor:
        """The operation on a packed weight, past torch's dispatcher."""
        raise NotImplementedError

    def _examples(self) -> tuple[Any, ...]:
        """What `pack` packs for by default."""
        raise NotImplementedError

    def _example(self, size: Any, dtype: torch.dtype) -> Tensor:
        """An input of the size that `pack` was given in its place."""
        raise NotImplementedError

    # --- the call --------------------------------------------------------------------------------------------

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        """The operation on the input and the layer's parameters; `residual` is added before the activation."""
        if not self._infers(input, residual):
            return self._operate(input, residual)
        return self._infer(input, residual, self.__dict__["_activation"])

    def _infer(self, x: Tensor, residual: Tensor | None, activation: str) -> Tensor:
        """The call where `_infers`: on the packed weight, if there is one to be used."""
        found = self._frozen(x)
        if found is None:
            # Read without a note, where it can be: nothing gets to keep the weight here.
            quiet: Tensor | None = weight_of(self)
            weight = self.weight if quiet is None else quiet
            y: Tensor = self._run(self.operation, x, weight, self.bias, residual, activation)
            return y
        return self._infer_frozen(x, found, residual, activation)

    def _infer_frozen(
        self,
        x: Tensor,
        found: tuple[FrozenWeight, Tensor | None, Any, bool],
        residual: Tensor | None,
        activation: str,
    ) -> Tensor:
        frozen, bias, bias_key, autocast = found
        if autocast:
            x = x.to(frozen.weight.dtype)
        if profiler._is_profiler_enabled:
            with profiler.record_function(f"tilewright::frozen_{self.operation.__name__}"):
                return self._run_frozen(x, frozen, bias, bias_key, residual, activation)
        return self._run_frozen(x, frozen, bias, bias_key, residual, activation)

    def _operate(self, x: Tensor, residual: Tensor | None) -> Tensor:
        """The operation, for whoever sees the call, or computes gradients."""
        # Read as anybody reads it, with a note: they may keep the weight.
        weight, bias, activation = self.weight, self.bias, self.activation
        operands: tuple[Any, Any] = (x, residual)
        for operand in operands:
            if operand is not None and not isinstance(operand, Tensor) and has_torch_function((operand,)):
                # A proxy of torch.fx: the whole call is one node of its graph.
                node = partial(handle_torch_function, self.operation, (operand,))
                traced: Tensor = self._run(node, x, weight, bias, residual, activation)
                return traced
        y: Tensor = self._run(self.operation, x, weight, bias, residual, activation)
        return y

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

    def _frozen(self, x: Tensor) -> tuple[FrozenWeight, Tensor | None, Any, bool] | None:
        """The packed weight in the dtype that x is multiplied in, bias and bias_key, and whether autocast casts x.

        None if a packed weight is not to be used.
        """
        packing: Packing = self.__dict__["_packing"]
        snapshot = packing.current(self) if _options().pack else None
        if snapshot is None:
            return None
        found = frozen_for(snapshot, x)
        if found is None:
            return None
        try:
            bias = self.__dict__["_parameters"]["bias"]
            return found[0], bias, snapshot.bias_key(bias), found[1]
        except (KeyError, TypeError):  # parametrized or pruned; no plain tensor
            return None

    # --- the packed weight -----------------------------------------------------------------------------------

    def pack(self, *examples: Any, frozen: bool = False) -> int:
        """Packs the weight now rather than in the first call, and returns `packed_bytes`.

        Args:
            *examples: inputs that the layer will be called with, or their sizes: which kernel runs and what it packs
                may depend on them. A size is the number of rows for `Linear`, by default 1 and 128; for `Conv2d` it
                is (batch, height, width), by default (1, 56, 56).
            frozen: pack a weight that others hold too. You promise that it will not be written behind torch's back
                (through ``.data``, a NumPy array, an address). Counted writes are noticed as ever, others only if they
                change one of 64 words spread over the weight, which costs up to 5 µs per call; after an edit of single
                elements call `repack`.

        Raises:
            ArgumentError: the layer is in training mode, or the weight cannot be packed, with the reason.
        """
        packing: Packing = self.__dict__["_packing"]
        name = type(self).__name__
        if self.training:
            raise ArgumentError(f"{name}.pack: the layer is in training mode; call eval() first")
        if not _options().pack:
            raise ArgumentError(f"{name}.pack: tilewright.options(pack=False) is in force; leave it first")
        packing.promised = packing.promised or frozen
        packing.restless = 0
        with torch.no_grad():
            if packing.current(self) is None:
                remedy = (
                    "; pack(frozen=True) packs it on your word that they will not write"
                    if packing.held
                    else ""
                )
                raise ArgumentError(f"{name}.pack: the weight was not packed: {packing.reason}{remedy}")
            for example in examples or self._examples():
                given = isinstance(example, Tensor)
                self.forward(example if given else self._example(example, weight_of(self).dtype))
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

    def problem(self, x: Tensor, residual: Tensor | None = None) -> tuple[str, Any]:
        """(operation, problem) that such a call would pose now; ``tilewright.explain(layer, x)`` explains it."""
        pose = ops.PROBLEMS[self.operation.__name__]
        found = self._frozen(x) if self._infers(x, residual) else None
        posed: tuple[str, Any]
        if found is None:
            posed = self._run(pose, x, self.weight, self.bias, residual, self.activation)
        else:
            weight, bias = found[0].weight, found[1]
            weight = weight.t() if self.transposed else weight
            pose, x = partial(pose, frozen=True), x.to(weight.dtype)
            posed = self._run(pose, x, weight, bias, residual, self.activation)
        return posed

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
                f"{type(self).__name__}: activation is {activation!r}; expected one of {', '.join(ACTIVATIONS)}"
            )
        self.__dict__["_activation"] = activation

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, activation={self.activation}"

    def train(self, mode: bool = True) -> Self:
        if mode:
            self.__dict__["_packing"].drop("the layer was in training mode")
        return super().train(mode)

    def register_parameter(self, name: str, param: Parameter | None) -> None:
        super().register_parameter(name, param)
        self.__dict__["_packing"].drop("a parameter was replaced")

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
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


def frozen_for(kept: Any, x: Tensor) -> tuple[FrozenWeight, bool] | None:
    """The weight in the dtype that x is multiplied in, of a `Snapshot` or of what else keeps it so; whether autocast
    casts x. None if it is not kept in that dtype."""
    dtype, autocast = x.dtype, _is_autocast("cpu")
    if autocast and dtype in KERNEL_DTYPES:
        dtype = _autocast_dtype("cpu")
    frozen = kept.frozen.get(dtype)
    if frozen is None:
        if not autocast or dtype not in KERNEL_DTYPES:
            return None
        frozen = kept.of(dtype)
    return frozen, autocast


def check_taken_over(layer: type[PackedLayer], module: Any) -> None:
    """Raises unless a layer of the class can stand in for `module`, losing nothing: what `from_torch` promises."""
    operation, theirs = f"{layer.__name__}.from_torch", f"torch.nn.{layer.replaces.__name__}"
    if not isinstance(module, layer.replaces):
        raise ArgumentError(f"{operation}: module is of type {type(module).__name__}; expected a {theirs}")
    parameters = module.__dict__["_parameters"]
    weight = parameters.get("weight")
    if weight is None or torch.nn.parameter.is_lazy(weight) or "bias" not in parameters:
        raise ArgumentError(
            f"{operation}: module has no plain weight and bias; expected an initialized {theirs}; run "
            "a lazy module once, remove parametrizations (torch.nn.utils.parametrize.remove_parametrizations)"
        )
    for method in ("forward", "_conv_forward"):
        own = getattr(type(module), method, None)
        if own is not getattr(layer.replaces, method, None) or method in vars(module):
            raise ArgumentError(
                f"{operation}: module, a {type(module).__name__}, has a {method} of its own; expected what {theirs} "
                "computes; keep the module"
            )
    hooks = [name for name, value in vars(module).items() if name.endswith("_hooks") and value]
    if hooks:
        raise ArgumentError(
            f"{operation}: module has hooks ({', '.join(hooks)}), which the new layer would not run; "
            "remove them first"
        )
