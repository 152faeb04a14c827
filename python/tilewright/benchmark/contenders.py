"""The ways to compute one thing: all that torch offers, and tilewright chosen, packed, and by backend."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from tilewright import dispatch, settings
from tilewright.benchmark.operands import Lineup, Operands
from tilewright.benchmark.results import OURS, PACKED, PACKED_TF32
from tilewright.benchmark.timing import Contender, first_line
from tilewright.errors import Error
from tilewright.kernels import registry

COMPILED = "torch.compile"


@dataclass(slots=True)
class CompileBudget:
    """Seconds that torch.compile may still take; compilation on a small machine takes longer than timing."""

    left: float


Doing = Callable[[str], None]
"""Is told what takes long."""


def silently(what: str) -> None:
    """For whoever has nobody to tell."""


class Line(Protocol):
    """Who competes on one subject: as `lineup`."""

    def __call__(
        self,
        subject: Any,
        /,
        *,
        backends: Sequence[str] | None = None,
        compile_budget: CompileBudget | None = None,
        doing: Doing = silently,
    ) -> Lineup: ...


def lineup(
    operands: Operands[Any],
    /,
    *,
    backends: Sequence[str] | None = None,
    compile_budget: CompileBudget | None = None,
    torch_contenders: bool = True,
    doing: Doing = silently,
) -> Lineup:
    """Everybody who can compute it. `compile_budget` None leaves torch.compile out."""
    found = Lineup()
    if torch_contenders:
        found.contenders += operands.eager()
        operands.add_vendor(found)
        if compile_budget is not None:
            doing(COMPILED)
            _add_compiled(operands, found, compile_budget)
    folder = _add_ours(operands, found, OURS, nullcontext)
    for name, call, problem in operands.also():
        _add(found, name, call, nullcontext, problem)
    if operands.device.type == "cpu":
        _add_packed(operands, found, PACKED, nullcontext)
        if operands.settings.precision == "ieee":
            _add_packed_tf32(operands, found)
    names = registry.backends(folder) if backends is None else backends
    for name in names:
        if name != "reference":  # the float64 oracle is no contender
            scope = partial(settings.options, backend=name, strict=True)
            _add_ours(operands, found, f"{OURS} {name}", scope)
    return found


Scope = Callable[[], AbstractContextManager[Any]]


def _add_ours(operands: Operands[Any], found: Lineup, name: str, scope: Scope) -> str:
    """Adds the public function, and returns the kernel folder that serves it."""
    _add(found, name, operands.call, scope, operands.problem)
    return operands.problem()[0]


def _add(
    found: Lineup,
    name: str,
    call: Callable[[int], Tensor],
    scope: Scope,
    problem: Callable[[], tuple[str, Any]],
) -> None:
    try:
        with scope():
            choice = dispatch.choose(*problem(), settings.current())
    except Error as error:
        found.absent[name] = first_line(error)
        return
    found.contenders.append(Contender(name, call, scope))
    found.details[name] = f"{choice.backend}: {choice.config} [{choice.source}]"


def _add_packed(operands: Operands[Any], found: Lineup, name: str, scope: Scope) -> None:
    # Tensors made in inference mode would not be packed.
    with torch.inference_mode(False), torch.no_grad(), scope():
        try:
            made: list[Any] | None = operands.layers()
            if made is None:
                return
            layers = [layer.eval() for layer in made]
            for index, layer in enumerate(layers):
                layer.pack(operands.layer_arguments(index)[0])
            found_problem = layers[0].problem(*operands.layer_arguments(0))
        except Error as error:
            found.absent[name] = first_line(error)
            return

    def run(index: int) -> Tensor:
        y: Tensor = layers[index](*operands.layer_arguments(index))
        return y

    _add(found, name, run, scope, lambda: found_problem)


def _add_packed_tf32(operands: Operands[Any], found: Lineup) -> None:
    """The packed layer once more, where ``precision="tf32"`` admits kernels that are not there without it."""
    scope = partial(settings.options, precision="tf32")
    folder, strict = operands.problem()
    with scope():
        loose = operands.problem()[1]
    if admits_more(folder, loose, strict):
        _add_packed(operands, found, PACKED_TF32, scope)
        found.precisions[PACKED_TF32] = "tf32"


def admits_more(folder: str, loose: Any, strict: Any) -> bool:
    """Whether some backend that is here has a config for one problem that it has not for the other."""
    if loose == strict:
        return False
    spec = dispatch.device_of(strict)
    present = (registry.backend(folder, name) for name in registry.backends(folder))
    return any(
        _runnable(backend, loose, spec) - _runnable(backend, strict, spec)
        for backend in present
        if backend.absent(spec.kind) is None
    )


def _runnable(backend: Any, problem: Any, spec: Any) -> set[Any]:
    configs = backend.configs(problem, spec)
    return {config for config in configs if backend.rejects(config, problem, spec) is None}


def cannot_compile(device: torch.device) -> str | None:
    """Why torch.compile cannot work here, where that is plain without trying."""
    if device.type == "cpu" and not any(shutil.which(name) for name in ("g++", "clang++", "c++")):
        return "torch.compile needs a C++ compiler for the CPU, and there is none on PATH"
    return None


def _add_compiled(operands: Operands[Any], found: Lineup, budget: CompileBudget) -> None:
    given = operands.compiled()
    if isinstance(given, str):
        found.absent[COMPILED] = given
        return
    function, arguments = given
    # Compiled code is kept per code object, a few versions at most: each shape starts afresh.
    torch._dynamo.reset()
    mode = "max-autotune-no-cudagraphs" if operands.device.type == "cuda" else "default"
    compiled = torch.compile(function, dynamic=False, mode=mode)

    def run(index: int) -> Tensor:
        y: Tensor = compiled(*arguments(index))
        return y

    if not try_compiled(found, COMPILED, run, operands.device, budget):
        # What fails once fails again: a missing header, an unsupported Python.
        budget.left = 0.0


def try_compiled(
    found: Lineup, name: str, run: Callable[[int], Any], device: torch.device, budget: CompileBudget
) -> bool:
    """Adds what compiles in its first call, which counts on the budget; the reason why not, where it cannot."""
    reason = cannot_compile(device)
    if reason is None and budget.left <= 0:
        reason = "the time for torch.compile was spent on other shapes"
    if reason is not None:
        found.absent[name] = reason
        return True
    began = time.perf_counter()
    try:
        run(0)
    except Exception as error:
        found.absent[name] = f"{type(error).__name__}: {first_line(error)}"
        return False
    finally:
        budget.left -= time.perf_counter() - began
    found.contenders.append(Contender(name, run))
    return True


def graphed(contender: Contender, sets: int) -> Contender:
    """The contender's calls captured in a CUDA graph: its time on the device, without Python's."""
    calls = max(sets, 8)
    with contender.scope():
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for index in range(min(sets, 3)):
                contender.run(index)
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for call in range(calls):
                contender.run(call % sets)
    return Contender(contender.name, lambda index: graph.replay(), calls_per_run=calls)
