"""Exported programs without tilewright: the way to ONNX, and to every compiler that knows ATen alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tilewright.errors import ArgumentError, Error
from tilewright.kernels.epilogue import activate
from tilewright.ops import decomposition_table
from tilewright.ops.matmul_op import MATMUL, MATMUL_WITH_PREACT, MatmulArguments

if TYPE_CHECKING:
    from torch.export import ExportedProgram

_NAMESPACE = "tilewright::"


def decompose(exported_program: ExportedProgram) -> ExportedProgram:
    """Every tilewright operation of an exported program turned into plain ATen.

    >>> program = torch.export.export(tilewright.accelerate(model), inputs)
    >>> torch.onnx.export(tilewright.decompose(program), dynamo=True).save("model.onnx")

    A convolution becomes one ``aten.conv2d``, a layer one ``aten.linear``, the residual an ``aten.add``, an activation
    one operator of its own: what a model of torch's own layers exports to, so that converters find their ``Conv``,
    ``Gemm`` and ``Relu``. All other operators stay as they are but for what torch's ``run_decompositions({})`` does
    (operators that write in place become functional ones).

    Args:
        exported_program: what ``torch.export.export`` returned. It is left as it is.

    Returns:
        A program with the same parameters, signature and dynamic shapes, which runs, and is loaded, where tilewright
        is not installed. Its results are equal up to rounding.

    Raises:
        ArgumentError: `exported_program` is no `torch.export.ExportedProgram`.
        Error: an operation of tilewright has no decomposition, and remains.
    """
    from torch.export import ExportedProgram

    if not isinstance(exported_program, ExportedProgram):
        raise ArgumentError(
            f"decompose: exported_program is of type {type(exported_program).__name__}; expected a "
            "torch.export.ExportedProgram; call torch.export.export(model, inputs) first"
        )
    program: ExportedProgram = exported_program.run_decompositions(_table())
    for module in _graph_modules(program):
        _untranspose(module)
    remaining = sorted({name for module in _graph_modules(program) for name in _operations(module)})
    if remaining:
        raise Error(
            f"decompose: {', '.join(remaining)} remained in the program; expected a decomposition of each in "
            "tilewright.decomposition_table(); leave what calls them out of the exported model"
        )
    return program


def _table() -> dict[Any, Callable[..., Any]]:
    """The decompositions into ATen, the products of layers as ``aten.linear``."""
    table = decomposition_table()
    for operation, both in ((MATMUL, False), (MATMUL_WITH_PREACT, True)):
        table[operation.overload] = _as_linear(table[operation.overload], with_preact=both)
    return table


def _as_linear(otherwise: Callable[..., Any], *, with_preact: bool) -> Callable[..., Any]:
    """A product with a transposed weight as one ``aten.linear``; any other one as `otherwise` says."""

    def decomposed(*args: Any, **keywords: Any) -> Any:
        given = MatmulArguments(*args, **keywords)
        if not _is_layer(given):
            return otherwise(*args, **keywords)
        z = torch.nn.functional.linear(given.a, given.b.t(), given.bias)
        if given.residual is not None:
            z = z + given.residual
        y: Tensor = activate(z, given.activation).to(given.a.dtype)
        z = z.to(given.a.dtype)
        return (y, z.clone() if z is y else z) if with_preact else y

    return decomposed


def _is_layer(given: MatmulArguments) -> bool:
    a, b, bias = given[:3]
    if given.out_dtype not in (None, a.dtype) or (bias is not None and bias.dtype != a.dtype):
        return False
    # Sizes that are symbols belong to no parameter, and asking for strides would guard on them.
    return b.ndim == 2 and all(isinstance(size, int) for size in b.shape) and b.t().is_contiguous()


def _untranspose(module: torch.fx.GraphModule) -> None:
    """``linear(x, t(t(w)), b)`` to ``linear(x, w, b)``: the weight goes through our matmul as its transpose."""
    aten, graph = torch.ops.aten, module.graph
    for node in graph.find_nodes(op="call_function", target=aten.linear.default):
        outer = node.args[1]
        inner = outer.args[0] if outer.target is aten.t.default else outer
        if inner is not outer and inner.target is aten.t.default:
            node.update_arg(1, inner.args[0])
    graph.eliminate_dead_code()
    module.recompile()


def _graph_modules(program: ExportedProgram) -> Iterator[torch.fx.GraphModule]:
    """The program's graph, and those inside control flow."""
    return (module for module in program.graph_module.modules() if isinstance(module, torch.fx.GraphModule))


def _operations(module: torch.fx.GraphModule) -> Iterator[str]:
    """tilewright's operations in a graph."""
    for node in module.graph.nodes:
        name = node.target.name() if isinstance(node.target, torch._ops.OpOverload) else ""
        if name.startswith(_NAMESPACE):
            yield name
