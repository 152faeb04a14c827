"""Conv2dProblem: everything about a convolution that a choice of kernel may depend on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from tilewright.kernels.dtypes import DTYPE_NAMES
from tilewright.kernels.interface import DeviceKind

Direction = Literal["forward", "input_gradient", "weight_gradient"]
Layout = Literal["nchw", "nhwc", "strided"]
Precision = Literal["ieee", "tf32"]


@dataclass(frozen=True, slots=True)
class Conv2dProblem:
    """One of the three products that a convolution and its gradients consist of.

    With ``ih = oh·stride_h - top + r·dilation_h``, ``iw`` alike, and terms outside of the image left out::

        forward          y[n, k, oh, ow]  = act(sum over c, r, s of x[n, c, ih, iw] · w[k, c, r, s]
                                                + bias[k] + residual[n, k, oh, ow])
        input_gradient   dx[n, c, ih, iw] = sum over k, r, s   of dy[n, k, oh, ow] · w[k, c, r, s]
        weight_gradient  dw[k, c, r, s]   = sum over n, oh, ow of dy[n, k, oh, ow] · x[n, c, ih, iw]

    With groups, output channel k sees the input channels of its own group only: w is
    (out_channels, in_channels / groups, kernel_h, kernel_w).

    The geometry is the same for all three; which two of x, w and y are given, and which one is computed, is the
    direction. Strides are in elements, in the order (n, c, h, w); those of the computed tensor are what a launch
    allocates. Strides of dimensions of size 1 are canonical, so that equal walks give equal problems.

    Launches take ``forward(x, weight, bias, residual)``, ``input_gradient(dy, weight)`` and
    ``weight_gradient(dy, x)``.
    """

    device: DeviceKind
    direction: Direction
    batch: int
    in_channels: int
    out_channels: int
    size: tuple[int, int]  # of x: height, width
    out_size: tuple[int, int]  # of y: height, width
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]  # top, bottom, left, right
    dilation: tuple[int, int]
    groups: int
    x_strides: tuple[int, ...]  # x, or dx
    weight_strides: tuple[int, ...]  # w, or dw: (k, c, r, s)
    y_strides: tuple[int, ...]  # y, or dy
    bias_stride: int  # 0 where there is no bias
    residual_strides: tuple[int, ...] | None  # as y's, 0 where it is broadcast
    dtype: torch.dtype  # of x, w and y
    bias_dtype: torch.dtype | None
    residual_dtype: torch.dtype | None
    activation: str
    keep_preact: bool  # also return z, the sum before the activation, laid out like y
    precision: (
        Precision  # tf32 admits tf32 matrix units, and algorithms whose error bound is no larger (Winograd)
    )
    deterministic: bool
    threads: int  # CPU threads to use; 0 on GPUs
    alignment: int  # GPUs: bytes (16 at most) that divide every data pointer; 0 on CPUs
    frozen_weight: bool = False  # the caller promises that w never changes, so that it may be packed once

    @property
    def batch_count(self) -> int:
        """What the tuner buckets together with `m`."""
        return self.batch

    @property
    def m(self) -> int:
        """Pixels of an output image: the rows of the product that the convolution amounts to."""
        return math.prod(self.out_size)

    @property
    def reduction(self) -> int:
        """Terms of an output element's sum (forward)."""
        return self.in_channels // max(self.groups, 1) * math.prod(self.kernel)

    @property
    def terms(self) -> int:
        """Products that an element of the computed tensor adds up, at most."""
        if self.direction == "forward":
            return self.reduction
        if self.direction == "weight_gradient":
            return self.batch * self.m
        return self.out_channels // max(self.groups, 1) * math.prod(self.kernel)

    @property
    def x_shape(self) -> tuple[int, int, int, int]:
        return self.batch, self.in_channels, *self.size

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        return self.out_channels, self.in_channels // self.groups, *self.kernel

    @property
    def y_shape(self) -> tuple[int, int, int, int]:
        return self.batch, self.out_channels, *self.out_size

    @property
    def out_shape(self) -> tuple[int, int, int, int]:
        """Of the tensor that is computed."""
        if self.direction == "forward":
            return self.y_shape
        return self.x_shape if self.direction == "input_gradient" else self.weight_shape

    @property
    def out_strides(self) -> tuple[int, ...]:
        """Of the tensor that is computed."""
        if self.direction == "forward":
            return self.y_strides
        return self.x_strides if self.direction == "input_gradient" else self.weight_strides

    @property
    def out_dtype(self) -> torch.dtype:
        return self.dtype

    @property
    def x_layout(self) -> Layout:
        return layout_of(self.x_shape, self.x_strides)

    @property
    def weight_layout(self) -> Layout:
        return layout_of(self.weight_shape, self.weight_strides)

    @property
    def y_layout(self) -> Layout:
        return layout_of(self.y_shape, self.y_strides)

    @property
    def depthwise(self) -> bool:
        """Every input channel is its own group (with one or more output channels)."""
        return self.groups > 1 and self.groups == self.in_channels

    def flops(self) -> int:
        """Multiply-adds count as two, those with padding too; the epilogue is not counted."""
        return 2 * self.batch * self.out_channels * self.m * self.reduction

    def bytes(self) -> int:
        """The fewest bytes that main memory must move: each operand read once, each output written once."""
        total = self.dtype.itemsize * (
            math.prod(self.x_shape) + math.prod(self.weight_shape) + math.prod(self.y_shape)
        )
        if self.bias_dtype is not None:
            total += self.bias_dtype.itemsize * self.out_channels
        if self.residual_dtype is not None and self.residual_strides is not None:
            seen = (size for size, stride in zip(self.y_shape, self.residual_strides, strict=True) if stride)
            total += self.residual_dtype.itemsize * math.prod(seen)
        if self.keep_preact:
            total += self.dtype.itemsize * math.prod(self.y_shape)
        return total

    def family(self) -> str:
        """What must agree for a stored choice to be considered: all but image size and batch, which are bucketed."""
        epilogue = []
        if self.bias_dtype is not None:
            epilogue.append(f"bias:{DTYPE_NAMES.get(self.bias_dtype)}")
        if self.residual_dtype is not None:
            epilogue.append(f"residual:{DTYPE_NAMES.get(self.residual_dtype)}")
        if self.activation != "none":
            epilogue.append(self.activation)
        if self.keep_preact:
            epilogue.append("preact")
        parts = [
            self.direction,
            f"{DTYPE_NAMES.get(self.dtype)}",
            f"c{self.in_channels}",
            f"k{self.out_channels}",
            f"{self.kernel[0]}x{self.kernel[1]}",
            f"s{self.stride[0]}x{self.stride[1]}",
            "p" + "x".join(map(str, self.padding)),
            f"d{self.dilation[0]}x{self.dilation[1]}",
            f"g{self.groups}",
            f"x:{self.x_layout}",
            f"w:{self.weight_layout}",
            f"y:{self.y_layout}",
            "+".join(epilogue) or "plain",
            self.precision,
        ]
        if not self.deterministic:
            parts.append("nondeterministic")
        if self.device == "cpu":
            parts.append(f"t{self.threads}")
        else:
            parts.append(f"align{self.alignment}")
        if self.frozen_weight:
            parts.append("frozen")
        return " ".join(parts)

    def describe(self) -> str:
        """One line for people: sizes, dtypes, layouts, epilogue."""
        image = "x".join(map(str, self.size))
        return f"conv2d {self.batch}x{image} (NxHxW) {self.family()}"

    @classmethod
    def from_tensors(
        cls,
        x: Tensor | torch.Size,
        weight: Tensor | torch.Size,
        bias: Tensor | None = None,
        residual: Tensor | None = None,
        *,
        grad: Tensor | None = None,
        channels_last: bool | None = None,
        stride: tuple[int, int] = (1, 1),
        padding: tuple[int, int, int, int] = (0, 0, 0, 0),
        dilation: tuple[int, int] = (1, 1),
        groups: int = 1,
        activation: str = "none",
        keep_preact: bool = False,
        precision: Precision = "ieee",
        deterministic: bool = True,
        threads: int = 0,
        frozen_weight: bool = False,
    ) -> Conv2dProblem:
        """The problem of tensors that were checked before. Reads metadata and addresses, never values.

        Forward: x (N, C, H, W) and weight (K, C/groups, R, S) are tensors. A gradient's problem has `grad`, the
        gradient of y (N, K, P, Q), and the shape of what is to be computed in place of x or weight.

        Args:
            channels_last: the layout of what is computed; None follows `wants_channels_last` of the two given.
        """
        direction: Direction = "forward"
        if grad is not None:
            direction = "weight_gradient" if isinstance(x, Tensor) else "input_gradient"
        x_shape = tuple(x.shape) if isinstance(x, Tensor) else tuple(x)
        weight_shape = tuple(weight.shape) if isinstance(weight, Tensor) else tuple(weight)
        given = [tensor for tensor in (x, weight, grad) if isinstance(tensor, Tensor)]
        if channels_last is None:
            channels_last = wants_channels_last(*given[:2])
        out_size = output_size(x_shape[2:], weight_shape[2:], stride, padding, dilation)
        y_shape = (x_shape[0], weight_shape[0], *out_size)

        def strides(operand: Tensor | torch.Size | None, shape: Sequence[int]) -> tuple[int, ...]:
            if isinstance(operand, Tensor):
                return canonical_strides(shape, operand.stride())
            return output_strides(shape, channels_last)

        alignment = 0
        if given[0].device.type != "cpu":
            address = 16
            for tensor in (*given, bias, residual):
                address |= tensor.data_ptr() if tensor is not None else 0
            alignment = address & -address
        residual_strides = None
        if residual is not None:
            missing = 4 - residual.ndim
            sizes = [1] * missing + list(residual.shape)
            walk = [0] * missing + list(residual.stride())
            residual_strides = tuple(0 if size == 1 else step for size, step in zip(sizes, walk, strict=True))
        return cls(
            device="cpu" if given[0].device.type == "cpu" else "cuda",
            direction=direction,
            batch=x_shape[0],
            in_channels=x_shape[1],
            out_channels=weight_shape[0],
            size=(x_shape[2], x_shape[3]),
            out_size=out_size,
            kernel=(weight_shape[2], weight_shape[3]),
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=groups,
            x_strides=strides(x, x_shape),
            weight_strides=strides(weight, weight_shape),
            y_strides=strides(grad, y_shape),
            bias_stride=bias.stride(0) if bias is not None and bias.numel() > 1 else 0,
            residual_strides=residual_strides,
            dtype=given[0].dtype,
            bias_dtype=None if bias is None else bias.dtype,
            residual_dtype=None if residual is None else residual.dtype,
            activation=activation,
            keep_preact=keep_preact,
            precision=precision,
            deterministic=deterministic,
            threads=threads,
            alignment=alignment,
            frozen_weight=frozen_weight,
        )


