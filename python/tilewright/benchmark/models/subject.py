"""A model with its inputs, what it computes, and how far a result may be from float64."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tilewright.benchmark.accuracy import Judge
from tilewright.benchmark.models.shapes import ModelShape
from tilewright.benchmark.operands import Subject
from tilewright.benchmark.settings import Settings

_SETS = 2


@dataclass(frozen=True, slots=True)
class ModelWork:
    """What torch's counter counts, and each parameter read once beside the inputs and the output."""

    described: str
    counted: int
    moved: int

    def describe(self) -> str:
        return self.described

    def flops(self) -> int:
        return self.counted

    def bytes(self) -> int:
        return self.moved


class ModelSubject(Subject[ModelShape]):
    """A model on the CPU that returns a tensor, and a few sets of inputs.

    Args:
        model, inputs: the model and the sets of inputs to take in place of what `shape` builds.
    """

    def __init__(
        self,
        shape: ModelShape,
        settings: Settings,
        device: torch.device,
        llc_bytes: int,
        *,
        model: nn.Module | None = None,
        inputs: Sequence[tuple[Tensor, ...]] | None = None,
    ) -> None:
        super().__init__(shape, settings, device)
        # As users have them: what is made in inference mode would not be packed.
        with torch.inference_mode(False):
            self.model = shape.build() if model is None else model
            self.inputs = [shape.inputs(seed) for seed in range(_SETS)] if inputs is None else list(inputs)
        self.sets = len(self.inputs)
        self.tuned: set[tuple[str, Any]] = set()
        """Problems that were tuned for this model: (kernel folder, problem)."""

    @cached_property
    def images(self) -> bool:
        """Whether the inputs are images, which have two memory formats."""
        return all(x.ndim == 4 for x in self.inputs[0])

    @cached_property
    def _in_double(self) -> tuple[Tensor, int]:
        """The output for set 0 in float64, and the operations that torch counts on the way."""
        with torch.inference_mode(False), torch.no_grad():
            model = copy.deepcopy(self.model).double()
            inputs = [x.double() if x.is_floating_point() else x for x in self.inputs[0]]
            # Of all ways to compute attention, this one consists of what the counter knows.
            with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
                exact: Tensor = model(*inputs)
        return exact, counter.get_total_flops()

    def work(self) -> ModelWork:
        exact, flops = self._in_double
        kept = [*self.model.parameters(), *self.model.buffers()]
        nbytes = sum(tensor.nbytes for tensor in (*kept, *self.inputs[0])) + exact.numel() * 4
        parameters = sum(parameter.numel() for parameter in self.model.parameters())
        sizes = ", ".join("x".join(map(str, x.shape)) for x in self.inputs[0])
        return ModelWork(
            f"{type(self.model).__name__}, {parameters / 1e6:.3g} M parameters, {sizes}", flops, nbytes
        )

    def judge(self, precision: str) -> Judge:
        with torch.no_grad():
            return Judge.of_model(self._in_double[0], self.model(*self.inputs[0]), precision)

    def flops_tell(self, detail: str) -> bool:
        """Winograd's algorithm multiplies less often than is counted."""
        return not detail.startswith("tf32")

    def call(self, model: Any, inputs: Sequence[Tensor]) -> Tensor:
        """The model, or what stands for it."""
        y: Tensor = model(*inputs)
        return y
