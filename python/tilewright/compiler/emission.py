"""Puts a tilewright operation in the place of a chain of nodes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch.fx import Node

from tilewright.compiler.epilogues import Chain
from tilewright.compiler.graphs import Builder, is_row_of, ours, same_sizes, value


class Unfit(Exception):
    """A chain that cannot be written as one operation after all; the message says why."""


def emit(chain: Chain, build: Builder) -> Node:
    """Replaces the chain's nodes by one operation, in the place of the last node before the activation.

    There every operand is at hand, and nothing has used the sum yet.
    """
    with build.graph.inserting_before(chain.before_activation.next):
        if chain.product.operation == "conv2d":
            fused, y, z = _convolution(chain, build)
        else:
            fused, y, z = _matrix_product(chain, build)
        if chain.reshape is not None:
            y = build.reshaped(y, chain.reshape.args[1], chain.tail)  # type: ignore[arg-type]
    build.put(y, chain.tail)
    if z is not None:
        build.put(z, chain.before_activation)
    build.erase(reversed(chain.nodes))
    return fused


def _call(chain: Chain, build: Builder, name: str, args: Sequence[Any]) -> tuple[Node, Node, Node | None]:
    """The node of the operation, that of its result, and that of the sum before the activation if it is kept."""
    if not chain.kept:
        y = build.call(getattr(ours, name).default, *args, like=chain.tail)
        return y, y, None
    pair = build.call(getattr(ours, f"{name}_with_preact").default, *args, like=chain.tail)
    return pair, build.item(pair, 0), build.item(pair, 1)


def _convolution(chain: Chain, build: Builder) -> tuple[Node, Node, Node | None]:
    product = chain.product
    args = (product.a, product.b, chain.bias, chain.residual, chain.activation, *product.geometry)
    return _call(chain, build, "conv2d", args)


def _matrix_product(chain: Chain, build: Builder) -> tuple[Node, Node, Node | None]:
    product, rows = chain.product, chain.rows_of
    after = value(chain.before_activation)
    assert after is not None
    shape = list(chain.views[-1].args[1]) if chain.views else None  # type: ignore[arg-type]
    inner: list[Any] = [-1, *product.shape[1:]]
    residual = chain.residual
    addend = value(residual)
    reshaped = addend is not None and not same_sizes(
        chain.residual_shape, after.shape if rows is not None else product.shape
    )
    if addend is not None and residual is not None and reshaped and not is_row_of(addend, after):
        if not same_sizes(addend.shape, chain.residual_shape):
            raise Unfit("what is added broadcasts in another shape than the product has")
        to = shape if rows is not None else inner
        if to is None or (to is inner and not all(isinstance(size, int) for size in inner)):
            raise Unfit("what is added would be reshaped to sizes that are symbols")
        residual = build.reshaped(residual, to)
    a = product.a if rows is None else rows
    fused, y, z = _call(chain, build, "matmul", (a, product.b, chain.bias, residual, chain.activation))
    if rows is None and shape is not None:
        y = build.reshaped(y, shape, chain.tail)
        z = None if z is None else build.reshaped(z, shape, chain.tail)
    return fused, y, z
