"""How the CUDA kernels' tiles fare on a GPU: the model of kernels/triton_cost.py with what differs."""

from __future__ import annotations

from tilewright.kernels.interface import DeviceSpec

# What mma.sync reaches of the peak that wgmma (sm_90) and tcgen05 (sm_100) have, by compute capability. Estimates
# until they are measured.
_MMA_SYNC_SHARE = {9: 0.62, 10: 0.35}

_WGMMA_ALGORITHMS = ("ping_pong", "cooperative", "implicit_gemm_tma")


def tensor_core_share(algorithm: str, device: DeviceSpec) -> float:
    """Of the peak of the device's matrix units, what this algorithm's instructions can reach."""
    if algorithm in _WGMMA_ALGORITHMS:
        return 1.0
    return _MMA_SYNC_SHARE.get(device.capability // 10, 1.0)
