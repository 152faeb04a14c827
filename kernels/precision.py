"""Reads torch's fp32 precision setting without tripping over its older flags."""

from __future__ import annotations

from typing import Any, Literal

import torch


def cuda_matmul_precision() -> Literal["ieee", "tf32"]:
    """What ``torch.backends.cuda.matmul.fp32_precision`` amounts to: ``tf32`` only if the user said so.

    ``allow_tf32`` is not read: once the newer setting was written, reading the older one raises.
    """
    setting = torch.backends.cuda.matmul.fp32_precision
    if setting == "none":
        setting = getattr(torch.backends, "fp32_precision", "none")
    return "tf32" if setting == "tf32" else "ieee"


def cudnn_conv_precision() -> Literal["ieee", "tf32"]:
    """What ``torch.backends.cudnn.conv.fp32_precision`` amounts to; torch sets it to ``tf32`` by default."""
    cudnn: Any = torch.backends.cudnn
    settings = (cudnn.conv, cudnn, torch.backends)
    named = (getattr(setting, "fp32_precision", "none") for setting in settings)
    return "tf32" if next((name for name in named if name != "none"), "ieee") == "tf32" else "ieee"
