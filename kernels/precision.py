"""Reads torch's fp32 precision setting without tripping over its older flags."""

from __future__ import annotations

from typing import Literal

import torch


def cuda_matmul_precision() -> Literal["ieee", "tf32"]:
    """What ``torch.backends.cuda.matmul.fp32_precision`` amounts to: ``tf32`` only if the user said so.

    ``allow_tf32`` is not read: once the newer setting was written, reading the older one raises.
    """
    setting = torch.backends.cuda.matmul.fp32_precision
    if setting == "none":
        setting = getattr(torch.backends, "fp32_precision", "none")
    return "tf32" if setting == "tf32" else "ieee"
