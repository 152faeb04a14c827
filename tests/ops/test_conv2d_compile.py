"""conv2d under torch.compile, torch.export and autocast; decomposition, FLOPs, metadata, other dtypes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch._dynamo.testing
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import tilewright

F = torch.nn.functional


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Conv2d(3, 8, 3)
        self.depthwise = torch.nn.Conv2d(8, 8, 3, groups=8)
        self.last = torch.nn.Conv2d(8, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        first, depthwise, last = self.first, self.depthwise, self.last
        x = tilewright.conv2d(x, first.weight, first.bias, stride=2, padding=(1, 2), activation="gelu")
        x = tilewright.conv2d_relu(x, depthwise.weight, depthwise.bias, padding="same", groups=8, residual=x)
        return tilewright.conv2d(x, last.weight, last.bias, activation="silu")


@pytest.fixture(autouse=True)
def _fresh_dynamo() -> None:
    torch._dynamo.reset()


@pytest.mark.parametrize(("backend", "last"), [("aot_eager", False), ("aot_eager", True), ("inductor", True)])
def test_compiles_whole_forward_and_backward(backend: str, last: bool) -> None:
    net, x = Net(), torch.randn(2, 3, 10, 9)
    if last:
        net, x = net.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
    expected = net(x)
    expected.square().sum().backward()
    gradients = [p.grad.clone() for p in net.parameters() if p.grad is not None]
    net.zero_grad()
    compiled = torch.compile(net, fullgraph=True, backend=backend)
    y = compiled(x)
    y.square().sum().backward()
    torch.testing.assert_close(y, expected)
    assert y.stride() == expected.stride()
    for parameter, gradient in zip(net.parameters(), gradients, strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, gradient)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), expected)


def test_the_compiled_backward_pass_is_of_our_operations() -> None:
    graphs: list[torch.fx.GraphModule] = []

    def keep(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    from torch._dynamo.backends.common import aot_autograd

    x, w = torch.randn(1, 2, 6, 6, requires_grad=True), torch.randn(3, 2, 3, 3, requires_grad=True)
    backend = aot_autograd(fw_compiler=keep, bw_compiler=keep)
    compiled = torch.compile(lambda x, w: tilewright.conv2d_relu(x, w), fullgraph=True, backend=backend)
    compiled(x, w).sum().backward()
    names = [str(node.target) for graph in graphs for node in graph.graph.nodes if node.op == "call_function"]
    for name in ("conv2d", "conv2d_input_gradient", "conv2d_weight_gradient"):
        assert names.count(f"tilewright.{name}.default") == 1
    assert not any("convolution" in name for name in names)


@pytest.mark.parametrize("last", [False, True])
def test_dynamic_shapes_compile_once(last: bool) -> None:
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")

    def layers(x: Tensor, w: Tensor, pointwise: Tensor) -> Tensor:
        return tilewright.conv2d(tilewright.conv2d_relu(x, w, stride=2, padding=1), pointwise)

    compiled = torch.compile(layers, fullgraph=True, dynamic=True, backend=counter)
    w, pointwise = torch.randn(4, 3, 3, 3, requires_grad=True), torch.randn(5, 4, 1, 1, requires_grad=True)
    for batch, height, width in ((2, 8, 9), (3, 11, 7), (5, 20, 13)):
        x = torch.randn(batch, 3, height, width)
        if last:
            x = x.to(memory_format=torch.channels_last)
        y = compiled(x, w, pointwise)
        torch.testing.assert_close(y, F.conv2d(F.conv2d(x, w, stride=2, padding=1).relu(), pointwise))
        y.sum().backward()
    assert counter.frame_count == 1


def test_strides_and_errors_are_those_of_eager_under_compile() -> None:
    def run(x: Tensor, w: Tensor) -> Tensor:
        return tilewright.conv2d(x, w, padding=1)

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    w = torch.randn(4, 3, 3, 3)
    for x in (
        torch.randn(2, 3, 6, 5),
        torch.randn(2, 6, 5, 3).permute(0, 3, 1, 2),
        torch.randn(2, 6, 8, 5)[:, ::2],
    ):
        torch._dynamo.reset()  # or the second shape would be traced as symbols
        assert compiled(x, w).stride() == run(x, w).stride()
    torch._dynamo.reset()
    with pytest.raises(Exception, match=r"weight has shape \(4, 3, 3, 3\)"):
        compiled(torch.randn(2, 4, 6, 5), w)


def test_autocast_under_compile() -> None:
    x, w = torch.randn(1, 3, 6, 6), torch.randn(4, 3, 3, 3)
    compiled = torch.compile(lambda x, w: tilewright.conv2d(x, w), fullgraph=True, backend="aot_eager")
    with torch.autocast("cpu", torch.bfloat16):
        assert compiled(x, w).dtype == torch.bfloat16


def test_export_and_decompose() -> None:
    net = Net().eval()
    x = torch.randn(4, 3, 12, 10)
    sizes = {0: torch.export.Dim("batch", min=2), 2: torch.export.Dim("height", min=4)}
    exported = torch.export.export(net, (x,), dynamic_shapes={"x": sizes})
    names = [str(node.target) for node in exported.graph.nodes if node.op == "call_function"]
    assert sum(name.startswith("tilewright.conv2d") for name in names) == 3
    other = torch.randn(2, 3, 7, 10)
    torch.testing.assert_close(exported.module()(other), net(other))
    plain = exported.run_decompositions(tilewright.decomposition_table())
    names = [str(node.target) for node in plain.graph.nodes if node.op == "call_function"]
    assert names
    assert not any("tilewright" in name for name in names)
    torch.testing.assert_close(plain.module()(other), net(other))


def test_gradients_decompose() -> None:
    x, w, dy = torch.randn(2, 4, 5, 6), torch.randn(6, 2, 3, 2), torch.randn(2, 6, 3, 7)
    table = tilewright.decomposition_table()
    walk = ([2, 1], [1, 1, 0, 2], [1, 1], 2)
    for op, operands in (
        (torch.ops.tilewright.conv2d_input_gradient.default, (dy, w, [5, 6])),
        (torch.ops.tilewright.conv2d_weight_gradient.default, (dy, x, [3, 2])),
    ):
        for last in (False, True):
            whole, parts = op(*operands, *walk, last), table[op](*operands, *walk, last)
            torch.testing.assert_close(parts, whole)
            assert parts.stride() == whole.stride()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("kernel", [1, 3])
def test_autocast(dtype: torch.dtype, kernel: int) -> None:
    x = torch.randn(2, 6, 5, 5, requires_grad=True)
    w = torch.randn(4, 6, kernel, kernel, requires_grad=True)
    bias = torch.randn(4, requires_grad=True)
    with torch.autocast("cpu", dtype):
        y = tilewright.conv2d(x, w, bias, activation="silu")
        assert y.dtype == dtype
        assert tilewright.conv2d(x.double(), w.double()).dtype == torch.float64
        with torch.autocast("cpu", enabled=False):
            assert tilewright.conv2d(x, w).dtype == torch.float32
        assert torch.func.vmap(lambda image: tilewright.conv2d(image, w))(x).dtype == dtype
    # The bias was not rounded on the way: fp32 is added to the fp32 accumulator.
    exact = F.silu(F.conv2d(x.to(dtype).double(), w.to(dtype).double(), bias.double()))
    torch.testing.assert_close(y.double(), exact, rtol=torch.finfo(dtype).eps, atol=4e-3)
    with torch.autocast("cpu", dtype):  # as some users call it
        y.float().sum().backward()
    for leaf in (x, w, bias):
        assert leaf.grad is not None
        assert leaf.grad.dtype == torch.float32


@pytest.mark.parametrize("kernel", [1, 3])
def test_flops_are_counted(kernel: int) -> None:
    x = torch.randn(2, 4, 6, 5, requires_grad=True)
    w = torch.randn(6, 2, kernel, kernel, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        tilewright.conv2d(x, w, groups=2, padding=kernel // 2, activation="gelu").sum().backward()
    assert counter.get_total_flops() == 3 * 2 * (2 * 6 * 6 * 5) * 2 * kernel * kernel


@pytest.mark.parametrize("x_last", [False, True])
@pytest.mark.parametrize("w_last", [False, True])
@pytest.mark.parametrize(
    ("x", "w"),
    [((2, 4, 6, 5), (6, 4, 3, 3)), ((1, 1, 6, 5), (1, 1, 3, 3)), ((2, 4, 1, 1), (3, 4, 1, 1))],
    ids=str,
)
def test_meta_tensors_and_fakes_have_the_metadata_of_eager_and_of_torch(
    x: tuple[int, ...], w: tuple[int, ...], x_last: bool, w_last: bool
) -> None:
    formats = (torch.contiguous_format, torch.channels_last)
    images, filters = (
        torch.randn(x).to(memory_format=formats[x_last]),
        torch.randn(w).to(memory_format=formats[w_last]),
    )
    eager, theirs = tilewright.conv2d(images, filters), F.conv2d(images, filters)
    meta = tilewright.conv2d(images.to("meta"), filters.to("meta"))
    assert (eager.shape, eager.stride(), eager.dtype) == (meta.shape, meta.stride(), meta.dtype)
    for memory_format in formats:
        assert eager.is_contiguous(memory_format=memory_format) == theirs.is_contiguous(
            memory_format=memory_format
        )


def test_negative_views_are_resolved() -> None:
    imaginary = torch.view_as_complex(torch.randn(1, 3, 5, 5, 2)).conj().imag
    assert imaginary.is_neg()
    w = torch.randn(2, 3, 3, 3)
    torch.testing.assert_close(tilewright.conv2d(imaginary, w), F.conv2d(imaginary.clone(), w))


@pytest.mark.parametrize("dtype", [torch.float64, torch.int32, torch.int64, torch.uint8], ids=str)
@pytest.mark.parametrize("kernel", [1, 3])
def test_other_dtypes_go_through_torch(dtype: torch.dtype, kernel: int) -> None:
    x, w = (torch.randint(0, 5, shape).to(dtype) for shape in ((2, 4, 6, 6), (5, 4, kernel, kernel)))
    bias, residual = torch.arange(5).to(dtype), torch.ones(5, 1, 1, dtype=dtype)
    result = tilewright.conv2d(x, w, bias, residual=residual, activation="relu")
    assert result.dtype == dtype
    assert torch.equal(result, torch.relu(F.conv2d(x, w) + bias.view(-1, 1, 1) + residual))
    assert tilewright.explain(tilewright.conv2d, x, w).choice.backend == "aten"
