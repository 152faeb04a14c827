"""A fully connected layer whose weight is stored sparse."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import Parameter

from tilewright import ops
from tilewright.errors import ArgumentError, FormatError
from tilewright.kernels.epilogue import ACTIVATIONS
from tilewright.kernels.sparse_matmul.formats import BUFFERS, FORMAT_VERSION, FORMATS, ceil
from tilewright.kernels.sparse_matmul.validate import MOST, check_contents, check_layout, check_version
from tilewright.ops import checks
from tilewright.ops.sparse_matmul_op import call

if TYPE_CHECKING:
    from tilewright.sparse import SparseWeight

_META = "format_version"


class SparseLinear(torch.nn.Module):
    """``y = act(x·Wᵀ + bias + residual)`` with a sparse W (out_features, in_features): `torch.nn.Linear`, pruned.

    The weight's buffers (``values`` and, by format, ``indices``, ``crow`` and ``col``, ``bits`` and ``row``) are the
    layer's own, so they move with it and stand in its state_dict as plain tensors, which ``torch.save``,
    ``torch.load(weights_only=True)`` and safetensors carry. With them stands ``format_version``, int64
    (version, format, out_features, in_features, block rows, block columns). A state_dict may hold another number of
    values than the layer; everything in it is checked before the layer takes any of it.

    In inference the kernel that runs may keep the weight in a layout of its own (see `tilewright.sparse_matmul`).

    Args:
        in_features, out_features: K and N.
        bias: whether there is one; a parameter.
        format: ``"2:4"``, ``"bsr"`` or ``"bitmap"``.
        block: of bsr.
        activation: ``"none"``, ``"relu"``, ``"gelu"`` (erf), ``"gelu_tanh"`` or ``"silu"``.
        trainable: make ``values`` a parameter; its gradient is that of the dense weight at the stored positions.
        device, dtype: of bias and values.

    A new layer keeps nothing: its weight is zero. `from_dense` and `load_state_dict` give it one.

    Shapes:
        ``layer(input, residual=None)``: input x (..., in_features), residual broadcasts to (..., out_features), y
        (..., out_features).

    Raises:
        ArgumentError: an unknown format or activation. Calls raise the errors of `tilewright.sparse_matmul`.
    """

    values: Tensor
    bias: Tensor | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        format: str = "bitmap",
        block: tuple[int, int] = (16, 16),
        activation: str = "none",
        trainable: bool = False,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if format not in FORMATS:
            raise ArgumentError(f"SparseLinear: format is {format!r}; expected one of {', '.join(FORMATS)}")
        self.in_features, self.out_features, self.format = in_features, out_features, format
        self.trainable = trainable
        self.activation = activation
        options: dict[str, Any] = {"device": device, "dtype": dtype}
        self.bias = Parameter(torch.zeros(out_features, **options)) if bias else None
        self._set_buffers(_nothing(format, out_features, in_features, block, options))

    @classmethod
    def from_weight(
        cls,
        weight: SparseWeight,
        bias: Tensor | None = None,
        activation: str = "none",
        trainable: bool = False,
    ) -> SparseLinear:
        """A layer of this weight, whose buffers it shares. A bias becomes a parameter, a parameter stays the same."""
        n, k = weight.shape
        layer = cls(k, n, False, weight.format, weight.block, activation, trainable, "meta")
        layer._set_buffers(weight.state())
        if bias is not None:
            if not isinstance(bias, Tensor) or tuple(bias.shape) != (n,):
                got = tuple(bias.shape) if isinstance(bias, Tensor) else type(bias).__name__
                raise ArgumentError(f"SparseLinear: bias is {got}; expected a tensor of shape ({n},)")
            layer.bias = bias if isinstance(bias, Parameter) else Parameter(bias)
        return layer

    @classmethod
    def from_dense(
        cls,
        linear: torch.nn.Linear,
        format: str,
        *,
        block: tuple[int, int] | None = None,
        mask: Tensor | None = None,
        activation: str = "none",
        trainable: bool = False,
    ) -> SparseLinear:
        """A layer that computes what a pruned `torch.nn.Linear` does; `format`, `block`, `mask` as for `compress`.

        The weight is copied, the bias is shared, and the mode kept. An activation that `linear` has of its own (a
        `tilewright.nn.Linear`) is taken over.

        Raises:
            ArgumentError: `linear` is no `torch.nn.Linear`, and what `tilewright.sparse.compress` raises.
        """
        from tilewright.sparse import compress

        if not isinstance(linear, torch.nn.Linear):
            raise ArgumentError(
                f"SparseLinear.from_dense: linear is of type {type(linear).__name__}; expected a torch.nn.Linear"
            )
        own = getattr(linear, "activation", "none")
        if activation == "none" and isinstance(own, str):
            activation = own
        weight = compress(linear.weight.detach(), format, block=block, mask=mask)
        return cls.from_weight(weight, linear.bias, activation, trainable).train(linear.training)

    # --- the call ----------------------------------------------------------------------------------------------

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        """The product of the input and the layer's weight; `residual` is added before the activation."""
        checks.check_tensor("SparseLinear", "input", input)
        if input.ndim == 0 or input.shape[-1] != self.in_features:
            expected = f"(..., {self.in_features})"
            checks.shape_error("SparseLinear", "input", input.shape, expected, "reshape it")
        buffers = tuple(getattr(self, name) for name in BUFFERS[self.format])
        return call(self.format, input, buffers, self.out_features, self.bias, residual, self._activation)

    def problem(self, x: Tensor, residual: Tensor | None = None) -> tuple[str, Any]:
        """(operation, problem) that such a call would pose; ``tilewright.explain(layer, x)`` explains it."""
        posed: tuple[str, Any] = ops.PROBLEMS["sparse_matmul"](
            x, self.weight, self.bias, activation=self.activation, residual=residual
        )
        return posed

    # --- the weight --------------------------------------------------------------------------------------------

    @property
    def weight(self) -> SparseWeight:
        """The weight, of the layer's own buffers, checked anew."""
        from tilewright.sparse import SparseWeight

        buffers = {name: getattr(self, name) for name in BUFFERS[self.format]}
        return SparseWeight(self.format, (self.out_features, self.in_features), buffers)

    def to_dense(self) -> torch.nn.Linear:
        """A `torch.nn.Linear` of a copy of the weight and of the bias, without the activation."""
        weight = self.weight.to_dense().detach()
        linear = torch.nn.Linear(self.in_features, self.out_features, self.bias is not None, device="meta")
        linear.weight = Parameter(weight)
        if self.bias is not None:
            linear.bias = Parameter(self.bias.detach().clone())
        return linear.train(self.training)

    def _set_buffers(self, buffers: Mapping[str, Tensor]) -> None:
        for name, buffer in buffers.items():
            if name == "values" and self.trainable:
                self.values = buffer if isinstance(buffer, Parameter) else Parameter(buffer.detach())
            else:
                self.register_buffer(name, buffer.detach())
        values = buffers["values"]
        r, c = values.shape[1:] if self.format == "bsr" else (1, 1)
        meta = (FORMAT_VERSION, FORMATS.index(self.format), self.out_features, self.in_features, r, c)
        self.register_buffer(_META, torch.tensor(meta, dtype=torch.int64))

    @property
    def activation(self) -> str:
        """What is applied last: ``"none"``, ``"relu"``, ``"gelu"``, ``"gelu_tanh"`` or ``"silu"``."""
        return self._activation

    @activation.setter
    def activation(self, activation: str) -> None:
        if activation not in ACTIVATIONS:
            raise ArgumentError(
                f"SparseLinear: activation is {activation!r}; expected one of {', '.join(ACTIVATIONS)}"
            )
        self._activation = activation

    def extra_repr(self) -> str:
        stored = self.values.numel() / max(1, self.in_features * self.out_features)
        form = self.format
        if form == "bsr":
            form = "bsr {}x{}".format(*self.values.shape[1:])
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}, "
            f"format={form}, stored={100 * stored:.3g} %, activation={self.activation}"
        )

    # --- the module --------------------------------------------------------------------------------------------

    def _load_from_state_dict(
        self, state_dict: Any, prefix: str, local_metadata: Any, strict: bool, *lists: list[str]
    ) -> None:
        names = (*BUFFERS[self.format], _META)
        given = {name: state_dict[prefix + name] for name in names if prefix + name in state_dict}
        if len(given) == len(names):
            self._check_loaded(prefix, given)
            here = self.values
            for name in BUFFERS[self.format]:
                if getattr(self, name).shape != given[name].shape:
                    # As many as are given, on this layer's device and of its dtype; torch then copies them in.
                    like = here if name == "values" else getattr(self, name)
                    empty = torch.zeros(given[name].shape, dtype=like.dtype, device=like.device)
                    if name == "values" and self.trainable:
                        self.values = Parameter(empty, requires_grad=here.requires_grad)
                    else:
                        self._buffers[name] = empty
        elif given:
            # Parts of a weight would make one that was never checked: torch reports all of them as missing.
            parts = {prefix + name for name in given}
            state_dict = {key: value for key, value in state_dict.items() if key not in parts}
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, *lists)

    def _check_loaded(self, prefix: str, given: Mapping[str, Any]) -> None:
        """Raises FormatError unless what is to be loaded is a weight of this layer's format and size."""
        operation, meta = f"SparseLinear.load_state_dict: {prefix}weight", given[_META]
        if not isinstance(meta, Tensor) or meta.dtype != torch.int64 or tuple(meta.shape) != (6,):
            got = f"{meta.dtype} {tuple(meta.shape)}" if isinstance(meta, Tensor) else type(meta).__name__
            raise FormatError(f"{operation}: {_META} is {got}; expected six int64")
        version, form, n, k, r, c = meta.tolist()
        check_version(operation, version)
        expected = (FORMATS.index(self.format), self.out_features, self.in_features)
        if (form, n, k) != expected:
            name = FORMATS[form] if 0 <= form < len(FORMATS) else form
            raise FormatError(
                f"{operation}: is {name} of ({n}, {k}); expected {self.format} of ({self.out_features}, "
                f"{self.in_features}); make the layer with the same arguments as the one that was saved"
            )
        buffers = tuple(given[name] for name in BUFFERS[self.format])
        check_layout(operation, self.format, buffers, n, k)
        check_contents(operation, self.format, buffers, n, k)
        here = tuple(given["values"].shape[1:]) if self.format == "bsr" else (1, 1)
        if (r, c) != here:
            raise FormatError(f"{operation}: {_META} says blocks of {r}x{c}; values has {here[0]}x{here[1]}")


