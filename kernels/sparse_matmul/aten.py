"""What torch and the vendor libraries behind it offer for a product with a sparse weight.

First of all a dense product: at many a density nothing is faster, and the choice must see it. A dense product lets NaN
and infinities of x meet structural zeros, which must contribute nothing; so x is looked at, and where it is not finite
the product is made over the kept positions alone. Looking reads x once, 1/N of the product's work.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from tilewright.kernels.epilogue import activate
from tilewright.kernels.interface import Absence, DeviceKind, DeviceSpec, Launch
from tilewright.kernels.precision import cuda_matmul_precision
from tilewright.kernels.sparse_matmul.operand import SparseOperand
from tilewright.kernels.sparse_matmul.problem import SparseMatmulProblem

ALGORITHMS = ("dense", "dense_prepacked", "csr", "bsr")


@dataclass(frozen=True, slots=True)
class AtenConfig:
    """`algorithm` is what the weight is turned into; of a frozen weight that is kept.

    dense            a dense weight, ``torch.nn.functional.linear``
    dense_prepacked  the same in oneDNN's own layout; only of a frozen weight
    csr              ``torch.sparse_csr`` (MKL, cuSPARSE)
    bsr              ``torch.sparse_bsr``, square blocks that divide N and K (MKL)
    """

    algorithm: str = "dense"

    def __str__(self) -> str:
        return self.algorithm


class AtenSparseMatmul:
    name = "aten"
    operation = "sparse_matmul"
    device_kinds: tuple[DeviceKind, ...] = ("cpu", "cuda")
    config_type = AtenConfig

    def absent(self, kind: DeviceKind) -> Absence | None:
        if kind == "cuda" and not torch.cuda.is_available():
            return Absence("torch sees no CUDA device", "use a machine with a GPU and a CUDA build of torch")
        return None

    def configs(self, problem: SparseMatmulProblem, device: DeviceSpec) -> Iterable[AtenConfig]:
        every = [AtenConfig(algorithm) for algorithm in ALGORITHMS]
        return [config for config in every if self.rejects(config, problem, device) is None]

    def rejects(self, config: AtenConfig, problem: SparseMatmulProblem, device: DeviceSpec) -> str | None:
        if not isinstance(config, AtenConfig) or config.algorithm not in ALGORITHMS:
            return f"unknown aten config {asdict(config) if isinstance(config, AtenConfig) else config!r:.40}"
        if config.algorithm == "dense":
            return None
        if problem.kept == 0 or problem.m == 0:
            return "there is nothing to multiply"
        if config.algorithm == "dense_prepacked":
            return _rejects_prepacked(problem)
        if problem.dtype not in (torch.float32, torch.float64):
            return "torch's sparse products take float32 and float64"
        if problem.device == "cpu" and not torch.backends.mkl.is_available():
            return "torch's sparse products on CPUs need MKL, which this build lacks"
        if config.algorithm == "bsr":
            return _rejects_bsr(problem)
        return None

    def bind(self, config: AtenConfig, problem: SparseMatmulProblem) -> Launch:
        core, fused_bias = _CORES[config.algorithm](problem)
        add_bias = problem.bias_dtype is not None and not fused_bias
        activation, dtype, keep = problem.activation, problem.dtype, problem.keep_preact

        def launch(
            x: Tensor, weight: SparseOperand, bias: Tensor | None, residual: Tensor | None
        ) -> Tensor | tuple[Tensor, Tensor]:
            z = core(x, weight, bias)
            for addend in (bias if add_bias else None, residual):
                z = z if addend is None else z + addend
            y = activate(z, activation).to(dtype).contiguous()
            if not keep:
                return y
            z = z.to(dtype).contiguous()
            return y, z.clone() if z.data_ptr() == y.data_ptr() else z

        def plain(x: Tensor, weight: SparseOperand, bias: Tensor | None, residual: Tensor | None) -> Tensor:
            return core(x, weight, bias)  # torch's products are new and contiguous

        bare = not (add_bias or keep) and problem.residual_dtype is None and activation == "none"
        return _guarded(plain if bare else launch, problem)


Core = Callable[[Tensor, SparseOperand, Tensor | None], Tensor]
"""The product of (x, weight, bias), with the bias added where it was promised."""


def _dense(problem: SparseMatmulProblem) -> tuple[Core, bool]:
    fits = problem.bias_dtype == problem.dtype
    linear = torch.nn.functional.linear

    def core(x: Tensor, weight: SparseOperand, bias: Tensor | None) -> Tensor:
        if not _finite(x):
            return over_kept(x, weight, bias if fits else None)
        return linear(x, weight.form(("aten", "dense"), SparseOperand.dense), bias if fits else None)

    return core, fits


def _prepacked(problem: SparseMatmulProblem) -> tuple[Core, bool]:
    fits = problem.bias_dtype == problem.dtype
    pointwise: Any = torch.ops.mkldnn._linear_pointwise.default
    # oneDNN blocks a weight for a number of rows and of threads.
    rows = next((rows for most, rows in ((1, 1), (16, 8), (128, 64)) if problem.m <= most), 512)
    layout = ("aten", "onednn", rows, problem.threads)

    def core(x: Tensor, weight: SparseOperand, bias: Tensor | None) -> Tensor:
        if not _finite(x):
            return over_kept(x, weight, bias if fits else None)
        packed = weight.form(layout, lambda w: torch.ops.mkldnn._reorder_linear_weight(w.dense(), rows))
        out: Tensor = pointwise(x, packed, bias if fits else None, "none", [], "")
        return out

    return core, fits


def _csr(problem: SparseMatmulProblem) -> tuple[Core, bool]:
    def core(x: Tensor, weight: SparseOperand, bias: Tensor | None) -> Tensor:
        return _linear(x, weight.form(("aten", "csr"), _as_csr))

    return core, False


def _bsr(problem: SparseMatmulProblem) -> tuple[Core, bool]:
    def core(x: Tensor, weight: SparseOperand, bias: Tensor | None) -> Tensor:
        return _linear(x, weight.form(("aten", "bsr"), _as_bsr))

    return core, False


def _linear(x: Tensor, weight: Tensor) -> Tensor:
    # Inside of inference mode torch cannot take the transpose of a sparse tensor from outside.
    with torch.inference_mode(False), torch.no_grad():
        return torch.nn.functional.linear(x.contiguous(), weight)


_CORES: dict[str, Callable[[SparseMatmulProblem], tuple[Core, bool]]] = {
    "dense": _dense,
    "dense_prepacked": _prepacked,
    "csr": _csr,
    "bsr": _bsr,
}


def _as_csr(weight: SparseOperand) -> Tensor:
    """All kept positions, stored zeros too: they are what NaN and infinities of x may meet."""
    kept, dense = weight.kept(), weight.dense()
    crow = torch.nn.functional.pad(kept.sum(1).cumsum(0), (1, 0)).int()
    with _quiet():
        return torch.sparse_csr_tensor(
            crow, kept.nonzero()[:, 1].int(), dense[kept], dense.shape, check_invariants=False
        )


def _as_bsr(weight: SparseOperand) -> Tensor:
    crow, col, values = weight.buffers
    with _quiet():
        return torch.sparse_bsr_tensor(
            crow, col, values.detach(), (weight.n, weight.k), check_invariants=False
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's remark, once in a process, that these layouts are in beta."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


def _finite(x: Tensor) -> bool:
    """Whether no element is NaN or infinite; False may also mean that fp32 does not hold their sum.

    On a GPU this waits for the device. A stream that is being captured cannot: there, nothing is taken to be finite.
    """
    if x.is_cuda and torch.cuda.is_current_stream_capturing():
        return False
    # 16-bit sums overflow soon. Naming the dtype, like asking torch for isfinite, takes time that a small call has not.
    total = x.sum(dtype=torch.float32) if x.dtype.itemsize == 2 else x.sum()
    return math.isfinite(total.item())


_MOST_PRODUCTS = 1 << 22


def over_kept(x: Tensor, weight: SparseOperand, bias: Tensor | None = None) -> Tensor:
    """x·Wᵀ + bias over the kept positions alone, in fp32 or float64 and rounded once: slow, and right for any x."""

    def located(weight: SparseOperand) -> tuple[Tensor, Tensor, Tensor]:
        kept = weight.kept()
        rows, columns = kept.nonzero().unbind(1)
        return rows, columns, weight.dense()[kept]

    rows, columns, values = weight.form(("aten", "located"), located)
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    out = x.new_zeros((x.shape[0], weight.n), dtype=wide)
    step = max(1, _MOST_PRODUCTS // max(1, x.shape[0]))
    for start in range(0, rows.shape[0], step):
        part = slice(start, start + step)
        out.index_add_(1, rows[part], x[:, columns[part]].to(wide) * values[part].to(wide))
    return (out if bias is None else out + bias.to(wide)).to(x.dtype)


def _rejects_prepacked(problem: SparseMatmulProblem) -> str | None:
    if problem.device != "cpu":
        return "oneDNN is for CPU tensors"
    if not (torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")):
        return "this build of torch carries no oneDNN inner product"
    if not problem.frozen:
        return "the weight may change between calls, so a packed copy could go stale"
    if problem.dtype == torch.float64:
        return "oneDNN computes no float64"
    if problem.dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return "oneDNN does not compute bf16 on this CPU"
    if problem.dtype == torch.float16 and not torch.ops.mkldnn._is_mkldnn_fp16_supported():
        return "oneDNN does not compute fp16 on this CPU"
    return None


def _rejects_bsr(problem: SparseMatmulProblem) -> str | None:
    r, c = problem.block
    if problem.format != "bsr":
        return f"the weight is stored as {problem.format}, not in blocks"
    if problem.device != "cpu":
        return "torch's block-sparse products were tried on CPUs only"
    if r != c or r == 1:
        return f"MKL takes square blocks of 2 x 2 or more, not {r} x {c}"
    if problem.n % r or problem.k % c:
        return f"torch's bsr takes no blocks that reach over the edge: {r} x {c} in {problem.n} x {problem.k}"
    return None


def _guarded(launch: Launch, problem: SparseMatmulProblem) -> Launch:
    """Runs `launch` under the problem's fp32 precision, whatever torch's own setting says."""
    if problem.device != "cuda" or problem.dtype != torch.float32:
        return launch
    precision = problem.precision

    def guarded(*operands: Any) -> Any:
        if cuda_matmul_precision() == precision:
            return launch(*operands)
        settings = torch.backends.cuda.matmul
        ambient = settings.fp32_precision
        settings.fp32_precision = precision
        try:
            return launch(*operands)
        finally:
            settings.fp32_precision = ambient

    return guarded


BACKEND = AtenSparseMatmul()
