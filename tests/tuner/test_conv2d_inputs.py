"""Random operands of a convolution lead back to the problem they were made for."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.contract.conv2d_cases import Case, cases, problem_of, tensors
from tilewright.errors import ArgumentError
from tilewright.kernels.conv2d.bound import oracle
from tilewright.kernels.conv2d.inputs import random_inputs
from tilewright.kernels.conv2d.reference import BACKEND, ReferenceConfig
from tilewright.kernels.frozen import FrozenOperand, thawed

CPU = torch.device("cpu")


def test_every_case_leads_back_to_its_problem() -> None:
    for case in cases():
        given = tensors(case, "cpu")
        frozen = case.direction == "forward" and case.bias is not None
        problem = problem_of(case, given, frozen_weight=frozen)
        inputs = random_inputs(problem, CPU)
        assert isinstance(inputs[1], FrozenOperand) == frozen, case
        written = replace(case, channels_last=problem.out_strides[1] == 1 != problem.out_strides[3])
        again = problem_of(written if case.channels_last is None else case, tuple(map(thawed, inputs)))
        # Sizes of 1 leave the layout of the result open, so that it was written out above.
        assert replace(again, frozen_weight=frozen, x_strides=(), weight_strides=(), y_strides=()) == replace(
            problem, x_strides=(), weight_strides=(), y_strides=()
        )


def test_values_are_fresh_and_of_the_order_of_one() -> None:
    case = Case("values", x=(2, 64, 12, 12), channels=48, dtype=torch.float16, bias=torch.float32)
    problem = problem_of(case, tensors(case, "cpu"))
    generator = torch.Generator().manual_seed(7)
    first, second = (random_inputs(problem, CPU, generator) for _ in range(2))
    assert not torch.equal(first[0], second[0])
    y = BACKEND.bind(ReferenceConfig(), problem)(*first)
    assert y.isfinite().all()
    assert 1 < y.float().std() < 2  # the sums and the bias
    assert oracle(problem, first)((y,)) is None
    assert oracle(problem, second)((y,)) is not None


def test_operands_of_too_much_memory_are_refused() -> None:
    storage = torch.empty(0, dtype=torch.float32, device="meta")
    x = storage.new_empty_strided((2, 3, 4, 4), (1 << 32, 16, 4, 1))
    case = Case("far", x=(2, 3, 4, 4))
    problem = problem_of(case, (x, torch.empty(6, 3, 3, 3), None, None))
    with pytest.raises(ArgumentError, match="conv2d: an operand spans 16 GiB"):
        random_inputs(problem, CPU)


def test_strides_that_no_tensor_has_are_refused() -> None:
    case = Case("odd")
    problem = replace(problem_of(case, tensors(case, "cpu")), out_size=(3, 3))
    with pytest.raises(ArgumentError, match="conv2d: no operands have the geometry"):
        random_inputs(problem, CPU)
