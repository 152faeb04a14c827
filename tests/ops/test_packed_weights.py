"""A packed weight is never used after the weight has changed, whoever changed it and however."""

from __future__ import annotations

import copy
import io
import os
import pickle
import signal
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.utils.prune
from torch import Tensor

import tilewright
from tests.ops.layers import IN, KINDS, ROWS, Kind, assert_right, element, expected, inputs, like
from tests.ops.writes import HELD, WRITES
from tilewright import holders, packing, settings
from tilewright.errors import ArgumentError
from tilewright.kernels import frozen
from tilewright.kernels.epilogue import ACTIVATIONS
from tilewright.nn import Linear, PackedLayer


@pytest.fixture(autouse=True)
def _release() -> Iterator[None]:
    yield
    HELD.clear()


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES.keys())
def test_every_write_is_noticed(packed: PackedLayer, write: Callable[[PackedLayer], Any]) -> None:
    x = inputs(packed)
    with torch.no_grad():  # with gradients the weight would be handed out, and noted
        before = packed(x)
    with tilewright.options(strict=False):  # the kernel may not take the new strides
        write(packed)
        assert_right(packed, x, calls=20)
        with torch.no_grad():
            changed = not torch.equal(packed(x), before)
    # Casting and sharing leave the values of a bf16-exact weight alone; everything else must show.
    assert changed or write in (WRITES["shared memory"],)


def test_other_strides_of_the_same_memory_are_noticed() -> None:
    module = Linear(IN, IN, activation="relu").eval()
    x = torch.randn(ROWS, IN)
    assert_right(module, x)
    module.weight.data = module.weight.data.t()
    assert_right(module, x)


def test_a_weight_that_comes_back_is_packed_again(packed: PackedLayer) -> None:
    x = inputs(packed)
    weight = packed.weight
    assert_right(packed, x)
    assert "others hold" in packed.packing()
    del weight
    assert_right(packed, x)
    assert packed.packing() == f"packed, {packed.packed_bytes()} bytes"
    forms = packed.__dict__["_packing"].snapshot
    assert packed.weight.dtype == torch.float32  # looked at, not kept, not written
    assert_right(packed, x)
    assert packed.__dict__["_packing"].snapshot is forms, "packed anew for nothing"


def test_a_weight_that_stays_held_is_let_go_of(packed: PackedLayer) -> None:
    HELD.append(packed.weight)
    assert_right(packed, inputs(packed), calls=40)
    assert packed.packed_bytes() == 0


def test_a_weight_that_never_rests_is_not_packed_for_every_call(packed: PackedLayer) -> None:
    x = inputs(packed)
    for _ in range(5):
        packed.weight.data.add_(1)
        assert_right(packed, x, calls=1)
    assert packed.packed_bytes() == 0
    assert "changed with every call" in packed.packing()
    assert_right(packed, x)
    assert packed.packed_bytes() > 0


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
def test_what_cannot_be_watched_is_not_packed(kind: Kind) -> None:
    x = kind.inputs()
    with torch.inference_mode():
        module = kind.make()
        assert torch.equal(module(x), module(x))
        module.weight.data[element(module)] += 7
    assert_right(module, x)
    assert "inference mode" in module.packing()
    shared = kind.make().share_memory()
    assert_right(shared, x)
    assert "shared memory" in shared.packing()
    wide = kind.make().double()
    with torch.no_grad():
        torch.testing.assert_close(wide(x.double()), expected(wide, x.double()))
    assert "float64" in wide.packing()
    gaps = kind.make()
    gaps.weight.data = torch.randn(*gaps.weight.shape, 2)[..., 0]
    assert_right(gaps, x)
    assert "gaps" in gaps.packing()
    pruned = kind.make()
    torch.nn.utils.prune.custom_from_mask(pruned, "weight", torch.rand(pruned.weight.shape) < 0.5)
    with torch.no_grad():
        torch.testing.assert_close(pruned(x), expected(pruned, x, weight=pruned.weight))
    assert "no plain parameter" in pruned.packing()


