"""Gradients of convolutions: ``convolution_backward`` as our input and weight gradients, and a sum for the bias."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch.fx import Node

from tilewright.compiler.choice import Judge
from tilewright.compiler.graphs import Builder, aten, is_channels_last, is_op, ours, same, value
from tilewright.compiler.history import GraphReport
from tilewright.kernels.conv2d.problem import wants_channels_last
from tilewright.kernels.dtypes import KERNEL_DTYPES
from tilewright.ops.checks import dtype_text
from tilewright.ops.conv2d_op import InputGradientArguments, WeightGradientArguments

BACKWARD = aten.convolution_backward.default


def replace(node: Node, build: Builder, report: GraphReport, judge: Judge) -> None:
    """Puts our operations in the place of those gradients that they are better at; the rest stays with torch."""
    refusal = _refusal(node)
    if refusal is not None:
        report.leave(node, refusal)
        return
    items: dict[Any, Node] = {user.args[1]: user for user in node.users if is_op(user, operator.getitem)}
    wanted = [bool(asked) and index in items for index, asked in enumerate(node.args[-1])]  # type: ignore[arg-type]
    taken: dict[int, Node] = {}
    with build.graph.inserting_before(node):
        for index, name, make in ((0, "input", _input_gradient), (1, "weight", _weight_gradient)):
            if not wanted[index]:
                continue
            made = make(node, build, judge)
            if isinstance(made, str):
                report.leave(f"convolution_backward ({name})", made)
            else:
                taken[index] = made
        if taken and wanted[2]:
            grad = value(node.args[0])
            assert grad is not None
            taken[2] = build.call(aten.sum.dim_IntList, node.args[0], [0, 2, 3], like=node)
        if not taken:
            return
        rest = [asked and index not in taken for index, asked in enumerate(wanted)]
        remaining = build.call(BACKWARD, *node.args[:-1], rest, like=node) if any(rest) else None
        for index, item in items.items():
            if index in taken:
                build.put(taken[index], item)
            elif wanted[index] and remaining is not None:
                build.put(build.item(remaining, index), item)
    for item in items.values():
        if not item.users:
            build.graph.erase_node(item)
    build.erase([node])
    for index, made in taken.items():
        if index < 2:
            report.fuse([f"convolution_backward ({('input', 'weight')[index]})"], _name(made), _shape(made))


def _refusal(node: Node) -> str | None:
    tensors = [value(operand) for operand in node.args[:3]]
    if any(tensor is None for tensor in tensors):
        return "its operands are no plain tensors"
    grad, x, weight = tensors
    assert grad is not None
    assert x is not None
    assert weight is not None
    if node.args[7]:
        return "it is a transposed convolution"
    if weight.ndim != 4:
        return "it is no 2-D convolution"
    if any(tensor.dtype not in KERNEL_DTYPES or tensor.dtype != grad.dtype for tensor in (grad, x, weight)):
        return f"its dtypes are {', '.join(dtype_text(tensor.dtype) for tensor in (grad, x, weight))}"
    if any(tensor.device != grad.device for tensor in (x, weight)) or grad.device.type not in ("cpu", "cuda"):
        return "its operands are on different devices, or on one without kernels"
    if any(same(size, 0) for size in (*grad.shape, *x.shape, *weight.shape)):
        return "it is empty"
    return None


def _geometry(node: Node) -> tuple[Any, ...]:
    stride, (rows, columns), dilation = (list(node.args[i]) for i in (4, 5, 6))  # type: ignore[arg-type]
    return stride, [rows, rows, columns, columns], dilation, node.args[9]


def _sides(build: Builder, node: Node, tensor: torch.Tensor) -> list[Any]:
    """Height and width, as a graph has them: numbers, or nodes that ask for them."""
    return [
        size if isinstance(size, int) else build.call(aten.sym_size.int, node, dim)
        for dim, size in enumerate(tensor.shape)
        if dim >= 2
    ]


def _input_gradient(node: Node, build: Builder, judge: Judge) -> Node | str:
    operands: tuple[Any, ...] = node.args[:3]
    grad, x, weight = operands
    images = value(x)
    assert images is not None
    # The layout that torch's own gradient has, unless all images are to be channels_last.
    last = judge.channels_last or wants_channels_last(images) or _is_last(weight)
    walk: Any = _geometry(node)
    given = InputGradientArguments(*(grad, weight, images.shape[2:], *walk, last))
    refusal = judge.input_gradient_refusal(given)
    if refusal is not None:
        return refusal
    given = given._replace(size=_sides(build, x, images))
    return build.call(ours.conv2d_input_gradient.default, *given, like=node)


def _weight_gradient(node: Node, build: Builder, judge: Judge) -> Node | str:
    operands: tuple[Any, ...] = node.args[:3]
    grad, x, weight = operands
    filters = value(weight)
    assert filters is not None
    walk: Any = _geometry(node)
    last = wants_channels_last(filters)
    given = WeightGradientArguments(*(grad, x, filters.shape[2:], *walk, last))
    refusal = judge.weight_gradient_refusal(given)
    if refusal is not None:
        return refusal
    given = given._replace(kernel=_sides(build, weight, filters))
    return build.call(ours.conv2d_weight_gradient.default, *given, like=node)


def _is_last(node: Any) -> bool:
    found = value(node)
    return found is not None and wants_channels_last(found) and is_channels_last(found)


def _name(node: Node) -> str:
    return f"tilewright.{node.target._schema.name.partition('::')[2]}"  # type: ignore[union-attr]


def _shape(node: Node) -> Any:
    found = value(node)
    return () if found is None else found.shape
