from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

import tilewright
from tests.ops.layers import IN, OUT, ROWS, assert_right, layer
from tilewright.kernels import registry
from tilewright.kernels.matmul.problem import MatmulProblem
from tilewright.nn import Linear
from tilewright.tuner import device


@pytest.fixture(params=["copy", "cpu"])
def packed_kernel(request: pytest.FixtureRequest) -> Iterator[None]:
    """Calls inside run a kernel that keeps a packed weight: torch's on a copy of B, or one of ours."""
    x = torch.empty(ROWS, IN)
    problem = MatmulProblem.from_tensors(
        x, torch.empty(OUT, IN).t(), torch.empty(OUT), activation="relu", threads=1, frozen_b=True
    )
    name = "aten" if request.param == "copy" else "cpu"
    backend = registry.backend("matmul", name)
    if backend.absent("cpu") is not None:
        pytest.skip(str(backend.absent("cpu")))
    config = next(
        config
        for config in backend.configs(problem, device.current("cpu"))
        if "copied to row" in str(config) or " frozen " in str(config)
    )
    with tilewright.options(backend=name, config=config):
        yield


@pytest.fixture
def packed(packed_kernel: None) -> Linear:
    """A layer whose weight is packed."""
    module = layer()
    assert_right(module, torch.randn(ROWS, IN))
    assert module.packed_bytes() >= OUT * IN * 4, module.packing()
    return module
