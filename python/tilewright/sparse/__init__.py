"""Sparse layers: pruning a dense model, keeping its zeros through training, saying what is left.

>>> pruning = tilewright.sparse.prune(model, "2:4")                                # at once
>>> pruning = tilewright.sparse.prune(model, "unstructured", 0.9, schedule=Cubic(0, 1000))
>>> with pruning.attach(optimizer):                                                # gradually, with any optimizer
...     train(model, optimizer)
>>> print(pruning.report)
"""

from tilewright.sparse.distillation import distill_loss
from tilewright.sparse.patterns import Block, Channel, NofM, Pattern, Unstructured, parse_pattern
from tilewright.sparse.prune import mask_for, prune
from tilewright.sparse.pruning import Attachment, Pruning
from tilewright.sparse.report import LayerSparsity, SparsityReport, report
from tilewright.sparse.schedules import Cubic, Schedule
from tilewright.sparse.scores import wanda_scores

__all__ = [
    "Attachment",
    "Block",
    "Channel",
    "Cubic",
    "LayerSparsity",
    "NofM",
    "Pattern",
    "Pruning",
    "Schedule",
    "SparsityReport",
    "Unstructured",
    "distill_loss",
    "mask_for",
    "parse_pattern",
    "prune",
    "report",
    "wanda_scores",
]
