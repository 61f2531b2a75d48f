"""Looking from outside, all the time, at what may never be: the checks of the kill game.

Nothing here asks the proxy. A *sample*, taken every 20 ms, reads the weight words of the supervisor's shared memory,
the latch file, and the row in the state file through a connection of its own, supervisor alive or not. Beside them
stand the endpoints' books. What is checked:

* no word is above the stored weight, and none is above 0 while the latch is shut;
* whoever came to `new` had a bucket below a weight that was stored between the sample before they were sent and the
  one after they arrived: with the salt that was stored then;
* nobody who was sent while the latch was shut came to `new`;
* the events of the service follow each other without a gap: each transition begins with the revision that the one
  before has ended with, and the last ends with the stored one.
"""

from __future__ import annotations

import json
import mmap
import sqlite3
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from loadtests.kills.proxy import Json, Proxy
from loadtests.kills.traffic import TIMEOUT_S, Arrival, Traffic
from proxy.controlplane.latch import HEADER
from proxy.ipc.layout import CONTROL_WEIGHT, HEADER_WORDS, WEIGHT_MASK, WORD
from proxy.routing.split import bucket, seed_of

EVERY_S = 0.02
SCAN_S = 0.1
KEPT_NS = int((TIMEOUT_S + 2.0) * 1e9)
LOOKS = 3  # a word and a row cannot be read at one instant: one that is above must stay so


@dataclass(frozen=True, slots=True)
class Stored:
    """What the state file says at the instant `at_ns`; weight in 1/10,000; `rollout` as it is stored."""

    at_ns: int
    weight_bp: int
    salt: str
    phase: str
    revision: int
    rollout: Json | None
    shut: bool = False  # the latch, read just before


@dataclass(frozen=True, slots=True)
class Violation:
    """What may never be, in words."""

    what: str


