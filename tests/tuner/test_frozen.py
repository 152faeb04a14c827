"""Tuning a frozen weight: packed outside of what is timed, and every kernel judged by its own packed form."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.tuner import fakes
from tests.tuner.conftest import Install
from tilewright.kernels.frozen import FrozenOperand
from tilewright.kernels.interface import Launch
from tilewright.kernels.matmul.bound import oracle
from tilewright.kernels.matmul.inputs import random_inputs
from tilewright.kernels.matmul.problem import MatmulProblem
from tilewright.kernels.matmul.reference import BACKEND, ReferenceConfig
from tilewright.tuner import device, select, timing, tune, tune_problems
from tilewright.tuner.proof import prove
from tilewright.tuner.search import search
from tilewright.tuner.timing import Clock, Entrant, rotating_sets

CPU = torch.device("cpu")


def frozen(m: int = 12, n: int = 16, k: int = 24) -> MatmulProblem:
    b = torch.randn(n, k).t()
    return MatmulProblem.from_tensors(torch.randn(m, k), b, threads=1, frozen_b=True)


def test_random_inputs_are_frozen_anew_each_time() -> None:
    problem = frozen()
    (a, b, *_), (_, other, *_) = random_inputs(problem, CPU), random_inputs(problem, CPU)
    assert isinstance(b, FrozenOperand)
    assert isinstance(other, FrozenOperand)
    assert not torch.equal(b.tensor, other.tensor)
    assert MatmulProblem.from_tensors(a, b.tensor, threads=1, frozen_b=True) == problem
    y = BACKEND.bind(ReferenceConfig(), problem)(a, b, None, None)
    assert oracle(problem, (a, b, None, None))((y,)) is None
    assert "wrong" in (oracle(problem, (a, other, None, None))((y,)) or "")


def _multiply(form: Callable[[Tensor], Tensor]) -> Launch:
    """A kernel that multiplies with what `form` makes of B."""

    def launch(a: Tensor, b: FrozenOperand, bias: Any, residual: Any) -> Tensor:
        packed = b.forms.get("form")
        if packed is None:
            packed = b.pack("form", form)
        return torch.matmul(a, packed, out=torch.empty(a.shape[0], packed.shape[1]))

    return launch


def _prove(launch: Launch, shared: list[Any]) -> str | None:
    problem = frozen()
    if not shared:
        shared.extend(random_inputs(problem, CPU) for _ in range(2))
    sets = iter(shared)
    return prove(lambda: launch, lambda: next(sets), lambda inputs: oracle(problem, inputs))


def test_each_kernel_is_proved_by_what_it_packs_itself() -> None:
    shared: list[Any] = []
    assert "y is wrong" in (_prove(_multiply(lambda b: 2 * b), shared) or "")
    # The same inputs and the same name of a layout: neither spoiled nor saved by the form before.
    assert _prove(_multiply(lambda b: b.contiguous()), shared) is None
    assert "y is wrong" in (_prove(_multiply(lambda b: b + 1), shared) or "")
    assert not any(inputs[1].forms for inputs in shared)


def test_a_kernel_that_writes_to_the_weight_or_returns_its_form_is_wrong() -> None:
    def writing(a: Tensor, b: FrozenOperand, bias: Any, residual: Any) -> Tensor:
        y = torch.matmul(a, b.tensor, out=torch.empty(a.shape[0], b.tensor.shape[1]))
        b.tensor.zero_()
        return y

    problem = frozen()
    lenient = prove(lambda: writing, lambda: random_inputs(problem, CPU), lambda inputs: lambda outputs: None)
    assert lenient == "changed its input 1"
    square = torch.eye(8)
    problem = MatmulProblem.from_tensors(square, square, threads=1, frozen_b=True)

    def returning(a: Tensor, b: FrozenOperand, bias: Any, residual: Any) -> Tensor:
        form: Tensor = b.pack("form", lambda tensor: tensor.clone())
        return form

    complaint = prove(
        lambda: returning,
        lambda: (square, FrozenOperand(torch.randn(8, 8)), None, None),
        lambda inputs: oracle(problem, inputs),
    )
    assert complaint == "returned memory that is not its own"


def test_sets_hold_copies_of_the_weight_with_nothing_packed() -> None:
    inputs = random_inputs(frozen(), CPU)
    assert isinstance(inputs[1], FrozenOperand)
    inputs[1].pack("form", lambda tensor: tensor.clone())
    sets = rotating_sets(inputs, fakes.DEVICE)
    assert len(sets) > 2
    weights = [each[1] for each in sets]
    assert all(isinstance(weight, FrozenOperand) for weight in weights)
    assert all(torch.equal(weight.tensor, inputs[1].tensor) for weight in weights)
    assert all(weight.tensor.stride() == inputs[1].tensor.stride() for weight in weights)
    assert len({weight.tensor.data_ptr() for weight in weights}) == len(sets)
    assert not any(weight.forms for weight in weights[1:])


def test_large_frozen_weights_come_in_fewer_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "_MOST_SET_BYTES", 1 << 20)
    monkeypatch.setattr(timing, "_MOST_FROZEN_SET_BYTES", 1 << 18)
    weight = torch.zeros(64 << 10, dtype=torch.uint8)
    assert len(rotating_sets((weight,), fakes.DEVICE)) == 16
    assert len(rotating_sets((FrozenOperand(weight),), fakes.DEVICE)) == 4


@dataclass(frozen=True, slots=True)
class _Problem(fakes.Problem):
    frozen_b: bool = True


def test_packing_is_never_timed(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    timed = [False]
    packed: list[bool] = []
    sample = Clock.sample

    def watched(self: Clock, entrant: Entrant) -> float:
        timed[0] = True
        try:
            return sample(self, entrant)
        finally:
            timed[0] = False

    monkeypatch.setattr(Clock, "sample", watched)

    def body(config: fakes.Config, problem: fakes.Problem) -> Launch:
        def make(tensor: Tensor) -> Tensor:
            packed.append(timed[0])
            return 2 * tensor

        def launch(x: FrozenOperand) -> Tensor:
            return torch.empty(x.tensor.shape).copy_(x.pack(config, make))

        return launch

    configs = [fakes.Config("one", size) for size in (1, 2, 3)]
    install(fakes.Backend("cpu", body, configs), fakes.Backend("aten", body))
    problem = _Problem(m=1 << 14)
    result = search(
        problem,
        fakes.OPERATION,
        fakes.DEVICE,
        lambda: (FrozenOperand(torch.randn(1, problem.m)),),
        lambda inputs: fakes.oracle([inputs[0].tensor]),
        anchor=lambda: 1.0,
    )
    assert sum(trial.seconds is not None for trial in result.trials) == 4
    assert len(packed) > 4 * 2
    assert not any(packed)


def test_a_frozen_problem_is_tuned_and_chosen_apart_from_the_plain_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tune.probe, "measure", lambda spec, index: spec)
    monkeypatch.setattr("tilewright.tuner.search.make_anchor", lambda spec: lambda: 1.0)
    problem = frozen()
    plain = MatmulProblem.from_tensors(torch.randn(12, 24), torch.randn(16, 24).t(), threads=1)
    report = tune_problems([("matmul", problem)], budget_s=0.3, progress=False, top_k=2)
    (result,) = report.results
    assert "frozen" in str(report)
    assert {"onednn_prepacked"} <= {str(trial.config.get("algorithm")) for trial in result.trials}
    spec = device.current()
    assert select(problem, "matmul", spec).source == "store"
    assert select(plain, "matmul", spec).source == "cost model"
