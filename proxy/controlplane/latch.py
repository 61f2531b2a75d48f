"""The latch: one word per service that says "shut", and that no crash opens.

The gate of a service is shut by one store into shared memory, which dies with the processes. The latch is its twin
in a file beside the state: the file is mapped, and the store of one aligned 64-bit word is in the kernel's page
cache at once, so that it survives kill -9 of every process without any system call on the way. (A power failure is
what SQLite's commit is for; it follows some milliseconds later.) At start the latch wins over the store.

File: a header of four words (magic, version, number of records, 0), then records of 256 bytes: the word, the length
of the service's name, the name in UTF-8. A record is made when a service appears, never while shutting, and
its blocks are allocated, so that a full disk cannot turn the store into SIGBUS. Words are written only through
`memoryview.cast("Q")`, which cannot tear (DESIGN §3).

The word: 0 = open. Else bits 0…31 seconds since the Unix epoch · 32…47 index in `REASONS` · 63 shut.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from proxy.errors import StateError
from proxy.rollout.state import DRILL, LATCHED, MAX_HOLD_OVER, NO_HEALTHY_ENDPOINT, OPERATOR_ROLLBACK

MAGIC = 0x5449_4445_4C41_5431  # "TIDELAT1"
VERSION = 1
WORD = 8
HEADER = 4 * WORD
RECORD = 256
NAME_BYTES = RECORD - 2 * WORD
LEAST_RECORDS = 16

SHUT = 1 << 63
SECONDS_MASK = (1 << 32) - 1
REASON_SHIFT = 32
REASON_MASK = 0xFFFF

AWAY = "move the file away only if you know that no service has to stay shut"

# Codes are in files: only add at the end. 0 stands for a reason that is not listed.
REASONS = (
    LATCHED,
    OPERATOR_ROLLBACK,
    NO_HEALTHY_ENDPOINT,
    "ErrorRateAboveLimit",
    "AvailabilityBelowLimit",
    "ClientErrorRateAboveLimit",
    "P50AboveLimit",
    "P90AboveLimit",
    "P95AboveLimit",
    "P99AboveLimit",
    "P999AboveLimit",
    MAX_HOLD_OVER,
    DRILL,
    "ErrorRateAboveStable",
    "P50AboveStable",
    "P90AboveStable",
    "P95AboveStable",
    "P99AboveStable",
    "P999AboveStable",
    "TtfbP50AboveLimit",
    "TtfbP90AboveLimit",
    "TtfbP95AboveLimit",
    "TtfbP99AboveLimit",
    "TtfbP999AboveLimit",
)


@dataclass(frozen=True, slots=True)
class Shut:
    """What a shut latch says: why, and when in whole seconds since the Unix epoch."""

    reason: str
    at: int


class Latch:
    """The latches of all services; `path` is `None` when they are in memory (there is no state to survive)."""

    def __init__(self, path: Path | None, fd: int, names: list[str]) -> None:
        self.path = path
        self._fd = fd
        self._index = {name: index for index, name in enumerate(names)}
        self._prepared: list[str] = []  # whose records are written, and not counted yet
        self._map: mmap.mmap | None = None
        self._words = memoryview(b"")
        self._remap()

    @classmethod
    def open(cls, path: Path | None) -> Latch:
        """Open the latch file, or make it; raise `StateError` when it is no whole latch file. It is never replaced."""
        if path is None:
            fd = os.memfd_create("tidegate-latch", os.MFD_CLOEXEC)
            _initialise(fd)
            return cls(None, fd, [])
        try:
            if not path.exists():
                _create(path)
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise StateError(
                f"the latch file cannot be opened: {error.strerror}",
                where=str(path),
                cure="check the path and its owner",
            ) from error
        try:
            return cls(path, fd, _names(fd, path))
        except StateError:
            os.close(fd)
            raise

    def prepare(self, services: Iterable[str]) -> None:
        """Write the records that `register` will need; raise `StateError` when the disk is full.

        It waits for the disk, so that a running supervisor does it in a thread: meanwhile latches are shut and cleared.
        """
        self._prepared = fresh = [name for name in dict.fromkeys(services) if name not in self._index]
        if not fresh:
            return
        count = len(self._index)
        try:
            size = HEADER + RECORD * max(LEAST_RECORDS, count + len(fresh))
            if os.fstat(self._fd).st_size < size:
                os.posix_fallocate(self._fd, 0, size)
            for offset, name in enumerate(fresh):
                raw = _raw(name, self.path)
                record = bytes(WORD) + len(raw).to_bytes(WORD, "little") + raw.ljust(NAME_BYTES, b"\0")
                os.pwrite(self._fd, record, HEADER + RECORD * (count + offset))
            os.fsync(self._fd)
        except OSError as error:
            raise StateError(
                f"the latch file cannot grow: {error.strerror}", where=str(self.path), cure="make room on the disk"
            ) from error

    def register(self, services: Iterable[str]) -> None:
        """Make a record for each service that has none, at once if it is prepared; raise `StateError` as `prepare`."""
        fresh = [name for name in dict.fromkeys(services) if name not in self._index]
        if not fresh:
            return
        if fresh != self._prepared:
            self.prepare(fresh)
        count = len(self._index)
        if len(self._words) * WORD < HEADER + RECORD * (count + len(fresh)):
            self._remap()
        # The number comes last: a record that is not counted does not exist.
        self._words[2] = count + len(fresh)
        for offset, name in enumerate(fresh):
            self._index[name] = count + offset

    def shut(self, service: str, reason: str, at: float) -> None:
        """Shut: one store. `at` is in seconds since the Unix epoch; the service must be registered."""
        code = REASONS.index(reason) if reason in REASONS else 0
        word = SHUT | code << REASON_SHIFT | int(at) & SECONDS_MASK
        self._words[self._position(service)] = word

    def clear(self, service: str) -> None:
        """Open: one store."""
        self._words[self._position(service)] = 0

    def read(self, service: str) -> Shut | None:
        """Return why and since when the service is shut, `None` when it is not."""
        if service not in self._index:
            return None
        word = self._words[self._position(service)]
        if not word:
            return None
        code = word >> REASON_SHIFT & REASON_MASK
        return Shut(REASONS[code] if code < len(REASONS) else LATCHED, word & SECONDS_MASK)

    def close(self) -> None:
        """Unmap and close."""
        self._words.release()
        if self._map is not None:
            self._map.close()
        os.close(self._fd)

    def _position(self, service: str) -> int:
        return (HEADER + RECORD * self._index[service]) // WORD

    def _remap(self) -> None:
        self._words.release()
        if self._map is not None:
            self._map.close()
        self._map = mmap.mmap(self._fd, os.fstat(self._fd).st_size)
        self._words = memoryview(self._map).cast("Q")


def _create(path: Path) -> None:
    # Under another name first: whoever opens the latch finds a whole one or none.
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".new")
    fd = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        _initialise(fd)
        os.fsync(fd)
    finally:
        os.close(fd)
    draft.rename(path)


def _initialise(fd: int) -> None:
    os.posix_fallocate(fd, 0, HEADER + RECORD * LEAST_RECORDS)
    os.pwrite(fd, b"".join(word.to_bytes(WORD, "little") for word in (MAGIC, VERSION, 0, 0)), 0)


def _names(fd: int, path: Path) -> list[str]:
    header = os.pread(fd, HEADER, 0)
    magic, version, count, _ = (int.from_bytes(header[at : at + WORD], "little") for at in range(0, HEADER, WORD))
    if len(header) < HEADER or magic != MAGIC:
        raise StateError("not a latch file, or a damaged one", where=str(path), cure=AWAY)
    if version != VERSION:
        raise StateError(
            f"the latch file is of version {version}, this release knows {VERSION}",
            where=str(path),
            cure="start the release that wrote it",
        )
    if os.fstat(fd).st_size < HEADER + RECORD * count:
        raise StateError("the latch file is cut short", where=str(path), cure=AWAY)
    return [_name(os.pread(fd, RECORD, HEADER + RECORD * index), index, path) for index in range(count)]


def _name(record: bytes, index: int, path: Path) -> str:
    length = int.from_bytes(record[WORD : 2 * WORD], "little")
    raw = record[2 * WORD : 2 * WORD + length]
    name = raw.decode(errors="replace")
    if not 0 < length <= NAME_BYTES or name.encode() != raw:
        raise StateError(f"record {index} of the latch file is damaged", where=str(path), cure=AWAY)
    return name


def _raw(name: str, path: Path | None) -> bytes:
    raw = name.encode()
    if len(raw) > NAME_BYTES:
        raise StateError(
            f"the service name {name[:40]!r}… is longer than {NAME_BYTES} bytes", where=str(path), cure="shorten it"
        )
    return raw
