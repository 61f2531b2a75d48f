"""The block journal: what the judges saw, block after block, in files that `replay` reads (INTERFACE §3).

One file per service beside the state: `STATE.blocks/SERVICE.jsonl`. A line is a *header* or a *block*:

* `{"header": {"block_s", "limits", "hdr", "judged"}}`: by what the blocks after it were judged. It stands first in
  every file, and again wherever that changes (a stage begins, a person sets a weight, a supervisor starts), so that a
  rollout is one row of lines and not a file per stage. `limits` are the fixed ones on `new` by name; `judged` has what
  it takes to judge again: `since` (when the judges were made), `alarm_at`, `stage`, `weight` (percent) and `rules`; and
  `trial`: when the weight came above 0 (`null`: before this supervisor), so that all blocks of a rollout are known;
* `{"t": seconds since the Unix epoch at its end, "stable": {"requests", "bad", "client_errors", "over": {"p99": n},
  "within": {"p99": n}, "hist": {index: count}}, "new": {…}}`. `over` counts what was slower than the limit of that name
  in the header as soon as it was, so that what hangs is in `requests` of a later block; `within` what ended in time. A
  second limit on the same metric is called "p99>150". `hist` stands in the block that ends a second and holds what
  the version's histogram grew by between two readings, up to a second older than the block: what ended after the last
  one of a trial is in none. `signals`, if any: name → [seen, matched].

A simple reader takes the lines that have a "t". A line is written for every block that began with weight on `new`: the
one in which a rollback was decided is the last.

A file that has become too large or too old is packed as `SERVICE.N.jsonl.gz` with the next number, and the oldest go:
together they hold 2 GiB of lines (a week at 3.5 kB/s), which take a fifth of that on the disk, or less.
Lines are gathered and written once a second by a thread of its own; what a kill -9 takes away is at most that second.
Without a state file they are temporary files, two of 16 MiB for each service at most.
A disk that fails or hangs is logged once, and blocks are lost: the judge does not wait. Of an append that fails no half
line stays, and while a write hangs the newest minute of blocks waits in memory.

Cost per block and service: 20 µs; 70 to 115 µs where it carries histograms of 150 different latencies per version.
With these a second of lines has 3.5 kB, with 10 latencies 1.1 kB (`python -m loadtests.judge.journal`).
"""

from __future__ import annotations

import contextlib
import gzip
import logging
import os
import re
import shutil
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from secrets import token_hex
from tempfile import gettempdir
from typing import IO, Any, NamedTuple, cast
from urllib.parse import quote

import orjson

from proxy.controlplane.history import History
from proxy.controlplane.scales import TOTAL
from proxy.metrics.snapshot import Columns, Judged, ServiceCounts
from proxy.rollout.judges import Court
from proxy.rollout.past import Past
from proxy.rollout.plan import COUNTED, HOLD, SHARES, Limit
from proxy.rollout.state import percent
from proxy.routing.table import NEW, STABLE, VERSIONS

MOST_BYTES = 64 * 1024 * 1024
MOST_AGE_S = 7 * 86_400.0
PASSING_BYTES = 16 * 1024 * 1024  # without a state file
KEPT = 32  # files of a service, the present one included
PACKED = 3  # how hard old ones are packed
FLUSH_S = 1.0
HANGING_S = 10.0  # a write that takes longer is told
MOST_WAITING = 240  # blocks of a service that wait for a write before them
HDR = {"unit": "us", "highest_s": 60, "digits": 2}
TAIL = 65_536  # bytes at the end of a file in which its last whole line is looked for

log = logging.getLogger("tidegate.blocks")


@dataclass(frozen=True, slots=True)
class Rules:
    """By what a block was judged: `limits` in the `court` of a stage, at the weight that `new` had."""

    court: Court
    limits: tuple[Limit, ...]
    stage: str
    weight_bp: int


@dataclass(slots=True)
class _Series:
    """The blocks of a service that follow each other without a gap, as far as they were written."""

    lives: tuple[object, ...]
    totals: tuple[Judged, Judged]
    slice_s: float | None  # the end of the newest second of histograms that was written
    t: float = 0.0
    rules: Rules | None = None
    since: float = 0.0  # when the judges were made, s since the epoch
    header: bytes = b""
    trial: float | None = None  # when the weight came above 0, s since the epoch; `None`: before this process
    trial_begins: bool = False  # with the next block
    edges: tuple[tuple[str, bool, int], ...] = ()  # name, of first bytes, column


