"""Histograms and status codes: large blocks of words of which few change, read by difference.

A *scale* is one such block by name: the status codes or a histogram of a version, the user histogram of a service,
the proxy's own overhead. For every block of every region the words as last seen are kept; a `harvest` takes what
was added since, as sparse deltas (index → count), one per scale for all workers together. Cumulative sums of the
deltas are the totals: they survive the region by themselves. A total is an array of all its words (20 kB) from the
first count on: a dict would grow for days, with every latency that is met for the first time (128 kB with 1,600).

Cost: a block that did not change is found by comparing bytes (1 ns per word); in one that did, only the parts of 64
words that differ are unpacked, and they are looked for where something was counted before. A block in which nothing
was ever counted takes no memory.

Bytes are only compared, never counted: copying them promises nothing about words (`proxy.controlplane.totals`). Where
they differ from what was counted, the words are read, each by itself; a copy that was torn is looked at for nothing,
or once more in the next harvest.

Rule: a version's latency histograms are kept per set of thresholds that its table knew, because only there the exact
counts of a threshold are complete (`within`). Sets are as many as latency limits were ever configured: few.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import compress
from operator import ne
from typing import NamedTuple

from proxy.controlplane.generation import Generation
from proxy.errors import CounterWentBack
from proxy.ipc import layout
from proxy.ipc.segment import Segment
from proxy.metrics import hdr
from proxy.routing.table import NEW, STABLE

CODES, TOTAL, TTFB, USER, OVERHEAD = "codes", "total", "ttfb", "user", "overhead"
LATELY = (TOTAL, TTFB)  # those that the history keeps; the others are only shown since the start

Sparse = dict[int, int]

_PART = 64  # words that are compared at a time
_PART_BYTES = _PART * layout.WORD
_PLACES = range(layout.HDR_WORDS)
_NOTHING = memoryview(array("Q", bytes(layout.WORD * layout.HDR_WORDS)))
# So many bytes in which nothing was counted, shared by all blocks: what is small stays in the processor's cache.
_zeros = lru_cache(maxsize=256)(bytes)


class Scale(NamedTuple):
    """The name of a block. `service` "" and `version` -1: it belongs to none."""

    kind: str
    service: str = ""
    version: int = -1


class Block(NamedTuple):
    """Where a scale stands in the regions of one generation, and whose it is."""

    scale: Scale
    incarnation: int  # 0: of no version
    thresholds_us: tuple[int, ...]
    start: int
    words: int


class Delta(NamedTuple):
    """What was added to a scale since the last `take`."""

    scale: Scale
    incarnation: int
    counts: Sparse


class _Seen:
    """What was last seen of a block: its words, and between which bytes (in parts) anything was counted."""

    __slots__ = ("begin", "end", "words")

    def __init__(self, size: int) -> None:
        self.words = array("Q", _zeros(size))
        self.begin, self.end = size, 0

    def widen(self, raw: bytes) -> None:
        """Take note of where in the bytes of the block something is counted."""
        if raw.startswith(_zeros(self.begin)) and raw.endswith(_zeros(max(0, len(raw) - self.end))):
            return
        first, last = len(raw) - len(raw.lstrip(b"\0")), len(raw.rstrip(b"\0"))
        self.begin = min(self.begin, first - first % _PART_BYTES)
        self.end = max(self.end, last + -last % _PART_BYTES)


class Scales:
    """Cumulative scales by name, and what was last seen of every living region."""

    __slots__ = ("_blocks", "_pending", "_seen", "_totals")

    def __init__(self) -> None:
        # Per set of known thresholds; what is pending is not in it.
        self._totals: dict[Scale, dict[tuple[int, ...], array[int]]] = {}
        self._blocks: dict[int, list[Block]] = {}  # by generation
        self._seen: dict[tuple[int, int], list[_Seen | None]] = {}  # (generation, slot) → per block
        # What was harvested and not taken: scale → incarnation and known thresholds → what was added.
        self._pending: dict[Scale, dict[tuple[int, tuple[int, ...]], Sparse]] = {}

    def harvest(self, live: Sequence[Generation]) -> None:
        """Read all living regions; `take` returns what was added."""
        for generation in live:
            for slot, region in generation.counters.items():
                self._harvest(generation, slot, region, 0, 1)

    def harvest_lately(
        self, live: Sequence[Generation], part: int, parts: int, due: Callable[[Scale], bool] = lambda _: True
    ) -> None:
        """Read one of `parts` of what the history keeps, as far as it is `due` there."""
        for generation in live:
            for slot, region in generation.counters.items():
                self._harvest(generation, slot, region, part, parts, due)

    def take(self) -> list[Delta]:
        """Return the deltas of all harvests and folds since the last call; they are the caller's to read only."""
        pending, self._pending = self._pending, {}
        deltas: list[Delta] = []
        for scale, many in pending.items():
            totals = self._totals.setdefault(scale, {})
            for (incarnation, thresholds_us), counts in many.items():
                total = totals.get(thresholds_us)
                if total is None:
                    total = totals[thresholds_us] = array("Q", _zeros(layout.WORD * _words_of(scale)))
                for at, count in counts.items():
                    total[at] += count
                deltas.append(Delta(scale, incarnation, counts))
        return deltas

    def fold(self, generation: Generation, slot: int, region: Segment) -> None:
        """Read a region for the last time."""
        self._harvest(generation, slot, region, 0, 1)
        del self._seen[generation.number, slot]

    def forget_gone(self, live: Sequence[Generation]) -> None:
        """Drop what belongs to generations that ended."""
        numbers = {generation.number for generation in live}
        self._blocks = {number: blocks for number, blocks in self._blocks.items() if number in numbers}

    def total(self, scale: Scale) -> Sparse:
        """Return all that was ever harvested of a scale."""
        return hdr.merge(counts for _, counts in self._parts(scale))

    def total_without(self, scale: Scale, threshold_us: int) -> Sparse:
        """Return the part of `total` whose table did not know a threshold."""
        return hdr.merge(counts for known, counts in self._parts(scale) if threshold_us not in known)

    def _harvest(
        self,
        generation: Generation,
        slot: int,
        region: Segment,
        part: int,
        parts: int,
        due: Callable[[Scale], bool] | None = None,
    ) -> None:
        blocks = self._blocks.get(generation.number)
        if blocks is None:
            blocks = self._blocks[generation.number] = _blocks_of(generation)
        seen = self._seen.setdefault((generation.number, slot), [None] * len(blocks))
        words = region.words
        for number in range(part, len(blocks), parts):
            block = blocks[number]
            if due is not None:
                if block.scale.kind not in LATELY:
                    break  # they stand behind the others
                if not due(block.scale):
                    continue
            now = words[block.start : block.start + block.words]
            raw = bytes(now)
            before = seen[number]
            if before is None:
                if raw == _zeros(len(raw)):
                    continue
                before = seen[number] = _Seen(len(raw))
            before.widen(raw)
            raw = raw[before.begin : before.end]
            known = before.words[before.begin // layout.WORD : before.end // layout.WORD].tobytes()
            if raw != known:
                pending = self._pending.setdefault(block.scale, {})
                _grow(pending.setdefault((block.incarnation, block.thresholds_us), {}), now, before, raw, known)

    def _parts(self, scale: Scale) -> Iterator[tuple[tuple[int, ...], Sparse]]:
        """Yield all that was ever harvested of a scale, each part with the thresholds that its table knew."""
        for thresholds_us, words in self._totals.get(scale, {}).items():
            yield thresholds_us, _sparse(memoryview(words))
        for (_, thresholds_us), counts in self._pending.get(scale, {}).items():
            yield thresholds_us, counts


def _blocks_of(generation: Generation) -> list[Block]:
    """Return the blocks of a generation, those that the history keeps first."""
    places = generation.counters_layout
    blocks = [Block(Scale(OVERHEAD), 0, (), places.process + layout.PROCESS_OVERHEAD_HDR, layout.HDR_WORDS)]
    for index, service in enumerate(generation.table.services):
        name = service.name
        start = places.services[index] + layout.SERVICE_USER_HDR
        blocks.append(Block(Scale(USER, name), 0, (), start, layout.HDR_WORDS))
        for version in (STABLE, NEW):
            at = places.versions[index][version]
            life = generation.incarnations[index][version]
            thresholds, first = service.thresholds_us, service.ttfb_thresholds_us
            blocks += [
                Block(Scale(CODES, name, version), life, (), at + layout.VERSION_CODES, layout.CODES),
                Block(Scale(TOTAL, name, version), life, thresholds, at + layout.VERSION_TOTAL_HDR, layout.HDR_WORDS),
                Block(Scale(TTFB, name, version), life, first, at + layout.VERSION_TTFB_HDR, layout.HDR_WORDS),
            ]
    return sorted(blocks, key=lambda block: block.scale.kind not in LATELY)


def _grow(counts: Sparse, now: memoryview, before: _Seen, raw: bytes, known: bytes) -> None:
    """Add to `counts` what the words of a block grew by, and bring `before` up to date.

    `raw` and `known` are the bytes of `now` and of `before` from where anything was counted.
    """
    words = before.words
    for start in range(0, len(raw), _PART_BYTES):
        if raw[start : start + _PART_BYTES] == known[start : start + _PART_BYTES]:
            continue
        first = (before.begin + start) // layout.WORD
        new, old = now[first : first + _PART].tolist(), words[first : first + _PART].tolist()
        for at in compress(range(len(new)), map(ne, new, old)):
            grown = new[at] - old[at]
            if grown < 0:
                raise CounterWentBack(f"word {first + at} of a block shrank from {old[at]} to {new[at]}")
            counts[first + at] = counts.get(first + at, 0) + grown
            words[first + at] = new[at]


def _words_of(scale: Scale) -> int:
    return layout.CODES if scale.kind == CODES else layout.HDR_WORDS


def _sparse(words: memoryview) -> Sparse:
    if words == _NOTHING[: len(words)]:
        return {}
    counts = words.tolist()
    return dict(zip(compress(_PLACES, counts), filter(None, counts), strict=True))
