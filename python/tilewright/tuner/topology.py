"""What Linux says about the CPUs that this process may use: cores, caches, clock, instruction sets.

Every reader takes the root of the file system, so that tests can show it other machines, and every figure has
a fallback, because containers and virtual machines leave some of these files out.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_FALLBACK_L1 = 32 << 10
_FALLBACK_L2 = 1 << 20
_FALLBACK_LLC = 8 << 20
_FALLBACK_CLOCK = 2.5e9


@dataclass(frozen=True, slots=True)
class Cpu:
    """`cores` counts physical cores that affinity allows, no more than the cgroup's quota of CPU time."""

    model: str
    vendor: str
    family: int
    flags: frozenset[str]
    cores: int
    clock_hz: float
    l1_bytes: int
    l2_bytes: int
    llc_bytes: int


def read_cpu(root: Path = Path("/"), allowed: Iterable[int] | None = None) -> Cpu:
    """Describes the CPUs in `allowed`; by default those in this process's affinity mask."""
    cpus = sorted(allowed if allowed is not None else _affinity())
    info = _cpuinfo(root)
    family = info.get("cpu family", "")
    cores = max(1, min(_physical_cores(root, cpus), _quota(root)))
    l1, l2, llc = _caches(root, cpus)
    return Cpu(
        model=info.get("model name") or info.get("Model") or "unknown CPU",
        vendor=info.get("vendor_id", ""),
        family=int(family) if family.isdigit() else 0,
        flags=frozenset((info.get("flags") or info.get("Features") or "").split()),
        cores=cores,
        clock_hz=_clock(root, cpus, info),
        l1_bytes=l1,
        l2_bytes=l2,
        llc_bytes=llc,
    )


def _affinity() -> set[int]:
    try:
        return os.sched_getaffinity(0)
    except AttributeError:  # not Linux
        return set(range(os.cpu_count() or 1))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _cpuinfo(root: Path) -> dict[str, str]:
    """The first processor's entries of /proc/cpuinfo."""
    entries: dict[str, str] = {}
    for line in _read(root / "proc/cpuinfo").splitlines():
        if not line.strip():
            if "processor" in entries:
                break
            continue
        name, _, value = line.partition(":")
        entries.setdefault(name.strip(), value.strip())
    return entries


def _physical_cores(root: Path, cpus: list[int]) -> int:
    """Hyperthreads share the multiply-add units: they count once."""
    seen = set()
    for cpu in cpus:
        topology = root / f"sys/devices/system/cpu/cpu{cpu}/topology"
        core = _read(topology / "core_id")
        seen.add((_read(topology / "physical_package_id"), core) if core else ("cpu", str(cpu)))
    return len(seen)


def _quota(root: Path) -> int:
    """CPUs' worth of time that the control groups grant, rounded up; without a limit, a very large number."""
    limits = [1 << 30]
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if controllers == "":  # version 2: every ancestor may limit, too
            folder = root / "sys/fs/cgroup" / group.strip("/")
            for place in [folder, *folder.parents]:
                quota, _, period = _read(place / "cpu.max").partition(" ")
                if quota.isdigit() and period.isdigit() and int(period) > 0:
                    limits.append(math.ceil(int(quota) / int(period)))
                if place == root / "sys/fs/cgroup":
                    break
        elif "cpu" in controllers.split(","):
            for place in (root / "sys/fs/cgroup/cpu" / group.strip("/"), root / "sys/fs/cgroup/cpu"):
                quota, period = _read(place / "cpu.cfs_quota_us"), _read(place / "cpu.cfs_period_us")
                if quota.isdigit() and period.isdigit() and int(period) > 0:
                    limits.append(math.ceil(int(quota) / int(period)))
    return max(1, min(limits))


def _caches(root: Path, cpus: list[int]) -> tuple[int, int, int]:
    """(L1 data, L2, last level): the first two of one core, the last summed over the caches that we share."""
    sizes: dict[int, int] = {}
    last: dict[tuple[int, str], int] = {}
    for cpu in cpus:
        for index in sorted((root / f"sys/devices/system/cpu/cpu{cpu}/cache").glob("index*")):
            level, size = _read(index / "level"), _size(_read(index / "size"))
            if not level.isdigit() or size == 0 or _read(index / "type") == "Instruction":
                continue
            sizes.setdefault(int(level), size)
            last[int(level), _read(index / "shared_cpu_list") or str(cpu)] = size
    top = max(sizes, default=0)
    llc = sum(size for (level, _), size in last.items() if level == top) if top >= 2 else _FALLBACK_LLC
    return sizes.get(1, _FALLBACK_L1), sizes.get(2, _FALLBACK_L2), llc


def _size(text: str) -> int:
    """`1024K` in bytes; 0 where it says nothing sensible."""
    match = re.fullmatch(r"(\d{1,12})([KMG]?)", text)
    return int(match[1]) << {"": 0, "K": 10, "M": 20, "G": 30}[match[2]] if match else 0


def _clock(root: Path, cpus: list[int], info: dict[str, str]) -> float:
    """The highest clock that is announced; boost is not visible in most virtual machines."""
    for cpu in cpus[:1]:
        khz = _read(root / f"sys/devices/system/cpu/cpu{cpu}/cpufreq/cpuinfo_max_freq")
        if khz.isdigit() and int(khz) > 0:
            return int(khz) * 1e3
    named = re.search(r"@\s*([0-9.]+)\s*GHz", info.get("model name", ""))
    for text, unit in ((named[1] if named else "", 1e9), (info.get("cpu MHz", ""), 1e6)):
        try:
            if float(text) > 0:
                return float(text) * unit
        except ValueError:
            continue
    return _FALLBACK_CLOCK
