from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

import tilewright
from tests.ops.layers import KINDS, Kind, assert_right, inputs
from tilewright.holders import weight_of
from tilewright.kernels import registry
from tilewright.nn import PackedLayer
from tilewright.tuner import device

_KERNELS = ("copy", "cpu")


@pytest.fixture(params=[(kind, kernel) for kind in KINDS for kernel in _KERNELS], ids=", ".join)
def kind(request: pytest.FixtureRequest) -> Iterator[Kind]:
    """A kind of layer, whose calls run a kernel that keeps a packed weight: torch's on a copy of it, or one of ours."""
    name, kernel = request.param
    found = KINDS[name]
    backend = registry.backend(found.runs, "aten" if kernel == "copy" else "cpu")
    if backend.absent("cpu") is not None:
        pytest.skip(str(backend.absent("cpu")))
    module = found.make().requires_grad_(False)
    with torch.no_grad():
        operation, problem = module.problem(inputs(module))
    assert operation == found.runs
    config = next(
        config
        for config in backend.configs(problem, device.current("cpu"))
        if "copied to" in str(config) or " frozen" in str(config)
    )
    with tilewright.options(backend=backend.name, config=config):
        yield found


@pytest.fixture
def packed(kind: Kind) -> PackedLayer:
    """A layer whose weight is packed."""
    module = kind.make()
    assert_right(module, inputs(module))
    assert module.packed_bytes() >= weight_of(module).nbytes, module.packing()
    return module
