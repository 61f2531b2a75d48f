"""`python -m loadtests.soak --minutes 20`: mixed traffic at half load, and whether anything grows.

1,000 small requests per second (half of what `loadtests.held` sends), WebSockets that speak every second, and the
visits of `visits.py` beside them, through TLS as well; a reload every half minute, by HUP and the API in turn; an admin
API that is asked for its status every second and for its metrics every five. What is watched: `watch.py`. Prints a
table and, from 20 minutes on, keeps it in `RESULTS.md`. The exit code is 1 when something has grown, when a request or
a visit went wrong, when a tunnel ended, or with an internal error.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime as dt
import os
import platform
import resource
import signal
import socket
import ssl
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import trustme

from loadtests.held.tunnels import HeldTraffic
from loadtests.kills.proxy import Proxy
from loadtests.soak import endpoint
from loadtests.soak.visits import PATIENCE_S, Visitors, Wrong
from loadtests.soak.watch import NOTHING, Sample, complaints, growth, sample

RESULTS = Path(__file__).with_name("RESULTS.md")
KEPT_FROM = 20
CONNECTIONS = 60
TUNNELS = 50
WARM_S = 15.0
REST_S = 8.0  # longer than endpoints' connections rest in their pools
EVERY_S = 5.0
SAMPLES = 16  # at least
RELOAD_S = 30.0
DESCRIPTORS = 8192
CONFIG = """
listen: ["127.0.0.1:{port}", {address: "127.0.0.1:{tls}", tls: {cert: cert.pem, key: key.pem}}]
workers: 2
state: tidegate.db
admin: {listen: "127.0.0.1:{admin}"}
access_log: {path: access.log, sample: 10%}
services:
  - name: web
    stable: {label: "1.0", endpoints: ["http://127.0.0.1:{stable}"]}
    new: {label: "2.0", endpoints: ["http://127.0.0.1:{new}"]}
    split: {new: 50%, sticky: {by: cookie, name: session}}
    limits: {error_rate: 50%, p99: 10s}
    timeouts: {first_byte: {first_byte}s}
  - name: many
    match: {path: /many}
    stable: {endpoints: ["http://127.0.0.1:{many}"]}
