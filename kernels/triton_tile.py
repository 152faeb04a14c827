"""What a tile of a matrix product asks of a multiprocessor, whichever operation it belongs to.

The figures were read off kernels that Triton 3.9 compiled for sm_80, sm_90, sm_100 and sm_120.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

OLDEST_CAPABILITY = 80
_BARRIER_BYTES = 64  # mbarriers beside the buffers, up to 8 bytes for each of 6 stages, and rounding

# Bytes of one row of a step: under 64 the copies are short, over 512 fragments pile up in registers.
_SHORTEST_STEP, _LONGEST_STEP, _LONGEST_IEEE_STEP = 64, 512, 128


@dataclass(frozen=True, slots=True)
class Tile:
    """A program's BLOCK_M × BLOCK_N outputs, and the steps of BLOCK_K terms in which it adds them up."""

    block_m: int
    block_n: int
    block_k: int
    num_warps: int
    num_stages: int
    dtype: torch.dtype
    precision: str

    @property
    def on_matrix_units(self) -> bool:
        return self.dtype != torch.float32 or self.precision == "tf32"

    @property
    def accumulators(self) -> int:
        """fp32 values of the sum that a thread holds."""
        return self.block_m * self.block_n // (32 * self.num_warps)

    def reads_shared_operands(self, capability: int) -> bool:
        """Whether the matrix unit reads operands from shared memory (wgmma, tcgen05) and not from registers."""
        return 90 <= capability < 120 and self.block_m >= 64 and self.on_matrix_units

    def shared_bytes(self, capability: int, subtiles: int) -> int:
        """The most shared memory per block that the compiled kernel asks for.

        Buffers of operand tiles: one per stage for wgmma and tcgen05, which read operands from shared memory
        asynchronously; one fewer for mma.sync and fp32 multiply-adds, which have copied theirs to registers.
        The epilogue reuses them to redistribute a part of the accumulator. Exact up to the barriers where
        every load is a vector; an operand that is read element by element needs fewer buffers.
        """
        stage = (self.block_m + self.block_n) * self.block_k * self.dtype.itemsize
        buffers = self.num_stages - (0 if self.reads_shared_operands(capability) else 1)
        redistributed = self.block_m * self.block_n * 4 // subtiles
        return max(buffers * stage, redistributed) + _BARRIER_BYTES

    def unfit_step(self) -> str | None:
        """Why BLOCK_K terms are no good step, in a sentence; None if they are."""
        step = self.block_k * self.dtype.itemsize
        longest = _LONGEST_STEP if self.on_matrix_units else _LONGEST_IEEE_STEP
        if not _SHORTEST_STEP <= step <= longest:
            return f"a K step of {self.block_k} is {step} bytes a row; expected {_SHORTEST_STEP} to {longest}"
        return None


def kib(size: int) -> int:
    return -(-size // 1024)
