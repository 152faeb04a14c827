"""TritonConfig: the parameters of the Triton kernels of conv2d."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TritonConfig:
    """Prints as ``implicit_gemm 128x128x32 g8 k1 w8 s4``, followed by ``nhwc`` if operands are copied first.

    block_m counts pixels, block_n channels of the output, block_k terms of the sum, and split_k its parts
    (``weight_gradient``: block_m output channels, block_n input channels, block_k pixels).
    """

    algorithm: str
    block_m: int
    block_n: int
    block_k: int
    group_m: int
    split_k: int
    num_warps: int
    num_stages: int
    layout: str = "as_is"  # nhwc: operands are copied to channels_last before, where they are not

    def __str__(self) -> str:
        copied = "" if self.layout == "as_is" else f" {self.layout}"
        return (
            f"{self.algorithm} {self.block_m}x{self.block_n}x{self.block_k} g{self.group_m} "
            f"k{self.split_k} w{self.num_warps} s{self.num_stages}{copied}"
        )
