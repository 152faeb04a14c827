"""A real network on real data, through tilewright: trained, proved equal, timed. ``tilewright demo`` shows it.

The data are scikit-learn's digits (1797 handwritten digits of 8×8 pixels, from the UCI repository); the network
is an MLP 64 → 512 → 128 → 10 with ReLU, trained with Adam on the cross-entropy.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import tilewright
from tilewright import settings, tuner
from tilewright.benchmark.contenders import cannot_compile
from tilewright.benchmark.timing import Contender, Timing, WallClock, first_line, race
from tilewright.errors import Error
from tilewright.explain import Explanation
from tilewright.tuner import device as devices
from tilewright.tuner.timing import make_anchor

WIDTHS = (64, 512, 128, 10)
BATCH = 64
LEAST_ACCURACY = 0.96

EAGER, COMPILED, OURS, OUR_KERNELS = "torch eager", "torch.compile", "tilewright", "tilewright cpu kernels"


class TorchNet(nn.Module):
    """The network as anyone would write it."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(WIDTHS[0], WIDTHS[1])
        self.second = nn.Linear(WIDTHS[1], WIDTHS[2])
        self.head = nn.Linear(WIDTHS[2], WIDTHS[3])

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        x = torch.relu(self.second(x))
        y: Tensor = self.head(x)
        return y


class TilewrightNet(TorchNet):
    """The same parameters; every layer is one tilewright call, the ReLU fused into it."""

    def forward(self, x: Tensor) -> Tensor:
        x = tilewright.linear(x, self.first.weight, self.first.bias, activation="relu")
        x = tilewright.linear(x, self.second.weight, self.second.bias, activation="relu")
        return tilewright.linear(x, self.head.weight, self.head.bias)


@dataclass(frozen=True, slots=True)
class Data:
    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor

    def batch(self, size: int) -> Tensor:
        """The first `size` test images, from the start again where there are fewer."""
        return self.test_x[torch.arange(size) % len(self.test_x)].clone()


@dataclass(slots=True)
class Training:
    """The loss after every step, the accuracy on the test images at the end, and the seconds it took."""

    losses: list[float]
    accuracy: float
    seconds: float


@dataclass(slots=True)
class Row:
    """One implementation at one batch size. Seconds per forward pass; error against float64."""

    batch: int
    name: str
    timing: Timing
    speedup: float
    error: float
    accuracy: float


@dataclass(slots=True)
class Demo:
    """All that the demo found. `problems` says what is not as it should be."""

    ours: Training
    theirs: Training
    rows: list[Row] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)
    layers: list[dict[str, str]] = field(default_factory=list)
    """Per batch size, the kernel that runs each layer."""

    explanation: Explanation | None = None
    problems: list[str] = field(default_factory=list)

    @property
    def largest_gap(self) -> float:
        """The largest difference between the two loss curves."""
        return max(abs(a - b) for a, b in zip(self.ours.losses, self.theirs.losses, strict=True))

    def to_dict(self) -> dict[str, Any]:
        return {
            "ours": asdict(self.ours),
            "theirs": asdict(self.theirs),
            "largest_gap": self.largest_gap,
            "rows": [asdict(row) for row in self.rows],
            "absent": self.absent,
            "layers": self.layers,
            "explanation": self.explanation.to_dict() if self.explanation is not None else None,
            "problems": self.problems,
        }


Advance = Callable[[], None]
Scope = Callable[[], AbstractContextManager[Any]]


def load_data(seed: int = 0) -> Data:
    """A fixed stratified split, a fifth for testing; pixels scaled to [0, 1].

    Raises:
        Error: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ImportError:
        raise Error(
            "demo: the digits come with scikit-learn, which is not installed; pip install 'tilewright[cli]'"
        ) from None
    digits = load_digits()
    parts = train_test_split(
        digits.data / 16.0, digits.target, test_size=0.2, stratify=digits.target, random_state=seed
    )
    train_x, test_x, train_y, test_y = (torch.as_tensor(part) for part in parts)
    return Data(train_x.float(), train_y.long(), test_x.float(), test_y.long())


def make_net(kind: type[TorchNet], seed: int = 0) -> TorchNet:
    """A net of this kind; the same seed gives the same parameters to both kinds."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return kind()


def steps_per_epoch(data: Data) -> int:
    return len(data.train_x) // BATCH


