"""accelerate called in inference mode, where new tensors are such that torch counts no writes to them."""

from __future__ import annotations

import torch
from torch import nn

import tilewright


def test_weights_are_packed_and_folded_all_the_same() -> None:
    model = nn.Sequential(nn.Conv2d(8, 16, 3), nn.BatchNorm2d(16), nn.ReLU()).eval()
    x = torch.randn(2, 8, 9, 9)
    with torch.inference_mode():
        expected = model(x)
        fast = tilewright.accelerate(model)
        torch.testing.assert_close(fast(x), expected, rtol=1e-5, atol=1e-5)
        assert fast[0].packed_bytes() > 0, fast[0].packing()
    assert not any(parameter.is_inference() for parameter in fast.parameters())
    fast.train()(x).sum().backward()


def test_what_was_laid_out_anew_can_be_trained() -> None:
    model = nn.Sequential(nn.Conv2d(8, 16, 3), nn.ReLU(), nn.Flatten()).eval()
    x = torch.randn(2, 8, 9, 9).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        fast = tilewright.restore(tilewright.accelerate(model, x))
    assert not any(parameter.is_inference() for parameter in fast.parameters())
    fast(x).sum().backward()
