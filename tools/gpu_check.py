"""Proves and measures tilewright on a machine with a GPU: ``make gpu-check OUT=dir``.

Builds and installs the package into ``build/gpu-check-site`` (no network; the CUDA kernels too, where nvcc is), runs
the tests with the GPU's backends on, reads the machine code, runs compute-sanitizer over small launches, then tunes
and times the published lists against cuBLAS and cuDNN until the budget is spent. Needs torch, numpy, pytest and the
build's tools; anything else that is missing is skipped and named. Every step's failure is recorded and the next one
goes on; partial results are kept. At most 8 files:

    report.md results.json tuned.json tests.xml log.txt environment.txt matmul.png conv2d.png

Exit status: 0 if all is well, 1 if a step failed, 2 if there is no CUDA device (--cpu-rehearsal goes through the
same motions on the CPU with tiny shapes).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from dataclasses import asdict, dataclass, field
from pathlib import Path

import gpu_report

ROOT = Path(__file__).resolve().parents[1]
SITE = ROOT / "build" / "gpu-check-site"
_RESERVE_S = 15.0  # kept for the report


@dataclass
class Step:
    """One step: what it was, how it ended, how long it took."""

    name: str
    outcome: str = "passed"  # passed, failed, skipped
    detail: str = ""
    seconds: float = 0.0
    facts: dict[str, object] = field(default_factory=dict)


class Check:
    """Runs the steps one after the other under one budget."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.out: Path = arguments.out.resolve()
        self.out.mkdir(parents=True, exist_ok=True)
        self.log = self.out / "log.txt"
        self.log.write_text("", encoding="utf-8")
        self.deadline = time.monotonic() + arguments.budget_s
        self.steps: list[Step] = []
        self.site: str = str(ROOT / "python")
        self.rehearsal: bool = arguments.cpu_rehearsal
        self.cuda = False  # whether the CUDA kernels are built in, once that is known
        self.module = ""  # the compiled module's file
        self.commit = _commit()  # the installed package cannot ask git itself

    def left(self) -> float:
        return self.deadline - time.monotonic() - _RESERVE_S

    def environment(self) -> dict[str, str]:
        path = os.pathsep.join([self.site, *filter(None, [os.environ.get("PYTHONPATH")])])
        return {"TILEWRIGHT_COMMIT": self.commit, **os.environ, "PYTHONPATH": path}

    def run(self, command: list[str], timeout: float, cwd: Path = ROOT) -> tuple[int, str]:
        """Exit status (124: out of time) and output, which is logged, too."""
        print("$", " ".join(part if len(part) < 80 else "…" for part in command), flush=True)
        with self.log.open("a", encoding="utf-8") as log:
            log.write(f"\n$ {' '.join(command)}\n")
            log.flush()
            start = log.tell()
            process = subprocess.Popen(
                command,
                cwd=cwd,
                env=self.environment(),
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            status = _wait(process, max(timeout, 1.0))
        with self.log.open(encoding="utf-8", errors="replace") as log:
            log.seek(start)
            return status, log.read()

    def step(self, name: str, work: str) -> None:
        """Runs the method `work`; whatever it raises fails the step and not the check."""
        step = Step(name)
        began = time.monotonic()
        print(f"--- {name}", flush=True)
        try:
            if self.left() <= 0:
                step.outcome, step.detail = "skipped", "the budget was spent"
            else:
                getattr(self, work)(step)
        except Exception as error:
            step.outcome, step.detail = "failed", f"{type(error).__name__}: {error}"
        step.seconds = round(time.monotonic() - began, 1)
        self.steps.append(step)
        print(f"    {step.outcome}{': ' if step.detail else ''}{step.detail} ({step.seconds} s)", flush=True)
        self.write()

    def write(self) -> None:
        """results.json and report.md as far as things have come."""
        path = self.out / "results.json"
        results = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        results["steps"] = [asdict(step) for step in self.steps]
        gpu_report.write_atomically(path, json.dumps(results, indent=1) + "\n")
        (self.out / "report.md").write_text(gpu_report.markdown(results), encoding="utf-8")

    # The steps

    def look_around(self, step: Step) -> None:
        text = []
        for command in (
            ["nvidia-smi"],
            ["nvcc", "--version"],
            [sys.executable, "--version"],
            ["cmake", "--version"],
            ["git", "-C", str(ROOT), "rev-parse", "HEAD"],
            [sys.executable, "-m", "pip", "list", "--format=freeze"],
        ):
            if shutil.which(command[0]) is None:
                text.append(f"$ {' '.join(command)}\nnot on PATH\n")
                continue
            status, output = self.run(command, 30)
            text.append(f"$ {' '.join(command)}\n{output}" + (f"exit status {status}\n" if status else ""))
        (self.out / "environment.txt").write_text("\n".join(text), encoding="utf-8")

    def install(self, step: Step) -> None:
        if self.arguments.skip_install:
            step.outcome, step.detail = "skipped", "--skip-install: the source tree is used as it is"
        else:
            command = [sys.executable, "-m", "pip", "install", "--no-build-isolation", "--no-deps"]
            command += ["--no-index", "--upgrade", "--target", str(SITE), "."]
            shutil.rmtree(SITE, ignore_errors=True)
            status, output = self.run(command, min(300.0, self.left()))
            if status == 0:
                self.site = str(SITE)
            else:
                step.outcome = "failed"
                step.detail = f"pip exits with {status}; going on with the source tree: {_last_line(output)}"
        code = (
            "import json, tilewright; from tilewright.tuner.device import core; c = core(); "
            "print(json.dumps({'package': tilewright.__file__, 'version': tilewright.__version__, "
            "'module': c.__file__ if c else '', **(c.build_info() if c else {})}))"
        )
        status, output = self.run([sys.executable, "-c", code], 120, cwd=self.out)
        if status != 0:
            step.outcome, step.detail = "failed", f"import tilewright: {_last_line(output)}"
            return
        built = json.loads(output.strip().splitlines()[-1])
        step.facts["import"] = built
        self.cuda, self.module = bool(built.get("cuda")), str(built["module"])
        if self.rehearsal or step.outcome == "failed":
            return
        if self.cuda:
            step.detail = f"CUDA kernels for {', '.join(built['cuda_archs'])} by {built['cuda_compiler']}"
        else:
            step.detail = f"no CUDA kernels: {built.get('cuda_absent', 'no compiled core')}"
            if shutil.which("nvcc") is not None and not self.arguments.skip_install:
                step.outcome = "failed"

    def test(self, step: Step) -> None:
        xml = self.out / "tests.xml"
        command = [sys.executable, "-m", "pytest", *self.arguments.tests, "-q", f"--junitxml={xml}"]
        # The command line is the same on every machine; it has been tested where there is no GPU.
        command += ["-p", "no:cacheprovider", "--ignore=tests/cli"]
        if importlib.util.find_spec("xdist") is not None and not self.rehearsal:
            command += ["-n", str(min(8, os.cpu_count() or 1)), "--dist", "worksteal"]
        status, output = self.run(command, min(self.arguments.tests_s, self.left()))
        counts = _counts(xml)
        step.facts.update(counts)
        step.detail = ", ".join(f"{count} {name}" for name, count in counts.items() if name != "failures")
        if status != 0:
            step.outcome = "failed"
            reason = "out of time" if status == 124 else f"pytest exits with {status}"
            step.detail = f"{reason}; {step.detail or _last_line(output)}"

    def sanitize(self, step: Step) -> None:
        tool = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
        if self.rehearsal:
            step.outcome, step.detail = "skipped", "compute-sanitizer needs a GPU"
            return
        if not os.access(tool, os.X_OK):
            step.outcome, step.detail = "skipped", "compute-sanitizer is not installed"
            return
        # Races are looked for in shared memory, which the CUDA kernels alone manage by themselves.
        jobs = [("memcheck", "triton")]
        if self.cuda:
            jobs += [("memcheck", "cuda"), ("racecheck", "cuda")]
        # Torch's allocator would hide a write past the end of a tensor inside its own block.
        os.environ["PYTORCH_NO_CUDA_MEMORY_CACHING"] = "1"
        try:
            found = [self.sanitized(tool, checker, backend) for checker, backend in jobs]
        finally:
            del os.environ["PYTORCH_NO_CUDA_MEMORY_CACHING"]
        step.detail = "; ".join(detail for _, detail in found)
        outcomes = {outcome for outcome, _ in found}
        step.outcome = next(each for each in ("failed", "passed", "skipped") if each in outcomes)

    def sanitized(self, tool: str, checker: str, backend: str) -> tuple[str, str]:
        """Outcome and detail of one of compute-sanitizer's tools over a backend's launches."""
        command = [
            tool,
            "--tool",
            checker,
            "--error-exitcode",
            "9",
            sys.executable,
            str(ROOT / "tools" / "gpu_launches.py"),
            backend,
        ]
        status, output = self.run(command, min(120.0, self.left()))
        name = f"{checker} of {backend}"
        if status == 0 and re.search(r"SUMMARY: 0 (errors|hazards)", output):
            return "passed", f"{name}: nothing found"
        if status == 124:
            return "skipped", f"{name} ran out of time"
        if "Device not supported" in output or "not supported on this" in output:
            return "skipped", f"{name}: compute-sanitizer refuses this device"
        return "failed", f"{name} exits with {status}: {_last_line(output)}"

    def read_machine_code(self, step: Step) -> None:
        if not self.cuda:
            step.outcome, step.detail = "skipped", "the CUDA kernels are not built"
            return
        tool = _cuobjdump()
        if tool is None:
            step.outcome, step.detail = "skipped", "cuobjdump is not installed"
            return
        command = [sys.executable, str(ROOT / "tools" / "check_sass.py"), "--cuobjdump", tool, self.module]
        status, output = self.run(command, min(120.0, self.left()))
        step.detail = _last_line(output)
        if status != 0:
            step.outcome = "failed"

    def measure(self, step: Step) -> None:
        arguments = self.arguments
        command = [sys.executable, str(ROOT / "tools" / "gpu_measure.py"), "--out", str(self.out)]
        command += ["--budget-s", str(self.left() - 5), "--tune-s", str(arguments.tune_s)]
        command += ["--dtypes", arguments.dtypes, "--shapes", arguments.shapes]
        command += ["--operations", arguments.operations]
        if self.rehearsal:
            command += ["--device", "cpu"]
        status, output = self.run(command, self.left() + 5)
        path = self.out / "results.json"
        results = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        runs = results.get("runs", {})
        measured = {name: len(run.get("shapes", [])) for name, run in runs.items()}
        step.detail = ", ".join(f"{name}: {count} shapes" for name, count in measured.items())
        wrong = results.get("wrong", [])
        if status != 0 or wrong or not any(measured.values()):
            step.outcome = "failed"
            step.detail = "; ".join(
                filter(None, [step.detail, *wrong[:5], "" if wrong else _last_line(output)])
            )


def _wait(process: subprocess.Popen[bytes], timeout: float) -> int:
    """Ctrl-C first, so that pytest and the measuring write what they have; then by force."""
    try:
        return process.wait(timeout)
    except subprocess.TimeoutExpired:
        pass
    for sent, patience in ((signal.SIGINT, 12.0), (signal.SIGKILL, 5.0)):
        try:
            os.killpg(process.pid, sent)
            process.wait(patience)
            break
        except ProcessLookupError:
            break
        except subprocess.TimeoutExpired:
            continue
    return 124


def _commit() -> str:
    """HEAD, with + if the tree has changes; empty where the tree came without its history."""
    answers = []
    for command in (["rev-parse", "--short=12", "HEAD"], ["status", "--porcelain", "--untracked-files=no"]):
        if shutil.which("git") is None:
            return ""
        done = subprocess.run(["git", "-C", str(ROOT), *command], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            return ""
        answers.append(done.stdout.strip())
    return answers[0] + ("+" if answers[1] else "")


def _counts(xml: Path) -> dict[str, object]:
    """passed, failed, skipped and the names of what failed, from a junit file."""
    if not xml.exists():
        return {}
    cases = list(ElementTree.parse(xml).getroot().iter("testcase"))
    bad = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    skipped = sum(case.find("skipped") is not None for case in cases)
    return {
        "passed": len(cases) - len(bad) - skipped,
        "failed": len(bad),
        "skipped": skipped,
        "failures": [f"{case.get('classname')}::{case.get('name')}" for case in bad[:30]],
    }


def _cuobjdump() -> str | None:
    """The toolkit's, or the one that Triton brings."""
    found = shutil.which("cuobjdump")
    if found is None and os.access("/usr/local/cuda/bin/cuobjdump", os.X_OK):
        found = "/usr/local/cuda/bin/cuobjdump"
    spec = importlib.util.find_spec("triton") if found is None else None
    if spec is not None and spec.submodule_search_locations:
        bundled = Path(spec.submodule_search_locations[0]) / "backends/nvidia/bin/cuobjdump"
        found = str(bundled) if os.access(bundled, os.X_OK) else None
    return found


def _last_line(output: str) -> str:
    lines = [line for line in output.strip().splitlines() if line.strip()]
    return lines[-1].strip()[:300] if lines else "no output"


def missing_device() -> str | None:
    """Why there is no CUDA device, or None. Asked in a process of its own: a broken driver may crash it."""
    code = (
        "import torch; print('no' if torch.cuda.is_available() else "
        "'torch ' + torch.__version__ + (' sees no CUDA device' if torch.version.cuda else ' is built without CUDA'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    answer = _last_line(done.stdout if done.returncode == 0 else done.stderr)
    return None if answer == "no" else answer


PLAN = (
    ("environment", "look_around"),
    ("build and install", "install"),
    ("tests", "test"),
    ("machine code", "read_machine_code"),
    ("compute-sanitizer", "sanitize"),
    ("tune and time", "measure"),
)


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("gpu-check-out"))
    parser.add_argument("--budget-s", type=float, default=540.0, help="seconds for everything")
    parser.add_argument("--tests-s", type=float, default=220.0, help="seconds for the tests at most")
    parser.add_argument("--tune-s", type=float, default=2.0, help="seconds of tuning per problem")
    parser.add_argument("--tests", nargs="*", default=["tests"], help="what pytest runs")
    parser.add_argument("--operations", default="matmul,conv2d", help="what is tuned and timed")
    parser.add_argument("--dtypes", default="", help="of bf16,tf32,f16,f32; default all")
    parser.add_argument("--shapes", default="all", help="published lists of either, comma-separated")
    parser.add_argument("--skip-install", action="store_true", help="use the source tree as it is")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done")
    parser.add_argument("--cpu-rehearsal", action="store_true", help="go through the motions without a GPU")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    arguments = parse(argv)
    reason = missing_device()
    if arguments.dry_run:
        print("would run: " + ", ".join(name for name, _ in PLAN))
    if reason is not None and not arguments.cpu_rehearsal:
        print(f"no CUDA device: {reason}; use a machine with a GPU, or --cpu-rehearsal", file=sys.stderr)
        return 2
    if arguments.dry_run:
        return 0
    check = Check(arguments)
    (check.out / "results.json").unlink(missing_ok=True)
    for name, work in PLAN:
        check.step(name, work)
    bad = [step.name for step in check.steps if step.outcome == "failed"]
    print((check.out / "report.md").read_text(encoding="utf-8"))
    print(f"failed: {', '.join(bad)}" if bad else "all is well", f"(results in {check.out})")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