class Watch:
    """Samples, books and events of one proxy with one service `web`."""

    def __init__(self, proxy: Proxy, traffic: Traffic) -> None:
        self.violations: list[Violation] = []
        self.transitions = 0
        self.samples = 0
        self.rollbacks: set[int] = set()  # revisions of those whose hook is looked for
        self.rolled_back = 0
        self.checked = 0  # arrivals at `new`
        self.words_seen = 0
        self._proxy = proxy
        self._traffic = traffic
        self._store: sqlite3.Connection | None = None
        self._latch: memoryview | None = None
        self._kept: deque[Stored] = deque()
        self._arrivals: deque[Arrival] = deque()
        self._read_to = 0
        self._words: dict[str, memoryview] = {}
        self._scanned = 0.0
        self._seq = 0
        self._revision: int | None = None

    # --- samples -------------------------------------------------------------------------------------------------

    def until(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Take samples until the condition is true, or for so long; return whether it was."""
        end = time.monotonic() + seconds
        while not condition():
            self.sample()
            if time.monotonic() > end:
                return False
            time.sleep(EVERY_S)
        return True

    def pass_time(self, seconds: float) -> None:
        """Take samples for so long."""
        self.until(lambda: False, seconds)

    def forget_words(self) -> None:
        """Drop the supervisor's memory: it was killed."""
        self._words.clear()
        self._scanned = 0.0

    def sample(self) -> Stored | None:
        """Read everything once, and check what is final."""
        self._scan()
        words = list(self._words.values())
        found = self._stored()
        if found is None:
            return None
        self.samples += 1
        for word in words:
            self._check_word(word)
        self._kept.append(found)
        self._check_arrivals(found.at_ns)
        return found

    @property
    def shut(self) -> bool:
        """Whether the latch is shut."""
        if self._latch is None:
            path = self._proxy.state.with_name(self._proxy.state.name + ".latch")
            try:
                with path.open("rb") as file:
                    self._latch = memoryview(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)).cast("Q")
            except (OSError, ValueError):
                return False
        return self._latch[HEADER // WORD] != 0  # the first record is the only service's

    def stored(self) -> Stored:
        """Return what is stored now."""
        found = self._stored()
        if found is None:
            raise RuntimeError("nothing is stored")
        return found

    def _stored(self) -> Stored | None:
        shut = self.shut
        try:
            if self._store is None:
                if not self._proxy.state.exists():
                    return None
                self._store = sqlite3.connect(f"file:{self._proxy.state}?mode=ro", uri=True, isolation_level=None)
            row = self._store.execute("SELECT weight_bp, salt, phase, revision, rollout FROM services").fetchone()
        except sqlite3.OperationalError:
            return None
        if row is None:
            return None
        weight_bp, salt, phase, revision, rollout = row
        rollout = None if rollout is None else json.loads(rollout)
        return Stored(time.monotonic_ns(), weight_bp, salt, phase, revision, rollout, shut)

    def _scan(self) -> None:
        now = time.monotonic()
        if now - self._scanned < SCAN_S:
            return
        self._scanned = now
        for path in self._proxy.control_words():
            if str(path) not in self._words:
                try:
                    with path.open("rb") as file:
                        mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
                    self._words[str(path)] = memoryview(mapped)[: len(mapped) // WORD * WORD].cast("Q")
                except (OSError, ValueError):
                    continue

    def _check_word(self, words: memoryview) -> None:
        above: list[tuple[int, int, bool]] = []
        for _ in range(LOOKS):
            weight_bp = words[HEADER_WORDS + CONTROL_WEIGHT] & WEIGHT_MASK
            stored = self.stored()
            self.words_seen += 1
            if weight_bp <= (0 if stored.shut else stored.weight_bp):
                return
            above.append((weight_bp, stored.weight_bp, stored.shut))
        self.wrong(f"word, stored weight, latch shut: {above}")

    # --- books ---------------------------------------------------------------------------------------------------

    def _check_arrivals(self, until_ns: int) -> None:
        """Check those that came before the last sample but one, and forget what nobody needs any more."""
        book = self._traffic.new.book
        while self._read_to < len(book):
            self._arrivals.append(book[self._read_to])
            self._read_to += 1
        if self._read_to > 10_000:
            del book[: self._read_to]
            self._read_to = 0
        while self._arrivals and self._arrivals[0].arrived_ns < until_ns:
            self._check_arrival(self._arrivals.popleft())
        # A request may have waited in a queue for as long as its client does.
        while len(self._kept) > 2 and self._kept[1].at_ns < until_ns - KEPT_NS:
            self._kept.popleft()

    def _check_arrival(self, arrival: Arrival) -> None:
        self.checked += 1
        during = self._during(arrival.sent_ns, arrival.arrived_ns)
        if not any(bucket(arrival.user, seed_of(one.salt)) < one.weight_bp for one in during):
            weights = sorted({(one.weight_bp, one.phase) for one in during})
            self.wrong(f"{arrival.user.decode()} came to new, above the stored weights {weights}")
        if all(one.shut for one in during) and len(during) > 1:
            self.wrong(f"{arrival.user.decode()} came to new, sent while the latch was shut")

    def _during(self, from_ns: int, to_ns: int) -> list[Stored]:
        """Return the samples from the last before the one instant to the first after the other."""
        found: list[Stored] = []
        for one in reversed(self._kept):
            if one.at_ns > to_ns:
                found[:] = [one]
                continue
            found.append(one)
            if one.at_ns <= from_ns:
                break
        return found

    # --- events --------------------------------------------------------------------------------------------------

    def read_events(self) -> None:
        """Read what was added to the journal, and check that nothing is missing."""
        if self._store is None:
            return
        rows = self._store.execute(
            "SELECT seq, type, before, after FROM events WHERE seq > ? ORDER BY seq", (self._seq,)
        ).fetchall()
        for seq, kind, before, after in rows:
            self._seq = seq
            was, now = json.loads(before).get("revision"), json.loads(after).get("revision")
            if now is None or was == now:
                continue
            if self._revision is not None and was != self._revision:
                self.wrong(f"event {seq} {kind} leads from revision {was}, the one before led to {self._revision}")
            self._revision = now
            self.transitions += 1
            if kind == "RolledBack":
                self.rollbacks.add(now)
                self.rolled_back += 1

    def check_events(self) -> None:
        """Check the journal against the row; the supervisor must be dead."""
        self.read_events()
        stored = self.stored()
        if self._revision is not None and stored.revision != self._revision:
            self.wrong(f"stored is revision {stored.revision}, the last event led to {self._revision}")

    def wrong(self, what: str) -> None:
        """Note a violation."""
        self.violations.append(Violation(what))
