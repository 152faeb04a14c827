"""What torch and the vendor libraries behind it (oneDNN, cuDNN) offer for a convolution and its gradients.

The vendor's code is a candidate of every choice, so that a tuned call is never slower than torch's own. Which memory
format is faster depends on sizes and dtype, so operands are tried as they are and converted to either one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from tilewright.kernels.conv2d import onednn
from tilewright.kernels.conv2d.problem import Conv2dProblem, canonical_strides, output_strides
from tilewright.kernels.dtypes import KERNEL_DTYPES
from tilewright.kernels.epilogue import activate
from tilewright.kernels.frozen import FrozenOperand, unwrapped
from tilewright.kernels.interface import Absence, DeviceKind, DeviceSpec, Launch
from tilewright.kernels.precision import cudnn_conv_precision

ALGORITHMS = ("convolution", "onednn", "onednn_prepacked")
LAYOUTS = ("as_is", "nchw", "nhwc")
_FORMATS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}


@dataclass(frozen=True, slots=True)
class AtenConfig:
    """`algorithm` names the operator; `layout` the memory format that both operands are first copied into, if any; of
    a frozen weight the copy is kept.

    convolution        ``torch.convolution`` (cuDNN on CUDA devices), ``aten.convolution_backward`` for gradients; then
                       residual and activation as separate operators
    onednn             oneDNN's convolution with activation or residual fused, on the weight as it is
    onednn_prepacked   the same on a weight reordered once; only where it is frozen. Its output is channels_last
    """

    algorithm: str = "convolution"
    layout: str = "as_is"

    def __str__(self) -> str:
        return self.algorithm if self.layout == "as_is" else f"{self.algorithm} (copied to {self.layout})"


class AtenConv2d:
    name = "aten"
    operation = "conv2d"
    device_kinds: tuple[DeviceKind, ...] = ("cpu", "cuda")
    config_type = AtenConfig

    def absent(self, kind: DeviceKind) -> Absence | None:
        if kind == "cuda" and not torch.cuda.is_available():
            return Absence("torch sees no CUDA device", "use a machine with a GPU and a CUDA build of torch")
        return None

    def configs(self, problem: Conv2dProblem, device: DeviceSpec) -> Iterable[AtenConfig]:
        every = [AtenConfig(algorithm, layout) for layout in LAYOUTS for algorithm in ALGORITHMS]
        return [config for config in every if self.rejects(config, problem, device) is None]

    def rejects(self, config: AtenConfig, problem: Conv2dProblem, device: DeviceSpec) -> str | None:
        algorithm, layout = config.algorithm, config.layout
        if algorithm not in ALGORITHMS or layout not in LAYOUTS:
            return f"unknown aten config {asdict(config)}"
        if layout != "as_is":
            if problem.dtype not in KERNEL_DTYPES:
                return f"{problem.dtype} operands are taken as they are"
            if all(strides == output_strides(shape, layout == "nhwc") for shape, strides in _given(problem)):
                return f"the operands are {layout} already"
        if algorithm != "convolution":
            return onednn.rejects(algorithm, problem)
        if not problem.dtype.is_floating_point:
            if problem.direction != "forward" or problem.device != "cpu":
                return "torch convolves integers forward and on CPUs only"
            if problem.dilation != (1, 1) and problem.dtype != torch.int64:
                return f"torch has no dilated convolution of {problem.dtype}"
        return None

    def bind(self, config: AtenConfig, problem: Conv2dProblem) -> Launch:
        if not problem.frozen_weight:
            return bind_plain(config, problem)
        thawed = replace(problem, frozen_weight=False)
        if config.algorithm == "onednn_prepacked":
            return _on_form(onednn.form_of(problem), bind_plain(config, thawed))
        if config.layout == "as_is":
            return unwrapped(bind_plain(config, thawed))
        # The kept copy has the layout already: copying it again is copying nothing.
        return _on_form(_copy_of(config.layout), bind_plain(config, thawed))


def bind_plain(config: AtenConfig, problem: Conv2dProblem) -> Launch:
    """For a weight that is a tensor; for ``onednn_prepacked``, oneDNN's form of it."""
    bind = _bind_forward if problem.direction == "forward" else _bind_gradient
    return _guarded(bind(config, problem), problem)


