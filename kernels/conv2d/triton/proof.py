"""The jobs of ``tilewright compile``: every config, each with a problem that asks much of it."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tilewright.errors import ArgumentError
from tilewright.kernels.conv2d.problem import Conv2dProblem, Direction
from tilewright.kernels.conv2d.triton import tile
from tilewright.kernels.conv2d.triton.candidates import every_candidate
from tilewright.kernels.conv2d.triton.config import TritonConfig
from tilewright.kernels.conv2d.triton.limits import rejects
from tilewright.kernels.interface import DeviceSpec
from tilewright.kernels.triton_proof import DTYPES


@dataclass(frozen=True, slots=True)
class Layer:
    """A convolution's sizes. Allocates nothing."""

    batch: int
    channels: int
    outputs: int
    size: int
    kernel: int = 3
    stride: int = 1
    groups: int = 1
    channels_last: bool = True

    def problem(
        self, direction: Direction, dtype: torch.dtype, precision: str = "ieee", epilogue: bool = True
    ) -> Conv2dProblem:
        """With all of the epilogue where there is one: what costs a kernel the most registers."""

        def image(*shape: int) -> Tensor:
            order = torch.channels_last if self.channels_last else torch.contiguous_format
            return torch.empty(shape, dtype=dtype, device="meta").contiguous(memory_format=order)

        x = image(self.batch, self.channels, self.size, self.size)
        weight = image(self.outputs, self.channels // self.groups, self.kernel, self.kernel)
        half = self.kernel // 2
        window = {
            "stride": (self.stride, self.stride),
            "padding": (half, half, half, half),
            "groups": self.groups,
            "precision": precision,
        }
        plain = Conv2dProblem.from_tensors(x, weight, **window)  # type: ignore[arg-type]
        y = image(*plain.y_shape)
        if direction == "input_gradient":
            return Conv2dProblem.from_tensors(
                x.shape,
                weight,
                grad=y,
                channels_last=self.channels_last,
                **window,  # type: ignore[arg-type]
            )
        if direction == "weight_gradient":
            return Conv2dProblem.from_tensors(
                x,
                weight.shape,
                grad=y,
                channels_last=self.channels_last,
                **window,  # type: ignore[arg-type]
            )
        if not epilogue:
            return plain
        bias = torch.empty(self.outputs, dtype=dtype, device="meta")
        return Conv2dProblem.from_tensors(
            x,
            weight,
            bias,
            y,
            activation="gelu",
            keep_preact=True,
            **window,  # type: ignore[arg-type]
        )


# Between them they list every tile: large images and small ones, early layers and late, channels that are whole
# vectors and channels that are not, pixels contiguous, windows of one pixel, strides, groups of one and of few.
LAYERS = (
    Layer(32, 256, 256, 28),
    Layer(32, 64, 64, 56),
    Layer(1, 512, 512, 7),
    Layer(32, 256, 512, 28, kernel=1, stride=2),
    Layer(32, 24, 40, 28),
    Layer(8, 33, 35, 29),
    Layer(32, 256, 256, 28, channels_last=False),
    Layer(32, 3, 64, 224, kernel=7, stride=2),
    Layer(32, 3, 64, 224, kernel=7, stride=2, channels_last=False),
    Layer(32, 128, 128, 28, groups=32),
    Layer(32, 128, 128, 28, stride=2, groups=128),
    Layer(32, 128, 128, 28, groups=128, channels_last=False),
    Layer(8, 256, 16, 28),
)
_DIRECTIONS: tuple[Direction, ...] = ("forward", "input_gradient", "weight_gradient")


def proof_jobs(
    device: DeviceSpec, dtypes: Sequence[str] | None = None
) -> Iterator[tuple[TritonConfig, Conv2dProblem]]:
    """Each config that `device` may be offered, once per dtype, direction and kind of layer.

    Of configs that differ in how the sum is split or tiles are grouped one is taken, and one that does not split: the
    others differ from it in a constant of the prologue.

    Raises:
        ArgumentError: a name in `dtypes` is not in `DTYPES`.
    """
    for name in dtypes or DTYPES:
        if name not in DTYPES:
            raise ArgumentError(f"compile: dtype is {name!r}; expected some of {', '.join(DTYPES)}")
        dtype, precision = DTYPES[name]
        for direction in _DIRECTIONS:
            seen: set[Hashable] = set()
            for layer in LAYERS:
                problem = layer.problem(direction, dtype, precision)
                for config in every_candidate(problem, device):
                    kind = (
                        replace(config, group_m=1, split_k=min(config.split_k, 2)),
                        *(problem.x_layout, layer.kernel == 1, layer.stride),
                        *(tile.singles(config, problem) > 0, tile.stores_singles(problem)),
                    )
                    # Copied operands are another layer's operands as they are.
                    if (
                        config.layout == "as_is"
                        and kind not in seen
                        and rejects(config, problem, device) is None
                    ):
                        seen.add(kind)
                        yield config, problem
