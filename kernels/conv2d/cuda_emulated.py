"""The CUDA kernels of conv2d under the emulator. Chosen only where it is asked for by name."""

from tilewright.kernels.conv2d.cuda.backend import CudaConv2d
from tilewright.kernels.cuda_emulated import EMULATED

BACKEND = CudaConv2d(EMULATED)
