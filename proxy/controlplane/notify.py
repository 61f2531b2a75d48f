"""What a service manager hears of us: that we serve, reload and end, how it goes, and that we are alive (sd_notify(3)).

A datagram of `NAME=value` lines goes to the socket that `NOTIFY_SOCKET` names; "@" at its beginning stands for the
NUL of an abstract address. Without the variable nothing is sent. The variables are taken out of the environment, so
that no child takes them for its own.

*Alive* is a tick that collected and judged every service, not a timer: a supervisor whose loop turns while its ticks
fail does not do what it is there for. Then the manager kills and restarts it; the workers serve on (`stable` only)
until the next one takes their sockets over.

Sources: sd_notify(3), sd_watchdog_enabled(3), systemd.service(5).
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import MutableMapping

from proxy.clock import Clock

SEND_S = 0.2  # so long a datagram may wait for room; then it is dropped, and the next one says more
OFTEN = 4  # words of life in the manager's patience: two may be lost


class Notify:
    """The one socket to the manager, if there is one."""

    def __init__(self, environ: MutableMapping[str, str], clock: Clock) -> None:
        address = environ.pop("NOTIFY_SOCKET", "")
        patience, pid = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", str(os.getpid()))
        self._clock = clock
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._sock: socket.socket | None = None
        self._every_ns = 0
        self._alive_ns = 0
        if address.startswith(("/", "@")):
            self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._sock.settimeout(SEND_S)
            if patience.isdigit() and pid == str(os.getpid()):
                self._every_ns = int(patience) * 1000 // OFTEN

    def ready(self, status: str) -> None:
        """Tell that everything serves, at the start or again after a reload."""
        self._send("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """Tell that the config is read again; `ready` ends it."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={self._clock.monotonic_ns() // 1000}", "STATUS=reloading the config")

    def stopping(self, status: str) -> None:
        """Tell that the end has begun."""
        self._send("STOPPING=1", f"STATUS={status}")

    def alive(self) -> None:
        """Tell that a tick judged every service; called as often as that happens, sent as often as is asked for."""
        now = self._clock.monotonic_ns()
        if self._every_ns and now - self._alive_ns >= self._every_ns:
            self._alive_ns = now
            self._send("WATCHDOG=1")

    def close(self) -> None:
        """Close the socket."""
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    def _send(self, *lines: str) -> None:
        if self._sock is not None:
            with contextlib.suppress(OSError):  # the manager is gone, or busy: that changes nothing for our users
                self._sock.sendto("\n".join(lines).encode(), self._address)
