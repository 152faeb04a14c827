"""The training examples: the same network twice, the same losses, and it learns."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("sklearn")

from tilewright.examples import train_cnn, train_mlp
from tilewright.examples.training import (
    DTYPES,
    LARGEST_GAP,
    LEAST_ACCURACY,
    Example,
    Training,
    accuracy,
    batches,
    compare,
    main,
    seeded,
    train,
)

_EXAMPLES = [train_cnn.EXAMPLE, train_mlp.EXAMPLE]


@pytest.fixture(params=_EXAMPLES, ids=lambda example: example.name)
def example(request: pytest.FixtureRequest) -> Example:
    found: Example = request.param
    return found


def test_both_networks_begin_alike(example: Example) -> None:
    ours, theirs = seeded(example.ours), seeded(example.theirs)
    for (name, mine), (other, its) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        assert name == other
        assert torch.equal(mine, its)
    assert not torch.equal(next(ours.parameters()), next(seeded(example.ours, seed=1).parameters()))
    x = example.data().test_x[:16]
    torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize("dtype", DTYPES)
def test_losses_are_those_of_eager_torch(example: Example, dtype: str) -> None:
    ours, theirs = compare(example, example.data(), 1, DTYPES[dtype])
    assert len(ours.losses) == len(theirs.losses) == 1437 // 64
    assert ours.losses[-1] < 0.9 * ours.losses[0]
    assert ours.gap(theirs) <= LARGEST_GAP[dtype] / 10


def test_autocast_is_in_force(example: Example) -> None:
    (exact, _), (rounded, _) = (compare(example, example.data(), 1, dtype) for dtype in DTYPES.values())
    assert exact.gap(rounded) > 1e-5


def test_it_learns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "drawn" / "losses.png"
    pytest.importorskip("matplotlib")
    assert main(train_mlp.EXAMPLE, ["--out", str(path)]) == 0
    told = capsys.readouterr().out
    assert "the two loss curves differ by at most" in told
    assert path.read_bytes().startswith(b"\x89PNG")


def test_what_did_not_learn_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(train_mlp.EXAMPLE, ["--epochs", "1", "--dtype", "bf16"]) == 1
    assert f"expected {LEAST_ACCURACY:.0%} or more" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["--epochs", "0"], ["--dtype", "f16"]])
def test_wrong_arguments_are_refused(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        main(train_mlp.EXAMPLE, arguments)
    assert refused.value.code == 2


def test_the_file_is_a_script(repository: Path) -> None:
    command = [sys.executable, str(repository / "examples" / "train_cnn.py"), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "--dtype" in done.stdout


def test_train_leaves_the_model_in_inference_mode_and_says_when_an_epoch_is_over() -> None:
    data, advanced = train_mlp.EXAMPLE.data(), []
    model = seeded(train_mlp.Mlp)
    training = train(model, data, train_mlp.optimize, 3, advance=lambda: advanced.append(True))
    assert len(advanced) == 3
    assert not model.training
    assert training.accuracy == accuracy(model, data) == accuracy(model, data, batch=50)
    assert training.seconds > 0


def test_batches_are_permutations() -> None:
    steps = list(batches(10, epochs=2, batch=3))
    assert [len(step) for step in steps] == [3] * 6
    for epoch in (steps[:3], steps[3:]):
        assert len(set(torch.cat(epoch).tolist())) == 9
    assert not torch.equal(torch.cat(steps[:3]), torch.cat(steps[3:]))


def test_gap_is_the_largest_difference() -> None:
    assert Training([1.0, 2.0, 3.0], 0, 0).gap(Training([1.0, 2.5, 2.75], 0, 0)) == 0.5
