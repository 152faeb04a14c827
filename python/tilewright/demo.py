"""Models through tilewright: one trained on real data, two made faster. ``tilewright demo`` shows it.

A convolutional network (`tilewright.examples.train_cnn`) learns scikit-learn's digits through tilewright's layers and
through torch's. What it has learned, and a ResNet-18 with random weights on images of 224×224, then run in every
way: eager torch in both memory formats, compiled, accelerated, and compiled with tilewright's backend.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

import tilewright
from tilewright.benchmark.contenders import COMPILED, CompileBudget, Doing, silently
from tilewright.benchmark.models.contenders import (
    ACCELERATED,
    BACKEND,
    EAGER,
    EAGER_LAST,
    lineup,
)
from tilewright.benchmark.models.shapes import ModelShape
from tilewright.benchmark.models.subject import ModelSubject
from tilewright.benchmark.models.suite import SUITE
from tilewright.benchmark.operands import Lineup
from tilewright.benchmark.results import Entry, Report, ShapeResult
from tilewright.benchmark.run import Progress, run
from tilewright.benchmark.settings import Settings
from tilewright.benchmark.suite import Suite
from tilewright.examples import train_cnn, training
from tilewright.examples.digits import Data
from tilewright.examples.train_cnn import Cnn, TorchCnn
from tilewright.examples.training import (
    BATCH,
    LEAST_ACCURACY,
    OURS,
    THEIRS,
    Advance,
    Training,
    seeded,
    train,
    training_step,
)
from tilewright.explain import Explanation

CNN = "cnn"
CONTENDERS = (EAGER, EAGER_LAST, COMPILED, ACCELERATED, BACKEND)
COMPILING = (COMPILED, BACKEND)
BATCHES = (1, 8)
"""Of the digits; both divide the number of test images."""

LARGEST_GAP = training.LARGEST_GAP["f32"]


@dataclass(slots=True)
class Demo:
    """All that the demo found. `problems` says what is not as it should be."""

    ours: Training
    theirs: Training
    report: Report | None = None
    """The latencies."""

    accuracies: dict[str, dict[str, float]] = field(default_factory=dict)
    """Of each shape of the CNN, by contender."""

    accelerated: Any = None
    """What `tilewright.accelerate` reports of the CNN."""

    explanation: Explanation | None = None
    """Of the CNN's second convolution."""

    problems: list[str] = field(default_factory=list)

    @property
    def largest_gap(self) -> float:
        """The largest difference between the two loss curves."""
        return self.ours.gap(self.theirs)

    def accuracy(self, result: ShapeResult, entry: Entry) -> float | None:
        """The share of the test images that a contender recognises; None of a model that was not trained."""
        return self.accuracies.get(str(result.shape), {}).get(entry.contender)

    def to_dict(self) -> dict[str, Any]:
        return {
            "ours": asdict(self.ours),
            "theirs": asdict(self.theirs),
            "largest_gap": self.largest_gap,
            "latency": self.report.to_dict() if self.report is not None else None,
            "accuracies": self.accuracies,
            "accelerated": self.accelerated.to_dict() if self.accelerated is not None else None,
            "explanation": self.explanation.to_dict() if self.explanation is not None else None,
            "problems": self.problems,
        }


def tune_training(data: Data, budget_s: float, progress: bool) -> int:
    """Tunes what a step of training meets. Returns the number of problems."""
    model = seeded(Cnn)
    optimizer = train_cnn.optimize(model.parameters())
    with tilewright.tuning(budget_s=budget_s, progress=progress) as session:
        training_step(model, optimizer, data.train_x[:BATCH], data.train_y[:BATCH])
    return len(session.report.results)


def trained(
    make: Callable[[], nn.Module], data: Data, epochs: int, advance: Advance = lambda: None, seed: int = 0
) -> tuple[nn.Module, Training]:
    """A network of this kind, trained; the same seed gives both kinds the same parameters and images."""
    model = seeded(make, seed)
    found = train(model, data, train_cnn.optimize, epochs, advance=advance, seed=seed)
    return model.requires_grad_(False), found


