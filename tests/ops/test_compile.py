"""torch.compile, torch.export, decomposition, FLOPs, autocast, devices without kernels."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
import torch._dynamo.testing
from torch import Tensor

import tilewright


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(12, 20)
        self.second = torch.nn.Linear(20, 5)

    def forward(self, x: Tensor) -> Tensor:
        hidden = tilewright.linear(x, self.first.weight, self.first.bias, activation="gelu")
        return tilewright.linear(hidden, self.second.weight, self.second.bias)


@pytest.fixture(autouse=True)
def _fresh_dynamo() -> None:
    torch._dynamo.reset()


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiles_whole_forward_and_backward(backend: str) -> None:
    net = Net()
    x = torch.randn(6, 12)
    expected = net(x)
    expected.square().sum().backward()
    gradients = [p.grad.clone() for p in net.parameters() if p.grad is not None]
    net.zero_grad()
    compiled = torch.compile(net, fullgraph=True, backend=backend)
    y = compiled(x)
    y.square().sum().backward()
    torch.testing.assert_close(y, expected)
    for parameter, gradient in zip(net.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), expected)


def test_dynamic_shapes_compile_once() -> None:
    counter = torch._dynamo.testing.CompileCounter()
    compiled = torch.compile(
        lambda x, w: tilewright.linear(x, w, activation="relu"), fullgraph=True, dynamic=True, backend=counter
    )
    w = torch.randn(7, 12)
    for rows in (3, 5, 8, 13):
        x = torch.randn(rows, 12)
        torch.testing.assert_close(compiled(x, w), torch.relu(x @ w.t()))
    assert counter.frame_count == 1


def test_strides_and_errors_are_those_of_eager_under_compile() -> None:
    a, b = torch.randn(6, 4, 3).permute(2, 0, 1), torch.randn(4, 5)
    compiled = torch.compile(lambda a, b: tilewright.matmul(a, b), fullgraph=True, backend="aot_eager")
    assert compiled(a, b).stride() == tilewright.matmul(a, b).stride()
    torch._dynamo.reset()  # or the second shape would be traced as symbols
    with pytest.raises(Exception, match=r"b has shape \(5, 4\)"):
        compiled(a, torch.randn(5, 4))


def test_autocast_under_compile() -> None:
    x, w = torch.randn(6, 12), torch.randn(7, 12)
    compiled = torch.compile(lambda x, w: tilewright.linear(x, w), fullgraph=True, backend="aot_eager")
    with torch.autocast("cpu", torch.bfloat16):
        assert compiled(x, w).dtype == torch.bfloat16


def test_export_and_decompose() -> None:
    net = Net().eval()
    x = torch.randn(6, 12)
    exported = torch.export.export(net, (x,), dynamic_shapes={"x": {0: torch.export.Dim("rows", min=2)}})
    names = {str(node.target) for node in exported.graph.nodes if node.op == "call_function"}
    assert any(name.startswith("tilewright.matmul") for name in names)
    torch.testing.assert_close(exported.module()(torch.randn(9, 12)).shape, torch.Size([9, 5]))
    torch.testing.assert_close(exported.module()(x), net(x))
    plain = exported.run_decompositions(tilewright.decomposition_table())
    names = {str(node.target) for node in plain.graph.nodes if node.op == "call_function"}
    assert names
    assert not any("tilewright" in name for name in names)
    torch.testing.assert_close(plain.module()(x), net(x))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast(dtype: torch.dtype) -> None:
    x, w, bias = (
        torch.randn(6, 12, requires_grad=True),
        torch.randn(7, 12, requires_grad=True),
        torch.randn(7),
    )
    with torch.autocast("cpu", dtype):
        y = tilewright.linear(x, w, bias, activation="silu")
        assert y.dtype == dtype
        assert tilewright.matmul(x.double(), w.double().t()).dtype == torch.float64
        assert tilewright.matmul(x, w.t(), out_dtype=torch.float32).dtype == torch.float32
        with torch.autocast("cpu", enabled=False):
            assert tilewright.linear(x, w).dtype == torch.float32
        assert torch.func.vmap(lambda row: tilewright.linear(row, w))(x).dtype == dtype
    # The bias was not rounded on the way: fp32 is added to the fp32 accumulator.
    exact = torch.nn.functional.silu(x.to(dtype).double() @ w.to(dtype).double().t() + bias.double())
    torch.testing.assert_close(y.double(), exact, rtol=torch.finfo(dtype).eps, atol=1e-3)
    y.float().sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == torch.float32


def test_flops_are_counted() -> None:
    program = (
        "import torch, tilewright\n"
        "early = 'torch.utils.flop_counter' in __import__('sys').modules\n"
        "from torch.utils.flop_counter import FlopCounterMode\n"
        "a, b = torch.randn(2, 3, 4, requires_grad=True), torch.randn(4, 5, requires_grad=True)\n"
        "with FlopCounterMode(display=False) as counter:\n"
        "    tilewright.matmul(a, b, activation='gelu').sum().backward()\n"
        "print(early, counter.get_total_flops())\n"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["False", str(3 * 2 * 2 * 3 * 4 * 5)]


def test_meta_tensors_and_fakes_have_eager_metadata() -> None:
    for a, b in (((2, 3, 4), (4, 5)), ((4,), (4, 5)), ((2, 1, 3, 4), (7, 4, 5)), ((3, 4), (4,))):
        eager = tilewright.matmul(torch.randn(a), torch.randn(b), out_dtype=torch.bfloat16)
        meta = tilewright.matmul(
            torch.empty(a, device="meta"), torch.empty(b, device="meta"), out_dtype=torch.bfloat16
        )
        assert (eager.shape, eager.stride(), eager.dtype) == (meta.shape, meta.stride(), meta.dtype)


def test_negative_and_conjugate_views_are_resolved() -> None:
    imaginary = torch.view_as_complex(torch.randn(3, 4, 2)).conj().imag
    assert imaginary.is_neg()
    b = torch.randn(4, 5)
    torch.testing.assert_close(tilewright.matmul(imaginary, b), imaginary.clone() @ b)


@pytest.mark.parametrize("dtype", [torch.float64, torch.int32, torch.int64, torch.uint8], ids=str)
def test_other_dtypes_go_through_torch(dtype: torch.dtype) -> None:
    a, b = (torch.randint(0, 5, shape).to(dtype) for shape in ((2, 3, 4), (4, 5)))
    residual = torch.ones(5, dtype=dtype)
    result = tilewright.matmul(a, b, bias=residual, residual=residual, activation="relu")
    assert result.dtype == dtype
    assert torch.equal(result, torch.relu(torch.matmul(a, b) + 2 * residual))
    assert tilewright.explain(tilewright.matmul, a, b).choice.backend == "aten"
