"""How each operation may be sharded, as ``torch.distributed.tensor`` asks for it. Imported once that is loaded.

Every dimension of an operand has a name, as in einsum, and the name says all there is to say. Along one dimension of
the device mesh either nothing is sharded, or one name is: each operand that has a dimension of this name is split
there, the others are whole on every device. Where the result has the name, it is split there too. Where it has not,
the name is summed over, and what each device holds is a part of the sum (`Partial`). Bias and residual may then be no
more than parts either, lest they be added once for each device, and there may be no activation, which is not linear.

A dimension without a name cannot be split: the pixels of an image, channels in groups, and one of size 1 that is
broadcast along another operand's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain
from typing import Any

from torch.distributed.tensor import DTensor, Partial, Placement, Replicate, Shard
from torch.distributed.tensor._op_schema import RuntimeSchemaInfo
from torch.distributed.tensor.experimental import register_sharding

from tilewright.ops.conv2d_op import (
    CONV2D,
    CONV2D_WITH_PREACT,
    INPUT_GRADIENT,
    WEIGHT_GRADIENT,
    Conv2dArguments,
    InputGradientArguments,
    WeightGradientArguments,
)
from tilewright.ops.library import Operation
from tilewright.ops.matmul_op import MATMUL, MATMUL_WITH_PREACT, MatmulArguments
from tilewright.ops.sparse_matmul_op import ARGUMENTS, PLAIN, WITH_PREACT, buffers_of, out_features

Names = tuple[str | None, ...]
Rule = tuple[list[Placement | None], list[Placement | None]]
"""Placements of the outputs, and of the tensors among the inputs."""


def rules(factors: Sequence[Names], addends: Sequence[Names], output: Names, linear: bool) -> list[Rule]:
    """All ways to shard ``act(product of factors + addends)`` along one dimension of the mesh.

    Args:
        factors, addends: the names of each operand's dimensions.
        output: those of the result's.
        linear: whether there is no activation.
    """
    operands = (*factors, *addends)
    found: list[Rule] = [([Replicate()], [Replicate() for _ in operands])]
    for name in dict.fromkeys(chain(*factors)):
        if name is None:
            continue
        if name in output:
            inputs = [_split(names, name) for names in operands]
            found.append(([Shard(output.index(name))], inputs))
        elif linear:
            parts: list[Placement | None] = [Partial() for _ in addends]
            found.append(([Partial()], [*(_split(names, name) for names in factors), *parts]))
    return found


def _split(names: Names, name: str) -> Placement | None:
    return Shard(names.index(name)) if name in names else Replicate()


def _aligned(shape: Sequence[int], full: Sequence[int], names: Names) -> Names:
    """Names of the dimensions of an operand that broadcasts to `full`, whose dimensions have these names."""
    skipped = len(full) - len(shape)
    return tuple(
        name if size == whole else None
        for size, whole, name in zip(shape, full[skipped:], names[skipped:], strict=True)
    )


def matmul_rules(*args: Any) -> list[Rule]:
    """Batch, rows and columns are split freely; K into parts of a sum. linear's weight is B, transposed."""
    given = MatmulArguments(*args)
    a, b = tuple(given.a.shape), tuple(given.b.shape)
    # As torch.matmul takes them: a vector A is one row, a vector B one column, neither of which is in the result.
    rows, columns = a[:-2], b[:-2]
    batch = _broadcast(rows, columns)
    batch_names: Names = tuple(f"batch{dim}" for dim in range(len(batch)))
    a_names: Names = ("k",) if len(a) == 1 else (*_aligned(rows, batch, batch_names), "m", "k")
    b_names: Names = ("k",) if len(b) == 1 else (*_aligned(columns, batch, batch_names), "k", "n")
    output: Names = (*batch_names, *("m",) * (len(a) > 1), *("n",) * (len(b) > 1))
    shape = (*batch, *a[-2:-1], *b[-1:]) if len(b) > 1 else (*batch, *a[-2:-1])
    addends: list[Names] = []
    if given.bias is not None:
        addends.append(("n",) if len(b) > 1 else (None,))
    if given.residual is not None:
        addends.append(_aligned(given.residual.shape, shape, output))
    return rules([a_names, b_names], addends, output, given.activation == "none")


