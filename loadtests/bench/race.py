"""The race: start everybody once, then measure in interleaved rounds.

All contestants stay up; in every round each case is run against each of them, one after the other, in an order that
moves on by one per round, so that a slow minute of the machine hits everybody alike. What was started is ended by its
pid.
"""

from __future__ import annotations

import http.client
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from loadtests.bench.cases import CONNECTIONS, COOKIES, Case, wrk_script
from loadtests.bench.contestants import Backends, Command, Contestant, backend_command
from loadtests.bench.measure import Cpu, Load, command_line, cpu, pss_kib, tree, wrk

READY_S = 20.0
STOP_S = 8.0


@dataclass(frozen=True, slots=True)
class Sample:
    """One contestant, one case, one round. CPU in seconds, memory in KiB at the end of the case."""

    contestant: str
    case: str
    round: int
    load: Load
    cpu: Cpu
    worker_cpu: Cpu | None
    backend_cpu: Cpu
    pss_kib: int


@dataclass(slots=True)
class Outcome:
    """Everything a race found out."""

    samples: list[Sample] = field(default_factory=list)
    idle_pss_kib: dict[str, int] = field(default_factory=dict)
    share_to_new: dict[str, float] = field(default_factory=dict)
    complaints: list[str] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)


class Child(AbstractContextManager["Child"]):
    """A started program, pinned to a core; its group is ended when the block is left."""

    def __init__(self, name: str, command: Command, core: int, log: Path) -> None:
        self.name = name
        self.log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                ["taskset", "-c", str(core), *command.argv],
                cwd=command.cwd,
                env=command.environ,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ask it to end (twice, which means now), then insist."""
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGKILL):
            if self.process.poll() is None:
                self.process.send_signal(number)
                with suppress(subprocess.TimeoutExpired):
                    self.process.wait(STOP_S / 4)
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def wait_ready(self, port: int) -> None:
        """Return when 127.0.0.1:`port` answers 200; raise `RuntimeError` with the log when it does not."""
        deadline = time.monotonic() + READY_S
        while time.monotonic() < deadline and self.process.poll() is None:
            with suppress(OSError, http.client.HTTPException):
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
                connection.request("GET", "/small")
                status = connection.getresponse().status
                connection.close()
                if status == http.HTTPStatus.OK:
                    return
            time.sleep(0.05)
        text = self.log.read_text(errors="replace")[-2000:]
        raise RuntimeError(f"{self.name} did not come up on port {port} within {READY_S:.0f} s:\n{text}")


def cores() -> tuple[int, int]:
    """Return the core for the contestants and the one for load and backends (the same on a one-core machine)."""
    usable = sorted(os.sched_getaffinity(0))
    return usable[0], usable[-1]


def run(
    contestants: list[Contestant],
    cases: list[Case],
    *,
    rounds: int,
    seconds: float,
    folder: Path,
    say: Callable[[str], None],
) -> Outcome:
    """Race the contestants; a contestant that does not start is skipped by name. `folder` takes configs and logs."""
    outcome = Outcome()
    core, other_core = cores()
    with ExitStack() as stack:
        backends = Backends(_free_port(), _free_port())
        backend = _start(stack, "backend", backend_command(_sub(folder, "backend"), backends), other_core, folder)
        backend.wait_ready(backends.stable)
        entrants: list[Entrant] = []
        for contestant in contestants:
            try:
                child, port = _enter(stack, contestant, backends, core, folder)
            except RuntimeError as error:
                outcome.skipped[contestant.name] = str(error)
                say(f"skipped {contestant.name}: {error}")
            else:
                entrants.append((contestant, child, port))
        for contestant, child, port in entrants:
            outcome.versions[contestant.name] = _version(contestant)
            outcome.share_to_new[contestant.name] = _share_to_new(port)
            outcome.idle_pss_kib[contestant.name] = pss_kib(tree(child.process.pid))
        for number, case, (contestant, child, port) in _schedule(entrants, cases, rounds):
            say(f"round {number + 1} of {rounds}: {case.title}: {contestant.name}")
            script = folder / f"{case.name}.lua"
            script.write_text(wrk_script(case))
            if number == 0:  # warm up
                wrk(port, script, 1, CONNECTIONS, other_core)
            load = (port, script, seconds, other_core)
            outcome.samples.append(_measure(contestant, child, backend, case, number, load))
        for contestant, _, port in entrants:
            before, after = outcome.share_to_new[contestant.name], _share_to_new(port)
            if abs(before - after) > 0.001:
                outcome.complaints.append(
                    f"{contestant.name} sent {before:.1%} of the users to new before and {after:.1%} after the race"
                )
    return outcome


Entrant = tuple[Contestant, Child, int]


def _schedule(entrants: list[Entrant], cases: list[Case], rounds: int) -> Iterator[tuple[int, Case, Entrant]]:
    """Yield who is measured when: in every round each case, in an order that moves on by one per round."""
    for number in range(rounds):
        turn = number % max(1, len(entrants))
        for case in cases:
            for entrant in entrants[turn:] + entrants[:turn]:
                yield number, case, entrant


def _enter(stack: ExitStack, contestant: Contestant, backends: Backends, core: int, folder: Path) -> tuple[Child, int]:
    """Start a contestant and return it with its port; raise `RuntimeError` with the reason when it cannot race."""
    if why := contestant.missing():
        raise RuntimeError(why)
    port = _free_port()
    command = contestant.command(_sub(folder, contestant.name), port, backends)
    child = _start(stack, contestant.name, command, core, folder)
    child.wait_ready(port)
    return child, port


def _measure(
    contestant: Contestant,
    child: Child,
    backend: Child,
    case: Case,
    number: int,
    load: tuple[int, Path, float, int],
) -> Sample:
    port, script, seconds, core = load
    pids, backend_pids = tree(child.process.pid), tree(backend.process.pid)
    workers = [pid for pid in pids if contestant.is_worker(command_line(pid))]
    before, workers_before, backend_before = cpu(pids), cpu(workers), cpu(backend_pids)
    seen = wrk(port, script, seconds, CONNECTIONS, core)
    return Sample(
        contestant=contestant.name,
        case=case.name,
        round=number,
        load=seen,
        cpu=cpu(pids) - before,
        worker_cpu=cpu(workers) - workers_before if workers else None,
        backend_cpu=cpu(backend_pids) - backend_before,
        pss_kib=pss_kib(pids),
    )


def _start(stack: ExitStack, name: str, command: Command, core: int, folder: Path) -> Child:
    return stack.enter_context(Child(name, command, core, folder / f"{name}.log"))


def _sub(folder: Path, name: str) -> Path:
    path = folder / name
    path.mkdir()
    return path


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _version(contestant: Contestant) -> str:
    done = subprocess.run(contestant.version(), capture_output=True, text=True, check=False)
    found = re.search(r"\d+\.\d+\.\d+", done.stdout + done.stderr)
    return found.group() if found else "?"


def _share_to_new(port: int) -> float:
    """Send one request of each user and return the share that the `new` backend answered."""
    new = 0
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    for user in range(1, COOKIES + 1):
        connection.request("GET", "/small", headers={"Cookie": f"theme=dark; session=user-{user}-7f3a9c; consent=1"})
        new += connection.getresponse().read()[:1] == b"n"
    connection.close()
    return new / COOKIES
