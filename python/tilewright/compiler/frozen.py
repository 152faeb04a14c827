"""Graphs whose parameters are frozen: what depends on parameters alone is computed once, weights are packed.

The user promised that parameters and buffers are written only in ways that torch counts. So before each call it is
enough to compare each one's identity, version and address with what they were; where one differs, everything that was
made of them is made anew.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node

from tilewright.compiler import frozen_ops
from tilewright.compiler.graphs import (
    Builder,
    aten,
    is_op,
    is_random,
    mutates,
    ours,
    output_of,
    outputs,
    placeholders,
    shares_memory,
    value,
)
from tilewright.kernels.dtypes import KERNEL_DTYPES


def constants(graph: Graph, static: Collection[int]) -> set[Node]:
    """The nodes whose values depend on nothing but parameters and buffers.

    Args:
        graph: a functional graph.
        static: the positions of parameters and buffers among its inputs.
    """
    written = {node.args[0] for node in graph.nodes if mutates(node)}
    exposed = _exposed(graph)
    found: set[Node] = set()
    for index, node in enumerate(placeholders(graph)):
        if index in static and value(node) is not None and node not in written:
            found.add(node)
    for node in graph.nodes:
        if (
            node.op == "call_function"
            and node.all_input_nodes
            and all(operand in found for operand in node.all_input_nodes)
            and node not in exposed
            and getattr(node.target, "_schema", None) is not None
            and isinstance(node.meta.get("val"), Tensor)
            and not is_random(node)
            and not mutates(node)
        ):
            found.add(node)
    return found


def _exposed(graph: Graph) -> set[Node]:
    """Nodes in whose memory an output of the graph may lie: the caller may write there."""
    waiting = [node for node in outputs(graph) if isinstance(node, Node)]
    found: set[Node] = set()
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            if node.op == "call_function" and shares_memory(node):
                waiting.extend(node.all_input_nodes)
    return found


def pack_weights(build: Builder, known: set[Node]) -> list[Node]:
    """Has products with a constant weight run on a packed one; returns the nodes of those weights."""
    weights: list[Node] = []
    for node in list(build.graph.nodes):
        if node in known or not is_op(node, ours.matmul.default, ours.conv2d.default):
            continue
        if node.args[1] not in known:
            continue
        weight: Any = node.args[1]
        found = value(weight)
        if found is None or found.device.type != "cpu" or found.dtype not in KERNEL_DTYPES:
            continue
        if is_op(node, ours.conv2d.default):
            node.target = frozen_ops.FROZEN_CONV2D
        elif found.ndim == 2 and len(node.args) < 6:
            weight = _transposed(build, weight, known)
            node.update_arg(1, weight)
            node.target = frozen_ops.FROZEN_LINEAR
        else:
            continue
        if weight not in weights:
            weights.append(weight)
    return weights


def _transposed(build: Builder, matrix: Node, known: set[Node]) -> Node:
    """A layer's weight (out, in), of the matrix (in, out) that its inputs are multiplied by."""
    if is_op(matrix, aten.t.default) or (
        is_op(matrix, aten.permute.default) and list(matrix.args[1]) == [1, 0]  # type: ignore[arg-type]
    ):
        return matrix.args[0]  # type: ignore[return-value]
    for user in matrix.users:
        if user.meta.get("transposed_weight"):
            return user
    with build.graph.inserting_after(matrix):
        found = build.call(aten.permute.default, matrix, [1, 0], like=matrix)
    found.meta["transposed_weight"] = True
    known.add(found)
    return found


@dataclass
class Split:
    """A graph in two: `prepare` computes constants of parameters, `main` the rest of constants and other inputs."""

    main: Graph
    prepare: GraphModule
    static: list[int]  # the inputs that `prepare` takes
    kept: list[int]  # the inputs that `main` takes, after the constants
    packed: list[bool]  # of each constant, whether it is a weight to be packed