class _Line(NamedTuple):
    """One block as it is written, with its time and the header that has to stand before it."""

    t: float
    header: bytes
    text: bytes


@dataclass(slots=True)
class _File:
    """What is known of a service's present file: the time of its first block, its last header as far as we wrote it."""

    oldest: float | None = None
    header: bytes = b""


class Blocks:
    """Writes the journals of all services into `directory`; `passing`: it goes with `close`."""

    def __init__(
        self,
        directory: Path,
        *,
        most_bytes: int = MOST_BYTES,
        most_age_s: float = MOST_AGE_S,
        kept: int = KEPT,
        passing: bool = False,
    ) -> None:
        self._directory = directory
        self._most_bytes = most_bytes
        self._most_age_s = most_age_s
        self._kept = kept
        self._passing = passing
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="tidegate-blocks")
        self._series: dict[str, _Series] = {}
        self._lines: dict[str, deque[_Line]] = {}
        self._paths: dict[str, Path] = {}
        self._files: dict[str, _File] = {}  # the thread's own
        self._flushed = 0.0
        self._writing: Future[None] | None = None
        self._failing = False
        self._hanging = False

    def begin(self, counts: ServiceCounts, history: History, *, goes_on: bool = False) -> None:
        """Take note that the next block begins with these totals: a new trial, unless the present one goes on."""
        columns = counts.columns
        lives = (columns, *(one.incarnation for one in counts.versions))
        stable, new = (one.judged for one in counts.versions)
        before = self._series.get(counts.name)
        series = self._series[counts.name] = _Series(lives, (stable, new), history.newest_s, trial_begins=not goes_on)
        if before is not None:
            series.t = before.t
        if before is not None and goes_on:
            series.trial, series.trial_begins = before.trial, before.trial_begins

    def add(self, counts: ServiceCounts, history: History, rules: Rules, now: float, wall: float) -> None:
        """Add the block that ends at `now` (monotonic s), which is `wall` (s since the epoch).

        It holds what was counted since the last `begin` or `add`; without one, or when the service counts other things
        or another version since then, it only begins a series.
        """
        series = self._series.get(counts.name)
        if series is None or series.lives != (counts.columns, *(one.incarnation for one in counts.versions)):
            self.begin(counts, history, goes_on=True)
            return
        if rules != series.rules:
            if series.rules is None or rules.court != series.rules.court:
                series.since = round(wall - (now - rules.court.began), 3)
            if series.trial_begins:
                series.trial, series.trial_begins = series.since, False
            series.rules, series.header = rules, _header(rules, series.since, series.trial)
            series.edges = _places(rules.limits, counts.columns)
        stable, new = (one.judged for one in counts.versions)
        parts = (stable - series.totals[STABLE], new - series.totals[NEW])
        # A wall clock that is set back makes no disorder in a journal.
        series.t = max(round(wall, 3), round(series.t + 0.001, 3))
        line: dict[str, Any] = {"t": series.t}
        for name, part in zip(VERSIONS, parts, strict=True):
            over, within = {}, {}
            for called, first_byte, column in series.edges:
                over[called] = (part.ttfb_slow if first_byte else part.slow)[column]
                within[called] = (part.ttfb_fast if first_byte else part.fast)[column]
            line[name] = {
                "requests": part.requests,
                "bad": part.bad,
                "client_errors": part.client_errors,
                "over": over,
                "within": within,
            }
            if part.signals:
                line[name]["signals"] = {
                    key.name: pair for key, pair in zip(counts.columns.signals, part.signals, strict=True)
                }
        self._add_histograms(line, series, counts.name, history)
        series.totals = (stable, new)
        text = orjson.dumps(line, option=orjson.OPT_NON_STR_KEYS)
        self._lines.setdefault(counts.name, deque(maxlen=MOST_WAITING)).append(_Line(series.t, series.header, text))

    def flush(self, now: float) -> None:
        """Give what was gathered to the thread, once a second; `now` is monotonic (s)."""
        passed = now - self._flushed
        if passed < FLUSH_S or not self._lines:
            return
        if self._writing is not None and not self._writing.done():
            if passed >= HANGING_S and not self._hanging:
                log.error("the block journal cannot be written: the disk has not answered for %.0f s", passed)
                self._hanging = True
            return
        self._flushed, self._hanging = now, False
        self.write()

    def write(self) -> Future[None] | None:
        """Give what was gathered to the thread, unless it still writes; return what it does, `None` for nothing."""
        if self._lines and (self._writing is None or self._writing.done()):
            lines, self._lines = self._lines, {}
            self._writing = self._thread.submit(self._write, lines)
        return self._writing

    def close(self) -> None:
        """Write what there is."""
        if self._lines:
            self._thread.submit(self._write, self._lines)
            self._lines = {}
        self._thread.shutdown()
        if self._passing:
            shutil.rmtree(self._directory, ignore_errors=True)

    def path(self, service: str) -> Path:
        """Return the present file of a service."""
        path = self._paths.get(service)
        if path is None:
            # Kept, because every new path leaves a hole in the interpreter's table of names: 1 MiB after five hours.
            # A dot stands only before the number of a file that was turned over.
            path = self._paths[service] = self._directory / f"{quote(service, safe='').replace('.', '%2E')}.jsonl"
        return path

    def files(self, service: str) -> list[Path]:
        """Return the files of a service that there are, oldest first."""
        path = self.path(service)
        return [*_olds(path), *([path] if path.exists() else [])]

    def past(self, service: str, since: float, until: float) -> list[dict[str, Any]]:
        """Return what was written from `since` to `until` (s since 1970), as points of a report; for a thread."""
        found = Past(since, until)
        files = self.files(service)
        for path, later in zip(files, [*files[1:], None], strict=False):
            # All of a file is older than the first block of the next one.
            if later is None or (_first_t(later) or since) > since:
                with contextlib.suppress(OSError, EOFError), _lines(path) as lines:
                    found.take(lines)
        return found.points()

    def _add_histograms(self, line: dict[str, Any], series: _Series, name: str, history: History) -> None:
        newest_s, before_s = history.newest_s, series.slice_s
        if newest_s is None or newest_s == before_s:
            return
        series.slice_s = newest_s
        if before_s is not None:
            for version in (STABLE, NEW):
                line[VERSIONS[version]]["hist"] = history.histogram(name, version, TOTAL, newest_s - before_s)[0]

    def _write(self, lines: Mapping[str, Sequence[_Line]]) -> None:
        failed: Exception | None = None
        for service, many in lines.items():
            try:
                self._append(service, many)
            except Exception as error:  # noqa: BLE001 -- whatever it is, the next blocks may go
                failed = error
        if failed is not None and not self._failing:
            unknown = None if isinstance(failed, OSError) else failed
            log.error("the block journal cannot be written: %s", failed, exc_info=unknown)
        self._failing = failed is not None

    def _append(self, service: str, many: Sequence[_Line]) -> None:
        path = self.path(service)
        file, size = self._present(service, path)
        if file is None:
            self._directory.mkdir(mode=0o700 if self._passing else 0o777, parents=True, exist_ok=True)
        elif self._is_full(file, size, many[-1].t):
            self._rotate(path)
            file, size = None, 0
        file = file or _File()
        file.oldest = many[0].t if file.oldest is None else file.oldest
        text = []
        for line in many:
            text += [line.text] if line.header == file.header else [line.header, line.text]
            file.header = line.header
        self._files.pop(service, None)  # should writing fail, nobody knows what is in the file
        try:
            with path.open("ab") as there:
                there.write(b"\n".join([*text, b""]))
        except OSError:
            with contextlib.suppress(OSError):  # else it is cut before the next lines
                os.truncate(path, size)
            raise
        self._files[service] = file

    def _present(self, service: str, path: Path) -> tuple[_File | None, int]:
        """Return what is known of the present file (`None`: there is none), and its size."""
        try:  # one look at the disk: it is done every second for every service
            if service not in self._files:
                _cut(path)
                self._files[service] = _File(_first_t(path))
            return self._files[service], path.stat().st_size
        except FileNotFoundError:
            return None, 0

    def _is_full(self, file: _File, size: int, newest: float) -> bool:
        return size >= self._most_bytes or (file.oldest is not None and newest - file.oldest >= self._most_age_s)

    def _rotate(self, path: Path) -> None:
        olds = _olds(path)
        packed = path.with_name(f"{path.stem}.{_number(path, olds[-1]) + 1 if olds else 1}.jsonl.gz")
        half = packed.with_suffix(".half")
        with path.open("rb") as lines, gzip.open(half, "wb", compresslevel=PACKED) as file:
            shutil.copyfileobj(lines, file)
        half.rename(packed)
        path.unlink()
        for old in olds[: max(0, len(olds) + 2 - self._kept)]:
            old.unlink()


