from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tilewright.errors import ArgumentError, DeviceError
from tilewright.tuner import device
from tilewright.tuner.store import user_store
from tilewright.tuner.topology import Cpu, read_cpu

CPU = Cpu(
    "Some CPU", "GenuineIntel", 6, frozenset({"avx2", "fma", "avx512f"}), 8, 3e9, 32768, 1 << 20, 16 << 20
)


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


def machine(root: Path) -> Path:
    """Two cores with two threads each, one L3 between them."""
    files = {
        "proc/cpuinfo": "processor\t: 0\nvendor_id\t: GenuineIntel\ncpu family\t: 6\n"
        "model name\t: Xeon @ 2.60GHz\ncpu MHz\t\t: 2100.0\nflags\t\t: fma avx2\n\n"
        "processor\t: 1\nflags\t: none"
    }
    for cpu in range(4):
        base = f"sys/devices/system/cpu/cpu{cpu}"
        files[f"{base}/topology/core_id"] = str(cpu % 2)
        files[f"{base}/topology/physical_package_id"] = "0"
        for index, (level, kind, size, shared) in enumerate(
            [(1, "Data", "48K", f"{cpu % 2}"), (1, "Instruction", "32K", f"{cpu % 2}"),
             (2, "Unified", "2048K", f"{cpu % 2}"), (3, "Unified", "30M", "0-3")]
        ):  # fmt: skip
            files |= {
                f"{base}/cache/index{index}/level": str(level),
                f"{base}/cache/index{index}/type": kind,
                f"{base}/cache/index{index}/size": size,
                f"{base}/cache/index{index}/shared_cpu_list": shared,
            }
    return write(root, files)


def test_reads_cores_caches_and_clock(tmp_path: Path) -> None:
    cpu = read_cpu(machine(tmp_path), range(4))
    assert (cpu.cores, cpu.l1_bytes, cpu.l2_bytes, cpu.llc_bytes) == (2, 48 << 10, 2 << 20, 30 << 20)
    assert (cpu.model, cpu.family, cpu.clock_hz) == ("Xeon @ 2.60GHz", 6, 2.6e9)
    assert cpu.flags == {"fma", "avx2"}


def test_affinity_limits_the_cores(tmp_path: Path) -> None:
    assert read_cpu(machine(tmp_path), [0, 2]).cores == 1  # two threads of one core


@pytest.mark.parametrize(
    "files",
    [
        {"proc/self/cgroup": "0::/job", "sys/fs/cgroup/job/cpu.max": "50000 100000"},
        {"proc/self/cgroup": "0::/a/b", "sys/fs/cgroup/a/cpu.max": "90000 100000",
         "sys/fs/cgroup/a/b/cpu.max": "max 100000"},
        {"proc/self/cgroup": "4:cpu,cpuacct:/x", "sys/fs/cgroup/cpu/x/cpu.cfs_quota_us": "100000",
         "sys/fs/cgroup/cpu/x/cpu.cfs_period_us": "100000"},
    ],
)  # fmt: skip
def test_a_cgroup_quota_limits_the_cores(tmp_path: Path, files: dict[str, str]) -> None:
    assert read_cpu(write(machine(tmp_path), files), range(4)).cores == 1


def test_everything_missing_has_fallbacks(tmp_path: Path) -> None:
    cpu = read_cpu(tmp_path, [0, 1, 2])
    assert cpu.cores == 3
    assert min(cpu.clock_hz, cpu.l1_bytes, cpu.l2_bytes, cpu.llc_bytes) > 0
    spec = device.describe_cpu(cpu, None)
    assert spec.arch == "portable"
    assert min(spec.peak_fp32, spec.bandwidth, spec.launch_seconds) > 0


def test_malformed_system_files_are_survived(tmp_path: Path) -> None:
    root = write(
        machine(tmp_path),
        {
            "proc/self/cgroup": "nonsense",
            "sys/devices/system/cpu/cpu0/cache/index0/size": "many",
            "proc/cpuinfo": ":::",
        },
    )
    assert read_cpu(root, range(4)).cores == 2


