"""What is to be done once somebody imports a module that is not worth importing for that alone."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Callable, Sequence
from types import ModuleType

_Act = Callable[[ModuleType], None]
_waiting: dict[str, list[_Act]] = {}


def after_import(name: str, act: _Act) -> None:
    """Calls ``act(module)`` now if the module is loaded, else right after it was imported, by whomever."""
    module = sys.modules.get(name)
    if module is not None:
        act(module)
        return
    _waiting.setdefault(name, []).append(act)
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the modules waited for as Python's own finder does, and acts once they have run."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in _waiting:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            for act in _waiting.pop(fullname, ()):
                act(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec
