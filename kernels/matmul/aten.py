"""What torch and the vendor libraries behind it (MKL, oneDNN, cuBLAS) offer for a matrix product.

The vendor's code is a candidate of every choice, so that a tuned call is never slower than torch's own. Each
algorithm here is one road into it; which is fastest differs by dtype, layout and size: on an AMD EPYC, oneDNN
with a plain fp32 weight takes 1.25 ms where ``torch.nn.functional.linear`` takes 3.4 ms (1×4096×4096).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from tilewright.kernels.dtypes import KERNEL_DTYPES
from tilewright.kernels.epilogue import activate
from tilewright.kernels.frozen import FrozenOperand, unwrapped
from tilewright.kernels.interface import Absence, DeviceKind, DeviceSpec, Launch
from tilewright.kernels.matmul.onednn import form_of
from tilewright.kernels.matmul.problem import MatmulProblem
from tilewright.kernels.precision import cuda_matmul_precision

ALGORITHMS = ("matmul", "addmm", "linear", "onednn", "onednn_prepacked", "addmm_activation")
LAYOUTS = ("as_is", "row", "col")

# oneDNN's fused relu turns NaN into 0, so relu is left to torch, which keeps it.
_ONEDNN_ACTIVATIONS = {
    "none": ("none", ""),
    "gelu": ("gelu", "none"),
    "gelu_tanh": ("gelu", "tanh"),
    "silu": ("swish", ""),
}


@dataclass(frozen=True, slots=True)
class AtenConfig:
    """`algorithm` names the torch operator; `b_layout` the order that B is first copied into, if any; of a frozen B
    the copy is kept.

    matmul             ``torch.matmul``, then bias, residual and activation as separate operators
    addmm              ``torch.addmm`` with the bias (or else the residual) fused
    linear             ``torch.nn.functional.linear`` on B transposed
    onednn             oneDNN's inner product with the activation fused, on B as it is
    onednn_prepacked   the same on a weight reordered once; only where B is frozen
    addmm_activation   cuBLASLt's fused bias and activation
    """

    algorithm: str = "matmul"
    b_layout: str = "as_is"

    def __str__(self) -> str:
        return (
            self.algorithm if self.b_layout == "as_is" else f"{self.algorithm} (B copied to {self.b_layout})"
        )


class AtenMatmul:
    name = "aten"
    operation = "matmul"
    device_kinds: tuple[DeviceKind, ...] = ("cpu", "cuda")
    config_type = AtenConfig

    def absent(self, kind: DeviceKind) -> Absence | None:
        if kind == "cuda" and not torch.cuda.is_available():
            return Absence("torch sees no CUDA device", "use a machine with a GPU and a CUDA build of torch")
        return None

    def configs(self, problem: MatmulProblem, device: DeviceSpec) -> Iterable[AtenConfig]:
        every = [AtenConfig(algorithm, "as_is") for algorithm in ALGORITHMS]
        if problem.dtype in KERNEL_DTYPES and (problem.m >= 64 or problem.frozen_b):
            # A copy of B costs K·N; only many rows pay for it, or many calls.
            every += [AtenConfig("matmul", "row"), AtenConfig("linear", "col"), AtenConfig("onednn", "col")]
        return [config for config in every if self.rejects(config, problem, device) is None]

    def rejects(self, config: AtenConfig, problem: MatmulProblem, device: DeviceSpec) -> str | None:
        algorithm, b_layout = config.algorithm, config.b_layout
        if algorithm not in ALGORITHMS or b_layout not in LAYOUTS:
            return f"unknown aten config {asdict(config)}"
        if b_layout != "as_is" and b_layout == problem.b_layout:
            return f"B is {b_layout}-major already"
        if b_layout == "row" and algorithm != "matmul":
            return f"only matmul is tried on a row-major copy of B, not {algorithm}"
        if b_layout == "col" and algorithm not in ("linear", "onednn"):
            return f"only linear and onednn are tried on a column-major copy of B, not {algorithm}"
        if algorithm == "matmul":
            return None
        if problem.batch or problem.dtype not in KERNEL_DTYPES or len(problem.out_shape) < 2:
            return f"{algorithm} takes one floating-point matrix B and no batch"
        if algorithm == "addmm" and _addend(problem) is None:
            return "addmm needs a bias or residual of the operands' dtype to fuse"
        if algorithm == "addmm_activation":
            return _rejects_addmm_activation(problem)
        if algorithm in ("onednn", "onednn_prepacked"):
            return _rejects_onednn(algorithm, problem)
        return None

    def bind(self, config: AtenConfig, problem: MatmulProblem) -> Launch:
        if not problem.frozen_b:
            return self._bind(config, problem)
        thawed = replace(problem, frozen_b=False)
        if config.algorithm == "onednn_prepacked":
            return _given(form_of(problem), self._bind(config, thawed))
        if config.b_layout == "as_is":
            return unwrapped(self._bind(config, thawed))
        strides = (1, problem.k) if config.b_layout == "col" else (problem.n, 1)
        thawed = replace(thawed, b_strides=(*problem.b_strides[:-2], *strides))
        return _given(_copy_of(config.b_layout), self._bind(AtenConfig(config.algorithm), thawed))

    def _bind(self, config: AtenConfig, problem: MatmulProblem) -> Launch:
        """For a B that is a tensor; for ``onednn_prepacked``, oneDNN's form of it."""
        core, fused_bias, fused_residual, fused_activation = _core(config, problem)
        compute = _compute_dtype(problem)
        upcast = compute != problem.dtype
        add_bias = problem.bias_dtype is not None and not fused_bias
        add_residual = problem.residual_dtype is not None and not fused_residual
        activation = "none" if fused_activation else problem.activation
        out_dtype, out_shape, keep = problem.out_dtype, problem.out_shape, problem.keep_preact
        one_column = problem.n == 1
        core_does_all = not (upcast or add_bias or add_residual or keep)  # but the activation
        plain = core_does_all and activation == "none"
        if core_does_all and out_dtype == problem.dtype and out_shape == (problem.m, problem.n):
            # torch's products of matrices are new and contiguous.
            return _guarded(_activated(core, activation), problem)

        def launch(
            a: Tensor, b: Tensor, bias: Tensor | None, residual: Tensor | None
        ) -> Tensor | tuple[Tensor, Tensor]:
            if upcast:
                a, b = a.to(compute), b.to(compute)
            z = core(a, b, bias, residual)
            if plain and z.dtype == out_dtype:
                return z.view(out_shape) if z.shape != out_shape else z.contiguous()
            if z.shape != out_shape:
                z = z.view(out_shape)
            if add_bias:
                # With one column the output may have lost that dimension (a vector B): add a scalar.
                z = _add(z, bias.view(()) if one_column and bias is not None else bias)
            if add_residual:
                z = _add(z, residual)
            if not keep:
                y = torch.relu_(z) if activation == "relu" else activate(z, activation)
                y = y if y.dtype == out_dtype else y.to(out_dtype)
                return y if y.is_contiguous() else y.contiguous()
            y = activate(z, activation).to(out_dtype).contiguous()
            preact = z.to(out_dtype).contiguous()
            return y, preact.clone() if preact.data_ptr() == y.data_ptr() else preact

        return _guarded(launch, problem)


