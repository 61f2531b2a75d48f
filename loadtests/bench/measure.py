"""Reading what a process tree costs, and running wrk against it.

CPU time comes from `/proc/PID/stat` of every process of the tree (user and system, all threads, in clock ticks of
usually 10 ms, which is why a measurement lasts seconds). Memory is the proportional set size (`smaps_rollup`): pages
that several processes share are counted once.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Cpu:
    """CPU time in seconds."""

    user: float = 0.0
    system: float = 0.0

    def __add__(self, other: Cpu) -> Cpu:
        return Cpu(self.user + other.user, self.system + other.system)

    def __sub__(self, other: Cpu) -> Cpu:
        return Cpu(self.user - other.user, self.system - other.system)


@dataclass(frozen=True, slots=True)
class Load:
    """What wrk saw: counts, seconds, latencies in milliseconds."""

    requests: int
    errors: int
    seconds: float
    p50_ms: float
    p99_ms: float
    max_ms: float


def tree(pid: int) -> list[int]:
    """Return `pid` and every living descendant of it."""
    found = [pid]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                found.extend(int(child) for child in task.read_text().split())
    return found


def cpu(pids: list[int]) -> Cpu:
    """Return the CPU time that the processes have used so far; one that is gone counts as 0."""
    total = Cpu()
    for pid in pids:
        with contextlib.suppress(OSError):
            # The second field, the name in brackets, may hold spaces: count the fields after it.
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += Cpu(int(fields[11]) / TICKS_PER_SECOND, int(fields[12]) / TICKS_PER_SECOND)
    return total


def pss_kib(pids: list[int]) -> int:
    """Return the proportional set size of the processes together, in KiB."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1])
    return total


def command_line(pid: int) -> str:
    """Return the arguments of a process, separated by spaces; "" when it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def wrk(port: int, script: Path, seconds: float, connections: int, core: int) -> Load:
    """Run wrk with one thread, pinned to `core`, against 127.0.0.1:`port`; raise `RuntimeError` when it fails.

    wrk takes whole seconds: `seconds` is rounded up.
    """
    whole = max(1, -int(-seconds // 1))
    argv = ["taskset", "-c", str(core), "wrk", "-t1", f"-c{connections}", f"-d{whole}s", "--timeout", "10s"]
    argv += ["-s", str(script), f"http://127.0.0.1:{port}"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=whole + 60, check=False)
    result = next((line for line in done.stdout.splitlines() if line.startswith("RESULT ")), None)
    if result is None:
        raise RuntimeError(f"wrk gave no result (exit {done.returncode}): {done.stdout}{done.stderr}")
    plain = json.loads(result.removeprefix("RESULT "))
    return Load(
        requests=plain["requests"],
        errors=plain["errors"],
        seconds=plain["duration_us"] / 1e6,
        p50_ms=plain["p50_us"] / 1e3,
        p99_ms=plain["p99_us"] / 1e3,
        max_ms=plain["max_us"] / 1e3,
    )
