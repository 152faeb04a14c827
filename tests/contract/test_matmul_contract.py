"""The one contract test of matmul: every backend x every case, from the registry.

A backend that appears in ``kernels/matmul`` is tested here the day its file appears.
"""

from __future__ import annotations

import zlib

import pytest
import torch
from torch import Tensor

from tests.contract.matmul_cases import Case, cases, tensors
from tests.contract.subjects import Subject, subjects
from tilewright.kernels.epilogue import activate
from tilewright.kernels.matmul.bound import oracle
from tilewright.kernels.matmul.problem import MatmulProblem

_SUBJECTS = subjects("matmul")
_CASES = [case for case in cases() if not (case.large and any(subject.slow for subject in _SUBJECTS))]


def _problem(
    subject: Subject, case: Case, inputs: tuple[Tensor, Tensor, Tensor | None, Tensor | None]
) -> MatmulProblem:
    on_cpu = inputs[0].device.type == "cpu"
    problem = MatmulProblem.from_tensors(
        *inputs,
        activation=case.activation,
        out_dtype=case.out_dtype,
        keep_preact=case.keep_preact,
        threads=torch.get_num_threads() if on_cpu else 0,
    )
    posed: MatmulProblem = subject.posed(problem, inputs)
    return posed


def _runnable(subject: Subject, problem: MatmulProblem) -> list[object]:
    configs = [
        config
        for config in subject.backend.configs(problem, subject.spec)
        if subject.backend.rejects(config, problem, subject.spec) is None
    ]
    if (subject.compiles or subject.emulated) and configs:
        # The best guess in half of the cases, each of the others in its turn.
        turn = zlib.crc32(problem.describe().encode())
        return configs[:1] if turn % 2 else [configs[turn // 2 % len(configs)]]
    # Interpreted: the best guess and the one most unlike it (the last: splits, odd tiles).
    return configs[:: max(len(configs) - 1, 1)] if subject.slow else configs


@pytest.mark.parametrize("subject", _SUBJECTS, ids=str)
@pytest.mark.parametrize("case", _CASES, ids=str)
def test_every_config_is_right(subject: Subject, case: Case) -> None:
    inputs = tensors(case, subject.device)
    problem = _problem(subject, case, inputs)
    judge = oracle(problem, inputs)
    configs = _runnable(subject, problem)
    if not configs:
        # Only one thing may be beyond a whole backend: bf16 in Triton's interpreter, whose dot is wrong there.
        assert subject.interpreted, f"{subject} has no config for {problem.describe()}"
        assert case.dtype == torch.bfloat16
        return
    before = [None if tensor is None else tensor.clone() for tensor in inputs]
    for config in configs:
        outputs = subject.backend.bind(config, problem)(*inputs)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        verdict = judge(outputs)
        assert verdict is None, f"{subject.name} {config}: {verdict}"
        storages = [
            tensor.untyped_storage().data_ptr() for tensor in (*inputs, *outputs) if tensor is not None
        ]
        if all(tensor.numel() for tensor in outputs):
            assert len(set(storages[-len(outputs) :])) == len(outputs), f"{config}: outputs share memory"
            assert not set(storages[-len(outputs) :]) & set(storages[: -len(outputs)]), f"{config}: aliases"
    for tensor, copy in zip(inputs, before, strict=True):
        assert tensor is None or torch.equal(tensor, copy), "an input was written to"  # type: ignore[arg-type]


@pytest.mark.parametrize("subject", _SUBJECTS, ids=str)
@pytest.mark.parametrize("activation", ["none", "relu", "gelu", "silu"])
@pytest.mark.parametrize("m", [1, 20])
@pytest.mark.parametrize("with_bias", [False, True])
def test_nan_and_inf_pass_as_in_torch(subject: Subject, activation: str, m: int, with_bias: bool) -> None:
    a, b = torch.randn(m, 33), torch.randn(33, 40)
    a[0, 3], a[0, 5] = torch.inf, 0.0
    if m > 1:
        a[4, 7], a[6, 1] = torch.nan, -torch.inf
    b[3, 8], b[5, 9], b[20, 11] = 0.0, torch.inf, torch.nan
    a, b = a.to(subject.device), b.to(subject.device)
    bias = torch.randn(40, device=subject.device) if with_bias else None
    case = Case("special", (m, 33), (33, 40), activation=activation)
    inputs = (a, b, bias, None)
    problem = _problem(subject, case, inputs)
    exact = torch.matmul(a.double(), b.double())
    exact = exact if bias is None else exact + bias
    # torch's own fp32 gelu of infinity is NaN, its float64 one infinity: the vendor is held to the former.
    wide = exact.float() if subject.name == "aten" else exact
    expected = activate(wide, activation).double()
    for config in _runnable(subject, problem):
        y = subject.backend.bind(config, problem)(*inputs)
        assert torch.equal(y.isnan(), expected.isnan()), f"{config}: NaN in other places"
        infinite = expected.isinf()
        assert torch.equal(y.double()[infinite], expected[infinite]), f"{config}: infinities differ"
        finite = expected.isfinite()
        near = 2e-2 if subject.rounds_fp32 else 1e-4
        torch.testing.assert_close(y.double()[finite], expected[finite], rtol=near, atol=near)


# On the CPU, where untouched pages cost nothing; a GPU would need the memory itself.
@pytest.mark.parametrize("subject", [s for s in _SUBJECTS if s.device == "cpu"], ids=str)
@pytest.mark.parametrize(("m", "b_is_col"), [(1, False), (1, True), (3, False), (40, True)])
def test_offsets_beyond_2_to_the_31(subject: Subject, m: int, b_is_col: bool) -> None:
    """Rows (or columns) so far apart that 32-bit offsets wrap: 64-bit addresses, few bytes of real memory."""
    k, n, far = 5, 4, (1 << 31) // 3 + 7
    storage = torch.empty(far * k + n, dtype=torch.float16)  # untouched pages cost nothing
    b = storage.as_strided((n, k), (far, 1)).t() if b_is_col else storage.as_strided((k, n), (far, 1))
    values = torch.randn(k, n).half()
    b.copy_(values)
    a = torch.randn(m, k).half()
    inputs = (a, b, None, None)
    problem = _problem(subject, Case("far", (m, k), (k, n), torch.float16), inputs)
    judge = oracle(problem, inputs)
    for config in _runnable(subject, problem):
        assert judge((subject.backend.bind(config, problem)(*inputs),)) is None, str(config)


@pytest.mark.parametrize("subject", _SUBJECTS, ids=str)
def test_the_same_bits_every_time(subject: Subject) -> None:
    case = Case("bits", (33, 700), (700, 41))
    inputs = tensors(case, subject.device)
    problem = _problem(subject, case, inputs)
    for config in _runnable(subject, problem):
        launch = subject.backend.bind(config, problem)
        first = launch(*inputs)
        assert all(torch.equal(first, launch(*inputs)) for _ in range(3)), str(config)
