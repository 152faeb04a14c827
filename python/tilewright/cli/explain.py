"""``tilewright explain matmul``: which kernel a problem would run, here or on a GPU that is not here."""

from __future__ import annotations

import json as jsonlib
from typing import Annotated, Any, cast

import typer

from tilewright.benchmark.contenders import Layout
from tilewright.benchmark.run import Settings
from tilewright.cli import arguments
from tilewright.cli.problems import on_other_device, problem_of
from tilewright.errors import ArgumentError
from tilewright.explain import Explanation, explain_problem
from tilewright.kernels import registry
from tilewright.kernels.interface import DeviceSpec
from tilewright.tuner import Candidate, Choice, cost_model
from tilewright.tuner import device as devices


def explain_matmul(
    m: Annotated[int, typer.Option(min=0, help="Rows of the input.")],
    n: Annotated[int, typer.Option(min=0, help="Output features.")],
    k: Annotated[int, typer.Option(min=0, help="Input features.")],
    dtype: arguments.DtypeOption = "f32",
    activation: arguments.ActivationOption = "none",
    bias: arguments.BiasOption = True,
    layout: arguments.LayoutOption = "linear",
    device: Annotated[
        str, typer.Option(help=f"cpu, cuda, or by data sheet: {', '.join(devices.BUILTIN)}.")
    ] = "cpu",
    precision: Annotated[str, typer.Option(help="fp32 on GPUs: ieee or tf32.")] = "ieee",
    threads: arguments.ThreadsOption = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Say which kernel runs a problem, where that choice comes from, and why each other one was not taken.

    Runs and measures nothing.
    """
    if device not in ("cpu", "cuda", *devices.BUILTIN):
        raise ArgumentError(f"--device is {device!r}; expected cpu, cuda, {', '.join(devices.BUILTIN)}")
    if precision not in ("ieee", "tf32"):
        raise ArgumentError(f"--precision is {precision!r}; expected ieee or tf32")
    shape = arguments.shapes("", m, n, k, smallest=0)[0]
    here = device in ("cpu", "cuda")
    settings = Settings(
        dtype=arguments.dtype(dtype),
        device=device if here else "cpu",
        layout=cast(Layout, arguments.layout(layout)),
        bias=bias,
        activation=arguments.activation(activation),
        precision=precision,
    )
    if device == "cuda":
        devices.current("cuda")  # says so if there is none
    with arguments.threads(threads):
        operation, problem = problem_of(shape, settings)
    if here:
        explanation = explain_problem(
            operation, problem, devices.current("cuda" if device == "cuda" else "cpu")
        )
    else:
        spec = devices.builtin(device)
        explanation = explain_elsewhere(operation, on_other_device(problem, precision=precision), spec)
    if json:
        typer.echo(jsonlib.dumps(explanation.to_dict(), indent=1, default=str))
    else:
        typer.echo(str(explanation))


def explain_elsewhere(operation: str, problem: Any, device: DeviceSpec) -> Explanation:
    """What an untuned tilewright would choose on a machine with this device and every backend for it."""
    ranked: list[tuple[float, str, Any]] = []
    refused: list[Candidate] = []
    for name in registry.backends(operation):
        backend = registry.backend(operation, name)
        configs = list(backend.configs(problem, device))
        if not configs:
            refused.append(Candidate(name, None, None, None, False, "has no config that runs it there"))
        for config in configs:
            reason = backend.rejects(config, problem, device)
            if reason is None:
                seconds = cost_model.expected_seconds(operation, name, config, problem, device)
                ranked.append((seconds, name, config))
            else:
                refused.append(Candidate(name, config, None, None, False, reason))
    if not ranked:
        raise ArgumentError(f"explain: nothing runs {problem.describe()} on {device.name}")
    ranked.sort(key=lambda entry: entry[0])
    last_resort = cost_model.UNTUNED_LAST_RESORT
    usable = [entry for entry in ranked if entry[1] != last_resort] or ranked
    best = usable[0]
    vendor = next((entry for entry in ranked if entry[1] == "aten"), None)
    detail = "by the device's data sheet, as it is not here"
    if vendor is not None and best[1] != "aten" and vendor[0] / best[0] < cost_model.MARGIN:
        best = vendor
        detail += f"; ours was not predicted to be {cost_model.MARGIN}x as fast"
    choice = Choice(best[1], best[2], "cost model", detail, best[0])
    others = [
        Candidate(
            name, config, seconds, None, False, f"predicted {seconds / best[0]:.2f}x the chosen one's time"
        )
        for seconds, name, config in ranked
        if (name, config) != (best[1], best[2])
    ]
    chosen = Candidate(best[1], best[2], best[0], None, True, "")
    return Explanation(operation, problem, device, choice, [chosen, *others, *refused])
