"""The compiled kernels: csrc/bindings.cpp."""

from collections.abc import Sequence
from typing import Any

__version__: str

def build_info() -> dict[str, Any]:
    """compiler, build_type, source_hash (of C++ sources and flags), sanitize, openmp, isa_levels, cuda; cuda_absent
    (why it is false), cuda_archs; where it is true, cuda_compiler and cuda_source_hash."""

def cpu_info() -> dict[str, Any]:
    """model, isa_levels (lowest first, those that both machine and build have), features."""

def instances() -> list[dict[str, Any]]:
    """operation, backend, algorithm, dtypes of every kernel; isa, tile_m, tile_n of those for CPUs; those for GPUs have
    the fields of tilewright.kernels.cuda.Instance."""

def peak_flops(isa: str, dtype_name: str, threads: int, seconds: float) -> float: ...
def read_bandwidth(threads: int, bytes: int, seconds: float) -> float: ...
def team_size(threads: int) -> int: ...
def digest(address: int, bytes: int, threads: int) -> int: ...
def sample(address: int, bytes: int, count: int) -> int: ...

class MatmulPlan:
    def __init__(
        self,
        *,
        isa: str,
        algorithm: str,
        m: int,
        n: int,
        k: int,
        batch: Sequence[int],
        a_strides: Sequence[int],
        b_strides: Sequence[int],
        bias_stride: int,
        residual_strides: Sequence[int] | None,
        dtype: str,
        out_dtype: str,
        bias_dtype: str | None,
        residual_dtype: str | None,
        activation: str,
        keep_preact: bool,
        compute: str,
        pack_b: str,
        block_m: int,
        block_n: int,
        block_k: int,
        tile_m: int,
        tile_n: int,
        parts_m: int,
        parts_n: int,
        prefetch: int,
        threads: int,
    ) -> None: ...
    def run(
        self, a_ptr: int, b_ptr: int, c_ptr: int, preact_ptr: int, bias_ptr: int, residual_ptr: int
    ) -> None: ...
    def pack(self, b_ptr: int, packed_ptr: int) -> None: ...
    @property
    def packed_bytes(self) -> int: ...
    @property
    def workspace_bytes(self) -> int: ...

class Conv2dPlan:
    def __init__(
        self,
        *,
        isa: str,
        algorithm: str,
        compute: str,
        batch: int,
        in_channels: int,
        out_channels: int,
        groups: int,
        size: Sequence[int],
        out_size: Sequence[int],
        kernel: Sequence[int],
        stride: Sequence[int],
        dilation: Sequence[int],
        padding: Sequence[int],
        x_strides: Sequence[int],
        weight_strides: Sequence[int],
        y_strides: Sequence[int],
        weight_group_stride: int,
        flipped: bool,
        bias_stride: int,
        residual_strides: Sequence[int] | None,
        dtype: str,
        bias_dtype: str | None,
        residual_dtype: str | None,
        activation: str,
        keep_preact: bool,
        block_h: int,
        block_w: int,
        block_n: int,
        block_c: int,
        parts: int,
        frozen: bool,
        threads: int,
    ) -> None: ...
    def run(
        self, x_ptr: int, weight_ptr: int, y_ptr: int, preact_ptr: int, bias_ptr: int, residual_ptr: int
    ) -> None: ...
    def pack(self, weight_ptr: int, packed_ptr: int) -> None: ...
    @property
    def packed_bytes(self) -> int: ...
    @property
    def workspace_bytes(self) -> int: ...
