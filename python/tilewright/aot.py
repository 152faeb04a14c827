"""Ahead-of-time compilation of Triton kernels, with no GPU: does a config compile, fit and not spill?

``tilewright compile`` and the tests use it; nothing that runs a model does. Each compilation happens in a
worker process, so that a compiler which crashes or hangs costs one result and not the caller, and so that
``TRITON_INTERPRET`` in the caller's environment does not matter.
"""

from __future__ import annotations

import importlib.util
import os
import queue
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from tilewright.errors import DeviceError
from tilewright.kernels import registry
from tilewright.kernels.interface import Absence

_MATRIX_INSTRUCTION = re.compile(
    r"\b(?:"
    r"(?P<wgmma>wgmma)\.mma_async\.sync\.aligned\.(?P<wgmma_shape>m\d+n\d+k\d+)"
    r"|(?P<tcgen>tcgen05\.mma)\b"
    r"|(?P<mma>mma)\.sync\.aligned\.(?P<mma_shape>m\d+n\d+k\d+)"
    r")"
)
_RESOURCES = re.compile(r"\b(REG|STACK|SHARED|LOCAL):(\d+)")


STACK_ALLOWANCE = 16
"""Bytes of stack that are no spill worth the name. ptxas parks up to four registers outside the loop to let one
more block onto a multiprocessor (64, 80 or 96 registers used of 255), and reports "0 bytes spill stores"."""


@dataclass(frozen=True, slots=True)
class Job:
    """One config of an operation's Triton backend, for one problem, to be compiled for one architecture."""

    operation: str
    config: Any
    problem: Any
    arch: str  # sm_90


@dataclass(frozen=True, slots=True)
class Compiled:
    """What became of one kernel of a `Job`. Sizes are in bytes, registers and stack per thread."""

    operation: str
    config: str
    problem: str
    dtype: str  # of the operands; tf32 where fp32 operands may be rounded to it
    arch: str
    declared_shared: int  # the most that the backend's `rejects` counted with
    kernel: str = ""
    error: str | None = None  # why it did not compile
    seconds: float = 0.0
    shared: int = 0
    registers: int | None = None  # None where `unknown` says why
    stack: int | None = None  # these kernels keep no arrays on the stack: what is there was spilled
    unknown: str | None = None
    matrix_instructions: tuple[str, ...] = ()  # "mma m16n8k16", "wgmma m64n256k16", "tcgen05.mma"
    ptx_bytes: int = 0
    cubin_bytes: int = 0

    @property
    def ok(self) -> bool:
        return self.error is None

    @property
    def spills(self) -> bool:
        return self.stack is not None and self.stack > STACK_ALLOWANCE

    @property
    def exceeds_declared(self) -> bool:
        """Whether it needs more shared memory than `rejects` allowed for: it might not launch."""
        return self.shared > self.declared_shared


def absent() -> Absence | None:
    """None where Triton kernels can be compiled here, else why not. Needs no GPU."""
    if importlib.util.find_spec("triton") is None:
        return Absence("Triton is not installed", "pip install 'tilewright[triton]'")
    return None


def compile_all(jobs: Iterable[Job], workers: int = 1, timeout: float = 120.0) -> Iterator[list[Compiled]]:
    """Compiles every job in `workers` processes and yields each job's results as they come, in no fixed order.

    There is one result per kernel: split-K has two. `timeout` is in seconds per kernel.

    Raises:
        DeviceError: Triton is not installed.
    """
    missing = absent()
    if missing is not None:
        raise DeviceError(f"compile: {missing}")
    waiting: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
    for job in jobs:
        waiting.put(job)
    for _ in range(workers):
        waiting.put(None)
    done: queue.SimpleQueue[list[Compiled] | None] = queue.SimpleQueue()
    with tempfile.TemporaryDirectory(prefix="tilewright-aot-") as cache:
        threads = [
            threading.Thread(target=_drain, args=(waiting, done, cache, timeout), daemon=True)
            for _ in range(workers)
        ]
        for thread in threads:
            thread.start()
        running = workers
        try:
            while running:
                results = done.get()
                if results is None:
                    running -= 1
                else:
                    yield results
        finally:
            # Also when the caller stops early: what has not begun must not.
            while running and not waiting.empty():
                waiting.get()
            for _ in range(workers):
                waiting.put(None)
            for thread in threads:
                thread.join()