def test_another_dictionary_of_parameters_is_not_trusted(packed: PackedLayer) -> None:
    x = inputs(packed)
    packed.__dict__["_parameters"] = OrderedDict(packed._parameters)
    assert_right(packed, x)
    packed.weight.data[element(packed)] += 7
    assert_right(packed, x)
    assert "dictionary of parameters" in packed.packing()


def test_a_pruned_bias_is_added(packed: PackedLayer) -> None:
    x = inputs(packed)
    torch.nn.utils.prune.random_unstructured(packed, "bias", 0.5)
    for scope in (torch.no_grad, torch.enable_grad):
        with scope():
            torch.testing.assert_close(packed(x), expected(packed, x))


def test_an_exported_program_shares_the_weight(packed: PackedLayer) -> None:
    x = inputs(packed)
    program = torch.export.export(packed, (x,))
    assert_right(packed, x)
    program.state_dict["weight"].data[element(packed)] += 7
    assert_right(packed, x)


def test_compiled_code_may_hand_the_weight_out(packed: PackedLayer) -> None:
    torch._dynamo.reset()
    handed_out = torch.compile(lambda: packed.weight, backend="aot_eager")
    x = inputs(packed)
    for _ in range(3):
        weight = handed_out()
        assert_right(packed, x)
        weight.data[element(packed)] += 7
        assert_right(packed, x)
        del weight
        assert_right(packed, x)


def test_without_reference_counts_nothing_is_packed(monkeypatch: pytest.MonkeyPatch, kind: Kind) -> None:
    monkeypatch.setattr(holders, "_ALONE", dict.fromkeys(holders._ALONE, (0,)))
    module = kind.make()
    assert_right(module, kind.inputs())
    assert module.packed_bytes() == 0


def test_without_a_digest_a_weight_that_was_handed_out_is_packed_anew(
    monkeypatch: pytest.MonkeyPatch, kind: Kind
) -> None:
    monkeypatch.setattr(packing, "core", lambda: None)
    module = kind.make()
    x = kind.inputs()
    assert_right(module, x)
    module.weight.data[element(module)] += 7
    assert_right(module, x)
    assert module.packed_bytes() > 0


@pytest.mark.parametrize("mutate", ["weight", "data"])
def test_compiled_code_that_writes_to_the_weight_is_noticed(packed: PackedLayer, mutate: str) -> None:
    torch._dynamo.reset()

    def write() -> None:
        with torch.no_grad():
            (packed.weight if mutate == "weight" else packed.weight.data).mul_(1.5)

    compiled = torch.compile(write, backend="aot_eager")
    x = inputs(packed)
    for _ in range(3):
        compiled()
        assert_right(packed, x)


# --- pack, unpack, and what is promised ---------------------------------------------------------------------


def test_pack_and_unpack(kind: Kind) -> None:
    module = kind.make()
    assert module.packing() in (
        "not packed: a parameter was replaced",
        "not packed: the layer was moved or cast",
    )
    assert module.pack(kind.inputs()) == module.packed_bytes() > 0
    module.unpack()
    assert module.packed_bytes() == 0
    assert module.pack(kind.inputs()) > 0
    with tilewright.options(pack=False):
        assert_right(module, kind.inputs())
        with pytest.raises(ArgumentError, match="pack=False"):
            module.pack()
    module.train()
    assert module.packed_bytes() == 0
    with pytest.raises(ArgumentError, match=r"call eval\(\) first"):
        module.pack()


def test_options_without_packing(kind: Kind) -> None:
    module = kind.make()
    with tilewright.options(pack=False, backend=None):
        assert_right(module, kind.inputs())
    assert module.packed_bytes() == 0


def test_a_held_weight_is_packed_on_the_users_word_alone(kind: Kind) -> None:
    module, x = kind.make(), kind.inputs()
    weight = module.weight
    with pytest.raises(ArgumentError, match=r"others hold .*; pack\(frozen=True\) packs it on your word"):
        module.pack(x)
    assert module.pack(x, frozen=True) > 0
    assert_right(module, x)
    assert module.packed_bytes() > 0
    # Counted, uncounted of many elements, of the first and of the last one.
    with torch.no_grad():
        weight[3, 5] += 7
    assert_right(module, x)
    weight.data.mul_(2)
    assert_right(module, x)
    weight.data.flatten()[0] += 7
    assert_right(module, x)
    weight.data.flatten()[-1] += 7
    assert_right(module, x)
    # What was promised not to happen: noticed once the user says so.
    weight.data[element(module)] += 7
    module.repack()
    assert_right(module, x)
    assert module.packed_bytes() > 0
    module.unpack()
    assert_right(module, x)
    assert module.packed_bytes() == 0


