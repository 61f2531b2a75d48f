"""`workers: auto`: how many processors this process may really use.

The affinity mask says which processors, the cgroup's quota how much of their time. A container with a quota of two
processors on a machine of 64 must not start 64 workers. Sources: sched_getaffinity(2),
Documentation/admin-guide/cgroup-v2.rst (cpu.max), Documentation/scheduler/sched-bwc.rst (cpu.cfs_quota_us).
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path


def usable_cpus(*, proc: Path = Path("/proc/self/cgroup"), mount: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the smaller of the affinity's size and the cgroup's quota rounded up; at least 1."""
    affinity = len(os.sched_getaffinity(0))
    return max(1, min([affinity, *(math.ceil(quota) for quota in _quotas(proc, mount))]))


def _quotas(proc: Path, mount: Path) -> Iterator[float]:
    """Yield every quota from this process's cgroup up to the root, in processors."""
    for directory in _directories(proc, mount):
        words = _words(directory / "cpu.max") or _words(directory / "cpu.cfs_quota_us", directory / "cpu.cfs_period_us")
        if len(words) == 2 and all(word.isdecimal() for word in words) and int(words[1]) > 0:  # "max" and -1: none
            yield int(words[0]) / int(words[1])


def _directories(proc: Path, mount: Path) -> Iterator[Path]:
    """Yield the cgroup directories that may hold a quota (v2: one hierarchy; v1: that of the cpu controller)."""
    try:
        lines = proc.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, name = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        # In a container the path may be the host's while the mount is already our own group: the root is read too.
        base = mount / controllers if controllers else mount
        parts = Path(name.lstrip("/")).parts
        yield from (base.joinpath(*parts[:depth]) for depth in range(len(parts), -1, -1))


def _words(*files: Path) -> list[str]:
    try:
        return [word for file in files for word in file.read_text().split()]
    except OSError:
        return []
