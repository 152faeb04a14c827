"""The pruning example at reduced size: the patterns hold, and it learns."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("sklearn")

from tilewright.examples import prune_digits
from tilewright.examples.digits import Data, load_data
from tilewright.examples.prune_digits import CASES, Case, prune_and_recover
from tilewright.examples.train_cnn import Cnn, optimize
from tilewright.examples.training import accuracy, seeded, train
from tilewright.sparse import mask_for


@pytest.fixture(scope="module")
def data() -> Data:
    return load_data().images()


@pytest.fixture(scope="module")
def dense(data: Data) -> Cnn:
    model = seeded(Cnn)
    assert train(model, data, optimize, 2).accuracy > 0.8
    return model


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.pattern)
def test_a_pruned_network_recovers(dense: Cnn, data: Data, case: Case) -> None:
    model, pruning = prune_and_recover(dense, data, case, 2)
    assert accuracy(model, data) >= accuracy(dense, data) - 0.01
    assert pruning.share == 1.0
    for name in ("conv2", "hidden"):
        weight = getattr(model, name).weight.detach()
        mask = pruning.masks[f"{name}.weight"]
        assert not bool(weight[~mask].any())
        count = int((~mask).sum()) // (16 if case.pattern.startswith("block") else 1)
        assert torch.equal(mask, mask_for(mask.float(), case.pattern, count))
    if case.amount is not None:
        assert pruning.report.sparsity == pytest.approx(case.amount, abs=1e-4)
    assert bool(model.head.weight.all())


def test_the_command_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(prune_digits, "CASES", CASES[1:2])
    # One epoch each: the pruned network has seen twice as much as the dense one.
    assert prune_digits.main(["--epochs", "1"]) == 0
    printed = capsys.readouterr().out
    assert "2:4" in printed
    assert "points" in printed
    monkeypatch.setattr(prune_digits, "LARGEST_LOSS", -1.0)
    assert prune_digits.main(["--epochs", "1"]) == 1
    with pytest.raises(SystemExit):
        prune_digits.main(["--epochs", "0"])
