"""What was measured lately: windows of judged integers, and histograms of the last ten minutes.

Judged integers are kept per block for the longest window; histograms as what was added, in *slices*: one a second
for a minute, then one per ten seconds for ten minutes. A slice holds packed pairs (index, count) of the scales
that changed in it: some hundred bytes per version where whole histograms would be 20 kB.

First bytes of a service are kept by the second only while a limit on them is in force (`watch_first_bytes`), else by
ten seconds: it would be a seventh of the work of a tick, and nobody looks.

Rule: a version that becomes another one (another incarnation) begins with an empty history; what its predecessor
still has in flight is not added to it.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import NamedTuple

from proxy.controlplane.scales import LATELY, TOTAL, TTFB, Delta, Scale, Sparse
from proxy.metrics import hdr
from proxy.metrics.snapshot import Columns, Judged, Snapshot, nothing
from proxy.metrics.window import Ring, Window
from proxy.routing.table import NEW, STABLE

FINE_S, FINE_SLICES = 1.0, 60
COARSE_SLICES = 60
FINE_PER_COARSE = 10


class Packed(NamedTuple):
    """A sparse histogram in 3 bytes per counter, in 6 where one is above 255."""

    indices: array[int]
    counts: bytes | array[int]


class Slice(NamedTuple):
    """What was added to each scale from `begin_s` to `end_s` (monotonic seconds)."""

    begin_s: float
    end_s: float
    parts: dict[Scale, Packed]


class _Running:
    """The sum of a scale over many slices, brought up to date by those that came and went since it was asked for."""

    __slots__ = ("counts", "slices")

    def __init__(self) -> None:
        self.counts: Sparse = {}
        self.slices: dict[int, Slice] = {}

    def over(self, scale: Scale, slices: Iterable[Slice]) -> Sparse:
        """Return the sum over these slices."""
        before, self.slices = self.slices, {id(one): one for one in slices}
        for key in self.slices.keys() - before.keys():
            if scale in self.slices[key].parts:
                hdr.add(self.counts, _unpack(self.slices[key].parts[scale]))
        for key in before.keys() - self.slices.keys():
            if scale in before[key].parts:
                hdr.subtract(self.counts, _unpack(before[key].parts[scale]))
        return dict(self.counts)


class History:
    """Filled by the collector, read by the judge, the status and the admin API."""

    __slots__ = (
        "_coarse",
        "_fine",
        "_first_bytes",
        "_growing",
        "_growing_slices",
        "_latest",
        "_lives",
        "_merged",
        "_running",
        "_since",
        "_splits",
        "_windows",
    )

    def __init__(self) -> None:
        self._windows: dict[tuple[str, int], Window] = {}
        self._splits: dict[str, Ring] = {}
        self._lives: dict[tuple[str, int], int] = {}
        self._since: dict[tuple[str, int], float] = {}  # when the version's history of histograms begins
        self._fine: deque[Slice] = deque(maxlen=FINE_SLICES)
        self._coarse: deque[Slice] = deque(maxlen=COARSE_SLICES)
        self._growing: dict[Scale, Sparse] = {}  # the next coarse slice: what was added since the last one
        self._growing_slices = 0
        self._latest: float | None = None  # end of the newest slice
        self._merged: dict[tuple[Scale, float], tuple[Sparse, float]] = {}
        self._running: dict[Scale, _Running] = {}  # of scales that were asked for over more than a minute
        self._first_bytes: set[str] = set()  # of these services they are kept by the second

    def over(self, service: str, version: int, seconds: float) -> tuple[Judged, float]:
        """Return what was judged in the last `seconds`, and the seconds that this covers.

        It is less than asked only at the beginning of the process or of an incarnation.
        """
        window = self._windows.get((service, version))
        return (nothing(), 0.0) if window is None else window.over(seconds)

    def share_of_new(self, service: str, seconds: float) -> float | None:
        """Return the share of requests that the split gave to `new` in the last `seconds`; `None` without any."""
        ring = self._splits.get(service)
        if ring is None:
            return None
        (new, every), _ = ring.over(seconds)
        return new / every if every else None

    def histogram(self, service: str, version: int, phase: str, seconds: float) -> tuple[Sparse, float]:
        """Return the histogram of about the last `seconds` (to 600), and the seconds that it covers.

        `phase`: "total" or "ttfb". It ends with the newest whole second; beyond a minute it is cut at ten seconds, and
        so are first bytes that no limit is put on, at both ends.
        """
        scale = Scale(TOTAL if phase == TOTAL else TTFB, service, version)
        found = self._merged.get((scale, seconds))
        if found is None:
            found = self._merged[scale, seconds] = self._merge(scale, seconds)
        counts, covered = found
        return dict(counts), covered

    @property
    def newest_s(self) -> float | None:
        """The end of the newest second of histograms (monotonic s), `None` before the first one begins."""
        return self._latest

    def add(self, snapshot: Snapshot) -> None:
        """Add a block's snapshot to the windows."""
        for name, service in snapshot.services.items():
            columns = service.columns
            for version in (STABLE, NEW):
                counts = service.versions[version]
                key = (name, version)
                window = self._windows.get(key)
                if window is None or self._lives[key] != counts.incarnation:
                    window = self._begin(key, counts.incarnation, columns, snapshot.time_s)
                elif window.columns != columns:
                    window = self._windows[key] = window.with_columns(columns)
                window.append(snapshot.time_s, counts.judged)
            split = self._splits.get(name)
            if split is None:
                split = self._splits[name] = Ring(2)
            stable, new = service.versions
            split.append(snapshot.time_s, (new.by_split, stable.by_split + new.by_split))
        for name in self._splits.keys() - snapshot.services.keys():
            self._end(name)

    def watch_first_bytes(self, service: str, *, watched: bool) -> None:
        """Keep the first bytes of a service by the second from now on, or not any more."""
        if watched:
            self._first_bytes.add(service)
        else:
            self._first_bytes.discard(service)
        self._merged.clear()

    def due(self, scale: Scale) -> bool:
        """Tell whether a scale is to be read for the next slice."""
        return scale.kind == TOTAL or scale.service in self._first_bytes or self._growing_slices == FINE_PER_COARSE - 1

    def slice_due(self, now_s: float) -> bool:
        """Tell whether the next slice of histograms is due; the very first call begins the first slice."""
        if self._latest is None:
            self._latest = now_s
        return now_s - self._latest >= FINE_S

    def add_slice(self, now_s: float, deltas: Iterable[Delta]) -> None:
        """Add what was added to the scales since the last slice."""
        added: dict[Scale, Sparse] = {}
        for scale, incarnation, counts in deltas:
            if scale.kind in LATELY and self._lives.get((scale.service, scale.version)) == incarnation:
                added[scale] = hdr.merge([added[scale], counts]) if scale in added else counts
        begin_s = now_s if self._latest is None else self._latest
        self._fine.append(Slice(begin_s, now_s, {scale: _pack(counts) for scale, counts in added.items()}))
        self._latest = now_s
        self._merged.clear()
        # A coarse slice grows by a fine one at a time, so that no single block has to merge ten.
        for scale, counts in added.items():
            hdr.add(self._growing.setdefault(scale, {}), counts)
        self._growing_slices += 1
        if self._growing_slices == FINE_PER_COARSE:
            begin_s = self._fine[-FINE_PER_COARSE].begin_s
            self._coarse.append(
                Slice(begin_s, now_s, {scale: _pack(counts) for scale, counts in self._growing.items()})
            )
            self._growing = {}
            self._growing_slices = 0

    def _merge(self, scale: Scale, seconds: float) -> tuple[Sparse, float]:
        if self._latest is None:
            return {}, 0.0
        if scale.kind == TTFB and scale.service not in self._first_bytes:
            return self._sum(scale, seconds, reversed(self._coarse), self._coarse[-1].end_s if self._coarse else 0.0)
        # Coarse slices end where the fine ones that follow them begin: no second is missed or counted twice.
        slices = reversed(self._fine) if seconds <= FINE_S * FINE_SLICES else self._from_coarse()
        return self._sum(scale, seconds, slices, self._latest)

    def _sum(self, scale: Scale, seconds: float, slices: Iterable[Slice], end_s: float) -> tuple[Sparse, float]:
        """Return what the slices hold, newest first, until they cover so many seconds, and the seconds that they do."""
        chosen: list[Slice] = []
        reach = end_s
        for one in slices:
            if end_s - reach >= seconds:
                break
            reach = one.begin_s
            chosen.append(one)
        reach = max(reach, self._since.get((scale.service, scale.version), reach))
        if seconds > FINE_S * FINE_SLICES:
            counts = self._running.setdefault(scale, _Running()).over(scale, chosen)
        else:
            counts = hdr.merge(_unpack(one.parts[scale]) for one in chosen if scale in one.parts)
        return counts, max(0.0, end_s - reach)

    def _from_coarse(self) -> Iterator[Slice]:
        """Yield the fine slices that no coarse one has yet, and all coarse ones, newest first."""
        yield from islice(reversed(self._fine), self._growing_slices)
        yield from reversed(self._coarse)

    def _begin(self, key: tuple[str, int], incarnation: int, columns: Columns, now_s: float) -> Window:
        if key in self._lives:
            self._since[key] = now_s
        self._lives[key] = incarnation
        for one in (*self._fine, *self._coarse):
            for kind in LATELY:
                one.parts.pop(Scale(kind, *key), None)
        for kind in LATELY:
            self._growing.pop(Scale(kind, *key), None)
            self._running.pop(Scale(kind, *key), None)
        self._merged.clear()
        window = self._windows[key] = Window(columns)
        return window

    def _end(self, name: str) -> None:
        del self._splits[name]
        self._first_bytes.discard(name)
        for version in (STABLE, NEW):
            del self._windows[name, version]
            for kind in LATELY:
                self._running.pop(Scale(kind, name, version), None)


def _pack(counts: Sparse) -> Packed:
    indices = array("H", list(counts))  # of a list, it is exactly as large as it has to be
    few = max(counts.values(), default=0) < 256
    return Packed(indices, bytes(counts.values()) if few else array("I", list(counts.values())))


def _unpack(packed: Packed) -> Sparse:
    return dict(zip(packed.indices, packed.counts, strict=True))
