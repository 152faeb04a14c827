"""Decomposes what was kept whole for the matching but not fused: Inductor expects it decomposed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from tilewright.compiler.graphs import Builder, aten, is_op
from tilewright.compiler.norms import NORMS

ACTIVATIONS = frozenset({aten.gelu.default, aten.silu.default})


def kept_whole(inference: bool) -> frozenset[Any]:
    """The operators that the matching wants whole. A BatchNorm that has gradients is not folded."""
    return ACTIVATIONS | NORMS if inference else ACTIVATIONS


def decompose(build: Builder, table: dict[Any, Callable[..., Any]]) -> None:
    """Replaces each such operator that is still there by what the table makes of it."""
    for node in [node for node in build.graph.nodes if is_op(node, *ACTIVATIONS, *NORMS)]:
        if node.target in table:
            _decompose(build, node, table)


def _decompose(build: Builder, node: Node, table: dict[Any, Callable[..., Any]]) -> None:
    from torch.fx.experimental.proxy_tensor import make_fx

    target: Any = node.target
    operands = [operand for operand in node.args if isinstance(operand, Node)]
    where = [index for index, operand in enumerate(node.args) if isinstance(operand, Node)]

    def run(*tensors: Tensor) -> Any:
        args = list(node.args)
        for index, tensor in zip(where, tensors, strict=True):
            args[index] = tensor
        return target(*args, **node.kwargs)

    with build.mode, torch.no_grad():
        traced = make_fx(run, decomposition_table=table)(*(operand.meta["val"] for operand in operands))
    known: dict[Node, Any] = dict(
        zip((each for each in traced.graph.nodes if each.op == "placeholder"), operands, strict=True)
    )
    with build.graph.inserting_before(node):
        for each in traced.graph.nodes:
            if each.op == "call_function":
                known[each] = build.graph.node_copy(each, lambda inner: known[inner])
            elif each.op == "output":
                _replace(build, node, each.args[0], known)
            elif each.op != "placeholder":
                raise NotImplementedError(f"the decomposition of {target} has a constant")


def _replace(build: Builder, node: Node, returned: Any, known: dict[Node, Any]) -> None:
    if isinstance(returned, Node):
        node.replace_all_uses_with(known[returned])
    else:
        for item in list(node.users):
            item.replace_all_uses_with(known[returned[item.args[1]]])
            build.graph.erase_node(item)
    build.graph.erase_node(node)
