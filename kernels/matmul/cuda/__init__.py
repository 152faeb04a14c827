"""Matmul in CUDA C++. ``matmul.h`` says what the kernels are given; ../README.md draws the tile walks."""

from tilewright.kernels.cuda import GPU
from tilewright.kernels.matmul.cuda.backend import CudaMatmul

BACKEND = CudaMatmul(GPU)
