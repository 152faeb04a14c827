"""FLOP formulas for torch's counter. ``torch.utils.flop_counter`` imports Triton, 0.2 s of it, so it is not imported
here: the formulas are handed over when somebody else imports it."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

_FLOP_COUNTER = "torch.utils.flop_counter"
_formulas: dict[Any, Callable[..., int]] = {}


def add(packet: Any, formula: Callable[..., int]) -> None:
    """Notes the formula of ``torch.ops.tilewright.<operation>``; it gets the operation's arguments and ``out_val``."""
    _formulas[packet] = formula


def install() -> None:
    """Hands the noted formulas to torch now if its counter is loaded, else as soon as it is."""
    if _FLOP_COUNTER in sys.modules:
        _register(sys.modules[_FLOP_COUNTER])
    elif not any(isinstance(finder, _AfterImport) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterImport())


def _register(flop_counter: ModuleType) -> None:
    for packet, formula in _formulas.items():
        if packet not in flop_counter.flop_registry:
            flop_counter.register_flop_formula(packet, get_raw=True)(formula)


class _AfterImport(importlib.abc.MetaPathFinder):
    """Registers the formulas right after torch's FLOP counter was imported."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != _FLOP_COUNTER:
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            _register(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec
