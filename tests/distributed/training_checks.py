"""Run in every process: networks of tilewright's layers, trained and run by all processes together."""

from __future__ import annotations

import copy
from typing import cast

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel

import tilewright
from tilewright.examples.training import seeded


class Net(nn.Module):
    """Convolutions and fully connected layers, an odd number of channels among them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = tilewright.nn.Conv2d(1, 6, 3, padding=1, activation="relu")
        self.conv2 = tilewright.nn.Conv2d(6, 7, 3, stride=2, activation="gelu")
        self.hidden = tilewright.nn.Linear(7 * 3 * 3, 20, activation="silu")
        self.head = tilewright.nn.Linear(20, 5)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.hidden(self.conv2(self.conv1(x)).flatten(1)))
        return y


class Mlp(nn.Module):
    """Two blocks, each up and down again."""

    def __init__(self, activation: str = "relu", bias: bool = True) -> None:
        super().__init__()
        self.up = tilewright.nn.Linear(12, 32, bias, activation=activation)
        self.down = tilewright.nn.Linear(32, 12, bias)

    def forward(self, x: Tensor) -> Tensor:
        return x + cast(Tensor, self.down(self.up(x)))


def _step(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, target: Tensor) -> None:
    optimizer.zero_grad()
    nn.functional.mse_loss(model(x), target).backward()
    optimizer.step()


def _outputs(model: nn.Module, x: Tensor) -> Tensor:
    """In inference, three times: the layers may pack their weights, and then use what they packed."""
    model.eval()
    with torch.no_grad():
        first, *others = (model(x) for _ in range(3))
    for other in others:
        torch.testing.assert_close(other, first)
    model.train()
    return cast(Tensor, first)


def _assert_trains_as_alone(mesh: DeviceMesh, alone: nn.Module, together: nn.Module) -> None:
    """Training and inference in turn; each process sees its share of the batch."""
    batch = 4 * mesh.size()
    x, target = torch.randn(batch, 1, 8, 8), torch.randn(batch, 5)
    share = slice(mesh.get_rank(), None, mesh.size())
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9) for model in (alone, together)]
    before = None
    for _ in range(3):
        for _ in range(2):
            _step(alone, optimizers[0], x, target)
            _step(together, optimizers[1], x[share], target[share])
        found = _outputs(together, x)
        torch.testing.assert_close(found, _outputs(alone, x), rtol=1e-4, atol=1e-5)
        assert before is None or (found - before).abs().max() > 1e-3
        before = found


def ddp_trains_as_one_process(mesh: DeviceMesh) -> None:
    alone, net = seeded(Net), seeded(Net)
    _assert_trains_as_alone(mesh, alone, DistributedDataParallel(net))


def fsdp_trains_as_one_process(mesh: DeviceMesh) -> None:
    for reshard in (True, False):
        alone, net = seeded(Net), seeded(Net)
        for layer in (net.conv1, net.conv2, net.hidden):
            fully_shard(layer, mesh=mesh, reshard_after_forward=reshard)
        fully_shard(net, mesh=mesh)
        assert isinstance(net.hidden.weight, DTensor)
        _assert_trains_as_alone(mesh, alone, net)


def fsdp_shards_a_layer_that_was_packed(mesh: DeviceMesh) -> None:
    alone, net = seeded(Net), seeded(Net)
    x = torch.randn(4, 1, 8, 8)
    expected = _outputs(alone, x)
    torch.testing.assert_close(_outputs(net, x), expected)
    fully_shard(net, mesh=mesh)
    torch.testing.assert_close(_outputs(net, x), expected)
    assert "not packed" in net.eval().head.packing()


def parallel_layers_train_as_one_process(mesh: DeviceMesh) -> None:
    for activation in ("relu", "gelu"):
        for bias in (True, False):
            alone = nn.Sequential(Mlp(activation, bias), Mlp(activation, bias))
            together = copy.deepcopy(alone)
            for block in together:
                parallelize_module(block, mesh, {"up": ColwiseParallel(), "down": RowwiseParallel()})
            for block in together:
                assert block.up.weight.to_local().shape == (32 // mesh.size(), 12)
                assert block.down.weight.to_local().shape == (12, 32 // mesh.size())
            x, target = torch.randn(6, 12), torch.randn(6, 12)
            optimizers = [torch.optim.Adam(model.parameters(), lr=1e-2) for model in (alone, together)]
            for _ in range(3):
                for model, optimizer in zip((alone, together), optimizers, strict=True):
                    _step(model, optimizer, x, target)
                torch.testing.assert_close(_outputs(together, x), _outputs(alone, x), rtol=1e-3, atol=1e-4)
            for mine, theirs in zip(together.parameters(), alone.parameters(), strict=True):
                torch.testing.assert_close(mine.full_tensor(), theirs, rtol=1e-3, atol=1e-4)


def parallel_layers_run_in_inference_mode(mesh: DeviceMesh) -> None:
    alone = Mlp("gelu")
    together = parallelize_module(
        copy.deepcopy(alone), mesh, {"up": ColwiseParallel(), "down": RowwiseParallel()}
    )
    x = torch.randn(3, 2, 12)
    with torch.inference_mode():
        torch.testing.assert_close(together.eval()(x), alone.eval()(x), rtol=1e-4, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        torch.testing.assert_close(together(x), alone(x), rtol=3e-2, atol=3e-2)


def an_activation_behind_a_row_parallel_layer_is_right(mesh: DeviceMesh) -> None:
    alone = tilewright.nn.Linear(16, 6, activation="relu")
    together = parallelize_module(copy.deepcopy(alone), mesh, RowwiseParallel())
    x = torch.randn(5, 16)
    mine = x.chunk(mesh.size(), -1)[mesh.get_rank()]
    found, right = together(mine), alone(x)
    torch.testing.assert_close(found, right, rtol=1e-4, atol=1e-5)
    found.sum().backward()
    right.sum().backward()
    torch.testing.assert_close(together.weight.grad.full_tensor(), alone.weight.grad, rtol=1e-4, atol=1e-5)
