"""A Triton kernel with all of its arguments fixed but the pointers, and how it is launched.

Nothing here imports Triton: a kernel comes with the function that Triton made of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

INT32_LIMIT = 2**31

_POINTER_TYPES = {torch.float32: "*fp32", torch.float16: "*fp16", torch.bfloat16: "*bf16"}


@dataclass(frozen=True, slots=True)
class Box:
    """How a tensor argument is described to the tensor memory accelerator: a view of it, and what one load takes."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    block: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel with everything fixed but its pointers."""

    fn: Any  # triton.JITFunction, or its interpreted stand-in
    grid: tuple[int, int, int]
    pointers: tuple[torch.dtype | None, ...]  # what each pointer argument points to; None where it is None
    aligned: tuple[bool, ...]  # per pointer: always a multiple of 16 bytes
    scalars: tuple[int, ...]
    constants: tuple[Any, ...]
    options: dict[str, Any]
    boxes: tuple[Box | None, ...] = ()  # per pointer, from the first: passed as a descriptor of this box

    def specialization(self) -> tuple[dict[str, str], dict[str, Any], dict[tuple[int], list[list[Any]]]]:
        """(signature, constexprs, attrs) as Triton's JIT derives them from a call with these arguments.

        The JIT makes an integer 1 a constant, and tells the compiler which integers and addresses are
        multiples of 16. Compiling ahead of time must say the same, or it proves another kernel.
        """
        signature: dict[str, str] = {}
        constexprs: dict[str, Any] = {}
        attrs: dict[tuple[int], list[list[Any]]] = {}
        names = self.fn.arg_names
        for i, (dtype, aligned) in enumerate(zip(self.pointers, self.aligned, strict=True)):
            if dtype is None:
                signature[names[i]], constexprs[names[i]] = "constexpr", None
                continue
            box = self.boxes[i] if i < len(self.boxes) else None
            if box is not None:
                signature[names[i]] = f"tensordesc<{_POINTER_TYPES[dtype][1:]}{list(box.block)}>"
                continue
            signature[names[i]] = _POINTER_TYPES[dtype]
            if aligned:
                attrs[(i,)] = [["tt.divisibility", 16]]
        for i, value in enumerate(self.scalars, len(self.pointers)):
            if value == 1:
                signature[names[i]], constexprs[names[i]] = "constexpr", 1
                continue
            signature[names[i]] = "i32" if value < INT32_LIMIT else "i64"
            if value % 16 == 0:
                attrs[(i,)] = [["tt.divisibility", 16]]
        for i, value in enumerate(self.constants, len(self.pointers) + len(self.scalars)):
            signature[names[i]], constexprs[names[i]] = "constexpr", value
        return signature, constexprs, attrs


class Runner:
    """Launches a `Kernel`; after the first launch on a device, without Triton's look-up of the compiled one.

    The look-up takes 9 of the 12.5 µs that a launch costs the host. Skipping it is right only if every call
    would find the same binary. It depends on the dtypes, scalars and constants, which the problem fixes, and
    on which addresses are multiples of 16, which the problem fixes only where all of them are.
    """

    def __init__(self, kernel: Kernel) -> None:
        self._fn = kernel.fn
        self._grid = kernel.grid
        self._rest = (*kernel.scalars, *kernel.constants)
        self._options = kernel.options
        self._fixed = all(
            aligned
            for aligned, dtype in zip(kernel.aligned, kernel.pointers, strict=True)
            if dtype is not None
        )
        self._compiled: dict[int | None, Any] = {}
        self._boxes = kernel.boxes
        if kernel.boxes:
            from triton.tools.tensor_descriptor import TensorDescriptor

            self._describe = TensorDescriptor

    def __call__(self, device: int | None, *pointers: Tensor | None) -> None:
        if self._boxes:
            described = [
                tensor
                if box is None
                else self._describe(tensor, list(box.shape), list(box.strides), list(box.block))
                for tensor, box in zip(pointers, self._boxes, strict=False)
            ]
            pointers = (*described, *pointers[len(described) :])
        launch = self._compiled.get(device)
        if launch is not None:
            launch(*pointers, *self._rest)
            return
        compiled = self._fn[self._grid](*pointers, *self._rest, **self._options)
        # The interpreter returns None, asynchronous compilation a future: those keep to the ordinary way.
        if self._fixed and type(compiled).__name__ == "CompiledKernel":
            self._compiled[device] = compiled[self._grid]


def cdiv(a: int, b: int) -> int:
    return -(-a // b)
