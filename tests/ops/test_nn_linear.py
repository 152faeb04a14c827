"""tilewright.nn.Linear: equal to torch's, trains like it, and composes like it with the rest of torch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.utils.prune

import tilewright
from tests.ops.layers import IN, OUT, ROWS, assert_right, expected, layer
from tilewright.errors import ArgumentError, ShapeError
from tilewright.kernels.epilogue import ACTIVATIONS
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


# --- tuning --------------------------------------------------------------------------------------------------


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
