"""A driver without a device, for tests of what is launched."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from tilewright.kernels.triton_launch import Kernel

DEVICE = 77  # the JIT caches kernels by device: none of a real one's are touched


class Recorder:
    """What it was asked to launch, and from which source."""

    def __init__(self) -> None:
        self.launches: list[tuple[Any, tuple[int, ...], tuple[Any, ...]]] = []
        self.jit_calls = 0
        self.utils = SimpleNamespace(
            get_device_properties=lambda device: {"max_shared_mem": 232448},
            load_binary=lambda *args: (None, 1, 0, 0, 1024),
            unload_module=lambda module: None,
        )

    def launcher_cls(self, source: Any, metadata: Any) -> Any:
        def launch(x: int, y: int, z: int, stream: Any, *rest: Any) -> None:
            arguments = rest[-len(source.fn.arg_names) :]
            self.launches.append((source, (x, y, z), arguments))

        return launch

    def get_current_device(self) -> int:
        return DEVICE

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", 90, 32)


def assert_proven(recorder: Recorder, proven: Sequence[Kernel]) -> None:
    """The JIT compiled what `proven` compiles ahead of time, and launched it on the same grid."""
    assert len(recorder.launches) == len(proven)
    for (source, grid, _), kernel in zip(recorder.launches, proven, strict=True):
        signature, constexprs, attrs = kernel.specialization()
        assert source.fn is kernel.fn
        assert source.signature == signature
        assert source.constants == {
            (source.fn.arg_names.index(name),): value for name, value in constexprs.items()
        }
        assert {at: values for at, values in source.attrs.items() if values} == attrs
        assert grid == kernel.grid
