"""What runs matmul on CPUs and on CUDA devices: the call key, and on a miss the problem and the choice."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from tilewright import dispatch, settings
from tilewright.kernels.matmul.problem import MatmulProblem
from tilewright.ops.devices import cuda_surroundings, on_its_device
from tilewright.ops.matmul_checks import check, linear_arguments
from tilewright.ops.matmul_op import MATMUL, MATMUL_WITH_PREACT, MatmulArguments


def make_problem(
    given: MatmulArguments, *, keep_preact: bool = False, frozen_b: bool = False
) -> MatmulProblem:
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
        frozen_b=frozen_b,
    )


def cpu_kernel(keep_preact: bool) -> Callable[..., Any]:
    # The dispatcher comes here only when every tensor is on the CPU: no device need be named.
    return _kernel(keep_preact, None)


def cuda_kernel(keep_preact: bool) -> Callable[..., Any]:
    return on_its_device(_kernel(keep_preact, cuda_surroundings(dispatch.fp32_precision)))


def _kernel(keep_preact: bool, surroundings: Callable[..., Any] | None) -> Callable[..., Any]:
    """`surroundings` of the tensors are what else a choice depends on; on CPUs that is the number of threads."""
    name = (MATMUL_WITH_PREACT if keep_preact else MATMUL).name
    lookup, current, num_threads = dispatch.lookup, settings.current, torch.get_num_threads

    def kernel(
        a: Tensor,
        b: Tensor,
        bias: Tensor | None = None,
        residual: Tensor | None = None,
        activation: str = "none",
        out_dtype: torch.dtype | None = None,
    ) -> Any:
        # Written out, and half of what a call of ours takes beside torch's dispatcher: every function call adds.
        key = (
            name,
            a.shape,
            a.stride(),
            a.dtype,
            b.shape,
            b.stride(),
            b.dtype,
            # A bias of other than one dimension has as many strides, and is never found: the checks refuse it.
            None if bias is None else (bias.numel(), bias.stride(), bias.dtype),
            None if residual is None else (residual.shape, residual.stride(), residual.dtype),
            activation,
            out_dtype,
            current().key,
            num_threads() if surroundings is None else surroundings(a, b, bias, residual),
        )
        launch = lookup(key)
        if launch is None:
            given = MatmulArguments(a, b, bias, residual, activation, out_dtype)
            launch = dispatch.resolve("matmul", key, partial(make_problem, given, keep_preact=keep_preact))
        return launch(a, b, bias, residual)

    return kernel


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
    frozen: bool = False,
) -> MatmulProblem:
    """The problem that `linear` of the same arguments poses; `frozen`, the problem of a packed weight."""
    return make_problem(linear_arguments(x, weight, bias, residual, activation), frozen_b=frozen)
