"""BatchNorm in inference folded into the convolution or linear layer before it.

With running statistics a BatchNorm is affine: ``bn(y) = (y - mean)·scale + beta``, ``scale = gamma / sqrt(var + eps)``.
So ``bn(x·w + b) = x·(w·scale) + (b - mean)·scale + beta``, which the graph computes in place of both. Where parameters
are frozen that happens once; else with every call, so that it is done only where the weight is small beside the result.
"""

from __future__ import annotations

import operator
from collections.abc import Collection
from typing import Any

import torch
from torch.fx import Node

from tilewright.compiler.graphs import Builder, aten, hint, is_op, value
from tilewright.compiler.history import GraphReport, described
from tilewright.compiler.products import CONVOLUTION, recognise

NORMS = frozenset({aten._native_batch_norm_legit_no_training.default, aten._batch_norm_no_update.default})
_LEAST_SHARE = 4
"""The result has at least so many elements for each of the weight, where the folding is paid for in every call."""


def fold(build: Builder, report: GraphReport, constants: Collection[Node], always: bool) -> None:
    """Folds every BatchNorm that can be, or with `always` false, that is worth it.

    `constants` are the nodes whose values never change.
    """
    for norm in [node for node in build.graph.nodes if is_op(node, *NORMS)]:
        product, reason = _foldable(norm, constants, always)
        if product is None:
            report.leave(norm, reason)
            continue
        with build.graph.inserting_before(norm):
            folded = _folded(build, norm, product)
        names = (described(product), described(norm))
        for item in list(norm.users):
            build.put(folded, item)
            build.graph.erase_node(item)
        build.graph.erase_node(norm)
        build.graph.erase_node(product)
        folded.meta["folded"] = names


def _foldable(norm: Node, constants: Collection[Node], always: bool) -> tuple[Node | None, str]:
    """The product that a BatchNorm can be folded into, or why there is none."""
    if any(not is_op(user, operator.getitem) or user.args[1] != 0 for user in norm.users):
        return None, "its statistics are used"
    product: Any = norm.args[0]
    if not is_op(product, CONVOLUTION, aten.addmm.default, aten.mm.default):
        return None, "it does not follow a convolution or linear layer"
    if len(product.users) != 1:
        return None, "the layer before it is used by others too"
    found = recognise(product)
    if isinstance(found, str):
        return None, f"of the layer before it: {found}"
    if found.residual is not None:
        return None, "the layer before it adds more than a bias"
    result, weight = value(product), value(found.b)
    if result is None or weight is None or result.ndim not in (2, 4):
        return None, "the layer before it is of another kind"
    parameters = [found.b, found.bias, *norm.args[1:5]]
    if always or all(not isinstance(each, Node) or each in constants for each in parameters):
        return product, ""
    elements, of_weight = (_count(each.shape) for each in (result, weight))
    if elements < _LEAST_SHARE * of_weight:
        return None, (
            f"its weight ({of_weight} elements) is large beside its result ({elements}), so that folding it in every "
            "call would take longer; options={'freeze': True} folds it once"
        )
    return product, ""


def _count(shape: Any) -> int:
    count = 1
    for size in shape:
        count *= hint(size)
    return count


def _folded(build: Builder, norm: Node, product: Node) -> Node:
    """The product with the BatchNorm in its weight and bias, computed in fp32 and rounded once."""
    gamma, beta, mean, var, eps = *norm.args[1:5], norm.args[6]
    found = recognise(product)
    assert not isinstance(found, str)
    weight = value(found.b)
    assert weight is not None

    def fp32(node: Any) -> Node:
        return _cast(build, node, torch.float32)

    scale = build.call(aten.rsqrt.default, build.call(aten.add.Tensor, fp32(var), eps))
    if gamma is not None:
        scale = build.call(aten.mul.Tensor, scale, fp32(gamma))
    # Of a convolution's weight the output channels come first, of a matrix product's operand b last.
    column = build.reshaped(scale, [-1, 1, 1, 1]) if found.operation == "conv2d" else scale
    folded = _cast(build, build.call(aten.mul.Tensor, fp32(found.b), column), weight.dtype)
    shift = build.call(aten.mul.Tensor, fp32(mean), scale)
    if found.bias is None:
        bias = build.call(aten.neg.default, shift)
    else:
        bias = build.call(aten.sub.Tensor, build.call(aten.mul.Tensor, fp32(found.bias), scale), shift)
    if beta is not None:
        bias = build.call(aten.add.Tensor, bias, fp32(beta))
    bias = _cast(build, bias, weight.dtype)
    if found.operation == "conv2d":
        return build.call(CONVOLUTION, found.a, folded, bias, *product.args[3:], like=product)
    return build.call(aten.addmm.default, bias, found.a, folded, like=product)


def _cast(build: Builder, node: Any, dtype: torch.dtype) -> Node:
    found = value(node)
    if found is not None and found.dtype == dtype:
        return node  # type: ignore[no-any-return]
    return build.call(torch.ops.prims.convert_element_type.default, node, dtype)
