"""Whether a tilewright operation is worth its place: what would be chosen for the problem that it poses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from tilewright import dispatch, settings
from tilewright.compiler.epilogues import Chain
from tilewright.compiler.graphs import hint, value
from tilewright.compiler.products import Product
from tilewright.ops import conv2d_kernels
from tilewright.ops.conv2d_lowering import (
    Lowered,
    lowered,
    lowered_input_gradient,
    lowered_weight_gradient,
)
from tilewright.ops.conv2d_op import Conv2dArguments, InputGradientArguments, WeightGradientArguments
from tilewright.ops.matmul_kernels import make_problem as make_matmul_problem
from tilewright.ops.matmul_op import MatmulArguments

_LEAST_FLOPS = 1 << 20
"""Below that a product takes some 10 µs, and a call of ours, through torch's dispatcher, 3 to 5 µs more than Inductor's
call of a BLAS."""

_LEAST_FROZEN_FLOPS = 1 << 19
"""The same for a packed weight, on which a call takes 4 µs to the 2 of a BLAS: a layer of 512 x 512 and one row, with
1 thread of a Zen 5."""


@dataclass(frozen=True)
class Judge:
    """Decides for one graph.

    `always` takes whatever can be fused; `channels_last` says that convolutions will get such images.
    """

    always: bool
    channels_last: bool

    def refusal(self, chain: Chain, *, frozen: bool) -> str | None:
        """Why a chain is better left as it is; None if it is not. `frozen`, of a weight that is packed."""
        product = chain.product
        if self.always:
            return None
        if frozen:
            # A convolution of torch's takes longer than one of ours before it computes anything.
            return _smallness(_flops(product), _LEAST_FROZEN_FLOPS) if product.operation == "matmul" else None
        device = product.value.device
        with FakeTensorMode():
            if product.operation == "conv2d":
                given = self._convolution(chain)
                pose = conv2d_kernels.make_problem
                return _convolution_refusal(
                    lambda: pose(given, keep_preact=chain.kept), lowered(given), device
                )
            residual = None
            if chain.residual is not None:
                # How it broadcasts makes little difference to the cost.
                residual = _stand_in(product.node)
            bias = None if chain.bias is None else _stand_in(chain.bias)
            operands = _stand_in(product.a), _stand_in(product.b), bias, residual, chain.activation
            posed = make_matmul_problem(MatmulArguments(*operands), keep_preact=chain.kept)
            return _refusal("matmul", posed, device)

    def input_gradient_refusal(self, given: InputGradientArguments) -> str | None:
        """The same for the gradient of a convolution's input; `given` has nodes for tensors, and their sizes."""
        if self.always:
            return None
        with FakeTensorMode():
            operands: Any = self._images(given.grad), _stand_in(given.weight)
            asked = InputGradientArguments(*(*operands, *_numbers(given[2:6]), *given[6:]))
            pose = conv2d_kernels.make_input_gradient_problem
            return _convolution_refusal(
                lambda: pose(asked), lowered_input_gradient(asked), _device(given.grad)
            )

    def weight_gradient_refusal(self, given: WeightGradientArguments) -> str | None:
        """The same for the gradient of its weight."""
        if self.always:
            return None
        with FakeTensorMode():
            operands: Any = self._images(given.grad), self._images(given.x)
            asked = WeightGradientArguments(*(*operands, *_numbers(given[2:6]), *given[6:]))
            pose = conv2d_kernels.make_weight_gradient_problem
            return _convolution_refusal(
                lambda: pose(asked), lowered_weight_gradient(asked), _device(given.grad)
            )

    def _convolution(self, chain: Chain) -> Conv2dArguments:
        product = chain.product
        stride, padding, dilation = _numbers(product.geometry[:3])
        return Conv2dArguments(
            self._images(product.a),
            _stand_in(product.b),
            None if chain.bias is None else _stand_in(chain.bias),
            None if chain.residual is None else self._images(chain.residual),
            chain.activation,
            stride,
            padding,
            dilation,
            product.geometry[3],
        )

    def _images(self, node: Any) -> Tensor:
        found = _stand_in(node)
        if self.channels_last and found.ndim == 4:
            return found.contiguous(memory_format=torch.channels_last)
        return found


def _numbers(sequences: Any) -> Any:
    return [tuple(map(hint, sequence)) for sequence in sequences]


def _device(node: Any) -> torch.device:
    found = value(node)
    assert found is not None
    return found.device


def _stand_in(node: Any) -> Tensor:
    """A tensor without memory like a node's value, symbols replaced by what they were when they were traced."""
    found = value(node)
    assert found is not None
    sizes, strides = tuple(map(hint, found.shape)), tuple(map(hint, found.stride()))
    # Of a CUDA tensor too: the problem reads its address, which nothing has here. `_refusal` puts that right.
    return torch.empty_strided(sizes, strides, dtype=found.dtype, device="cpu")


def _convolution_refusal(
    pose: Callable[[], Any], product: Lowered | None, device: torch.device
) -> str | None:
    if product is not None:
        return _refusal("matmul", product.problem(), device, of_convolution=True)
    return _refusal("conv2d", pose(), device, of_convolution=True)


def _flops(product: Product) -> int:
    found = value(product.a)
    assert found is not None
    count = 2 * hint(found.shape[-1])
    for size in product.shape:
        count *= hint(size)
    return count


def _smallness(flops: int, least: int) -> str | None:
    return f"it is small: {flops / 1e3:.0f} thousand floating-point operations" if flops < least else None


def _refusal(
    operation: str, problem: Any, device: torch.device, *, of_convolution: bool = False
) -> str | None:
    small = _smallness(problem.flops(), _LEAST_FLOPS)
    if small is not None:
        return small
    if device.type == "cuda":
        precision: Any = "ieee"
        if problem.dtype == torch.float32:
            of = conv2d_kernels.fp32_precision if of_convolution else dispatch.fp32_precision
            precision = of(settings.current(), True)
        # As torch's allocator aligns tensors.
        problem = replace(problem, device="cuda", threads=0, alignment=16, precision=precision)
    choice = dispatch.choose(operation, problem, settings.current())
    if choice.backend in ("aten", "reference"):
        return f"torch's own kernel was chosen ({choice.source})"
    return None