"""


@dataclass(slots=True)
class Found:
    """What a soak has found. `wrong`: visits that went wrong, by name and how."""

    samples: list[Sample] = field(default_factory=list)
    before: Sample = NOTHING
    after: Sample = NOTHING
    visits: Counter[str] = field(default_factory=Counter)
    wrong: Counter[str] = field(default_factory=Counter)
    reloads: int = 0
    asked: int = 0
    sent: int = 0
    failed: list[str] = field(default_factory=list)
    tunnels_ended: int = 0
    echoes: int = 0
    internal_errors: float = -1
    said: list[str] = field(default_factory=list)

    def complaints(self) -> list[str]:
        """Say what may not be."""
        found = complaints(self.samples, self.before, self.after)
        found += [f"visit: {what}, {count} times" for what, count in sorted(self.wrong.items())]
        found += [f"request: {how}, {count} times" for how, count in sorted(Counter(self.failed).items())]
        if self.tunnels_ended:
            found.append(f"{self.tunnels_ended} tunnels ended")
        if self.internal_errors:
            found.append(f"tidegate_internal_errors_total is {self.internal_errors:g}")
        return found + [f"it said: {line}" for line in self.said]


class Soak:
    """One run."""

    def __init__(self, folder: Path, minutes: float, rate: float) -> None:
        self.found = Found()
        self._folder = folder
        self._minutes = minutes
        self._rate = rate
        self._authority = trustme.CA()
        self._tasks: set[asyncio.Task[None]] = set()
        self._ports: dict[str, int] = {}
        self._first_byte = 30
        self._proxy: Proxy

    async def run(self) -> Found:
        """Run everything, and leave nothing behind."""
        issued = self._authority.issue_cert("localhost")
        issued.cert_chain_pems[0].write_to_path(str(self._folder / "cert.pem"))
        issued.private_key_pem.write_to_path(str(self._folder / "key.pem"))
        server = await asyncio.start_server(endpoint.serve, "127.0.0.1", 0)
        with HeldTraffic(fresh=0.3, keeping=CONNECTIONS) as traffic:
            self._ports = {**traffic.ports, "many": server.sockets[0].getsockname()[1]}
            self._ports["tls"] = _free_port()
            self._proxy = Proxy(self._folder, self._config())
            try:
                self._proxy.begin()
                await asyncio.to_thread(self._proxy.wait_ready)
                # Everything once, so that what is made at first use is there before.
                await self._under_load(WARM_S, [])
                self.found.before = sample(self._proxy.pid)
                await self._with_traffic(traffic)
                self.found.after = sample(self._proxy.pid)
                await self._last_words()
            finally:
                self._proxy.sweep_up()
                server.close()
                await asyncio.sleep(0.2)  # the endpoint's connections see their ends
        return self.found

    async def _with_traffic(self, traffic: HeldTraffic) -> None:
        traffic.load(self._proxy.port, self._rate)
        traffic.open_all(self._proxy.port, TUNNELS)
        await self._under_load(self._minutes * 60, self.found.samples)
        self.found.tunnels_ended = len(traffic.ended)
        await asyncio.to_thread(traffic.rest)
        traffic.leave_tunnels()
        self.found.sent, self.found.echoes = traffic.sent, traffic.echoes
        self.found.failed = [one.how for one in traffic.failures]
        await asyncio.sleep(REST_S)

    async def _under_load(self, seconds: float, samples: list[Sample]) -> None:
        """Have visits, reloads and questions for so long, and wait until the last visit is over."""
        trust = ssl.create_default_context()
        self._authority.configure_trust(trust)
        visits = Visitors(self._proxy.port, self._ports["tls"], trust).every()
        going = [
            *(self._every(1 / rate, partial(self._begin, visit)) for visit, rate in visits.items()),
            self._every(RELOAD_S, self._reload),
            self._every(1.0, partial(self._ask, "/api/v1/status")),
            self._every(5.0, partial(self._ask, "/metrics")),
            self._every(min(EVERY_S, seconds / SAMPLES), partial(self._sample, samples)),
        ]
        tasks = [asyncio.create_task(one) for one in going]
        done, _ = await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_EXCEPTION)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for task in done:
            task.result()
        await asyncio.gather(*self._tasks)
        await asyncio.sleep(REST_S)

    async def _every(self, period_s: float, what: Callable[[], Awaitable[None]]) -> None:
        due = time.monotonic()
        while True:
            due += period_s
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            await what()

    async def _begin(self, visit: Callable[[], Awaitable[None]]) -> None:
        task = asyncio.create_task(self._visit(visit))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _visit(self, visit: Callable[[], Awaitable[None]]) -> None:
        name = visit.__name__
        self.found.visits[name] += 1
        try:
            async with asyncio.timeout(PATIENCE_S):
                await visit()
        except (Wrong, OSError, EOFError) as error:
            self.found.wrong[f"{name}: {error!r}"[:300]] += 1

    async def _reload(self) -> None:
        self._first_byte += 1
        self._proxy.configure(self._config())
        self.found.reloads += 1
        if self.found.reloads % 2:
            os.kill(self._proxy.pid, signal.SIGHUP)
        else:
            await self._call("POST", "/api/v1/config/reload")

    async def _ask(self, path: str) -> None:
        self.found.asked += 1
        await self._call("GET", path)

    async def _call(self, method: str, path: str) -> object:
        status, answer = await asyncio.to_thread(self._proxy.call, method, path)
        if status != 200:
            raise RuntimeError(f"{method} {path} was answered {status}: {answer}")
        return answer

    async def _sample(self, samples: list[Sample]) -> None:
        samples.append(await asyncio.to_thread(sample, self._proxy.pid))

    async def _last_words(self) -> None:
        lines = str(await self._call("GET", "/metrics")).splitlines()
        counts = [line for line in lines if line.startswith("tidegate_internal_errors_total")]
        self.found.internal_errors = sum(float(line.split()[-1]) for line in counts)
        words = ("Traceback", "Error", "ERROR", "WARNING", "exception")
        self.found.said = [line for line in self._proxy.said().splitlines() if any(word in line for word in words)][:20]

    def _config(self) -> str:
        config = CONFIG.replace("{first_byte}", str(self._first_byte))
        for name, port in self._ports.items():
            config = config.replace("{" + name + "}", str(port))
        return config


def table(found: Found) -> list[str]:
    """Return the figures of a run as Markdown."""
    memory = growth(found.samples, lambda one: one.memory_kib / 1024)
    descriptors = growth(found.samples, lambda one: one.descriptors)
    rows = {
        "small requests": f"{found.sent}, {len(found.failed)} failed",
        "visits": f"{found.visits.total()}, {found.wrong.total()} wrong",
        "of which": ", ".join(f"{name} {count}" for name, count in sorted(found.visits.items())),
        "WebSockets": f"{TUNNELS}, {found.echoes} echoes and pongs, {found.tunnels_ended} ended",
        "reloads; questions to the admin API": f"{found.reloads}; {found.asked}",
        "memory (PSS), medians of the second and the last quarter": f"{memory.second:.1f} MiB, {memory.last:.1f} MiB",
        "**growth**": f"{memory.more:+.1f} MiB",
        "descriptors, the same": f"{descriptors.second:g}, {descriptors.last:g}",
        "descriptors at rest, before and after": f"{found.before.descriptors}, {found.after.descriptors}",
        "threads at rest, before and after": f"{found.before.threads}, {found.after.threads}",
        "tidegate_internal_errors_total": f"{found.internal_errors:g}",
    }
    return ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())]


def _free_port() -> int:
    """Return a port that nobody has; below the range from which the kernel takes some for outgoing connections."""
    return next(port for port in range(21_000 + os.getpid() % 8_000, 30_000) if _free(port))


def _free(port: int) -> bool:
    with socket.socket() as sock:
        try:
            sock.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def main(argv: Sequence[str]) -> int:
    """Run, tell, and keep what was found."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.soak", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--rate", type=float, default=1000.0, help="small requests per second (%(default)g)")
    arguments = parser.parse_args(argv)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, DESCRIPTORS)), hard))
    load = os.getloadavg()[0]
    with TemporaryDirectory(prefix="tidegate-soak-") as folder:
        # Not uvloop: its TLS clients lose the end of what comes just before a connection is closed.
        found = asyncio.run(Soak(Path(folder), arguments.minutes, arguments.rate).run())
    command = f"python -m loadtests.soak --minutes {arguments.minutes:g} --rate {arguments.rate:g}"
    text = "\n".join(
        [
            "# A soak",
            "",
            f"`{command}`, {dt.datetime.now(dt.UTC):%Y-%m-%d %H:%M} UTC, CPython {platform.python_version()},",
            f"2 workers, {os.cpu_count()} cores (load {load:.0f} before).",
            "",
            *table(found),
        ]
    )
    print(text)
    if arguments.minutes >= KEPT_FROM:
        RESULTS.write_text(text + "\n")
    wrong = found.complaints()
    for one in wrong:
        print(one)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
