"""Random inputs have a problem's exact metadata, and the oracle tells right from wrong on them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tilewright.errors import ArgumentError
from tilewright.kernels.matmul.bound import oracle
from tilewright.kernels.matmul.inputs import random_inputs
from tilewright.kernels.matmul.problem import MatmulProblem
from tilewright.kernels.matmul.reference import BACKEND, ReferenceConfig

CPU = torch.device("cpu")
SIZE = st.integers(1, 5)


@st.composite
def operand(draw: st.DrawFn, shape: tuple[int, ...]) -> Tensor:
    """A tensor of this shape: contiguous, transposed, with gaps, or expanded along a leading dimension."""
    how = draw(st.sampled_from(["plain", "transposed", "gaps", "expanded"]))
    if how == "transposed" and len(shape) > 1:
        return torch.randn(*shape[:-2], shape[-1], shape[-2]).mT
    if how == "gaps":
        return torch.randn(*shape[:-1], 2 * shape[-1])[..., ::2]
    if how == "expanded" and len(shape) > 2:
        return torch.randn(1, *shape[1:]).expand(shape)
    return torch.randn(shape)


@st.composite
def problems(draw: st.DrawFn) -> MatmulProblem:
    batch = draw(st.lists(SIZE, max_size=3))
    m, n, k = draw(SIZE), draw(SIZE), draw(st.integers(0, 5))

    def leading() -> tuple[int, ...]:
        kept = draw(st.integers(0, len(batch)))
        return tuple(draw(st.sampled_from([size, 1])) for size in batch[len(batch) - kept :])

    a = draw(operand((k,) if draw(st.integers(0, 5)) == 0 else (*leading(), m, k)))
    b = draw(operand((k,) if draw(st.integers(0, 5)) == 0 else (*leading(), k, n)))
    out = torch.matmul(a, b)
    bias = torch.randn(b.shape[-1] if b.ndim > 1 else 1) if draw(st.booleans()) else None
    residual = draw(operand(tuple(out.shape))) if draw(st.booleans()) and out.ndim else None
    if residual is not None and draw(st.booleans()):
        residual = residual[..., :1].expand(out.shape)
    return MatmulProblem.from_tensors(
        a,
        b,
        bias,
        residual,
        activation=draw(st.sampled_from(["none", "gelu"])),
        keep_preact=draw(st.booleans()),
    )


@settings(deadline=None)
@given(problems())
def test_inputs_lead_back_to_their_problem(problem: MatmulProblem) -> None:
    a, b, bias, residual = random_inputs(problem, CPU)
    again = MatmulProblem.from_tensors(
        a, b, bias, residual, activation=problem.activation, keep_preact=problem.keep_preact
    )
    assert again == problem
    launch = BACKEND.bind(ReferenceConfig(), problem)
    returned = launch(a, b, bias, residual)
    outputs = returned if isinstance(returned, tuple) else (returned,)
    assert oracle(problem, (a, b, bias, residual))(outputs) is None


def test_a_shared_weight_is_not_expanded() -> None:
    """torch folds a 3-D input only for a 2-D weight; an expanded one would be timed as something else."""
    problem = MatmulProblem.from_tensors(torch.randn(2, 3, 5), torch.randn(7, 5).mT)
    a, b, _, _ = random_inputs(problem, CPU)
    assert (tuple(a.shape), tuple(b.shape)) == ((2, 3, 5), (5, 7))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int32, torch.uint8])
def test_dtypes_and_misalignment(dtype: torch.dtype) -> None:
    problem = MatmulProblem.from_tensors(torch.ones(4, 8, dtype=dtype), torch.ones(8, 3, dtype=dtype))
    problem = replace(problem, device="cuda", alignment=8)
    a, b, _, _ = random_inputs(problem, CPU)
    assert a.dtype == b.dtype == dtype
    assert (a.data_ptr() | b.data_ptr() | 16) & -(a.data_ptr() | b.data_ptr() | 16) == 8


def test_strides_beyond_memory_are_an_error() -> None:
    problem = MatmulProblem.from_tensors(torch.randn(4, 8), torch.randn(8, 3))
    with pytest.raises(ArgumentError, match="GiB"):
        random_inputs(replace(problem, a_strides=(2**33, 1)), CPU)


def dense(m: int = 24, n: int = 40, k: int = 512, dtype: torch.dtype = torch.float32) -> MatmulProblem:
    a, b = torch.empty(m, k, dtype=dtype), torch.empty(k, n, dtype=dtype)
    return MatmulProblem.from_tensors(a, b, activation="relu", keep_preact=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int64])
def test_torch_is_right_and_small_losses_are_wrong(dtype: torch.dtype) -> None:
    problem = dense(dtype=dtype)
    inputs = random_inputs(problem, CPU, torch.Generator().manual_seed(1))
    judge = oracle(problem, inputs)
    z = torch.matmul(inputs[0], inputs[1])
    assert judge((torch.relu(z), z)) is None
    # One of 512 terms is lost: in 16-bit outputs that is visible in some elements only.
    lost = torch.matmul(inputs[0][:, 1:], inputs[1][1:])
    complaint = judge((torch.relu(lost), lost))
    assert complaint is not None
    assert "y is wrong in" in complaint


def test_single_bad_elements_are_found() -> None:
    problem = dense()
    inputs = random_inputs(problem, CPU)
    judge = oracle(problem, inputs)
    z = torch.matmul(inputs[0], inputs[1])
    for value in (float("nan"), float("inf"), 100.0):
        bad = z.clone()
        bad[3, 5] = value
        assert "at (3, 5)" in (judge((torch.relu(z), bad)) or "")
        assert "pre-activation is wrong in 1 of 960" in (judge((torch.relu(z), bad)) or "")


def test_wrong_metadata_is_found() -> None:
    problem = dense()
    inputs = random_inputs(problem, CPU)
    judge = oracle(problem, inputs)
    z = torch.matmul(inputs[0], inputs[1])
    y = torch.relu(z)
    assert "1 tensors" in (judge((y,)) or "")
    assert "shape" in (judge((y.mT, z)) or "")
    assert "float64" in (judge((y.double(), z)) or "")
    assert "expected torch.float32 with strides (40, 1)" in (judge((y.mT.contiguous().mT, z)) or "")
