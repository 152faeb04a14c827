"""What `accelerate` measures with example inputs: the model before and after, and each of its layers."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from tilewright.acceleration.chains import chains_of, names_of
from tilewright.acceleration.fused import Fused
from tilewright.acceleration.report import Entry, Report
from tilewright.acceleration.swap import is_accelerated, lay_back, lay_out, swap_back, swapped
from tilewright.errors import ArgumentError
from tilewright.holders import weight_of
from tilewright.nn import Conv2d, PackedLayer

_ROUNDS = 9
_SAMPLE_SECONDS = 2e-3
_MOST_SECONDS = 2.0
"""For the rounds of a whole model: a slow one runs fewer, three at least."""

_LEAST_GAIN = 0.98
"""What is slower than this is left as it was: closer to 1 is noise."""

_TOLERANCES = {torch.float16: 2e-2, torch.bfloat16: 1e-1, torch.float64: 1e-9}
"""How far outputs may differ, in units of the largest one; fp32: 1e-4."""

_ODD_SHARE = 1e-2
"""Integer outputs (the index of a largest value, say) that may differ."""


@dataclass(frozen=True, slots=True)
class Call:
    """How the model is called."""

    args: tuple[Any, ...]
    keywords: dict[str, Any]

    def __call__(self, model: torch.nn.Module) -> Any:
        given = pytree.tree_leaves((self.args, self.keywords))
        # Such tensors may be written to in inference mode only, as a model may do.
        inference = any(isinstance(leaf, Tensor) and leaf.is_inference() for leaf in given)
        with torch.inference_mode() if inference else torch.no_grad():
            return model(*self.args, **self.keywords)


@dataclass(frozen=True, slots=True)
class Size:
    """What a layer was called with."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    def random(self) -> Tensor:
        values = torch.empty_strided(self.shape, self.strides, dtype=self.dtype, device=self.device)
        generator = torch.Generator(self.device).manual_seed(0)
        return values.copy_(torch.randn(self.shape, generator=generator, device=self.device))


