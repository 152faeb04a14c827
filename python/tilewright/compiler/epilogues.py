"""What follows a product and fits into its epilogue: ``act(product + bias + residual)``, found by walking its users."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from torch.fx import Node

from tilewright.compiler.graphs import (
    VIEWS,
    argument,
    aten,
    broadcasts,
    is_op,
    is_row_of,
    same_sizes,
    value,
)
from tilewright.compiler.history import described
from tilewright.compiler.products import Product, activation_of


@dataclass
class Chain:
    """A product with the nodes that its epilogue takes over."""

    product: Product
    nodes: list[Node]  # in order, the product's own first
    bias: Node | None
    residual: Node | None
    residual_shape: Sequence[Any] = ()  # of the value that the residual is added to
    activation: str = "none"
    sum: Node | None = None  # the last node before the activation; its value is kept if others use it too
    kept: bool = False
    views: list[Node] = field(default_factory=list)
    reshape: Node | None = None  # a view between the sum, where it is kept, and the activation
    ended: str = ""  # why the walk went no further

    @property
    def tail(self) -> Node:
        return self.nodes[-1]

    @property
    def before_activation(self) -> Node:
        return self.sum or self.tail

    @property
    def rows_of(self) -> Node | None:
        """The N-D input whose rows were made a matrix for the product, if the result's are taken apart again.

        ``view(x, (rows, K))``, product, ``view(…, (*leading, N))``: together a product of x as it was.
        """
        a = self.product.a
        source = a.args[0] if is_op(a, *VIEWS) else None
        matrix, found, result = value(a), value(source), value(self.before_activation)
        if not self.views or matrix is None or found is None or result is None:
            return None
        whole = matrix.ndim == 2 and found.ndim > 2 and same_sizes(found.shape[-1:], matrix.shape[-1:])
        if whole and same_sizes(result.shape, (*found.shape[:-1], self.product.shape[-1])):
            return source  # type: ignore[return-value]
        return None


def grow(product: Product, *, keep: bool) -> Chain:
    """The longest chain that starts with the product.

    Args:
        keep: whether the sum before the activation may be kept as a second result, for others that use it.
    """
    chain = Chain(product, [product.node], product.bias, product.residual)
    chain.residual_shape = product.shape
    while chain.activation == "none":
        last = chain.tail
        users = list(last.users)
        if len(users) != 1:
            _activate_beside_others(chain, users, keep)
            break
        user = users[0]
        if user.op == "output":
            chain.ended = "the graph returns it"
            break
        if is_op(user, *VIEWS) and product.operation == "matmul" and _may_reshape(chain):
            chain.nodes.append(user)
            chain.views.append(user)
        elif activation_of(user) is not None:
            chain.sum, chain.activation = last, activation_of(user) or "none"
            chain.nodes.append(user)
        elif is_op(user, aten.add.Tensor):
            refusal = _add(chain, user)
            if refusal is not None:
                chain.ended = refusal
                break
            chain.nodes.append(user)
        else:
            chain.ended = f"{described(user)} follows"
            break
    _drop_idle_views(chain)
    return chain


def _activate_beside_others(chain: Chain, users: list[Node], keep: bool) -> None:
    """Several nodes use the sum: it can be kept beside the activation's result, but nothing else can be taken over."""
    found = [each for each in map(_activated, users) if each is not None]
    if not keep or len(found) != 1:
        chain.ended = f"{len(users)} nodes use its result"
        return
    activation, view = found[0]
    chain.sum, chain.kept, chain.reshape = chain.tail, True, view
    chain.activation = activation_of(activation) or "none"
    chain.nodes += [activation] if view is None else [view, activation]


def _activated(user: Node) -> tuple[Node, Node | None] | None:
    """The activation that a node is, or that is all that follows the view that it is; and that view."""
    if activation_of(user) is not None:
        return user, None
    if is_op(user, *VIEWS) and len(user.users) == 1:
        after = next(iter(user.users))
        if activation_of(after) is not None:
            return after, user
    return None


def _add(chain: Chain, user: Node) -> str | None:
    """Takes over an addition; returns why not."""
    last = chain.tail
    left, right = user.args[:2]
    other = right if left is last else left
    if argument(user, 2, "alpha", 1) != 1:
        return "the sum that follows is scaled (alpha)"
    addend, result, current = value(other), value(user), value(last)
    if addend is None or result is None or current is None:
        return "a number is added"
    if addend.dtype != current.dtype or result.dtype != current.dtype:
        return "what is added has another dtype"
    if addend.device != current.device:
        return "what is added is on another device"
    if not same_sizes(result.shape, current.shape):
        return "the sum that follows has another shape"
    if chain.product.operation == "matmul" and chain.bias is None and is_row_of(addend, current):
        chain.bias = other  # type: ignore[assignment]
        return None
    if chain.residual is not None:
        return "a second sum follows"
    if not _fits(chain, addend, current):
        return "what is added broadcasts along a dimension that the product does not have"
    chain.residual, chain.residual_shape = other, current.shape  # type: ignore[assignment]
    return None


def _fits(chain: Chain, addend: Tensor, current: Tensor) -> bool:
    """Whether a residual of the current value is one of the fused operation's result too, reshaped if need be."""
    if not broadcasts(addend.shape, current.shape):
        return False
    if same_sizes(addend.shape, current.shape) or same_sizes(current.shape, chain.product.shape):
        return True
    return chain.rows_of is not None


def _may_reshape(chain: Chain) -> bool:
    """Whether the walk may pass a view: not with a residual that broadcasts along what the view changes."""
    addend = value(chain.residual)
    return addend is None or same_sizes(addend.shape, chain.residual_shape)


def _drop_idle_views(chain: Chain) -> None:
    """Views that nothing follows stay nodes of their own."""
    while len(chain.nodes) > 1 and chain.views and chain.nodes[-1] is chain.views[-1]:
        chain.nodes.pop()
        chain.views.pop()
