"""Checks of arguments: every message names operation, argument, what it got, what it takes, what to do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor

from tilewright.errors import ArgumentError, DeviceError, DtypeError, LayoutError, ShapeError
from tilewright.kernels.dtypes import KERNEL_DTYPES
from tilewright.kernels.epilogue import ACTIVATIONS

INTEGER_DTYPES = frozenset({torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64})
DTYPES = KERNEL_DTYPES | {torch.float64} | INTEGER_DTYPES

_KERNEL_NAMES = "float32, bfloat16 or float16"


def shape_text(shape: Sequence[Any]) -> str:
    return f"({', '.join(str(size) for size in shape)}{',' if len(shape) == 1 else ''})"


def dtype_text(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")


def check_tensor(operation: str, argument: str, value: Any) -> None:
    if not isinstance(value, Tensor):
        raise ArgumentError(
            f"{operation}: {argument} is of type {type(value).__name__}; expected a torch.Tensor; "
            "torch.as_tensor makes one from arrays and lists"
        )
    if value.layout != torch.strided or value.is_nested:
        layout = "nested" if value.is_nested else dtype_text(value.layout)
        raise LayoutError(
            f"{operation}: {argument} has layout {layout}; expected a strided tensor; convert it with .to_dense()"
        )


def check_activation(operation: str, activation: Any, dtype: torch.dtype) -> None:
    if activation not in ACTIVATIONS:
        raise ArgumentError(
            f"{operation}: activation is {activation!r}; expected one of {', '.join(ACTIVATIONS)}"
        )
    if not dtype.is_floating_point and activation not in ("none", "relu"):
        raise DtypeError(
            f"{operation}: activation {activation!r} of {dtype_text(dtype)} operands; expected a floating dtype, or "
            "activation none or relu; convert the operands with .float()"
        )


def check_device(operation: str, first: str, a: Tensor, others: Sequence[tuple[str, Tensor | None]]) -> None:
    for name, tensor in others:
        if tensor is not None and tensor.device != a.device:
            raise DeviceError(
                f"{operation}: {name} is on {tensor.device}; expected {a.device}, where {first} is; "
                f"move it with .to({str(a.device)!r})"
            )


def check_operand_dtypes(operation: str, first: str, a: Tensor, second: str, b: Tensor) -> None:
    if a.dtype not in DTYPES:
        raise DtypeError(
            f"{operation}: {first} has dtype {dtype_text(a.dtype)}; expected {_KERNEL_NAMES} "
            "(or float64 or an integer, which go through torch); convert it with .to(...)"
        )
    if a.dtype in INTEGER_DTYPES and a.device.type == "cuda":
        raise DtypeError(
            f"{operation}: {first} has dtype {dtype_text(a.dtype)} on {a.device}; expected a floating dtype, as "
            "torch has no integer matrix product on CUDA; convert it with .to(torch.float64) or move it to the CPU"
        )
    if b.dtype != a.dtype:
        raise DtypeError(
            f"{operation}: {second} has dtype {dtype_text(b.dtype)}; expected {dtype_text(a.dtype)}, the dtype of "
            f"{first}; convert one of them, or use torch.autocast"
        )


def check_addend_dtype(operation: str, argument: str, addend: Tensor, first: str, a: Tensor) -> None:
    if a.dtype in KERNEL_DTYPES:
        if addend.dtype not in KERNEL_DTYPES:
            raise DtypeError(
                f"{operation}: {argument} has dtype {dtype_text(addend.dtype)}; expected {_KERNEL_NAMES}; "
                "convert it with .to(...)"
            )
    elif addend.dtype != a.dtype:
        raise DtypeError(
            f"{operation}: {argument} has dtype {dtype_text(addend.dtype)}; expected {dtype_text(a.dtype)}, the dtype "
            f"of {first}; convert it with .to(...)"
        )


def check_out_dtype(operation: str, out_dtype: Any, first: str, a: Tensor) -> None:
    if out_dtype is None or out_dtype == a.dtype:
        return
    if not (a.dtype in KERNEL_DTYPES and out_dtype in KERNEL_DTYPES):
        takes = _KERNEL_NAMES if a.dtype in KERNEL_DTYPES else f"{dtype_text(a.dtype)} or None"
        raise DtypeError(
            f"{operation}: out_dtype is {dtype_text(out_dtype)}; expected {takes} for {dtype_text(a.dtype)} operands; "
            f"leave it out and convert the result, or convert {first}"
        )


def check_residual(operation: str, residual: Tensor, out_shape: Sequence[int]) -> None:
    fits = residual.ndim <= len(out_shape) and all(
        size in (1, full) for size, full in zip(reversed(residual.shape), reversed(out_shape), strict=False)
    )
    if not fits:
        raise ShapeError(
            f"{operation}: residual has shape {shape_text(residual.shape)}; expected {shape_text(out_shape)}, the "
            "output's shape, or one that broadcasts to it; reshape or expand it"
        )


def shape_error(operation: str, argument: str, shape: Sequence[Any], expected: str, remedy: str) -> NoReturn:
    raise ShapeError(f"{operation}: {argument} has shape {shape_text(shape)}; expected {expected}; {remedy}")
