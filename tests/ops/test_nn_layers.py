"""What every layer of tilewright.nn owes torch: it trains, and composes with the rest, like the layer it replaces."""

from __future__ import annotations

import gc
import warnings

import pytest
import torch
from torch import Tensor

import tilewright
from tests.ops.layers import KINDS, Kind, assert_right, expected
from tilewright.kernels.epilogue import ACTIVATIONS

every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())


# --- training and gradients ---------------------------------------------------------------------------------


@every_kind
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradients_are_those_of_torch(kind: Kind, activation: str) -> None:
    module = kind.make().double().train()
    module.activation = activation
    x = kind.inputs()[:2].double()
    x = (x if x.ndim == 2 else x[:1, :, :4, :4]).contiguous().requires_grad_()
    residual = torch.randn_like(module(x), requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, r: module(x, r), (x, residual))
    module(x).square().sum().backward()
    gradients = [module.weight.grad, module.bias.grad]
    module.zero_grad()
    expected(module, x).square().sum().backward()
    for mine, theirs in zip(gradients, [module.weight.grad, module.bias.grad], strict=True):
        torch.testing.assert_close(mine, theirs)


def test_evaluation_sees_every_optimizer_step(kind: Kind) -> None:
    module, x = kind.make().requires_grad_(), kind.inputs()
    assert_right(module, x)
    with tilewright.options(backend=None):
        optimizer = torch.optim.SGD(module.parameters(), lr=0.01)
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


@every_kind
def test_gradient_is_wanted_in_eval_mode_too(kind: Kind) -> None:
    module, x = kind.make(), kind.inputs()
    assert module(x).requires_grad
    module.requires_grad_(False)
    y = module(x)
    assert not y.requires_grad
    assert module.packing().startswith("packed")
    assert module(x.requires_grad_()).requires_grad
    assert module(x.detach(), torch.zeros_like(y, requires_grad=True)).requires_grad


# --- composing with the rest of torch -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "backend"),
    [*((name, "aot_eager") for name in KINDS), ("linear", "inductor"), ("conv2d channels_last", "inductor")],
)
def test_compiles_whole(name: str, backend: str) -> None:
    torch._dynamo.reset()
    kind = KINDS[name]
    module, x = kind.make(), kind.inputs()
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


@every_kind
def test_exports_and_traces(kind: Kind) -> None:
    module, x = kind.make().requires_grad_(False), kind.inputs()
    module(x)
    more = torch.cat([x, x])
    for strict in (False, True):
        rows = torch.export.Dim("rows", min=2)
        program = torch.export.export(module, (x,), dynamic_shapes=({0: rows},), strict=strict)
        torch.testing.assert_close(program.module()(more), expected(module, more))
    graph = torch.fx.symbolic_trace(module)
    calls = [node.target for node in graph.graph.nodes if node.op == "call_function"]
    assert calls == [type(module).operation]
    torch.testing.assert_close(graph(x), expected(module, x))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        traced = torch.jit.trace(module, (torch.zeros_like(x),))
    torch.testing.assert_close(traced(x), expected(module, x))


@every_kind
def test_function_transforms_and_forward_mode(kind: Kind) -> None:
    module, x = kind.make(), kind.inputs()
    module.activation = "gelu"
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
        other = kind.make()
        other.activation = "gelu"
        other.load_state_dict(doubled)
        torch.testing.assert_close(swapped, expected(other, x))
        torch.testing.assert_close(module(x), theirs(x))


@every_kind
def test_modes_fakes_and_subclasses_see_the_operation(kind: Kind) -> None:
    from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
    from torch.utils.flop_counter import FlopCounterMode

    class Tagged(Tensor):
        pass

    module, x = kind.make().requires_grad_(False), kind.inputs()
    y = module(x)
    with FlopCounterMode(display=False) as counter:
        module(x)
    assert counter.get_total_flops() == 2 * y.numel() * module.weight[0].numel()
    with FakeTensorMode(allow_non_fake_inputs=True) as fakes:
        assert isinstance(module(fakes.from_tensor(x)), FakeTensor)
    assert type(module(x.as_subclass(Tagged))) is Tagged
    with torch.device("cpu"):
        torch.testing.assert_close(module(x), expected(module, x))
    assert kind.make().to("meta")(x.to("meta")).is_meta
    with torch.profiler.profile() as profile:
        module(x)
    assert any("tilewright" in event.key for event in profile.key_averages())


@every_kind
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_packs_a_weight_of_its_own(kind: Kind, dtype: torch.dtype) -> None:
    module = kind.make()
    module.activation = "none"
    for x in (kind.inputs(), kind.inputs().to(dtype)):
        with torch.no_grad(), torch.autocast("cpu", dtype):
            y = module(x)
            assert y.dtype == dtype
            assert torch.equal(y, module(x))
            with tilewright.options(pack=False):
                plain = module(x)
        torch.testing.assert_close(y, plain, rtol=2 * torch.finfo(dtype).eps, atol=1e-2)
    assert module.packed_bytes() >= module.weight.numel() * dtype.itemsize
    with torch.no_grad():
        x = kind.inputs()
        assert module(x).dtype == torch.float32
        with torch.autocast("cpu", dtype):
            assert module(x).dtype == dtype
        module.weight.mul_(3)
        with torch.autocast("cpu", dtype):
            cast = module.weight.to(dtype).double()
            found = module(x)
        module.double()
        wide = expected(module, x.to(dtype).double(), weight=cast)
        torch.testing.assert_close(found.double(), wide, rtol=1e-2, atol=1e-1)


@every_kind
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_layers_are_packed(kind: Kind, dtype: torch.dtype) -> None:
    module = kind.make().to(dtype)
    x = kind.inputs().to(dtype)
    with torch.no_grad():
        y = module(x)
        assert torch.equal(module(x), y)
        assert module.packing().startswith("packed")
        wide = expected(module.double(), x.double())
    assert y.dtype == dtype
    torch.testing.assert_close(y.double(), wide, rtol=1e-2, atol=1e-2)


# --- choosing, explaining, tuning ---------------------------------------------------------------------------


@every_kind
def test_explain_speaks_of_the_packed_weight(kind: Kind) -> None:
    module, x = kind.make(), kind.inputs()

    def frozen() -> bool:
        explanation = tilewright.explain(module, x)
        assert explanation.operation == kind.runs
        assert explanation.problem.activation == "relu"
        return "frozen" in explanation.problem.describe()

    with torch.no_grad():
        assert frozen()
        held = module.weight
        assert not frozen()
        del held
    assert not frozen()  # a gradient is wanted
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert tilewright.explain(module, x).problem.dtype == torch.bfloat16


@every_kind
def test_tune_tunes_the_frozen_problem(kind: Kind) -> None:
    module, x = kind.make(), kind.inputs()
    with torch.no_grad():
        module(x)
        report = tilewright.tune(module, x, budget_s=0.2, progress=False)
        (result,) = report.results
        assert result.problem == module.problem(x)[1]
        assert "frozen" in result.problem.describe()
        assert tilewright.explain(module, x).choice.source == "store"
        assert_right(module, x)
