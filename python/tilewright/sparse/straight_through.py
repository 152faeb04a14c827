"""Training through an N:M mask that is chosen anew in every step: SR-STE (Zhou et al. 2021, arXiv:2102.04010)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from tilewright.errors import ArgumentError
from tilewright.sparse.patterns import NofM, Pattern, as_matrices, from_matrices, parse_pattern
from tilewright.sparse.pruning import Pruning
from tilewright.sparse.targets import Target, find_targets, parametrized


class StraightThrough(nn.Module):
    """A parametrization of a weight: N:M sparse forward, straight through backward, with SR-STE's pull::

        W̃ = mask(W) ⊙ W                                 the n largest |W| of every m inputs
        ∂L/∂W = ∂L/∂W̃ + decay·(1 - mask(W)) ⊙ W         the sparse-refined straight-through estimator

    Masked weights keep learning, and may come back; the second term pulls them to zero, which keeps the mask from
    changing to and fro. `decay` is the paper's λ.

    Args:
        pattern: an N:M.
        decay: λ, 2e-4 as the paper has it. 0 is the plain straight-through estimator.
        transposed: whether weights are (inputs, outputs).
    """

    def __init__(self, pattern: NofM, decay: float = 2e-4, transposed: bool = False) -> None:
        super().__init__()
        self.pattern = pattern
        self.decay = decay
        self.transposed = transposed

    def mask(self, weight: Tensor) -> Tensor:
        """What is kept of the weight now."""
        magnitude = weight.detach().abs()
        matrices = as_matrices(magnitude.t() if self.transposed else magnitude)
        shape = magnitude.t().shape if self.transposed else magnitude.shape
        kept = from_matrices(self.pattern.best(matrices), shape)
        return kept.t() if self.transposed else kept

    def forward(self, weight: Tensor) -> Tensor:
        sparse: Tensor = _Refined.apply(weight, self.mask(weight), self.decay)  # type: ignore[no-untyped-call]
        return sparse

    def extra_repr(self) -> str:
        return f"{self.pattern}, decay={self.decay}"


class _Refined(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(weight: Tensor, mask: Tensor, decay: float) -> Tensor:
        return weight.masked_fill(~mask, 0.0)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        weight, mask, ctx.decay = inputs
        ctx.save_for_backward(weight, mask)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        weight, mask = ctx.saved_tensors
        return grad + ctx.decay * weight.masked_fill(mask, 0.0), None, None


def sr_ste(
    module: nn.Module,
    pattern: str | Pattern = "2:4",
    *,
    decay: float = 2e-4,
    weights: Iterable[str] | None = None,
    skip: Iterable[str] = (),
) -> list[str]:
    """Puts `StraightThrough` on the weights, in place; train as usual, then call `finish_sr_ste`.

    The parameters stay the same objects, so an optimizer that holds them goes on; state_dict has them as
    ``parametrizations.weight.original`` meanwhile. A forward that uses a weight several times should run under
    ``torch.nn.utils.parametrize.cached()``, else the decay counts as often.

    Args:
        module: a model or layer.
        pattern: an N:M.
        decay: λ of `StraightThrough`.
        weights, skip: which weights, as in `prune`.

    Returns:
        The names of the weights.

    Raises:
        ArgumentError: another pattern, a negative decay, or no weight. The errors of `prune` for weights.
    """
    parsed = parse_pattern(pattern)
    if not isinstance(parsed, NofM):
        raise ArgumentError(f"sr_ste: pattern is {parsed}; expected an N:M such as '2:4'; others go by prune")
    if not 0.0 <= decay < float("inf"):
        raise ArgumentError(f"sr_ste: decay is {decay}; expected 0 or more, such as 2e-4")
    if not isinstance(module, nn.Module):
        raise ArgumentError(f"sr_ste: got a {type(module).__name__}; expected a module")
    targets = find_targets(module, "sr_ste", weights, skip)
    for target in targets:
        parsed.check(target.weight.shape, f"sr_ste: {target.name}")
    for target in targets:
        assert target.module is not None
        through = StraightThrough(parsed, decay, target.transposed)
        parametrize.register_parametrization(target.module, target.attribute, through)
    return [target.name for target in targets]


def finish_sr_ste(module: nn.Module) -> Pruning:
    """Makes the masks permanent: weights are plain parameters again, N:M sparse.

    Returns:
        The masks, with which training can go on (`Pruning.attach`). The kept magnitude in its report is the share that
        masked weights did not have.

    Raises:
        ArgumentError: there is nothing of `sr_ste` in the module, or a weight has other parametrizations too.
    """
    found = []
    for name, owner, attribute, chain in parametrized(module):
        if any(isinstance(step, StraightThrough) for step in chain):
            if len(chain) != 1:
                raise ArgumentError(
                    f"finish_sr_ste: {name} has other parametrizations too; remove them first "
                    "(torch.nn.utils.parametrize.remove_parametrizations)"
                )
            found.append((name, owner, attribute, chain))
    if not found:
        raise ArgumentError("finish_sr_ste: no weight is parametrized by sr_ste; call that first")
    targets, masks, kept = [], {}, {}
    for name, owner, attribute, chain in found:
        through, original = chain[0], chain.original
        mask = through.mask(original)
        magnitude = original.detach().abs()
        total = float(magnitude.sum(dtype=torch.float64))
        kept[name] = float((magnitude * mask).sum(dtype=torch.float64)) / total if total else 1.0
        parametrize.remove_parametrizations(owner, attribute, leave_parametrized=True)
        targets.append(Target(name, owner, attribute, transposed=through.transposed))
        masks[name] = mask.contiguous()
        pattern = str(through.pattern)
    return Pruning(targets, masks, pattern, kept=kept)
