"""What survives the supervisor: weights, phases, registered versions, endpoint states and the events, in SQLite.

Nouns: a *row* is what is kept of one service; an *owed* hook is one that has to be called after a decision and has not
answered yet; a *change* is everything that one decision stores, in one transaction: rows, versions, owed hooks and
events together, or nothing. The connection lives in a thread of its own, so
that a commit (WAL, synchronous=FULL: it waits for the disk) never holds up the controller's loop; changes are
stored in the order in which they are given.

Rules: durations are stored as what is left or has passed, never as an instant: monotonic clocks begin anew with the
machine and wall clocks jump. A file that is not ours, damaged, empty, or of a newer schema is refused with
`StateError` and left as it is; a fresh one is built under another name and renamed, so that a crash leaves a whole
store or none. Only its owner reads it (mode 0600): plans are in it, with the secrets that were expanded in the URLs of
their hooks. Only the newest events are kept, so that neither file nor memory grows for ever: a report of progress with
eight limits takes 4 kB; a file of 20,000 such has 80 MiB and opens in 0.2 s.

Source: https://www.sqlite.org/pragma.html (application_id, journal_mode, synchronous, quick_check).
"""

from __future__ import annotations

import json
import logging
import os
import sqlite3
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import orjson

from proxy.errors import StateError
from proxy.rollout.plan import Hook, Plan
from proxy.rollout.state import COMPLETED, PAUSED, PHASES, PROGRESSING, Expiry, Passed, Rollout, ServiceState
from proxy.routing.table import Version, from_plain, to_plain

SCHEMA_VERSION = 3
APPLICATION_ID = 0x54494445  # "TIDE": what file(1) and we know the file by
FILE_MAGIC = b"SQLite format 3\0"
EVENTS_KEPT = 20_000
EVENTS_KEPT_IN_MEMORY = 1000  # of a state that has no file
CACHE_KIB = 128  # of the file's pages: more would fill with events, which nobody asks for again

CONFIG = "config"  # what the config said `new` is when it was last read
STABLE_CONFIG = "config.stable"  # what the config said `stable` is then
STABLE_REGISTERED = "finish"  # what `finish` made the stable version
REGISTERED = "api"  # what PUT versions/new registered; no endpoints: DELETE removed what the config says

SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE services (
    name TEXT PRIMARY KEY, phase TEXT NOT NULL, weight_bp INTEGER NOT NULL CHECK (weight_bp BETWEEN 0 AND 10000),
    revision INTEGER NOT NULL, reason TEXT NOT NULL, salt TEXT NOT NULL,
    live_s REAL, expires_in_s REAL, back_bp INTEGER, expiry_revision INTEGER, rollout TEXT
) STRICT, WITHOUT ROWID;
CREATE TABLE versions (
    service TEXT NOT NULL, source TEXT NOT NULL, label TEXT NOT NULL, endpoints TEXT NOT NULL,
    PRIMARY KEY (service, source)
) STRICT, WITHOUT ROWID;
CREATE TABLE endpoints (
    service TEXT NOT NULL, version INTEGER NOT NULL, url TEXT NOT NULL, state INTEGER NOT NULL,
    PRIMARY KEY (service, version, url)
) STRICT, WITHOUT ROWID;
CREATE TABLE owed (
    service TEXT NOT NULL, name TEXT NOT NULL, revision INTEGER NOT NULL, hook TEXT NOT NULL, about TEXT NOT NULL,
    PRIMARY KEY (service, name, revision)
) STRICT, WITHOUT ROWID;
CREATE TABLE events (
    seq INTEGER PRIMARY KEY, time REAL NOT NULL, service TEXT NOT NULL, type TEXT NOT NULL, actor TEXT NOT NULL,
    reason TEXT NOT NULL, before TEXT NOT NULL, after TEXT NOT NULL, evidence TEXT NOT NULL
) STRICT;
"""

# What brings a file from the schema before to this one: by the number of the one that it leads to.
MIGRATIONS = {
    2: "ALTER TABLE services ADD COLUMN rollout TEXT;",
    3: """CREATE TABLE owed (
    service TEXT NOT NULL, name TEXT NOT NULL, revision INTEGER NOT NULL, hook TEXT NOT NULL, about TEXT NOT NULL,
    PRIMARY KEY (service, name, revision)
) STRICT, WITHOUT ROWID;""",
}

EVENT_KEYS = ("seq", "time", "service", "type", "actor", "reason", "before", "after", "evidence")
EVENT_OBJECTS = ("before", "after", "evidence")
LET_GO = "DELETE FROM events WHERE seq <= (SELECT max(seq) FROM events) - ?"
MODE = 0o600  # plans are stored, and what is expanded in the URLs of their hooks may be secret
AWAY = "move the file away to start with an empty state, or bring back a good copy"

log = logging.getLogger("tidegate.store")

Json = dict[str, Any]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Row:
    """What is kept of one service.

    `live_s`: for how long the weight has been above 0; `expires_in_s`: what is left; `rollout`: JSON of the rollout
    with its plan, what has passed of its stage, and the stage's age.
    """

    phase: str
    weight_bp: int
    revision: int
    reason: str
    salt: str
    live_s: float | None = None
    expires_in_s: float | None = None
    back_bp: int | None = None
    expiry_revision: int | None = None
    rollout: str | None = None


@dataclass(frozen=True, slots=True)
class Owed:
    """A hook (`name`: after_rollback | after_complete) that is owed since a service came to `revision`.

    `about` is what it is told.
    """

    service: str
    name: str
    revision: int
    hook: Hook
    about: Json

    @property
    def key(self) -> tuple[str, str, int]:
        """What tells it from others."""
        return self.service, self.name, self.revision


@dataclass(frozen=True, slots=True)
class Change:
    """What one decision stores. `versions`: by (service, source), `owed`: by key; `None` forgets one."""

    rows: Mapping[str, Row] = field(default_factory=dict)
    versions: Mapping[tuple[str, str], Version | None] = field(default_factory=dict)
    endpoints: Mapping[tuple[str, int, str], int] = field(default_factory=dict)
    owed: Mapping[tuple[str, str, int], Owed | None] = field(default_factory=dict)
    events: tuple[Json, ...] = ()


@dataclass(frozen=True, slots=True)
class Stored:
    """Everything that was stored, but the events."""

    rows: dict[str, Row]
    versions: dict[tuple[str, str], Version]
    endpoints: dict[tuple[str, int, str], int]
    owed: dict[tuple[str, str, int], Owed]
    last_seq: int


def to_row(state: ServiceState, now: float) -> Row:
    """Return what is kept of `state` at the instant `now`."""
    expiry = state.expiry
    return Row(
        state.phase,
        state.weight_bp,
        state.revision,
        state.reason,
        state.salt,
        live_s=None if state.live_since is None else now - state.live_since,
        expires_in_s=None if expiry is None else max(0.0, expiry.at - now),
        back_bp=None if expiry is None else expiry.back_bp,
        expiry_revision=None if expiry is None else expiry.revision,
        rollout=None if state.rollout is None else orjson.dumps(_kept(state.rollout, now)).decode(),
    )


def from_row(row: Row, now: float, *, has_new: bool) -> ServiceState:
    """Return the state that `row` is of, at the instant `now`."""
    expiry = None
    if row.expires_in_s is not None and row.back_bp is not None and row.expiry_revision is not None:
        expiry = Expiry(now + row.expires_in_s, row.back_bp, row.expiry_revision)
    return ServiceState(
        row.phase,
        row.weight_bp,
        row.revision,
        row.reason,
        row.salt,
        has_new=has_new,
        expiry=expiry,
        live_since=None if row.live_s is None else now - row.live_s,
        rollout=None if row.rollout is None else _rollout(json.loads(row.rollout), now, row.phase),
    )


def _kept(rollout: Rollout, now: float) -> Json:
    return {
        "plan": orjson.Fragment(_plan(rollout.plan)),
        "stage": rollout.stage,
        "ran_s": rollout.elapsed_s(now),
        "age_s": now - rollout.entered,
        "waits_s": rollout.waits_s,
        "record": {metric: dict(row) for metric, row in rollout.record.items()},
        "record_of": rollout.record_of,
        "passed": [to_plain(one) for one in rollout.passed],
    }


# A running rollout is stored every few seconds, and its plan is nearly all of it.
@lru_cache(maxsize=256)
def _plan(plan: Plan) -> bytes:
    return orjson.dumps(to_plain(plan))


def _rollout(kept: Json, now: float, phase: str) -> Rollout:
    return Rollout(
        from_plain(kept["plan"], Plan),
        kept["stage"],
        ran_s=kept["ran_s"],
        since=now if phase == PROGRESSING else None,
        entered=now - kept["age_s"],
        waits_s=kept["waits_s"],
        record=kept["record"],
        record_of=kept["record_of"],
        passed=from_plain(kept.get("passed", ()), tuple[Passed, ...]),  # an older release kept none
    )


class Store:
    """The state file; `path` is `None` when the state is in memory."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._events_kept = EVENTS_KEPT_IN_MEMORY if path is None else EVENTS_KEPT
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="tidegate-store")
        self._connection: sqlite3.Connection

    @classmethod
    def open(cls, path: Path | None) -> Store:
        """Open the state file, or make it; raise `StateError` when it cannot be used. It is never replaced."""
        store = cls(path)
        try:
            store._run(store._open).result()
        except BaseException:
            store._thread.shutdown()
            raise
        return store

    def load(self) -> Stored:
        """Return what is stored; raise `StateError` when it cannot be read."""
        return self.loading().result()

    def loading(self) -> Future[Stored]:
        """Find what is stored, after what is being stored."""
        return self._run(self._load)

    def save(self, change: Change) -> Future[None]:
        """Store `change` as a whole, after those before it; the future raises `StateError` when it was not."""
        return self._run(lambda: self._save(change))

    def probe(self) -> Future[None]:
        """Write something that nobody reads; the future raises `StateError` when it cannot be, as on a full disk."""
        return self._run(self._probe)

    def events(self, since: int, limit: int) -> Future[list[Json]]:
        """Find up to `limit` events with seq > `since`, oldest first, after what is being stored."""
        return self._run(lambda: self._events("WHERE seq > ? ORDER BY seq LIMIT ?", (since, limit)))

    def last_events(self, count: int) -> list[Json]:
        """Return the last `count` events, oldest first."""
        return self._run(lambda: self._events("ORDER BY seq DESC LIMIT ?", (count,))).result()[::-1]

    def close(self) -> None:
        """Finish what was given and close the file."""
        self._thread.submit(self._connection.close).result()
        self._thread.shutdown()

    def silent(self, seconds: float) -> StateError:
        """Return the error of a store that has not answered for so long."""
        what = f"the state store has not answered for {seconds:g} s"
        return StateError(what, where=self._where, cure="look whether the disk hangs")

    def _run(self, work: Callable[[], T]) -> Future[T]:
        def guarded() -> T:
            try:
                return work()
            except (sqlite3.Error, OSError, ValueError, TypeError, KeyError, AttributeError) as error:
                raise StateError(f"the state store fails: {error}", where=self._where, cure=_cure(error)) from error

        return self._thread.submit(guarded)

    @property
    def _where(self) -> str:
        return "state in memory" if self.path is None else str(self.path)

    def _open(self) -> None:
        if self.path is None:
            self._connection = sqlite3.connect(":memory:", isolation_level=None)
            _build(self._connection)
            return
        if not self.path.exists():
            _create(self.path)
        _check_magic(self.path)
        _tighten(self.path)
        connection = sqlite3.connect(f"{self.path.absolute().as_uri()}?mode=rw", uri=True, isolation_level=None)
        try:
            _check(connection, self.path)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            _migrate(connection)
            connection.execute(LET_GO, (self._events_kept,))
        except BaseException:
            connection.close()
            raise
        self._connection = connection

    def _load(self) -> Stored:
        read = self._connection.execute
        columns = ", ".join(Row.__slots__)
        rows = {name: Row(*rest) for name, *rest in read(f"SELECT name, {columns} FROM services")}  # noqa: S608
        versions = {
            (service, source): from_plain({"label": label, "endpoints": json.loads(endpoints)}, Version)
            for service, source, label, endpoints in read("SELECT service, source, label, endpoints FROM versions")
        }
        endpoints = {
            (service, version, url): state
            for service, version, url, state in read("SELECT service, version, url, state FROM endpoints")
        }
        owed = [
            Owed(service, name, revision, from_plain(json.loads(hook), Hook), json.loads(about))
            for service, name, revision, hook, about in read("SELECT service, name, revision, hook, about FROM owed")
        ]
        last = read("SELECT coalesce(max(seq), 0) FROM events").fetchone()[0]
        _check_rows(rows)
        return Stored(rows, versions, endpoints, {one.key: one for one in owed}, last)

    def _save(self, change: Change) -> None:
        write = self._connection.execute
        write("BEGIN IMMEDIATE")
        try:
            columns = ("name", *Row.__slots__)
            for name, row in change.rows.items():
                values = (name, *(getattr(row, column) for column in Row.__slots__))
                write(_replace("services", columns), values)
            for (service, source), version in change.versions.items():
                if version is None:
                    write("DELETE FROM versions WHERE service = ? AND source = ?", (service, source))
                else:
                    endpoints = json.dumps(to_plain(version.endpoints))
                    keys = ("service", "source", "label", "endpoints")
                    write(_replace("versions", keys), (service, source, version.label, endpoints))
            for key, state in change.endpoints.items():
                write(_replace("endpoints", ("service", "version", "url", "state")), (*key, state))
            for debt, owed in change.owed.items():
                if owed is None:
                    write("DELETE FROM owed WHERE service = ? AND name = ? AND revision = ?", debt)
                else:
                    told = (json.dumps(to_plain(owed.hook)), json.dumps(owed.about))
                    write(_replace("owed", ("service", "name", "revision", "hook", "about")), (*debt, *told))
            self._save_events(change.events)
            write("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                write("ROLLBACK")
            raise

    def _save_events(self, events: tuple[Json, ...]) -> None:
        """Add events, and let go of those that are too many then."""
        for event in events:
            shown = [json.dumps(event[key]) if key in EVENT_OBJECTS else event[key] for key in EVENT_KEYS]
            self._connection.execute(_replace("events", EVENT_KEYS), shown)
        if events:
            self._connection.execute(LET_GO, (self._events_kept,))

    def _probe(self) -> None:
        # A transaction that changes nothing is never written.
        self._connection.execute("INSERT OR REPLACE INTO meta VALUES ('probed', datetime('now'))")

    def _events(self, clause: str, arguments: tuple[int, ...]) -> list[Json]:
        cursor = self._connection.execute(f"SELECT {', '.join(EVENT_KEYS)} FROM events {clause}", arguments)  # noqa: S608
        return [
            {
                key: json.loads(value) if key in EVENT_OBJECTS else value
                for key, value in zip(EVENT_KEYS, row, strict=True)
            }
            for row in cursor
        ]


def _replace(table: str, columns: tuple[str, ...]) -> str:
    marks = ", ".join("?" * len(columns))
    return f"INSERT OR REPLACE INTO {table} ({', '.join(columns)}) VALUES ({marks})"  # noqa: S608


def _create(path: Path) -> None:
    leftover = path.with_name(path.name + "-wal")
    if leftover.exists():
        # SQLite would play the log of the lost file into the new one.
        raise StateError(
            f"the state file is missing, but its log {leftover.name} is there",
            where=str(path),
            cure="bring the file back, or move the log away to start with an empty state",
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".new")
    draft.unlink(missing_ok=True)
    os.close(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, MODE))
    connection = sqlite3.connect(draft, isolation_level=None)
    try:
        _build(connection)
    finally:
        connection.close()
    draft.rename(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _tighten(path: Path) -> None:
    """Let nobody else read a file that an older release made; SQLite makes the files beside it with its mode."""
    for name in (path.name, path.name + "-wal", path.name + "-shm"):
        one = path.with_name(name)
        if one.exists() and one.stat().st_mode & 0o077:
            try:
                one.chmod(MODE)
            except PermissionError:  # somebody else's file that we may write: it is theirs to say who reads it
                log.warning(
                    "%s can be read by others and holds the URLs of hooks: its owner should chmod it to 600", one
                )


def _build(connection: sqlite3.Connection) -> None:
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.executescript(f"BEGIN; {SCHEMA} COMMIT;")
    connection.execute("INSERT INTO meta VALUES ('schema_version', ?)", (str(SCHEMA_VERSION),))


def _migrate(connection: sqlite3.Connection) -> None:
    """Bring an older file to this schema, as a whole or not at all."""
    found = int(connection.execute("SELECT value FROM meta WHERE key = 'schema_version'").fetchone()[0])
    for number in range(found + 1, SCHEMA_VERSION + 1):
        mark = f"UPDATE meta SET value = '{number}' WHERE key = 'schema_version';"  # noqa: S608
        connection.executescript(f"BEGIN IMMEDIATE; {MIGRATIONS[number]} {mark} COMMIT;")


def _check_magic(path: Path) -> None:
    with path.open("rb") as file:
        head = file.read(len(FILE_MAGIC))
    if not head:
        # A crash cannot leave this (see `_create`): the state is lost, and a rollback may be in what is lost.
        raise StateError("the state file is empty", where=str(path), cure=AWAY)
    if head != FILE_MAGIC:
        raise StateError("not a state file (not a database at all)", where=str(path), cure=AWAY)


def _check(connection: sqlite3.Connection, path: Path) -> None:
    try:
        if connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
            raise StateError("a database of another program", where=str(path), cure="name another file as `state`")
        found = connection.execute("SELECT value FROM meta WHERE key = 'schema_version'").fetchone()
        if int(found[0]) > SCHEMA_VERSION:
            raise StateError(
                f"the state file has schema {found[0]}, this release knows {SCHEMA_VERSION}",
                where=str(path),
                cure="start the release that wrote it, or a newer one",
            )
        connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        damage = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    except (sqlite3.DatabaseError, TypeError, ValueError) as error:
        if isinstance(error, sqlite3.OperationalError) and "locked" in str(error):
            raise StateError("another program holds the state file", where=str(path), cure="end it first") from error
        raise StateError(f"the state file is damaged: {error}", where=str(path), cure=AWAY) from error
    if damage != "ok":
        raise StateError(f"the state file is damaged: {damage}", where=str(path), cure=AWAY)


def _check_rows(rows: Mapping[str, Row]) -> None:
    for name, row in rows.items():
        if row.phase not in PHASES:
            raise ValueError(f"{name} is in phase {row.phase!r}, which this release does not know")
        if row.rollout is None and row.phase in (PROGRESSING, PAUSED, COMPLETED):
            raise ValueError(f"{name} is {row.phase} without a rollout")


def _cure(error: Exception) -> str:
    if isinstance(error, sqlite3.OperationalError) and "locked" in str(error):
        return "another program holds the file: end it first"
    if isinstance(error, sqlite3.OperationalError) or not isinstance(error, sqlite3.Error):
        return "check the disk's space, the path and its owner"
    return AWAY
