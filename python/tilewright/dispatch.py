"""From a call to a bound kernel: one dictionary look-up on the hot path, a choice on a miss.

An operation asks `lookup(key)` with its call key, a plain tuple of everything that a choice may depend on. On a
miss it asks `resolve`, which builds the problem, selects (`tuner.select`), binds and remembers.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Any

import torch

from tilewright import settings, tuner
from tilewright.kernels import registry
from tilewright.kernels.interface import DeviceSpec, Launch
from tilewright.kernels.precision import cuda_matmul_precision

_CAPACITY = 4096
"""Bound kernels remembered per generation; a model rarely has more than a few hundred problems."""


class _Memory:
    """A bounded least-recently-used map in two generations, so that a hit in the young one is one dict look-up.

    When the young generation is full it becomes the old one; what is still used is carried over on its next
    use, and the rest goes with the generation after.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._lock = threading.Lock()
        self._young: dict[Hashable, Launch] = {}
        self._old: dict[Hashable, Launch] = {}
        self.get_young = self._young.get

    def get(self, key: Hashable) -> Launch | None:
        launch = self._young.get(key)
        if launch is None and self._old:
            launch = self._old.get(key)
            if launch is not None:
                self.put(key, launch)
        return launch

    def put(self, key: Hashable, launch: Launch) -> None:
        with self._lock:
            if len(self._young) >= self._capacity:
                # In place, as `get_young` is bound to this dict.
                self._old = self._young.copy()
                self._young.clear()
            self._young[key] = launch

    def clear(self) -> None:
        with self._lock:
            self._young.clear()
            self._old = {}

    def __len__(self) -> int:
        return len(self._young) + len(self._old)


_memory = _Memory(_CAPACITY)

lookup = _memory.get_young
"""The bound kernel remembered under a call key, or None: then ask `resolve`."""


_generation = 0


def generation() -> int:
    """How often choices were forgotten: what was packed for the choices of an earlier generation may go."""
    return _generation


def forget() -> None:
    """Drops every remembered choice, so that the next calls choose anew (after tuning, say)."""
    global _generation
    _generation += 1
    _memory.clear()


def device_of(problem: Any) -> DeviceSpec:
    """The device that the problem's tensors live on."""
    if problem.device == "cuda":
        return tuner.device.current("cuda", torch.cuda.current_device())
    return tuner.device.current("cpu")


def fp32_precision(options: settings.Options, on_cuda: bool) -> Any:
    """``ieee`` or ``tf32`` for fp32 operands: the user's option, else torch's own setting."""
    if not on_cuda:
        return "ieee"
    return cuda_matmul_precision() if options.precision == "auto" else options.precision


def choose(operation: str, problem: Any, options: settings.Options) -> tuner.Choice:
    """The choice for a problem under these options. Measures nothing."""
    return tuner.select(
        problem,
        operation,
        device_of(problem),
        backend=options.backend,
        config=options.config,
        strict=options.strict,
    )


def resolve(
    operation: str,
    key: Hashable,
    make_problem: Callable[[], Any],
    wrap: Callable[[Launch], Launch] | None = None,
) -> Launch:
    """The bound kernel for a key that `lookup` did not find: recalled, or else selected and bound for its problem.

    What is remembered is what `wrap`, if given, makes of the kernel: of one whose arguments are not the call's.
    """
    launch = _memory.get(key)
    if launch is None:
        problem = make_problem()
        tuner.recorder.record(operation, problem)
        choice = choose(operation, problem, settings.current())
        launch = registry.backend(operation, choice.backend).bind(choice.config, problem)
        if wrap is not None:
            launch = wrap(launch)
        _memory.put(key, launch)
    return launch
