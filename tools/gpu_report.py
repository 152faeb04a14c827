"""The Markdown of ``gpu_check.py``'s results. Needs the standard library alone."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

_OURS = ("tilewright", "tilewright triton", "tilewright cuda")
"""Shown beside whatever torch offers."""

_FORMULAS = {"matmul": "x·Wᵀ", "conv2d": "conv2d(x, W)"}


def write_atomically(path: Path, text: str) -> None:
    """A reader, or a kill in between, finds the old file or the new one."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def markdown(results: dict[str, Any]) -> str:
    lines = ["# GPU check", ""]
    runs = results.get("runs", {})
    if runs:
        lines += _environment(next(iter(runs.values())))
    lines += ["| step | outcome | seconds | |", "|---|---|---|---|"]
    for step in results.get("steps", []):
        lines.append(f"| {step['name']} | {step['outcome']} | {step['seconds']} | {_cell(step['detail'])} |")
    lines.append("")
    for step in results.get("steps", []):
        failures = step["facts"].get("failures") or []
        lines += [f"- failed: `{name}`" for name in failures]
    for name, run in runs.items():
        lines += _run(name, run)
    failures = results.get("failures", {})
    if failures:
        lines += ["", "## What could not be measured", ""]
        lines += [f"- {name}: {reason}" for name, reason in failures.items()]
    wrong = results.get("wrong", [])
    if wrong:
        lines += ["", "## Wrong results", "", *[f"- {line}" for line in wrong]]
    return "\n".join(lines).rstrip() + "\n"


def _environment(run: dict[str, Any]) -> list[str]:
    where = run["environment"]
    versions = ", ".join(f"{name} {version}" for name, version in where["versions"].items() if version)
    return [
        f"{where['device']} ({where['arch']}, driver {where['driver'] or 'unknown'}), CPU {where['cpu']}; {versions}; "
        f"commit {where['commit'] or 'unknown'}; {where['date']}.",
        "",
    ]


def _run(name: str, run: dict[str, Any]) -> list[str]:
    ceiling, settings = run["ceiling"], run["settings"]
    timing = (
        "replayed CUDA graphs" if settings["device"] != "cpu" and settings["graphs"] else "calls from Python"
    )
    warning = " **Some results beat this peak: the probes were disturbed.**" if ceiling["disturbed"] else ""
    lines = [
        "",
        f"## {name}: y = {settings['activation']}({_FORMULAS[settings['operation']]} + bias), {settings['layout']}",
        "",
        f"Ceiling {ceiling['flops'] / 1e12:.4g} TFLOP/s and {ceiling['bandwidth'] / 1e12:.3g} TB/s ({ceiling['how']}). "
        f"Times are medians in µs of {timing}; roofline is tilewright's share of the ceiling.{warning}",
        "",
    ]
    lines += [
        f"- {contender} {summary['geomean']:.3f}× {summary['against']} over {summary['shapes']} shapes "
        f"(p10 {summary['p10']:.3f}, worst {summary['worst']:.3f} at {summary['worst_shape']})"
        for contender, summaries in run["summaries"].items()
        for summary in summaries
    ]
    chosen = ", ".join(f"{backend} {count}" for backend, count in sorted(run["choices"].items()))
    lines += [f"- chosen: {chosen}", ""]
    present = {entry["contender"] for shape in run["shapes"] for entry in shape["entries"]}
    columns = [column for column in (*run["torch"], *_OURS) if column in present]
    lines.append(f"| shape | {' | '.join(columns)} | roofline | x best | kernel |")
    lines.append("|---" * (len(columns) + 4) + "|")
    for shape in run["shapes"]:
        lines.append(_row(shape, columns, run["torch"]))
    absent = {name: why for shape in run["shapes"] for name, why in shape["absent"].items()}
    lines += ["", *[f"- {name} left out: {why}" for name, why in absent.items()]]
    return lines


def _row(result: dict[str, Any], columns: list[str], torch_names: list[str]) -> str:
    entries = {entry["contender"]: entry for entry in result["entries"]}
    cells = [result["label"] + ("" if result["steady"] else " (unsteady)")]
    for column in columns:
        entry = entries.get(column)
        mark = "" if entry is None or entry["right"] else " WRONG"
        cells.append("-" if entry is None else f"{entry['p50'] * 1e6:.2f}{mark}")
    ours = entries.get("tilewright")
    theirs = [entries[name]["p50"] for name in torch_names if name in entries and entries[name]["right"]]
    cells.append("-" if ours is None else f"{ours['roofline']:.0%}")
    cells.append(f"{min(theirs) / ours['p50']:.2f}" if ours is not None and theirs else "-")
    cells.append(_cell(ours["detail"]) if ours is not None else "-")
    return f"| {' | '.join(cells)} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
