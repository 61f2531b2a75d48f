"""The traffic of the demo, in a process of its own: both backends and the load, on one uvloop loop.

It talks JSON lines. In: `{"load": {"host", "port", "rate"}}` · `{"fail": "errors" | "slow" | "well"}` ·
`{"decided_ns": N}` (count what `new` gets after that) · `{"proxy": PID}` · `{"stop": true}`. Out: first
`{"stable": PORT, "new": PORT}`, then a report every 100 ms. When its input ends without a stop, the demo was killed: it
then asks the proxy (`PID`) to end too, so that nothing is left behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from functools import partial

import orjson
import uvloop

from proxy.cli.demo.backend import Backend, BackendConnection
from proxy.cli.demo.load import Load

REPORT_S = 0.1
LAST_ANSWERS_S = 10.0


class Traffic:
    """Both backends, the load, and the words that steer them."""

    def __init__(self) -> None:
        self.backends = {"stable": Backend("stable"), "new": Backend("new")}
        self.load: Load | None = None
        self.started_ns = 0
        self.decided_ns = 0
        self.proxy = 0

    async def run(self) -> None:
        """Serve until the input ends."""
        loop = asyncio.get_running_loop()
        servers = {
            name: await loop.create_server(partial(BackendConnection, backend), "127.0.0.1", 0)
            for name, backend in self.backends.items()
        }
        _tell({name: server.sockets[0].getsockname()[1] for name, server in servers.items()})
        reader = asyncio.StreamReader()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        reports = asyncio.create_task(self._report())
        stopped = False
        while not stopped and (line := await reader.readline()):
            stopped = self._obey(orjson.loads(line))
        if self.load is not None:
            await self.load.finish(LAST_ANSWERS_S)
        reports.cancel()
        with contextlib.suppress(BrokenPipeError):
            _tell(self.report())
        if not stopped and self.proxy:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.proxy, signal.SIGTERM)
        for server in servers.values():
            server.close()

    def _obey(self, order: dict[str, object]) -> bool:
        match order:
            case {"load": {"host": str(host), "port": int(port), "rate": int(rate)}}:
                self.load = Load(host, port, rate)
                self.started_ns = time.monotonic_ns()
                self.load.start()
            case {"fail": str(mode)}:
                self.decided_ns = 0
                self.backends["new"].fail(mode)
            case {"decided_ns": int(instant)}:
                self.decided_ns = instant
            case {"proxy": int(pid)}:
                self.proxy = pid
            case {"stop": True}:
                return True
            case _:
                raise ValueError(f"unknown order: {order}")
        return False

    async def _report(self) -> None:
        while True:
            await asyncio.sleep(REPORT_S)
            _tell(self.report())

    def report(self) -> dict[str, object]:
        """Return what the backends and the clients have counted so far."""
        new, load = self.backends["new"], self.load
        sent_after, under_way = new.after(self.decided_ns) if self.decided_ns else (0, 0)
        p50_ms, p99_ms = load.quantiles() if load else (0.0, 0.0)
        return {
            "now_ns": time.monotonic_ns(),
            "started_ns": self.started_ns,
            "backends": {name: {"requests": each.requests, "bad": each.bad} for name, each in self.backends.items()},
            "first_bad_ns": new.first_bad_ns,
            "decided_ns": self.decided_ns,
            "sent_after": sent_after,
            "under_way_at_decision": under_way,
            "clients": {
                "sent": load.sent if load else 0,
                "answered": load.answered if load else 0,
                "errors": load.errors if load else 0,
                "p50_ms": p50_ms,
                "p99_ms": p99_ms,
            },
        }


def _tell(message: dict[str, object]) -> None:
    sys.stdout.write(orjson.dumps(message).decode() + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the demo, which then says stop
    uvloop.run(Traffic().run())
