"""Masks in and out: torch.nn.utils.prune, torch.ao.pruning."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils import prune as torch_prune

from tilewright.errors import ArgumentError, FormatError
from tilewright.sparse import from_torch, prune, to_ao_pruning, to_torch_prune, torch_masks


def _model() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 12))


_X = torch.randn(2, 3, 4, 4)


def test_from_torch_nn_utils_prune() -> None:
    model = _model()
    parameter = model[3].weight
    torch_prune.l1_unstructured(model[0], "weight", 0.5)
    torch_prune.ln_structured(model[3], "weight", 0.25, n=2, dim=0)
    torch_prune.random_unstructured(model[3], "weight", 0.5)  # one upon the other
    torch_prune.l1_unstructured(model[3], "bias", 3)
    expected = {
        "0.weight": model[0].weight_mask,
        "3.weight": model[3].weight_mask,
        "3.bias": model[3].bias_mask,
    }
    expected = {name: mask.clone() != 0 for name, mask in expected.items()}
    y = model(_X)
    found = torch_masks(model)
    assert set(found) == set(expected)
    assert all(torch.equal(found[name], mask) for name, mask in expected.items())
    assert torch_prune.is_pruned(model)
    pruning = from_torch(model)
    assert not torch_prune.is_pruned(model)
    assert model[3].weight is parameter
    assert sorted(model.state_dict()) == sorted(_model().state_dict())
    torch.testing.assert_close(model(_X), y)
    assert all(torch.equal(pruning.masks[name], mask) for name, mask in expected.items())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    with pruning.attach(optimizer):
        for _ in range(2):
            model(_X).square().sum().backward()
            optimizer.step()
    assert not model[3].weight[~expected["3.weight"]].any()
    assert not model[3].bias[~expected["3.bias"]].any()
    assert pruning.report.layers[0].kept_magnitude is None


def test_to_torch_nn_utils_prune_and_back() -> None:
    model = _model()
    pruning = prune(model, "2:4")
    masks, y = pruning.masks, model(_X)
    to_torch_prune(pruning)
    assert torch_prune.is_pruned(model)
    assert {"weight_orig", "bias"} == set(dict(model[3].named_parameters()))
    assert torch.equal(model[3].weight_mask.bool(), masks["3.weight"])
    torch.testing.assert_close(model(_X), y)
    torch_prune.l1_unstructured(model[3], "weight", 0.5)  # torch goes on from there
    assert int(model[3].weight_mask.sum()) == 32 * 12 // 4
    again = from_torch(model)
    assert torch.equal(again.masks["0.weight"], masks["0.weight"])
    assert not (again.masks["3.weight"] & ~masks["3.weight"]).any()


def test_from_torch_ao_pruning() -> None:
    ao = pytest.importorskip("torch.ao.pruning")
    model = _model()
    parameter = model[3].weight
    sparsifier = ao.WeightNormSparsifier(sparsity_level=1.0, sparse_block_shape=(1, 4), zeros_per_block=2)
    sparsifier.prepare(model, [{"tensor_fqn": "3.weight"}])
    sparsifier.step()
    expected = model[3].parametrizations.weight[0].mask.bool()
    assert int(expected.sum()) == 32 * 12 // 2
    y = model(_X)
    assert torch.equal(torch_masks(model)["3.weight"], expected)
    pruning = from_torch(model)
    assert list(pruning.masks) == ["3.weight"]
    assert torch.equal(pruning.masks["3.weight"], expected)
    assert model[3].weight is parameter
    assert not parametrize.is_parametrized(model[3])
    torch.testing.assert_close(model(_X), y)


def test_to_torch_ao_pruning_and_back() -> None:
    ao = pytest.importorskip("torch.ao.pruning")
    model = _model()
    pruning = prune(model, "unstructured", 0.7)
    masks, y = pruning.masks, model(_X)
    config = to_ao_pruning(pruning)
    assert config == [{"tensor_fqn": "0.weight"}, {"tensor_fqn": "3.weight"}]
    fake = model[3].parametrizations.weight[0]
    assert isinstance(fake, ao.FakeSparsity)
    assert torch.equal(fake.mask, masks["3.weight"].float())
    torch.testing.assert_close(model(_X), y)
    model(_X).sum().backward()
    assert not model[3].parametrizations.weight.original.grad[~masks["3.weight"]].any()
    again = from_torch(model)
    assert torch.equal(again.masks["3.weight"], masks["3.weight"])
    sparsifier = ao.WeightNormSparsifier()  # of torch: what to_ao_pruning put on, it makes permanent
    sparsifier.groups = [
        {"module": model[index], "tensor_name": "weight", "module_fqn": str(index)} for index in (0, 3)
    ]
    to_ao_pruning(again)
    sparsifier.squash_mask()
    assert torch.equal(model[3].weight != 0, masks["3.weight"])


def test_a_model_without_masks() -> None:
    model = _model()
    assert torch_masks(model) == {}
    with pytest.raises(ArgumentError, match="no parameter has a mask"):
        from_torch(model)
    model.register_buffer("attention_mask", torch.ones(3))
    assert torch_masks(model) == {}


def test_masks_that_are_none() -> None:
    model = _model()
    torch_prune.identity(model[3], "weight")
    model[3].weight_mask.fill_(0.5)
    with pytest.raises(FormatError, match="other than 0 and 1"):
        torch_masks(model)
    model[3].weight_mask = torch.ones(2, 2)
    with pytest.raises(FormatError, match=r"mask of 3\.weight has shape \(2, 2\); expected \(12, 32\)"):
        from_torch(model)


def test_a_tensor_by_itself_has_no_module_for_torchs_masks() -> None:
    pruning = prune(torch.randn(4, 4), "2:4")
    with pytest.raises(ArgumentError, match="a tensor by itself"):
        to_torch_prune(pruning)
    with pytest.raises(ArgumentError, match="a tensor by itself"):
        to_ao_pruning(pruning)


def test_a_mask_among_other_parametrizations_is_left() -> None:
    ao = pytest.importorskip("torch.ao.pruning")
    layer = nn.Linear(4, 4)
    parametrize.register_parametrization(layer, "weight", nn.Identity())
    parametrize.register_parametrization(layer, "weight", ao.FakeSparsity(torch.eye(4)))
    assert torch.equal(torch_masks(layer)["weight"], torch.eye(4).bool())
    with pytest.raises(ArgumentError, match="other parametrizations beside its mask"):
        from_torch(layer)


def test_importing_tilewright_imports_none_of_this() -> None:
    program = (
        "import sys, torch, tilewright\n"
        "assert 'tilewright.sparse' not in sys.modules\n"
        "tilewright.sparse.prune(torch.nn.Linear(4, 4), '2:4')\n"
        "assert not {'torch.ao.pruning', 'rich'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
