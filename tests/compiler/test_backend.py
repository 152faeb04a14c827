"""The backend as users meet it: entry point, options, report, logging, failures, Inductor."""

from __future__ import annotations

import io
import logging
import subprocess
import sys
from importlib.metadata import entry_points
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

import tilewright
from tests.compiler.support import FUSE, assert_as_good, compiled, fused, left, randomized, wide
from tilewright.compiler import emission, layout

F = nn.functional


def _layer(x: Tensor, w: Tensor) -> Tensor:
    return F.relu(F.linear(x, w))


_ARGS = torch.randn(4, 6), torch.randn(5, 6)


# --- how it is found -------------------------------------------------------------------------------------------


def test_torch_finds_it_without_an_import() -> None:
    assert "tilewright" in entry_points(group="torch_dynamo_backends").names, "install tilewright anew"
    program = (
        "import sys, torch\n"
        "assert 'tilewright' in torch._dynamo.list_backends()\n"
        "assert 'tilewright' not in sys.modules\n"
        "layer = torch.nn.Linear(4, 3)\n"
        "options = {'rest': 'eager', 'fuse': 'always'}\n"
        "fast = torch.compile(layer, backend='tilewright', options=options)\n"
        "x = torch.randn(2, 4)\n"
        "torch.testing.assert_close(fast(x), layer(x))\n"
        "print(len(sys.modules['tilewright'].compiler.report().fused))\n"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == ["1"]


def test_importing_tilewright_imports_no_compiler_of_torchs() -> None:
    program = (
        "import sys, torch, tilewright\n"
        "tilewright.compiler.backend, tilewright.compiler.report\n"
        "heavy = ('torch._dynamo', 'torch._inductor', 'torch._functorch.aot_autograd')\n"
        "print([name for name in heavy if name in sys.modules])\n"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


# --- options ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "mode", "message"),
    [
        (
            {"rset": "eager"},
            None,
            r"option 'rset' is unknown; expected rest \('inductor' or 'eager'.*did you mean",
        ),
        ({"rest": "ts"}, None, "option rest is 'ts'; expected 'inductor' or 'eager'"),
        ({"freeze": 1}, None, "option freeze is 1; expected True or False"),
        ({"fuse": "never"}, None, "option fuse is 'never'; expected 'faster' or 'always'"),
        ({"rest": "eager", "max_autotune": True}, None, "max_autotune given with rest='eager'"),
        ({"rest": "eager"}, "max-autotune", "mode 'max-autotune' given with rest='eager'"),
        ({}, "fastest", "mode is 'fastest'; expected one of default"),
    ],
)
def test_unknown_options_are_named(options: dict[str, Any], mode: str | None, message: str) -> None:
    from tilewright.compiler.options import CompilerOptions

    with pytest.raises(tilewright.errors.ArgumentError, match=message):
        CompilerOptions.parse(options, mode)


def test_options_of_inductors_are_handed_on() -> None:
    from tilewright.compiler.options import CompilerOptions

    parsed = CompilerOptions.parse({"freeze": True, "epilogue-fusion": False}, "max-autotune-no-cudagraphs")
    assert parsed.freeze
    assert parsed.inductor["epilogue_fusion"] is False
    assert parsed.inductor["max_autotune"] is True


def test_unknown_options_reach_the_user_of_torch_compile() -> None:
    with pytest.raises(Exception, match="option 'frozen' is unknown"):
        torch.compile(_layer, backend="tilewright", options={"frozen": True})(*_ARGS)


def test_what_torch_does_faster_is_left() -> None:
    run = torch.compile(_layer, backend="tilewright", options={"rest": "eager"})
    torch.testing.assert_close(run(*_ARGS), _layer(*_ARGS))
    assert left() == ["mm: it is small: 0 thousand floating-point operations"]
    x, w = torch.randn(64, 512), torch.randn(512, 512)
    for backend, expected in (("aten", []), ("reference", [])):
        torch._dynamo.reset()
        with tilewright.options(backend=backend):
            run = torch.compile(_layer, backend="tilewright", options={"rest": "eager"})
            torch.testing.assert_close(run(x, w), _layer(x, w), rtol=1e-4, atol=1e-4)
        assert fused() == expected
    torch._dynamo.reset()
    if tilewright.explain(tilewright.linear, x, w).choice.backend == "cpu":
        run = torch.compile(_layer, backend="tilewright", options={"rest": "eager"})
        torch.testing.assert_close(run(x, w), _layer(x, w), rtol=1e-4, atol=1e-4)
        assert fused() == ["mm relu -> tilewright.matmul(relu)"]


# --- what it tells ---------------------------------------------------------------------------------------------


def test_the_report() -> None:
    run = compiled(lambda x, w, v: (F.relu(F.linear(x, w)), F.conv_transpose2d(v, v)))
    run(*_ARGS, torch.randn(2, 2, 3, 3))
    report = tilewright.compiler.report()
    (graph,) = report.graphs
    assert (graph.kind, graph.rest) == ("inference", "eager")
    assert [each.nodes for each in report.fused] == [("mm", "relu")]
    assert report.fused[0].shape == "(4, 5)"
    assert report.to_dict()["graphs"][0]["left"] == [
        {"node": "convolution", "reason": "it is a transposed convolution"}
    ]
    for line in (
        "(inference, rest: eager): 1 fused, 1 left",
        "+ mm + relu -> tilewright.matmul(relu) (4, 5)",
        "- convolution: it is a transposed convolution",
    ):
        assert line in str(report)
    console = Console(file=io.StringIO(), width=200)
    console.print(report)
    assert "tilewright.matmul(relu) (4, 5)" in console.file.getvalue()  # type: ignore[attr-defined]
    assert tilewright.compiler.report(clear=True).graphs == report.graphs
    assert str(tilewright.compiler.report()) == "tilewright.compiler: no graph was compiled"


def test_equal_lines_are_counted() -> None:
    run = compiled(lambda x, w: F.linear(F.linear(x, w), w))
    run(_ARGS[0], torch.randn(6, 6))
    assert "+ 2 × mm -> tilewright.matmul() (4, 6)" in str(tilewright.compiler.report())


def test_the_history_is_bounded() -> None:
    from tilewright.compiler import history

    for number in range(100):
        history.keep(history.GraphReport(f"graph {number}", "inference", "eager"))
    graphs = tilewright.compiler.report().graphs
    assert len(graphs) == 64
    assert graphs[-1].name == "graph 99"


def test_logging(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="tilewright.compiler"):
        compiled(lambda x, w: F.relu(F.linear(x, w)).double() @ w.double())(*_ARGS)
    messages = [record.getMessage() for record in caplog.records if record.name == "tilewright.compiler"]
    assert any("fused mm + relu -> tilewright.matmul(relu)" in message for message in messages)
    assert any("left mm: its dtype is float64" in message for message in messages)


# --- failures --------------------------------------------------------------------------------------------------


def test_a_failing_fusion_is_logged_and_left(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any) -> Any:
        raise RuntimeError("out of luck")

    monkeypatch.setattr(emission, "emit", fail)
    with tilewright.options(strict=False), caplog.at_level(logging.WARNING, logger="tilewright.compiler"):
        torch.testing.assert_close(compiled(_layer)(*_ARGS), _layer(*_ARGS))
    assert "out of luck" in caplog.text
    assert fused() == []


def test_the_failure_of_one_leaves_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    emit, seen = emission.emit, []

    def fail_once(chain: Any, build: Any) -> Any:
        seen.append(chain)
        if len(seen) == 1:
            build.call(torch.ops.aten.neg.default, chain.product.a)
            raise RuntimeError("out of luck")
        return emit(chain, build)

    monkeypatch.setattr(emission, "emit", fail_once)
    w = torch.randn(6, 6)

    def run(x: Tensor) -> Tensor:
        return F.gelu(F.linear(F.relu(F.linear(x, w)), w))

    with tilewright.options(strict=False):
        torch.testing.assert_close(compiled(run)(_ARGS[0]), run(_ARGS[0]))
    assert [each.reason for each in tilewright.compiler.report().left] == ["RuntimeError: out of luck"]
    assert fused() == ["mm relu -> tilewright.matmul(relu)"]


def test_what_cannot_be_laid_out_keeps_the_layout_that_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> Any:
        raise NotImplementedError("no such layout")

    conv = nn.Conv2d(2, 3, 3)
    monkeypatch.setattr(layout, "_lay_out", fail)
    x = torch.randn(1, 2, 6, 6)
    with tilewright.options(strict=False), torch.no_grad():
        torch.testing.assert_close(compiled(conv)(x), conv(x))
    assert fused() == ["convolution -> tilewright.conv2d(bias)"]


# --- Inductor --------------------------------------------------------------------------------------------------


class _Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.hidden, self.out = nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm(self.conv(x)))
        y = F.gelu(self.hidden(F.avg_pool2d(y, 2).flatten(2).transpose(1, 2).contiguous()))
        # Not fused: Inductor gets these decomposed.
        return F.gelu(self.out(y).softmax(-1)), F.silu(y * 2), y


