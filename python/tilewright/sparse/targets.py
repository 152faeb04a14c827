"""The weights of a model that are pruned."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from tilewright.errors import ArgumentError, DeviceError, DtypeError, LayoutError

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_WILD = frozenset("*?[")


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """A weight, and where it is found: looked up each time, so that it may be moved, cast or replaced."""

    name: str
    module: nn.Module | None
    """Its owner; None for a tensor by itself."""
    attribute: str
    loose: Tensor | None = None
    transposed: bool = False
    """Whether it is (inputs, outputs), as Hugging Face's Conv1D has it."""

    @property
    def weight(self) -> Tensor:
        if self.module is None:
            assert self.loose is not None
            return self.loose
        parameter = self.module._parameters.get(self.attribute)
        if parameter is None:
            raise ArgumentError(
                f"sparse: {self.name} is no longer a parameter of its {type(self.module).__name__}; a "
                "parametrization or a pruning by others took its place: remove that, and prune again"
            )
        return parameter

    def oriented(self, tensor: Tensor) -> Tensor:
        """A tensor of the weight's shape as outputs by inputs; the same the other way round."""
        return tensor.t() if self.transposed else tensor


def find_targets(
    where: nn.Module | Tensor, operation: str, weights: Iterable[str] | None = None, skip: Iterable[str] = ()
) -> list[Target]:
    """The weights to work on, in the model's order; one that has several names once, by its first.

    Args:
        where: a module, whose linear layers' and convolutions' weights are meant, or a weight.
        operation: for errors.
        weights: names (``"head.weight"``, any parameter) or patterns (``"encoder.*"``, linear layers' and
            convolutions' weights alone); None for all of these.
        skip: names or patterns left out.

    Raises:
        ArgumentError: a name or pattern fits nothing, nothing is left, or a weight is not a plain parameter.
        DtypeError, LayoutError, DeviceError: a weight is not floating, not strided, or has no data.
    """
    if isinstance(where, Tensor):
        if weights is not None or tuple(skip):
            raise ArgumentError(f"{operation}: weights and skip choose among a module's; a tensor has none")
        return [_checked(Target("weight", None, "weight", where), where, operation)]
    if not isinstance(where, nn.Module):
        raise ArgumentError(f"{operation}: got a {type(where).__name__}; expected a module or a weight")
    chosen = {target.name: target for target in _layers(where)}
    if weights is not None:
        chosen = _named(where, chosen, _names(weights, "weights", operation), operation)
    for pattern in _names(skip, "skip", operation):
        left = {name: target for name, target in chosen.items() if not fnmatchcase(name, pattern)}
        if len(left) == len(chosen):
            raise ArgumentError(f"{operation}: skip names {pattern!r}, which fits none of {list(chosen)}")
        chosen = left
    found, seen = [], set()
    for target in chosen.values():
        weight = plain_weight(target, operation)
        if id(weight) not in seen:
            seen.add(id(weight))
            found.append(_checked(target, weight, operation))
    if not found:
        raise ArgumentError(
            f"{operation}: {type(where).__name__} has no weight to be pruned; expected linear layers or convolutions, "
            "or parameters named in weights"
        )
    return found


def plain_weight(target: Target, operation: str) -> Tensor:
    """The target's weight, which must be a parameter that is there. Raises ArgumentError."""
    assert target.module is not None
    parameter = target.module._parameters.get(target.attribute)
    if parameter is None or is_lazy(parameter):
        raise ArgumentError(
            f"{operation}: {target.name} is no plain parameter; it is lazy (run the model once), parametrized "
            "(torch.nn.utils.parametrize.remove_parametrizations), or pruned by torch, whose masks "
            "tilewright.sparse.from_torch takes over; or name it in skip"
        )
    return parameter


def parametrized(root: nn.Module) -> Iterator[tuple[str, nn.Module, str, Any]]:
    """Name, owner, attribute and parametrizations of each parameter in the model that has some."""
    for prefix, owner in root.named_modules():
        if parametrize.is_parametrized(owner):
            chains: Any = owner.parametrizations
            for attribute, chain in list(chains.items()):
                yield f"{prefix}.{attribute}" if prefix else attribute, owner, attribute, chain


def _layers(root: nn.Module) -> Iterator[Target]:
    for name, module in root.named_modules():
        transposed = _is_transposed_linear(module)
        if transposed or isinstance(module, LAYERS):
            yield Target(f"{name}.weight" if name else "weight", module, "weight", transposed=transposed)


def _is_transposed_linear(module: nn.Module) -> bool:
    """Whether it is Hugging Face's Conv1D, or ours."""
    kind = type(module)
    return getattr(kind, "transposed", None) is True or any(
        base.__name__ == "Conv1D" and base.__module__ == "transformers.pytorch_utils" for base in kind.__mro__
    )


def _names(given: Iterable[str], argument: str, operation: str) -> list[str]:
    names = [given] if isinstance(given, str) else list(given)
    if not all(isinstance(name, str) for name in names):
        raise ArgumentError(f"{operation}: {argument} is {given!r}; expected names of weights or patterns")
    return names


def _named(root: nn.Module, layers: dict[str, Target], names: list[str], operation: str) -> dict[str, Target]:
    """Those that the names and patterns fit, in the model's order where it has one."""
    chosen: dict[str, Target] = {}
    modules = dict(root.named_modules())
    for name in names:
        fitting = {known: target for known, target in layers.items() if fnmatchcase(known, name)}
        owner, _, attribute = name.rpartition(".")
        if not fitting and not _WILD & set(name) and owner in modules:
            module = modules[owner]
            if attribute in module._parameters:
                fitting = {name: Target(name, module, attribute)}
        if not fitting:
            raise ArgumentError(
                f"{operation}: weights names {name!r}, which is no parameter of the model and fits none of "
                f"{list(layers)}"
            )
        chosen |= fitting
    order = {name: index for index, name in enumerate(layers)}
    return dict(sorted(chosen.items(), key=lambda item: order.get(item[0], len(order))))


def _checked(target: Target, weight: Tensor, operation: str) -> Target:
    if not weight.is_floating_point() or weight.dtype.itemsize < 2:
        raise DtypeError(f"{operation}: {target.name} has dtype {weight.dtype}; expected float weights")
    if weight.layout != torch.strided:
        raise LayoutError(f"{operation}: {target.name} has layout {weight.layout}; expected a dense weight")
    wrapped: bool = is_traceable_wrapper_subclass(weight)
    if wrapped:
        raise LayoutError(
            f"{operation}: {target.name} is a {type(weight).__name__}; expected a plain tensor; prune before the model "
            "is sharded or quantized"
        )
    if weight.is_meta:
        raise DeviceError(f"{operation}: {target.name} has no data, it is on device meta; load it first")
    return target