def _given(form: Callable[[FrozenOperand], Tensor], launch: Launch) -> Launch:
    """`launch` on the form that a frozen B keeps for it."""

    def launch_on_form(a: Tensor, b: FrozenOperand, bias: Tensor | None, residual: Tensor | None) -> Any:
        return launch(a, form(b), bias, residual)

    return launch_on_form


def _copy_of(b_layout: str) -> Callable[[FrozenOperand], Tensor]:
    layout = ("aten", b_layout)

    def copied(b: FrozenOperand) -> Tensor:
        copy = b.forms.get(layout)
        if copy is None:
            copy = b.pack(layout, _copies[b_layout])
        found: Tensor = copy
        return found

    return copied


_copies: dict[str, Callable[[Tensor], Tensor]] = {
    "row": lambda b: b.contiguous(),
    "col": lambda b: b.mT.contiguous().mT if b.dim() > 1 else b.contiguous(),
}

Core = Callable[[Tensor, Tensor, Tensor | None, Tensor | None], Tensor]


def _core(config: AtenConfig, problem: MatmulProblem) -> tuple[Core, bool, bool, bool]:
    """The product itself, and whether it already adds the bias, adds the residual, applies the activation."""
    algorithm = config.algorithm
    has_bias = problem.bias_dtype is not None
    m, n, k = problem.m, problem.n, problem.k
    a_strides, b_strides = problem.a_strides[-2:], problem.b_strides[-2:]
    bias_fits = has_bias and problem.bias_dtype == _compute_dtype(problem)

    def matrices(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        if config.b_layout == "as_is" and a.dim() == 2 and b.dim() == 2:
            return a, b  # a view costs 1 µs
        # An upcast operand is a new tensor with strides of its own.
        a = a.as_strided((m, k), a_strides) if a.dtype == problem.dtype else a.reshape(m, k)
        b = b.as_strided((k, n), b_strides) if b.dtype == problem.dtype else b.reshape(k, n)
        return a, b.mT.contiguous().mT if config.b_layout == "col" else b

    if algorithm == "addmm":
        if _addend(problem) == "residual":
            r_strides = (problem.residual_strides or (0, 0))[-2:]

            def addmm_residual(a: Tensor, b: Tensor, bias: Tensor | None, residual: Tensor | None) -> Tensor:
                a, b = matrices(a, b)
                return torch.addmm(residual.as_strided((m, n), r_strides), a, b)  # type: ignore[union-attr]

            return addmm_residual, False, True, False

        fuse = problem.device == "cpu" and problem.activation == "relu" and problem.residual_dtype is None
        fuse = fuse and not problem.keep_preact and problem.out_dtype == problem.dtype
        # On CPUs addmm and then relu in place, in one call of torch.
        addmm: Callable[..., Tensor] = torch._addmm_activation if fuse else torch.addmm

        def addmm_bias(a: Tensor, b: Tensor, bias: Tensor | None, residual: Tensor | None) -> Tensor:
            return addmm(bias, *matrices(a, b))

        def addmm_bias_of_matrices(
            a: Tensor, b: Tensor, bias: Tensor | None, residual: Tensor | None
        ) -> Tensor:
            return addmm(bias, a, b)

        # Several rows and columns, and no third dimension: that only two matrices give.
        given_matrices = len(problem.out_shape) == 2 and m > 1 and n > 1
        return addmm_bias_of_matrices if given_matrices else addmm_bias, True, False, fuse

    if algorithm == "addmm_activation":
        use_gelu = problem.activation == "gelu_tanh"

        def addmm_activation(a: Tensor, b: Tensor, bias: Tensor | None, residual: Tensor | None) -> Tensor:
            a, b = matrices(a, b)
            return torch._addmm_activation(bias, a, b, use_gelu=use_gelu)  # type: ignore[arg-type]

        return addmm_activation, True, False, True

    if algorithm == "linear":

        def linear(a: Tensor, b: Tensor, bias: Tensor | None, residual: Tensor | None) -> Tensor:
            a, b = matrices(a, b)
            return torch.nn.functional.linear(a, b.mT, bias if bias_fits else None)

        return linear, bias_fits, False, False

    if algorithm in ("onednn", "onednn_prepacked"):
        fuse = problem.residual_dtype is None and not problem.keep_preact and (bias_fits or not has_bias)
        fuse = fuse and problem.out_dtype == problem.dtype and problem.activation in _ONEDNN_ACTIVATIONS
        attribute, variant = _ONEDNN_ACTIVATIONS[problem.activation if fuse else "none"]
        pointwise = torch.ops.mkldnn._linear_pointwise.default

        def onednn(a: Tensor, b: Tensor, bias: Tensor | None, residual: Tensor | None) -> Tensor:
            if algorithm == "onednn":
                a, b = matrices(a, b)
                weight = b.mT
            else:
                a, weight = a if a.dim() == 2 else a.as_strided((m, k), a_strides), b
            out: Tensor = pointwise(a, weight, bias if bias_fits else None, attribute, [], variant)
            return out

        return onednn, bias_fits, False, fuse

    def matmul(a: Tensor, b: Tensor, bias: Tensor | None, residual: Tensor | None) -> Tensor:
        return torch.matmul(a, b)

    def matmul_row_major(a: Tensor, b: Tensor, bias: Tensor | None, residual: Tensor | None) -> Tensor:
        return torch.matmul(a, b.contiguous())

    return matmul_row_major if config.b_layout == "row" else matmul, False, False, False


def _activated(core: Core, activation: str) -> Core:
    """`core` and then the activation. Relu overwrites the product, which nobody else has seen."""
    if activation == "none":
        return core
    if activation == "relu":
        relu_ = torch.relu_
        return lambda a, b, bias, residual: relu_(core(a, b, bias, residual))
    return lambda a, b, bias, residual: activate(core(a, b, bias, residual), activation)


def _compute_dtype(problem: MatmulProblem) -> torch.dtype:
    """fp32 where the output keeps what a 16-bit product would have rounded away, else the operands' own."""
    widens = problem.dtype in KERNEL_DTYPES and problem.out_dtype != problem.dtype
    return torch.float32 if widens else problem.dtype


def _add(z: Tensor, addend: Tensor | None) -> Tensor:
    assert addend is not None
    return z.add_(addend) if torch.promote_types(z.dtype, addend.dtype) == z.dtype else z + addend


def _addend(problem: MatmulProblem) -> str | None:
    if problem.bias_dtype is not None and problem.bias_dtype == _compute_dtype(problem):
        return "bias"
    # A residual is fused only where there is no bias: rounding before the last addend could cancel badly.
    if problem.bias_dtype is None and problem.residual_dtype == _compute_dtype(problem):
        return "residual"
    return None


def _rejects_addmm_activation(problem: MatmulProblem) -> str | None:
    if problem.device != "cuda":
        return "cuBLASLt's fused activation is for CUDA devices"
    if problem.activation not in ("relu", "gelu_tanh"):
        return f"cuBLASLt fuses relu and gelu_tanh, not {problem.activation}"
    if problem.bias_dtype != problem.dtype or problem.residual_dtype is not None:
        return "cuBLASLt's fused activation takes a bias of the operands' dtype and no residual"
    if problem.keep_preact or problem.out_dtype != problem.dtype:
        return "cuBLASLt's fused activation returns y alone, in the operands' dtype"
    return None


def _rejects_onednn(algorithm: str, problem: MatmulProblem) -> str | None:
    if problem.device != "cpu":
        return "oneDNN is for CPU tensors"
    if not (torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")):
        return "this build of torch carries no oneDNN inner product"
    if _compute_dtype(problem) != problem.dtype:
        return "oneDNN's inner product returns the operands' dtype"
    if problem.dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return "oneDNN does not compute bf16 on this CPU"
    if problem.dtype == torch.float16 and not torch.ops.mkldnn._is_mkldnn_fp16_supported():
        return "oneDNN does not compute fp16 on this CPU"
    if min(problem.m, problem.n, problem.k) == 0:
        return "oneDNN takes no empty operands"
    if algorithm == "onednn_prepacked" and not problem.frozen_b:
        return (
            "B may change between calls, so a packed copy could go stale; pack the weight of a frozen module"
        )
    return None


def _guarded(launch: Launch, problem: MatmulProblem) -> Launch:
    """Runs `launch` under the problem's fp32 precision, whatever torch's own setting says."""
    if problem.device != "cuda" or problem.dtype != torch.float32:
        return launch
    precision = problem.precision

    def guarded(*tensors: Tensor | None) -> Tensor | tuple[Tensor, Tensor]:
        if cuda_matmul_precision() == precision:
            return launch(*tensors)  # type: ignore[no-any-return]
        settings = torch.backends.cuda.matmul
        ambient = settings.fp32_precision
        settings.fp32_precision = precision
        try:
            return launch(*tensors)  # type: ignore[no-any-return]
        finally:
            settings.fp32_precision = ambient

    return guarded


BACKEND = AtenMatmul()
