"""What the tests of the compiler share: compiling, comparing with float64, and reading the report."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import tilewright

FUSE = {"rest": "eager", "fuse": "always"}
"""Everything that can be is fused, whatever machine this is; torch runs the rest as it is, which compiles quickly."""


def compiled(function: Callable[..., Any], dynamic: bool | None = None, **options: Any) -> Any:
    return torch.compile(
        function, backend="tilewright", fullgraph=True, dynamic=dynamic, options={**FUSE, **options}
    )


def wide(value: Any) -> Any:
    """The same in float64: a copy of a module, tensors, and what holds them."""
    if isinstance(value, torch.nn.Module):
        return copy.deepcopy(value).double()
    if isinstance(value, (tuple, list)):
        return type(value)(wide(each) for each in value)
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value


def assert_as_good(found: Any, theirs: Any, exact: Any) -> None:
    """`found` is within three times torch's own error of the exact result, or a few roundings of its largest value."""
    if isinstance(found, (tuple, list)):
        assert len(found) == len(theirs) == len(exact)
        for parts in zip(found, theirs, exact, strict=True):
            assert_as_good(*parts)
        return
    assert found.shape == theirs.shape
    assert found.dtype == theirs.dtype
    assert found.stride() == theirs.stride()
    if not found.numel():
        return
    error, own = ((each.double() - exact).abs().max().item() for each in (found, theirs))
    unit = torch.finfo(found.dtype).eps
    assert error <= max(3 * own, 8 * unit * exact.abs().max().item()), (error, own)


def check(function: Callable[..., Any], *args: Any, dynamic: bool | None = None, **options: Any) -> Any:
    """Compiles for inference and compares; returns what runs."""
    run = compiled(function, dynamic, **options)
    with torch.no_grad():
        assert_as_good(run(*args), function(*args), wide(function)(*wide(args)))
    return run


def fused() -> list[str]:
    """What was fused since the last look, as ``nodes -> operation``."""
    report = tilewright.compiler.report(clear=True)
    # Which of the two views torch makes of a product is its own affair.
    return [
        f"{' '.join(each.nodes)} -> {each.operation}".replace("_unsafe_view", "view") for each in report.fused
    ]


def left() -> list[str]:
    """What was left since the last look, as ``node: reason``."""
    return list(map(str, tilewright.compiler.report(clear=True).left))


def randomized(module: torch.nn.Module) -> torch.nn.Module:
    """BatchNorms with statistics other than 0 and 1."""
    for norm in module.modules():
        if isinstance(norm, (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d)):
            torch.nn.init.normal_(norm.running_mean)
            torch.nn.init.uniform_(norm.running_var, 0.5, 2)
            torch.nn.init.uniform_(norm.weight, 0.5, 2)
            torch.nn.init.normal_(norm.bias)
    return module
