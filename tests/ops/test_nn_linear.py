"""tilewright.nn.Linear: equal to torch's, trains like it, and composes like it with the rest of torch."""

from __future__ import annotations

import gc
import warnings

import pytest
import torch
import torch.nn.utils.prune
from torch import Tensor

import tilewright
from tests.ops.layers import IN, OUT, ROWS, assert_right, expected, layer
from tilewright.errors import ArgumentError, ShapeError
from tilewright.kernels.epilogue import ACTIVATIONS, activate
from tilewright.kernels.matmul.bound import oracle
from tilewright.kernels.matmul.problem import MatmulProblem
from tilewright.nn import Linear

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]


# --- equal to torch.nn.Linear -------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("mode", ["inference", "no_grad", "gradients"])
def test_every_dtype_activation_and_mode(dtype: torch.dtype, activation: str, mode: str) -> None:
    module = layer(activation, dtype)
    scope = {"inference": torch.inference_mode, "no_grad": torch.no_grad, "gradients": torch.enable_grad}
    for shape in ((ROWS, IN), (IN,), (2, 3, IN), (1, IN), (0, IN)):
        x = torch.randn(shape, dtype=dtype)
        residual = torch.randn(*shape[:-1], OUT, dtype=dtype)
        with scope[mode]():
            for addend in (None, residual):
                first, second = module(x, addend), module(x, residual=addend)
                assert torch.equal(first, second), "the same call gave other bits"
                assert first.is_contiguous()
                inputs = (x, module.weight.detach().t(), module.bias.detach(), addend)
                problem = MatmulProblem.from_tensors(*inputs, activation=activation)
                assert oracle(problem, inputs)((first.detach(),)) is None


def test_strided_inputs_no_bias_and_expanded_residual() -> None:
    module = Linear(IN, OUT, bias=False, activation="silu").eval()
    x = torch.randn(IN, ROWS).t()
    row = torch.randn(OUT)
    with torch.no_grad():
        torch.testing.assert_close(module(x), expected(module, x))
        torch.testing.assert_close(module(x[::2]), expected(module, x[::2]))
        torch.testing.assert_close(module(x, row), expected(module, x, row))
        imaginary = torch.view_as_complex(torch.randn(4, IN, 2)).conj().imag
        assert imaginary.is_neg()
        torch.testing.assert_close(module(imaginary), expected(module, imaginary.clone()))


def test_state_dict_goes_both_ways() -> None:
    ours, theirs = layer(), torch.nn.Linear(IN, OUT)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    assert torch.equal(theirs.weight, ours.weight)
    again = torch.nn.Linear(IN, OUT)
    ours.load_state_dict(again.state_dict(), strict=True)
    assert torch.equal(ours.bias, again.bias)
    assert list(ours.state_dict()) == list(again.state_dict())
    torch.manual_seed(5)
    initialized = Linear(IN, OUT)
    torch.manual_seed(5)
    assert torch.equal(initialized.weight, torch.nn.Linear(IN, OUT).weight)


def test_from_torch_shares_parameters_and_mode() -> None:
    module = torch.nn.Linear(IN, OUT, dtype=torch.bfloat16)
    ours = Linear.from_torch(module, activation="gelu")
    assert ours.weight is module.weight
    assert ours.bias is module.bias
    assert ours.training
    assert not Linear.from_torch(module.eval()).training
    assert Linear.from_torch(torch.nn.Linear(IN, OUT, bias=False)).bias is None
    assert repr(ours) == f"Linear(in_features={IN}, out_features={OUT}, bias=True, activation=gelu)"


def test_from_torch_refuses_what_would_be_lost() -> None:
    hooked = torch.nn.Linear(IN, OUT)
    hooked.register_forward_hook(lambda *_: None)
    pruned, biased = (
        torch.nn.utils.prune.random_unstructured(torch.nn.Linear(IN, OUT), name, 0.5)
        for name in ("weight", "bias")
    )
    for module, words in (
        (torch.nn.Conv1d(1, 1, 1), "Conv1d; expected a torch.nn.Linear"),
        (torch.nn.LazyLinear(OUT), "run a lazy module once"),
        (hooked, "_forward_hooks"),
        (pruned, "no plain weight"),
        (biased, "no plain weight and bias"),
    ):
        with pytest.raises(ArgumentError, match=words):
            Linear.from_torch(module)  # type: ignore[arg-type]


