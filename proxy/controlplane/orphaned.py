"""The gates of orphans: what the workers of a dead supervisor still read is lowered by the next one too.

An orphan sends everything to stable by itself, but for a service in `completed`: there `new` is what everybody has, and
it goes on by the weight word of the generation that it was given (DESIGN §1, promises 7 and 9). Should that be rolled
back before the orphan has retired, one store has to reach it as well. So it hands its control segments over with its
sockets. Their words only ever fall: an orphan gets no user who was not on `new` before, whatever is decided by now.

Units: weights in 1/10,000, as in `proxy.ipc.layout`. One writer per word: the one before is dead.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from proxy.controlplane.generation import EPOCH_MASK
from proxy.ipc.layout import EPOCH_SHIFT, FLAG_WATCHDOG_OFF, WEIGHT_MASK
from proxy.ipc.segment import Segment


class Orphaned:
    """The weight words of all orphaned generations, by service."""

    def __init__(self) -> None:
        self._segments: dict[int, tuple[Segment, dict[str, int]]] = {}  # by inode: workers of one generation share it
        self._least: dict[str, tuple[int, int]] = {}  # weight and flags: orphans that come late are lowered then

    def adopt(self, fd: int, layout_hash: int, weights: Mapping[str, int]) -> None:
        """Take the control segment behind `fd` (it is ours now); `weights` says where the weight words stand.

        Raise `SegmentMismatch` when it is not of that layout, `ValueError` when a word is not in it.
        """
        inode = os.fstat(fd).st_ino
        if inode in self._segments:
            os.close(fd)
            return
        segment = Segment.attach(fd, layout_hash)
        if not all(0 <= at < segment.size for at in weights.values()):
            segment.close()
            raise ValueError("a weight word outside of its segment")
        self._segments[inode] = segment, dict(weights)
        for service, (weight_bp, flags) in self._least.items():
            _lower(segment, weights.get(service), weight_bp, flags)

    def keep_below(self, service: str, weight_bp: int, flags: int = 0) -> None:
        """Lower what is above this weight; a flag that is not given any more is cleared."""
        before, flags_before = self._least.get(service, (weight_bp, flags))
        self._least[service] = min(before, weight_bp), flags_before & flags
        for segment, weights in self._segments.values():
            _lower(segment, weights.get(service), weight_bp, flags)

    def close(self) -> None:
        """Unmap everything."""
        for segment, _ in self._segments.values():
            segment.close()
        self._segments.clear()


def _lower(segment: Segment, at: int | None, weight_bp: int, flags: int) -> None:
    if at is None:
        return
    word = segment.words[at]
    epoch = (word >> EPOCH_SHIFT) + 1 & EPOCH_MASK
    segment.words[at] = min(word & WEIGHT_MASK, weight_bp) | (word & flags & FLAG_WATCHDOG_OFF) | epoch << EPOCH_SHIFT
