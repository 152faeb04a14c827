"""What registering an operation holds to."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from torch import Tensor

import tilewright
from tilewright.errors import ShapeError
from tilewright.ops.library import Operation


class Pair(NamedTuple):
    a: Tensor
    activation: str = "none"


@pytest.mark.parametrize(
    "arguments",
    [
        "Tensor a",
        'Tensor b, str activation="none"',
        'Tensor a, str activation="relu"',
        "Tensor a, str activation",
    ],
)
def test_a_schema_and_its_arguments_agree(arguments: str) -> None:
    with pytest.raises(TypeError, match="its arguments are"):
        Operation(f"not_an_operation({arguments}) -> Tensor", Pair)
    assert not hasattr(torch.ops.tilewright, "not_an_operation")


@pytest.mark.parametrize("op", [torch.ops.tilewright.matmul, torch.ops.tilewright.matmul_with_preact])
def test_arguments_by_name_and_by_place(op: object) -> None:
    a, b, residual = torch.randn(3, 4), torch.randn(4, 5), torch.randn(3, 5)
    for x in (a, a.clone().requires_grad_()):
        placed = op(x, b, None, residual, "relu", torch.bfloat16)  # type: ignore[operator]
        named = op(x, b, out_dtype=torch.bfloat16, activation="relu", residual=residual)  # type: ignore[operator]
        torch.testing.assert_close(placed, named, rtol=0, atol=0)


def test_a_call_leaves_the_dispatcher_as_it_was() -> None:
    """Without gradients a call goes past the autograd key, by a flag of this thread that must not stay set."""

    def past_autograd() -> bool:
        key = torch._C.DispatchKey.AutogradFunctionality
        return bool(torch._C._dispatch_tls_is_dispatch_key_excluded(key))

    a, b = torch.randn(3, 4), torch.randn(4, 5)
    with torch.no_grad():
        tilewright.matmul(a, b)
        assert not past_autograd()
        with pytest.raises(ShapeError):
            tilewright.matmul(a, a)
        assert not past_autograd()
        with torch._C._AutoDispatchBelowAutograd():  # as inside another operation's kernel
            tilewright.matmul(a, b)
            assert past_autograd()
    assert not past_autograd()
