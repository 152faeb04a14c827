"""Training with masks: zeros stay, schedules end exactly, SR-STE, distillation."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import prune as torch_prune

import tilewright
from tilewright.errors import ArgumentError, DtypeError, FormatError, ShapeError
from tilewright.sparse import Cubic, Pruning, distill_loss, finish_sr_ste, prune, sr_ste

Optimize = Callable[[Any], torch.optim.Optimizer]

_OPTIMIZERS: dict[str, Optimize] = {
    "sgd, momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=0.01),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "adam, foreach": lambda p: torch.optim.Adam(p, lr=0.01, foreach=True),
    "adamw, amsgrad": lambda p: torch.optim.AdamW(p, lr=0.01, amsgrad=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.5),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.05),
    "rprop": lambda p: torch.optim.Rprop(p, lr=0.01),
    "lbfgs": lambda p: torch.optim.LBFGS(p, lr=0.5, max_iter=3),
}


def _model() -> nn.Sequential:
    return nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 4))


def _data() -> tuple[Tensor, Tensor]:
    x = torch.randn(64, 16)
    return x, x[:, :4].argmax(1)


def _train(
    model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, data: tuple[Tensor, Tensor]
) -> float:
    x, y = data

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = functional.cross_entropy(model(x), y)
        loss.backward()
        return loss

    loss = torch.inf
    for _ in range(steps):
        loss = optimizer.step(closure).item()  # type: ignore[arg-type, union-attr]
    return loss


def _zeros(model: nn.Module) -> int:
    return sum(int((p == 0).sum()) for name, p in model.named_parameters() if name.endswith("weight"))


def _check(pruning: Pruning, model: nn.Module) -> None:
    parameters = dict(model.named_parameters())
    for name, mask in pruning.masks.items():
        assert not bool(parameters[name][~mask].any())


# --- zeros stay zero ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", _OPTIMIZERS)
def test_zeros_stay_zero(name: str) -> None:
    model, data = _model(), _data()
    optimizer = _OPTIMIZERS[name](model.parameters())
    _train(model, optimizer, 2, data)  # momentum is there, of weights that will go
    pruning = prune(model, "unstructured", 0.5)
    kept = [p.detach().clone() for p in model.parameters()]
    with pruning.attach(optimizer):
        before = _train(model, optimizer, 1, data)
        after = _train(model, optimizer, 10, data)
        _check(pruning, model)
        assert not bool(model[0].weight.grad[~pruning.masks["0.weight"]].any())
    assert after < before
    assert not all(torch.equal(p, old) for p, old in zip(model.parameters(), kept, strict=True))
    assert _zeros(model) == (16 * 24 + 24 * 4) // 2


def test_after_the_block_weights_are_free_again() -> None:
    model, data = _model(), _data()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    pruning = prune(model, "unstructured", 0.5)
    with pruning.attach(optimizer):
        pass
    _train(model, optimizer, 1, data)
    assert _zeros(model) < (16 * 24 + 24 * 4) // 4


def test_masked_training_is_that_of_torchs_pruning() -> None:
    ours, data = _model(), _data()
    theirs = copy.deepcopy(ours)
    pruning = prune(ours, "unstructured", 0.7)
    for index in (0, 2):
        torch_prune.l1_unstructured(theirs[index], "weight", 0.7)
    mine, its = (torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9) for model in (ours, theirs))
    with pruning.attach(mine):
        for _ in range(5):
            assert _train(ours, mine, 1, data) == pytest.approx(_train(theirs, its, 1, data), rel=1e-5)
    torch.testing.assert_close(ours[0].weight, theirs[0].weight_orig * theirs[0].weight_mask)


def test_step_by_hand_and_several_optimizers() -> None:
    model, data = _model(), _data()
    first, second = (torch.optim.Adam(model[index].parameters()) for index in (0, 2))
    pruning = prune(model, "unstructured", 0.5, schedule=Cubic(0, 4))
    with pruning.attach(first, second):
        for _ in range(4):
            _train(model, first, 1, data)
            _train(model, second, 1, data)
    assert pruning.share == 1.0
    by_hand = prune(_model(), "unstructured", 0.5, schedule=Cubic(0, 4))
    for _ in range(3):
        by_hand.step()
    assert by_hand.share < 1.0
    by_hand.step()
    assert by_hand.share == 1.0


def test_what_cannot_be_attached() -> None:
    pruning = prune(_model(), "unstructured", 0.5)
    with pytest.raises(ArgumentError, match="hold none of the pruned weights"):
        pruning.attach(torch.optim.Adam(_model().parameters()))
    with pytest.raises(ArgumentError, match=r"got a list.*pruning\.step\(\)"):
        pruning.attach([])  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="no optimizer"):
        pruning.attach()


def test_the_model_may_be_cast_meanwhile() -> None:
    model = _model()
    pruning = prune(model, "unstructured", 0.5)
    model.double()
    with torch.no_grad():
        model[0].weight.fill_(1.0)
    pruning.apply()
    assert torch.equal(model[0].weight, pruning.masks["0.weight"].double())
    model[0].weight = nn.Parameter(torch.ones(24, 16))
    pruning.apply()
    assert torch.equal(model[0].weight, pruning.masks["0.weight"].float())


# --- gradually ----------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 50), st.integers(1, 300), st.integers(1, 40), st.floats(0.0, 1.0))
def test_cubic_grows_and_ends_exactly(begin: int, length: int, every: int, initial: float) -> None:
    schedule = Cubic(begin, begin + length, every, initial)
    shares = [schedule(step) for step in range(begin + length + 3)]
    assert shares == sorted(shares)
    assert shares[begin + length] == shares[-1] == 1.0
    assert all(share == 0.0 for share in shares[:begin])
    assert shares[begin] == pytest.approx(initial)
    assert all(0.0 <= share <= 1.0 for share in shares)


def test_cubic_is_the_papers_polynomial() -> None:
    schedule = Cubic(10, 110, every=10, initial=0.25)
    final = 0.8
    for step in range(10, 110, 10):
        paper = final + (0.25 * final - final) * (1 - (step - 10) / 100) ** 3
        assert final * schedule(step) == pytest.approx(paper)
        assert schedule(step + 9) == schedule(step)


@pytest.mark.parametrize("arguments", [(5, 5), (-1, 5), (0, 5, 0), (0, 5, 1, 1.5)])
def test_schedules_that_are_none(arguments: tuple[Any, ...]) -> None:
    with pytest.raises(ArgumentError, match="Cubic: "):
        Cubic(*arguments)
    with pytest.raises(ArgumentError, match="schedule says"):
        prune(_model(), "unstructured", 0.5, schedule=lambda step: 1.5)


@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize(
    ("pattern", "amount"),
    [("unstructured", 0.9), ("unstructured", 50), ("2:4", None), ("block(4, 4)", 0.5), ("channel", 2)],
)
def test_gradual_pruning_is_nested_and_ends_exactly(pattern: str, amount: Any, scope: Any) -> None:
    model, data = _model(), _data()
    at_once = prune(_model(), pattern, amount, scope=scope)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    pruning = prune(model, pattern, amount, scope=scope, schedule=Cubic(2, 12, every=3))
    assert pruning.share == 0.0
    assert _zeros(model) == 0
    last = pruning.masks
    with pruning.attach(optimizer):
        for _ in range(12):
            _train(model, optimizer, 1, data)
            masks = pruning.masks
            assert all(not bool((masks[name] & ~last[name]).any()) for name in masks)
            _check(pruning, model)
            last = masks
    assert pruning.share == 1.0
    if not (scope == "global" and pattern in ("block(4, 4)", "channel")):  # units differ in size
        zeros = sum(int((~mask).sum()) for mask in at_once.masks.values())
        assert sum(int((~mask).sum()) for mask in last.values()) == zeros
    if pattern == "2:4":
        assert all(int(mask.unflatten(1, (-1, 4)).sum(2).max()) == 2 for mask in last.values())
    kept = [layer.kept_magnitude for layer in pruning.report.layers]
    assert all(share is not None and 0.0 < share <= 1.0 for share in kept)


def test_finish_ends_a_schedule_early() -> None:
    pruning = prune(_model(), "2:4", schedule=Cubic(0, 1000, initial=0.3))
    assert 0.0 < pruning.share < 1.0
    pruning.finish()
    assert pruning.report.sparsity == 0.5


def test_a_training_is_resumed() -> None:
    data = _data()
    whole = _model()
    halves = copy.deepcopy(whole)

    def start(model: nn.Module) -> tuple[Pruning, torch.optim.Optimizer]:
        pruning = prune(model, "unstructured", 0.8, schedule=Cubic(0, 10))
        return pruning, torch.optim.SGD(model.parameters(), lr=0.1)

    pruning, optimizer = start(whole)
    with pruning.attach(optimizer):
        _train(whole, optimizer, 12, data)
    first, optimizer = start(halves)
    with first.attach(optimizer):
        _train(halves, optimizer, 6, data)
    file = io.BytesIO()
    torch.save({"model": halves.state_dict(), "pruning": first.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    second, optimizer = start(fresh := _model())
    fresh.load_state_dict(saved["model"])
    second.load_state_dict(saved["pruning"])
    with second.attach(optimizer):
        _train(fresh, optimizer, 6, data)
    assert torch.equal(fresh[0].weight, whole[0].weight)
    assert second.report.to_dict() == pruning.report.to_dict()


def test_a_state_that_does_not_fit() -> None:
    pruning = prune(_model(), "unstructured", 0.5)
    state = pruning.state_dict()
    other = prune(nn.Linear(3, 3), "unstructured", 0.5).state_dict()
    for broken in (
        {},
        other,
        {**state, "masks": {name: mask[1:] for name, mask in state["masks"].items()}},
        {**state, "masks": {name: mask.float() for name, mask in state["masks"].items()}},
        {**state, "share": 2.0},
        {**state, "steps": "7"},
    ):
        with pytest.raises(FormatError, match=r"Pruning\.load_state_dict"):
            pruning.load_state_dict(broken)
    assert pruning.report.sparsity == 0.5


# --- SR-STE -------------------------------------------------------------------------------------------------------


def _group_counts(weight: Tensor) -> Tensor:
    return (weight != 0).movedim(1, -1).unflatten(-1, (-1, 4)).sum(-1)


@pytest.mark.parametrize("kind", ["torch", "tilewright"])
def test_sr_ste_trains_and_ends_2_to_4(kind: str) -> None:
    linear = nn.Linear if kind == "torch" else tilewright.nn.Linear
    model, data = nn.Sequential(linear(16, 24), nn.ReLU(), linear(24, 4)), _data()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    parameter = model[0].weight
    assert sr_ste(model, "2:4", skip=["2.weight"]) == ["0.weight"]
    before = _train(model, optimizer, 1, data)
    assert int(_group_counts(model[0].weight).max()) <= 2
    first = model[0].weight != 0
    after = _train(model, optimizer, 60, data)
    assert after < 0.3 * before
    assert not torch.equal(first, model[0].weight != 0)  # masks move
    used = model(data[0]).detach()
    pruning = finish_sr_ste(model)
    assert model[0].weight is parameter
    assert type(model[0]) is linear
    assert int(_group_counts(parameter).max()) <= 2
    torch.testing.assert_close(model(data[0]), used)
    with pruning.attach(optimizer):
        _train(model, optimizer, 3, data)
        _check(pruning, model)
    kept = pruning.report.layers[0].kept_magnitude
    assert kept is not None
    assert 0.5 < kept <= 1.0


def test_sr_ste_gradient_is_the_papers() -> None:
    layer, x = nn.Linear(8, 4).double(), torch.randn(3, 8).double()
    original = layer.weight
    sr_ste(layer, "1:4", decay=0.1)
    mask = layer.weight != 0
    (layer(x) ** 2).sum().backward()
    sparse = (original * mask).detach().requires_grad_()
    (functional.linear(x, sparse, layer.bias) ** 2).sum().backward()
    assert sparse.grad is not None
    torch.testing.assert_close(original.grad, sparse.grad + 0.1 * (original * ~mask).detach())


def test_sr_ste_of_a_convolution_lies_across_channels() -> None:
    layer = nn.Conv2d(8, 4, 3)
    sr_ste(layer)
    assert torch.equal(_group_counts(layer.weight), torch.full((4, 3, 3, 2), 2))
    layer(torch.randn(1, 8, 5, 5)).sum().backward()
    assert bool((layer.parametrizations.weight.original.grad != 0).all())
    finish_sr_ste(layer)
    assert torch.equal(_group_counts(layer.weight), torch.full((4, 3, 3, 2), 2))


def test_what_is_no_sr_ste() -> None:
    with pytest.raises(ArgumentError, match="expected an N:M"):
        sr_ste(_model(), "unstructured")
    with pytest.raises(ArgumentError, match="decay is -1"):
        sr_ste(_model(), decay=-1.0)
    with pytest.raises(ArgumentError, match="call that first"):
        finish_sr_ste(_model())
    layer = nn.Linear(8, 8)
    sr_ste(layer)
    with pytest.raises(ArgumentError, match="no plain parameter"):
        sr_ste(layer)
    nn.utils.parametrize.register_parametrization(layer, "weight", nn.Identity())
    with pytest.raises(ArgumentError, match="other parametrizations too"):
        finish_sr_ste(layer)


# --- distillation -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(6, 5), (2, 3, 5), (5,)])
def test_distill_loss_is_its_equation(shape: tuple[int, ...]) -> None:
    student = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    target = torch.randint(5, shape[:-1])
    p, q = (torch.softmax(scores.detach().reshape(-1, 5) / 3.0, -1) for scores in (teacher, student))
    divergence = (p * (p.log() - q.log())).sum(-1).mean() * 9.0
    task = functional.cross_entropy(student.reshape(-1, 5), target.reshape(-1))
    loss = distill_loss(student, teacher, target, temperature=3.0, alpha=0.3)
    torch.testing.assert_close(loss, 0.3 * divergence + 0.7 * task)
    torch.testing.assert_close(distill_loss(student, teacher, temperature=3.0), divergence)
    loss.backward()
    assert teacher.grad is None
    assert torch.autograd.gradcheck(lambda s: distill_loss(s, teacher, target, alpha=0.3), student)


def test_distill_loss_with_other_tasks() -> None:
    student, teacher = torch.randn(4, 3), torch.randn(4, 3)
    probabilities = torch.softmax(torch.randn(4, 3), -1)
    found = distill_loss(student, teacher, probabilities, alpha=0.0)
    torch.testing.assert_close(found, functional.cross_entropy(student, probabilities))
    found = distill_loss(student, teacher, probabilities, alpha=0.0, task_loss=functional.mse_loss)
    torch.testing.assert_close(found, functional.mse_loss(student, probabilities))


def test_distill_loss_of_classes_that_are_ruled_out() -> None:
    student, teacher = torch.randn(4, 3), torch.randn(4, 3)
    student[:, 1] = teacher[:, 1] = -torch.inf
    student.requires_grad_()
    loss = distill_loss(student, teacher)
    rest = [0, 2]
    torch.testing.assert_close(loss, distill_loss(student[:, rest], teacher[:, rest]))
    loss.backward()
    assert student.grad is not None
    assert bool(student.grad.isfinite().all())


def test_distill_loss_in_half_precision_is_computed_in_fp32() -> None:
    student, teacher = (100 * torch.randn(4, 9)).bfloat16(), (100 * torch.randn(4, 9)).bfloat16()
    loss = distill_loss(student, teacher)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, distill_loss(student.float(), teacher.float()))


def test_what_cannot_be_distilled() -> None:
    with pytest.raises(ShapeError, match=r"student has shape \(4, 3\) and teacher \(4, 2\)"):
        distill_loss(torch.randn(4, 3), torch.randn(4, 2))
    with pytest.raises(DtypeError, match=r"teacher has dtype torch\.int64"):
        distill_loss(torch.randn(4, 3), torch.ones(4, 3, dtype=torch.long))
    with pytest.raises(ArgumentError, match="temperature is 0"):
        distill_loss(torch.randn(4, 3), torch.randn(4, 3), temperature=0.0)
    with pytest.raises(ArgumentError, match="alpha is 2"):
        distill_loss(torch.randn(4, 3), torch.randn(4, 3), alpha=2.0)