def test_inductor_runs_the_rest_of_a_training_step() -> None:
    module, x = randomized(_Net()), torch.randn(2, 3, 8, 8)
    exact = wide(module)
    results = []
    for run, images in (
        (torch.compile(module, backend="tilewright", options={"fuse": "always"}), x),
        (module, x),
    ):
        module.zero_grad()
        outputs = run(images)
        sum(each.square().sum() for each in outputs).backward()
        results.append((*(each.detach() for each in outputs), *(p.grad.clone() for p in module.parameters())))
    outputs = exact(x.double())
    sum(each.square().sum() for each in outputs).backward()
    truth = (*(each.detach() for each in outputs), *(p.grad for p in exact.parameters()))
    assert_as_good(results[0], results[1], truth)
    kinds = [(graph.kind, graph.rest) for graph in tilewright.compiler.report().graphs]
    assert kinds == [("forward", "inductor"), ("backward", "inductor")]
    done = fused()
    assert "addmm view gelu -> tilewright.matmul_with_preact(bias, gelu)" in done
    assert "convolution_backward (weight) -> tilewright.conv2d_weight_gradient" in done


def test_inductor_runs_the_rest_of_a_frozen_model() -> None:
    module, x = randomized(_Net()).eval(), torch.randn(2, 3, 8, 8)
    run = torch.compile(module, backend="tilewright", options={**FUSE, "rest": "inductor", "freeze": True})
    with torch.no_grad():
        assert_as_good(run(x), module(x), wide(module)(x.double()))
        module.conv.weight.mul_(2)
        assert_as_good(run(x), module(x), wide(module)(x.double()))
    assert fused()[0] == (
        "convolution _native_batch_norm_legit_no_training relu -> tilewright.conv2d(bias, relu, frozen)"
    )