def test_the_isa_variable_forces_a_lower_level(monkeypatch: pytest.MonkeyPatch) -> None:
    info = {"model": "M", "isa_levels": ["portable", "avx2", "avx512"]}
    assert device.describe_cpu(CPU, info).arch == "avx512"
    monkeypatch.setenv("TILEWRIGHT_CPU_ISA", "avx2")
    forced = device.describe_cpu(CPU, info)
    assert forced.arch == "avx2"
    assert device.device_key(forced) == "cpu|M|avx2|8"


@pytest.mark.parametrize(("asked", "supported"), [("avx512", ["portable", "avx2"]), ("sse9", ["portable"])])
def test_a_level_that_is_not_there_is_an_error(
    monkeypatch: pytest.MonkeyPatch, asked: str, supported: list[str]
) -> None:
    monkeypatch.setenv("TILEWRIGHT_CPU_ISA", asked)
    with pytest.raises(ArgumentError) as error:
        device.describe_cpu(CPU, {"model": "M", "isa_levels": supported})
    for word in ("TILEWRIGHT_CPU_ISA", repr(asked), ", ".join(supported)):
        assert word in str(error.value)


def test_current_is_cached_and_plausible() -> None:
    spec = device.current()
    assert spec is device.current("cpu")
    assert 1 <= spec.units <= 4096
    assert 1e9 < spec.peak_fp32 < 1e16
    assert spec.l1_bytes <= spec.l2_bytes <= spec.llc_bytes
    assert not spec.measured


def test_stored_rates_make_a_measured_device() -> None:
    spec = device.current()
    rates = {"peak_fp32": 1e12, "peak_tf32": 1e12, "peak_16bit": 2e12, "bandwidth": 5e10}
    assert user_store().put_rates(device.device_key(spec), rates)
    device.forget()
    measured = device.current()
    assert measured == dataclasses.replace(spec, **rates, measured=True)  # type: ignore[arg-type]


def test_rates_of_other_names_are_not_taken(caplog: pytest.LogCaptureFixture) -> None:
    spec = device.current()
    user_store().put_rates(device.device_key(spec), {"units": 1e6})
    device.forget()
    assert device.current() == spec
    assert "rates" in caplog.text


@pytest.mark.parametrize("name", device.BUILTIN)
def test_builtin_devices_agree_with_the_architecture_table(name: str) -> None:
    """Two sources for one figure: the data sheet's peak, and units × clock × the architecture's rate."""
    spec = device.builtin(name)
    properties = SimpleNamespace(
        name=spec.name,
        major=spec.capability // 10,
        minor=spec.capability % 10,
        multi_processor_count=spec.units,
        clock_rate=spec.clock_hz / 1e3,
        L2_cache_size=spec.l2_bytes,
        shared_memory_per_block_optin=spec.shared_bytes,
        shared_memory_per_multiprocessor=spec.l1_bytes,
    )
    described = device.describe_cuda(properties)
    assert (described.arch, described.bandwidth) == (spec.arch, spec.bandwidth)
    assert described.peak_16bit == pytest.approx(spec.peak_16bit, rel=0.05)
    assert described.peak_tf32 == pytest.approx(spec.peak_tf32, rel=0.05)
    assert described.peak_fp32 == pytest.approx(spec.peak_fp32, rel=0.10)
    assert described.peak(torch.float32) < described.peak(torch.bfloat16)


def test_an_unknown_gpu_is_described_from_its_properties() -> None:
    properties = SimpleNamespace(
        name="GPU of tomorrow", major=13, minor=0, multi_processor_count=200, clock_rate=2_000_000
    )
    spec = device.describe_cuda(properties)
    assert spec.capability == 130
    assert min(spec.bandwidth, spec.peak_16bit, spec.shared_bytes, spec.registers) > 0


def test_unknown_names_are_errors() -> None:
    with pytest.raises(ArgumentError, match="h100"):
        device.builtin("voodoo2")
    with pytest.raises(ArgumentError, match="cuda"):
        device.current("tpu")  # type: ignore[arg-type]


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_a_missing_gpu_is_an_error() -> None:
    with pytest.raises(DeviceError, match="no CUDA device"):
        device.current("cuda")


def test_a_missing_core_leaves_a_portable_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "core", lambda: None)
    assert device.current().arch == "portable"
