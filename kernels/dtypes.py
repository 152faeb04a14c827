"""The dtypes that every operation speaks of."""

from __future__ import annotations

import torch

KERNEL_DTYPES = frozenset({torch.float32, torch.bfloat16, torch.float16})
"""What tilewright's own floating-point kernels compute; every other dtype goes through ``aten``."""

DTYPE_NAMES = {
    torch.float32: "f32",
    torch.bfloat16: "bf16",
    torch.float16: "f16",
    torch.float64: "f64",
    torch.int8: "i8",
    torch.int16: "i16",
    torch.int32: "i32",
    torch.int64: "i64",
    torch.uint8: "u8",
}
"""As in configs, stored choices, JSON and C++."""
