"""tilewright.nn.Conv2d: equal to torch's, in every geometry, padding mode and memory format."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.utils.prune
from torch import Tensor

import tilewright
from tests.ops.layers import CHANNELS, FILTERS, IMAGE, assert_right, conv2d, conv2d_pointwise, expected
from tilewright.errors import ArgumentError, ShapeError
from tilewright.kernels.conv2d import aten as conv2d_aten
from tilewright.kernels.conv2d.bound import oracle
from tilewright.kernels.conv2d.problem import Conv2dProblem
from tilewright.kernels.epilogue import ACTIVATIONS, activate
from tilewright.kernels.matmul import aten as matmul_aten
from tilewright.nn import Conv2d

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]

GEOMETRIES: dict[str, dict[str, Any]] = {
    "plain": {},
    "same": {"padding": "same", "dilation": (2, 1), "kernel_size": (2, 4)},
    "valid": {"padding": "valid", "kernel_size": (3, 1)},
    "strided": {"stride": (2, 3), "padding": (1, 2)},
    "dilated": {"dilation": 2, "padding": 2},
    "groups": {"groups": 2, "padding": 1},
    "depthwise": {"groups": CHANNELS, "out_channels": CHANNELS, "padding": 1},
    "depthwise, twice the channels": {"groups": CHANNELS, "out_channels": 2 * CHANNELS},
    "pointwise": {"kernel_size": 1},
    "pointwise, strided": {"kernel_size": 1, "stride": 2},
    "pointwise, groups": {"kernel_size": 1, "groups": 2},
    "whole image": {"kernel_size": IMAGE[2:]},
    "no bias": {"bias": False},
    "pointwise, no bias": {"kernel_size": 1, "bias": False},
}


def make(activation: str = "relu", **geometry: Any) -> Conv2d:
    given: dict[str, Any] = {"out_channels": FILTERS, "kernel_size": 3, **geometry}
    return Conv2d(CHANNELS, activation=activation, **given).eval()


def image(*shape: int, channels_last: bool = False, dtype: torch.dtype = torch.float32) -> Tensor:
    x = torch.randn(*(shape or IMAGE)).to(dtype)
    return x.contiguous(memory_format=torch.channels_last) if channels_last else x


# --- equal to torch.nn.Conv2d -------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("mode", ["inference", "no_grad", "gradients"])
def test_every_dtype_activation_and_mode(dtype: torch.dtype, activation: str, mode: str) -> None:
    scope = {"inference": torch.inference_mode, "no_grad": torch.no_grad, "gradients": torch.enable_grad}
    for module, channels_last in ((conv2d(activation, dtype), False), (conv2d_pointwise().to(dtype), True)):
        module.activation = activation
        x = image(channels_last=channels_last, dtype=dtype)
        residual = torch.randn_like(module(x).detach())
        with scope[mode]():
            for addend in (None, residual):
                first, second = module(x, addend), module(x, residual=addend)
                assert torch.equal(first, second), "the same call gave other bits"
                inputs = (x, module.weight.detach(), module.bias.detach(), addend)
                problem = Conv2dProblem.from_tensors(*inputs, activation=activation)
                assert first.stride() == problem.y_strides
                assert oracle(problem, inputs)((first.detach(),)) is None


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("channels_last", ["neither", "x", "weight", "both"])
@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES.keys())
def test_every_geometry_and_memory_format(geometry: dict[str, Any], channels_last: str) -> None:
    module = make(**geometry)
    if channels_last in ("weight", "both"):
        module = module.to(memory_format=torch.channels_last)
    theirs = torch.nn.Conv2d(CHANNELS, **{"out_channels": FILTERS, "kernel_size": 3, **geometry})
    theirs.load_state_dict(module.state_dict())
    if channels_last in ("weight", "both"):
        theirs = theirs.to(memory_format=torch.channels_last)
    x = image(channels_last=channels_last in ("x", "both"))
    with torch.no_grad():
        right = theirs(x)
        row = torch.randn(right.shape[-1])
        for _ in range(2):
            y = module(x)
            assert y.stride() == right.stride()
            torch.testing.assert_close(y, right.relu(), rtol=1e-5, atol=1e-5)
            for residual in (torch.randn_like(right), torch.randn(right.shape), row):
                torch.testing.assert_close(
                    module(x, residual), (right + residual).relu(), rtol=1e-5, atol=1e-5
                )
        assert module.packing().startswith("packed")


@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES.keys())
def test_unbatched_empty_and_strided_images(geometry: dict[str, Any]) -> None:
    module = make("silu", **geometry)
    with torch.no_grad():
        for channels_last in (False, True):
            x = image(channels_last=channels_last)
            y = module(x)
            torch.testing.assert_close(module(x[0]), y[0])
            torch.testing.assert_close(module(x[0], y[0]), module(x, y)[0])
            torch.testing.assert_close(module(x[1], y[:1, :, :1, :1].flatten(0, 1)).shape, y[1].shape)
            empty = module(x[:0])
            assert empty.shape == (0, *y.shape[1:])
        wide = image(4, CHANNELS, IMAGE[2], 2 * IMAGE[3])
        columns, upright = wide[..., ::2], image(1, CHANNELS, IMAGE[3], IMAGE[2])
        for strided in (columns[::2], columns.flip(2), columns[:1].expand(3, -1, -1, -1), upright.mT):
            torch.testing.assert_close(module(strided), module(strided.contiguous()), rtol=1e-5, atol=1e-5)
        imaginary = torch.view_as_complex(torch.randn(*IMAGE, 2)).conj().imag
        assert imaginary.is_neg()
        torch.testing.assert_close(module(imaginary), module(imaginary.clone()), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("padding", [2, (0, 3), "same", 0])
@pytest.mark.parametrize("padding_mode", ["zeros", "reflect", "replicate", "circular"])
def test_padding_modes(padding_mode: Any, padding: Any, dtype: torch.dtype) -> None:
    module = make("none", padding=padding, padding_mode=padding_mode, dtype=dtype)
    theirs = torch.nn.Conv2d(
        CHANNELS, FILTERS, 3, padding=padding, padding_mode=padding_mode, dtype=torch.float64
    )
    theirs.load_state_dict(module.state_dict())
    bounds = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 1e-2, "atol": 1e-2}
    for channels_last in (False, True):
        x = image(channels_last=channels_last, dtype=dtype)
        right = theirs(x.double())
        torch.testing.assert_close(module(x).double(), right, **bounds)
        with torch.no_grad():
            torch.testing.assert_close(module(x).double(), right, **bounds)
            torch.testing.assert_close(module(x[0]).double(), right[0], **bounds)
            assert module(x[:0]).shape == (0, *right.shape[1:])
            assert "frozen" in tilewright.explain(module, x).problem.describe()
    module.float()
    x = image().requires_grad_()
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), module(x), rtol=1e-5, atol=1e-5)
    torch._dynamo.reset()
    graph = torch.fx.symbolic_trace(module)
    assert tilewright.conv2d in [node.target for node in graph.graph.nodes]
    torch.testing.assert_close(graph(x), module(x))


def test_borders_that_an_image_is_too_small_for() -> None:
    x = image(1, CHANNELS, 3, 4)
    for mode, padding, least in (("reflect", (3, 1), "4x2"), ("circular", (1, 5), "1x5")):
        module = make(padding=padding, padding_mode=mode)
        for scope in (torch.no_grad, torch.enable_grad):
            with (
                scope(),
                pytest.raises(ShapeError, match=f"images of at least {least}, as padding_mode is '{mode}'"),
            ):
                module(x)
    largest = make(padding=(2, 3), padding_mode="reflect")
    assert largest(x).shape == (1, FILTERS, 5, 8)
    with pytest.raises(ShapeError, match="1x1, as padding_mode is 'replicate'"):
        make(padding=1, padding_mode="replicate")(x[:, :, :0])


def test_state_dict_goes_both_ways() -> None:
    ours, theirs = conv2d(), torch.nn.Conv2d(CHANNELS, FILTERS, 3)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    assert torch.equal(theirs.weight, ours.weight)
    again = torch.nn.Conv2d(CHANNELS, FILTERS, 3)
    ours.load_state_dict(again.state_dict(), strict=True)
    assert torch.equal(ours.bias, again.bias)  # type: ignore[arg-type]
    assert list(ours.state_dict()) == list(again.state_dict())
    torch.manual_seed(5)
    initialized = Conv2d(CHANNELS, FILTERS, 3)
    torch.manual_seed(5)
    assert torch.equal(initialized.weight, torch.nn.Conv2d(CHANNELS, FILTERS, 3).weight)


# --- taking over torch's layers -----------------------------------------------------------------------------


def test_from_torch_shares_parameters_geometry_and_mode() -> None:
    module = torch.nn.Conv2d(
        CHANNELS, 8, (3, 2), stride=(2, 1), padding=(1, 2), dilation=(1, 2), groups=2, dtype=torch.bfloat16
    )
    ours = Conv2d.from_torch(module, activation="gelu")
    assert ours.weight is module.weight
    assert ours.bias is module.bias
    assert ours.training
    assert not Conv2d.from_torch(module.eval()).training
    assert Conv2d.from_torch(torch.nn.Conv2d(1, 1, 1, bias=False)).bias is None
    assert repr(ours) == repr(module)[:-1] + ", activation=gelu)"
    module.stride, module.dilation = (1, 2), [2, 1]  # type: ignore[assignment]  # as code that dilates ResNets does
    x = image(dtype=torch.bfloat16)
    for _ in range(2):
        with torch.no_grad():
            theirs = module(x).double()
            torch.testing.assert_close(Conv2d.from_torch(module)(x).double(), theirs, rtol=1e-2, atol=1e-2)
        module.padding = "valid"
        module.padding_mode = "circular"


def test_from_torch_refuses_what_would_be_lost() -> None:
    class Standardized(torch.nn.Conv2d):
        def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
            return super()._conv_forward(x, weight - weight.mean(), bias)

    class Doubled(torch.nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    hooked = torch.nn.Conv2d(CHANNELS, FILTERS, 3)
    hooked.register_forward_pre_hook(lambda *_: None)
    replaced = torch.nn.Conv2d(CHANNELS, FILTERS, 3)
    replaced.forward = lambda x: x  # type: ignore[method-assign, assignment]
    pruned, biased = (
        torch.nn.utils.prune.random_unstructured(torch.nn.Conv2d(CHANNELS, FILTERS, 3), name, 0.5)
        for name in ("weight", "bias")
    )
    for module, words in (
        (torch.nn.ConvTranspose2d(1, 1, 1), "ConvTranspose2d; expected a torch.nn.Conv2d"),
        (torch.nn.Conv1d(1, 1, 1), "Conv1d; expected a torch.nn.Conv2d"),
        (torch.nn.Linear(1, 1), "Linear; expected a torch.nn.Conv2d"),
        (torch.nn.LazyConv2d(FILTERS, 3), "run a lazy module once"),
        (hooked, "_forward_pre_hooks"),
        (pruned, "no plain weight"),
        (biased, "no plain weight and bias"),
        (Standardized(1, 1, 1), "Standardized, has a _conv_forward of its own"),
        (Doubled(1, 1, 1), "Doubled, has a forward of its own"),
        (replaced, "has a forward of its own"),
        (conv2d(), "has a forward of its own"),  # whose activation would be lost
    ):
        with pytest.raises(ArgumentError, match=words):
            Conv2d.from_torch(module)  # type: ignore[arg-type]
    lazy = torch.nn.LazyConv2d(FILTERS, 3)
    lazy(image())
    assert Conv2d.from_torch(lazy).in_channels == CHANNELS


def test_errors_speak_of_conv2d() -> None:
    with pytest.raises(ArgumentError, match="Conv2d: activation is 'tanh'; expected one of none, relu"):
        make("tanh")
    with pytest.raises(ValueError, match="groups"):
        make(groups=4)
    module = conv2d()
    for scope in (torch.no_grad, torch.enable_grad):
        with scope():
            with pytest.raises(ShapeError, match=r"conv2d: weight has shape \(10, 6, 3, 3\); expected"):
                module(image(1, CHANNELS + 1, 5, 5))
            with pytest.raises(ShapeError, match=r"conv2d: x has shape \(6,\)"):
                module(torch.randn(CHANNELS))
            with pytest.raises(ShapeError, match="conv2d: residual has shape"):
                module(image(), torch.randn(3, 3, 3, 3))
            with pytest.raises(ShapeError, match="at most three dimensions, as x has no batch"):
                module(image()[0], torch.randn(1, 1, 1, 1))
            for mode in ("zeros", "reflect"):
                with pytest.raises(ArgumentError, match="conv2d: x is of type list"):
                    make(padding_mode=mode)([1.0])  # type: ignore[arg-type]
    with pytest.raises(
        ArgumentError, match=r"Conv2d.pack: the layer is in training mode; call eval\(\) first"
    ):
        conv2d().train().pack()


# --- as it is by now ----------------------------------------------------------------------------------------


def test_geometry_may_change_between_calls() -> None:
    module, x = make(padding=1), image()
    assert_right(module, x)
    for name, value in (
        ("stride", (2, 1)),
        ("stride", [1, 2]),
        ("stride", 1),
        ("dilation", (1, 2)),
        ("padding", "same"),
        ("padding", 3),
        ("padding", [0, 1]),
    ):
        setattr(module, name, value)
        with torch.no_grad():
            geometry = (module.stride, module.padding, module.dilation, module.groups)
            right = torch.nn.functional.conv2d(x, module.weight, module.bias, *geometry).relu()
            for _ in range(3):
                torch.testing.assert_close(module(x), right, rtol=1e-5, atol=1e-5)
        assert module.packing().startswith("packed")


def test_memory_format_of_a_module_may_change() -> None:
    module, x = make(padding=1), image()
    assert_right(module, x)
    module = module.to(memory_format=torch.channels_last)
    assert module.weight.is_contiguous(memory_format=torch.channels_last)
    assert module.packed_bytes() == 0
    assert_right(module, x)
    assert module.packed_bytes() > 0
    other = copy.deepcopy(module)
    assert other.weight.stride() == module.weight.stride()
    assert_right(other, x)


def test_a_pointwise_layer_is_packed_for_the_product_that_it_is() -> None:
    module = conv2d_pointwise()
    x = image(channels_last=True)
    with torch.no_grad():
        assert module.problem(x)[0] == "matmul"
        assert module.problem(x)[1].frozen_b
        operand = module.__dict__["_packing"].snapshot.frozen[torch.float32].operand
        with tilewright.options(backend="aten", config=matmul_aten.AtenConfig("matmul", "row")):
            assert_right(module, x)
        assert operand.matrix.forms
        assert not operand.forms
        assert module.packed_bytes() == operand.matrix.bytes() == module.weight.nbytes
        # Images that are not channels_last want the convolution, on the same weight.
        assert_right(module.to(memory_format=torch.contiguous_format), x.contiguous())
        assert module.problem(x.contiguous())[0] == "conv2d"


def test_pack_takes_inputs_and_sizes() -> None:
    with tilewright.options(backend="aten", config=conv2d_aten.AtenConfig("convolution", "nhwc")):
        for examples in ((), ((2, 9, 7), image())):
            module = conv2d()
            assert module.pack(*examples) == module.packed_bytes() == module.weight.nbytes
        # The image by default is at least as large as the window.
        assert make(kernel_size=60).pack() > 0
    with tilewright.options(backend="aten", config=matmul_aten.AtenConfig("matmul", "row")):
        assert conv2d_pointwise().pack((1, 8, 8)) > 0


def test_hooks_run() -> None:
    module, x = conv2d(), image()
    seen: list[str] = []
    module.register_forward_pre_hook(lambda *_: seen.append("before"))
    module.register_forward_hook(lambda *_: seen.append("after"))
    with torch.no_grad():
        torch.testing.assert_close(module(x), expected(module, x), rtol=1e-5, atol=1e-5)
    assert seen == ["before", "after"]


@pytest.mark.parametrize("activation", ["none", "relu"])
def test_a_network_of_layers_learns_as_with_torch(activation: str) -> None:
    def network(layer: Any) -> torch.nn.Sequential:
        torch.manual_seed(3)
        return torch.nn.Sequential(layer(CHANNELS, 4, 3, padding=1), layer(4, 2, 1)).double()

    ours = network(lambda *args, **keywords: Conv2d(*args, activation=activation, **keywords))
    theirs = network(torch.nn.Conv2d)
    x = image(dtype=torch.float64)
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9) for model in (ours, theirs)]
    for _ in range(3):
        y = ours(x)
        z = x
        for layer in theirs:
            z = activate(layer(z), activation)
        torch.testing.assert_close(y, z)
        for result, optimizer in zip((y, z), optimizers, strict=True):
            optimizer.zero_grad()
            result.square().mean().backward()
            optimizer.step()
