"""Published lists of convolutions: x (N, C, H, W), weight (K, C/groups, R, S).

Sources:
    resnet50      every distinct convolution of ResNet-50 at 224×224 (He et al., 2015, arXiv:1512.03385, table 1), with
                  the stride of a stage in its 3×3 convolution as torchvision has it ("v1.5"): the 7×7 stem, the 3×3
                  ones, the 1×1 ones, and the 1×1 projections of stride 2; 23 in all
    mobilenetv2   the distinct depthwise 3×3 convolutions of MobileNetV2 at 224×224 (Sandler et al., 2018,
                  arXiv:1801.04381, table 2)
    efficientnet  the distinct depthwise 3×3 and 5×5 convolutions of EfficientNet-B0 at 224×224 (Tan and Le, 2019,
                  arXiv:1905.11946, table 1)
    unet          the distinct 3×3 convolutions of U-Net (Ronneberger et al., 2015, arXiv:1505.04597, figure 1), padded,
                  on RGB images of 256×256
    dilated       3×3 convolutions of DeepLabv3 on images of 513×513 (Chen et al., 2017, arXiv:1706.05587, section 3):
                  the last two stages of a ResNet-50 kept at 1/8, dilated by 2 and 4, and ASPP's branch of rate 12
    grouped       the distinct 3×3 convolutions of ResNeXt-50 32×4d at 224×224, in 32 groups (Xie et al., 2016,
                  arXiv:1611.05431, table 1)
    odd           primes, even kernels, kernels, strides and dilations that differ by axis, few channels, one pixel

Batches: 1, 8 and 32 for resnet50, 1 and 8 for mobilenetv2, efficientnet and grouped, else 1.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from tilewright.kernels.conv2d.problem import output_size

LAYOUTS = ("channels_last", "nchw")
"""Of images and weights."""

Pair = tuple[int, int]
Padding = Pair | Literal["same"]
"""As `torch.nn.functional.conv2d` takes it: (rows, columns) on either side, or so much that the size stays."""


@dataclass(frozen=True, slots=True)
class Conv2dShape:
    """One problem of a list. `name` says which layer it is."""

    spelling: ClassVar[str] = "N×C×H×W → K"
    varies: ClassVar[str] = "n"

    name: str
    n: int
    c: int
    h: int
    w: int
    k: int
    kernel: Pair
    stride: Pair = (1, 1)
    padding: Padding = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1

    def __str__(self) -> str:
        words = [f"{self.name} {self.n}×{self.c}×{self.h}×{self.w} → {self.k}", _short("", self.kernel)]
        words += [_short("s", self.stride)] if self.stride != (1, 1) else []
        words += [_short("p", self.padding)] if self.padding != (0, 0) else []
        words += [_short("d", self.dilation)] if self.dilation != (1, 1) else []
        words += [f"g{self.groups}"] if self.groups > 1 else []
        return " ".join(words)

    @property
    def pads(self) -> tuple[int, int, int, int]:
        """Padding at top, bottom, left, right, an odd one after the image as torch has it."""
        if self.padding == "same":
            totals = [d * (size - 1) for d, size in zip(self.dilation, self.kernel, strict=True)]
            return totals[0] // 2, totals[0] - totals[0] // 2, totals[1] // 2, totals[1] - totals[1] // 2
        rows, columns = self.padding
        return rows, rows, columns, columns

    @property
    def out_size(self) -> Pair:
        """Height and width of the output."""
        return output_size((self.h, self.w), self.kernel, self.stride, self.pads, self.dilation)

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        return self.k, self.c // self.groups, *self.kernel

    @property
    def out_shape(self) -> tuple[int, int, int, int]:
        return self.n, self.k, *self.out_size

    def elements(self) -> int:
        """Of x, weight and y."""
        height, width = self.out_size
        weight = self.k * (self.c // self.groups) * self.kernel[0] * self.kernel[1]
        return self.n * self.c * self.h * self.w + weight + self.n * self.k * height * width

    def required_flops(self) -> int:
        """Multiply-adds of pixels that are there, counted as two; a kernel may leave out those of padding."""
        rows, columns = (self._meetings(axis) for axis in range(2))
        return 2 * self.n * self.k * (self.c // self.groups) * rows * columns

    def _meetings(self, axis: int) -> int:
        """Pairs of an output's row (column) and a kernel's that meet a row (column) of the image."""
        size, before = (self.h, self.w)[axis], self.pads[2 * axis]
        places = (
            out * self.stride[axis] - before + tap * self.dilation[axis]
            for out in range(self.out_size[axis])
            for tap in range(self.kernel[axis])
        )
        return sum(0 <= place < size for place in places)


def _short(letter: str, value: Padding) -> str:
    if value == "same":
        return "same"
    first, second = value
    return f"{letter}{first}" if letter and first == second else f"{letter}{first}x{second}"


def _square(
    name: str,
    c: int,
    size: int,
    k: int,
    kernel: int,
    stride: int = 1,
    *,
    dilation: int = 1,
    groups: int = 1,
) -> Conv2dShape:
    """A square kernel on one square image, padded so that stride 1 keeps the size."""
    padding = dilation * (kernel - 1) // 2
    return Conv2dShape(
        name,
        1,
        c,
        size,
        size,
        k,
        (kernel, kernel),
        (stride, stride),
        (padding, padding),
        (dilation, dilation),
        groups,
    )


def _batches(layers: Iterable[Conv2dShape], *batches: int) -> tuple[Conv2dShape, ...]:
    return tuple(replace(layer, n=n) for n in batches for layer in layers)


def _resnet50() -> Iterable[Conv2dShape]:
    yield _square("resnet50 conv1", 3, 224, 64, 7, 2)
    incoming, size = 64, 56
    for stage, width in enumerate((64, 128, 256, 512), 2):
        stride = 1 if stage == 2 else 2
        out = size // stride
        yield _square(f"resnet50 conv{stage} reduce", incoming, size, width, 1)
        yield _square(f"resnet50 conv{stage} 3x3", width, size, width, 3, stride)
        yield _square(f"resnet50 conv{stage} expand", width, out, 4 * width, 1)
        if stride == 2:  # that of the first stage is its expansion over again
            yield _square(f"resnet50 conv{stage} project", incoming, size, 4 * width, 1, stride)
        yield _square(f"resnet50 conv{stage} reduce", 4 * width, out, width, 1)
        if stride == 2:
            yield _square(f"resnet50 conv{stage} 3x3", width, out, width, 3)
        incoming, size = 4 * width, out


def _depthwise(name: str, c: int, size: int, kernel: int, stride: int) -> Conv2dShape:
    return _square(f"{name} depthwise", c, size, c, kernel, stride, groups=c)


def _resnext50() -> Iterable[Conv2dShape]:
    size = 56
    for stage, width in enumerate((128, 256, 512, 1024), 2):
        if stage > 2:
            yield _square(f"grouped conv{stage}", width, size, width, 3, 2, groups=32)
            size //= 2
        yield _square(f"grouped conv{stage}", width, size, width, 3, groups=32)


_MOBILENET_V2 = (
    (32, 112, 1),
    (96, 112, 2),
    (144, 56, 1),
    (144, 56, 2),
    (192, 28, 1),
    (192, 28, 2),
    (384, 14, 1),
    (576, 14, 1),
    (576, 14, 2),
    (960, 7, 1),
)
_EFFICIENTNET_B0 = (
    (32, 112, 3, 1),
    (96, 112, 3, 2),
    (144, 56, 3, 1),
    (144, 56, 5, 2),
    (240, 28, 5, 1),
    (240, 28, 3, 2),
    (480, 14, 3, 1),
    (480, 14, 5, 1),
    (672, 14, 5, 1),
    (672, 14, 5, 2),
    (1152, 7, 5, 1),
    (1152, 7, 3, 1),
)
_UNET = (
    ("down", 3, 256, 64),
    ("down", 64, 256, 64),
    ("down", 64, 128, 128),
    ("down", 128, 128, 128),
    ("down", 128, 64, 256),
    ("down", 256, 64, 256),
    ("down", 256, 32, 512),
    ("down", 512, 32, 512),
    ("bottom", 512, 16, 1024),
    ("bottom", 1024, 16, 1024),
    ("up", 1024, 32, 512),
    ("up", 512, 64, 256),
    ("up", 256, 128, 128),
    ("up", 128, 256, 64),
)

LISTS: dict[str, tuple[Conv2dShape, ...]] = {
    "resnet50": _batches(tuple(_resnet50()), 1, 8, 32),
    "mobilenetv2": _batches(
        [_depthwise("mobilenetv2", c, size, 3, stride) for c, size, stride in _MOBILENET_V2], 1, 8
    ),
    "efficientnet": _batches(
        [_depthwise("efficientnet", c, size, kernel, stride) for c, size, kernel, stride in _EFFICIENTNET_B0],
        1,
        8,
    ),
    "unet": tuple(_square(f"unet {part}", c, size, k, 3) for part, c, size, k in _UNET),
    "dilated": (
        _square("dilated conv4", 256, 65, 256, 3, dilation=2),
        _square("dilated conv5", 512, 65, 512, 3, dilation=4),
        _square("dilated aspp", 2048, 65, 256, 3, dilation=12),
    ),
    "grouped": _batches(tuple(_resnext50()), 1, 8),
    "odd": (
        Conv2dShape("odd primes", 3, 17, 31, 37, 19, (3, 3), padding=(1, 1)),
        Conv2dShape("odd primes", 1, 61, 53, 59, 67, (5, 5), padding=(2, 2)),
        Conv2dShape("odd primes strided", 2, 127, 29, 23, 131, (3, 3), (2, 2), (1, 1)),
        Conv2dShape("odd 1x1", 5, 131, 19, 23, 137, (1, 1)),
        Conv2dShape("odd even kernel", 4, 64, 32, 32, 128, (2, 2), (2, 2)),
        Conv2dShape("odd even kernel", 2, 33, 40, 40, 48, (4, 4), padding="same"),
        Conv2dShape("odd row kernel", 1, 96, 35, 35, 96, (1, 7), padding=(0, 3)),
        Conv2dShape("odd column kernel", 1, 96, 35, 35, 96, (7, 1), padding=(3, 0)),
        Conv2dShape("odd asymmetric", 2, 48, 61, 45, 40, (3, 5), (2, 1), (1, 4), (1, 2)),
        Conv2dShape("odd one channel", 8, 1, 97, 101, 32, (5, 5), padding=(2, 2)),
        Conv2dShape("odd one output", 8, 32, 97, 101, 1, (3, 3), padding=(1, 1)),
        Conv2dShape("odd groups", 2, 57, 43, 41, 38, (3, 3), padding=(1, 1), groups=19),
        Conv2dShape("odd multiplier", 2, 31, 47, 47, 93, (3, 3), padding=(1, 1), groups=31),
        Conv2dShape("odd whole image", 16, 96, 7, 7, 250, (7, 7)),
        Conv2dShape("odd one pixel", 8, 512, 1, 1, 512, (3, 3), padding=(1, 1)),
    ),
}
"""Every list by name."""
