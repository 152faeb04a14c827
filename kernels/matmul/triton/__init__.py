"""Matmul in Triton. Importing this package does not import Triton; asking `BACKEND` for a kernel does."""

from tilewright.kernels.matmul.triton.backend import TritonMatmul

BACKEND = TritonMatmul()
