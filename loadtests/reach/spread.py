"""How evenly 1,000 connections lie on the workers.

The kernel deals them to the workers' sockets by a hash (SO_REUSEPORT, socket(7)), so without more the workers' numbers
spread as those of dice do: with 4 workers the standard deviation is 5.5 % of the mean. Measured is the most loaded
worker over the mean, when all are open: at once, and when they come one after the other over a second.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from loadtests.held.sight import rows
from loadtests.kills.proxy import Proxy

CONNECTIONS = 1000
PATIENCE_S = 15.0
CONFIG = """
listen: 127.0.0.1:{port}
workers: {workers}
state: tidegate.db
admin: {listen: "127.0.0.1:{admin}"}
services: [{name: web, stable: {endpoints: ["http://127.0.0.1:9"]}}]
"""


def spread(workers: int, rounds: int, over_s: float) -> list[float]:
    """Return the most loaded worker over the mean, round by round; the connections come over `over_s` seconds."""
    with TemporaryDirectory(prefix="tidegate-spread-") as folder:
        proxy = Proxy(Path(folder), CONFIG.replace("{workers}", str(workers)))
        try:
            proxy.begin()
            proxy.wait_ready()
            return [_round(proxy, workers, over_s) for _ in range(rounds)]
        finally:
            proxy.sweep_up()


def _round(proxy: Proxy, workers: int, over_s: float) -> float:
    began = time.monotonic()
    clients = []
    for number in range(CONNECTIONS):
        time.sleep(max(0.0, began + over_s * number / CONNECTIONS - time.monotonic()))
        clients.append(socket.create_connection(("127.0.0.1", proxy.port)))
    _wait(lambda: sum(_connections(proxy)) == CONNECTIONS)
    most = max(_connections(proxy))
    for client in clients:
        client.close()
    _wait(lambda: sum(_connections(proxy)) == 0)
    return most * workers / CONNECTIONS


def _connections(proxy: Proxy) -> list[int]:
    return [row.connections for row in rows(proxy.pid)]


def _wait(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > end:
            raise RuntimeError(f"the workers do not count all connections within {PATIENCE_S:g} s")
        time.sleep(0.02)
