"""Goes through a list of shapes: every contender proved against float64, then raced."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import torch

from tilewright import settings as options
from tilewright.benchmark.accuracy import Judge
from tilewright.benchmark.ceiling import measure_ceiling
from tilewright.benchmark.contenders import CompileBudget, Doing, graphed, silently
from tilewright.benchmark.environment import environment
from tilewright.benchmark.operands import Lineup, Subject
from tilewright.benchmark.results import OURS, Entry, Report, ShapeResult
from tilewright.benchmark.settings import Settings
from tilewright.benchmark.shapes import Shape
from tilewright.benchmark.suite import Suite, suite
from tilewright.benchmark.timing import Contender, clock_for, first_line, race
from tilewright.errors import DeviceError
from tilewright.tuner import device as devices
from tilewright.tuner.timing import make_anchor

_SHORT_PROBE_S = 0.05

Progress = Callable[[Shape, int], None]
"""Called with the shape at hand and how many are done before it starts."""


def run(
    shapes: Sequence[Shape],
    settings: Settings,
    *,
    benchmark: Suite[Any] | None = None,
    before: Progress | None = None,
    after: Callable[[Report], None] | None = None,
    failed: Callable[[Shape, Exception], None] | None = None,
    doing: Doing = silently,
) -> Report:
    """Measures every shape. `after` sees the report grow, so that an interrupted run keeps what it has;
    `doing` is told what takes long beside the timing. `benchmark` is that of the settings' operation.

    A shape that raises ends the run, or with `failed` is handed to it and left out.

    Raises:
        DeviceError: there is no such device.
    """
    device, benchmark = torch.device(settings.device), benchmark or suite(settings.operation)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise DeviceError(
            "bench: device is cuda, but torch sees no CUDA device; use --device cpu, or a machine with a GPU"
        )
    with _threads(settings.threads), in_precision(settings), torch.inference_mode():
        threads = torch.get_num_threads()
        spec = devices.current("cuda" if device.type == "cuda" else "cpu", device.index or 0)
        llc = spec.llc_bytes
        ceiling = measure_ceiling(device, settings.dtype, threads=threads, llc_bytes=llc)
        report = Report(
            environment=environment(device, threads=threads),
            settings=settings.describe(),
            ceiling=asdict(ceiling),
            baseline=benchmark.baseline(settings),
            eager=benchmark.eager(settings),
            torch=benchmark.torch,
            summed=benchmark.summed,
            rivals=benchmark.rivals,
        )
        probe = make_anchor(spec)
        budget = CompileBudget(settings.compile_budget_s) if settings.compile_budget_s > 0 else None
        for done, shape in enumerate(shapes):
            try:
                if before is not None:
                    before(shape, done)
                operands = benchmark.operands(shape, settings, device, llc)
                report.shapes.append(_measured(benchmark, operands, probe, budget, doing))
            except Exception as error:
                if failed is None:
                    raise
                failed(shape, error)
                continue
            # Probed along the way: a disturbance at the start must not make the ceiling too low.
            again = measure_ceiling(
                device, settings.dtype, threads=threads, llc_bytes=llc, seconds=_SHORT_PROBE_S
            )
            ceiling = ceiling.best(again)
            report.ceiling = asdict(ceiling)
            if after is not None:
                after(report)
    return report


def _measured(
    benchmark: Suite[Any],
    operands: Subject[Any],
    probe: Callable[[], float],
    budget: CompileBudget | None,
    doing: Doing = silently,
) -> ShapeResult:
    settings, device = operands.settings, operands.device
    work = operands.work()
    field = benchmark.lineup(operands, backends=settings.backends, compile_budget=budget, doing=doing)
    doing("timing")
    verdicts = _verdicts(field, operands)
    runners = field.contenders
    if device.type == "cuda" and settings.graphs:
        runners = _graphs(field, operands.sets)
    outcome = race(
        runners,
        clock=clock_for(device),
        probe=probe,
        sets=operands.sets,
        budget_s=settings.budget_s,
        rounds=settings.rounds,
        rest_s=benchmark.rest_s,
    )
    entries = []
    for name, timing in outcome.timings.items():
        error, right = verdicts[name]
        entries.append(
            Entry(
                contender=name,
                p50=timing.p50,
                p20=timing.p20,
                p80=timing.p80,
                samples=timing.samples,
                flops_per_second=work.flops() / timing.p50,
                error=error,
                right=right,
                detail=field.details.get(name, ""),
                flops_tell=operands.flops_tell(field.details.get(name, "")),
            )
        )
    return ShapeResult(
        shape=operands.shape,
        problem=work.describe(),
        flops=work.flops(),
        required_flops=operands.required_flops(),
        bytes=work.bytes(),
        entries=tuple(entries),
        absent={**field.absent, **outcome.failures},
        choice=field.details.get(OURS, ""),
        rounds=outcome.rounds,
        repeated=outcome.repeated,
        steady=outcome.steady,
    )


def _verdicts(field: Lineup, operands: Subject[Any]) -> dict[str, tuple[float, bool]]:
    """Error and verdict of each contender; one that cannot run leaves the field with its reason."""
    referees: dict[str, Judge] = {}
    verdicts = {}
    for contender in list(field.contenders):
        try:
            with contender.scope():
                result = contender.run(0)
        except Exception as error:
            field.absent[contender.name] = f"{type(error).__name__}: {first_line(error)}"
            field.contenders.remove(contender)
            continue
        precision = field.precisions.get(contender.name, operands.settings.precision)
        if precision not in referees:
            referees[precision] = operands.judge(precision)
        verdicts[contender.name] = referees[precision].error(result)
    return verdicts


def _graphs(field: Lineup, sets: int) -> list[Contender]:
    captured = []
    for contender in field.contenders:
        try:
            captured.append(graphed(contender, sets))
        except Exception as error:
            field.absent[contender.name] = f"not captured in a CUDA graph: {first_line(error)}"
            torch.cuda.synchronize()
    return captured


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    ambient = torch.get_num_threads()
    torch.set_num_threads(count or ambient)
    try:
        yield
    finally:
        torch.set_num_threads(ambient)


@contextmanager
def in_precision(settings: Settings) -> Iterator[None]:
    """fp32 arithmetic as the settings say.

    On GPUs torch is told, and tilewright follows torch's setting; cuDNN moreover searches for its fastest algorithm.
    On CPUs torch has no such setting, and tilewright is told.
    """
    if torch.device(settings.device).type != "cuda":
        given: Any = {"precision": settings.precision} if settings.precision == "tf32" else {}
        with options.options(**given):
            yield
        return
    cudnn: Any = torch.backends.cudnn
    places = torch.backends.cuda.matmul, cudnn.conv
    ambient, searching = [place.fp32_precision for place in places], cudnn.benchmark
    for place in places:
        place.fp32_precision = settings.precision
    cudnn.benchmark = True
    try:
        yield
    finally:
        cudnn.benchmark = searching
        for place, precision in zip(places, ambient, strict=True):
            place.fp32_precision = precision
