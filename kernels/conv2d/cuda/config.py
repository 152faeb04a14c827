"""CudaConfig: the parameters of the CUDA kernels of conv2d."""

from __future__ import annotations

from dataclasses import dataclass

LAYOUTS = ("as_is", "nhwc")


@dataclass(frozen=True, slots=True)
class CudaConfig:
    """Prints as ``implicit_gemm 128x128x32 g8 k1 w8 s4``, then the blocks of a cluster if there are several, and
    ``nhwc`` if the image is copied first.

    block_m counts pixels, block_n channels of the output, block_k terms of the sum, and split_k its parts.
    """

    algorithm: str
    block_m: int
    block_n: int
    block_k: int
    group_m: int
    split_k: int
    num_warps: int
    num_stages: int
    cluster: int = 1
    layout: str = "as_is"  # nhwc: the kernel's own copy of the image, in channels_last, is what is read

    @property
    def tile(self) -> tuple[str, int, int, int, int, int, int]:
        """What the instance fixes, as `tilewright.kernels.cuda.Instance` has it."""
        return (
            *(self.algorithm, self.block_m, self.block_n, self.block_k),
            *(self.num_warps, self.num_stages, self.cluster),
        )

    def __str__(self) -> str:
        cluster = "" if self.cluster == 1 else f" c{self.cluster}"
        copied = "" if self.layout == "as_is" else f" {self.layout}"
        return (
            f"{self.algorithm} {self.block_m}x{self.block_n}x{self.block_k} g{self.group_m} "
            f"k{self.split_k} w{self.num_warps} s{self.num_stages}{cluster}{copied}"
        )
