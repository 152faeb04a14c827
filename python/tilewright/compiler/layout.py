"""Brings a graph's values up to date after nodes were replaced, and convolutions into channels_last.

Convolutions on CPUs are fastest with channels innermost. So the images that go into one are laid out so, once, where
the first convolution takes them: what follows (activations, additions, pooling, further convolutions) keeps that
layout by itself. Whoever gets the graph's outputs was promised strides, and operators that see memory as it lies
(``as_strided``, other libraries') were traced with them: there the layout is restored.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from tilewright.compiler.gradients import BACKWARD
from tilewright.compiler.graphs import (
    VIEWS,
    Builder,
    aten,
    is_channels_last,
    is_op,
    mutates,
    ours,
    output_of,
    outputs,
    same,
    same_strides,
    set_outputs,
    value,
)
from tilewright.compiler.products import CONVOLUTION

_IMAGES: dict[Any, tuple[int, ...]] = {
    CONVOLUTION: (0,),
    BACKWARD: (0, 1),
    ours.conv2d.default: (0,),
    ours.conv2d_with_preact.default: (0,),
    ours.conv2d_input_gradient.default: (0,),
    ours.conv2d_weight_gradient.default: (0, 1),
}
"""The operands of convolutions that are images."""

_AS_IT_LIES = (
    "as_strided",
    "_reshape_alias",
    "set_",
    "resize",
    "view_as_real",
    "view_as_complex",
    "empty_strided",
)
_NAMESPACES = ("aten", "prims", "tilewright")


def propagate(build: Builder, promised: Collection[int], channels_last: bool) -> None:
    """Evaluates anew what is no longer as it was, and restores strides where others rely on them.

    Args:
        promised: the positions of the outputs whose strides others rely on.
        channels_last: lay out the images of convolutions so.
    """
    before: dict[Node, Tensor] = {}
    for node in list(build.graph.nodes):
        if node.op != "call_function":
            continue
        if channels_last and node.target in _IMAGES:
            _lay_out(build, node)
        if not node.meta.get("stale") and not any(operand in before for operand in node.all_input_nodes):
            continue
        if mutates(node) or _sees_memory(node):
            _restore_operands(build, node, before)
            continue
        old = node.meta.get("val")
        node.meta["val"] = _evaluated(build, node)
        node.meta.pop("stale", None)
        now = node.meta["val"]
        if isinstance(old, Tensor) and isinstance(now, Tensor):
            if not same_strides(old, now):
                before[node] = old
        elif isinstance(now, (tuple, list)):
            before[node] = old  # getitem compares one by one
    _restore_outputs(build, promised, before)


def _lay_out(build: Builder, node: Node) -> None:
    """Images in channels_last before a convolution, where they are not."""
    for position in _IMAGES[node.target]:
        operand: Any = node.args[position]
        found = value(operand)
        if found is None or found.ndim != 4 or found.device.type != "cpu" or is_channels_last(found):
            continue
        with build.graph.inserting_before(node):
            copy = build.call(aten.clone.default, operand, memory_format=torch.channels_last, like=operand)
        node.update_arg(position, copy)
        node.meta["stale"] = True


def _sees_memory(node: Node) -> bool:
    """Whether what the node computes may depend on its operands' strides, or cannot be evaluated anew."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return getattr(node.target, "__name__", "") != "getitem"
    namespace, _, name = schema.name.partition("::")
    return (
        namespace not in _NAMESPACES
        or name.startswith(_AS_IT_LIES)
        or (name == "view" and schema.overload_name == "dtype")
        or "unbacked_bindings" in node.meta
    )


def _evaluated(build: Builder, node: Node) -> Any:
    try:
        return build.evaluate(node.target, node.args, node.kwargs)
    except (RuntimeError, ValueError):
        if not is_op(node, *VIEWS) or node.target is aten.reshape.default:
            raise
        # A view that these strides do not have is a copy.
        node.target = aten.reshape.default
        return build.evaluate(node.target, node.args, node.kwargs)


def _restore_operands(build: Builder, node: Node, before: dict[Node, Tensor]) -> None:
    for operand in node.all_input_nodes:
        if operand in before and isinstance(before[operand], Tensor):
            with build.graph.inserting_before(node):
                node.replace_input_with(operand, _restored(build, operand, before[operand]))


def _restore_outputs(build: Builder, promised: Collection[int], before: dict[Node, Tensor]) -> None:
    returned = outputs(build.graph)
    restored: dict[Node, Node] = {}
    for index, node in enumerate(returned):
        if index in promised and isinstance(before.get(node), Tensor):
            if node not in restored:
                with build.graph.inserting_before(output_of(build.graph)):
                    restored[node] = _restored(build, node, before[node])
            returned[index] = restored[node]
    if restored:
        set_outputs(build.graph, returned)


def _restored(build: Builder, node: Node, old: Tensor) -> Node:
    """The node's value, laid out as it was before."""
    if old.is_contiguous():
        return build.call(aten.clone.default, node, memory_format=torch.contiguous_format, like=node)
    if old.ndim == 4 and is_channels_last(old):
        return build.call(aten.clone.default, node, memory_format=torch.channels_last, like=node)
    order = _dense_order(old)
    rows = build.call(aten.permute.default, node, order, like=node)
    rows = build.call(aten.clone.default, rows, memory_format=torch.contiguous_format, like=node)
    return build.call(aten.permute.default, rows, [order.index(dim) for dim in range(old.ndim)], like=node)


def _dense_order(tensor: Tensor) -> list[int]:
    """The dimensions in the order in which the elements lie in memory, outermost first."""
    strides = tensor.stride()
    order = sorted(range(tensor.ndim), key=lambda dim: strides[dim], reverse=True)
    expected: Any = 1
    for dim in reversed(order):
        if not same(tensor.shape[dim], 1):
            if not same(strides[dim], expected):
                raise NotImplementedError(f"a value of strides {tuple(strides)} cannot be laid out anew")
            expected = expected * tensor.shape[dim]
    return order