@dataclass(frozen=True, slots=True)
class Gain:
    """Seconds per call before and after, of several rounds in which both took turns."""

    old: list[float]
    new: list[float]

    @property
    def seconds(self) -> tuple[float, float]:
        """Lower quartiles: other work on the machine lengthens a sample, and nothing shortens it."""
        old, new = (sorted(samples)[len(samples) // 4] for samples in (self.old, self.new))
        return old, new

    @property
    def ratio(self) -> float:
        old, new = self.seconds
        return old / new

    @property
    def slower(self) -> bool:
        return self.ratio < _LEAST_GAIN


def call_of(example_inputs: Any) -> Call:
    if isinstance(example_inputs, Tensor):
        return Call((example_inputs,), {})
    if isinstance(example_inputs, (tuple, list)):
        return Call(tuple(example_inputs), {})
    if isinstance(example_inputs, dict) and all(isinstance(name, str) for name in example_inputs):
        return Call((), dict(example_inputs))
    raise ArgumentError(
        f"accelerate: example_inputs is a {type(example_inputs).__name__}; expected a tensor, a tuple or list of "
        "arguments, or a dictionary of keyword arguments"
    )


@contextmanager
def undisturbed(model: torch.nn.Module) -> Iterator[None]:
    """Random numbers and buffers are afterwards what they were."""
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    devices = {tensor.device for tensor in (*model.parameters(), *(buffer for buffer, _ in buffers))}
    try:
        with torch.random.fork_rng([device for device in devices if device.type == "cuda"]):
            yield
    finally:
        with torch.no_grad():
            for buffer, value in buffers:
                if not torch.equal(buffer, value):
                    buffer.copy_(value)


def keep_what_is_faster(model: torch.nn.Module, call: Call, before: list[Any], tune: bool) -> Report:
    """Of a model whose layers were swapped: compares its outputs with those before, measures, and swaps back what is
    not faster."""
    report = Report()
    _compare(before, run(model, call))
    if any(isinstance(module, Conv2d) for module in swapped(model)) and _lay_out_if_faster(
        model, call, before
    ):
        report.memory_format = "channels_last"
    if tune:
        _tune(model, call)
        _compare(before, run(model, call))
    slower = _measure_layers(model, call, report)
    for module in slower:
        swap_back(module)
    if slower:
        _compare(before, run(model, call))
    _compare_speed(model, call, report)
    return report


def _lay_out_if_faster(model: torch.nn.Module, call: Call, before: list[Any]) -> bool:
    """Lays the convolutions' weights out in channels_last where the model is faster so and its outputs are the same."""
    lay_out(model)
    same = _is_same(model, call, before)
    seconds: dict[bool, list[float]] = {False: [], True: []}
    for last in (True, False, True, False) if same else ():  # taking turns, as other work comes and goes
        (lay_out if last else lay_back)(model)
        with undisturbed(model):
            seconds[last].append(_seconds(lambda: call(model), 2))
    faster = same and min(seconds[True]) < min(seconds[False])
    (lay_out if faster else lay_back)(model)
    return faster


def _is_same(model: torch.nn.Module, call: Call, before: list[Any]) -> bool:
    """Whether the model runs, and its outputs are what they were, strides included."""
    try:
        outputs = run(model, call)
        _compare(before, outputs)
    except (RuntimeError, ArgumentError):  # a view of what is laid out otherwise
        return False
    return all(
        _walk(old) == _walk(new)
        for old, new in zip(before, outputs, strict=True)
        if isinstance(old, Tensor) and isinstance(new, Tensor)
    )


def _walk(tensor: Tensor) -> list[tuple[int, int]]:
    return [(size, step) for size, step in zip(tensor.shape, tensor.stride(), strict=True) if size > 1]


def _tune(model: torch.nn.Module, call: Call) -> None:
    from tilewright.tuning import tune

    with undisturbed(model):
        tune(lambda: call(model))


# --- outputs ------------------------------------------------------------------------------------------------------


def run(model: torch.nn.Module, call: Call) -> list[Any]:
    """The model's outputs, in a row."""
    with undisturbed(model):
        return pytree.tree_leaves(call(model))


def _compare(old: list[Any], new: list[Any]) -> None:
    """Raises unless outputs are equal but for rounding."""
    if len(old) != len(new):
        raise ArgumentError(
            f"accelerate: the model returns {len(new)} outputs; expected {len(old)} as before"
        )
    for index, (one, other) in enumerate(zip(old, new, strict=True)):
        if not isinstance(one, Tensor) or not isinstance(other, Tensor):
            continue
        reason = _difference(one, other)
        if reason is not None:
            raise ArgumentError(
                f"accelerate: output {index} of the model {reason}; the model is left as it was; please report this"
            )


def _difference(old: Tensor, new: Tensor) -> str | None:
    if old.shape != new.shape or old.dtype != new.dtype:
        return f"is {new.dtype} of shape {tuple(new.shape)}; expected {old.dtype} of {tuple(old.shape)}"
    if old.numel() == 0:
        return None
    if not old.is_floating_point():
        share = float((old != new).double().mean())
        return f"differs in {share:.1%} of its elements" if share > _ODD_SHARE else None
    finite = old.isfinite()
    if not torch.equal(finite, new.isfinite()):
        return "has NaN or infinities in other places"
    if not bool(finite.any()):
        return None
    error = float((old.double() - new.double())[finite].abs().max())
    most = float(old.double()[finite].abs().max())
    allowed = _TOLERANCES.get(old.dtype, 1e-4) * most
    return f"differs by {error:.3g}; expected at most {allowed:.3g}" if error > allowed else None


# --- time ---------------------------------------------------------------------------------------------------------


def _seconds(run: Callable[[], Any], rounds: int) -> float:
    """Of one call, after two that are not counted."""
    run()
    run()
    return min(_sample(run, 1) for _ in range(rounds))


def _sample(run: Callable[[], Any], calls: int) -> float:
    begin = time.perf_counter()
    for _ in range(calls):
        run()
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return (time.perf_counter() - begin) / calls


def _race(old: Callable[[], Any], new: Callable[[], Any], most_seconds: float) -> Gain:
    """Both take turns; each sample has a call before it that is not counted."""
    once = []
    for runner in (old, new):
        runner()
        runner()
        once.append(max(_sample(runner, 1), 1e-7))
    calls = [max(1, min(100, int(_SAMPLE_SECONDS / seconds))) for seconds in once]
    round_seconds = sum(seconds * (count + 1) for seconds, count in zip(once, calls, strict=True))
    gain = Gain([], [])
    for _ in range(max(3, min(_ROUNDS, int(most_seconds / round_seconds)))):
        for runner, count, samples in ((old, calls[0], gain.old), (new, calls[1], gain.new)):
            runner()
            samples.append(_sample(runner, count))
    return gain


def _measure_layers(model: torch.nn.Module, call: Call, report: Report) -> list[torch.nn.Module]:
    """Times every layer against the original on inputs like its own; returns those that are not faster."""
    sizes = _sizes(model, call)
    names, chains = names_of(model), chains_of(model)
    known: dict[Any, Gain] = {}
    slower: list[torch.nn.Module] = []
    for layer in list(swapped(model)):
        if not is_accelerated(layer):
            continue
        if layer not in sizes:
            report.entries.append(Entry(names[layer], "", None, None, "not called with example_inputs"))
            continue
        found = chains.get(layer, [()])
        chain = found[0] if len(found) == 1 else ()
        key = (sizes[layer], repr(layer), _layout(layer), tuple(map(repr, chain)))
        if key not in known:
            known[key] = _gain(layer, chain, sizes[layer])
            if known[key].slower:  # a second time too, or it was other work on the machine
                known[key] = max(known[key], _gain(layer, chain, sizes[layer]), key=lambda gain: gain.ratio)
        entry = Entry(names[layer], "", None, known[key].ratio)
        if known[key].slower:
            slower.append(layer)
            entry.note = "torch's own was measured to be faster"
        report.entries.append(entry)
    return slower


def _layout(layer: Any) -> Any:
    weight = weight_of(layer)
    return weight.shape, weight.stride(), weight.dtype, layer.training


def _sizes(model: torch.nn.Module, call: Call) -> dict[torch.nn.Module, Size]:
    """What each layer is called with first."""
    found: dict[torch.nn.Module, Size] = {}

    def note(module: torch.nn.Module, args: tuple[Any, ...]) -> None:
        x = args[0] if args else None
        if module not in found and type(x) is Tensor and x.layout is torch.strided:
            found[module] = Size(tuple(x.shape), x.stride(), x.dtype, x.device)

    handles = [module.register_forward_pre_hook(note) for module in swapped(model) if is_accelerated(module)]
    try:
        with undisturbed(model):
            call(model)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _gain(layer: PackedLayer, chain: tuple[Any, ...], size: Size) -> Gain:
    x = size.random()
    # Copies: the layer's own weight must be held by nobody else to be packed.
    original, *others = copy.deepcopy([layer, *chain])
    for module in (original, *others):
        swap_back(module)

    def old() -> Any:
        y = original(x)
        for other in others:
            y = other(y)
        return y

    def new() -> Any:
        y = layer._fused(x, chain) if chain and isinstance(layer, Fused) and layer._infers(x, None) else None
        if y is None:
            y = layer(x)
            for module in chain:
                y = module(y)
        return y

    with torch.no_grad():
        return _race(old, new, 0.5)


def _compare_speed(model: torch.nn.Module, call: Call, report: Report) -> None:
    """Times the whole model before and after, taking turns; swaps everything back where that is no gain."""
    original = copy.deepcopy(model)
    for module in list(swapped(original)):
        swap_back(module)
    with undisturbed(model), undisturbed(original):
        gain = _race(lambda: call(original), lambda: call(model), _MOST_SECONDS)
        if gain.slower:
            again = _race(lambda: call(original), lambda: call(model), _MOST_SECONDS)
            gain = max(gain, again, key=lambda gain: gain.ratio)
    report.seconds_before, report.seconds_after = gain.seconds
    if gain.slower:
        for module in list(swapped(model)):
            swap_back(module)
        report.memory_format = "as it was"
        for entry in report.entries:
            entry.note = entry.note or "the model as a whole was measured to be slower"
        report.notes.append("Nothing was kept: the model as a whole was measured to be no faster.")
        report.seconds_after = report.seconds_before