# --- copies, pickles, threads, processes --------------------------------------------------------------------


def test_what_was_packed_does_not_travel(packed: PackedLayer) -> None:
    x = inputs(packed)
    plain = io.BytesIO()
    torch.save(like(packed), plain)
    stored = io.BytesIO()
    torch.save(packed, stored)
    assert stored.tell() < plain.tell() + 200
    stored.seek(0)
    for other in (
        copy.deepcopy(packed),
        pickle.loads(pickle.dumps(packed)),
        torch.load(stored, weights_only=False),
    ):
        assert type(other) is type(packed)
        assert other.packed_bytes() == 0
        assert other.activation == "relu"
        other.weight.data[element(packed)] += 7
        assert_right(other, x)
        assert_right(packed, x)
        assert other.packed_bytes() > 0
    assert set(packed.state_dict()) == {"weight", "bias"}


def test_activation_may_change(packed: PackedLayer) -> None:
    x = inputs(packed)
    for activation in ACTIVATIONS:
        packed.activation = activation
        assert_right(packed, x)


def test_sixteen_threads_at_once(kind: Kind) -> None:
    module, x = kind.make(), kind.inputs()
    options = settings.current()
    right = expected(module, x).detach()
    results: list[Tensor] = []
    failures: list[BaseException] = []
    barrier = threading.Barrier(16)

    def work() -> None:
        try:
            barrier.wait()
            with settings.applied(options), torch.no_grad():
                results.extend([module(x) for _ in range(50)])
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert len(results) == 800
    torch.testing.assert_close(results[0], right)
    assert all(torch.equal(y, results[0]) for y in results), "the bits depend on the other threads"
    assert module.packed_bytes() > 0


def test_writes_between_calls_of_many_threads(kind: Kind) -> None:
    module, x = kind.make(), kind.inputs()
    options = settings.current()
    failures: list[str] = []
    barrier = threading.Barrier(4)

    def work(leader: bool) -> None:
        with settings.applied(options), torch.no_grad():
            for step in range(20):
                if leader:
                    module.weight.data[step % len(module.weight)] += 1
                barrier.wait()
                right = all(torch.allclose(module(x), expected(module, x), atol=1e-5) for _ in range(3))
                failures.extend([] if right else [f"step {step}"])
                barrier.wait()

    threads = [threading.Thread(target=work, args=(i == 0,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_a_forked_child_packs_for_itself(packed: PackedLayer) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # OpenMP's other threads do not survive a fork
    x = inputs(packed)
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with packing._lock.current, frozen._packing.current:
            held.set()
            done.wait()

    thread = threading.Thread(target=hold)
    try:
        assert_right(packed, x)
        thread.start()
        held.wait()
        child = os.fork()
        if child == 0:
            status = 1
            try:
                packed.weight.data[element(packed)] += 7
                assert_right(packed, x)
                status = 0
            finally:
                os._exit(status)
        for _ in range(600):
            found, state = os.waitpid(child, os.WNOHANG)
            if found:
                break
            time.sleep(0.1)
        else:
            os.kill(child, signal.SIGKILL)
            pytest.fail("the child waits for a lock that nobody holds")
        assert os.waitstatus_to_exitcode(state) == 0
    finally:
        done.set()
        thread.join()
        torch.set_num_threads(threads)
    assert_right(packed, x)


def test_a_call_of_another_thread_is_waited_for(monkeypatch: pytest.MonkeyPatch, kind: Kind) -> None:
    answers = iter([(0,), (0,)])
    references = holders._references
    monkeypatch.setattr(holders, "_references", lambda module: next(answers, None) or references(module))
    module = kind.make()
    assert_right(module, kind.inputs(), calls=1)
    assert module.packed_bytes() > 0
