"""tilewright.nn.Conv1D: the linear layer of GPT-2, whose weight is (in, out), multiplied by as it lies."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tilewright
from tilewright.errors import ArgumentError, ShapeError
from tilewright.kernels.epilogue import ACTIVATIONS, activate

NX, NF = 37, 21


def layer(activation: str = "none", dtype: torch.dtype = torch.float32) -> tilewright.nn.Conv1D:
    made = tilewright.nn.Conv1D(NF, NX, activation, dtype=dtype).eval()
    nn.init.normal_(made.bias)
    return made


def expected(module: Any, x: Tensor, residual: Tensor | None = None) -> Tensor:
    weight = dict.get(module._parameters, "weight")
    z = torch.matmul(x.double(), weight.detach().double()) + module.bias.detach().double()
    return activate(z if residual is None else z + residual.double(), module.activation)


def assert_right(module: Any, x: Tensor, residual: Tensor | None = None) -> None:
    with torch.no_grad():
        for _ in range(3):
            y = module(x, residual)
            eps = torch.finfo(y.dtype).eps
            torch.testing.assert_close(y.double(), expected(module, x, residual), rtol=8 * eps, atol=32 * eps)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_dtype_and_activation(dtype: torch.dtype, activation: str) -> None:
    module = layer(activation, dtype)
    for shape in ((NX,), (5, NX), (2, 3, NX), (0, NX)):
        x = torch.randn(shape, dtype=dtype)
        assert_right(module, x)
        assert_right(module, x, torch.randn(*shape[:-1], NF, dtype=dtype))
    assert_right(module, torch.randn(NX, 4, dtype=dtype).t())


@pytest.mark.parametrize("backend", ["cpu", "aten"])
def test_the_weight_is_packed(backend: Any) -> None:
    module, x = layer("gelu"), torch.randn(18, NX)
    with tilewright.options(backend=backend):
        assert_right(module, x)
        assert module.packing().startswith("packed"), module.packing()
        with torch.no_grad():
            problem = tilewright.explain(module, x).problem
            assert "frozen" in problem.describe()
            assert problem.b_layout == "row"
            module.weight.mul_(2)
            assert_right(module, x)
            module.weight.data[3, 4] += 7
            assert_right(module, x)
            held = module.weight
            assert "frozen" not in tilewright.explain(module, x).problem.describe()
            held.data.add_(1)
            assert_right(module, x)
        with torch.autocast("cpu", torch.bfloat16):
            assert module(x.detach()).dtype == torch.bfloat16


def test_gradients_and_state() -> None:
    module = layer("silu").double().train()
    x = torch.randn(3, NX, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(module, (x,))
    assert {name: tuple(value.shape) for name, value in module.state_dict().items()} == {
        "weight": (NX, NF),
        "bias": (NF,),
    }
    assert "nf=21, nx=37" in repr(module)
    again = copy.deepcopy(module).float().eval()
    assert_right(again, torch.randn(2, NX))
    torch._dynamo.reset()
    compiled = torch.compile(again, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(torch.ones(2, NX)), again(torch.ones(2, NX)))


def test_errors_are_linears() -> None:
    with pytest.raises(ShapeError, match="linear: "):
        layer()(torch.randn(3, NX + 1))
    with pytest.raises(ArgumentError, match="activation is 'tanh'"):
        tilewright.nn.Conv1D(3, 4, "tanh")


class Conv1D(nn.Module):
    """As transformers writes it."""

    def __init__(self, nf: int, nx: int) -> None:
        super().__init__()
        self.nf, self.nx = nf, nx
        self.weight = nn.Parameter(torch.randn(nx, nf))
        self.bias = nn.Parameter(torch.randn(nf))

    def forward(self, x: Tensor) -> Tensor:
        shape = (*x.size()[:-1], self.nf)
        return torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight).view(shape)


def test_hugging_faces_layer_is_swapped(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(Conv1D(NF, NX), nn.GELU("tanh"), nn.Linear(NF, 4)).eval()
    left: Any = tilewright.accelerate(model)
    assert type(left[0]) is Conv1D
    monkeypatch.setattr("tilewright.acceleration.swap.CONV1D_NAMES", {f"{Conv1D.__module__}.Conv1D"})
    x = torch.randn(2, 5, NX)
    accelerated: Any = tilewright.accelerate(model)
    assert isinstance(accelerated[0], tilewright.nn.Conv1D)
    entry = accelerated.tilewright_report.entries[0]
    assert (entry.before, entry.after) == ("Conv1D + GELU", "tilewright.nn.Conv1D(gelu_tanh)")
    with torch.no_grad():
        for _ in range(2):
            torch.testing.assert_close(accelerated(x), model(x), rtol=1e-4, atol=1e-4)
        assert accelerated[0].packing().startswith("packed")
        tilewright.restore(accelerated)
        assert type(accelerated[0]) is Conv1D
        assert torch.equal(accelerated(x), model(x))
