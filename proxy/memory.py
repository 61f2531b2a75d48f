"""Texts in memory that have a descriptor: for what wants to open a file, and for what crosses a process border.

Source: memfd_create(2).
"""

from __future__ import annotations

import os
from typing import Self


class MemoryFile:
    """A text in memory with a descriptor (`fd`) and, in this process, a `path`. `name` shows in /proc/PID/fd."""

    def __init__(self, name: str, content: bytes) -> None:
        self.fd = os.memfd_create(f"tidegate-{name}", os.MFD_CLOEXEC)
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(self.fd, rest) :]

    @property
    def path(self) -> str:
        """The path under which this process can open it, from its beginning."""
        return f"/proc/self/fd/{self.fd}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give it back."""
        os.close(self.fd)
