"""What goes along with a message as a memory file: JSON of any length, read when the message is.

A message on the channel should fit the socket's buffer, so that nobody waits while a worker is busy or starts; and only
253 descriptors go with one. Certificates and routing tables know no such bounds: each goes as one enclosure.
"""

from __future__ import annotations

import os
from typing import Any

import orjson

from proxy.memory import MemoryFile


def enclose(name: str, content: Any) -> MemoryFile:
    """Return what is to go along; the caller closes it when the message was sent."""
    return MemoryFile(name, orjson.dumps(content))


def enclosed(fd: int) -> Any:
    """Return what came along in a descriptor, which stays open; raise `ValueError` or `OSError` if that is none."""
    # Not by reading: the place is shared with everybody who was sent the same file.
    return orjson.loads(os.pread(fd, os.fstat(fd).st_size, 0))
