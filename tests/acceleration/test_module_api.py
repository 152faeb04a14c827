"""An accelerated model is a torch module like the one that it was: copied, saved, moved, trained, watched, compiled."""

from __future__ import annotations

import copy
import io
import threading
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tilewright
from tests.acceleration.models import Block, Net, Noisy, images, sequential, settle
from tests.acceleration.support import Spy, assert_equal, outputs


@pytest.fixture
def model() -> Any:
    return settle(Net())


@pytest.fixture
def accelerated(model: Any) -> Any:
    return tilewright.accelerate(model)


# --- copies and checkpoints ---------------------------------------------------------------------------------------


def test_deepcopy(model: Any, accelerated: Any, work: Spy) -> None:
    x = images()
    expected = work(accelerated, x)
    copied = copy.deepcopy(accelerated)
    assert work(copied, x) == expected
    with torch.no_grad():
        for parameter in accelerated.parameters():
            parameter.zero_()
    assert_equal(model, copied, x)
    assert_equal(model, tilewright.restore(copied), x)


def test_pickle(model: Any, accelerated: Any, work: Spy) -> None:
    x = images()
    expected = work(accelerated, x)
    file = io.BytesIO()
    torch.save(accelerated, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    assert str(loaded.tilewright_report) == str(accelerated.tilewright_report)
    assert work(loaded, x) == expected
    assert_equal(model, loaded, x)
    tilewright.restore(loaded)
    assert [type(module) for module in loaded.modules()] == [type(module) for module in model.modules()]


def test_checkpoints_go_both_ways(model: Any, accelerated: Any) -> None:
    x, other = images(), settle(Net())
    outputs(accelerated, x)
    assert list(accelerated.state_dict()) == list(model.state_dict())
    accelerated.load_state_dict(other.state_dict(), strict=True)
    assert_equal(other, accelerated, x)
    accelerated.load_state_dict(copy.deepcopy(model).state_dict(), strict=True, assign=True)
    assert_equal(model, accelerated, x)
    other.load_state_dict(accelerated.state_dict(), strict=True)
    assert_equal(model, other, x)
    names = [name for name, _ in model.named_parameters()]
    assert [name for name, _ in accelerated.named_parameters()] == names
    assert [name for name, _ in accelerated.named_modules()] == [name for name, _ in model.named_modules()]


def test_weights_only_loading(model: Any, accelerated: Any) -> None:
    file = io.BytesIO()
    torch.save(accelerated.state_dict(), file)
    file.seek(0)
    model.load_state_dict(torch.load(file, weights_only=True))


# --- moved and cast -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_cast_there_and_back(dtype: torch.dtype, model: Any, accelerated: Any) -> None:
    x = images()
    outputs(accelerated, x)
    assert_equal(model.to(dtype), accelerated.to(dtype), x.to(dtype))
    assert_equal(model.float(), accelerated.float(), x)


def test_channels_last(model: Any, accelerated: Any) -> None:
    x = images().to(memory_format=torch.channels_last)
    outputs(accelerated, x)
    assert_equal(model, accelerated.to(memory_format=torch.channels_last), x)
    assert_equal(model, accelerated, x.contiguous())


def test_meta_and_empty(accelerated: Any) -> None:
    assert accelerated.to("meta")(images().to("meta")).is_meta
    tilewright.restore(accelerated.to_empty(device="cpu"))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast(dtype: torch.dtype, model: Any, accelerated: Any) -> None:
    x = images()
    exact = outputs(copy.deepcopy(model).double(), x.double())[0]
    with torch.autocast("cpu", dtype):
        theirs = outputs(model, x)[0]
        for _ in range(2):
            ours = outputs(accelerated, x)[0]
            assert ours.dtype == theirs.dtype
            own = float((theirs.double() - exact).abs().max())
            error = float((ours.double() - exact).abs().max())
            assert error <= 2 * own + 8 * torch.finfo(dtype).eps * float(exact.abs().max())
    assert_equal(model, accelerated, x)


# --- training -----------------------------------------------------------------------------------------------------


def test_it_trains_as_the_model_does(model: Any, accelerated: Any) -> None:
    x, target = images(4), torch.randn(4, 5)
    for step in range(3):
        losses = []
        for one in (model, accelerated):
            one.train(step != 1)  # once in eval mode, with gradients
            torch.manual_seed(step)
            loss = (one(x) - target).square().mean()
            loss.backward()
            with torch.no_grad():
                for parameter in one.parameters():
                    parameter -= 0.05 * parameter.grad
                    parameter.grad = None
            losses.append(loss.detach())
        torch.testing.assert_close(losses[1], losses[0], rtol=1e-4, atol=1e-5)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(accelerated.state_dict()[name], value, rtol=1e-3, atol=1e-4)
    for one in (model, accelerated):
        one.eval()
    assert_equal(model, accelerated, x)


def test_training_mode_is_refused_for_folding(work: Spy) -> None:
    model, x = settle(Net()).train(), images(4)
    with pytest.warns(UserWarning, match="6 BatchNorm modules are in training mode") as warned:
        accelerated: Any = tilewright.accelerate(model)
    assert warned[0].filename == __file__
    assert not any("BatchNorm" in entry.before for entry in accelerated.tilewright_report.entries)
    assert_trains_alike(model, accelerated, x)
    accelerated.eval()
    model.eval()
    assert "BatchNorm" not in "".join(work(accelerated, x))
    assert_equal(model, accelerated, x)


def assert_trains_alike(model: Any, accelerated: Any, x: Tensor) -> None:
    for found, expected in zip(outputs(accelerated, x), outputs(model, x), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    for name, value in model.named_buffers():
        torch.testing.assert_close(accelerated.get_buffer(name), value, rtol=1e-4, atol=1e-5)


def test_batchnorms_in_training_mode_later_count_as_ever(model: Any, accelerated: Any, work: Spy) -> None:
    x = images(4)
    outputs(accelerated, x)
    for one in (model, accelerated):
        one.stem.train()
        one.blocks[0].bn2.train()
    assert work(accelerated, x)[0] == "Conv2d+BatchNorm2d+ReLU"  # neither the stem nor blocks[0].conv2
    model(x)
    assert_trains_alike(model, accelerated, x)


def test_dropout_and_random_numbers() -> None:
    model, x = settle(Noisy()), torch.randn(5, 7)
    accelerated = tilewright.accelerate(model, x)
    for mode in (False, True):
        model.train(mode)
        accelerated.train(mode)
        torch.testing.assert_close(outputs(accelerated, x), outputs(model, x), rtol=1e-5, atol=1e-6)


# --- watched ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["stem.0", "stem.1", "stem.2"])
@pytest.mark.parametrize("kind", ["forward", "pre"])
def test_hooks_that_come_later_see_what_they_would(
    place: str, kind: str, model: Any, accelerated: Any
) -> None:
    x, seen = images(), []

    def note(module: nn.Module, args: Any, *result: Any) -> None:
        seen.append((result or args)[0].clone())

    outputs(accelerated, x)
    for one in (accelerated, model):
        module = one.get_submodule(place)
        add = module.register_forward_pre_hook if kind == "pre" else module.register_forward_hook
        handle = add(note)
        outputs(one, x)
        handle.remove()
    torch.testing.assert_close(seen[0], seen[1], rtol=1e-4, atol=1e-5)
    assert_equal(model, accelerated, x)


def test_global_hooks_see_every_module(model: Any, accelerated: Any) -> None:
    seen: list[tuple[str, Tensor]] = []

    def note(module: nn.Module, args: Any, y: Tensor) -> None:
        seen.append((type(module).__name__, y.clone()))

    handle = torch.nn.modules.module.register_module_forward_hook(note)
    try:
        outputs(model, images(1))
        count = len(seen)
        torch.manual_seed(20240601)
        x = images(1)
        seen.clear()
        for one in (model, accelerated):
            outputs(one, x)
    finally:
        handle.remove()
    assert len(seen) == 2 * count
    for (name, y), (other, z) in zip(seen[:count], seen[count:], strict=True):
        assert name == other
        torch.testing.assert_close(z, y, rtol=1e-4, atol=1e-4)


def test_modes_and_transforms_see_the_models_own_operations(model: Any, accelerated: Any) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    x, counts = images(1), []
    for one in (model, accelerated):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            one(x)
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 0
    with torch.no_grad():
        batched = torch.func.vmap(accelerated.stem)(x[None])
        torch.testing.assert_close(batched, accelerated.stem(x)[None], rtol=1e-4, atol=1e-5)
    _, tangent = torch.func.jvp(accelerated, (x,), (x,))
    torch.testing.assert_close(tangent, torch.func.jvp(model, (x,), (x,))[1], rtol=1e-3, atol=1e-4)


def test_symbolic_trace(model: Any, accelerated: Any) -> None:
    traced = torch.fx.symbolic_trace(accelerated)
    assert_equal(model, traced, images())
    again: Any = tilewright.accelerate(torch.fx.symbolic_trace(settle(Block())))
    assert isinstance(again, torch.fx.GraphModule)


def test_generated_code_is_read_too(work: Spy) -> None:
    graph = torch.fx.symbolic_trace(settle(Block()))
    accelerated = tilewright.accelerate(graph)
    x = images(channels=8)
    assert work(accelerated, x) == ["Conv2d+BatchNorm2d+ReLU", "Conv2d+BatchNorm2d"]
    assert_equal(graph, accelerated, x)


# --- run ----------------------------------------------------------------------------------------------------------


def test_inference_mode_before_and_after(model: Any, accelerated: Any, work: Spy) -> None:
    x = images()
    expected = outputs(model, x)[0]
    for scope in (torch.inference_mode, torch.no_grad, torch.inference_mode):
        with scope():
            torch.testing.assert_close(accelerated(x), expected, rtol=1e-4, atol=1e-5)
            assert len(work(accelerated, x)) == 7
    accelerated.requires_grad_(False)
    torch.testing.assert_close(accelerated(x), expected, rtol=1e-4, atol=1e-5)
    y = accelerated(x.requires_grad_())
    y.sum().backward()
    assert x.grad is not None


def test_many_threads_at_once(model: Any, accelerated: Any) -> None:
    inputs = [images(batch) for batch in (1, 2, 3)]
    expected = [outputs(model, x)[0] for x in inputs]
    failures: list[BaseException] = []

    def run(index: int) -> None:
        try:
            with torch.inference_mode():
                for turn in range(index, index + 12):
                    y = accelerated(inputs[turn % 3])
                    torch.testing.assert_close(y, expected[turn % 3], rtol=1e-4, atol=1e-5)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_channels_are_unbatched_too() -> None:
    model = settle(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()))
    assert_equal(model, tilewright.accelerate(model), images()[0])


def test_wrong_inputs_are_refused_as_before(accelerated: Any) -> None:
    with pytest.raises(RuntimeError):
        outputs(sequential().eval(), images(channels=5))
    with pytest.raises(tilewright.errors.ShapeError, match="conv2d: "):
        outputs(tilewright.accelerate(settle(sequential())), images(channels=5))
    assert outputs(accelerated, images(0))[0].shape == (0, 5)


@pytest.mark.parametrize("mode", ["export", "aot_eager", "jit"])
def test_compiled_and_exported(mode: str, model: Any, accelerated: Any) -> None:
    x = images()
    outputs(accelerated, x)
    if mode == "export":
        compiled = torch.export.export(accelerated, (x,)).module()
    elif mode == "jit":
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore", DeprecationWarning)
            compiled = torch.jit.trace(accelerated, (x,))
    else:
        torch._dynamo.reset()
        compiled = torch.compile(accelerated, fullgraph=True, backend=mode)
    assert_equal(model, compiled, x)


class Broken(nn.Module):
    """Whose forward cannot be compiled whole, but what it calls can."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.relu = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU()

    def forward(self, x: Tensor) -> Any:
        try:
            torch._dynamo.graph_break()
            x = self.relu(self.bn(self.conv(x)))
        finally:
            torch._dynamo.graph_break()
        return x


def test_compiled_in_parts() -> None:
    torch._dynamo.reset()
    model = settle(nn.Sequential(*(Broken() for _ in range(4))))
    x = images()
    compiled = torch.compile(tilewright.accelerate(model), backend="eager")
    with torch._dynamo.config.patch(recompile_limit=1):
        assert_equal(model, compiled, x)
    torch._dynamo.reset()


def test_a_follower_that_is_called_otherwise_later(work: Spy) -> None:
    model, x = settle(Block()), images(channels=8)
    accelerated: Any = tilewright.accelerate(model)
    for one in (model, accelerated):
        one.bn1.forward = torch.sin
    assert work(accelerated, x) == ["Conv2d+BatchNorm2d"]
    assert_equal(model, accelerated, x)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_graphs(model: Any) -> None:
    model.cuda()
    accelerated = tilewright.accelerate(model)
    x = images().cuda()
    with torch.inference_mode():
        expected = model(x)
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            accelerated(x)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y = accelerated(x)
        graph.replay()
        torch.testing.assert_close(y, expected, rtol=1e-3, atol=1e-3)
