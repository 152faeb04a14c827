"""What the benchmark of matrix products consists of."""

from __future__ import annotations

from tilewright.benchmark.contenders import COMPILED
from tilewright.benchmark.matmul.operands import CUBLASLT, EAGER, PREPACKED, MatmulOperands, problem_of
from tilewright.benchmark.matmul.shapes import LISTS, MatmulShape
from tilewright.benchmark.results import OURS, PACKED
from tilewright.benchmark.suite import OperationSuite

SUITE: OperationSuite[MatmulShape] = OperationSuite(
    operation="matmul",
    lists=LISTS,
    operands=MatmulOperands,
    problem=problem_of,
    torch=(*EAGER.values(), PREPACKED, CUBLASLT, COMPILED),
    eager=lambda settings: (EAGER[settings.layout],),
    baseline=lambda settings: EAGER[settings.layout],
    summed=(OURS, PACKED),
    layouts=lambda settings: (settings.layout,),
)
