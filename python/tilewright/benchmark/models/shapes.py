"""Which models, with how many inputs: images of 224×224, sequences of 128 tokens.

Sources: those of the models, in `tilewright.examples.models`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import Tensor, nn

from tilewright.examples.models import MODELS, example_inputs

BATCHES = (1, 8)

_SMALL: dict[str, dict[str, Any]] = {
    "resnet18": {"width": 8},
    "resnet50": {"width": 8},
    "vgg11": {"width": 8, "hidden": 32, "image_size": 32},
    "mobilenet_v2": {"width": 0.25},
    "bert_base": {"layers": 2, "width": 48, "heads": 4, "hidden": 96, "vocabulary": 500},
    "vit": {"layers": 2, "width": 48, "heads": 4, "hidden": 96, "patch": 8, "image_size": 32},
}
_SMALL_INPUTS: dict[str, Any] = {"image_size": 32, "tokens": 16, "vocabulary": 500}


@dataclass(frozen=True, slots=True)
class ModelShape:
    """A model of `tilewright.examples.models` and its batch; `small`, with few channels, layers and pixels."""

    spelling: ClassVar[str] = "model and batch"
    varies: ClassVar[str] = "batch"

    name: str
    batch: int
    small: bool = False

    def __str__(self) -> str:
        return f"{self.name} batch {self.batch}{' small' if self.small else ''}"

    def elements(self) -> int:
        """Those of the inputs, which are all that a call does not share with the next one."""
        return sum(x.numel() for x in self.inputs())

    def build(self) -> nn.Module:
        """The model, to be called in inference."""
        return MODELS[self.name](**_SMALL[self.name] if self.small else {}).eval().requires_grad_(False)

    def inputs(self, seed: int = 0) -> tuple[Tensor, ...]:
        return example_inputs(self.name, self.batch, seed=seed, **_SMALL_INPUTS if self.small else {})


LISTS = {name: tuple(ModelShape(name, batch) for batch in BATCHES) for name in MODELS}
"""A list for each model."""


def made_small(shapes: Iterable[ModelShape]) -> tuple[ModelShape, ...]:
    return tuple(replace(shape, small=True) for shape in shapes)
