"""Runs the cases of ``emulator_tests`` (tests/emulator/*.cu)."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

COMPLETIONS = ("deferred", "eager", "random")


@dataclass(frozen=True)
class Outcome:
    right: bool  # the results are those a host computed
    errors: dict[str, int]  # occurrences by kind, without those that did not occur
    reports: list[dict[str, Any]]
    counters: dict[str, int]


@dataclass(frozen=True)
class Emulator:
    program: Path

    def cases(self) -> dict[str, list[str]]:
        """Mutations by case."""
        return dict(json.loads(self._call("list")))

    def run(
        self,
        case: str,
        *,
        mutation: str | None = None,
        seed: int = 0,
        seeds: int = 1,
        completion: str = "deferred",
        bank_conflicts: bool = False,
        checks: bool = True,
    ) -> Outcome:
        arguments = ["run", case, "--seed", str(seed), "--seeds", str(seeds), "--completion", completion]
        if mutation is not None:
            arguments += ["--mutation", mutation]
        if bank_conflicts:
            arguments.append("--bank-conflicts")
        if not checks:
            arguments.append("--no-checks")
        found = json.loads(self._call(*arguments))
        return Outcome(
            right=found["right"],
            errors={kind: count for kind, count in found["errors"].items() if count},
            reports=found["reports"],
            counters={name: value for name, value in found.items() if isinstance(value, int)},
        )

    def _call(self, *arguments: str) -> str:
        done = subprocess.run(
            [self.program, *arguments], capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, f"emulator_tests {' '.join(arguments)}: {done.returncode}\n{done.stderr}"
        return done.stdout
