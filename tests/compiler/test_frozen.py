"""options={"freeze": True}: packed weights, and that counted writes to parameters are noticed."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import tilewright
from tests.compiler.support import check, compiled, fused, randomized
from tilewright.compiler import frozen_ops

F = nn.functional


def _net() -> nn.Sequential:
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
        nn.Conv2d(8, 6, 1),
        nn.SiLU(),
        nn.Flatten(2),
        nn.Linear(20, 5),
        nn.GELU(),
    )
    randomized(net)
    return net.eval()


_X = torch.randn(2, 3, 4, 5)


def test_everything_is_folded_and_packed() -> None:
    check(_net(), _X, freeze=True)
    norm = "_native_batch_norm_legit_no_training"
    report = tilewright.compiler.report()
    assert "3 of them weights that are packed" in report.graphs[0].notes[0]
    assert fused() == [
        f"convolution {norm} relu -> tilewright.conv2d(bias, relu, frozen)",
        "convolution silu -> tilewright.conv2d(bias, silu, frozen)",
        "addmm view gelu -> tilewright.matmul(bias, gelu, frozen)",
    ]


def test_small_layers_stay_with_torch_unless_all_are_asked_for() -> None:
    net = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 512), nn.ReLU(), nn.Linear(512, 512)).eval()
    run = compiled(net, freeze=True, fuse="faster")
    with torch.no_grad():
        torch.testing.assert_close(run(torch.ones(2, 16)), net(torch.ones(2, 16)))
    assert fused() == ["addmm -> tilewright.matmul(bias, frozen)"]


def _in_place(net: nn.Sequential) -> None:
    with torch.no_grad():
        net[0].weight.mul_(2)


def _statistics(net: nn.Sequential) -> None:
    net[1].running_var.add_(1)


def _state_dict(net: nn.Sequential) -> None:
    net.load_state_dict(_net().state_dict())


def _optimizer(net: nn.Sequential) -> None:
    for parameter in net.parameters():
        parameter.grad = torch.randn_like(parameter)
    torch.optim.SGD(net.parameters(), lr=0.1).step()


def _replaced(net: nn.Sequential) -> None:
    net[6].weight = nn.Parameter(torch.randn(5, 20))


def _moved(net: nn.Sequential) -> None:
    net[6].weight.data = torch.randn(5, 20)


def _bias(net: nn.Sequential) -> None:
    with torch.no_grad():
        net[6].bias.add_(1)


@pytest.mark.parametrize("write", [_in_place, _statistics, _state_dict, _optimizer, _replaced, _moved, _bias])
def test_counted_writes_are_noticed(write: Callable[[nn.Sequential], None]) -> None:
    net = _net()
    run = check(net, _X, freeze=True)
    with torch.no_grad():
        before = run(_X)
        write(net)
        for _ in range(2):
            torch.testing.assert_close(run(_X), net(_X))
        assert not torch.allclose(run(_X), before)


def test_nothing_is_made_anew_while_nothing_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    net = _net()
    run = compiled(net, freeze=True)
    made: list[Tensor] = []
    original = frozen_ops.freeze

    def counted(weight: Tensor) -> Tensor:
        made.append(weight)
        return original(weight)

    monkeypatch.setattr(frozen_ops, "freeze", counted)
    with torch.no_grad():
        for _ in range(4):
            run(_X)
        assert len(made) == 3
        _in_place(net)
        run(_X)
    assert len(made) == 6


def test_other_dtypes_and_inference_mode() -> None:
    net = _net()
    run = compiled(net, freeze=True)
    with torch.inference_mode():
        torch.testing.assert_close(run(_X), net(_X))
    net.bfloat16()
    with torch.no_grad():
        x = _X.bfloat16()
        torch.testing.assert_close(run(x), net(x), rtol=5e-2, atol=5e-2)


def test_a_weight_used_twice_and_what_the_caller_gets_of_it() -> None:
    weight = nn.Parameter(torch.randn(6, 6))

    def run(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return F.linear(F.relu(F.linear(x, weight)), weight), weight.t(), weight * 2

    fast = compiled(run, freeze=True)
    x = torch.randn(3, 6)
    with torch.no_grad():
        for _ in range(3):
            found = fast(x)
            torch.testing.assert_close(found, run(x))
            found[2].zero_()  # the caller's own: no constant of the graph's
            found[1].mul_(0.5)  # the weight itself: a write that counts


def test_without_packing() -> None:
    net = _net()
    run = compiled(net, freeze=True)
    with torch.no_grad(), tilewright.options(pack=False):
        torch.testing.assert_close(run(_X), net(_X))


def test_dynamic_batch() -> None:
    net = _net()
    run = compiled(net, freeze=True, dynamic=True)
    with torch.no_grad():
        for batch in (2, 3, 7):
            x = torch.randn(batch, 3, 4, 5)
            torch.testing.assert_close(run(x), net(x))
    assert len(tilewright.compiler.report().graphs) == 1


def test_gradients_make_it_warn_and_compile_as_without() -> None:
    net = _net()
    theirs, run = copy.deepcopy(net), compiled(net, freeze=True)
    with pytest.warns(UserWarning, match=r"freeze is True, and graph \d+ computes gradients"):
        loss = run(_X).sum()
    loss.backward()
    theirs(_X).sum().backward()
    for found, expected in zip(net.parameters(), theirs.parameters(), strict=True):
        assert found.grad is not None
        assert expected.grad is not None
        torch.testing.assert_close(found.grad, expected.grad)
    assert not any("frozen" in each for each in fused())


class _Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.layer(x) * (self.calls * 2)


def test_buffers_that_the_graph_writes_are_no_constants() -> None:
    module = _Counting().eval()
    theirs, run = copy.deepcopy(module), compiled(module, freeze=True)
    x = torch.randn(2, 4)
    with torch.no_grad():
        for _ in range(3):
            torch.testing.assert_close(run(x), theirs(x))


def test_threads_that_call_after_a_write() -> None:
    net = _net()
    run = compiled(net, freeze=True)
    failures: list[BaseException] = []
    with torch.no_grad():
        run(_X)
        _in_place(net)
        expected = net(_X)

    def call() -> None:
        try:
            with torch.no_grad():
                for _ in range(10):
                    torch.testing.assert_close(run(_X), expected)
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_operations_on_a_weight_that_is_not_packed() -> None:
    x, w, b = torch.randn(3, 4), torch.randn(5, 4), torch.randn(5)
    y = torch.ops.tilewright.frozen_linear(x, w, b, None, "relu")
    torch.testing.assert_close(y, F.relu(F.linear(x, w, b)))
    images, filters = torch.randn(1, 2, 5, 5), frozen_ops.freeze(torch.randn(3, 2, 3, 3))
    # Packed, but padded on one side only, which the packed path does not take.
    y = torch.ops.tilewright.frozen_conv2d(images, filters, None, None, "none", [1, 1], [1, 0, 0, 0])
    torch.testing.assert_close(y, F.conv2d(F.pad(images, (0, 0, 1, 0)), filters))