def blocks_beside(state: Path | None) -> Blocks | None:
    """Return the journals beside a state file; without one, in a directory that goes with the process.

    `None` when there is no place for temporary files.
    """
    if state is not None:
        return Blocks(state.with_name(f"{state.name}.blocks"))
    try:
        directory = Path(gettempdir()) / f"tidegate-{token_hex(8)}.blocks"
    except OSError:
        return None
    return Blocks(directory, most_bytes=PASSING_BYTES, kept=2, passing=True)


def _olds(path: Path) -> list[Path]:
    """Return the files that were turned over, oldest first; what somebody else has put there is none."""
    return sorted((old for old in path.parent.glob("*.jsonl.gz") if _number(path, old)), key=partial(_number, path))


def _number(path: Path, old: Path) -> int:
    """Return the number of a file that was turned over, 0 for another file."""
    found = re.fullmatch(re.escape(path.stem) + r"\.([0-9]+)\.jsonl\.gz", old.name)
    return int(found[1]) if found else 0


def _lines(path: Path) -> IO[bytes]:
    return cast("IO[bytes]", gzip.open(path) if path.suffix == ".gz" else path.open("rb"))


def _first_t(path: Path) -> float | None:
    with _lines(path) as lines:
        first = next((line for line in lines if line.startswith(b'{"t"')), None)
    return None if first is None else float(orjson.loads(first)["t"])


