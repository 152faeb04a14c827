"""The configs worth trying for a problem: the tiles that were compiled, with splits of the sum and staged images."""

from __future__ import annotations

from collections.abc import Iterator

from tilewright.kernels.conv2d.cuda.config import CudaConfig
from tilewright.kernels.conv2d.cuda.cost import expected_seconds
from tilewright.kernels.conv2d.problem import Conv2dProblem
from tilewright.kernels.cuda import Instance, Target, instances, multiplies
from tilewright.kernels.interface import DeviceSpec
from tilewright.kernels.triton_launch import cdiv

_GROUP_M = 8
_MAX_CONFIGS = 24
_MIN_STEPS_PER_PART = 4  # fewer do not fill the pipeline that each part starts anew
_SPLITS = (2, 4, 8, 16, 32, 64)


def candidates(target: Target, problem: Conv2dProblem, device: DeviceSpec) -> list[CudaConfig]:
    """Configs for the problem, fastest first by the cost model; some may not fit (`limits.rejects`)."""
    if problem.direction != "forward":
        return []
    found = dict.fromkeys(_tiles(target, problem, device))
    ranked = sorted(found, key=lambda config: expected_seconds(config, problem, device))
    return ranked[:_MAX_CONFIGS]


def _tiles(target: Target, problem: Conv2dProblem, device: DeviceSpec) -> Iterator[CudaConfig]:
    compiled = [
        each
        for each in instances(target, "conv2d")
        if multiplies(each, problem.dtype, problem.precision)
        and each.capability <= device.capability
        and not (each.exact_architecture and each.capability != device.capability)
        and each.algorithm.startswith("depthwise") == problem.depthwise
    ]
    pixels, channels = problem.batch * problem.m, problem.out_channels // max(problem.groups, 1)
    # The smallest block of those that are copied in the same way: others may not take the problem.
    least: dict[tuple[str, int], tuple[int, int]] = {}
    for each in compiled:
        kind = each.algorithm, each.copy_bytes
        m, n = least.get(kind, (each.block_m, each.block_n))
        least[kind] = min(m, each.block_m), min(n, each.block_n)
    for each in compiled:
        if problem.depthwise:
            yield _config(each, 1, 1, "as_is")
            continue
        # A block more than twice as large as the product would compute mostly padding, unless none is smaller.
        least_m, least_n = least[each.algorithm, each.copy_bytes]
        if each.block_m > max(_covering(pixels), least_m) or each.block_n > max(_covering(channels), least_n):
            continue
        group_m = min(_GROUP_M, _covering(cdiv(pixels, each.block_m)))
        # The persistent kernels of sm_90a have no splits; which images gain nothing by a copy, the instances say.
        for split_k in (1,) if each.exact_architecture else _splits(each, problem, device):
            for layout in ("as_is", "nhwc"):
                yield _config(each, group_m, split_k, layout)


def _config(instance: Instance, group_m: int, split_k: int, layout: str) -> CudaConfig:
    return CudaConfig(
        *(instance.algorithm, instance.block_m, instance.block_n, instance.block_k, group_m, split_k),
        *(instance.num_warps, instance.num_stages, instance.cluster, layout),
    )


def _splits(instance: Instance, problem: Conv2dProblem, device: DeviceSpec) -> Iterator[int]:
    """1, and the powers of two that give every multiprocessor one tile to four."""
    yield 1
    groups = max(problem.groups, 1)
    tiles = groups * cdiv(problem.batch * problem.m, instance.block_m)
    tiles *= cdiv(problem.out_channels // groups, instance.block_n)
    most = cdiv(problem.reduction, instance.block_k) // _MIN_STEPS_PER_PART
    for split_k in _SPLITS:
        enough = device.units // 2 < tiles * split_k <= 4 * device.units
        if split_k <= most and enough and tiles < device.units:
            yield split_k


def _covering(size: int) -> int:
    """The smallest power of two that is at least `size`."""
    return 1 << max(size - 1, 0).bit_length()
