"""The contract of a frozen B: every backend takes a `FrozenOperand` in its place, packs it once, and shares it."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.contract.matmul_cases import Case, cases, dense, tensors
from tests.contract.subjects import Subject, subjects
from tilewright.kernels.frozen import FrozenOperand
from tilewright.kernels.matmul.bound import oracle
from tilewright.kernels.matmul.problem import MatmulProblem

_SUBJECTS = subjects("matmul")
_KINDS = ("linear_", "rank_", "b_", "small_m_b_", "vector_b_", "batched_", "thin_epilogue")
_CASES = [
    case
    for case in cases()
    if case.name.startswith(_KINDS) and not (case.large and any(subject.slow for subject in _SUBJECTS))
][:: 8 if any(subject.emulated for subject in _SUBJECTS) else 1]  # the CUDA kernels keep nothing


def _problem(case: Case, a: Tensor, b: Tensor, *addends: Tensor | None) -> MatmulProblem:
    return MatmulProblem.from_tensors(
        a,
        b,
        *addends,
        activation=case.activation,
        out_dtype=case.out_dtype,
        keep_preact=case.keep_preact,
        threads=torch.get_num_threads() if a.device.type == "cpu" else 0,
        frozen_b=True,
    )


def _configs(subject: Subject, problem: MatmulProblem) -> list[Any]:
    configs = list(dict.fromkeys(subject.backend.configs(problem, subject.spec)))
    runnable = [each for each in configs if subject.backend.rejects(each, problem, subject.spec) is None]
    return runnable[:1] if subject.slow or subject.compiles else runnable


def _outputs(returned: Any) -> tuple[Tensor, ...]:
    return returned if isinstance(returned, tuple) else (returned,)


@pytest.mark.parametrize("subject", _SUBJECTS, ids=str)
@pytest.mark.parametrize("case", _CASES, ids=str)
def test_every_config_takes_a_frozen_operand(subject: Subject, case: Case) -> None:
    a, b, bias, residual = tensors(case, subject.device)
    problem = subject.posed(_problem(case, a, b, bias, residual), (a, b, bias, residual))
    judge = oracle(problem, (a, b, bias, residual))
    before = b.clone()
    for config in _configs(subject, problem):
        operand = FrozenOperand(b)
        launch = subject.backend.bind(config, problem)
        outputs = _outputs(launch(a, operand, bias, residual))
        assert judge(outputs) is None, f"{config}: {judge(outputs)}"
        forms = dict(operand.forms)
        again = _outputs(launch(a, operand, bias, residual))
        for one, other in zip(outputs, again, strict=True):
            assert torch.equal(one, other), f"{config}: other bits by the form that was packed before"
        assert all(operand.forms[name] is form for name, form in forms.items()), f"{config}: packed again"
        assert len(operand.forms) == len(forms)
    assert torch.equal(b, before)


@pytest.mark.parametrize("subject", _SUBJECTS, ids=str)
def test_a_launch_keeps_nothing_of_its_operand(subject: Subject) -> None:
    case = Case("shared", (20, 33), (33, 24), b_layout="col")
    problem = subject.posed(_problem(case, *tensors(case, subject.device)[:2]), ())
    for config in _configs(subject, problem):
        launch = subject.backend.bind(config, problem)
        for _ in range(2):
            a, b, _, _ = tensors(case, subject.device)
            judge = oracle(problem, (a, b, None, None))
            assert judge((launch(a, FrozenOperand(b), None, None),)) is None, str(config)


@pytest.mark.parametrize("subject", _SUBJECTS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_forms_do_not_grow_with_the_numbers_of_rows(subject: Subject, dtype: torch.dtype) -> None:
    b = dense((160, 96), dtype, subject.device).t()
    kept: dict[Any, FrozenOperand] = {}
    for rows in (1, 40) if subject.slow else (*range(1, 40), 64, 100, 130, 300, 700):
        a = dense((rows, 96), dtype, subject.device)
        problem = subject.posed(_problem(Case("rows", (rows, 96), (96, 160), dtype), a, b), (a, b))
        for config in _configs(subject, problem):
            name = (config.algorithm, getattr(config, "b_layout", ""))
            operand = kept.setdefault(name, FrozenOperand(b))
            subject.backend.bind(config, problem)(a, operand, None, None)
    assert kept or subject.slow
    for name, operand in kept.items():
        # Packed forms pad a little; oneDNN may have one layout for few rows, one for some and one for many.
        assert operand.bytes() <= 3.5 * b.nbytes * max(1, 4 // dtype.itemsize), name
        assert len(operand.forms) <= 3, name


def test_threads_that_meet_a_weight_together_pack_it_once() -> None:
    operand = FrozenOperand(torch.randn(8, 8))
    made: list[Tensor] = []
    barrier = threading.Barrier(16)

    def make(tensor: Tensor) -> Tensor:
        made.append(tensor.clone())
        return made[-1]

    def work() -> None:
        barrier.wait()
        operand.pack("layout", make)

    threads = [threading.Thread(target=work) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert operand.bytes() == made[0].nbytes


def test_forms_made_in_inference_mode_serve_outside_of_it() -> None:
    operand = FrozenOperand(torch.randn(8, 8))
    with torch.inference_mode():
        form = operand.pack("layout", lambda tensor: tensor.mT.contiguous())
    assert not form.is_inference()
    assert not form.requires_grad
    assert operand.pack("other name", lambda tensor: form) is form
    assert operand.bytes() == form.nbytes, "one form under two names counts once"
    operand.pack("as it is", lambda tensor: tensor)
    assert operand.bytes() == form.nbytes, "a layout that the weight has takes no memory"
