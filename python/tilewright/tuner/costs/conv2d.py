"""How long a convolution, or one of its gradients, should take by the vendor's code."""

from __future__ import annotations

from typing import Any

from tilewright.kernels.conv2d.problem import Conv2dProblem
from tilewright.kernels.interface import DeviceSpec


def cpu_vendor(config: Any, problem: Conv2dProblem, device: DeviceSpec) -> float:
    return 2 * problem.flops() / device.peak_fp32 + 2 * problem.bytes() / device.bandwidth


def gpu_vendor(config: Any, problem: Conv2dProblem, device: DeviceSpec) -> float:
    return 2 * problem.flops() / device.peak_fp32 + 2 * problem.bytes() / device.bandwidth
