"""The ways to run a model: torch's and ONNX Runtime's, and tilewright's.

Each builder returns what runs the model on a set of inputs. Whoever compiles does so in the first call.
"""

from __future__ import annotations

import copy
import gc
import importlib.util
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import tilewright
from tilewright import dispatch, settings, tuner
from tilewright.benchmark.contenders import (
    COMPILED,
    CompileBudget,
    Doing,
    silently,
    try_compiled,
)
from tilewright.benchmark.models.subject import ModelSubject
from tilewright.benchmark.operands import Lineup
from tilewright.benchmark.results import OURS
from tilewright.benchmark.timing import Contender, first_line

EAGER, EAGER_LAST = "torch eager", "torch eager channels_last"
FROZEN, AUTOTUNED = "torch.compile freezing", "torch.compile max-autotune"
RUNTIME = "ONNX Runtime"
ACCELERATED = f"{OURS} accelerate"
ACCELERATED_TF32 = f"{ACCELERATED} tf32"
"""The same where ``options(precision="tf32")`` admits Winograd's convolution."""

BACKEND, BACKEND_FROZEN = f"{OURS} compile", f"{OURS} compile freeze"

Run = Callable[[int], Tensor]


def _eager(subject: ModelSubject) -> Run:
    return lambda index: subject.call(subject.model, subject.inputs[index])


def _eager_last(subject: ModelSubject) -> Run:
    with torch.inference_mode(False):
        model = _in_channels_last(subject.model)
        inputs = [[x.contiguous(memory_format=torch.channels_last) for x in each] for each in subject.inputs]
    return lambda index: subject.call(model, inputs[index])


def _in_channels_last(model: nn.Module) -> nn.Module:
    """A copy."""
    return copy.deepcopy(model).to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def _compiled(subject: ModelSubject, **how: Any) -> Run:
    model = torch.compile(subject.model, dynamic=False, **how)
    return lambda index: subject.call(model, subject.inputs[index])


def _frozen(subject: ModelSubject) -> Run:
    """Inductor with the weights as constants, which it lays out for oneDNN: what it can do for inference."""
    from torch._inductor import config

    run = _compiled(subject, options={"freezing": True})
    # Dynamo, too, asks whether parameters are constants, and sees no options.
    with config.patch(freezing=True), torch.no_grad():
        run(0)
    return run


def _autotuned(subject: ModelSubject) -> Run:
    return _compiled(subject, mode="max-autotune")


def _runtime(subject: ModelSubject) -> Run:
    """ONNX Runtime on as many threads as torch, which do not spin between the calls, in other contenders' time."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.add_session_config_entry("session.force_spinning_stop", "1")
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode(False), torch.no_grad():
        path = Path(folder) / "model.onnx"
        with _quiet():
            program = torch.onnx.export(subject.model, subject.inputs[0], dynamo=True, verbose=False)
        assert program is not None
        program.save(path)
        del program
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [given.name for given in session.get_inputs()]
    feeds = [dict(zip(names, (x.numpy() for x in inputs), strict=True)) for inputs in subject.inputs]

    def run(index: int) -> Tensor:
        return torch.from_numpy(session.run(None, feeds[index])[0])

    return run


@contextmanager
def _quiet() -> Iterator[None]:
    """torch's exporter warns of its own deprecations, and of packages that no model here needs."""
    ambient = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(ambient)


class _Accelerated:
    """The model with tilewright's layers where they are faster for these inputs, tuned first where that was asked for.

    Which memory format the weights are in, `accelerate` finds out; both are tuned.
    """

    def __init__(self, subject: ModelSubject) -> None:
        self._subject = subject
        with torch.inference_mode(False), torch.no_grad():
            if subject.settings.tune_budget_s is not None:
                _tune_accelerated(subject, subject.model)
                if subject.images:
                    _tune_accelerated(subject, _in_channels_last(subject.model))
            self._model = tilewright.accelerate(subject.model, subject.inputs[0])

    def __call__(self, index: int) -> Tensor:
        return self._subject.call(self._model, self._subject.inputs[index])

    @property
    def detail(self) -> str:
        report: Any = self._model.tilewright_report
        return str(report.summary())


def _tune_accelerated(subject: ModelSubject, model: nn.Module) -> None:
    fast = tilewright.accelerate(model)
    _tune(subject, lambda: fast(*subject.inputs[0]))


