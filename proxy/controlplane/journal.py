"""The events of all services: numbered, told to those who follow, and found again.

An *event* is the object of GET /api/v1/events: {seq, time, service, type, actor, reason, before, after, evidence}.
Its number is given when it is made, so that it is stored in the same transaction as the change it tells of; it is
*announced* (shown, followed, logged) after that, in the order of the numbers: whoever follows and comes back with
the last number misses nothing. A number whose change was refused is dropped and never used again. The newest events
are kept in memory, packed: status and followers never wait for the disk, and a rollout that reports its progress for
days holds no more than one of an hour (a report with eight limits is 160 objects, and packed 0.8 kB).
"""

from __future__ import annotations

import asyncio
import json
import logging
import zlib
from collections import deque
from collections.abc import AsyncIterator, Collection
from itertools import islice
from typing import NamedTuple

from proxy.controlplane.operations import Json
from proxy.controlplane.store import Store
from proxy.rollout import told
from proxy.rollout.effect import Note

KEPT = 200  # events in memory
PAGE = 100  # events that a follower gets at a time
AT_ONCE = 20  # so many are unpacked in the loop; more (80 ms for 1,000) would hold up the beat when many ask at once

log = logging.getLogger("tidegate.events")


class Packed(NamedTuple):
    """An event as it is kept in memory."""

    seq: int
    service: str
    type: str
    raw: bytes

    def event(self) -> Json:
        """Return the event."""
        found: Json = json.loads(zlib.decompress(self.raw))
        return found


class Journal:
    """Makes events, announces them, finds them."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._seq = 0
        self._next = 1  # the number that is announced next
        self._waiting: dict[int, Json | None] = {}  # announced out of order, or dropped
        self._tail: deque[Packed] = deque(maxlen=KEPT)
        self._last: dict[str, Json] = {}
        self._changed = asyncio.Event()
        self._closed = False

    def begin(self, last_seq: int) -> None:
        """Go on after the stored events, the last of which has the number `last_seq`; raise `StateError`."""
        self._seq, self._next = last_seq, last_seq + 1
        for event in self._store.last_events(KEPT):
            self._keep(event)

    def make(self, service: str, note: Note, time: float, evidence: Json | None = None) -> Json:
        """Return the next event; `time` in seconds since the Unix epoch, `evidence` comes on top of the note's."""
        self._seq += 1
        return {
            "seq": self._seq,
            "time": round(time, 6),
            "service": service,
            "type": note.type,
            "actor": note.actor,
            "reason": note.reason,
            "before": dict(note.before),
            "after": dict(note.after),
            "evidence": {**note.evidence, **(evidence or {})},
        }

    def announce(self, event: Json) -> None:
        """Tell followers and the log, after the events before it."""
        self._waiting[event["seq"]] = event
        self._release()

    def drop(self, event: Json) -> None:
        """Take back an event of a change that was refused."""
        self._waiting[event["seq"]] = None
        self._release()

    def last(self, service: str) -> Json | None:
        """Return the newest event of a service."""
        return self._last.get(service)

    def newest(self, service: str, types: Collection[str]) -> str | None:
        """Return which of these types the service's newest event of them has, as far as events are in memory."""
        kinds = (one.type for one in reversed(self._tail) if one.service == service)
        return next((kind for kind in kinds if kind in types), None)

    async def since(self, seq: int, limit: int) -> list[Json]:
        """Return up to `limit` announced events with a number above `seq`, oldest first."""
        if self._tail and self._tail[0].seq > max(seq, 0) + 1:
            # Older than what is in memory: the store is asked, which waits for the disk. The loop does not.
            last = self._next - 1
            stored = await asyncio.wrap_future(self._store.events(seq, limit))
            return [event for event in stored if event["seq"] <= last]
        found = list(islice((one for one in self._tail if one.seq > seq), limit))
        if len(found) <= AT_ONCE:
            return [one.event() for one in found]
        return await asyncio.to_thread(lambda: [one.event() for one in found])

    async def follow(self, seq: int) -> AsyncIterator[Json]:
        """Yield events with a number above `seq`, those to come too, until `close`.

        Who has seen a number that was never given followed another journal: this one is told from its beginning.
        """
        if seq >= self._next:
            seq = 0
        while True:
            changed = self._changed
            page = await self.since(seq, PAGE)
            for event in page:
                yield event
                seq = event["seq"]
            if page:
                continue
            if self._closed:
                return
            await changed.wait()

    def close(self) -> None:
        """End all followers once they have what there is."""
        self._closed = True
        self._changed.set()

    def _keep(self, event: Json) -> None:
        raw = zlib.compress(json.dumps(event).encode(), 1)
        self._tail.append(Packed(event["seq"], event["service"], event["type"], raw))
        self._last[event["service"]] = event

    def _release(self) -> None:
        while self._next in self._waiting:
            event = self._waiting.pop(self._next)
            self._next += 1
            if event is not None:
                self._keep(event)
                log.info("%s", _line(event))
        self._changed.set()
        self._changed = asyncio.Event()


def _in(sentence: str, value: object) -> bool:
    """Tell whether a text, or every text of a list, stands in a sentence."""
    return all(isinstance(one, str) and one in sentence for one in (value if isinstance(value, list) else [value]))


def _line(event: Json) -> str:
    """Return an event as a line of the log: its type, its sentence (`proxy.rollout.told`), the rest as name=value."""
    sentence = told.sentence(event)
    parts = [f"{event['type']}: {sentence}"]
    parts += [f"revision={event['after']['revision']}"] if event["after"].get("revision") is not None else []
    parts += [
        f"{key}={value}"
        for key, value in event["evidence"].items()
        if key not in (told.PROBLEMS, told.ROLLOUT) and not _in(sentence, value)
    ]
    # What people typed must not begin a line of its own.
    return "".join(char if char.isprintable() else " " for char in " ".join(parts))
