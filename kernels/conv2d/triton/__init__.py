"""conv2d in Triton. Importing this package does not import Triton; asking `BACKEND` for a kernel does."""

from tilewright.kernels.conv2d.triton.backend import TritonConv2d

BACKEND = TritonConv2d()
