"""torch.nn.Conv2d with a fused epilogue and, in inference, a packed weight."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.overrides import has_torch_function

from tilewright.errors import ShapeError
from tilewright.holders import weight_of
from tilewright.kernels.conv2d.problem import wants_channels_last
from tilewright.nn.packed_layer import PackedLayer, check_taken_over
from tilewright.ops import conv2d
from tilewright.ops.checks import shape_text
from tilewright.ops.packed import FrozenWeight, frozen_conv2d

_Sizes = int | tuple[int, int]

_GEOMETRY = (
    "stride",
    "padding",
    "dilation",
    "groups",
    "padding_mode",
    "_reversed_padding_repeated_twice",
)


class Conv2d(PackedLayer, torch.nn.Conv2d):
    """A convolution with a fused epilogue: ``y = act(conv2d(x, weight) + bias + residual)``.

    A `torch.nn.Conv2d` with an activation: parameters, initialization, geometry and state_dict are torch's, in both
    directions, and code that looks for `torch.nn.Conv2d` finds it (but knows of no activation: what folds a BatchNorm
    into a convolution must get a layer without one). In inference on a CPU its weight is packed: `PackedLayer` says
    when, and what that promises.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device, dtype:
            as for `torch.nn.Conv2d`. Only zeros are padded by the kernels themselves; ``"reflect"``, ``"replicate"``
            and ``"circular"`` pad x first, as torch does.
        activation: ``"none"``, ``"relu"``, ``"gelu"`` (erf), ``"gelu_tanh"`` or ``"silu"``; may be set later too.

    Shapes:
        ``layer(input, residual=None)``: input x (N, C, H, W) or (C, H, W); residual broadcasts to y (N, K, P, Q) or
        (K, P, Q), and is added before the activation.

    Raises:
        ArgumentError: unknown activation. Calls raise the errors of `tilewright.conv2d`.
    """

    weight_dims = 4
    replaces = torch.nn.Conv2d
    operation = staticmethod(conv2d)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: _Sizes,
        stride: _Sizes = 1,
        padding: str | _Sizes = 0,
        dilation: _Sizes = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: Literal["zeros", "reflect", "replicate", "circular"] = "zeros",
        activation: str = "none",
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            activation,
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            bias,
            padding_mode,
            device,
            dtype,
        )

    @classmethod
    def from_torch(cls, module: torch.nn.Conv2d, activation: str = "none") -> Conv2d:
        """A layer with the parameters (the same objects), geometry, dtype, device and mode of a `torch.nn.Conv2d`.

        While `module` is alive it holds the weight too, so the weight is not packed by itself (see the class).

        Raises:
            ArgumentError: `module` is no `torch.nn.Conv2d`, has a forward of its own, was not run yet (a lazy one), is
                parametrized (pruned, weight-normalized), or has hooks, which would be lost.
        """
        check_taken_over(cls, module)
        layer = cls(
            module.in_channels,
            module.out_channels,
            module.kernel_size,  # type: ignore[arg-type]
            groups=module.groups,
            bias=module.bias is not None,
            activation=activation,
            device="meta",
        )
        for name in _GEOMETRY:  # as they are by now: they may have been set since the module was made
            setattr(layer, name, getattr(module, name))
        layer.weight, layer.bias = module.weight, module.bias
        return layer.train(module.training)

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        return super().forward(input if self.padding_mode == "zeros" else self._padded(input), residual)

    def problem(self, x: Tensor, residual: Tensor | None = None) -> tuple[str, Any]:
        return super().problem(x if self.padding_mode == "zeros" else self._padded(x), residual)

    def _padded(self, x: Tensor) -> Tensor:
        """x with its borders continued; whatever is no image is left for the operation to refuse."""
        left, right, top, bottom = self._reversed_padding_repeated_twice
        operand: Any = x
        if isinstance(operand, Tensor):
            if x.ndim not in (3, 4):
                return x
            # Reflected, a border repeats what lies within it; around the other side, the border too.
            beyond = {"reflect": 1, "circular": 0}.get(self.padding_mode)
            height, width = (
                1 if beyond is None else max(sides) + beyond for sides in ((top, bottom), (left, right))
            )
            if x.shape[-2] < height or x.shape[-1] < width:
                raise ShapeError(
                    f"conv2d: x has shape {shape_text(x.shape)}; expected images of at least {height}x{width}, as "
                    f"padding_mode is {self.padding_mode!r}; pad less, or use another padding_mode"
                )
        elif not has_torch_function((operand,)):
            return x
        return torch.nn.functional.pad(x, (left, right, top, bottom), mode=self.padding_mode)

    def _padding(self) -> Any:
        return self.padding if self.padding_mode == "zeros" else 0

    def _run(
        self,
        operation: Callable[..., Any],
        x: Tensor,
        weight: Any,
        bias: Any,
        residual: Tensor | None,
        activation: str,
    ) -> Any:
        return operation(
            x,
            weight,
            bias,
            stride=self.stride,
            padding=self._padding(),
            dilation=self.dilation,
            groups=self.groups,
            activation=activation,
            residual=residual,
        )

    def _run_frozen(
        self,
        x: Tensor,
        weight: FrozenWeight,
        bias: Tensor | None,
        bias_key: Any,
        residual: Tensor | None,
        activation: str,
    ) -> Tensor:
        geometry = (self.stride, self._padding(), self.dilation, self.groups)
        return frozen_conv2d(x, weight, bias, bias_key, geometry, activation, residual)

    def _examples(self) -> tuple[tuple[int, int, int], ...]:
        height, width = (
            max(56, step * (size - 1) + 1) for step, size in zip(self.dilation, self.kernel_size, strict=True)
        )
        return ((1, height, width),)

    def _example(self, size: tuple[int, int, int], dtype: torch.dtype) -> Tensor:
        batch, height, width = size
        x = torch.zeros(batch, self.in_channels, height, width, dtype=dtype)
        # A layer in channels_last is fed with such images.
        return x.to(memory_format=torch.channels_last) if wants_channels_last(weight_of(self)) else x
