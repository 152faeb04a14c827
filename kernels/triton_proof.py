"""What ``tilewright compile`` proves kernels for, whichever operation they belong to."""

from __future__ import annotations

from typing import Literal

import torch

DTYPES: dict[str, tuple[torch.dtype, Literal["ieee", "tf32"]]] = {
    "bf16": (torch.bfloat16, "ieee"),
    "f16": (torch.float16, "ieee"),
    "tf32": (torch.float32, "tf32"),
    "f32": (torch.float32, "ieee"),
}
"""Name on the command line -> dtype of the operands and precision of their products."""