def split(graph: Graph, known: set[Node], weights: Sequence[Node]) -> Split:
    """Takes the constants out of a graph. `weights` are those that products run on packed."""
    inputs = placeholders(graph)
    border = [
        node
        for node in graph.nodes
        if node in known
        and (node in weights or node.op != "placeholder")
        and any(user not in known for user in node.users)
    ]
    prepare = Graph()
    mapping: dict[Node, Node] = {}
    needed = _ancestors(border)
    static = [index for index, node in enumerate(inputs) if node in needed]
    for node in graph.nodes:
        if node in needed:
            mapping[node] = prepare.node_copy(node, lambda inner: mapping[inner])
    prepare.output(tuple(mapping[node] for node in border))

    main = Graph()
    known_in_main: dict[Node, Node] = {}
    for node in border:
        placeholder = main.placeholder(f"constant_{len(known_in_main)}")
        placeholder.meta = {"val": node.meta["val"]}
        known_in_main[node] = placeholder
    kept = []
    for index, node in enumerate(inputs):
        if node not in known_in_main and (node not in known or _used_beside(node, known)):
            known_in_main[node] = main.node_copy(node)
            kept.append(index)
    for node in graph.nodes:
        if node.op != "placeholder" and node not in known and node.op != "output":
            known_in_main[node] = main.node_copy(node, lambda inner: known_in_main[inner])
    last = output_of(graph)
    output = main.output(torch.fx.node.map_arg(last.args[0], lambda inner: known_in_main[inner]))
    output.meta = dict(last.meta)
    return Split(main, GraphModule({}, prepare), static, kept, [node in weights for node in border])


def _used_beside(node: Node, known: set[Node]) -> bool:
    return any(user not in known for user in node.users)


def _ancestors(nodes: Sequence[Node]) -> set[Node]:
    waiting, found = list(nodes), set()
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting.extend(node.all_input_nodes)
    return found


class Frozen:
    """Runs a split graph. Boxed, as AOTAutograd calls it: the list of inputs is emptied."""

    _boxed_call = True

    def __init__(self, parts: Split, run: Callable[[list[Any]], Any]) -> None:
        self._prepare, self._packed, self._static, self._kept = (
            parts.prepare,
            parts.packed,
            parts.static,
            parts.kept,
        )
        self._run = run
        self._lock = threading.Lock()
        self._seen: list[tuple[int, Tensor, int, int]] = []
        self._constants: tuple[Tensor, ...] | None = None
        self.renewals = 0

    def __call__(self, inputs: list[Any]) -> Any:
        found = self._constants
        if found is None or not self._unchanged(inputs):
            found = self._renew(inputs)
        args = [*found, *[inputs[index] for index in self._kept]]
        inputs.clear()
        return self._run(args)

    def _unchanged(self, inputs: list[Any]) -> bool:
        """Whether every parameter is the tensor that it was, never written since, in the same memory."""
        for index, tensor, version, address in self._seen:
            now = inputs[index]
            if now is not tensor or _version(now) != version or now.data_ptr() != address:
                return False
        return True

    def _renew(self, inputs: list[Any]) -> tuple[Tensor, ...]:
        with self._lock:
            if self._constants is not None and self._unchanged(inputs):
                return self._constants
            static = [inputs[index] for index in self._static]
            # Taken down first: what is written while the constants are made is noticed by the next call.
            seen = [
                (index, tensor, _version(tensor), tensor.data_ptr())
                for index, tensor in zip(self._static, static, strict=True)
            ]
            with torch.inference_mode(False), torch.no_grad():
                made = self._prepare(*static)
            found = tuple(
                frozen_ops.freeze(constant) if packed else constant
                for constant, packed in zip(made, self._packed, strict=True)
            )
            self._constants = None  # no thread may take the old ones for those of the new parameters
            self._seen = seen
            self._constants = found
            self.renewals += 1
            return found


def _version(tensor: Tensor) -> int:
    # Of a tensor made in inference mode torch counts no writes; the promise speaks of counted ones.
    return 0 if tensor.is_inference() else tensor._version
