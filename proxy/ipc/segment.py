"""Shared-memory segments: anonymous mappings passed between processes by descriptor.

A segment is made by the supervisor (`create`), mapped by a worker from an inherited or received descriptor
(`attach`), and disappears with the last process that holds it: there is nothing to unlink after kill -9.
"""

from __future__ import annotations

import mmap
import os

from proxy.errors import SegmentMismatch
from proxy.ipc.layout import (
    HEADER_GENERATION,
    HEADER_HASH,
    HEADER_MAGIC,
    HEADER_SLOT,
    HEADER_WORDS_TOTAL,
    MAGIC,
    WORD,
)


class Segment:
    """A mapping of `size` 64-bit words; `words` is the view to read and write them."""

    __slots__ = ("_map", "fd", "size", "words")

    def __init__(self, fd: int, size: int) -> None:
        self.fd = fd
        self.size = size
        self._map = mmap.mmap(fd, size * WORD)
        self.words = memoryview(self._map).cast("Q")

    @classmethod
    def create(cls, name: str, size: int, layout_hash: int, *, slot: int = 0, generation: int = 0) -> Segment:
        """Make a zeroed segment of `size` words and write its header. `name` shows in /proc/PID/maps."""
        fd = os.memfd_create(f"tidegate-{name}", os.MFD_CLOEXEC)
        os.ftruncate(fd, size * WORD)
        segment = cls(fd, size)
        words = segment.words
        words[HEADER_HASH] = layout_hash
        words[HEADER_SLOT] = slot
        words[HEADER_GENERATION] = generation
        words[HEADER_WORDS_TOTAL] = size
        words[HEADER_MAGIC] = MAGIC
        return segment

    @classmethod
    def attach(cls, fd: int, layout_hash: int) -> Segment:
        """Map the segment behind `fd`; raise `SegmentMismatch` (and close it) when it is not of this layout."""
        size = os.fstat(fd).st_size // WORD
        if size > HEADER_WORDS_TOTAL:
            segment = cls(fd, size)
            if segment.words[HEADER_MAGIC] == MAGIC and segment.words[HEADER_HASH] == layout_hash:
                return segment
            segment.close()
        else:
            os.close(fd)
        raise SegmentMismatch(
            "the shared memory is of another layout: this process runs files of another release than its supervisor",
            cure="restart the supervisor",
        )

    def close(self) -> None:
        """Unmap and close; other processes keep their mapping."""
        self.words.release()
        self._map.close()
        os.close(self.fd)
