"""A `tidegate run --config` that is killed and started again on the same state."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from proxy.controlplane.roster import Process, read

READY_S = 60.0

Json = dict[str, Any]


class Proxy:
    """A supervisor and its workers in a folder of their own. `config` has the places {port} and {admin}."""

    def __init__(self, folder: Path, config: str) -> None:
        self.folder = folder
        self.state = folder / "tidegate.db"
        self.port, self.admin = _free_ports()
        self._config = folder / "tidegate.yaml"
        self.configure(config)
        self._log = folder / "log"
        self._process: subprocess.Popen[bytes] | None = None
        self.began = 0.0  # when it was started last

    def configure(self, config: str) -> None:
        """Write the config's file, with the places filled in."""
        self._config.write_text(config.replace("{port}", str(self.port)).replace("{admin}", str(self.admin)))

    @property
    def pid(self) -> int:
        """The supervisor's."""
        return 0 if self._process is None else self._process.pid

    def begin(self) -> None:
        """Start it and do not wait."""
        with self._log.open("ab") as log:
            self.began = time.monotonic()
            self._process = subprocess.Popen(
                [sys.executable, "-m", "proxy", "run", "--config", str(self._config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def ready(self) -> bool:
        """Whether it serves; raise `RuntimeError` when it has ended instead."""
        if self._process is None or self._process.poll() is not None:
            raise RuntimeError(f"tidegate run has ended:\n{self.said()[-4000:]}")
        try:
            return self.call("GET", "/readyz")[0] == 200
        except OSError:
            return False

    def wait_ready(self) -> None:
        """Return when it serves."""
        end = time.monotonic() + READY_S
        while not self.ready:
            if time.monotonic() > end:
                raise RuntimeError(f"tidegate run is not ready after {READY_S:g} s:\n{self.said()[-4000:]}")
            time.sleep(0.01)

    def kill(self, *, workers: bool = False) -> None:
        """Send SIGKILL to the supervisor, and to its workers if asked; return when they are gone."""
        left = self.workers() if workers else ()
        if self._process is not None:
            self._process.kill()
        for process in left:
            process.kill()
        if self._process is not None:
            self._process.wait()
        while any(process.alive for process in left):
            time.sleep(0.001)

    def end(self) -> int:
        """Drain, and return the exit code."""
        if self._process is None:
            return 0
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        return self._process.wait(READY_S)

    def sweep_up(self) -> None:
        """End whatever is left."""
        self.kill(workers=True)

    def workers(self) -> tuple[Process, ...]:
        """Return the workers that live, those of supervisors before too."""
        return read(self.state.with_name(self.state.name + ".workers")).orphans

    def said(self) -> str:
        """Return its log."""
        return self._log.read_text(errors="replace")

    def call(self, method: str, path: str, body: Json | None = None, timeout_s: float = 30.0) -> tuple[int, Any]:
        """Return status and JSON (or text) of the admin API; raise `OSError` when there is none."""
        connection = http.client.HTTPConnection("127.0.0.1", self.admin, timeout=timeout_s)
        try:
            data = None if body is None else json.dumps(body)
            connection.request(method, path, data, {} if data is None else {"Content-Type": "application/json"})
            answer = connection.getresponse()
            raw = answer.read()
        except http.client.HTTPException as error:
            raise OSError(str(error)) from error
        finally:
            connection.close()
        return answer.status, json.loads(raw) if raw[:1] in (b"{", b"[") else raw.decode()

    def web(self) -> Json:
        """Return the service's part of the status."""
        found: Json = self.call("GET", "/api/v1/status")[1]["services"]["web"]
        return found

    def control_words(self) -> list[Path]:
        """Return the descriptors of the control segments that the supervisor holds, by their paths in /proc."""
        found = []
        with contextlib.suppress(OSError):
            for path in Path(f"/proc/{self.pid}/fd").iterdir():
                with contextlib.suppress(OSError):
                    if "tidegate-control" in os.readlink(path):  # noqa: PTH115 - the text, not a path
                        found.append(path)
        return found


def _free_ports() -> tuple[int, int]:
    # Below the range from which the kernel takes ports for outgoing connections: nobody takes one between two starts.
    with contextlib.ExitStack() as held:
        found: list[int] = []
        while len(found) < 2:
            sock = held.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                sock.bind(("127.0.0.1", 20_000 + secrets.randbelow(10_000)))
                found.append(sock.getsockname()[1])
    return found[0], found[1]
