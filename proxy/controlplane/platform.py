"""What the machine must be, and what is asked of it: Linux 5.10 or later, and as many open files as are allowed."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import sys
from pathlib import Path

import proxy
from proxy.errors import UnsupportedPlatform
from proxy.ipc import files

LEAST_KERNEL = (5, 10)
LEAST_FILES = 128

# Open files of the two kinds of processes when nothing goes on, listening sockets apart, as counted in /proc/PID/fd.
_SUPERVISOR = 20
_FOR_EACH_WORKER = 4  # channel, process, counters, and those of a generation that is on its way out
_WORKER = 37
_ROOM = 40  # for the admin API, checks, the store, and the next generations
_FEW_CLIENTS = 16


def python_command(module: str) -> tuple[str, ...]:
    """Return the command that runs a module of this very package in another process.

    `-m` looks into the current directory first, where any project may have a package called `proxy`: that is only
    wanted where the directory is our own checkout.
    """
    ours = Path(proxy.__file__).resolve().parents[1] == Path.cwd()
    return (sys.executable, *(() if ours else ("-P",)), "-m", module)


def check(system: str, release: str) -> None:
    """Raise `UnsupportedPlatform` unless this is Linux 5.10 or later (pidfd, memfd, SO_REUSEPORT, TCP_INFO)."""
    if system != "Linux":
        raise UnsupportedPlatform(f"tidegate runs on Linux, not on {system}", cure="use a container or a machine")
    numbers = re.match(r"(\d+)\.(\d+)", release)
    if numbers is None or (int(numbers[1]), int(numbers[2])) < LEAST_KERNEL:
        needed = ".".join(map(str, LEAST_KERNEL))
        raise UnsupportedPlatform(f"the kernel is {release}", cure=f"tidegate needs Linux {needed} or later")


def check_this_machine() -> None:
    """Raise `UnsupportedPlatform` unless this machine can run the proxy."""
    found = os.uname()
    check(found.sysname, found.release)


def least_files(workers: int, addresses: int) -> int:
    """Return how many open files a process must be allowed at least, so that so many workers serve a few clients."""
    sockets = workers * addresses
    supervisor = _SUPERVISOR + sockets + _FOR_EACH_WORKER * workers + _ROOM
    clients = _held(workers, addresses) + _FEW_CLIENTS
    return max(LEAST_FILES, supervisor, files.for_all(clients))


def _held(workers: int, addresses: int) -> int:
    """Return what a worker has open without clients: everybody's sockets, and once more those it accepts on."""
    return _WORKER + workers * addresses + addresses


def allow_open_files(workers: int, addresses: int) -> int:
    """Raise the soft limit of open files to the hard one, which workers inherit; return it, -1 if there is none.

    Raise `UnsupportedPlatform` when so many workers that listen on so many addresses could not work with that.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    least = least_files(workers, addresses)
    if 0 <= allowed < least:  # -1: no limit
        cure = "raise the limit (ulimit -n, LimitNOFILE=)" + (", or have fewer workers" if least > LEAST_FILES else "")
        raise UnsupportedPlatform(f"a process may have {allowed} open files, and this needs {least}", cure=cure)
    return allowed


def too_few_for(connections: int, workers: int, addresses: int, allowed: int) -> str | None:
    """Return what to say when workers may not have as many files open as so many client connections need."""
    for_clients = (files.for_clients(allowed) - _held(workers, addresses)) * workers
    if for_clients >= connections:
        return None
    of_all = "one worker" if workers == 1 else f"{workers} workers"
    return (
        f"{of_all} with {allowed} open files each can hold {for_clients} client connections, and "
        f"request_limits.connections is {connections}: the others will wait; raise the limit (ulimit -n, LimitNOFILE=)"
    )
