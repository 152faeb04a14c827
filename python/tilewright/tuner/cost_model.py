"""How long a config should take, from the device's rates and the problem's sizes alone.

Pure functions: nothing is measured or remembered. The model ranks candidates before they are timed,
and decides alone where nothing was tuned; there, one of our kernels is taken only if it is predicted to be
faster than the vendor's by `MARGIN`.

Every model is a roofline with the losses that tile sizes cause: padding of ragged edges, the last wave of
tiles that fills only part of the device, operands that are read again for every tile, and what splitting K
adds. Constants are named and say where they come from. ``costs/`` has a file for each operation, which is imported with
the first problem of its kind: importing tilewright imports no kernels.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import cache
from typing import Any

from tilewright.kernels.interface import DeviceSpec

MARGIN = 1.1
"""How many times faster than the vendor's code ours must be predicted before it runs untuned."""

UNTUNED_LAST_RESORT = "reference"
"""The backend that is chosen only if no other runs the problem."""

Model = Callable[[Any, Any, DeviceSpec], float]


def expected_seconds(operation: str, backend: str, config: Any, problem: Any, device: DeviceSpec) -> float:
    """The predicted time of one call: positive, finite, and the same for the same arguments."""
    seconds: float = max(
        _model(operation, backend, device.kind)(config, problem, device), device.launch_seconds, 1e-9
    )
    return seconds


def _roofline(config: Any, problem: Any, device: DeviceSpec) -> float:
    """Half of what the hardware could do: for backends that no model describes."""
    compute: float = 2 * problem.flops() / device.peak_fp32
    return max(compute, 2 * float(problem.bytes()) / device.bandwidth) + device.launch_seconds


def _reference(config: Any, problem: Any, device: DeviceSpec) -> float:
    """float64 through several passes over widened copies."""
    return 50 * _roofline(config, problem, device) + 50e-6


def _interpreted(config: Any, problem: Any, device: DeviceSpec) -> float:
    """Triton's interpreter runs every block of every tile in Python."""
    return 10 * _reference(config, problem, device) + 0.1


_OPERATIONS = ("matmul", "conv2d", "sparse_matmul")
_MODELS = {
    ("cpu", "cpu"): "cpu",
    ("aten", "cpu"): "cpu_vendor",
    ("triton", "cuda"): "triton",
    ("cuda", "cuda"): "cuda",
    ("aten", "cuda"): "gpu_vendor",
}
"""Backend, kind of device -> the function in ``costs/<operation>.py``."""

_DEFAULTS: dict[str, Model] = {UNTUNED_LAST_RESORT: _reference, "triton": _interpreted}


@cache
def _model(operation: str, backend: str, kind: str) -> Model:
    name = _MODELS.get((backend, kind))
    if name is None or operation not in _OPERATIONS:
        return _DEFAULTS.get(backend, _roofline)
    models = importlib.import_module(f"tilewright.tuner.costs.{operation}")
    model: Model = getattr(models, name, None) or _DEFAULTS.get(backend, _roofline)
    return model
