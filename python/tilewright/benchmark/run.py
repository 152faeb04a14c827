"""Goes through a list of shapes: every contender proved against float64, then raced."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import torch

from tilewright.benchmark.accuracy import Judge, judge
from tilewright.benchmark.ceiling import measure_ceiling
from tilewright.benchmark.contenders import (
    EAGER,
    TORCH,
    CompileBudget,
    Layout,
    Lineup,
    Operands,
    graphed,
    lineup,
)
from tilewright.benchmark.environment import environment
from tilewright.benchmark.results import OURS, Entry, Report, ShapeResult
from tilewright.benchmark.shapes import Shape
from tilewright.benchmark.timing import Contender, clock_for, first_line, race
from tilewright.errors import DeviceError
from tilewright.kernels.dtypes import DTYPE_NAMES
from tilewright.tuner import device as devices
from tilewright.tuner.timing import make_anchor

_SHORT_PROBE_S = 0.05


@dataclass(frozen=True, slots=True)
class Settings:
    """What is measured and how long. `budget_s` is the time for the rounds of one shape."""

    dtype: torch.dtype = torch.float32
    device: str = "cpu"
    layout: Layout = "linear"
    bias: bool = True
    activation: str = "none"
    threads: int | None = None
    precision: str = "ieee"  # fp32 on GPUs: ieee or tf32, for torch and for us
    compile_budget_s: float = 60.0  # 0 leaves torch.compile out
    budget_s: float = 1.0
    rounds: tuple[int, int] = (5, 50)
    backends: tuple[str, ...] | None = None  # the backends shown separately; None for all
    graphs: bool = True  # GPUs: time replayed CUDA graphs, so that Python's share is not measured

    def describe(self) -> dict[str, object]:
        return {**asdict(self), "dtype": DTYPE_NAMES[self.dtype]}


Progress = Callable[[Shape, int], None]
"""Called with the shape at hand and how many are done before it starts."""


def run(
    shapes: Sequence[Shape],
    settings: Settings,
    *,
    before: Progress | None = None,
    after: Callable[[Report], None] | None = None,
    failed: Callable[[Shape, Exception], None] | None = None,
) -> Report:
    """Measures every shape. `after` sees the report grow, so that an interrupted run keeps what it has.

    A shape that raises ends the run, or with `failed` is handed to it and left out.

    Raises:
        DeviceError: there is no such device.
    """
    device = torch.device(settings.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise DeviceError(
            "bench: device is cuda, but torch sees no CUDA device; use --device cpu, or a machine with a GPU"
        )
    with _threads(settings.threads), _precision(settings.precision, device), torch.inference_mode():
        threads = torch.get_num_threads()
        spec = devices.current("cuda" if device.type == "cuda" else "cpu", device.index or 0)
        llc = spec.llc_bytes
        ceiling = measure_ceiling(device, settings.dtype, threads=threads, llc_bytes=llc)
        report = Report(
            environment=environment(device, threads=threads),
            settings=settings.describe(),
            ceiling=asdict(ceiling),
            baseline=EAGER[settings.layout],
            torch=TORCH,
        )
        probe = make_anchor(spec)
        budget = CompileBudget(settings.compile_budget_s) if settings.compile_budget_s > 0 else None
        for done, shape in enumerate(shapes):
            try:
                if before is not None:
                    before(shape, done)
                report.shapes.append(_shape(shape, settings, device, llc, probe, budget))
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


def _shape(
    shape: Shape,
    settings: Settings,
    device: torch.device,
    llc_bytes: int,
    probe: Callable[[], float],
    budget: CompileBudget | None,
) -> ShapeResult:
    operands = Operands(
        shape,
        settings.layout,
        settings.dtype,
        device,
        settings.bias,
        settings.activation,
        llc_bytes,
    )
    problem = operands.problem()
    field = lineup(operands, backends=settings.backends, compile_budget=budget)
    referee = judge(problem, operands.x[0], operands.as_matmul[0], operands.biases[0], settings.activation)
    verdicts = _verdicts(field, referee)
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
                flops_per_second=problem.flops() / timing.p50,
                error=error,
                right=right,
                detail=field.details.get(name, ""),
            )
        )
    return ShapeResult(
        shape=shape,
        problem=problem.describe(),
        flops=problem.flops(),
        bytes=problem.bytes(),
        entries=tuple(entries),
        absent={**field.absent, **outcome.failures},
        choice=field.details.get(OURS, ""),
        rounds=outcome.rounds,
        repeated=outcome.repeated,
        steady=outcome.steady,
    )


def _verdicts(field: Lineup, referee: Judge) -> dict[str, tuple[float, bool]]:
    """Error and verdict of each contender; one that cannot run leaves the field with its reason."""
    results = {}
    for contender in list(field.contenders):
        try:
            with contender.scope():
                results[contender.name] = contender.run(0)
        except Exception as error:
            field.absent[contender.name] = f"{type(error).__name__}: {first_line(error)}"
            field.contenders.remove(contender)
    return {name: referee.error(y) for name, y in results.items()}


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
def _precision(precision: str, device: torch.device) -> Iterator[None]:
    """fp32 precision of products on GPUs, for torch; tilewright follows torch's setting."""
    if device.type != "cuda":
        yield
        return
    matmul = torch.backends.cuda.matmul
    ambient = matmul.fp32_precision
    matmul.fp32_precision = precision
    try:
        yield
    finally:
        matmul.fp32_precision = ambient
