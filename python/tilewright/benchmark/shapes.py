"""Lists of problems, whatever the operation: ``<operation>/shapes.py`` holds the lists."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Protocol, TypeVar

from tilewright.errors import ArgumentError


class Shape(Protocol):
    """One problem of a list: a frozen dataclass that begins with `name`, whose first word is the list's.

    ``str(shape)`` is the name and the sizes, spelled as `spelling` says.
    """

    spelling: ClassVar[str]
    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def name(self) -> str: ...

    def elements(self) -> int: ...


S = TypeVar("S", bound=Shape)


def named(names: str, lists: Mapping[str, Sequence[S]]) -> tuple[S, ...]:
    """The shapes of a list, of several separated by commas, or of ``all``.

    Raises:
        ArgumentError: for a name that is none of them.
    """
    found: dict[S, None] = {}
    for name in names.split(","):
        name = name.strip()
        if name != "all" and name not in lists:
            raise ArgumentError(
                f"shapes is {name!r}; expected one or more of {', '.join(lists)}, separated by commas, or all"
            )
        for each in lists.values() if name == "all" else (lists[name],):
            found.update(dict.fromkeys(each))
    return tuple(found)


def families(shapes: Iterable[Shape]) -> dict[str, list[Shape]]:
    """The shapes by the first word of their names: the lists that they come from."""
    found: dict[str, list[Shape]] = {}
    for shape in shapes:
        found.setdefault(shape.name.partition(" ")[0], []).append(shape)
    return found
