"""What the benchmark of models consists of."""

from __future__ import annotations

from tilewright.benchmark.contenders import COMPILED
from tilewright.benchmark.models.contenders import (
    ACCELERATED,
    ACCELERATED_TF32,
    AUTOTUNED,
    BACKEND,
    BACKEND_FROZEN,
    EAGER,
    EAGER_LAST,
    FROZEN,
    RUNTIME,
    lineup,
)
from tilewright.benchmark.models.shapes import LISTS, ModelShape
from tilewright.benchmark.models.subject import ModelSubject
from tilewright.benchmark.suite import Suite

SUITE: Suite[ModelShape] = Suite(
    operation="models",
    lists=LISTS,
    operands=ModelSubject,
    lineup=lineup,
    torch=(EAGER, EAGER_LAST, COMPILED, FROZEN, AUTOTUNED, RUNTIME),
    rivals="best of eager, torch.compile, ONNX Runtime",
    eager=lambda settings: (EAGER, EAGER_LAST),
    baseline=lambda settings: "eager's better format",
    rest_s=0.02,
    summed=(ACCELERATED, ACCELERATED_TF32, BACKEND, BACKEND_FROZEN),
)
