"""What the compiler can know about addresses: whether 16-byte loads and asynchronous copies are safe.

Triton learns of an integer argument only whether it is a multiple of 16. A row of 1000 halves is a multiple
of 16 bytes, but 1000 is no multiple of 16: every load would be of 2 bytes, through registers, without a
pipeline. So the kernels take a constexpr UNIT and rewrite each size and stride as ``x // UNIT * UNIT``.
"""

from __future__ import annotations

from collections.abc import Iterator

from tilewright.kernels.matmul.problem import MatmulProblem

VECTOR_BYTES = 16
_KNOWN_MULTIPLE = 16  # what Triton checks of an integer argument


def unit(problem: MatmulProblem) -> int:
    """UNIT: elements of a 16-byte vector where all sizes and strides are multiples of it, 1 where not.

    Also 1 where Triton sees as much by itself.
    """
    if problem.alignment % VECTOR_BYTES:
        return 1
    values = list(_extents(problem))
    vector = VECTOR_BYTES // problem.dtype.itemsize
    if all(value % _KNOWN_MULTIPLE == 0 for value in values) or any(value % vector for value in values):
        return 1
    return vector


def elementwise(problem: MatmulProblem) -> tuple[bool, bool]:
    """(A, B): whether the operand is read element by element: no vector of it is known to be aligned."""
    vector = unit(problem)
    if vector == 1:
        vector = _KNOWN_MULTIPLE
    poorly_placed = problem.alignment % VECTOR_BYTES != 0
    return (
        poorly_placed or any(value % vector for value in _a_extents(problem)),
        poorly_placed or any(value % vector for value in _b_extents(problem)),
    )


def stores_singles(problem: MatmulProblem) -> bool:
    """Whether rows of the output are not known to begin at vectors, and so are stored element by element."""
    return problem.n % (unit(problem) if unit(problem) > 1 else _KNOWN_MULTIPLE) != 0


def _extents(problem: MatmulProblem) -> Iterator[int]:
    yield from _a_extents(problem)
    yield from _b_extents(problem)
    yield problem.n  # rows of the output


def _a_extents(problem: MatmulProblem) -> Iterator[int]:
    """What must be a multiple of the vector: the size walked contiguously, and every other stride."""
    yield from problem.a_strides[:-2]
    if problem.a_layout == "row":
        yield from (problem.k, problem.a_strides[-2])
    elif problem.a_layout == "col":
        yield from (problem.m, problem.a_strides[-1])
    else:
        yield 1


def _b_extents(problem: MatmulProblem) -> Iterator[int]:
    yield from problem.b_strides[:-2]
    if problem.b_layout == "row":
        yield from (problem.n, problem.b_strides[-2])
    elif problem.b_layout == "col":
        yield from (problem.k, problem.b_strides[-1])
    else:
        yield 1
