"""Training: losses and gradients are eager's, and both graphs run tilewright operations."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tilewright
from tests.compiler.support import FUSE, assert_as_good, compiled, fused, left, wide

F = nn.functional


class _Net(nn.Module):
    def __init__(self, activation: str) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.hidden = nn.Linear(8, 6)
        self.out = nn.Linear(6, 4)
        self.act = {"relu": nn.ReLU(inplace=True), "gelu": nn.GELU(), "silu": nn.SiLU()}[activation]

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.conv(x))
        y = F.relu(self.norm(self.depthwise(y)) + y)
        y = F.max_pool2d(y, 2).flatten(2).transpose(1, 2)
        return self.out(self.act(self.hidden(y)).mean(1))


def _step(run: Any, module: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
    """The loss, and the gradients of everything."""
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    loss = run(x).square().sum()
    loss.backward()
    gradients = [x.grad, *(parameter.grad for parameter in module.parameters())]
    assert all(each is not None for each in gradients)
    return loss.detach(), *gradients  # type: ignore[return-value]


@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("activation", ["relu", "gelu", "silu"])
def test_gradients_are_those_of_eager(activation: str, last: bool) -> None:
    module, x = _Net(activation), torch.randn(2, 3, 8, 6)
    if last:
        module, x = module.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
    theirs, exact, ours = copy.deepcopy(module), wide(module), copy.deepcopy(module)
    run = compiled(ours)
    assert_as_good(_step(run, ours, x), _step(theirs, theirs, x), _step(exact, exact, x.double()))
    torch.testing.assert_close(ours.norm.running_mean, theirs.norm.running_mean)
    kinds = [graph.kind for graph in tilewright.compiler.report().graphs]
    assert kinds == ["forward", "backward"]
    done = fused()
    kept = "" if activation == "relu" else "_with_preact"
    assert f"convolution {activation} -> tilewright.conv2d{kept}(bias, {activation})" in done
    assert done.count("convolution_backward (input) -> tilewright.conv2d_input_gradient") == 2
    assert done.count("convolution_backward (weight) -> tilewright.conv2d_weight_gradient") == 2
    assert "mm -> tilewright.matmul()" in done


def test_several_steps_of_an_optimizer() -> None:
    first = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))
    second = copy.deepcopy(first)
    losses = []
    for module, run in ((first, first), (second, compiled(second))):
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
        generator, history = torch.Generator().manual_seed(1), []
        for _ in range(5):
            x = torch.randn(8, 6, generator=generator)
            optimizer.zero_grad()
            loss = F.cross_entropy(run(x), x[:, :3].argmax(1))
            loss.backward()
            optimizer.step()
            history.append(loss.item())
        losses.append(history)
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert losses[0][-1] < losses[0][0]


def test_gradients_of_the_weight_alone_or_of_the_input_alone() -> None:
    conv, x = nn.Conv2d(2, 3, 3, bias=False), torch.randn(1, 2, 6, 6)
    run = compiled(conv)
    run(x).sum().backward()
    assert fused()[1:] == ["convolution_backward (weight) -> tilewright.conv2d_weight_gradient"]
    torch._dynamo.reset()
    conv.requires_grad_(False)
    x.requires_grad_()
    run = compiled(conv)
    run(x).sum().backward()
    assert fused()[1:] == ["convolution_backward (input) -> tilewright.conv2d_input_gradient"]
    found, x.grad = x.grad, None
    conv(x).sum().backward()
    torch.testing.assert_close(found, x.grad)


def test_frozen_batch_norm_of_training_is_left_and_right() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval()
    theirs, x = copy.deepcopy(module), torch.randn(2, 3, 6, 6)
    for found, expected in zip(_step(compiled(module), module, x), _step(theirs, theirs, x), strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("training", [False, True])
def test_autocast(training: bool) -> None:
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 4), nn.GELU())
    x = torch.randn(2, 3, 6, 6)
    run = compiled(module)
    with torch.autocast("cpu", torch.bfloat16), torch.set_grad_enabled(training):
        y, expected = run(x), module(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), expected.float(), rtol=2e-2, atol=2e-2)
    operations = [each.split(" -> ")[1] for each in fused()]
    kept = "_with_preact" if training else ""
    assert operations[:2] == ["tilewright.conv2d(bias, relu)", f"tilewright.matmul{kept}(bias, gelu)"]
    if training:
        y.float().sum().backward()
        gradients = [
            parameter.grad.clone() for parameter in module.parameters() if parameter.grad is not None
        ]
        module.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            module(x).float().sum().backward()
        for found, parameter in zip(gradients, module.parameters(), strict=True):
            assert found.dtype == torch.float32
            assert parameter.grad is not None
            torch.testing.assert_close(found, parameter.grad, rtol=5e-2, atol=5e-2)


@pytest.mark.parametrize("dynamic", [None, True])
def test_dynamic_shapes_compile_once(dynamic: bool | None) -> None:
    module = nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(), nn.Conv2d(4, 5, 1), nn.Flatten(2), nn.Linear(9, 4), nn.GELU()
    )
    run = compiled(module, dynamic)
    for batch in (2, 3, 5):
        x = torch.randn(batch, 3, 7, 7, requires_grad=True)
        if dynamic is None:
            torch._dynamo.mark_dynamic(x, 0)
        y = run(x)
        torch.testing.assert_close(y, module(x))
        y.sum().backward()
        found, x.grad = x.grad, None
        module(x).sum().backward()
        torch.testing.assert_close(found, x.grad)
    kinds = [graph.kind for graph in tilewright.compiler.report().graphs]
    assert kinds == ["forward", "backward"]
    assert "addmm view gelu -> tilewright.matmul_with_preact(bias, gelu)" in fused()


def test_all_sizes_of_an_image_are_symbols() -> None:
    w, v = torch.randn(4, 3, 3, 3), torch.randn(4, 4, 1, 1)

    def plain(x: Tensor) -> Tensor:
        return F.relu(F.conv2d(F.silu(F.conv2d(x, w, padding=1)), v) + 1)

    run = compiled(plain, dynamic=True)
    for shape in ((2, 3, 8, 9), (3, 3, 11, 7), (5, 3, 20, 13)):
        x = torch.randn(shape)
        torch.testing.assert_close(run(x), plain(x))
    assert len(tilewright.compiler.report().graphs) == 1


def test_random_numbers_are_left_alone() -> None:
    module = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 4))
    run = compiled(module)
    x = torch.randn(5, 8)
    torch.manual_seed(3)
    found, after = run(x), torch.rand(1)
    torch.manual_seed(3)
    torch.testing.assert_close(found, module(x))
    assert torch.equal(after, torch.rand(1))


def test_inputs_that_are_written_are_written() -> None:
    def run(x: Tensor, w: Tensor, state: Tensor) -> Tensor:
        y = F.relu(F.linear(x, w) + state)
        state.copy_(y)
        x.mul_(2)
        return y + 1

    fast = compiled(run)
    w = torch.randn(4, 4)
    with torch.no_grad():
        for _ in range(2):
            x, state = torch.randn(3, 4), torch.randn(3, 4)
            x2, state2 = x.clone(), state.clone()
            torch.testing.assert_close(fast(x, w, state), run(x2, w, state2))
            torch.testing.assert_close((x, state), (x2, state2))
    assert fused() == ["mm add relu -> tilewright.matmul(residual, relu)"]


def test_graph_breaks_and_control_flow() -> None:
    first, second = nn.Linear(6, 6), nn.Linear(6, 6)

    def run(x: Tensor) -> Tensor:
        y = F.relu(first(x))
        if y.sum() > 0:
            y = F.gelu(second(y))
        return F.silu(second(y) + x)

    fast = torch.compile(run, backend="tilewright", options=FUSE)
    for x in (torch.randn(4, 6), torch.zeros(4, 6)):
        torch.testing.assert_close(fast(x), run(x))
    assert len({graph.name for graph in tilewright.compiler.report().graphs}) >= 2


def test_as_strided_sees_memory_as_torch_lays_it_out() -> None:
    def run(x: Tensor, w: Tensor) -> Tensor:
        return F.conv2d(x, w).as_strided((2, 3), (3, 1), 1) + 1

    fast = compiled(run)
    x, w = torch.randn(1, 2, 6, 6), torch.randn(3, 2, 3, 3)
    torch.testing.assert_close(fast(x, w), run(x, w))
    report = tilewright.compiler.report()
    assert len(report.fused) == 1
    assert left() == []
