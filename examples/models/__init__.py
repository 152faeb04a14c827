"""Well-known architectures in plain torch, as users have them: nothing here knows of tilewright.

Each builder takes keywords only, returns a module in training mode (call ``eval()`` for inference), and the same seed
gives the same parameters. The weights are random, scaled so that activations stay of order one through the depth;
BatchNorm's statistics are not 0 and 1, so that folding them matters. Widths, depths and image sizes can be made small.

>>> model = resnet18().eval()
>>> y = model(*example_inputs("resnet18", batch=8))
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from tilewright.examples.models.encoder import bert_base
from tilewright.examples.models.mobilenet import mobilenet_v2
from tilewright.examples.models.resnet import resnet18, resnet50
from tilewright.examples.models.vgg import vgg11
from tilewright.examples.models.vit import vit

__all__ = [
    "MODELS",
    "bert_base",
    "example_inputs",
    "mobilenet_v2",
    "resnet18",
    "resnet50",
    "vgg11",
    "vit",
]

MODELS: dict[str, Callable[..., nn.Module]] = {
    "resnet18": resnet18,
    "resnet50": resnet50,
    "vgg11": vgg11,
    "mobilenet_v2": mobilenet_v2,
    "bert_base": bert_base,
    "vit": vit,
}
"""Name -> builder."""


def example_inputs(
    name: str,
    batch: int = 1,
    *,
    image_size: int = 224,
    tokens: int = 128,
    vocabulary: int = 30522,
    seed: int = 0,
) -> tuple[Tensor, ...]:
    """What the model takes: of ``bert_base`` token ids (batch, tokens), of the others images
    (batch, 3, image_size, image_size) of standard normal pixels.

    Raises:
        KeyError: no model has this name.
    """
    if name not in MODELS:
        raise KeyError(f"name is {name!r}; expected one of {', '.join(MODELS)}")
    generator = torch.Generator().manual_seed(seed)
    if name == "bert_base":
        return (torch.randint(vocabulary, (batch, tokens), generator=generator),)
    return (torch.randn(batch, 3, image_size, image_size, generator=generator),)