def _broadcast(left: Sequence[int], right: Sequence[int]) -> tuple[int, ...]:
    count = max(len(left), len(right))
    left, right = (1,) * (count - len(left)) + tuple(left), (1,) * (count - len(right)) + tuple(right)
    return tuple(other if size == 1 else size for size, other in zip(left, right, strict=True))


def _image(batch: str, channels: str, groups: int) -> Names:
    # A part of the channels would be a part of the groups, whose number is an argument of the operation.
    return batch, channels if groups == 1 else None, None, None


def _filter(groups: int) -> Names:
    return ("k", "c", None, None) if groups == 1 else (None, None, None, None)


def conv2d_rules(*args: Any) -> list[Rule]:
    """The batch and, without groups, output channels are split freely; input channels into parts of a sum."""
    given = Conv2dArguments(*args)
    output = _image("n", "k", given.groups)
    addends: list[Names] = []
    if given.bias is not None:
        addends.append(output[1:2])
    if given.residual is not None:
        # Pixels have no name, so their number does not matter.
        full = (given.x.shape[0], given.weight.shape[0], 0, 0)
        addends.append(_aligned(given.residual.shape, full, output))
    factors = [_image("n", "c", given.groups), _filter(given.groups)]
    return rules(factors, addends, output, given.activation == "none")


def input_gradient_rules(*args: Any) -> list[Rule]:
    """From the gradient of y (N, K, ...) and the weight (K, C, ...) that of x (N, C, ...): a sum over K."""
    groups = InputGradientArguments(*args).groups
    return rules([_image("n", "k", groups), _filter(groups)], [], _image("n", "c", groups), True)


def weight_gradient_rules(*args: Any) -> list[Rule]:
    """From the gradient of y (N, K, ...) and x (N, C, ...) that of the weight (K, C, ...): a sum over N."""
    groups = WeightGradientArguments(*args).groups
    return rules([_image("n", "k", groups), _image("n", "c", groups)], [], _filter(groups), True)


def sparse_matmul_rules(form: str, *args: Any) -> list[Rule]:
    """The rows of x are split freely, those of a 2:4 weight too. Other formats have pointers into their values."""
    given = ARGUMENTS[form](*args)
    rows = tuple(given.x.shape[:-1])
    output: Names = (*(f"m{dim}" for dim in range(len(rows))), "n" if form == "2:4" else None)
    buffers = [(output[-1], *(None,) * (len(buffer.shape) - 1)) for buffer in buffers_of(given)]
    addends: list[Names] = []
    if given.bias is not None:
        addends.append(output[-1:])
    if given.residual is not None:
        addends.append(_aligned(given.residual.shape, (*rows, out_features(given)), output))
    # No factor shares K by name, so there are no sums of parts.
    return rules([(*output[:-1], None), *buffers], addends, output, given.activation == "none")


def _with_preact(found: list[Rule]) -> list[Rule]:
    """The same for y and the pre-activation."""
    return [(outputs * 2, inputs) for outputs, inputs in found]


def _sparse_with_preact(form: str, *args: Any) -> list[Rule]:
    return _with_preact(sparse_matmul_rules(form, *args))


def register() -> None:
    """Hands the rules to torch."""
    ways: dict[Operation[Any], Callable[..., list[Rule]]] = {
        MATMUL: matmul_rules,
        MATMUL_WITH_PREACT: lambda *args: _with_preact(matmul_rules(*args)),
        CONV2D: conv2d_rules,
        CONV2D_WITH_PREACT: lambda *args: _with_preact(conv2d_rules(*args)),
        INPUT_GRADIENT: input_gradient_rules,
        WEIGHT_GRADIENT: weight_gradient_rules,
    }
    for form in PLAIN:
        ways[PLAIN[form]] = partial(sparse_matmul_rules, form)
        ways[WITH_PREACT[form]] = partial(_sparse_with_preact, form)
    for operation, way in ways.items():
        register_sharding(operation.overload)(way)
        # torch remembers what a rule said by the arguments from the first integer on. The activation and the stride,
        # which stand before it or are none, would not be told apart; here all but the first two, the tensors, count.
        propagator = DTensor._op_dispatcher.sharding_propagator
        propagator.op_to_schema_info[operation.overload] = RuntimeSchemaInfo(static_argnum=2)