def test_errors_speak_of_linear() -> None:
    with pytest.raises(ArgumentError, match="activation is 'tanh'; expected one of none, relu"):
        Linear(IN, OUT, activation="tanh")
    with pytest.raises(ArgumentError, match=r"activation is \['relu'\]"):
        layer().activation = ["relu"]  # type: ignore[assignment]
    for scope in (torch.no_grad, torch.enable_grad):
        with scope(), pytest.raises(ShapeError, match=r"linear: weight has shape \(21, 37\); expected"):
            layer()(torch.randn(3, IN + 1))


# --- training and gradients ---------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradients_are_those_of_torch(activation: str) -> None:
    module = layer(activation, torch.float64).train()
    x, residual = (torch.randn(size, dtype=torch.float64, requires_grad=True) for size in ((4, IN), (4, OUT)))
    assert torch.autograd.gradcheck(lambda x, r: module(x, r), (x, residual))
    module(x).square().sum().backward()
    gradients = [module.weight.grad, module.bias.grad]
    module.zero_grad()
    activate(torch.nn.functional.linear(x, module.weight, module.bias), activation).square().sum().backward()
    for mine, theirs in zip(gradients, [module.weight.grad, module.bias.grad], strict=True):
        torch.testing.assert_close(mine, theirs)


def test_evaluation_sees_every_optimizer_step(packed_kernel: None) -> None:
    module = layer().requires_grad_()
    x = torch.randn(ROWS, IN)
    assert_right(module, x)
    with tilewright.options(backend=None):
        optimizer = torch.optim.SGD(module.parameters(), lr=0.5)
        for toggle in (True, False, True):  # with and without changing the mode
            module.train(toggle)
            module(x).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
            module.eval()
            assert_right(module, x)
        assert "others hold" in module.packing()
        del optimizer
        gc.collect()
        assert_right(module, x)
        assert module.packing().startswith("packed")


def test_gradient_is_wanted_in_eval_mode_too() -> None:
    module, x = layer(), torch.randn(3, IN)
    assert module(x).requires_grad
    module.requires_grad_(False)
    assert not module(x).requires_grad
    assert module.packing().startswith("packed")
    assert module(x.requires_grad_()).requires_grad
    assert module(x.detach(), torch.zeros(3, OUT, requires_grad=True)).requires_grad


# --- composing with the rest of torch -----------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiles_whole(backend: str) -> None:
    torch._dynamo.reset()
    module, x = layer("gelu"), torch.randn(5, IN)
    with torch.no_grad():
        module(x)
    compiled = torch.compile(module, fullgraph=True, backend=backend)
    torch.testing.assert_close(compiled(x), expected(module, x))
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), expected(module, x))
        module.weight.mul_(2)
        torch.testing.assert_close(compiled(x), expected(module, x))
    compiled(x).sum().backward()
    assert module.weight.grad is not None


def test_exports_and_traces() -> None:
    module, x = layer("silu").requires_grad_(False), torch.randn(5, IN)
    module(x)
    rows = torch.export.Dim("rows", min=2)
    for strict in (False, True):
        program = torch.export.export(module, (x,), dynamic_shapes=({0: rows},), strict=strict)
        more = torch.randn(9, IN)
        torch.testing.assert_close(program.module()(more), expected(module, more))
    graph = torch.fx.symbolic_trace(module)
    assert [node.target for node in graph.graph.nodes if node.op == "call_function"] == [tilewright.linear]
    torch.testing.assert_close(graph(x), expected(module, x))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        traced = torch.jit.trace(module, (torch.zeros(5, IN),))
    torch.testing.assert_close(traced(x), expected(module, x))