def _drain(
    waiting: queue.SimpleQueue[Job | None],
    done: queue.SimpleQueue[list[Compiled] | None],
    cache: str,
    timeout: float,
) -> None:
    """One thread with one worker process: hands it jobs, and replaces it when a job has killed it."""
    pool: ProcessPoolExecutor | None = None
    try:
        while (job := waiting.get()) is not None:
            began = time.monotonic()
            try:
                if pool is None:
                    pool = ProcessPoolExecutor(
                        1, get_context("spawn"), initializer=_start_worker, initargs=(cache,)
                    )
                    pool.submit(_warm_up).result()
                    began = time.monotonic()
                done.put(pool.submit(compile_job, job, timeout).result())
            except BrokenProcessPool:
                if pool is not None:
                    pool.shutdown()
                pool = None
                seconds = time.monotonic() - began
                error = (
                    f"took longer than {timeout:g} s"
                    if seconds >= timeout
                    else "the compiler crashed its process"
                )
                done.put([replace(_blank(job), error=error, seconds=seconds)])
            except Exception as error:
                done.put([replace(_blank(job), error=f"{type(error).__name__}: {error}")])
    finally:
        if pool is not None:
            pool.shutdown()
        done.put(None)


def _start_worker(cache: str) -> None:
    # A cache of its own: a result from the user's cache would report no seconds, and prove an older compiler.
    os.environ["TRITON_CACHE_DIR"] = cache
    os.environ.pop("TRITON_INTERPRET", None)


def _warm_up() -> None:
    import triton  # noqa: F401 - so that the first job's seconds and timeout do not count the import


def compile_job(job: Job, timeout: float = 0.0) -> list[Compiled]:
    """Compiles the kernels of one job in this process; see `compile_all`.

    A positive `timeout` ends the *process* when it is over: the compiler is C++ that no exception interrupts.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    backend: Any = registry.backend(job.operation, "triton")
    target = GPUTarget("cuda", _capability(job.arch), 32)
    results = []
    for kernel in backend.ahead_of_time(job.config, job.problem):
        signature, constexprs, attrs = kernel.specialization()
        source = ASTSource(kernel.fn, signature, constexprs, attrs)
        result = replace(_blank(job), kernel=kernel.fn.__name__)
        if timeout > 0:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.setitimer(signal.ITIMER_REAL, timeout)
        began = time.perf_counter()
        try:
            compiled = triton.compile(source, target=target, options=kernel.options)
        except Exception as error:
            first = str(error).strip().splitlines() or [""]
            seconds = time.perf_counter() - began
            results.append(replace(result, error=f"{type(error).__name__}: {first[0]}", seconds=seconds))
            continue
        finally:
            if timeout > 0:
                signal.setitimer(signal.ITIMER_REAL, 0)
        seconds = time.perf_counter() - began
        ptx, cubin = compiled.asm["ptx"], compiled.asm["cubin"]
        resources, unknown = _resources(cubin)
        results.append(
            replace(
                result,
                seconds=seconds,
                shared=compiled.metadata.shared,
                registers=resources.get("REG"),
                stack=resources["STACK"] + resources.get("LOCAL", 0) if "STACK" in resources else None,
                unknown=unknown,
                matrix_instructions=_matrix_instructions(ptx),
                ptx_bytes=len(ptx),
                cubin_bytes=len(cubin),
            )
        )
    return results


def _blank(job: Job) -> Compiled:
    backend: Any = registry.backend(job.operation, "triton")
    dtype = str(job.problem.dtype).removeprefix("torch.")
    return Compiled(
        operation=job.operation,
        config=str(job.config),
        problem=job.problem.describe(),
        dtype="tf32" if dtype == "float32" and job.problem.precision == "tf32" else dtype,
        arch=job.arch,
        declared_shared=backend.shared_bytes(job.config, job.problem, _capability(job.arch)),
    )


def _capability(arch: str) -> int:
    return int(re.sub(r"\D", "", arch))


def _resources(cubin: bytes) -> tuple[dict[str, int], str | None]:
    """REG, STACK, SHARED and LOCAL as cuobjdump reports them, or why they are unknown.

    Not from the compiled kernel's n_regs: that asks the driver, which needs a GPU.
    """
    tool = _cuobjdump()
    if tool is None:
        return {}, "cuobjdump is neither bundled with Triton nor on PATH"
    with tempfile.TemporaryDirectory(prefix="tilewright-cubin-") as folder:
        path = Path(folder, "kernel.cubin")
        path.write_bytes(cubin)
        ran = subprocess.run(
            [tool, "--dump-resource-usage", str(path)], capture_output=True, text=True, check=False
        )
    found = {name: int(value) for name, value in _RESOURCES.findall(ran.stdout)}
    if "REG" not in found or "STACK" not in found:
        return {}, f"cuobjdump reported no resources ({(ran.stderr or ran.stdout).strip()[:200]})"
    return found, None


def _cuobjdump() -> str | None:
    import triton

    bundled = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    if os.access(bundled, os.X_OK):
        return str(bundled)
    return shutil.which("cuobjdump")


def _matrix_instructions(ptx: str) -> tuple[str, ...]:
    """The distinct matrix-unit instructions in a kernel: family and shape."""
    found = set()
    for match in _MATRIX_INSTRUCTION.finditer(ptx):
        if match["tcgen"]:
            found.add("tcgen05.mma")
        elif match["wgmma"]:
            found.add(f"wgmma {match['wgmma_shape']}")
        else:
            found.add(f"mma {match['mma_shape']}")
    return tuple(sorted(found))