def _nothing(form: str, n: int, k: int, block: tuple[int, int], options: dict[str, Any]) -> dict[str, Tensor]:
    """The buffers of a weight that is zero."""
    for name, size in (("out_features", n), ("in_features", k)):
        if type(size) is not int or not 0 <= size <= MOST:
            raise ArgumentError(f"SparseLinear: {name} is {size!r}; expected an integer from 0 to {MOST}")
    place = {"device": options["device"]}
    if form == "2:4":
        groups = ceil(k, 4)
        # Columns 0 and 1 of each group: 0 | 1 << 2, twice in an octet; zeros behind the last group.
        indices = torch.full((n, ceil(groups, 2)), 0x44, dtype=torch.uint8, **place)
        if groups % 2:
            indices[:, -1] = 0x04
        return {"values": torch.zeros(n, 2 * groups, **options), "indices": indices}
    if form == "bsr":
        r, c = block
        return {
            "crow": torch.zeros(ceil(n, r) + 1, dtype=torch.int32, **place),
            "col": torch.zeros(0, dtype=torch.int32, **place),
            "values": torch.zeros(0, r, c, **options),
        }
    return {
        "bits": torch.zeros(n, ceil(k, 64), dtype=torch.int64, **place),
        "row": torch.zeros(n + 1, dtype=torch.int32, **place),
        "values": torch.zeros(0, **options),
    }
