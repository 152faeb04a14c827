"""What the tests of acceleration share: how outputs are compared, and what is left after `restore`."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

Spy = Callable[..., list[str]]
"""Calls a model without gradients; which layers did the work of which others, in order."""


def outputs(model: nn.Module, *inputs: Any) -> list[Tensor]:
    """With the same random numbers each time."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(7)
        return [leaf for leaf in pytree.tree_leaves(model(*inputs)) if isinstance(leaf, Tensor)]


def assert_equal(model: nn.Module, accelerated: nn.Module, *inputs: Any, calls: int = 2) -> None:
    """The accelerated model errs no more than a few times as much as torch itself, both against float64."""
    theirs = outputs(model, *inputs)
    exact = outputs(
        copy.deepcopy(model).double(),
        *(x.double() if isinstance(x, Tensor) and x.is_floating_point() else x for x in inputs),
    )
    for _ in range(calls):
        assert_close(outputs(accelerated, *inputs), theirs, exact)


def assert_close(found: list[Tensor], theirs: list[Tensor], exact: list[Tensor]) -> None:
    assert len(found) == len(theirs)
    for ours, torchs, wide in zip(found, theirs, exact, strict=True):
        assert ours.shape == torchs.shape
        assert ours.dtype == torchs.dtype
        if not ours.is_floating_point():
            assert torch.equal(ours, torchs)
        elif ours.numel():
            most = float(wide.abs().max())
            own, error = (float((y.double() - wide).abs().max()) for y in (torchs, ours))
            assert error <= 4 * own + 32 * torch.finfo(ours.dtype).eps * most, (error, own, most)


def state_of(model: nn.Module) -> dict[str, Any]:
    """The class, the attributes and the tensors of every module, with copies of the tensors' values."""
    found: dict[str, Any] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        tensors = {
            key: (tensor, tensor.detach().clone(), tensor.stride())
            for key, tensor in (module._parameters | module._buffers).items()
            if tensor is not None
        }
        assert type(module._parameters) is dict, name
        found[name] = type(module), dict(vars(module)), tensors
    return found


def assert_restored(before: dict[str, Any], model: nn.Module) -> None:
    """Everything is as `state_of` saw it: objects, classes, values, strides."""
    after = state_of(model)
    assert after.keys() == before.keys()
    for name, (kind, attributes, tensors) in before.items():
        new_kind, new_attributes, new_tensors = after[name]
        assert new_kind is kind, name
        assert list(new_attributes) == list(attributes), name
        for key, value in attributes.items():
            if key != "_parameters":
                assert new_attributes[key] is value, (name, key)
        assert new_tensors.keys() == tensors.keys(), name
        for key, (tensor, value, strides) in tensors.items():
            new, new_value, new_strides = new_tensors[key]
            assert new is tensor, (name, key)
            assert new_strides == strides, (name, key)
            assert torch.equal(new_value, value), (name, key)
