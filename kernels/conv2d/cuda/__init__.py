"""Convolution in CUDA C++. ``conv2d.h`` says what the kernels are given; ../README.md draws the walks."""

from tilewright.kernels.conv2d.cuda.backend import CudaConv2d
from tilewright.kernels.cuda import GPU

BACKEND = CudaConv2d(GPU)
