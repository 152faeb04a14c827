"""Masks in force: kept beside a model, on whose plain weights they are applied again after every optimizer step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Self

import torch
from torch import Tensor

from tilewright.errors import ArgumentError, FormatError
from tilewright.sparse.report import LayerSparsity, SparsityReport
from tilewright.sparse.schedules import Schedule
from tilewright.sparse.targets import Target

Choose = Callable[[float, Mapping[str, Tensor]], dict[str, Tensor]]
"""The masks at a share of the final amount, given those in force."""


class Pruning:
    """What `prune` returns: the masks by weight's name, and what keeps them in force while the model trains.

    The model itself stays as it was: its weights are parameters under their names, with zeros in them. Nothing of this
    goes into its state_dict; to resume a training, keep ``pruning.state_dict()`` beside it.

    >>> with pruning.attach(optimizer):          # zeros stay zero, a schedule advances with each step
    ...     train(model, optimizer)
    >>> print(pruning.report)
    """

    def __init__(
        self,
        targets: Iterable[Target],
        masks: Mapping[str, Tensor],
        pattern: str,
        schedule: Schedule | None = None,
        choose: Choose | None = None,
        kept: Mapping[str, float] | None = None,
    ) -> None:
        self.pattern = pattern
        self.targets = list(targets)
        self._masks = dict(masks)
        # Of masks that were chosen elsewhere nobody saw what they kept.
        self._kept: dict[str, float | None] = dict.fromkeys(self._masks, None if choose is None else 1.0)
        self._kept.update(kept or {})
        self._schedule = schedule
        self._choose = choose
        self._steps = 0
        self._share = 1.0 if choose is None else 0.0

    # --- what is in force ------------------------------------------------------------------------------------

    @property
    def masks(self) -> dict[str, Tensor]:
        """By weight's name, bool, of the weight's shape: true where it is kept. Copies are yours to change."""
        return {name: mask.clone() for name, mask in self._masks.items()}

    @property
    def share(self) -> float:
        """How much of the final amount is removed: 1 without a schedule, and at its end."""
        return self._share

    @property
    def report(self) -> SparsityReport:
        """Per weight: sparsity, the share of Σ|weight| that the masks kept as they were chosen, pattern."""
        layers = []
        for target in self.targets:
            weight = target.weight.detach()
            zeros = int((weight == 0).sum())
            shape, kept = tuple(weight.shape), self._kept[target.name]
            layers.append(LayerSparsity(target.name, shape, self.pattern, weight.numel(), zeros, kept))
        return SparsityReport(layers)

    def __str__(self) -> str:
        return str(self.report)

    def __rich__(self) -> Any:
        return self.report.__rich__()

    # --- training --------------------------------------------------------------------------------------------

    def apply(self) -> None:
        """Sets to zero, in place, what the masks remove."""
        with torch.no_grad():
            for target in self.targets:
                weight = target.weight
                weight.masked_fill_(~self._mask(target.name, weight), 0.0)

    def step(self) -> None:
        """Counts an optimizer step: advances the schedule, chooses masks anew where it says so, applies them.

        `attach` has the optimizer call it; call it yourself after optimizers that know no hooks.
        """
        self._steps += 1
        self._follow()

    def finish(self) -> None:
        """Removes the final amount now, whatever the schedule."""
        self._advance(1.0)
        self.apply()

    def attach(self, *optimizers: torch.optim.Optimizer) -> Attachment:
        """Has every step of the optimizers leave the zeros zero: masks are applied again after it, whatever momentum
        and weight decay did, and gradients are masked as they arrive, so that clipping and line searches see those of
        the pruned network. The steps of the first one advance the schedule.

        Returns:
            What undoes it: ``with pruning.attach(optimizer): ...``, or ``.remove()``.

        Raises:
            ArgumentError: no optimizer, not torch's, or none that holds any of the weights.
        """
        return Attachment(self, optimizers)

    # --- saving ----------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Masks and progress, for `torch.save`; loads with ``weights_only=True``."""
        return {
            "masks": self.masks,
            "kept_magnitude": dict(self._kept),
            "steps": self._steps,
            "share": self._share,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from there; the masks are applied. Raises FormatError if they do not fit the weights."""
        problem = "Pruning.load_state_dict: "
        if set(state) != {"masks", "kept_magnitude", "steps", "share"}:
            raise FormatError(f"{problem}state has {sorted(state)}; expected what state_dict returns")
        masks, kept = state["masks"], state["kept_magnitude"]
        names = {target.name for target in self.targets}
        if set(masks) != names or set(kept) != names:
            raise FormatError(f"{problem}masks are of {sorted(masks)}; expected {sorted(names)}")
        for target in self.targets:
            mask, shape = masks[target.name], target.weight.shape
            if not isinstance(mask, Tensor) or mask.shape != shape or mask.dtype != torch.bool:
                raise FormatError(f"{problem}mask of {target.name} is no bool tensor of shape {tuple(shape)}")
        steps, share = state["steps"], state["share"]
        if not (isinstance(steps, int) and steps >= 0 and isinstance(share, float) and 0.0 <= share <= 1.0):
            raise FormatError(
                f"{problem}steps is {steps!r} and share {share!r}; expected a count, and 0 to 1"
            )
        self._masks = {name: mask.clone() for name, mask in masks.items()}
        self._kept = dict(kept)
        self._steps, self._share = steps, share
        self.apply()

    # --- within ----------------------------------------------------------------------------------------------

    def _begin(self) -> Self:
        """What the schedule removes before the first step."""
        self._follow()
        return self

    def _follow(self) -> None:
        share = 1.0 if self._schedule is None else float(self._schedule(self._steps))
        if not 0.0 <= share <= 1.0:
            raise ArgumentError(
                f"prune: schedule says {share} after step {self._steps}; expected a share of the final amount, 0 to 1"
            )
        self._advance(share)
        self.apply()

    def _advance(self, share: float) -> None:
        if self._choose is None or share <= self._share:
            self._share = max(self._share, share)
            return
        masks = self._choose(share, self._masks)
        for target in self.targets:
            magnitude = target.weight.detach().abs()
            before = float(magnitude.sum(dtype=torch.float64))
            after = float((magnitude * masks[target.name]).sum(dtype=torch.float64))
            kept = self._kept[target.name]
            if kept is not None and before:
                self._kept[target.name] = kept * after / before
        self._masks, self._share = masks, share

    def _mask(self, name: str, weight: Tensor) -> Tensor:
        """The mask where its weight is now."""
        mask = self._masks[name]
        if mask.device != weight.device:
            mask = self._masks[name] = mask.to(weight.device)
        return mask


class Attachment:
    """The hooks of ``pruning.attach``; ends with its ``with`` block, or by `remove`."""

    def __init__(self, pruning: Pruning, optimizers: tuple[torch.optim.Optimizer, ...]) -> None:
        held = _held(optimizers)
        weights = [(target.name, target.weight) for target in pruning.targets]
        if not any(id(weight) in held for _, weight in weights):
            raise ArgumentError(
                "Pruning.attach: the optimizers hold none of the pruned weights; pass those that were given the "
                "parameters of this very model"
            )
        self._handles: list[Any] = []
        for name, weight in weights:
            if weight.requires_grad and weight.is_leaf:
                hook = _mask_gradient(pruning, name)
                self._handles.append(weight.register_post_accumulate_grad_hook(hook))
        for index, optimizer in enumerate(optimizers):
            after = pruning.step if index == 0 else pruning.apply
            self._handles.append(optimizer.register_step_post_hook(_after_step(after)))

    def remove(self) -> None:
        """Takes the hooks away: weights are free again."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()


def _held(optimizers: tuple[torch.optim.Optimizer, ...]) -> set[int]:
    """Which parameters the optimizers step."""
    if not optimizers:
        raise ArgumentError("Pruning.attach: no optimizer was given; expected one or more")
    for optimizer in optimizers:
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise ArgumentError(
                f"Pruning.attach: got a {type(optimizer).__name__}; expected a torch.optim.Optimizer; call "
                "pruning.step() after each step of any other"
            )
    groups = (group for optimizer in optimizers for group in optimizer.param_groups)
    return {id(parameter) for group in groups for parameter in group["params"]}


def _after_step(after: Callable[[], None]) -> Callable[..., None]:
    def hook(_optimizer: Any, _args: Any, _kwargs: Any) -> None:
        after()

    return hook


def _mask_gradient(pruning: Pruning, name: str) -> Callable[[Tensor], None]:
    def hook(weight: Tensor) -> None:
        if weight.grad is not None:
            with torch.no_grad():
                weight.grad.masked_fill_(~pruning._mask(name, weight), 0.0)

    return hook