def _tune(subject: ModelSubject, call: Callable[[], Any]) -> None:
    """Tunes the problems that a call poses, but for those that were tuned for this model already."""
    dispatch.forget()
    with tuner.recording() as posed:
        call()
    fresh = [problem for problem in posed if problem not in subject.tuned]
    try:
        tuner.tune_problems(fresh, budget_s=subject.settings.tune_budget_s, progress=False)
    finally:
        dispatch.forget()
    subject.tuned.update(fresh)


def _backend(subject: ModelSubject, **options: Any) -> Run:
    if subject.settings.tune_budget_s is not None:
        # What is fused depends on what was measured: everything that may be fused is tuned beforehand, in graphs whose
        # rest nobody compiles.
        everything = {**options, "fuse": "always", "rest": "eager"}
        rough = _compiled(subject, backend="tilewright", options=everything)
        rough(0)
        _tune(subject, lambda: rough(0))
    run = _compiled(subject, backend="tilewright", options=options)
    run(0)
    if subject.settings.tune_budget_s is not None:
        _tune(subject, lambda: run(0))
    return run


def _backend_frozen(subject: ModelSubject) -> Run:
    return _backend(subject, freeze=True)


BUILDERS: dict[str, Callable[[ModelSubject], Run]] = {
    EAGER: _eager,
    EAGER_LAST: _eager_last,
    COMPILED: _compiled,
    FROZEN: _frozen,
    AUTOTUNED: _autotuned,
    RUNTIME: _runtime,
    ACCELERATED: _Accelerated,
    ACCELERATED_TF32: _Accelerated,
    BACKEND: _backend,
    BACKEND_FROZEN: _backend_frozen,
}
"""Contender to what makes it."""

_SCOPES: dict[str, tuple[Callable[[], AbstractContextManager[Any]], str]] = {
    ACCELERATED_TF32: (partial(settings.options, precision="tf32"), "tf32"),
}
"""The options that a contender is built and runs under, and the precision that it is judged by."""

_COMPILING = (COMPILED, FROZEN, AUTOTUNED, BACKEND, BACKEND_FROZEN)
_ONNX = ("onnx", "onnxscript", "onnxruntime")


def lineup(
    subject: ModelSubject,
    /,
    *,
    backends: Sequence[str] | None = None,
    compile_budget: CompileBudget | None = None,
    doing: Doing = silently,
) -> Lineup:
    """Everybody who can run the model. `compile_budget` None leaves those out that compile."""
    found = Lineup()
    # Compiled code is kept per code object, a few versions at most: each model starts afresh, without the last one's
    # weights in memory.
    torch._dynamo.reset()
    gc.collect()
    for name in BUILDERS:
        if subject.settings.contenders is not None and name not in subject.settings.contenders:
            continue
        reason = _left_out(subject, name, compile_budget)
        if reason is not None:
            found.absent[name] = reason
            continue
        doing(name)
        if name in _COMPILING:
            assert compile_budget is not None
            try_compiled(found, name, _Lazy(subject, name), subject.device, compile_budget)
        else:
            try:
                scope, precision = _SCOPES.get(name, (nullcontext, subject.settings.precision))
                with scope():
                    run = BUILDERS[name](subject)
                found.contenders.append(Contender(name, run, scope))
                found.precisions[name] = precision
                detail = getattr(run, "detail", "")
                found.details[name] = f"tf32: {detail}" if precision == "tf32" else detail
            except Exception as error:
                found.absent[name] = f"{type(error).__name__}: {first_line(error)}"
    return found


def _left_out(subject: ModelSubject, name: str, compile_budget: CompileBudget | None) -> str | None:
    """Why a contender does not even try."""
    if name == AUTOTUNED and not subject.settings.autotune:
        return "was not asked for (--max-autotune)"
    if name in (EAGER_LAST, ACCELERATED_TF32) and not subject.images:
        return "the inputs are no images"
    if name in _COMPILING and compile_budget is None:
        return "there was no time to compile (--compile-budget-s)"
    missing = [module for module in _ONNX if importlib.util.find_spec(module) is None]
    if name == RUNTIME and missing:
        return f"{', '.join(missing)} not installed"
    return None


class _Lazy:
    """A contender that is built in its first call."""

    def __init__(self, subject: ModelSubject, name: str) -> None:
        self._subject, self._name = subject, name
        self._run: Run | None = None

    def __call__(self, index: int) -> Tensor:
        if self._run is None:
            self._run = BUILDERS[self._name](self._subject)
        return self._run(index)