def compare(
    demo: Demo,
    net: nn.Module,
    data: Data,
    *,
    quick: bool = False,
    before: Progress | None = None,
    doing: Doing = silently,
) -> None:
    """Fills in latencies and accuracies: the network, in torch's layers with these parameters, and ResNet-18."""
    plain = TorchCnn().eval().requires_grad_(False)
    plain.load_state_dict(net.state_dict())

    def subject(shape: ModelShape, *given: Any) -> ModelSubject:
        if shape.name != CNN:
            return ModelSubject(shape, *given)
        images = [(x.clone(),) for x in data.test_x.split(shape.batch)]
        return ModelSubject(shape, *given, model=plain, inputs=images)

    def scored(
        of: ModelSubject,
        /,
        *,
        backends: Sequence[str] | None = None,
        compile_budget: CompileBudget | None = None,
        doing: Doing = silently,
    ) -> Lineup:
        found = lineup(of, backends=backends, compile_budget=compile_budget, doing=doing)
        for name in set(COMPILING) & set(found.absent) if quick else ():
            found.absent[name] = "left out by --quick"
        if of.shape.name == CNN:
            doing("accuracy")
            demo.accuracies[str(of.shape)] = {
                contender.name: _accuracy(contender.run, of, data.test_y) for contender in found.contenders
            }
        return found

    suite: Suite[ModelShape] = Suite(
        operation=SUITE.operation,
        lists={},
        operands=subject,
        lineup=scored,
        torch=SUITE.torch,
        rivals="best of eager and torch.compile",
        eager=SUITE.eager,
        baseline=SUITE.baseline,
        summed=SUITE.summed,
    )
    settings = Settings(
        operation=SUITE.operation,
        compile_budget_s=0.0 if quick else 120.0,
        tune_budget_s=None if quick else 0.4,
        budget_s=0.05 if quick else 3.0,
        rounds=(3, 10) if quick else (5, 50),
        contenders=CONTENDERS,
    )
    listed = [*(ModelShape(CNN, batch) for batch in BATCHES), ModelShape("resnet18", 1, small=quick)]
    demo.report = run(listed, settings, benchmark=suite, before=before, doing=doing)
    judge_results(demo, demo.report)
    x = data.batch(BATCHES[-1])
    demo.accelerated = tilewright.accelerate(plain, (x,)).tilewright_report
    with torch.inference_mode():
        demo.explanation = tilewright.explain(net.get_submodule("conv2"), torch.relu(plain.conv1(x)))


def _accuracy(call: Callable[[int], Tensor], subject: ModelSubject, expected: Tensor) -> float:
    """The share of the test images, which are the subject's sets of inputs, that are recognised."""
    guesses = torch.cat([call(index).argmax(1) for index in range(subject.sets)])
    return float((guesses == expected).double().mean())


def judge_training(demo: Demo) -> None:
    """Adds what is wrong with the training to the problems."""
    for name, found in ((OURS, demo.ours), (THEIRS, demo.theirs)):
        if found.accuracy < LEAST_ACCURACY:
            demo.problems.append(
                f"{name}: trained to {found.accuracy:.1%} test accuracy, expected {LEAST_ACCURACY:.0%} or more"
            )
    if not demo.largest_gap <= LARGEST_GAP:
        demo.problems.append(
            f"the loss curves differ by {demo.largest_gap:.3g}, expected at most {LARGEST_GAP}"
        )


def judge_results(demo: Demo, report: Report) -> None:
    """Adds results of ours that err too much, and accelerated models that did not run, to the problems."""
    demo.problems += [f"wrong result: {line}" for line in report.wrong()]
    for result in report.shapes:
        if result.entry(ACCELERATED) is None:
            demo.problems.append(
                f"{ACCELERATED} did not run {result.shape}: {result.absent.get(ACCELERATED)}"
            )
