"""What the compiler did: one `GraphReport` for each graph, the latest of them kept for `tilewright.compiler.report`."""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

log = logging.getLogger("tilewright.compiler")

_KEPT = 64


@dataclass(frozen=True)
class Fusion:
    """Nodes of a graph that became one tilewright operation."""

    nodes: tuple[str, ...]
    operation: str
    shape: str

    def __str__(self) -> str:
        return f"{' + '.join(self.nodes)} -> {self.operation} {self.shape}"


@dataclass(frozen=True)
class Left:
    """A candidate that stayed as it was."""

    node: str
    reason: str

    def __str__(self) -> str:
        return f"{self.node}: {self.reason}"


@dataclass
class GraphReport:
    """What became of one graph."""

    name: str
    kind: str  # forward, backward or inference
    rest: str
    fused: list[Fusion] = field(default_factory=list)
    left: list[Left] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def fuse(self, nodes: Sequence[Any], operation: str, shape: Any) -> None:
        sizes = ", ".join(map(str, shape))
        self.fused.append(Fusion(tuple(map(described, nodes)), operation, f"({sizes})"))
        log.info("%s: fused %s", self.name, self.fused[-1])

    def leave(self, node: Any, reason: str) -> None:
        self.left.append(Left(described(node), reason))
        log.debug("%s: left %s", self.name, self.left[-1])

    def note(self, text: str) -> None:
        self.notes.append(text)
        log.info("%s: %s", self.name, text)

    def __str__(self) -> str:
        lines = [
            f"{self.name} ({self.kind}, rest: {self.rest}): {len(self.fused)} fused, {len(self.left)} left"
        ]
        lines += [f"  + {_times(count)}{fusion}" for fusion, count in Counter(self.fused).items()]
        lines += [f"  - {_times(count)}{left}" for left, count in Counter(self.left).items()]
        lines += [f"  . {note}" for note in self.notes]
        return "\n".join(lines)


@dataclass(frozen=True)
class Report:
    """The graphs that were compiled, oldest first."""

    graphs: tuple[GraphReport, ...]

    @property
    def fused(self) -> list[Fusion]:
        """Every fusion, of all graphs."""
        return [fusion for graph in self.graphs for fusion in graph.fused]

    @property
    def left(self) -> list[Left]:
        """Every candidate that was left, of all graphs."""
        return [left for graph in self.graphs for left in graph.left]

    def to_dict(self) -> dict[str, Any]:
        return {"graphs": [asdict(graph) for graph in self.graphs]}

    def __str__(self) -> str:
        if not self.graphs:
            return "tilewright.compiler: no graph was compiled"
        return "\n".join(map(str, self.graphs))

    def __rich__(self) -> Any:
        from rich.table import Table

        table = Table("graph", "nodes", "became, or why not", title="tilewright.compiler")
        for graph in self.graphs:
            name = f"{graph.name} ({graph.kind})"
            for fusion, count in Counter(graph.fused).items():
                nodes = _times(count) + " + ".join(fusion.nodes)
                table.add_row(name, nodes, f"{fusion.operation} {fusion.shape}")
            for left, count in Counter(graph.left).items():
                table.add_row(name, _times(count) + left.node, left.reason, style="dim")
            for note in graph.notes:
                table.add_row(name, "", note, style="italic")
            table.add_section()
        return table


def _times(count: int) -> str:
    return f"{count} × " if count > 1 else ""


def described(node: Any) -> str:
    """A node by the name of its operator."""
    if isinstance(node, str):
        return node
    target = getattr(node, "target", node)
    schema = getattr(target, "_schema", None)
    return str(target) if schema is None else schema.name.removeprefix("aten::")


_graphs: deque[GraphReport] = deque(maxlen=_KEPT)


def keep(graph: GraphReport) -> None:
    """Adds a graph to what `report` tells; the oldest goes when there are too many."""
    _graphs.append(graph)
    log.info("%s (%s): %d fused, %d left", graph.name, graph.kind, len(graph.fused), len(graph.left))


def report(*, clear: bool = False) -> Report:
    found = Report(tuple(_graphs))
    if clear:
        _graphs.clear()
    return found
