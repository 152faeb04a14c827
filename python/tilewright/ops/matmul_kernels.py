"""What runs matmul on CPUs and on CUDA devices: the call key, and on a miss the problem and the choice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tilewright import dispatch, settings
from tilewright.kernels.matmul.problem import MatmulProblem
from tilewright.ops.matmul_checks import check, linear_arguments
from tilewright.ops.matmul_op import MATMUL, MATMUL_WITH_PREACT, MatmulArguments


def make_problem(given: MatmulArguments, *, keep_preact: bool = False) -> MatmulProblem:
    """Checks the arguments and describes the call under the options in force."""
    check(given)
    a, b, bias, residual, activation, out_dtype = given
    options = settings.current()
    on_cpu = a.device.type == "cpu"
    return MatmulProblem.from_tensors(
        a,
        b,
        bias,
        residual,
        activation=activation,
        out_dtype=out_dtype,
        keep_preact=keep_preact,
        precision=dispatch.fp32_precision(options, not on_cpu) if a.dtype == torch.float32 else "ieee",
        deterministic=options.deterministic,
        threads=torch.get_num_threads() if on_cpu else 0,
    )


def cpu_kernel(keep_preact: bool) -> Callable[..., Any]:
    return _kernel(keep_preact, _cpu_surroundings)


def cuda_kernel(keep_preact: bool) -> Callable[..., Any]:
    kernel = _kernel(keep_preact, _cuda_surroundings)

    def on_its_device(a: Tensor, *others: Any) -> Any:
        if a.is_cuda and a.device.index != torch.cuda.current_device():
            with torch.cuda.device(a.device):
                return kernel(a, *others)
        return kernel(a, *others)

    return on_its_device


Surroundings = Callable[[Tensor, Tensor, Tensor | None, Tensor | None], object]
"""What a choice depends on beside the arguments' shapes, strides and dtypes, and the options."""


def _kernel(keep_preact: bool, surroundings: Surroundings) -> Callable[..., Any]:
    name = (MATMUL_WITH_PREACT if keep_preact else MATMUL).name
    lookup, current = dispatch.lookup, settings.current

    def kernel(
        a: Tensor,
        b: Tensor,
        bias: Tensor | None = None,
        residual: Tensor | None = None,
        activation: str = "none",
        out_dtype: torch.dtype | None = None,
    ) -> Any:
        # Written out: a function call for each tensor would take 0.2 µs more.
        key = (
            name,
            a.shape,
            a.stride(),
            a.dtype,
            b.shape,
            b.stride(),
            b.dtype,
            None if bias is None else (bias.shape, bias.stride(), bias.dtype),
            None if residual is None else (residual.shape, residual.stride(), residual.dtype),
            activation,
            out_dtype,
            current().key,
            surroundings(a, b, bias, residual),
        )
        launch = lookup(key)
        if launch is None:
            given = MatmulArguments(a, b, bias, residual, activation, out_dtype)
            problem = make_problem(given, keep_preact=keep_preact)
            launch = dispatch.resolve("matmul", key, problem, current())
        return launch(a, b, bias, residual)

    return kernel


_num_threads = torch.get_num_threads


def _cpu_surroundings(a: Tensor, b: Tensor, bias: Tensor | None, residual: Tensor | None) -> object:
    # The dispatcher comes here only when every tensor is on the CPU, so no device is named.
    return _num_threads()


def _cuda_surroundings(a: Tensor, b: Tensor, bias: Tensor | None, residual: Tensor | None) -> object:
    address = a.data_ptr() | b.data_ptr()
    devices = [a.device, b.device]
    for addend in (bias, residual):
        if addend is not None:
            address |= addend.data_ptr()
            devices.append(addend.device)
    precision = dispatch.fp32_precision(settings.current(), True) if a.dtype == torch.float32 else None
    return *devices, address & 15, precision


def matmul_problem(*args: Any, **keywords: Any) -> MatmulProblem:
    """The problem that `matmul` of the same arguments poses."""
    return make_problem(MatmulArguments(*args, **keywords))


def linear_problem(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    activation: str = "none",
    residual: Tensor | None = None,
) -> MatmulProblem:
    """The problem that `linear` of the same arguments poses."""
    return make_problem(linear_arguments(x, weight, bias, residual, activation))
