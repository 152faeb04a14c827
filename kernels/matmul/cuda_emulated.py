"""The CUDA kernels of matmul under the emulator. Chosen only where it is asked for by name."""

from tilewright.kernels.cuda_emulated import EMULATED
from tilewright.kernels.matmul.cuda.backend import CudaMatmul

BACKEND = CudaMatmul(EMULATED)
