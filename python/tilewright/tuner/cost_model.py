"""How long a config should take, from the device's rates and the problem's sizes alone.

Pure functions: nothing is measured, imported or remembered. The model ranks candidates before they are timed,
and decides alone where nothing was tuned; there, one of our kernels is taken only if it is predicted to be
faster than the vendor's by `MARGIN`.

Every model is a roofline with the losses that tile sizes cause: padding of ragged edges, the last wave of
tiles that fills only part of the device, operands that are read again for every tile, and what splitting K
adds. Constants are named and say where they come from. ``costs/`` has a file for each operation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tilewright.kernels.interface import DeviceSpec
from tilewright.tuner.costs import conv2d, matmul

MARGIN = 1.1
"""How many times faster than the vendor's code ours must be predicted before it runs untuned."""

UNTUNED_LAST_RESORT = "reference"
"""The backend that is chosen only if no other runs the problem."""

Model = Callable[[Any, Any, DeviceSpec], float]


def expected_seconds(operation: str, backend: str, config: Any, problem: Any, device: DeviceSpec) -> float:
    """The predicted time of one call: positive, finite, and the same for the same arguments."""
    model = _MODELS.get((operation, backend, device.kind)) or _DEFAULTS.get(backend, _roofline)
    seconds: float = max(model(config, problem, device), device.launch_seconds, 1e-9)
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


_MODELS: dict[tuple[str, str, str], Model] = {
    ("matmul", "cpu", "cpu"): matmul.cpu,
    ("matmul", "aten", "cpu"): matmul.cpu_vendor,
    ("matmul", "triton", "cuda"): matmul.triton,
    ("matmul", "aten", "cuda"): matmul.gpu_vendor,
    ("conv2d", "cpu", "cpu"): conv2d.cpu,
    ("conv2d", "aten", "cpu"): conv2d.cpu_vendor,
    ("conv2d", "triton", "cuda"): conv2d.triton,
    ("conv2d", "aten", "cuda"): conv2d.gpu_vendor,
}
_DEFAULTS: dict[str, Model] = {UNTUNED_LAST_RESORT: _reference, "triton": _interpreted}
