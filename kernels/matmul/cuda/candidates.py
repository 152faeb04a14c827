"""The configs worth trying for a problem: the tiles that were compiled, with splits of K."""

from __future__ import annotations

from collections.abc import Iterator

from tilewright.kernels.cuda import Target, instances, multiplies
from tilewright.kernels.interface import DeviceSpec
from tilewright.kernels.matmul.cuda.config import CudaConfig
from tilewright.kernels.matmul.cuda.cost import expected_seconds
from tilewright.kernels.matmul.problem import MatmulProblem
from tilewright.kernels.triton_launch import cdiv

_GROUP_M = 8
_MAX_CONFIGS = 24
_MIN_STEPS_PER_PART = 4  # fewer do not fill the pipeline that each part starts anew
_SPLITS = (2, 4, 8, 16)


def candidates(target: Target, problem: MatmulProblem, device: DeviceSpec) -> list[CudaConfig]:
    """Configs for the problem, fastest first by the cost model; some may not fit (`limits.rejects`)."""
    found = dict.fromkeys(_tiles(target, problem, device))
    ranked = sorted(found, key=lambda config: expected_seconds(config, problem, device))
    return ranked[:_MAX_CONFIGS]


def _tiles(target: Target, problem: MatmulProblem, device: DeviceSpec) -> Iterator[CudaConfig]:
    compiled = [
        each
        for each in instances(target, "matmul")
        if multiplies(each, problem.dtype, problem.precision)
        and each.capability <= device.capability
        and not (each.exact_architecture and each.capability != device.capability)
    ]
    # The smallest block of those that are copied in the same way: others may not take the problem.
    least: dict[tuple[str, int], tuple[int, int]] = {}
    for each in compiled:
        kind = each.algorithm, each.copy_bytes
        m, n = least.get(kind, (each.block_m, each.block_n))
        least[kind] = min(m, each.block_m), min(n, each.block_n)
    for each in compiled:
        # A block more than twice as large as the product would compute mostly padding, unless none is smaller.
        least_m, least_n = least[each.algorithm, each.copy_bytes]
        if each.block_m > max(_covering(problem.m), least_m) or each.block_n > max(
            _covering(problem.n), least_n
        ):
            continue
        group_m = min(_GROUP_M, _covering(cdiv(problem.m, each.block_m)))
        # The persistent kernels of sm_90a have no splits.
        splits = (1,) if each.exact_architecture else _splits(problem, device, *each.tile[1:4])
        for split_k in splits:
            yield CudaConfig(
                *(each.algorithm, each.block_m, each.block_n, each.block_k),
                *(group_m, split_k, each.num_warps, each.num_stages, each.cluster),
            )


def _splits(
    problem: MatmulProblem, device: DeviceSpec, block_m: int, block_n: int, block_k: int
) -> Iterator[int]:
    """1, and the powers of two that give every multiprocessor one tile to four."""
    yield 1
    tiles = problem.batch_count * cdiv(problem.m, block_m) * cdiv(problem.n, block_n)
    most = cdiv(problem.k, block_k) // _MIN_STEPS_PER_PART
    for split_k in _SPLITS:
        enough = device.units // 2 < tiles * split_k <= 4 * device.units
        if split_k <= most and enough and tiles < device.units:
            yield split_k


def _covering(size: int) -> int:
    """The smallest power of two that is at least `size`."""
    return 1 << max(size - 1, 0).bit_length()
