"""What runs sparse_matmul on CPUs and on CUDA devices: the call key, and on a miss the problem and the choice."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tilewright import dispatch, settings
from tilewright.kernels.interface import Launch
from tilewright.kernels.sparse_matmul.operand import SparseOperand
from tilewright.ops.devices import cuda_surroundings, on_its_device
from tilewright.ops.sparse_matmul_checks import check
from tilewright.ops.sparse_matmul_op import (
    ARGUMENTS,
    NAMES,
    Given,
    arguments_of,
    buffers_of,
    format_of,
    out_features,
)
from tilewright.ops.sparse_operands import operand_of

if TYPE_CHECKING:
    from tilewright.kernels.sparse_matmul.problem import SparseMatmulProblem


def make_problem(
    given: Given, operand: SparseOperand, *, keep_preact: bool = False, frozen: bool = False
) -> SparseMatmulProblem:
    """Describes a call that was checked, under the options in force."""
    # Not with tilewright: making the class takes a twentieth of what importing it may take.
    from tilewright.kernels.sparse_matmul.problem import SparseMatmulProblem

    options = settings.current()
    on_cpu = given.x.device.type == "cpu"
    rows = _rows(given.x)
    residual = given.residual
    return SparseMatmulProblem.from_tensors(
        _matrix(given.x, rows),
        operand,
        given.bias,
        None if residual is None else _addend(residual, (*given.x.shape[:-1], operand.n), rows),
        activation=given.activation,
        keep_preact=keep_preact,
        precision=dispatch.fp32_precision(options, not on_cpu) if given.x.dtype == torch.float32 else "ieee",
        deterministic=options.deterministic,
        threads=torch.get_num_threads() if on_cpu else 0,
        frozen=frozen,
    )


def _rows(x: Tensor) -> int:
    return math.prod(x.shape[:-1])


def _matrix(x: Tensor, rows: int) -> Tensor:
    """x (rows, K): a view where its strides allow, else a copy."""
    return x if x.ndim == 2 else x.reshape(rows, x.shape[-1])


def _addend(residual: Tensor, shape: tuple[int, ...], rows: int) -> Tensor:
    """The residual (rows, N), broadcast."""
    wide = residual.expand(shape)
    return wide if wide.ndim == 2 else wide.reshape(rows, shape[-1])


def cpu_kernel(form: str, keep_preact: bool) -> Callable[..., Any]:
    # The dispatcher comes here only when every tensor is on the CPU: no device need be named.
    return _kernel(form, keep_preact, None)


def cuda_kernel(form: str, keep_preact: bool) -> Callable[..., Any]:
    return on_its_device(_kernel(form, keep_preact, cuda_surroundings(dispatch.fp32_precision)))


def _kernel(form: str, keep_preact: bool, surroundings: Callable[..., Any] | None) -> Callable[..., Any]:
    """`surroundings` of the tensors are what else a choice depends on; on CPUs that is the number of threads."""
    name = NAMES[form] + ("_with_preact" if keep_preact else "")
    arguments = ARGUMENTS[form]
    lookup, current, num_threads = dispatch.lookup, settings.current, torch.get_num_threads

    def kernel(*args: Any) -> Any:
        given = arguments(*args)
        x, bias, residual = given.x, given.bias, given.residual
        buffers = buffers_of(given)
        if not isinstance(x, Tensor) or x.ndim == 0:
            check(given)
        key: Any = (
            name,
            x.shape,
            x.stride(),
            x.dtype,
            # Everything that `check` looks at, so that a key that is found need not be checked again.
            tuple((buffer.shape, buffer.stride(), buffer.dtype) for buffer in buffers),
            out_features(given) if form == "bsr" else 0,
            None if bias is None else (bias.shape, bias.stride(), bias.dtype),
            None if residual is None else (residual.shape, residual.stride(), residual.dtype),
            given.activation,
            current().key,
            num_threads() if surroundings is None else surroundings(x, *buffers, bias, residual),
        )
        launch = lookup((key, True)) or lookup((key, False))
        if launch is None:
            check(given)
        operand, frozen = operand_of(NAMES[form], form, buffers, out_features(given), x.shape[-1])
        launch = lookup((key, frozen))
        if launch is None:
            launch = dispatch.resolve(
                "sparse_matmul",
                (key, frozen),
                lambda: make_problem(given, operand, keep_preact=keep_preact, frozen=frozen),
                _folded((*x.shape[:-1], operand.n)),
            )
        return launch(x, operand, bias, residual)

    return kernel


def _folded(shape: tuple[int, ...]) -> Callable[[Launch], Launch]:
    """What makes a launch of operands of any rank of one of matrices; `shape` is that of the output."""
    rows = math.prod(shape[:-1])
    matrix = len(shape) == 2

    def wrap(multiply: Launch) -> Launch:
        def run(x: Tensor, weight: SparseOperand, bias: Tensor | None, residual: Tensor | None) -> Any:
            if residual is not None:
                residual = _addend(residual, shape, rows)
            found = multiply(_matrix(x, rows), weight, bias, residual)
            if matrix:
                return found
            return tuple(y.view(shape) for y in found) if isinstance(found, tuple) else found.view(shape)

        return run

    return wrap


def sparse_matmul_problem(
    x: Tensor,
    weight: Any,
    bias: Tensor | None = None,
    *,
    activation: str = "none",
    residual: Tensor | None = None,
) -> SparseMatmulProblem:
    """The problem that `sparse_matmul` of the same arguments poses to a weight that stays what it is."""
    n = weight.shape[0]
    given = arguments_of(weight.format, x, weight.buffers, n, bias, residual, activation)
    check(given)
    operand = SparseOperand(format_of(given), buffers_of(given), n, x.shape[-1])
    return make_problem(given, operand, frozen=settings.current().pack)
