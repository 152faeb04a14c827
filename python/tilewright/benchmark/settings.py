"""What a benchmark is to measure."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch

from tilewright.kernels.dtypes import DTYPE_NAMES

DIRECTIONS = ("forward", "input_gradient", "weight_gradient")


@dataclass(frozen=True, slots=True)
class Settings:
    """What is measured and how long. `budget_s` is the time for the rounds of one shape."""

    operation: str = "matmul"
    dtype: torch.dtype = torch.float32
    device: str = "cpu"
    layout: str = "linear"  # of the operands; which ones there are, the operation's benchmark says
    bias: bool = True
    residual: bool = False
    activation: str = "none"
    direction: str = "forward"  # conv2d: also input_gradient and weight_gradient
    threads: int | None = None
    precision: str = "ieee"  # ieee or tf32, for fp32: of torch and of ours on GPUs, of ours alone on CPUs
    compile_budget_s: float = 60.0  # 0 leaves torch.compile out
    budget_s: float = 1.0
    rounds: tuple[int, int] = (5, 50)
    backends: tuple[str, ...] | None = None  # the backends shown separately; None for all
    tune_budget_s: float | None = (
        None  # models: seconds per problem to tune what each meets; None does not tune
    )
    autotune: bool = False  # models: torch.compile in its mode max-autotune, too
    contenders: tuple[str, ...] | None = None  # models: who competes; None for all
    graphs: bool = True  # GPUs: time replayed CUDA graphs, so that Python's share is not measured

    def describe(self) -> dict[str, object]:
        return {**asdict(self), "dtype": DTYPE_NAMES[self.dtype]}
