"""Convolutions and their gradients: random operands, and all that torch offers for them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from tilewright.benchmark.accuracy import Judge
from tilewright.benchmark.conv2d.shapes import LAYOUTS, Conv2dShape
from tilewright.benchmark.operands import ONEDNN_ACTIVATIONS, Lineup, Operands
from tilewright.benchmark.results import OURS
from tilewright.benchmark.settings import DIRECTIONS, Settings
from tilewright.benchmark.timing import Contender, first_line
from tilewright.errors import ArgumentError
from tilewright.kernels.conv2d.bound import error_bound
from tilewright.kernels.conv2d.problem import Conv2dProblem
from tilewright.kernels.epilogue import activate
from tilewright.nn import Conv2d
from tilewright.ops import PROBLEMS, conv2d
from tilewright.ops.conv2d_kernels import posed_input_gradient, posed_weight_gradient
from tilewright.ops.conv2d_op import (
    Geometry,
    InputGradientArguments,
    WeightGradientArguments,
    input_gradient,
    weight_gradient,
)

EAGER = {layout: f"torch {layout}" for layout in LAYOUTS}
PREPACKED = {layout: f"oneDNN prepacked {layout}" for layout in LAYOUTS}
FUSED = {layout: f"cuDNN fused {layout}" for layout in LAYOUTS}

_FORMATS = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}
_backward: Any = torch.ops.aten.convolution_backward.default
_reorder: Any = torch._C._nn.mkldnn_reorder_conv2d_weight
_fused: Any = torch.cudnn_convolution_relu
_fused_with_residual: Any = torch.cudnn_convolution_add_relu


class Conv2dOperands(Operands[Conv2dShape]):
    """``act(conv2d(x, weight) + bias + residual)``, or a gradient, with operands in either memory format."""

    def __init__(
        self,
        shape: Conv2dShape,
        settings: Settings,
        device: torch.device,
        llc_bytes: int,
        seed: int = 0,
    ) -> None:
        super().__init__(shape, settings, device, llc_bytes, seed)
        if settings.layout not in LAYOUTS or settings.direction not in DIRECTIONS:
            raise ArgumentError(
                f"bench conv2d: layout is {settings.layout}, direction {settings.direction}; expected "
                f"{' or '.join(LAYOUTS)}, and one of {', '.join(DIRECTIONS)}"
            )
        self.forward = settings.direction == "forward"
        x, weight, y = (shape.n, shape.c, shape.h, shape.w), shape.weight_shape, shape.out_shape
        # Scaled as trained layers are, so that results are of order one and 16-bit formats do not overflow.
        terms = {
            "forward": weight[1] * weight[2] * weight[3],
            "input_gradient": shape.k // shape.groups * weight[2] * weight[3],
            "weight_gradient": y[0] * y[2] * y[3],
        }[settings.direction]
        scale = max(terms, 1) ** -0.5
        sets = range(self.sets)
        self.biases = [self.random(shape.k) if settings.bias and self.forward else None for _ in sets]
        # Of x, weight and dy, the two that the direction multiplies, the second scaled; then the residual.
        self._nchw: dict[str, list[Tensor]] = {}
        scaled = {"forward": "weight", "input_gradient": "weight", "weight_gradient": "dy"}[
            settings.direction
        ]
        for name, sizes in (("x", x), ("weight", weight), ("dy", y), ("residual", y)):
            if name == "residual" and not (settings.residual and self.forward):
                continue
            if name == "dy" and self.forward:
                continue
            factor = scale if name == scaled else 1.0
            self._nchw[name] = [self.random(*sizes) * factor for _ in sets]
        self.of = cache(self._of)

    def _of(self, layout: str) -> dict[str, list[Tensor]]:
        """The operands by name, in a memory format."""
        if layout == "nchw":
            return self._nchw
        return {
            name: [tensor.contiguous(memory_format=_FORMATS[layout]) for tensor in tensors]
            for name, tensors in self._nchw.items()
        }

    def _residual(self, layout: str, index: int) -> Tensor | None:
        return self.of(layout)["residual"][index] if "residual" in self._nchw else None

    def call(self, index: int) -> Tensor:
        return self._call(self.settings.layout, index)

    def _call(self, layout: str, index: int) -> Tensor:
        of, shape = self.of(layout), self.shape
        if self.forward:
            return conv2d(
                of["x"][index],
                of["weight"][index],
                self.biases[index],
                stride=shape.stride,
                padding=shape.padding,
                dilation=shape.dilation,
                groups=shape.groups,
                activation=self.settings.activation,
                residual=self._residual(layout, index),
            )
        last, walk, dy = layout == "channels_last", _geometry(shape), of["dy"][index]
        if self.settings.direction == "input_gradient":
            return input_gradient(dy, of["weight"][index], (shape.h, shape.w), walk, last)
        return weight_gradient(dy, of["x"][index], shape.kernel, walk, last)

    def problem(self) -> tuple[str, Any]:
        return self._problem(self.settings.layout)

    def _problem(self, layout: str) -> tuple[str, Any]:
        of = {name: tensors[0] for name, tensors in self.of(layout).items()}
        return pose(self.shape, self.settings, of, self.biases[0], layout)

    def also(self) -> Iterable[tuple[str, Callable[[int], Tensor], Callable[[], tuple[str, Any]]]]:
        """The other memory format."""
        for layout in LAYOUTS:
            if layout != self.settings.layout:
                yield f"{OURS} {layout}", partial(self._call, layout), partial(self._problem, layout)

    def judge(self, precision: str) -> Judge:
        """Of the first and the last image; a weight's gradient sums over all of them."""
        of = {name: tensors[0] for name, tensors in self._nchw.items()}
        if self.settings.direction == "weight_gradient":
            rows, part = slice(None), lambda y: y
        else:
            last = max(self.shape.n - 1, 1)
            rows = slice(None, None, last)
            part = lambda y: y[rows]  # noqa: E731
            of = {name: tensor if name == "weight" else tensor[rows] for name, tensor in of.items()}
        given: Any = {"x": of["x"], "weight": of["weight"]}
        if not self.forward:
            computed = "x" if self.settings.direction == "input_gradient" else "weight"
            given = given | {computed: given[computed].shape, "grad": of["dy"]}
        shape, bias, residual = self.shape, self.biases[0], of.get("residual")
        problem = Conv2dProblem.from_tensors(
            **given,
            bias=bias,
            residual=residual,
            stride=shape.stride,
            padding=shape.pads,
            dilation=shape.dilation,
            groups=shape.groups,
            activation=self.settings.activation if self.forward else "none",
            precision="tf32" if precision == "tf32" else "ieee",
        )
        if self.forward:
            exact = error_bound(problem, of["x"], of["weight"], bias, residual)
            theirs = self._convolve(of["x"], of["weight"], bias, residual)
        else:
            second = "weight" if self.settings.direction == "input_gradient" else "x"
            exact = error_bound(problem, of["dy"], of[second])
            theirs = self._differentiate(of["dy"], self._padded(of["x"]), of["weight"])
        return Judge.of(part, exact.y, exact.y_bound, theirs)

    # What torch offers

    def eager(self) -> Iterable[Contender]:
        return [Contender(name, self._eager(layout)) for layout, name in EAGER.items()]

    def _eager(self, layout: str) -> Callable[[int], Tensor]:
        of, biases = self.of(layout), self.biases
        if self.forward:
            return lambda index: self._convolve(
                of["x"][index], of["weight"][index], biases[index], self._residual(layout, index)
            )
        # Where torch pads by an operator of its own, the forward pass has kept the padded image.
        padded = [self._padded(x) for x in of["x"]]
        return lambda index: self._differentiate(of["dy"][index], padded[index], of["weight"][index])

    def _convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None) -> Tensor:
        """As users write it: what follows the convolution overwrites its result where it can."""
        shape = self.shape
        y = functional.conv2d(x, weight, bias, shape.stride, shape.padding, shape.dilation, shape.groups)
        return _finish(y, residual, self.settings.activation)

    def _differentiate(self, dy: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        """The gradient that is measured, of a forward pass that was given x padded by `_padded`."""
        shape, to_input = self.shape, self.settings.direction == "input_gradient"
        both, (left, _, top, _) = _split(shape.pads)
        rest = (None, shape.stride, both, shape.dilation, False, (0, 0), shape.groups)
        found = _backward(dy, x, weight, *rest, (to_input, not to_input, False))
        if not to_input:
            return found[1]  # type: ignore[no-any-return]
        return found[0][:, :, top : top + shape.h, left : left + shape.w]  # type: ignore[no-any-return]

    def _padded(self, x: Tensor) -> Tensor:
        """x with what is padded on one side alone."""
        extra = _split(self.shape.pads)[1]
        return torch.constant_pad_nd(x, extra) if any(extra) else x

    def add_vendor(self, found: Lineup) -> None:
        if not self.forward:
            return
        for layout in LAYOUTS:
            if self.device.type == "cpu":
                self._add_prepacked(found, layout)
            else:
                self._add_cudnn(found, layout)

    def _add_prepacked(self, found: Lineup, layout: str) -> None:
        name, shape = PREPACKED[layout], self.shape
        if not (torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_convolution_pointwise")):
            found.absent[name] = "this build of torch carries no oneDNN convolution"
            return
        of, biases, activation = self.of(layout), self.biases, self.settings.activation
        both, extra = _split(shape.pads)
        rest = (both, shape.stride, shape.dilation, shape.groups)
        size = [shape.n, shape.c, shape.h + extra[2] + extra[3], shape.w + extra[0] + extra[1]]
        order = (both, shape.stride, shape.dilation, shape.groups, size)
        try:
            packed = [_reorder(w.to_mkldnn(), *order) for w in of["weight"]]
        except RuntimeError as error:  # oneDNN has no kernel for the dtype on this CPU
            found.absent[name] = first_line(error)
            return
        attribute, variant = ONEDNN_ACTIVATIONS[activation]
        pointwise = torch.ops.mkldnn._convolution_pointwise.default
        binary = torch.ops.mkldnn._convolution_pointwise.binary
        fused, left = ("relu", "none") if activation == "relu" else (None, activation)

        def run(index: int) -> Tensor:
            x, residual = self._padded(of["x"][index]), self._residual(layout, index)
            given = (packed[index], biases[index], *rest)
            if residual is None:
                y: Tensor = pointwise(x, *given, attribute, [], variant)
                return y
            return _finish(binary(x, residual, *given, "add", 1.0, fused, [], ""), None, left)

        found.contenders.append(Contender(name, run))

    def _add_cudnn(self, found: Lineup, layout: str) -> None:
        name, shape = FUSED[layout], self.shape
        if self.settings.activation != "relu":
            found.absent[name] = "torch reaches cuDNN's fused epilogue for relu only"
            return
        of, biases = self.of(layout), self.biases
        both = _split(shape.pads)[0]
        rest = (shape.stride, both, shape.dilation, shape.groups)

        def run(index: int) -> Tensor:
            x, residual = self._padded(of["x"][index]), self._residual(layout, index)
            weight, bias = of["weight"][index], biases[index]
            y: Tensor
            if residual is None:
                y = _fused(x, weight, bias, *rest)
            else:
                y = _fused_with_residual(x, weight, residual, 1.0, bias, *rest)
            return y

        found.contenders.append(Contender(name, run))

    def compiled(self) -> tuple[Callable[..., Tensor], Callable[[int], tuple[Any, ...]]] | str:
        if not self.forward:
            return "torch.compile leaves gradients of convolutions to the operator that is timed already"
        shape, activation, layout = self.shape, self.settings.activation, self.settings.layout

        def layer(x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None) -> Tensor:
            y = functional.conv2d(x, weight, bias, shape.stride, shape.padding, shape.dilation, shape.groups)
            return activate(y if residual is None else y + residual, activation)

        def given(index: int) -> tuple[Any, ...]:
            of = self.of(layout)
            return of["x"][index], of["weight"][index], self.biases[index], self._residual(layout, index)

        return layer, given

    # Ours

    def layers(self) -> list[torch.nn.Module] | None:
        if not self.forward:
            return None
        layers: list[torch.nn.Module] = []
        for weight, bias in zip(self.of(self.settings.layout)["weight"], self.biases, strict=True):
            layer = Conv2d(
                self.shape.c,
                self.shape.k,
                self.shape.kernel,
                self.shape.stride,
                self.shape.padding,
                self.shape.dilation,
                self.shape.groups,
                bias is not None,
                activation=self.settings.activation,
                device="meta",
            )
            layer.weight = torch.nn.Parameter(weight.clone(), requires_grad=False)
            if bias is not None:
                layer.bias = torch.nn.Parameter(bias.clone(), requires_grad=False)
            layers.append(layer)
        return layers

    def layer_arguments(self, index: int) -> tuple[Any, ...]:
        layout = self.settings.layout
        return self.of(layout)["x"][index], self._residual(layout, index)

    def required_flops(self) -> int:
        return self.shape.required_flops()

    def flops_tell(self, detail: str) -> bool:
        """Winograd's algorithm multiplies less; cuDNN does not say where it uses it."""
        if self.device.type == "cpu":
            return "winograd" not in detail
        vendor = not detail or detail.startswith("aten")
        return not vendor or min(self.shape.kernel) == 1


def pose(
    shape: Conv2dShape,
    settings: Settings,
    of: Mapping[str, Tensor],
    bias: Tensor | None,
    layout: str,
    *,
    frozen: bool = False,
) -> tuple[str, Any]:
    """(kernel folder, problem) of these operands: x, weight, dy and residual, so far as the direction has them."""
    last, walk = layout == "channels_last", _geometry(shape)
    if settings.direction == "input_gradient":
        size = (shape.h, shape.w)
        to_input = InputGradientArguments(of["dy"], of["weight"], size, *walk, last)
        return posed_input_gradient(to_input)
    if settings.direction == "weight_gradient":
        to_weight = WeightGradientArguments(of["dy"], of["x"], shape.kernel, *walk, last)
        return posed_weight_gradient(to_weight)
    return PROBLEMS["conv2d"](
        of["x"],
        of["weight"],
        bias,
        stride=shape.stride,
        padding=shape.padding,
        dilation=shape.dilation,
        groups=shape.groups,
        activation=settings.activation,
        residual=of.get("residual"),
        **({"frozen": True} if frozen else {}),
    )


def problem_of(shape: Conv2dShape, settings: Settings, *, frozen: bool = False) -> tuple[str, Any]:
    """(operation, problem) of a shape, without the memory its operands take; `frozen`, as a packed layer's."""
    memory_format = _FORMATS[settings.layout]

    def empty(*sizes: int) -> Tensor:
        # Allocated, never touched: the system backs no page of it.
        return torch.empty(sizes, dtype=settings.dtype, device=settings.device, memory_format=memory_format)

    of = {"x": empty(shape.n, shape.c, shape.h, shape.w), "weight": empty(*shape.weight_shape)}
    bias = None
    if settings.direction != "forward":
        of["dy"] = empty(*shape.out_shape)
    elif settings.residual:
        of["residual"] = empty(*shape.out_shape)
    if settings.bias and settings.direction == "forward":
        bias = torch.empty(shape.k, dtype=settings.dtype, device=settings.device)
    return pose(shape, settings, of, bias, settings.layout, frozen=frozen)


def _geometry(shape: Conv2dShape) -> Geometry:
    return Geometry(shape.stride, shape.pads, shape.dilation, shape.groups)


def _split(pads: tuple[int, int, int, int]) -> tuple[list[int], list[int]]:
    """What torch's operators pad on both sides alike, and the rest for ``pad`` (left, right, top, bottom)."""
    top, bottom, left, right = pads
    both = [min(top, bottom), min(left, right)]
    return both, [left - both[1], right - both[1], top - both[0], bottom - both[0]]


def _finish(y: Tensor, residual: Tensor | None, activation: str) -> Tensor:
    if residual is not None:
        y += residual
    if activation == "relu":
        return functional.relu_(y)
    return functional.silu(y, inplace=True) if activation == "silu" else activate(y, activation)
