"""Functional ATen graphs: what a node's value is like, what follows what, and how nodes are made."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx import Graph, Node
from torch.fx.experimental.symbolic_shapes import statically_known_true
from torch.fx.node import map_arg

aten: Any = torch.ops.aten
ours: Any = torch.ops.tilewright

VIEWS = frozenset({aten.view.default, aten._unsafe_view.default, aten.reshape.default})
"""Other shapes of the same elements, in the same order."""

_FALLBACK_SIZE = 64
"""What a size is taken to be of which nothing is known when costs are estimated."""

_ORIGINS = ("stack_trace", "nn_module_stack", "source_fn_stack", "original_aten", "from_node", "seq_nr")


def value(node: Any) -> Tensor | None:
    """The fake tensor that stands for a node's value; None where it is none, or a subclass of unknown behaviour."""
    found = node.meta.get("val") if isinstance(node, Node) else None
    return found if type(found) is FakeTensor else None


def same(a: Any, b: Any) -> bool:
    """Whether two sizes are equal, whatever the symbols in them turn out to be. Adds no guard."""
    return statically_known_true(a == b)


def same_sizes(a: Sequence[Any], b: Sequence[Any]) -> bool:
    return len(a) == len(b) and all(map(same, a, b))


def broadcasts(shape: Sequence[Any], full: Sequence[Any]) -> bool:
    """Whether `shape` broadcasts to exactly `full`."""
    return len(shape) <= len(full) and all(
        same(size, 1) or same(size, whole)
        for size, whole in zip(reversed(shape), reversed(full), strict=False)
    )


def is_row_of(addend: Tensor, result: Tensor) -> bool:
    """Whether it is (N,), one value per column of (..., N): then it broadcasts alike however the rows are arranged."""
    return addend.ndim == 1 and same(addend.shape[0], result.shape[-1])


def same_strides(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors of one shape lie in memory alike; strides of sizes of 1 mean nothing."""
    return all(
        same(size, 1) or same(first, second)
        for size, first, second in zip(a.shape, a.stride(), b.stride(), strict=True)
    )


def is_channels_last(tensor: Tensor) -> bool:
    """Whether the elements of (N, C, H, W) lie densely with channels innermost, as far as is known without a guard."""
    _, c, h, w = tensor.shape
    expected = (c * h * w, 1, c * w, c)
    return all(
        same(size, 1) or same(stride, at)
        for size, stride, at in zip(tensor.shape, tensor.stride(), expected, strict=True)
    )


def hint(size: Any) -> int:
    """A number for a size that may be a symbol, or the node of one: what it was when the graph was traced."""
    if isinstance(size, Node):
        size = size.meta["val"]
    if isinstance(size, int):
        return size
    known = getattr(size.node, "hint", None)
    return known if isinstance(known, int) else _FALLBACK_SIZE


def is_op(node: Any, *targets: Any) -> bool:
    return isinstance(node, Node) and node.op == "call_function" and node.target in targets


def argument(node: Node, position: int, name: str, default: Any = None) -> Any:
    """A node's argument, given in order or by name."""
    if len(node.args) > position:
        return node.args[position]
    return node.kwargs.get(name, default)


def mutates(node: Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return node.op == "call_function" and schema is not None and schema.is_mutable


def is_random(node: Node) -> bool:
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())


def is_view(node: Node) -> bool:
    """Whether the node's value may lie in the memory of an operand's."""
    schema = getattr(node.target, "_schema", None)
    return schema is None or any(argument.alias_info is not None for argument in schema.arguments)


def shares_memory(node: Node) -> bool:
    """The same for ATen operators that copy only where they must (reshape, contiguous, to)."""
    name = getattr(getattr(node.target, "_schema", None), "name", "")
    return is_view(node) or name in ("aten::reshape", "aten::contiguous", "aten::to", "aten::expand_as")


class Builder:
    """Makes nodes in a graph, with the values that they will have."""

    def __init__(self, graph: Graph, mode: FakeTensorMode) -> None:
        self.graph, self.mode = graph, mode

    def evaluate(self, target: Any, args: Any, kwargs: Any = None) -> Any:
        """What the operator makes of the nodes' fake values."""
        real_args, real_kwargs = map_arg((args, kwargs or {}), lambda node: node.meta["val"])
        with self.mode, torch.no_grad(), enable_python_dispatcher():
            return target(*real_args, **real_kwargs)

    def call(self, target: Any, *args: Any, like: Node | None = None, **kwargs: Any) -> Node:
        """A new node at the graph's point of insertion. `like` is the node whose origin it inherits."""
        found = self.evaluate(target, args, kwargs)
        node = self.graph.call_function(target, args, kwargs)
        # What its operands are made of may change yet: `layout.propagate` looks again.
        node.meta["val"], node.meta["stale"] = found, True
        if like is not None:
            node.meta.update({name: like.meta[name] for name in _ORIGINS if name in like.meta})
        return node

    def put(self, node: Node, old: Node) -> None:
        """Has `node` stand for `old` wherever that is used. Its users were traced with the old value's strides."""
        node.meta["val"], node.meta["stale"] = old.meta["val"], True
        old.replace_all_uses_with(node)

    def item(self, node: Node, index: int) -> Node:
        """One of several outputs."""
        return self.call(operator.getitem, node, index, like=node)

    def reshaped(self, node: Node, shape: Sequence[Any], like: Node | None = None) -> Node:
        """The node's value in another shape, given as a graph does: integers, nodes of sizes, one -1."""
        return self.call(aten.reshape.default, node, list(shape), like=like or node)

    def erase(self, nodes: Iterable[Node]) -> None:
        """Removes nodes that nothing uses any more, users first."""
        for node in nodes:
            if not node.users:
                self.graph.erase_node(node)


def copied(graph: Graph) -> Graph:
    """A copy to work on, so that a failure leaves the original as it was."""
    duplicate = Graph()
    mapping: dict[Node, Node] = {}
    returned = duplicate.graph_copy(graph, mapping)
    output = duplicate.output(returned)
    output.meta = dict(output_of(graph).meta)
    return duplicate


def output_of(graph: Graph) -> Node:
    found: Node = next(iter(reversed(graph.nodes)))
    return found


def outputs(graph: Graph) -> list[Any]:
    """What the graph returns, in order; entries that are no nodes are constants."""
    returned = output_of(graph).args[0]
    return list(returned) if isinstance(returned, (tuple, list)) else [returned]


def set_outputs(graph: Graph, returned: Sequence[Any]) -> None:
    output_of(graph).args = (tuple(returned),)


def placeholders(graph: Graph) -> list[Node]:
    return [node for node in graph.nodes if node.op == "placeholder"]


def fake_mode_of(graph: Graph) -> FakeTensorMode | None:
    for node in graph.nodes:
        found = value(node)
        if found is not None:
            mode: FakeTensorMode = found.fake_mode  # type: ignore[attr-defined]
            return mode
    return None
