"""The products of a graph: convolutions and matrix products, as ATen spells them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from tilewright.compiler.graphs import argument, aten, broadcasts, is_op, is_row_of, same, value
from tilewright.kernels.dtypes import KERNEL_DTYPES
from tilewright.ops.checks import dtype_text, shape_text

CONVOLUTION = aten.convolution.default
MATRIX_PRODUCTS = frozenset({aten.mm.default, aten.addmm.default, aten.bmm.default, aten.baddbmm.default})
PRODUCTS = MATRIX_PRODUCTS | {CONVOLUTION}


@dataclass
class Product:
    """A node that multiplies: ``a·b + bias + residual``, or the convolution of a with b."""

    node: Node
    operation: str  # matmul or conv2d
    a: Node
    b: Node
    bias: Node | None = None
    residual: Node | None = None
    geometry: tuple[Any, ...] = ()  # of a convolution: stride, padding of the four sides, dilation, groups

    @property
    def shape(self) -> torch.Size:
        return self.value.shape

    @property
    def value(self) -> Tensor:
        found = value(self.node)
        assert found is not None
        return found


def recognise(node: Node) -> Product | str:
    """The product that a node of `PRODUCTS` computes, or why tilewright does not compute it."""
    product = _convolution(node) if node.target is CONVOLUTION else _matrix_product(node)
    if isinstance(product, str):
        return product
    return _refusal(product) or product


def _convolution(node: Node) -> Product | str:
    args: tuple[Any, ...] = node.args
    x, weight, bias, stride, padding, dilation, transposed, _, groups = args
    found = value(weight)
    if transposed:
        return "it is a transposed convolution"
    if found is None or found.ndim != 4:
        return "it is no 2-D convolution"
    if any(same(size, 0) for size in found.shape):
        return "its weight is empty"
    rows, columns = padding
    geometry = (list(stride), [rows, rows, columns, columns], list(dilation), groups)
    return Product(node, "conv2d", x, weight, bias, None, geometry)


def _matrix_product(node: Node) -> Product | str:
    if node.target in (aten.mm.default, aten.bmm.default):
        return Product(node, "matmul", *node.args)  # type: ignore[arg-type]
    addend, a, b = node.args[:3]
    if argument(node, 3, "beta", 1) != 1 or argument(node, 4, "alpha", 1) != 1:
        return "it scales its operands (alpha, beta)"
    found, result = value(addend), value(node)
    if found is None or result is None:
        return "its operands are no plain tensors"
    product = Product(node, "matmul", a, b)  # type: ignore[arg-type]
    if is_row_of(found, result):
        product.bias = addend  # type: ignore[assignment]
    elif broadcasts(found.shape, result.shape):
        product.residual = addend  # type: ignore[assignment]
    else:
        return "what it adds does not broadcast to its result"
    return product


def _refusal(product: Product) -> str | None:
    """Why tilewright's kernels do not compute the product of these operands."""
    operands = [product.a, product.b, product.bias, product.residual]
    found = [value(operand) for operand in operands if operand is not None]
    result = value(product.node)
    if result is None or any(each is None for each in found):
        return "its operands are no plain tensors"
    tensors = [each for each in (*found, result) if each is not None]
    for tensor in tensors:
        if tensor.dtype not in KERNEL_DTYPES:
            return f"its dtype is {dtype_text(tensor.dtype)}"
        if tensor.layout is not torch.strided:
            return f"an operand's layout is {tensor.layout}"
        if tensor.device != result.device:
            return "its operands are on different devices"
    if tensors[0].dtype != tensors[1].dtype or result.dtype != tensors[0].dtype:
        return "its operands are of different dtypes"
    if result.device.type not in ("cpu", "cuda"):
        return f"it is on {result.device.type}"
    if any(same(size, 0) for size in (*result.shape, tensors[0].shape[-1])):
        return f"it is empty, of shape {shape_text(result.shape)}"
    return None


def activation_of(node: Node) -> str | None:
    """The epilogue's activation that a node applies to its first operand."""
    if is_op(node, aten.relu.default):
        return "relu"
    if is_op(node, aten.silu.default):
        return "silu"
    if is_op(node, aten.gelu.default):
        return {"none": "gelu", "tanh": "gelu_tanh"}.get(argument(node, 1, "approximate", "none"))
    return None
