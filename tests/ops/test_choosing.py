"""options, explain, tune, threads, and hypothesis over shapes and strides."""

from __future__ import annotations

import json
import subprocess
import sys
import threading

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

import tilewright
from tilewright import dispatch
from tilewright.errors import ArgumentError
from tilewright.kernels.matmul.bound import oracle
from tilewright.ops.matmul_kernels import matmul_problem


def test_explain_names_the_choice_and_every_other_candidate() -> None:
    x, w = torch.randn(8, 64), torch.randn(32, 64)
    for operation in (tilewright.linear, "linear"):
        explanation = tilewright.explain(operation, x, w, activation="relu")
        assert sum(candidate.chosen for candidate in explanation.candidates) == 1
        assert all(candidate.chosen or candidate.reason for candidate in explanation.candidates)
        assert {candidate.backend for candidate in explanation.candidates} >= {
            "cpu",
            "aten",
            "reference",
            "triton",
        }
        text = str(explanation)
        for words in ("8x32x64", "relu", "runs ", "because ", "why not"):
            assert words in text
        json.dumps(explanation.to_dict())
    with tilewright.options(backend="reference"):
        forced = tilewright.explain(tilewright.matmul, x, w.t())
        assert forced.choice.backend == "reference"
        assert forced.choice.source == "explicit"
    with pytest.raises(ArgumentError, match="operation is 'conv9d'"):
        tilewright.explain("conv9d", x, w)


def test_explicit_config_is_the_one_that_runs() -> None:
    a, b = torch.randn(40, 64), torch.randn(64, 48)
    candidates = tilewright.explain(tilewright.matmul, a, b).candidates
    config = next(c.config for c in candidates if c.backend == "cpu" and c.predicted_seconds is not None)
    with tilewright.options(backend="cpu", config=config, strict=True):
        assert tilewright.explain(tilewright.matmul, a, b).choice.config == config
        torch.testing.assert_close(tilewright.matmul(a, b), a @ b)


def test_tune_measures_stores_and_is_used() -> None:
    a, b = torch.randn(24, 96), torch.randn(96, 40)
    report = tilewright.tune(
        lambda x: tilewright.matmul(x, b, activation="relu"), a, budget_s=0.5, progress=False
    )
    assert "24x40x96" in str(report)
    explanation = tilewright.explain(tilewright.matmul, a, b, activation="relu")
    assert explanation.choice.source == "store"
    assert any(candidate.measured_seconds for candidate in explanation.candidates)
    torch.testing.assert_close(tilewright.matmul(a, b, activation="relu"), torch.relu(a @ b))
    # A process of its own finds it too.
    program = (
        "import torch, tilewright\n"
        f"torch.set_num_threads({torch.get_num_threads()})\n"
        "a, b = torch.randn(24, 96), torch.randn(96, 40)\n"
        "print(tilewright.explain(tilewright.matmul, a, b, activation='relu').choice.source)\n"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "store"


def test_tuning_block_sees_the_backward_pass() -> None:
    a, b = torch.randn(9, 31, requires_grad=True), torch.randn(31, 11, requires_grad=True)
    with tilewright.tuning(budget_s=0.2, progress=False) as session:
        tilewright.matmul(a, b).sum().backward()
    # Forward, and the two gradients.
    assert len(session.report.results) == 3


def test_a_call_measures_nothing_and_writes_nothing(tmp_path: object) -> None:
    program = (
        "import os, torch, tilewright\n"
        "tilewright.linear(torch.randn(64, 64), torch.randn(64, 64))\n"
        "tilewright.explain('linear', torch.randn(64, 64), torch.randn(64, 64))\n"
        "print(os.listdir(os.environ['TILEWRIGHT_CACHE_DIR']))\n"
    )
    import os

    run = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "TILEWRIGHT_CACHE_DIR": str(tmp_path)},
    )
    assert run.stdout.strip() == "[]"


def test_sixteen_threads_at_once() -> None:
    a = [torch.randn(17 + i, 60) for i in range(16)]
    b = torch.randn(60, 45)
    dispatch.forget()
    failures: list[str] = []

    def work(i: int) -> None:
        with tilewright.options(backend=["cpu", "aten", None, "cpu"][i % 4]):
            results = [tilewright.matmul(a[i], b) for _ in range(30)]
        failures.extend(f"thread {i}" for y in results if not torch.allclose(y, a[i] @ b, atol=1e-4))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_the_memory_of_choices_is_bounded() -> None:
    b = torch.randn(3, 2)
    dispatch.forget()
    with tilewright.options(backend="aten"):
        for rows in range(1, 40):
            tilewright.matmul(torch.randn(rows, 3), b)
    assert 39 <= len(dispatch._memory) < 200
    small = dispatch._Memory(4)
    for key in range(100):
        small.put(key, lambda: None)
        assert small.get(key) is small.get_young(key) is not None
        assert len(small) <= 8


def test_import_needs_little_and_is_quiet() -> None:
    program = (
        "import sys, warnings; warnings.simplefilter('error')\n"
        "import torch; before = set(sys.modules)\n"
        "import tilewright\n"
        "new = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "print(sorted(new & {'triton', 'typer', 'rich', 'matplotlib', 'sklearn', 'scipy'}))\n"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
    assert run.stderr == ""


_SIZES = st.integers(0, 70)
_STEPS = st.integers(1, 3)


@st.composite
def _matrices(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor]:
    m, k, n = draw(_SIZES), draw(_SIZES), draw(_SIZES)
    dtype = draw(st.sampled_from([torch.float32, torch.bfloat16, torch.float16]))
    batch = draw(st.lists(st.integers(1, 3), max_size=3))

    def operand(rows: int, cols: int) -> torch.Tensor:
        steps = [draw(_STEPS) for _ in range(2)]
        mine = [1 if draw(st.booleans()) else size for size in batch[draw(st.integers(0, len(batch))) :]]
        order = list(range(len(mine) + 2))
        if draw(st.booleans()):
            order[-1], order[-2] = order[-2], order[-1]
        if len(order) > 2 and draw(st.booleans()):
            order[0], order[-2] = order[-2], order[0]
        shape = [*mine, rows * steps[0], cols * steps[1]]
        stored = [shape[i] for i in order]
        inverse = [order.index(i) for i in range(len(order))]
        return torch.randn(stored).to(dtype).permute(inverse)[..., :: steps[0], :: steps[1]]

    return operand(m, k), operand(k, n)


@pytest.mark.parametrize("backend", ["cpu", "aten", None])
@settings(max_examples=120, deadline=None)
@given(matrices=_matrices(), activation=st.sampled_from(["none", "relu", "silu"]))
def test_any_shape_and_stride(
    backend: str | None, matrices: tuple[torch.Tensor, torch.Tensor], activation: str
) -> None:
    a, b = matrices
    with tilewright.options(backend=backend, strict=True):
        y = tilewright.matmul(a, b, activation=activation)
    problem = matmul_problem(a, b, activation=activation)
    assert oracle(problem, (a, b, None, None))((y,)) is None


def test_importing_imports_no_kernels_and_no_search() -> None:
    program = (
        "import sys, tilewright\n"
        "heavy = ('.cpu', '.triton', '.aten', '.search', '.costs')\n"
        "print([name for name in sys.modules if name.startswith('tilewright.') and name.endswith(heavy)])\n"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
