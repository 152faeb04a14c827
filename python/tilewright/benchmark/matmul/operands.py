"""Matrix products: random operands, and all that torch offers for them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from tilewright.benchmark.accuracy import Judge
from tilewright.benchmark.matmul.shapes import MatmulShape
from tilewright.benchmark.operands import ONEDNN_ACTIVATIONS, Lineup, Operands
from tilewright.benchmark.settings import Settings
from tilewright.benchmark.timing import Contender, first_line
from tilewright.errors import ArgumentError
from tilewright.kernels.epilogue import activate
from tilewright.kernels.matmul.bound import error_bound
from tilewright.nn import Linear
from tilewright.ops import PROBLEMS, linear, matmul

EAGER = {"linear": "torch linear", "matmul": "torch matmul"}
"""The eager call of each layout of the weight."""

PREPACKED, CUBLASLT = "oneDNN prepacked", "cuBLASLt fused"

_ROWS = 64


class MatmulOperands(Operands[MatmulShape]):
    """``act(x (M, K) · weight + bias)``, the weight in the layout that the settings name."""

    def __init__(
        self,
        shape: MatmulShape,
        settings: Settings,
        device: torch.device,
        llc_bytes: int,
        seed: int = 0,
    ) -> None:
        super().__init__(shape, settings, device, llc_bytes, seed)
        if settings.residual or settings.direction != "forward" or settings.layout not in EAGER:
            raise ArgumentError(
                f"bench matmul: residual is {settings.residual}, direction {settings.direction}, layout "
                f"{settings.layout}; expected no residual, forward, and linear or matmul"
            )
        m, n, k = shape.m, shape.n, shape.k
        self.x = [self.random(m, k) for _ in range(self.sets)]
        # Scaled as trained layers are, so that outputs are of order one and 16-bit formats do not overflow.
        scale = k**-0.5
        given = (n, k) if settings.layout == "linear" else (k, n)
        self.weights = [self.random(*given) * scale for _ in range(self.sets)]
        self.biases = [self.random(n) if settings.bias else None for _ in range(self.sets)]

    @cached_property
    def as_linear(self) -> list[Tensor]:
        """The weights as (N, K)."""
        given = self.settings.layout == "linear"
        return self.weights if given else [w.t().contiguous() for w in self.weights]

    @cached_property
    def as_matmul(self) -> list[Tensor]:
        """The weights as (K, N)."""
        given = self.settings.layout == "matmul"
        return self.weights if given else [w.t().contiguous() for w in self.weights]

    def call(self, index: int) -> Tensor:
        x, w, bias = self.x[index], self.weights[index], self.biases[index]
        if self.settings.layout == "linear":
            return linear(x, w, bias, activation=self.settings.activation)
        return matmul(x, w, bias=bias, activation=self.settings.activation)

    def problem(self) -> tuple[str, Any]:
        x, w, bias = self.x[0], self.weights[0], self.biases[0]
        return PROBLEMS[self.settings.layout](x, w, bias=bias, activation=self.settings.activation)

    def judge(self, precision: str) -> Judge:
        """Of all rows of few, 64 of many."""
        x, w, bias, activation = self.x[0], self.as_matmul[0], self.biases[0], self.settings.activation
        rows = torch.arange(x.shape[0], device=x.device)
        if len(rows) > _ROWS:
            rows = torch.linspace(0, x.shape[0] - 1, _ROWS, device=x.device).round().long()
        chosen = x[rows]
        exact = error_bound(chosen, w, bias, activation=activation, out_dtype=x.dtype, precision=precision)
        z = torch.matmul(chosen, w)
        theirs = activate(z if bias is None else z + bias, activation)
        return Judge.of(lambda y: y[rows], exact.y, exact.y_bound, theirs)

    def eager(self) -> Iterable[Contender]:
        x, biases, activation = self.x, self.biases, self.settings.activation

        def eager_linear(index: int) -> Tensor:
            y = torch.nn.functional.linear(x[index], self.as_linear[index], biases[index])
            return activate(y, activation)

        def eager_matmul(index: int) -> Tensor:
            bias, b = biases[index], self.as_matmul[index]
            y = torch.mm(x[index], b) if bias is None else torch.addmm(bias, x[index], b)
            return activate(y, activation)

        return Contender(EAGER["linear"], eager_linear), Contender(EAGER["matmul"], eager_matmul)

    def add_vendor(self, found: Lineup) -> None:
        if self.device.type == "cpu":
            self._add_prepacked(found)
        else:
            self._add_cublaslt(found)

    def _add_prepacked(self, found: Lineup) -> None:
        if (
            not hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
            or not torch.backends.mkldnn.is_available()
        ):
            found.absent[PREPACKED] = "this build of torch carries no oneDNN inner product"
            return
        attribute, variant = ONEDNN_ACTIVATIONS[self.settings.activation]
        pointwise = torch.ops.mkldnn._linear_pointwise.default
        x, biases = self.x, self.biases
        try:
            packed = [torch.ops.mkldnn._reorder_linear_weight(w, self.shape.m) for w in self.as_linear]
        except RuntimeError as error:  # oneDNN has no kernel for the dtype on this CPU
            found.absent[PREPACKED] = first_line(error)
            return

        def run(index: int) -> Tensor:
            y: Tensor = pointwise(x[index], packed[index], biases[index], attribute, [], variant)
            return y

        found.contenders.append(Contender(PREPACKED, run))

    def _add_cublaslt(self, found: Lineup) -> None:
        activation = self.settings.activation
        if activation not in ("relu", "gelu_tanh") or not self.settings.bias:
            found.absent[CUBLASLT] = (
                "torch reaches cuBLASLt's fused epilogue for relu and gelu_tanh with a bias only"
            )
            return
        x, biases, use_gelu = self.x, self.biases, activation == "gelu_tanh"
        views = [w.t() if self.settings.layout == "linear" else w for w in self.weights]

        def run(index: int) -> Tensor:
            bias = biases[index]
            assert bias is not None
            return torch._addmm_activation(bias, x[index], views[index], use_gelu=use_gelu)

        found.contenders.append(Contender(CUBLASLT, run))

    def compiled(self) -> tuple[Callable[..., Tensor], Callable[[int], tuple[Any, ...]]]:
        activation = self.settings.activation

        def layer(x: Tensor, w: Tensor, bias: Tensor | None) -> Tensor:
            return activate(torch.nn.functional.linear(x, w, bias), activation)

        return layer, lambda index: (self.x[index], self.as_linear[index], self.biases[index])

    def layers(self) -> list[torch.nn.Module]:
        layers: list[torch.nn.Module] = []
        for weight, bias in zip(self.as_linear, self.biases, strict=True):
            layer = Linear(
                self.shape.k, self.shape.n, bias is not None, self.settings.activation, device="meta"
            )
            layer.weight = torch.nn.Parameter(weight.clone(), requires_grad=False)
            if bias is not None:
                layer.bias = torch.nn.Parameter(bias.clone(), requires_grad=False)
            layers.append(layer)
        return layers

    def layer_arguments(self, index: int) -> tuple[Any, ...]:
        return (self.x[index],)


def problem_of(shape: MatmulShape, settings: Settings, *, frozen: bool = False) -> tuple[str, Any]:
    """(operation, problem) of a shape, without the memory its operands take; `frozen`, as a packed layer's."""
    # Allocated, never touched: the system backs no page of it.
    device, dtype = torch.device(settings.device), settings.dtype
    m, n, k = shape.m, shape.n, shape.k
    layout = "linear" if frozen else settings.layout
    x = torch.empty(m, k, dtype=dtype, device=device)
    weight = torch.empty(*((n, k) if layout == "linear" else (k, n)), dtype=dtype, device=device)
    bias = torch.empty(n, dtype=dtype, device=device) if settings.bias else None
    given: dict[str, Any] = {"frozen": True} if frozen else {}
    return PROBLEMS[layout](x, weight, bias=bias, activation=settings.activation, **given)
