"""Masks from and for torch's own pruning: `torch.nn.utils.prune`, and `torch.ao.pruning`'s parametrization."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from tilewright.errors import ArgumentError, FormatError
from tilewright.sparse.pruning import Pruning
from tilewright.sparse.targets import Target, parametrized, plain_weight


def torch_masks(module: nn.Module) -> dict[str, Tensor]:
    """The masks that torch's pruning has put on a model's parameters, by name; the model is left as it is.

    Found are ``weight_mask`` of `torch.nn.utils.prune` (any parameter, not the weight alone) and the masks of
    `torch.ao.pruning`'s sparsifiers (``FakeSparsity``).

    Returns:
        bool tensors, true where the parameter is kept; none for a model that is not pruned.

    Raises:
        FormatError: a mask does not fit its parameter, or holds other than 0 and 1.
    """
    return {name: mask for name, _, _, mask in _found(module)}


def from_torch(module: nn.Module) -> Pruning:
    """Takes over torch's masks: what they remove is set to zero, their hooks and parametrizations go.

    Parameters stay the same objects and are plain again, as everything here wants them; ``to_torch_prune`` and
    ``to_ao_pruning`` go back.

    Raises:
        ArgumentError: the model has no such masks, or a parameter has other parametrizations too.
        FormatError: as `torch_masks`.
    """
    from torch.nn.utils import prune

    targets, masks = [], {}
    for name, owner, attribute, mask in list(_found(module)):
        if parametrize.is_parametrized(owner, attribute):
            chains: Any = owner.parametrizations
            if len(chains[attribute]) != 1:
                raise ArgumentError(
                    f"from_torch: {name} has other parametrizations beside its mask; remove them first "
                    "(torch.nn.utils.parametrize.remove_parametrizations)"
                )
            parametrize.remove_parametrizations(owner, attribute, leave_parametrized=True)
        else:
            prune.remove(owner, attribute)
        targets.append(Target(name, owner, attribute))
        masks[name] = mask
    if not targets:
        raise ArgumentError(
            "from_torch: no parameter has a mask of torch.nn.utils.prune or torch.ao.pruning; use "
            "tilewright.sparse.prune for a model that is not pruned"
        )
    pruning = Pruning(targets, masks, "unstructured")
    pruning.apply()
    return pruning


def to_torch_prune(pruning: Pruning) -> None:
    """Puts the masks on the model as `torch.nn.utils.prune.custom_from_mask` does: ``weight_orig``, ``weight_mask``.

    The model is torch's from then on: ``torch.nn.utils.prune.remove`` or `from_torch` undo it, and `pruning` is of no
    more use.

    Raises:
        ArgumentError: a weight is not a module's plain parameter.
    """
    from torch.nn.utils import prune

    for target, mask in _owned(pruning, "to_torch_prune"):
        prune.custom_from_mask(target.module, target.attribute, mask)


def to_ao_pruning(pruning: Pruning) -> list[dict[str, Any]]:
    """Puts the masks on the model as `torch.ao.pruning`'s sparsifiers do: a ``FakeSparsity`` on each weight.

    Returns:
        A sparsifier's ``config`` for these weights, ``tensor_fqn`` each.

    Raises:
        ArgumentError: a weight is not a module's plain parameter.
    """
    from torch.ao.pruning.sparsifier.utils import FakeSparsity

    owned = _owned(pruning, "to_ao_pruning")
    for target, mask in owned:
        assert target.module is not None
        # As torch's sparsifiers keep them: numbers of the weight's dtype, which the weight is multiplied by.
        fake = FakeSparsity(mask.to(target.weight.dtype))
        parametrize.register_parametrization(target.module, target.attribute, fake)
    return [{"tensor_fqn": target.name} for target, _ in owned]


def _owned(pruning: Pruning, operation: str) -> list[tuple[Target, Tensor]]:
    owned = []
    masks = pruning.masks
    for target in pruning.targets:
        if target.module is None:
            raise ArgumentError(
                f"{operation}: {target.name} is a tensor by itself; expected a module's weight"
            )
        plain_weight(target, operation)
        owned.append((target, masks[target.name].to(target.weight.device)))
    return owned


def _found(root: nn.Module) -> Iterator[tuple[str, nn.Module, str, Tensor]]:
    """Name, owner, attribute and mask of each parameter that torch pruned."""
    if not isinstance(root, nn.Module):
        raise ArgumentError(f"sparse: got a {type(root).__name__}; expected a module")
    ao = sys.modules.get("torch.ao.pruning")
    for prefix, owner in root.named_modules():
        for attribute in [name.removesuffix("_mask") for name in owner._buffers if name.endswith("_mask")]:
            original = owner._parameters.get(f"{attribute}_orig")
            if original is not None and _has_hook(owner, attribute):
                name = f"{prefix}.{attribute}" if prefix else attribute
                yield name, owner, attribute, _checked(name, owner._buffers[f"{attribute}_mask"], original)
    if ao is None:  # nobody can have put its masks on
        return
    for name, owner, attribute, chain in parametrized(root):
        fakes = [step for step in chain if isinstance(step, ao.FakeSparsity)]
        if fakes:
            masks = [_checked(name, fake.mask, chain.original) for fake in fakes]
            yield name, owner, attribute, torch.stack(masks).all(0)


def _has_hook(owner: nn.Module, attribute: str) -> bool:
    from torch.nn.utils.prune import BasePruningMethod

    return any(
        isinstance(hook, BasePruningMethod) and hook._tensor_name == attribute
        for hook in owner._forward_pre_hooks.values()
    )


def _checked(name: str, mask: Any, original: Any) -> Tensor:
    if not isinstance(mask, Tensor) or mask.shape != original.shape:
        got = tuple(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
        raise FormatError(f"sparse: mask of {name} has shape {got}; expected {tuple(original.shape)}")
    if not bool(((mask == 0) | (mask == 1)).all()):
        raise FormatError(f"sparse: mask of {name} holds other than 0 and 1; expected a mask")
    return mask != 0