def train(net: TorchNet, data: Data, epochs: int, advance: Advance = lambda: None, seed: int = 0) -> Training:
    """Adam at a rate of 1e-3; the order of the images depends on the seed alone."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    losses = []
    began = time.perf_counter()
    for _ in range(epochs):
        order = torch.randperm(len(data.train_x), generator=generator)
        for step in range(steps_per_epoch(data)):
            chosen = order[step * BATCH : (step + 1) * BATCH]
            loss = nn.functional.cross_entropy(net(data.train_x[chosen]), data.train_y[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        advance()
    seconds = time.perf_counter() - began
    return Training(losses, accuracy(net, data, len(data.test_x)), seconds)


def accuracy(call: Callable[[Tensor], Tensor], data: Data, batch: int) -> float:
    """The share of test images that are recognised, run through in batches of this size."""
    count = len(data.test_x)
    right = 0
    with torch.inference_mode():
        for start in range(0, count, batch):
            # The last batch is filled up from the start, so that every call has the size that is claimed.
            index = torch.arange(start, start + batch) % count
            guesses = call(data.test_x[index]).argmax(1)
            fresh = min(batch, count - start)
            right += int((guesses == data.test_y[index])[:fresh].sum())
    return right / count


def tune_everything(
    net: TorchNet, data: Data, batches: Sequence[int], budget_s: float, progress: bool
) -> tuner.TuneReport:
    """Tunes what a training step and inference at these batch sizes meet. Returns the tuner's report."""
    with tilewright.tuning(budget_s=budget_s, progress=progress) as session:
        x, y = data.train_x[:BATCH], data.train_y[:BATCH]
        nn.functional.cross_entropy(net(x), y).backward()
        net.zero_grad()
        with torch.inference_mode():
            for batch in batches:
                net(data.batch(batch))
    return session.report


def compare(
    demo: Demo,
    net: TorchNet,
    data: Data,
    batches: Sequence[int],
    *,
    budget_s: float,
    compile_too: bool,
    advance: Advance = lambda: None,
) -> None:
    """Fills in the rows: every implementation at every batch size, with the parameters of `net`."""
    eager = TorchNet()
    eager.load_state_dict(net.state_dict())
    calls: dict[str, Callable[[Tensor], Tensor]] = {EAGER: eager, OURS: net, OUR_KERNELS: net}
    scopes: dict[str, Scope] = {OUR_KERNELS: partial(settings.options, backend="cpu", strict=True)}
    reason = "left out by --quick" if not compile_too else cannot_compile(torch.device("cpu"))
    if reason is None:
        calls[COMPILED] = torch.compile(eager)
    else:
        demo.absent[COMPILED] = reason
    exact = TorchNet().double()
    exact.load_state_dict(net.state_dict())
    probe = make_anchor(devices.current())
    with torch.inference_mode():
        for batch in batches:
            x = data.batch(batch)
            expected = exact(x.double())
            runners, errors = [], {}
            for name in (EAGER, COMPILED, OURS, OUR_KERNELS):
                if name not in calls:
                    continue
                contender = Contender(name, _forward(calls[name], x), scopes.get(name, nullcontext))
                try:
                    with contender.scope():
                        errors[name] = float((contender.run(0).double() - expected).abs().max())
                        score = accuracy(calls[name], data, batch)
                except Exception as error:
                    demo.absent[name] = f"{type(error).__name__}: {first_line(error)}"
                    del calls[name]
                    continue
                runners.append((contender, score))
            outcome = race(
                [contender for contender, _ in runners], clock=WallClock(), probe=probe, budget_s=budget_s
            )
            baseline = outcome.timings[EAGER].p50
            for contender, score in runners:
                timing = outcome.timings[contender.name]
                demo.rows.append(
                    Row(
                        batch,
                        contender.name,
                        timing,
                        baseline / timing.p50,
                        errors[contender.name],
                        score,
                    )
                )
            _check_errors(demo, batch, errors, float(expected.abs().max()))
            demo.layers.append(_layer_kernels(net, x))
            advance()
    demo.explanation = tilewright.explain(
        tilewright.linear,
        data.batch(128),
        net.first.weight.detach(),
        net.first.bias.detach(),
        activation="relu",
    )


def _forward(call: Callable[[Tensor], Tensor], x: Tensor) -> Callable[[int], Tensor]:
    return lambda index: call(x)


def _check_errors(demo: Demo, batch: int, errors: dict[str, float], largest: float) -> None:
    """Ours may err twice as much as eager torch, or by 16 roundings of the largest output."""
    bound = max(2 * errors[EAGER], 16 * 2.0**-24 * largest)
    for name in (OURS, OUR_KERNELS):
        error = errors.get(name)
        if error is not None and not error <= bound:
            demo.problems.append(f"{name} at batch {batch}: error {error:.2e} exceeds the bound {bound:.2e}")


def _layer_kernels(net: TorchNet, x: Tensor) -> dict[str, str]:
    """Which kernel each layer runs at this batch size."""
    named = {"batch": str(len(x))}
    for name, layer, activation in (
        ("first", net.first, "relu"),
        ("second", net.second, "relu"),
        ("head", net.head, "none"),
    ):
        weight, bias = layer.weight.detach(), layer.bias.detach()
        choice = tilewright.explain(tilewright.linear, x, weight, bias, activation=activation).choice
        named[name] = f"{choice.backend}: {choice.config} [{choice.source}]"
        x = tilewright.linear(x, weight, bias, activation=activation)
    return named


def judge(demo: Demo) -> None:
    """Adds what is wrong with the training to the problems."""
    for name, training in ((OURS, demo.ours), (EAGER, demo.theirs)):
        if training.accuracy < LEAST_ACCURACY:
            demo.problems.append(
                f"{name}: trained to {training.accuracy:.1%} test accuracy, expected {LEAST_ACCURACY:.0%} or more"
            )
    if not demo.largest_gap <= 0.05:
        demo.problems.append(f"the loss curves differ by {demo.largest_gap:.3g}, expected at most 0.05")
