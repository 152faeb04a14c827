"""The ways to compute one matrix product: all that torch offers, and tilewright chosen and by backend."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, Literal

import torch
from torch import Tensor

from tilewright import dispatch, settings
from tilewright.benchmark.results import OURS, PACKED
from tilewright.benchmark.shapes import Shape
from tilewright.benchmark.timing import Contender, first_line
from tilewright.errors import Error
from tilewright.kernels import registry
from tilewright.kernels.epilogue import activate
from tilewright.kernels.matmul.problem import MatmulProblem
from tilewright.nn import Linear
from tilewright.ops import PROBLEMS, linear, matmul

Layout = Literal["linear", "matmul"]

EAGER = {"linear": "torch linear", "matmul": "torch matmul"}
"""The eager call of each weight layout: (N, K) as `torch.nn.Linear` keeps it, (K, N) as `torch.matmul` takes it."""

PREPACKED, CUBLASLT, COMPILED = "oneDNN prepacked", "cuBLASLt fused", "torch.compile"

TORCH = (*EAGER.values(), PREPACKED, CUBLASLT, COMPILED)
"""Every contender that is torch's; the best of those that ran is what ours is held against."""

_ONEDNN_ACTIVATIONS = {
    "none": ("none", ""),
    "relu": ("relu", ""),
    "gelu": ("gelu", "none"),
    "gelu_tanh": ("gelu", "tanh"),
    "silu": ("swish", ""),
}

_MOST_SETS = 128
_MOST_BYTES = 1 << 30


@dataclass(slots=True)
class CompileBudget:
    """Seconds that torch.compile may still take; compilation on a small machine takes longer than timing."""

    left: float


