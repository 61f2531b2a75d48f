"""The log of a running proxy: lines on standard error, for which nobody waits.

The supervisor judges several times a second. Whoever reads its lines (a program behind a pipe, journald) may stall,
and a plain write would then hold up the judge, and so send everybody to `stable`. Therefore a `Sink`.
"""

from __future__ import annotations

import logging

from proxy.dataplane.sink import Sink

STDERR = 2


class Lines(logging.Handler):
    """Writes records as lines to a sink, and says how many were lost as soon as there is room again.

    Whoever runs it calls `flush` now and then: what waits for a slow reader is else written with the next record only.
    """

    def __init__(self, sink: Sink) -> None:
        super().__init__()
        self._sink = sink
        self._lost = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record."""
        try:
            text = self.format(record)
        except Exception:  # noqa: BLE001 -- as every handler: whoever logs must not fail by it
            self.handleError(record)
            return
        self._lost += self._sink.write([])
        lost = self._sink.write([(self._told() + text).encode(errors="backslashreplace") + b"\n"])
        self._lost = self._lost + lost if lost else 0

    def flush(self) -> None:
        """Write what waits and how many lines were lost, as far as it is taken now."""
        self.acquire()  # other threads log, too
        try:
            self._lost += self._sink.write([])
            if self._lost and not self._sink.write([self._told().encode()]):
                self._lost = 0
        finally:
            self.release()

    def _told(self) -> str:
        """Return what is said of lost lines, "" if none was."""
        return f"{self._lost} lines of this log were lost: {self._sink.fault}\n" if self._lost else ""