def test_function_transforms_and_forward_mode() -> None:
    module, x = layer("gelu"), torch.randn(5, IN)
    with torch.no_grad():
        module(x)

    def theirs(x: Tensor) -> Tensor:
        return expected(module, x)

    torch.testing.assert_close(torch.vmap(module)(x), theirs(x))
    torch.testing.assert_close(torch.func.jvp(module, (x,), (x,))[1], torch.func.jvp(theirs, (x,), (x,))[1])
    with torch.no_grad(), torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, x)
        assert torch.autograd.forward_ad.unpack_dual(module(dual)).tangent is not None
    torch.testing.assert_close(
        torch.func.grad(lambda x: module(x).sum())(x), torch.func.grad(lambda x: theirs(x).sum())(x)
    )
    doubled = {name: 2 * parameter.detach() for name, parameter in module.named_parameters()}
    with torch.no_grad():
        swapped = torch.func.functional_call(module, doubled, (x,))
        z = torch.nn.functional.linear(x, doubled["weight"], doubled["bias"])
        torch.testing.assert_close(swapped, activate(z, "gelu"))
        torch.testing.assert_close(module(x), theirs(x))


def test_modes_fakes_and_subclasses_see_the_operation() -> None:
    from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
    from torch.utils.flop_counter import FlopCounterMode

    class Tagged(Tensor):
        pass

    module, x = layer().requires_grad_(False), torch.randn(5, IN)
    module(x)
    with FlopCounterMode(display=False) as counter:
        module(x)
    assert counter.get_total_flops() == 2 * 5 * IN * OUT
    with FakeTensorMode(allow_non_fake_inputs=True) as fakes:
        assert isinstance(module(fakes.from_tensor(x)), FakeTensor)
    assert type(module(x.as_subclass(Tagged))) is Tagged
    with torch.device("cpu"):
        torch.testing.assert_close(module(x), expected(module, x))
    meta = layer(device="meta")
    assert meta(x.to("meta")).is_meta
    with torch.profiler.profile() as profile:
        module(x)
    assert any("tilewright" in event.key for event in profile.key_averages())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_packs_a_weight_of_its_own(dtype: torch.dtype) -> None:
    module = layer("none")
    for x in (torch.randn(ROWS, IN), torch.randn(ROWS, IN).to(dtype)):
        with torch.no_grad(), torch.autocast("cpu", dtype):
            y = module(x)
            assert y.dtype == dtype
            assert torch.equal(y, module(x))
            plain = tilewright.linear(x, module.weight, module.bias)
        torch.testing.assert_close(y, plain, rtol=2 * torch.finfo(dtype).eps, atol=1e-2)
    held = module.packed_bytes()
    assert held >= IN * OUT * dtype.itemsize
    with torch.no_grad():
        assert module(torch.randn(ROWS, IN)).dtype == torch.float32
        with torch.autocast("cpu", dtype):
            assert module(torch.randn(ROWS, IN).double().float()).dtype == dtype
        module.weight.mul_(3)
        with torch.autocast("cpu", dtype):
            wide = torch.nn.functional.linear(
                x.double(), module.weight.to(dtype).double(), module.bias.double()
            )
            torch.testing.assert_close(module(x).double(), wide, rtol=1e-2, atol=1e-1)


# --- choosing, explaining, tuning ---------------------------------------------------------------------------


def test_explain_speaks_of_the_packed_weight() -> None:
    module, x = layer(), torch.randn(ROWS, IN)
    with torch.no_grad():
        explanation = tilewright.explain(module, x)
        assert explanation.problem.frozen_b
        assert explanation.problem.activation == "relu"
        held = module.weight
        assert not tilewright.explain(module, x).problem.frozen_b
        del held
    assert not tilewright.explain(module, x).problem.frozen_b  # a gradient is wanted
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert tilewright.explain(module, x).problem.dtype == torch.bfloat16


def test_tune_tunes_the_frozen_problems() -> None:
    model = torch.nn.Sequential(Linear(IN, OUT, activation="relu"), Linear(OUT, 5)).eval()
    x = torch.randn(ROWS, IN)
    with torch.no_grad():
        model(x)
        report = tilewright.tune(model, x, budget_s=0.2, progress=False)
        assert [result.problem.n for result in report.results] == [OUT, 5]
        assert all(result.problem.frozen_b for result in report.results)
        assert tilewright.explain(model[0], x).choice.source == "store"
        assert_right(model[0], x)
        forms = [module.__dict__["_packing"].snapshot.frozen[torch.float32].operand.forms for module in model]
        # What was packed for the choices of before the tuning is gone.
        assert all(len(kept) <= 1 for kept in forms)