def _cut(path: Path) -> None:
    """Take away what stands behind the last whole line: a machine that lost its power may leave half of one."""
    with path.open("rb+") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - TAIL))
        tail = file.read()
        if tail and not tail.endswith(b"\n"):
            file.truncate(size - len(tail) + tail.rfind(b"\n") + 1)


def _header(rules: Rules, since: float, trial: float | None) -> bytes:
    limits = {called: limit.max if limit.min is None else limit.min for called, limit in _named(rules.limits).items()}
    judged = {
        "trial": trial,
        "since": since,
        "alarm_at": rules.court.alarm_at,
        "stage": rules.stage or None,
        "weight": percent(rules.weight_bp),
        "rules": [_rule(limit) for limit in rules.limits if limit.action != HOLD],
    }
    return orjson.dumps(
        {"header": {"block_s": rules.court.plan.block_s, "limits": limits, "hdr": HDR, "judged": judged}}
    )


def _rule(limit: Limit) -> dict[str, Any]:
    """Return the fields of a limit that are not what they are by default."""
    return {
        one.name: value
        for one in fields(limit)
        if (value := getattr(limit, one.name)) != one.default or one.name == "metric"
    }


def _places(limits: tuple[Limit, ...], columns: Columns) -> tuple[tuple[str, bool, int], ...]:
    """Return for each latency limit its name and the column that counts what is slower, or not."""
    found = []
    for called, limit in _named(limits).items():
        edges = columns.ttfb_thresholds_us if limit.first_byte else columns.thresholds_us
        if limit.threshold_us in edges:
            found.append((called, limit.first_byte, edges.index(limit.threshold_us)))
    return tuple(found)


def _named(limits: tuple[Limit, ...]) -> dict[str, Limit]:
    """Return the fixed limits on `new` by the names that they have in the journal."""
    named: dict[str, Limit] = {}
    for limit in limits:
        if limit.version != NEW or limit.max_ratio is not None or limit.action == HOLD or limit.source != COUNTED:
            continue
        # A bare name means what `replay --limits` takes it for: a minimum of availability, a maximum of all else.
        least = limit.metric == "availability"
        if (limit.min if least else limit.max) is None or (limit.quantile is None and limit.metric not in SHARES):
            continue
        taken = named.get(limit.metric)
        if taken is None:
            named[limit.metric] = limit
        elif (taken.max, taken.min) != (limit.max, limit.min):
            named[f"{limit.metric}>{limit.max if limit.min is None else limit.min:g}"] = limit
    return named
