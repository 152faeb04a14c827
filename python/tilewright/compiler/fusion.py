"""One graph's way through the compiler: BatchNorm, chains, gradients, layout, frozen parameters."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch.fx import Graph, Node
from torch.fx.node import map_arg

from tilewright import settings
from tilewright.compiler import emission, frozen, gradients, layout, norms
from tilewright.compiler.choice import Judge
from tilewright.compiler.epilogues import Chain, grow
from tilewright.compiler.graphs import (
    Builder,
    copied,
    fake_mode_of,
    is_op,
    is_random,
    mutates,
    ours,
    value,
)
from tilewright.compiler.history import GraphReport, described, log
from tilewright.compiler.options import CompilerOptions
from tilewright.compiler.products import CONVOLUTION, PRODUCTS, recognise

_CONVOLUTIONS = (
    ours.conv2d.default,
    ours.conv2d_with_preact.default,
    ours.conv2d_input_gradient.default,
    ours.conv2d_weight_gradient.default,
)


@dataclass
class Fused:
    """A graph after fusion, and how it is split where parameters are frozen."""

    graph: Graph
    split: frozen.Split | None = None


def fuse(
    graph: Graph,
    report: GraphReport,
    options: CompilerOptions,
    *,
    static: Collection[int],
    promised: Collection[int],
) -> Fused:
    """A new graph with everything fused that can be, or the given one where that fails. `graph` stays as it is.

    Args:
        graph: a functional ATen graph of AOTAutograd's.
        report: gets what was done.
        static: the positions of parameters and buffers among the inputs.
        promised: the positions of the outputs whose strides must stay.
    """
    mode = fake_mode_of(graph)
    if mode is None:
        return Fused(graph)
    # In training without Inductor all that is saved for backward keeps its layout: copies there and back cost more.
    may_lay_out = report.kind == "inference" or report.rest == "inductor"
    for channels_last in (True, False) if may_lay_out and _has_convolutions_on_cpu(graph) else (False,):
        build = Builder(copied(graph), mode)
        attempt = GraphReport(report.name, report.kind, report.rest)
        try:
            fused = _attempt(build, attempt, options, static, promised, channels_last)
        except Exception as error:
            if settings.current().strict:
                raise
            log.warning("%s: %s: %s", report.name, type(error).__name__, error, exc_info=True)
            report.note(f"{'channels_last' if channels_last else 'every fusion'} was given up: {error}")
            continue
        report.fused, report.left = attempt.fused, attempt.left
        report.notes += attempt.notes
        return fused
    return Fused(graph)


def _has_convolutions_on_cpu(graph: Graph) -> bool:
    found = (value(node) for node in graph.nodes if is_op(node, CONVOLUTION, gradients.BACKWARD))
    images = (value(node.args[0]) for node in graph.nodes if is_op(node, gradients.BACKWARD))
    return any(each is not None and each.is_cpu and each.ndim == 4 for each in (*found, *images))


def _attempt(
    build: Builder,
    report: GraphReport,
    options: CompilerOptions,
    static: Collection[int],
    promised: Collection[int],
    channels_last: bool,
) -> Fused:
    graph = build.graph
    freeze = options.freeze and report.kind == "inference"
    judge = Judge(options.fuse == "always", channels_last)
    if report.kind == "inference":
        norms.fold(build, report, frozen.constants(graph, static) if freeze else (), judge.always)
    known = frozen.constants(graph, static) if freeze else set()
    order = {node: position for position, node in enumerate(graph.nodes)}
    writes = sorted(order[node] for node in graph.nodes if mutates(node))
    # Backwards, so that of two products that are added up the later one takes the other as its residual.
    for node in [node for node in reversed(graph.nodes) if is_op(node, *PRODUCTS)]:
        with _left_if_it_fails(node, report):
            _fuse_product(node, build, report, judge, known, order, writes)
    for node in [node for node in graph.nodes if is_op(node, gradients.BACKWARD)]:
        with _left_if_it_fails(node, report):
            gradients.replace(node, build, report, judge)
    # Where every convolution is left to torch, so is their layout.
    layout.propagate(
        build, promised, channels_last and any(is_op(node, *_CONVOLUTIONS) for node in graph.nodes)
    )
    graph.eliminate_dead_code(lambda node: node.is_impure() or is_random(node))
    report.fused.reverse()
    report.left.reverse()
    if not freeze:
        _state_strides(graph)
        return Fused(graph)
    known = frozen.constants(graph, static)
    weights = frozen.pack_weights(build, known)
    parts = frozen.split(graph, known, weights)
    _state_strides(parts.main)
    report.note(
        f"frozen: {len(parts.packed)} constants made of {len(parts.static)} parameters and buffers, "
        f"{len(weights)} of them weights that are packed"
    )
    return Fused(graph, parts)


@contextmanager
def _left_if_it_fails(node: Node, report: GraphReport) -> Iterator[None]:
    """Nodes are replaced once everything that may fail is done: what a failure leaves behind is not used by any."""
    try:
        yield
    except Exception as error:
        if settings.current().strict:
            raise
        log.warning("%s: %s", report.name, described(node), exc_info=True)
        report.leave(node, f"{type(error).__name__}: {error}")


def _fuse_product(
    node: Node,
    build: Builder,
    report: GraphReport,
    judge: Judge,
    known: Collection[Node],
    order: dict[Node, int],
    writes: list[int],
) -> None:
    """Replaces a product and what follows it, if that can be done and is worth it."""
    folded = node.meta.get("folded", ())
    product = recognise(node)
    if isinstance(product, str):
        report.leave(node, product)
        return
    # A packed weight's kernels keep no sum: a graph of inference that uses it twice has the activation by itself.
    frozen_weight = product.b in known and product.value.device.type == "cpu" and _packable(product)
    chain = grow(product, keep=not frozen_weight)
    start, end = order.get(node), order.get(chain.before_activation)
    if writes and (start is None or end is None or any(start < write < end for write in writes)):
        report.leave(node, "something is written between the nodes that follow it")
        return
    refusal = judge.refusal(chain, frozen=frozen_weight)
    if refusal is not None:
        report.leave(node, refusal)
        return
    names = [*(folded or [described(node)]), *map(described, chain.nodes[1:])]
    try:
        fused = emission.emit(chain, build)
    except emission.Unfit as unfit:
        report.leave(node, str(unfit))
        return
    report.fuse(names, _spelled(chain, fused, frozen_weight), product.shape)


def _packable(product: Any) -> bool:
    return product.operation == "conv2d" or len(product.shape) == 2


def _spelled(chain: Chain, fused: Node, frozen_weight: bool) -> str:
    name = fused.target._schema.name.partition("::")[2]  # type: ignore[union-attr]
    parts = [
        "bias" if chain.bias is not None else "",
        "residual" if chain.residual is not None else "",
        chain.activation if chain.activation != "none" else "",
        "frozen" if frozen_weight else "",
    ]
    given = ", ".join(part for part in parts if part)
    return f"tilewright.{name}({given})"


def _state_strides(graph: Graph) -> None:
    """Has Inductor hand our operations their operands with the strides that their results were worked out from."""
    for node in graph.nodes:
        schema = getattr(node.target, "_schema", None)
        if node.op == "call_function" and schema is not None and schema.name.startswith("tilewright::"):
            node.meta["eager_input_vals"] = _values(node.args), _values(node.kwargs)


def _values(arguments: Any) -> Any:
    return map_arg(arguments, lambda node: node.meta.get("val"))
