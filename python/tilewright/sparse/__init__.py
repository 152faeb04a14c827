"""Sparse layers: pruning a dense model, keeping its zeros through training, saying what is left.

>>> pruning = tilewright.sparse.prune(model, "2:4")                                # at once
>>> pruning = tilewright.sparse.prune(model, "unstructured", 0.9, schedule=Cubic(0, 1000))
>>> with pruning.attach(optimizer):                                                # gradually, with any optimizer
...     train(model, optimizer)
>>> print(pruning.report)
>>> weight = tilewright.sparse.compress(layer.weight, "bitmap")                     # plain buffers, for sparse_matmul
"""

from tilewright.sparse.compress import compress
from tilewright.sparse.distillation import distill_loss
from tilewright.sparse.interop import from_torch, to_ao_pruning, to_torch_prune, torch_masks
from tilewright.sparse.patterns import Block, Channel, NofM, Pattern, Unstructured, parse_pattern
from tilewright.sparse.permutation import Permutation, find_permutation, permute_inputs, permute_outputs
from tilewright.sparse.prune import mask_for, prune
from tilewright.sparse.pruning import Attachment, Pruning
from tilewright.sparse.report import LayerSparsity, SparsityReport, report
from tilewright.sparse.schedules import Cubic, Schedule
from tilewright.sparse.scores import wanda_scores
from tilewright.sparse.straight_through import StraightThrough, finish_sr_ste, sr_ste
from tilewright.sparse.weight import SparseWeight

__all__ = [
    "Attachment",
    "Block",
    "Channel",
    "Cubic",
    "LayerSparsity",
    "NofM",
    "Pattern",
    "Permutation",
    "Pruning",
    "Schedule",
    "SparseWeight",
    "SparsityReport",
    "StraightThrough",
    "Unstructured",
    "compress",
    "distill_loss",
    "find_permutation",
    "finish_sr_ste",
    "from_torch",
    "mask_for",
    "parse_pattern",
    "permute_inputs",
    "permute_outputs",
    "prune",
    "report",
    "sr_ste",
    "to_ao_pruning",
    "to_torch_prune",
    "torch_masks",
    "wanda_scores",
]
