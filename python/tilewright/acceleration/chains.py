"""Which modules follow which layer in a model, as far as it is known before anything runs."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from typing import Any

import torch

from tilewright.acceleration.flow import SEQUENTIAL, Path, after_in_sequence, child, flow_of, functions_of
from tilewright.acceleration.fused import NORMS, Fused, activation_of, willing
from tilewright.acceleration.swap import oddity
from tilewright.nn import PackedLayer


def may_follow(layer: Fused, follower: Any) -> bool:
    """Whether a layer could do a module's work; those that were swapped already included."""
    if not isinstance(follower, torch.nn.Module) or oddity(follower) is not None:
        return False
    if is_norm_of(layer, follower):
        return not follower.training and follower.running_mean is not None
    return activation_of(follower) is not None


def in_training(layer: Fused, follower: Any) -> bool:
    """Whether it is a BatchNorm that could be folded into the layer but for its mode."""
    return is_norm_of(layer, follower) and bool(follower.training)


def is_norm_of(layer: Fused, follower: Any) -> bool:
    kind = type(follower)
    return layer.norm is not None and layer.norm in (kind, NORMS.get(kind))


def sites_of(modules: Iterable[torch.nn.Module]) -> Iterator[tuple[Fused, torch.nn.Module, tuple[Path, ...]]]:
    """Every call of a swapped layer that is known: the layer, who calls it, and who takes its result."""
    for owner in modules:
        if isinstance(owner, torch.jit.ScriptModule):
            continue
        for code in set(functions_of(owner)):
            if code is SEQUENTIAL:
                for layer in owner.children():
                    if isinstance(layer, Fused):
                        yield layer, owner, after_in_sequence(owner, layer)
                continue
            for path, followers in set(flow_of(code).calls.values()):
                layer = child(owner, path)
                if isinstance(layer, Fused):
                    yield layer, owner, followers


def chains_of(model: torch.nn.Module) -> dict[torch.nn.Module, list[tuple[Any, ...]]]:
    """The modules whose work each layer does, for each of its known calls."""
    found: dict[torch.nn.Module, list[tuple[Any, ...]]] = {}
    for layer, owner, paths in sites_of(model.modules()):
        chain = willing(layer, owner, paths)
        if chain not in found.setdefault(layer, []):
            found[layer].append(chain)
    return found


def names_of(model: torch.nn.Module) -> dict[torch.nn.Module, str]:
    """Every module's name, of one that has several all of them."""
    found: dict[torch.nn.Module, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        found.setdefault(module, []).append(name)
    return {module: ", ".join(names) for module, names in found.items()}


def unreadable(model: torch.nn.Module) -> list[str]:
    """Sentences on the classes whose forward calls layers, but cannot be read."""
    found = set()
    for module in model.modules():
        code = getattr(inspect.unwrap(type(module).forward), "__code__", None)
        calls_layers = any(isinstance(layer, PackedLayer) for layer in module.children())
        if code is not None and calls_layers and not flow_of(code).readable:
            name = type(module).__qualname__
            found.add(f"{name}.forward could not be read: what follows its layers is unknown.")
    return sorted(found)
