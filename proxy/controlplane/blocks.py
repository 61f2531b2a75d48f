"""The block journal: what the judges saw, block after block, in files that `replay` reads (INTERFACE §3).

One file per service beside the state: `STATE.blocks/SERVICE.jsonl`. Its first line is `{"header": {"block_s", "limits",
"hdr"}}`, each other line a block: `{"t": seconds since the Unix epoch at its end, "stable": {"requests", "bad", "over":
{"p99": n}}, "new": {…}}`. `over` counts responses slower than the limit of that name in the header; a second limit
on the same metric is called "p99>150" there. Only blocks in which `new` has weight are written.

A file that has become too large or too old, or whose header no longer fits, is renamed to `SERVICE.N.jsonl` with the
next number, and the oldest go. Lines are gathered and written once a second by a thread of its own; what a kill -9
takes away is at most that second. A disk that fails is logged once, and the blocks are lost: the judge does not wait.
"""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import orjson

from proxy.metrics.snapshot import Judged, ServiceCounts
from proxy.rollout.plan import Limit
from proxy.routing.table import NEW, STABLE, VERSIONS

MOST_BYTES = 64 * 1024 * 1024
MOST_AGE_S = 7 * 86_400.0
KEPT = 8  # files of a service, the present one included
FLUSH_S = 1.0
HDR = {"unit": "us", "highest_s": 60, "digits": 2}

log = logging.getLogger("tidegate.blocks")


class Blocks:
    """Writes the journals of all services into `directory`."""

    def __init__(
        self, directory: Path, *, most_bytes: int = MOST_BYTES, most_age_s: float = MOST_AGE_S, kept: int = KEPT
    ) -> None:
        self._directory = directory
        self._most_bytes = most_bytes
        self._most_age_s = most_age_s
        self._kept = kept
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="tidegate-blocks")
        self._before: dict[str, tuple[object, tuple[Judged, Judged]]] = {}
        self._lines: dict[str, list[bytes]] = {}
        self._headers: dict[str, bytes] = {}
        self._flushed = 0.0
        self._failing = False

    def add(self, counts: ServiceCounts, limits: tuple[Limit, ...], block_s: float, wall: float) -> None:
        """Add the block that ends at `wall` (s since the epoch); the first one of a series only begins it."""
        name = counts.name
        key = (counts.columns, tuple(one.incarnation for one in counts.versions))
        stable, new = (one.judged for one in counts.versions)
        before = self._before.get(name)
        self._before[name] = (key, (stable, new))
        if before is None or before[0] != key:
            return
        named = _named(limits)
        parts = {STABLE: stable - before[1][STABLE], NEW: new - before[1][NEW]}
        line: dict[str, Any] = {"t": round(wall, 3)}
        for version, part in parts.items():
            over = {
                called: part.slow[counts.thresholds_us.index(us)]
                for called, limit in named.items()
                if (us := limit.threshold_us) in counts.thresholds_us and us is not None and not limit.first_byte
            }
            line[VERSIONS[version]] = {"requests": part.requests, "bad": part.bad, "over": over}
        header = {"block_s": block_s, "limits": {called: limit.max for called, limit in named.items()}, "hdr": HDR}
        self._headers[name] = orjson.dumps({"header": header})
        self._lines.setdefault(name, []).append(orjson.dumps(line))

    def skip(self, service: str) -> None:
        """Take note that a block is not written: the next one only begins a series."""
        self._before.pop(service, None)

    def flush(self, now: float) -> None:
        """Give what was gathered to the thread, once a second; `now` is monotonic (s)."""
        if now - self._flushed >= FLUSH_S and self._lines:
            self._flushed = now
            lines, self._lines = self._lines, {}
            self._thread.submit(self._write, lines, dict(self._headers))

    def close(self) -> None:
        """Write what there is."""
        if self._lines:
            self._thread.submit(self._write, self._lines, self._headers)
            self._lines = {}
        self._thread.shutdown()

    def path(self, service: str) -> Path:
        """Return the present file of a service."""
        return self._directory / f"{quote(service, safe='')}.jsonl"

    def _write(self, lines: dict[str, list[bytes]], headers: dict[str, bytes]) -> None:
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            for service, many in lines.items():
                path = self.path(service)
                if path.exists() and self._is_full(path, headers[service], many[-1]):
                    self._rotate(path)
                text = b"".join(line + b"\n" for line in many)
                fresh = not path.exists()
                with path.open("ab") as file:
                    file.write(headers[service] + b"\n" + text if fresh else text)
        except OSError as error:
            if not self._failing:
                log.error("the block journal cannot be written: %s", error)  # noqa: TRY400  # the sentence says it all
            self._failing = True
        else:
            self._failing = False

    def _is_full(self, path: Path, header: bytes, newest: bytes) -> bool:
        with path.open("rb") as file:
            first, second = file.readline(), file.readline()
        if first.rstrip(b"\n") != header or path.stat().st_size >= self._most_bytes:
            return True
        return bool(second) and orjson.loads(newest)["t"] - orjson.loads(second)["t"] >= self._most_age_s

    def _rotate(self, path: Path) -> None:
        def number(old: Path) -> int:
            return int(old.name.removeprefix(f"{path.stem}.").removesuffix(".jsonl"))

        olds = sorted(
            (old for old in path.parent.glob("*.jsonl") if _is_old(old.name, path.stem)),
            key=number,
        )
        path.rename(path.with_name(f"{path.stem}.{number(olds[-1]) + 1 if olds else 1}.jsonl"))
        for old in olds[: max(0, len(olds) + 2 - self._kept)]:
            old.unlink()


def _is_old(name: str, stem: str) -> bool:
    rest = name.removeprefix(f"{stem}.").removesuffix(".jsonl")
    return name.startswith(f"{stem}.") and rest.isdigit()


def _named(limits: tuple[Limit, ...]) -> dict[str, Limit]:
    """Return the fixed limits on `new` by the names that they have in the journal."""
    named: dict[str, Limit] = {}
    for limit in limits:
        if limit.version != NEW or limit.max is None or limit.max_ratio is not None or limit.action == "hold":
            continue
        if limit.quantile is None and limit.metric != "error_rate":
            continue
        taken = named.get(limit.metric)
        if taken is None:
            named[limit.metric] = limit
        elif taken.max != limit.max:
            named[f"{limit.metric}>{limit.max:g}"] = limit
    return named
