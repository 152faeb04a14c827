"""CudaConfig: the parameters of the CUDA kernels of matmul."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CudaConfig:
    """Prints as ``tiled 128x128x32 g8 k1 w8 s4``, followed by the blocks of a cluster if there are several."""

    algorithm: str
    block_m: int
    block_n: int
    block_k: int
    group_m: int
    split_k: int
    num_warps: int
    num_stages: int
    cluster: int = 1

    @property
    def tile(self) -> tuple[str, int, int, int, int, int, int]:
        """What the instance fixes, as `tilewright.kernels.cuda.Instance` has it."""
        return (
            *(self.algorithm, self.block_m, self.block_n, self.block_k),
            *(self.num_warps, self.num_stages, self.cluster),
        )

    def __str__(self) -> str:
        cluster = "" if self.cluster == 1 else f" c{self.cluster}"
        return (
            f"{self.algorithm} {self.block_m}x{self.block_n}x{self.block_k} g{self.group_m} "
            f"k{self.split_k} w{self.num_warps} s{self.num_stages}{cluster}"
        )
