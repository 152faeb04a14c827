"""What runs matmul on CPUs and on CUDA devices: the call key, and on a miss the problem and the choice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tilewright import dispatch, settings
from tilewright.kernels.interface import Launch
from tilewright.kernels.matmul.problem import MatmulProblem
from tilewright.ops.matmul_checks import check


def make_problem(
    a: Tensor,
    b: Tensor,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    *,
    activation: str = "none",
    out_dtype: torch.dtype | None = None,
    keep_preact: bool = False,
) -> MatmulProblem:
    """Checks the arguments and describes the call under the options in force."""
    check("matmul", a, b, bias, residual, activation, out_dtype)
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


def _resolve(
    key: tuple[Any, ...],
    a: Tensor,
    b: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    activation: str,
    out_dtype: torch.dtype | None,
    keep_preact: bool,
) -> Launch:
    problem = make_problem(
        a, b, bias, residual, activation=activation, out_dtype=out_dtype, keep_preact=keep_preact
    )
    return dispatch.resolve("matmul", key, problem, settings.current())


def _addend_key(addend: Tensor | None) -> tuple[Any, ...] | None:
    return None if addend is None else (addend.shape, addend.stride(), addend.dtype)


def cpu_kernel(keep_preact: bool) -> Callable[..., Any]:
    operation = "matmul_with_preact" if keep_preact else "matmul"
    lookup, current, num_threads = dispatch.lookup, settings.current, torch.get_num_threads

    def kernel(
        a: Tensor,
        b: Tensor,
        bias: Tensor | None = None,
        residual: Tensor | None = None,
        *,
        activation: str = "none",
        out_dtype: torch.dtype | None = None,
    ) -> Any:
        # The dispatcher comes here only when every tensor is on the CPU, so the key names no device.
        key = (
            operation,
            a.shape,
            a.stride(),
            a.dtype,
            b.shape,
            b.stride(),
            b.dtype,
            None if bias is None else _addend_key(bias),
            None if residual is None else _addend_key(residual),
            activation,
            out_dtype,
            current().key,
            num_threads(),
        )
        launch = lookup(key)
        if launch is None:
            launch = _resolve(key, a, b, bias, residual, activation, out_dtype, keep_preact)
        return launch(a, b, bias, residual)

    return kernel


def cuda_kernel(keep_preact: bool) -> Callable[..., Any]:
    operation = "matmul_with_preact" if keep_preact else "matmul"

    def launch_here(a: Tensor, b: Tensor, bias: Any, residual: Any, activation: str, out_dtype: Any) -> Any:
        address = a.data_ptr() | b.data_ptr()
        for extra in (bias, residual):
            if extra is not None:
                address |= extra.data_ptr()
        options = settings.current()
        key = (
            operation,
            a.shape,
            a.stride(),
            a.dtype,
            a.device,
            b.shape,
            b.stride(),
            b.dtype,
            b.device,
            None if bias is None else (_addend_key(bias), bias.device),
            None if residual is None else (_addend_key(residual), residual.device),
            activation,
            out_dtype,
            options.key,
            address & 15,
            dispatch.fp32_precision(options, True) if a.dtype == torch.float32 else None,
        )
        launch = dispatch.lookup(key)
        if launch is None:
            launch = _resolve(key, a, b, bias, residual, activation, out_dtype, keep_preact)
        return launch(a, b, bias, residual)

    def kernel(
        a: Tensor,
        b: Tensor,
        bias: Tensor | None = None,
        residual: Tensor | None = None,
        *,
        activation: str = "none",
        out_dtype: torch.dtype | None = None,
    ) -> Any:
        if a.is_cuda and a.device.index != torch.cuda.current_device():
            with torch.cuda.device(a.device):
                return launch_here(a, b, bias, residual, activation, out_dtype)
        return launch_here(a, b, bias, residual, activation, out_dtype)

    return kernel


def linear_problem(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    activation: str = "none",
    residual: Tensor | None = None,
) -> MatmulProblem:
    """The problem that `linear` of the same arguments poses."""
    check("linear", x, weight.t(), bias, residual, activation, None, names=("x", "weight"))
    return make_problem(x, weight.t(), bias, residual, activation=activation)
