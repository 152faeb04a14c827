"""The contract of a frozen convolution weight: every backend takes a `FrozenOperand`, packs it once, and shares it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.contract.conv2d_cases import Case, cases, dense, problem_of, tensors
from tests.contract.subjects import Subject, subjects
from tests.contract.test_conv2d_contract import outputs_of, runnable, trials
from tilewright.kernels.conv2d.bound import oracle
from tilewright.kernels.frozen import FrozenOperand

_SUBJECTS = subjects("conv2d")
_CASES = [
    case
    for case in cases()
    if case.direction == "forward"
    and (
        "residual" not in case.name and ("gelu" in case.name or not case.name.startswith(("nchw_", "nhwc_")))
    )
    and not (case.large and any(subject.slow for subject in _SUBJECTS))
][:: 8 if any(subject.emulated for subject in _SUBJECTS) else 1]  # the CUDA kernels keep nothing


@pytest.mark.parametrize(("subject", "case"), trials(_CASES))
def test_every_config_takes_a_frozen_weight(subject: Subject, case: Case) -> None:
    x, weight, bias, residual = tensors(case, subject.device)
    assert weight is not None
    problem = problem_of(case, (x, weight, bias, residual), frozen_weight=True)
    problem = subject.posed(problem, (x, weight, bias, residual))
    judge = oracle(problem, (x, weight, bias, residual))
    before = weight.clone()
    for config in runnable(subject, problem):
        operand = FrozenOperand(weight)
        launch = subject.backend.bind(config, problem)
        outputs = outputs_of(launch(x, operand, bias, residual))
        assert judge(outputs) is None, f"{config}: {judge(outputs)}"
        forms = dict(operand.forms)
        again = outputs_of(launch(x, operand, bias, residual))
        for one, other in zip(outputs, again, strict=True):
            assert torch.equal(one, other), f"{config}: other bits by the form that was packed before"
        assert all(operand.forms[name] is form for name, form in forms.items()), f"{config}: packed again"
        assert len(operand.forms) == len(forms)
    assert torch.equal(weight, before)


@pytest.mark.parametrize("subject", _SUBJECTS, ids=str)
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_a_launch_keeps_nothing_of_its_weight(subject: Subject, layout: str) -> None:
    case = Case("shared", x=(2, 9, 8, 7), channels=20, padding=(1, 1, 1, 1), layouts=(layout, layout))
    problem = problem_of(case, tensors(case, subject.device), frozen_weight=True)
    problem = subject.posed(problem, ())
    for config in runnable(subject, problem):
        launch = subject.backend.bind(config, problem)
        for _ in range(2):
            x, weight, _, _ = tensors(case, subject.device)
            assert weight is not None
            judge = oracle(problem, (x, weight, None, None))
            assert judge((launch(x, FrozenOperand(weight), None, None),)) is None, str(config)


@pytest.mark.parametrize("subject", _SUBJECTS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_forms_do_not_grow_with_the_sizes_of_images(subject: Subject, dtype: torch.dtype) -> None:
    weight = dense((48, 20, 3, 3), dtype, subject.device)
    kept: dict[Any, FrozenOperand] = {}
    for batch in (1, 3):
        for height, width in ((6, 5),) if subject.slow else ((3, 3), (6, 5), (14, 14), (29, 31)):
            case = Case("sizes", x=(batch, 20, height, width), channels=48, padding=(1, 1, 1, 1), dtype=dtype)
            inputs = (dense(case.x, dtype, subject.device), weight, None, None)
            problem = subject.posed(problem_of(case, inputs, frozen_weight=True), inputs)
            for config in runnable(subject, problem):
                operand = kept.setdefault(
                    (config.algorithm, getattr(config, "layout", "")), FrozenOperand(weight)
                )
                launch = subject.backend.bind(config, problem)
                assert oracle(problem, inputs)((launch(inputs[0], operand, None, None),)) is None, str(config)
    assert kept or subject.slow
    for name, operand in kept.items():
        # Packed forms pad a little, and may be widened.
        assert operand.bytes() <= 2 * weight.nbytes * max(1, 4 // dtype.itemsize), name
        assert len(operand.forms) <= 2, name
