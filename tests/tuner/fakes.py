"""An operation that exists for these tests alone: doubling a vector, on backends that behave as told."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tilewright.kernels.interface import Absence, DeviceKind, DeviceSpec, Launch

OPERATION = "double"

DEVICE = DeviceSpec(
    kind="cpu",
    name="Imaginary CPU",
    arch="portable",
    units=4,
    clock_hz=3e9,
    peak_fp32=400e9,
    peak_tf32=400e9,
    peak_16bit=400e9,
    bandwidth=40e9,
    l1_bytes=32 << 10,
    l2_bytes=1 << 20,
    llc_bytes=1 << 20,
    launch_seconds=1e-6,
)


@dataclass(frozen=True, slots=True)
class Problem:
    m: int = 64
    batch: int = 1
    name: str = "plain"
    device: str = "cpu"

    @property
    def batch_count(self) -> int:
        return self.batch

    def flops(self) -> int:
        return self.m * self.batch

    def bytes(self) -> int:
        return 8 * self.m * self.batch

    def family(self) -> str:
        return f"f32 {self.name}"

    def describe(self) -> str:
        return f"{OPERATION} {self.batch}x{self.m} {self.name}"


@dataclass(frozen=True, slots=True)
class Config:
    algorithm: str = "one"
    block_m: int = 1

    def __str__(self) -> str:
        return f"{self.algorithm} {self.block_m}"


Body = Callable[[Config, Problem], Launch]


def right(config: Config, problem: Problem) -> Launch:
    return lambda x: torch.add(x, x, out=torch.empty(x.shape))


class Backend:
    operation = OPERATION
    config_type = Config
    device_kinds: tuple[DeviceKind, ...] = ("cpu", "cuda")

    def __init__(
        self,
        name: str,
        body: Body = right,
        configs: Sequence[Config] = (Config(),),
        rejects: Callable[[Config, Problem], str | None] = lambda config, problem: None,
        absence: Absence | None = None,
    ) -> None:
        self.name = name
        self._body, self._configs, self._rejects, self._absence = body, configs, rejects, absence

    def absent(self, kind: DeviceKind) -> Absence | None:
        return self._absence

    def configs(self, problem: Problem, device: DeviceSpec) -> Iterable[Config]:
        return self._configs

    def rejects(self, config: Config, problem: Problem, device: DeviceSpec) -> str | None:
        return self._rejects(config, problem)

    def bind(self, config: Config, problem: Problem) -> Launch:
        return self._body(config, problem)


def taking(seconds: float, body: Body = right) -> Body:
    """The same kernel, but every launch takes this long."""

    def bind(config: Config, problem: Problem) -> Launch:
        launch = body(config, problem)

        def slow(x: Tensor) -> Tensor:
            end = time.perf_counter() + seconds
            out: Tensor = launch(x)
            while time.perf_counter() < end:
                pass
            return out

        return slow

    return bind


def make_inputs(problem: Problem) -> Callable[[], Sequence[Any]]:
    return lambda: (torch.randn(problem.batch, problem.m),)


def oracle(inputs: Sequence[Any]) -> Callable[[Sequence[Any]], str | None]:
    expected = inputs[0] * 2
    return lambda outputs: None if torch.equal(outputs[0], expected) else "y is wrong"
