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
    varies: ClassVar[str]  # the size that a list goes through: rows, or images
    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def name(self) -> str: ...

    def elements(self) -> int: ...


S = TypeVar("S", bound=Shape)


def named(names: str, lists: Mapping[str, Sequence[S]]) -> tuple[S, ...]:
    """The shapes of a list, of several separated by commas, or of ``all``; of ``list@8``, those with 8 rows or images.

    Raises:
        ArgumentError: for a name that is none of them, or a size that none of its shapes has.
    """
    found: dict[S, None] = {}
    for name in names.split(","):
        name, at, size = name.strip().partition("@")
        if name != "all" and name not in lists:
            raise ArgumentError(
                f"shapes is {name!r}; expected one or more of {', '.join(lists)}, separated by commas, or all"
            )
        for each in lists.values() if name == "all" else (lists[name],):
            of_size = [shape for shape in each if not at or str(getattr(shape, shape.varies)) == size]
            found.update(dict.fromkeys(of_size))
        if not found:
            raise ArgumentError(
                f"shapes is {name}@{size}; no shape of {name} has the size {size or 'nothing'}"
            )
    return tuple(found)


def families(shapes: Iterable[Shape]) -> dict[str, list[Shape]]:
    """The shapes by the first word of their names: the lists that they come from."""
    found: dict[str, list[Shape]] = {}
    for shape in shapes:
        found.setdefault(shape.name.partition(" ")[0], []).append(shape)
    return found