@dataclass
class Operands:
    """Sets of random operands that together are larger than the last-level cache, where memory allows."""

    shape: Shape
    layout: Layout
    dtype: torch.dtype
    device: torch.device
    bias: bool
    activation: str
    llc_bytes: int
    seed: int = 0
    weights: list[Tensor] = field(init=False)

    def __post_init__(self) -> None:
        m, n, k = self.shape.m, self.shape.n, self.shape.k
        generator = torch.Generator(self.device).manual_seed(self.seed)
        nbytes = self.dtype.itemsize * (m * k + n * k + m * n)
        self.sets = max(2, min(_MOST_SETS, -(-2 * self.llc_bytes // nbytes), _MOST_BYTES // nbytes))

        def random(*sizes: int) -> Tensor:
            return torch.randn(sizes, generator=generator, device=self.device).to(self.dtype)

        self.x = [random(m, k) for _ in range(self.sets)]
        # Scaled as trained layers are, so that outputs are of order one and 16-bit formats do not overflow.
        scale = k**-0.5
        given = (n, k) if self.layout == "linear" else (k, n)
        self.weights = [random(*given) * scale for _ in range(self.sets)]
        self.biases = [random(n) if self.bias else None for _ in range(self.sets)]

    @cached_property
    def as_linear(self) -> list[Tensor]:
        """The weights as (N, K)."""
        return self.weights if self.layout == "linear" else [w.t().contiguous() for w in self.weights]

    @cached_property
    def as_matmul(self) -> list[Tensor]:
        """The weights as (K, N)."""
        return self.weights if self.layout == "matmul" else [w.t().contiguous() for w in self.weights]

    def call(self, index: int) -> Tensor:
        """tilewright's public function on the i-th set."""
        x, w, bias = self.x[index], self.weights[index], self.biases[index]
        if self.layout == "linear":
            return linear(x, w, bias, activation=self.activation)
        return matmul(x, w, bias=bias, activation=self.activation)

    def problem(self) -> MatmulProblem:
        """The problem of `call`, under the options in force."""
        found: MatmulProblem = PROBLEMS[self.layout](
            self.x[0],
            self.weights[0],
            **({"bias": self.biases[0]} if self.bias else {}),
            activation=self.activation,
        )[1]
        return found


@dataclass(slots=True)
class Lineup:
    """Contenders that can run, what each of ours runs, and why the others cannot."""

    contenders: list[Contender]
    details: dict[str, str]
    absent: dict[str, str]


def lineup(
    operands: Operands,
    *,
    backends: Sequence[str] | None = None,
    compile_budget: CompileBudget | None = None,
    torch_contenders: bool = True,
) -> Lineup:
    """Everybody who can compute the product. `compile_budget` None leaves torch.compile out."""
    found = Lineup([], {}, {})
    if torch_contenders:
        _add_eager(operands, found)
        _add_vendor(operands, found)
        if compile_budget is not None:
            _add_compiled(operands, found, compile_budget)
    _add_ours(operands, found, OURS, nullcontext)
    if operands.device.type == "cpu":
        _add_packed(operands, found)
    names = registry.backends("matmul") if backends is None else backends
    for name in names:
        if name != "reference":  # the float64 oracle is no contender
            scope = partial(settings.options, backend=name, strict=True)
            _add_ours(operands, found, f"{OURS} {name}", scope)
    return found


def _add_ours(
    operands: Operands, found: Lineup, name: str, scope: Callable[[], AbstractContextManager[Any]]
) -> None:
    try:
        with scope():
            choice = dispatch.choose("matmul", operands.problem(), settings.current())
    except Error as error:
        found.absent[name] = first_line(error)
        return
    found.contenders.append(Contender(name, operands.call, scope))
    found.details[name] = f"{choice.backend}: {choice.config} [{choice.source}]"


def _add_packed(operands: Operands, found: Lineup) -> None:
    """Layers with weights of their own: one that others hold too would not be packed."""
    # Tensors made in inference mode would not be packed either.
    with torch.inference_mode(False), torch.no_grad():
        layers = []
        for weight, bias in zip(operands.as_linear, operands.biases, strict=True):
            layer = Linear(operands.shape.k, operands.shape.n, bias is not None, operands.activation, "meta")
            layer.weight = torch.nn.Parameter(weight.clone(), requires_grad=False)
            if bias is not None:
                layer.bias = torch.nn.Parameter(bias.clone(), requires_grad=False)
            layers.append(layer.eval())
        try:
            for layer, example in zip(layers, operands.x, strict=True):
                layer.pack(example)
            problem = layers[0].problem(operands.x[0])[1]
            choice = dispatch.choose("matmul", problem, settings.current())
        except Error as error:
            found.absent[PACKED] = first_line(error)
            return
    x = operands.x

    def run(index: int) -> Tensor:
        y: Tensor = layers[index](x[index])
        return y

    found.contenders.append(Contender(PACKED, run))
    found.details[PACKED] = f"{choice.backend}: {choice.config} [{choice.source}]"


def _add_eager(operands: Operands, found: Lineup) -> None:
    x, biases, activation = operands.x, operands.biases, operands.activation

    def eager_linear(index: int) -> Tensor:
        y = torch.nn.functional.linear(x[index], operands.as_linear[index], biases[index])
        return activate(y, activation)

    def eager_matmul(index: int) -> Tensor:
        bias, b = biases[index], operands.as_matmul[index]
        y = torch.mm(x[index], b) if bias is None else torch.addmm(bias, x[index], b)
        return activate(y, activation)

    found.contenders += [
        Contender(EAGER["linear"], eager_linear),
        Contender(EAGER["matmul"], eager_matmul),
    ]


def _add_vendor(operands: Operands, found: Lineup) -> None:
    """What eager code reaches only by asking for it: a weight packed once, a fused epilogue.

    Called directly and not through our aten backend, whose Python would count against torch.
    """
    if operands.device.type == "cpu":
        _add_prepacked(operands, found)
    else:
        _add_cublaslt(operands, found)


def _add_prepacked(operands: Operands, found: Lineup) -> None:
    if not hasattr(torch.ops.mkldnn, "_reorder_linear_weight") or not torch.backends.mkldnn.is_available():
        found.absent[PREPACKED] = "this build of torch carries no oneDNN inner product"
        return
    attribute, variant = _ONEDNN_ACTIVATIONS[operands.activation]
    pointwise = torch.ops.mkldnn._linear_pointwise.default
    x, biases = operands.x, operands.biases
    try:
        packed = [torch.ops.mkldnn._reorder_linear_weight(w, operands.shape.m) for w in operands.as_linear]
    except RuntimeError as error:  # oneDNN has no kernel for the dtype on this CPU
        found.absent[PREPACKED] = first_line(error)
        return

    def run(index: int) -> Tensor:
        y: Tensor = pointwise(x[index], packed[index], biases[index], attribute, [], variant)
        return y

    found.contenders.append(Contender(PREPACKED, run))


def _add_cublaslt(operands: Operands, found: Lineup) -> None:
    if operands.activation not in ("relu", "gelu_tanh") or not operands.bias:
        found.absent[CUBLASLT] = (
            "torch reaches cuBLASLt's fused epilogue for relu and gelu_tanh with a bias only"
        )
        return
    x, biases, use_gelu = operands.x, operands.biases, operands.activation == "gelu_tanh"
    views = [w.t() if operands.layout == "linear" else w for w in operands.weights]

    def run(index: int) -> Tensor:
        bias = biases[index]
        assert bias is not None
        return torch._addmm_activation(bias, x[index], views[index], use_gelu=use_gelu)

    found.contenders.append(Contender(CUBLASLT, run))


def cannot_compile(device: torch.device) -> str | None:
    """Why torch.compile cannot work here, where that is plain without trying."""
    if device.type == "cpu" and not any(shutil.which(name) for name in ("g++", "clang++", "c++")):
        return "torch.compile needs a C++ compiler for the CPU, and there is none on PATH"
    return None


def _add_compiled(operands: Operands, found: Lineup, budget: CompileBudget) -> None:
    reason = cannot_compile(operands.device)
    if reason is None and budget.left <= 0:
        reason = "the time for torch.compile was spent on other shapes"
    if reason is not None:
        found.absent[COMPILED] = reason
        return
    activation = operands.activation

    def layer(x: Tensor, w: Tensor, bias: Tensor | None) -> Tensor:
        return activate(torch.nn.functional.linear(x, w, bias), activation)

    # Compiled code is kept per code object, a few versions at most: each shape starts afresh.
    torch._dynamo.reset()
    mode = "max-autotune-no-cudagraphs" if operands.device.type == "cuda" else "default"
    compiled = torch.compile(layer, dynamic=False, mode=mode)

    def run(index: int) -> Tensor:
        y: Tensor = compiled(operands.x[index], operands.as_linear[index], operands.biases[index])
        return y

    began = time.perf_counter()
    try:
        run(0)
    except Exception as error:
        found.absent[COMPILED] = f"{type(error).__name__}: {first_line(error)}"
        # What fails once fails again: a missing header, an unsupported Python.
        budget.left = 0.0
        return
    finally:
        budget.left -= time.perf_counter() - began
    found.contenders.append(Contender(COMPILED, run))


def graphed(contender: Contender, sets: int) -> Contender:
    """The contender's calls captured in a CUDA graph: its time on the device, without Python's."""
    calls = max(sets, 8)
    with contender.scope():
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for index in range(min(sets, 3)):
                contender.run(index)
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for call in range(calls):
                contender.run(call % sets)
    return Contender(contender.name, lambda index: graph.replay(), calls_per_run=calls)
