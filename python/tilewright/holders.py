"""Who holds a module's weight: whoever was given it is noted, whoever still has it is counted."""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, Mapping, ValuesView
from sys import getrefcount
from types import SimpleNamespace
from typing import Any

import torch
from torch.nn import Parameter

from tilewright.ops.packed import FrozenWeight

_is_dynamo_compiling = torch.compiler.is_dynamo_compiling
_storage_uses = getattr(torch._C, "_storage_Use_Count", None)
_get: Any = dict.get


class WatchedParameters(dict[str, Any]):
    """A module's parameters, as ``module.__dict__["_parameters"]``. Notes whenever it gives the weight out.

    torch's modules, its compiled code and everybody who asks for ``module.weight``, ``parameters()`` or
    ``state_dict()`` read this dictionary. `lent` is replaced by a new object each time, after the weight was found and
    before the reader has it. Replacing an attribute is atomic, and an object that was replaced never comes back, so
    that no lock is needed to tell whether anything was given out in between. Who got an iterator holds the dictionary
    too, which `alone` counts. torch's guards read past these methods, in C++, which is fine: they write nothing.
    """

    __slots__ = ("lent",)

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        super().__init__(parameters)
        self.lent: object = object()

    def _note(self) -> None:
        # While code is traced nothing is taken yet; once compiled, it comes here whenever it runs.
        if not _is_dynamo_compiling():
            self.lent = object()

    def __getitem__(self, name: str) -> Any:
        found = super().__getitem__(name)
        if name == "weight":
            self._note()
        return found

    def __iter__(self) -> Iterator[str]:
        # Without this method of our own, dict(parameters), copy, | and ** would read past __getitem__.
        return super().__iter__()

    def get(self, name: str, default: Any = None) -> Any:
        found = super().get(name, default)
        self._note()
        return found

    def items(self) -> ItemsView[str, Any]:  # type: ignore[override]
        found = super().items()
        self._note()
        return found

    def values(self) -> ValuesView[Any]:  # type: ignore[override]
        found = super().values()
        self._note()
        return found

    def pop(self, *args: Any) -> Any:
        found = super().pop(*args)
        self._note()
        return found

    def popitem(self) -> tuple[str, Any]:
        found = super().popitem()
        self._note()
        return found

    def setdefault(self, name: str, default: Any = None) -> Any:
        found = super().setdefault(name, default)
        self._note()
        return found


def weight_of(module: Any) -> Any:
    """The module's weight, for us who do not keep it: nothing is noted. None if the module holds none itself."""
    return _get(module.__dict__["_parameters"], "weight")


def alone(module: Any, packed: FrozenWeight | None) -> bool:
    """Whether the module alone refers to its weight and its weight's memory, beside a snapshot that keeps `packed`."""
    return _references(module) == _ALONE[0 if packed is None else packed.views]


def _references(module: Any) -> tuple[int, ...]:
    """How many refer to the parameters' dictionary, to the weight, and to its memory."""
    parameters = module.__dict__["_parameters"]
    weight = _get(parameters, "weight")
    if type(parameters) is not WatchedParameters or type(weight) is not Parameter:
        return ()
    storage = weight.untyped_storage()
    uses = -1 if _storage_uses is None else _storage_uses(storage._cdata)
    impls = weight._use_count()  # type: ignore[attr-defined]
    return getrefcount(parameters), getrefcount(weight), impls, getrefcount(storage), uses


def _unheld() -> int:
    """What ``getrefcount(snapshot.weight)`` says while nobody but the module and the snapshot refers to the weight."""
    weight = object()
    parameters, snapshot = {"weight": weight}, SimpleNamespace(weight=weight)
    del weight
    return getrefcount(snapshot.weight) if parameters else 0


UNHELD = _unheld()


def _calibrate() -> dict[int, tuple[int, ...]]:
    """What `_references` says of a weight that its module alone holds, by the views of it that a snapshot keeps."""
    found: dict[int, tuple[int, ...]] = {}
    for shape in ((1, 1), (1, 1, 2, 2)):
        weight = Parameter(torch.empty(shape), requires_grad=False)
        module = SimpleNamespace(_parameters=WatchedParameters({"weight": weight}))
        del weight
        found[0] = _references(module)
        snapshot = weight_of(module), FrozenWeight(weight_of(module).detach())
        found[snapshot[1].views] = _references(module)
        del snapshot
    # With a torch that does not tell how often memory is used, or where somebody (a debugger) refers to our own
    # variables, there is nothing to go by: no weight counts as held by its module alone.
    usual = all(count <= most for count, most in zip(found[0], (3, 3, 1, 3, 2), strict=True)) and UNHELD <= 3
    return found if usual and _storage_uses is not None else dict.fromkeys(found, (0,))


_ALONE = _calibrate()