def _given(problem: Conv2dProblem) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """(shape, strides) of the two operands."""
    every = {
        "input_gradient": (problem.x_shape, problem.x_strides),
        "weight_gradient": (problem.weight_shape, problem.weight_strides),
        "forward": (problem.y_shape, problem.y_strides),
    }
    return [operand for direction, operand in every.items() if direction != problem.direction]


def _on_form(form: Callable[[FrozenOperand], Tensor], launch: Launch) -> Launch:
    """`launch` on the form that a frozen weight keeps for it."""

    def launch_on_form(x: Tensor, weight: FrozenOperand, bias: Tensor | None, residual: Tensor | None) -> Any:
        return launch(x, form(weight), bias, residual)

    return launch_on_form


def _copy_of(layout: str) -> Callable[[FrozenOperand], Tensor]:
    name = ("aten", layout)

    def copied(weight: FrozenOperand) -> Tensor:
        copy = weight.forms.get(name)
        if copy is None:
            copy = weight.pack(name, lambda tensor: tensor.contiguous(memory_format=_FORMATS[layout]))
        found: Tensor = copy
        return found

    return copied


def _converted(layout: str) -> Callable[[Tensor], Tensor]:
    if layout == "as_is":
        return lambda tensor: tensor
    memory_format = _FORMATS[layout]
    return lambda tensor: tensor.contiguous(memory_format=memory_format)


def _padding(problem: Conv2dProblem) -> tuple[list[int], list[int]]:
    """What torch's operators pad on both sides alike, and what is left for ``pad`` (left, right, top, bottom)."""
    top, bottom, left, right = problem.padding
    both = [min(top, bottom), min(left, right)]
    return both, [left - both[1], right - both[1], top - both[0], bottom - both[0]]


def _fitted(problem: Conv2dProblem) -> Callable[[Tensor], Tensor]:
    """What gives a result the strides that the problem promises."""
    strides, shape, dtype = problem.out_strides, problem.out_shape, problem.out_dtype
    wanted = canonical_strides(shape, strides)

    def fit(out: Tensor) -> Tensor:
        if out.dtype == dtype:
            if out.stride() == strides:
                return out
            if canonical_strides(shape, out.stride()) == wanted:
                return out.as_strided(shape, strides)  # they differ where sizes of 1 give them no meaning
        return torch.empty_strided(shape, strides, dtype=dtype, device=out.device).copy_(out)

    return fit


def _bind_forward(config: AtenConfig, problem: Conv2dProblem) -> Launch:
    padding, extra = _padding(problem)
    convert, fit, pads = _converted(config.layout), _fitted(problem), any(extra)
    prepacked = config.algorithm == "onednn_prepacked"
    if config.algorithm == "convolution":
        fused_bias = problem.bias_dtype == problem.dtype
        fused_residual = fused_activation = False
        core = _convolution(problem, padding, fused_bias)
    else:
        core, fused_bias, fused_residual, fused_activation = onednn.core(problem, padding)
    add_bias = problem.bias_dtype is not None and not fused_bias
    add_residual = problem.residual_dtype is not None and not fused_residual
    activation = "none" if fused_activation else problem.activation
    keep = problem.keep_preact
    if not (pads or keep or add_bias or add_residual) and (prepacked or config.layout == "as_is"):
        return _short(core, activation, fit, problem.out_strides)

    def launch(
        x: Tensor, weight: Tensor, bias: Tensor | None = None, residual: Tensor | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        if pads:
            x = torch.constant_pad_nd(x, extra)
        z = core(convert(x), weight if prepacked else convert(weight), bias, residual)
        if add_bias:
            z = _add(z, bias.view(-1, 1, 1))  # type: ignore[union-attr]
        if add_residual:
            z = _add(z, residual)
        if not keep:
            # Nobody else has seen z, so relu may overwrite it.
            return fit(torch.relu_(z) if activation == "relu" else activate(z, activation))
        y, preact = fit(activate(z, activation)), fit(z)
        return y, preact.clone() if preact.data_ptr() == y.data_ptr() else preact

    return launch


def _short(
    core: onednn.Core, activation: str, fit: Callable[[Tensor], Tensor], strides: tuple[int, ...]
) -> Launch:
    """`core`, and then nothing but the activation."""
    act = {"none": None, "relu": torch.relu_}.get(activation, lambda z: activate(z, activation))

    def launch(
        x: Tensor, weight: Tensor, bias: Tensor | None = None, residual: Tensor | None = None
    ) -> Tensor:
        y = core(x, weight, bias, residual)
        if act is not None:
            y = act(y)
        return y if y.stride() == strides else fit(y)

    return launch


def _convolution(problem: Conv2dProblem, padding: list[int], with_bias: bool) -> onednn.Core:
    rest = (problem.stride, padding, problem.dilation, False, (0, 0), problem.groups)
    operator = torch.convolution  # what torch.conv2d calls, 0.3 µs later

    def convolution(x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None) -> Tensor:
        return operator(x, weight, bias if with_bias else None, *rest)

    return convolution


def _add(z: Tensor, addend: Tensor | None) -> Tensor:
    assert addend is not None
    return z.add_(addend) if torch.promote_types(z.dtype, addend.dtype) == z.dtype else z + addend


_backward: Any = torch.ops.aten.convolution_backward.default


def _bind_gradient(config: AtenConfig, problem: Conv2dProblem) -> Launch:
    """``convolution_backward`` takes x, w and dy, of which the one to be computed serves for its shape alone."""
    padding, extra = _padding(problem)
    convert, fit = _converted(config.layout), _fitted(problem)
    stride, dilation, groups = problem.stride, problem.dilation, problem.groups
    left, right, top, bottom = extra
    (n, c, h, w), dtype = problem.x_shape, problem.dtype
    rest = (None, stride, padding, dilation, False, (0, 0), groups)

    if problem.direction == "weight_gradient":
        shape, strides = problem.weight_shape, _hollow_strides(config, problem, problem.weight_shape)

        def weight_gradient(dy: Tensor, x: Tensor) -> Tensor:
            if any(extra):
                x = torch.constant_pad_nd(x, extra)
            hollow = torch.empty_strided(shape, strides, dtype=dtype, device=dy.device)
            out: Tensor = _backward(convert(dy), convert(x), hollow, *rest, (False, True, False))[1]
            return fit(out)

        return weight_gradient

    padded = (n, c, h + top + bottom, w + left + right)
    padded_strides = _hollow_strides(config, problem, padded)

    def input_gradient(dy: Tensor, weight: Tensor) -> Tensor:
        hollow = torch.empty_strided(padded, padded_strides, dtype=dtype, device=dy.device)
        out: Tensor = _backward(convert(dy), hollow, convert(weight), *rest, (True, False, False))[0]
        return fit(out[:, :, top : top + h, left : left + w])

    return input_gradient


def _hollow_strides(config: AtenConfig, problem: Conv2dProblem, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Torch takes the memory format of its result from the tensor that it computes the gradient of."""
    if config.layout != "as_is":
        return output_strides(shape, config.layout == "nhwc")
    return output_strides(shape, problem.out_strides == output_strides(problem.out_shape, True))


def _guarded(launch: Launch, problem: Conv2dProblem) -> Launch:
    """Runs `launch` as the problem has it, whatever torch's own settings of cuDNN say."""
    if problem.device != "cuda":
        return launch
    precision = problem.precision if problem.dtype == torch.float32 else None
    deterministic = problem.deterministic
    cudnn: Any = torch.backends.cudnn

    def guarded(*tensors: Tensor | None) -> Any:
        exact = precision is None or cudnn_conv_precision() == precision
        if exact and (cudnn.deterministic or not deterministic):
            return launch(*tensors)
        ambient = cudnn.conv.fp32_precision, cudnn.deterministic
        if not exact:
            cudnn.conv.fp32_precision = precision
        cudnn.deterministic = cudnn.deterministic or deterministic
        try:
            return launch(*tensors)
        finally:
            if not exact:
                cudnn.conv.fp32_precision = ambient[0]
            cudnn.deterministic = ambient[1]

    return guarded


BACKEND = AtenConv2d()