def output_size(
    size: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> tuple[int, int]:
    """(height, width) of the output: ``floor((size + padding - dilation·(kernel - 1) - 1) / stride) + 1``."""
    height, width = (
        (size[i] + padding[2 * i] + padding[2 * i + 1] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1
        for i in range(2)
    )
    return height, width


def wants_channels_last(*operands: Tensor) -> bool:
    """The rule of the output's layout: channels_last if an operand's strides are, as torch's own convolution has it."""
    return any(_like_channels_last(tensor.shape, tensor.stride()) for tensor in operands)


def _like_channels_last(shape: Sequence[int], strides: Sequence[int]) -> bool:
    """Whether strides grow in the order c, w, h, n; where sizes of 1 leave it open, contiguous is assumed."""
    _, c, h, w = shape
    of_n, of_c, of_h, of_w = strides
    if of_c == 0 or of_w < of_c * c or of_h < of_w * w or of_n < of_h * h or 0 in shape:
        return False
    return of_h * h != of_c


def output_strides(shape: Sequence[int], channels_last: bool) -> tuple[int, int, int, int]:
    """Strides of a dense (n, c, h, w) tensor in one of the two layouts, as ``torch.empty`` lays it out."""
    _, c, h, w = (max(size, 1) for size in shape)
    if channels_last:
        return h * w * c, 1, w * c, c
    return c * h * w, h * w, w, 1


def canonical_strides(shape: Sequence[int], strides: Sequence[int]) -> tuple[int, ...]:
    """The strides, with those of dimensions of size 1 (which carry no meaning) replaced by a dense layout's.

    Dense in contiguous order if the other strides are, else in channels_last; if neither fits, 0.
    """
    for channels_last in (False, True):
        dense = output_strides(shape, channels_last)
        if all(size <= 1 or step == at for size, step, at in zip(shape, strides, dense, strict=True)):
            return dense
    return tuple(0 if size <= 1 else step for size, step in zip(shape, strides, strict=True))


def layout_of(shape: Sequence[int], strides: Sequence[int]) -> Layout:
    """``nchw`` or ``nhwc`` where the tensor is dense in that order, else ``strided``."""
    if tuple(strides) == output_strides(shape, False):
        return "nchw"
    return "nhwc" if tuple(strides) == output_strides(shape, True) else "strided"
