"""Run in every process: sharded operands give what whole ones give, forward and backward, and stay where they lie."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.debug import CommDebugMode

import tilewright

R, P = Replicate(), Partial()
S0, S1, S2 = Shard(0), Shard(1), Shard(2)


def assert_sharded(
    mesh: DeviceMesh,
    operation: Callable[..., Tensor],
    operands: Sequence[Tensor],
    placements: Sequence[Placement | tuple[Placement, ...]],
    expected: Placement | tuple[Placement, ...] | None,
) -> None:
    """Output and all gradients of the sharded operands are those of the whole ones.

    Args:
        expected: how the output must lie, reached without any communication; None for anyhow.
    """

    def all_of(placement: Placement | tuple[Placement, ...]) -> tuple[Placement, ...]:
        return placement if isinstance(placement, tuple) else (placement,)

    whole = [operand.clone().requires_grad_() for operand in operands]
    parts = [
        distribute_tensor(operand, mesh, all_of(placement)).requires_grad_()
        for operand, placement in zip(operands, placements, strict=True)
    ]
    with CommDebugMode() as communication:
        found = operation(*parts)
    assert isinstance(found, DTensor)
    if expected is not None:
        assert found.placements == all_of(expected), found.placements
        assert communication.get_total_counts() == 0, communication.get_comm_counts()
    right = operation(*whole)
    grad = torch.randn_like(right)
    torch.testing.assert_close(found.full_tensor(), right, rtol=1e-4, atol=1e-4)
    found.backward(distribute_tensor(grad, mesh, [R] * mesh.ndim))
    right.backward(grad)
    for part, other in zip(parts, whole, strict=True):
        assert isinstance(part.grad, DTensor)
        torch.testing.assert_close(part.grad.full_tensor(), other.grad, rtol=1e-4, atol=1e-4)


def _matmul(activation: str = "none", **keywords: Any) -> Callable[..., Tensor]:
    def multiply(a: Tensor, b: Tensor, bias: Tensor | None = None, residual: Tensor | None = None) -> Tensor:
        return tilewright.matmul(a, b, bias=bias, residual=residual, activation=activation, **keywords)

    return multiply


def _conv2d(activation: str = "none", **keywords: Any) -> Callable[..., Tensor]:
    def convolve(
        x: Tensor, weight: Tensor, bias: Tensor | None = None, residual: Tensor | None = None
    ) -> Tensor:
        return tilewright.conv2d(x, weight, bias, residual=residual, activation=activation, **keywords)

    return convolve


def matmul_is_sharded_by_rows_and_columns(mesh: DeviceMesh) -> None:
    operands = torch.randn(9, 24), torch.randn(24, 10), torch.randn(10), torch.randn(9, 10)
    for activation in ("none", "relu", "gelu", "silu"):
        operation = _matmul(activation)
        assert_sharded(mesh, operation, operands, (R, R, R, R), R)
        assert_sharded(mesh, operation, operands, (S0, R, R, S0), S0)
        assert_sharded(mesh, operation, operands, (R, S1, S0, S1), S1)
        assert_sharded(mesh, operation, operands[:2], (S0, R), S0)
        assert_sharded(mesh, operation, operands[:2], (R, S1), S1)


def matmul_sums_over_the_shards_of_k_without_an_activation(mesh: DeviceMesh) -> None:
    operands = torch.randn(9, 24), torch.randn(24, 10), torch.randn(10), torch.randn(9, 10)
    assert_sharded(mesh, _matmul(), operands[:2], (S1, S0), P)
    assert_sharded(mesh, _matmul(), operands, (S1, S0, R, R), P)
    # With one the sum must be whole first: not a part of it comes out.
    for activation in ("relu", "gelu"):
        assert_sharded(mesh, _matmul(activation), operands, (S1, S0, R, R), None)
        parts = (
            distribute_tensor(operand, mesh, [side])
            for operand, side in zip(operands, (S1, S0), strict=False)
        )
        assert not any(side.is_partial() for side in _matmul(activation)(*parts).placements)


def matmul_is_sharded_along_its_batch(mesh: DeviceMesh) -> None:
    count = mesh.size()
    a, b, addend = torch.randn(count, 5, 8), torch.randn(count, 8, 6), torch.randn(count, 1, 6)
    operation = _matmul("gelu")

    def with_residual(a: Tensor, b: Tensor, residual: Tensor) -> Tensor:
        return operation(a, b, residual=residual)

    assert_sharded(mesh, with_residual, (a, b, addend), (S0, S0, S0), S0)
    # B and the residual are broadcast along the batch: whole everywhere.
    assert_sharded(mesh, with_residual, (a, b[:1], addend[:1]), (S0, R, R), S0)
    assert_sharded(mesh, with_residual, (a, b[0], addend[0]), (S0, R, R), S0)
    assert_sharded(mesh, with_residual, (a, b[0], addend), (R, S1, S2), S2)
    assert_sharded(mesh, operation, (torch.randn(3, 8, 8), torch.randn(8, 6)), (S1, R), S1)


def vectors_are_sharded(mesh: DeviceMesh) -> None:
    a, b = torch.randn(9, 8), torch.randn(8, 10)
    assert_sharded(mesh, _matmul("relu"), (a, b[:, 0]), (S0, R), S0)
    assert_sharded(mesh, _matmul("relu"), (a, b[:, 0], torch.randn(1)), (S0, R, R), S0)
    assert_sharded(mesh, _matmul(), (a[0], b), (S0, S0), P)
    assert_sharded(mesh, _matmul("relu"), (a[0], b, torch.randn(10)), (R, S1, S0), S0)
    assert_sharded(mesh, _matmul(), (a[0], b[:, 0]), (S0, S0), P)


def conv2d_is_sharded_by_batch_and_output_channels(mesh: DeviceMesh) -> None:
    operands = torch.randn(5, 4, 7, 6), torch.randn(8, 4, 3, 3), torch.randn(8), torch.randn(5, 8, 7, 6)
    for activation in ("none", "relu", "gelu"):
        operation = _conv2d(activation, padding=1)
        assert_sharded(mesh, operation, operands, (S0, R, R, S0), S0)
        assert_sharded(mesh, operation, operands, (R, S0, S0, S1), S1)
        assert_sharded(mesh, operation, operands[:2], (R, S0), S1)
    for addend in (torch.randn(8, 1, 1), torch.randn(1, 8, 7, 6), torch.randn(6)):
        shares = S0 if addend.ndim == 3 else S1 if addend.ndim == 4 else R
        assert_sharded(mesh, _conv2d("relu", padding=1), (*operands[:3], addend), (R, S0, S0, shares), S1)
        assert_sharded(mesh, _conv2d("relu", padding=1), (*operands[:3], addend), (S0, R, R, R), S0)


def conv2d_sums_over_the_shards_of_input_channels(mesh: DeviceMesh) -> None:
    operands = torch.randn(3, 8, 6, 6), torch.randn(5, 8, 3, 3), torch.randn(5), torch.randn(3, 5, 6, 6)
    assert_sharded(mesh, _conv2d(padding=1), operands, (S1, S1, R, R), P)
    assert_sharded(mesh, _conv2d("relu", padding=1), operands, (S1, S1, R, R), None)


def conv2d_keeps_its_geometry_and_layout(mesh: DeviceMesh) -> None:
    x, weight = torch.randn(8, 4, 9, 9), torch.randn(8, 4, 3, 3)
    # The same shapes in, and what differs are arguments alone.
    for keywords in ({}, {"stride": 2}, {"stride": (1, 2)}, {"dilation": 2}, {"padding": (2, 1)}):
        assert_sharded(mesh, _conv2d(**keywords), (x, weight), (S0, R), S0)
        assert_sharded(mesh, _conv2d("relu", **keywords), (x, weight), (R, S0), S1)
    last = x.to(memory_format=torch.channels_last)
    assert_sharded(mesh, _conv2d("relu"), (last, weight), (S0, R), S0)


def groups_are_sharded_by_batch_alone(mesh: DeviceMesh) -> None:
    x, weight, bias = torch.randn(8, 8, 6, 6), torch.randn(8, 1, 3, 3), torch.randn(8)
    depthwise = _conv2d("relu", groups=8)
    assert_sharded(mesh, depthwise, (x, weight, bias), (S0, R, R), S0)
    # A part of the filters would be taken for a filter of another number of groups: they are gathered.
    assert_sharded(mesh, depthwise, (x, weight, bias), (R, S0, S0), None)
    assert_sharded(mesh, depthwise, (x, weight, bias), (S1, S0, R), None)


def what_cannot_be_sharded_is_gathered(mesh: DeviceMesh) -> None:
    x, weight = torch.randn(4, 4, 8, 8), torch.randn(8, 4, 3, 3)
    assert_sharded(mesh, _conv2d("relu", padding=1), (x, weight), (S2, R), None)
    assert_sharded(mesh, _matmul("relu"), (torch.randn(1, 8), torch.randn(8, 8)), (S0, R), None)
    assert_sharded(mesh, _matmul("relu"), (torch.randn(8, 8), torch.randn(8, 8)), (S0, S1), None)


def gradients_of_gradients_are_sharded(mesh: DeviceMesh) -> None:
    x, weight = torch.randn(4, 4, 6, 6), torch.randn(8, 4, 3, 3)
    whole = x.clone().requires_grad_(), weight.clone().requires_grad_()
    parts = tuple(distribute_tensor(t, mesh, [side]).requires_grad_() for t, side in ((x, S0), (weight, R)))
    found = []
    for pair in (whole, parts):
        (first,) = torch.autograd.grad(tilewright.conv2d(*pair).pow(2).sum(), pair[:1], create_graph=True)
        found.append(torch.autograd.grad(first.pow(2).sum(), pair))
    for right, part in zip(*found, strict=True):
        torch.testing.assert_close(part.full_tensor(), right, rtol=1e-3, atol=1e-2)


def our_kernels_compute_the_shards(mesh: DeviceMesh) -> None:
    parts = [
        distribute_tensor(operand, mesh, [side]).requires_grad_()
        for operand, side in ((torch.randn(8, 16), S1), (torch.randn(16, 8), S0))
    ]
    with (
        tilewright.options(backend="cpu", strict=True),
        torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile,
    ):
        tilewright.matmul(*parts).full_tensor().sum().backward()
    names = {event.key for event in profile.key_averages()}
    assert "tilewright::matmul" in names
    assert not names & {"aten::mm", "aten::matmul", "aten::addmm"}


def a_mesh_of_two_dimensions_shards_rows_and_columns(mesh: DeviceMesh) -> None:
    if mesh.size() % 2:
        return
    square = init_device_mesh("cpu", (2, mesh.size() // 2))
    operands = torch.randn(8, 24), torch.randn(24, 12), torch.randn(12)
    assert_sharded(square, _matmul("gelu"), operands, ((S0, R), (R, S1), (R, S0)), (S0, S1))
    assert_sharded(square, _matmul(), operands, ((S0, S1), (R, S0), (R, R)), (S0, P))
    images = torch.randn(4, 4, 6, 6), torch.randn(8, 4, 3, 3)
    assert_sharded(square, _conv2d("relu"), images, ((S0, R), (R, S0)), (S0, S1))
