"""What the benchmark of convolutions consists of."""

from __future__ import annotations

from tilewright.benchmark.contenders import COMPILED
from tilewright.benchmark.conv2d.operands import EAGER, FUSED, PREPACKED, Conv2dOperands, problem_of
from tilewright.benchmark.conv2d.shapes import LAYOUTS, LISTS, Conv2dShape
from tilewright.benchmark.results import OURS, PACKED, PACKED_TF32
from tilewright.benchmark.suite import OperationSuite

SUITE: OperationSuite[Conv2dShape] = OperationSuite(
    operation="conv2d",
    lists=LISTS,
    operands=Conv2dOperands,
    problem=problem_of,
    torch=(*EAGER.values(), *PREPACKED.values(), *FUSED.values(), COMPILED),
    eager=lambda settings: tuple(EAGER.values()),
    baseline=lambda settings: "torch's better format",
    summed=(OURS, *(f"{OURS} {layout}" for layout in LAYOUTS), PACKED, PACKED_TF32),
    layouts=lambda settings: (settings.layout, *(each for each in LAYOUTS if each != settings.layout)),
)
