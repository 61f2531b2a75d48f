"""Reading a block journal: what was counted of both versions, block after block (INTERFACE §3).

A journal is JSON lines. A `{"header": {"block_s", "limits", "hdr"}}` may come first, and again wherever that changes;
every other line is a block: `{"t": seconds at its end, "stable": {"requests", "bad", "over": {"p99": n}, "hist":
{index: count}}, "new": {…}}`. `over` counts what was slower than the limit of that name in the header (a second limit
on p99 is "p99>150") in the block in which it became so, though it is one of `requests` only in the block of its end;
`hist` are HDR counts (`proxy.metrics.hdr`) of what ended since the block that had some before.
What Tidegate itself writes (`proxy.controlplane.blocks`) also holds `within` (what ended in time, by the names of
`over`), `client_errors`, `signals` (name → [seen, matched]) and in the header `judged`, by which the very judges can be
made again.

What a latency limit needs to be judged again, in this order: an `over` that was recorded for the same latency (hung
requests included); histograms (0.8 % coarse, by the second; of what hangs only what has passed a longer limit that was
recorded); without a header, the `over` of the same metric is taken at its word. Nothing of these: the journal cannot
answer, and says so.

How many were fast says `within`. Without it requests that end pay first for those that were slow while they hung: no
request counts twice, and none as fast too early. Such a journal does not tell of a slow one that a client gave up (one
fast request too few), nor of one that stable answered because `new` was not there (one too many).

Rules: a journal is checked line by line and as a whole; every mistake has its line (`ConfigError`). Unknown keys are
left alone, so that a journal may hold more than is needed here.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import pairwise
from operator import itemgetter
from statistics import median
from typing import Any, TypeGuard

from proxy.errors import ConfigError, Problem
from proxy.metrics import hdr
from proxy.metrics.snapshot import Columns, Judged, SignalKey
from proxy.rollout.plan import COUNTED, FIRST_BYTE, LATENCIES, SHARES, SIGNAL, Limit
from proxy.routing.table import FULL

BLOCK_S = 0.25  # of a journal that does not say it and has a single block
MOST_PROBLEMS = 20
_SCALE = {"unit": "us", "highest_s": 60, "digits": 2}
_TEXT = re.compile(r"(\d+(?:\.\d+)?)\s*(%|ms|s|m)")
_FACTORS = {"%": 0.01, "ms": 1.0, "s": 1000.0, "m": 60_000.0}


@dataclass(frozen=True, slots=True)
class Judging:
    """How blocks were judged: since when (s), with which alarm (`proxy.rollout.judges.budget`), where, by what.

    `trial`: when `new` had got its users (s); `None` goes on with the trial of the blocks before.
    """

    since: float
    alarm_at: float
    stage: str
    weight_bp: int
    rules: tuple[Limit, ...]
    trial: float | None = None


@dataclass(frozen=True, slots=True)
class Header:
    """What the journal says of itself. `limits`: by their names; shares 0…1, latencies in ms."""

    block_s: float | None = None
    limits: Mapping[str, float] = field(default_factory=dict)
    judged: Judging | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """What was counted of one version in one block; `hist` is `None` where there is none."""

    requests: int = 0
    bad: int = 0
    client_errors: int | None = None
    over: Mapping[str, int] = field(default_factory=dict)
    within: Mapping[str, int] = field(default_factory=dict)
    hist: Mapping[int, int] | None = None
    signals: Mapping[str, tuple[int, int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Untold:
    """So many requests to `new` passed a recorded limit (ms), and nothing says whether they passed `limit`, too.

    They hung, or they ended when no histogram was written any more.
    """

    limit: Limit
    requests: int
    recorded_ms: float


@dataclass(frozen=True, slots=True)
class Block:
    """One block, by file and number of its line; `t` is its end in seconds (since 1970, or since anything else)."""

    file: str
    line: int
    t: float
    stable: Sample
    new: Sample
    header: Header


@dataclass(frozen=True, slots=True)
class Recording:
    """A whole journal. `block_s`: as its header says, or as its blocks follow each other."""

    name: str
    blocks: tuple[Block, ...]
    block_s: float

    @property
    def limits(self) -> Mapping[str, float]:
        """The limits that were recorded last."""
        return self.blocks[-1].header.limits if self.blocks else {}

    @property
    def began(self) -> float:
        """When the first block began."""
        return round(self.blocks[0].t - (self.blocks[0].header.block_s or self.block_s), 3)

    @property
    def ended(self) -> float:
        """When the last block ended."""
        return self.blocks[-1].t

    def trials(self) -> tuple[Recording, ...]:
        """Return its trials, oldest first: a rollout, or a weight that a person set, from 0 until it was 0 again.

        A journal whose headers tell nothing of trials is a single one.
        """
        found: list[list[Block]] = []
        trial = None
        for block in self.blocks:
            judged = block.header.judged
            named = None if judged is None else judged.trial
            if not found or named not in {None, trial}:
                found.append([])
                trial = named
            found[-1].append(block)
        return tuple(replace(self, blocks=tuple(blocks)) for blocks in found)

    def since(self, t: float) -> Recording | None:
        """Return the blocks that ended after `t`, `None` if there are none."""
        blocks = tuple(block for block in self.blocks if block.t > t)
        return replace(self, blocks=blocks) if blocks else None


def read(lines: Iterable[str], name: str = "journal") -> Recording:
    """Return the journal; raise `ConfigError` with its mistakes."""
    return read_files([(name, lines)])


def read_files(files: Iterable[tuple[str, Iterable[str]]]) -> Recording:
    """Return the journal that files are together, oldest first, each with its name; `ConfigError` as `read`."""
    blocks: list[Block] = []
    problems: list[Problem] = []
    header, first = Header(), ""
    for name, lines in files:
        first = first or name
        for number, line in enumerate(lines, 1):
            if not line.strip() or len(problems) == MOST_PROBLEMS:
                continue
            try:
                plain = _object(line)
                if "header" in plain:
                    header = _header(plain["header"])
                else:
                    blocks.append(_block(plain, name, number, header, blocks))
            except ValueError as error:
                problems.append(Problem("", str(error), name, number, 1))
    if not blocks and not problems:
        problems.append(
            Problem("", 'has no blocks: lines such as {"t": 1, "new": {"requests": 20, "bad": 0}}', first, 1, 1)
        )
    if problems:
        raise ConfigError(problems)
    return Recording(first, tuple(blocks), header.block_s or _usual(blocks))


def _block(plain: Mapping[str, Any], name: str, number: int, header: Header, blocks: Sequence[Block]) -> Block:
    t = _after(blocks, plain.get("t"))
    if "stable" not in plain and "new" not in plain:
        raise ValueError('has neither "stable" nor "new": a block is {"t": 1, "new": {"requests": 20, "bad": 0}}')
    return Block(name, number, t, _sample(plain, "stable"), _sample(plain, "new"), header)


class Reader:
    """Turns the blocks of a journal into what judges count, for these limits.

    `columns` say for which latencies. Raises `ConfigError` where the journal does not hold what a limit needs.
    """

    def __init__(self, recording: Recording, limits: Sequence[Limit]) -> None:
        self._recording = recording
        self._hists = any(block.new.hist is not None for block in recording.blocks)
        self._edges = {
            first: tuple(
                sorted({edge for limit in limits if limit.first_byte is first and (edge := limit.threshold_us)})
            )
            for first in (False, True)
        }
        self._metrics = {
            (limit.first_byte, limit.threshold_us): limit.metric for limit in limits if limit.threshold_us is not None
        }
        signals = dict.fromkeys(limit.metric for limit in limits if limit.source == SIGNAL)
        self.columns = Columns(
            self._edges[False], self._edges[True], tuple(SignalKey(signal, "", "") for signal in signals)
        )
        problems = [found for limit in limits if (found := self._missing(limit))]
        if problems:
            raise ConfigError(problems)

    def __iter__(self) -> Iterator[tuple[Block, Judged, Judged]]:
        """Yield every block with what was counted in it of stable and of new."""
        # By threshold: what was slow and has not ended, as far as it is known.
        hanging: tuple[Counter[tuple[bool, int]], ...] = (Counter(), Counter())
        for block in self._recording.blocks:
            stable, new = map(self._judged, (block, block), (block.stable, block.new), hanging)
            yield block, stable, new

    def untold(self, limits: Iterable[Limit]) -> Iterator[Untold]:
        """Yield for which limits the journal does not know of all requests whether they were slower."""
        for limit in limits:
            if limit.threshold_us is None or limit.first_byte:
                continue
            passed: Counter[int] = Counter()
            for block in self._recording.blocks:
                recorded = [one for one in _recorded(block.header, first_byte=False) if one[0] in block.new.over]
                called, us = max(recorded, key=itemgetter(1), default=("", limit.threshold_us))
                if us < limit.threshold_us:
                    hist = block.new.hist or {}
                    passed[us] += block.new.over[called] - sum(hist.values()) + hdr.within(hist, us)
            us, requests = max(passed.items(), key=itemgetter(1), default=(0, 0))
            if requests > 0:
                yield Untold(limit, requests, us / 1000)

    def _judged(self, block: Block, sample: Sample, hanging: Counter[tuple[bool, int]]) -> Judged:
        whole, first = (
            [
                self._counts(block.header, sample, edge, hanging, first_byte=first_byte)
                for edge in self._edges[first_byte]
            ]
            for first_byte in (False, True)
        )
        return Judged(
            ended=sample.requests,
            bad=sample.bad,
            client_errors=sample.client_errors or 0,
            slow=tuple(slow for slow, _ in whole),
            fast=tuple(fast for _, fast in whole),
            ttfb_slow=tuple(slow for slow, _ in first),
            ttfb_fast=tuple(fast for _, fast in first),
            signals=tuple(sample.signals.get(signal.name, (0, 0)) for signal in self.columns.signals),
        )

    def _counts(
        self, header: Header, sample: Sample, edge: int, hanging: Counter[tuple[bool, int]], *, first_byte: bool
    ) -> tuple[int, int]:
        """Return how many were slower than a threshold, and how many not."""
        called = self._called(header, sample, edge, first_byte=first_byte)
        if called is None or called not in sample.over:
            return (0, 0) if first_byte else self._of_histogram(header, sample, edge)
        slow = sample.over[called]
        if called in sample.within:
            return slow, sample.within[called]
        owed = hanging[first_byte, edge] + slow
        hanging[first_byte, edge] = max(0, owed - sample.requests)
        return slow, max(0, sample.requests - owed)

    def _of_histogram(self, header: Header, sample: Sample, edge: int) -> tuple[int, int]:
        # A block without a histogram is part of the next one that has one.
        hist = sample.hist or {}
        within = hdr.within(hist, edge)
        longer = [
            (us, called) for called, us in _recorded(header, first_byte=False) if us > edge and called in sample.over
        ]
        if not longer:
            return sum(hist.values()) - within, within
        # What has passed a longer limit was counted then, hung or not, and not again at its end.
        us, called = min(longer)
        return hdr.within(hist, us) - within + sample.over[called], within

    def _called(self, header: Header, sample: Sample, edge: int, *, first_byte: bool) -> str | None:
        """Return the name under which a threshold was recorded, `None` if it was not."""
        for called, us in _recorded(header, first_byte=first_byte):
            if us == edge:
                return called
        if not header.limits and sample.hist is None:
            return self._metrics[first_byte, edge]
        return None

    def _missing(self, limit: Limit) -> Problem | None:
        """Return why a limit cannot be judged by this journal."""
        blocks = [one for one in self._recording.blocks if one.new.requests]
        if limit.source == SIGNAL and any(limit.metric in block.new.signals for block in blocks):
            return None
        if limit.source != COUNTED or limit.metric not in (*SHARES, *LATENCIES):
            return Problem(limit.metric, "is not in the journal: it is no share or latency of every service")
        edge = limit.threshold_us
        for block in blocks:
            if limit.metric == "client_error_rate" and block.new.client_errors is None:
                what = 'client errors are not in the journal (a block has them as "client_errors")'
                return Problem(limit.metric, what, block.file, block.line, 1)
            if edge is None or (self._hists and not limit.first_byte):
                continue
            if self._called(block.header, block.new, edge, first_byte=limit.first_byte) not in block.new.over:
                return Problem(limit.metric, self._cure(limit, block), block.file, block.line, 1)
        return None

    def _cure(self, limit: Limit, block: Block) -> str:
        recorded = [
            f"{called.partition('>')[0]}={limit_ms:g}ms"
            for called, limit_ms in block.header.limits.items()
            if metric_of(called) in LATENCIES and called in block.new.over
        ]
        there = f"recorded: {', '.join(recorded)}" if recorded else "no count of slow responses is recorded"
        what = "no histograms" if not limit.first_byte else "no histograms of first bytes"
        cure = (
            f"give that one with --limits, such as --limits {recorded[0]}" if recorded else "leave it out of --limits"
        )
        why = f"the journal has {what}, so that only a latency limit that was recorded can be judged again"
        return f"{why} ({there}): {cure}"


def metric_of(called: str) -> str:
    """Return the metric of a limit's name in a journal."""
    return called.partition(">")[0]


def _recorded(header: Header, *, first_byte: bool) -> Iterator[tuple[str, int]]:
    """Yield the name and the threshold (µs) of every latency limit of a header."""
    for called, limit_ms in header.limits.items():
        metric = metric_of(called)
        if metric in LATENCIES and (metric in FIRST_BYTE) is first_byte:
            yield called, round(limit_ms * 1000)


def _object(line: str) -> dict[str, Any]:
    try:
        plain = json.loads(line)
    except ValueError as error:
        raise ValueError(f"is not JSON: {error}") from None
    if not isinstance(plain, dict):
        raise ValueError("is not a JSON object")  # noqa: TRY004  # all mistakes of a line are ValueErrors
    return plain


def _header(plain: Any) -> Header:
    if not isinstance(plain, dict):
        raise ValueError("header: is not an object")  # noqa: TRY004
    block_s = plain.get("block_s")
    if block_s is not None and (not _is_number(block_s) or block_s <= 0):
        raise ValueError("header.block_s: is not a number of seconds above 0")
    scale = plain.get("hdr")
    if isinstance(scale, dict) and any(key in scale and scale[key] != value for key, value in _SCALE.items()):
        raise ValueError(f"header.hdr: histograms of another scale cannot be read; ours is {json.dumps(_SCALE)}")
    judged = plain.get("judged")
    return Header(block_s, _limits(plain.get("limits") or {}), None if judged is None else _judging(judged))


def _judging(plain: Any) -> Judging:
    if not isinstance(plain, dict):
        raise ValueError("header.judged: is not an object")  # noqa: TRY004
    since, alarm_at, weight = (plain.get(key) for key in ("since", "alarm_at", "weight"))
    if not (_is_number(since) and _is_number(alarm_at) and _is_number(weight)):
        raise ValueError("header.judged: since, alarm_at and weight must be numbers")
    trial = plain.get("trial")
    if not (trial is None or _is_number(trial)):
        raise ValueError("header.judged.trial: must be a number of seconds, or null")
    rules = plain.get("rules")
    if not isinstance(rules, list):
        raise ValueError("header.judged.rules: must be a list of limits")  # noqa: TRY004
    found = tuple(_rule(rule, number) for number, rule in enumerate(rules))
    return Judging(
        float(since), float(alarm_at), str(plain.get("stage") or ""), round(weight * FULL / 100), found, trial
    )


def _rule(plain: Any, number: int) -> Limit:
    at = f"header.judged.rules.{number}"
    if not isinstance(plain, dict) or not isinstance(plain.get("metric"), str):
        raise ValueError(f'{at}: must be an object with a "metric"')  # noqa: TRY004
    kinds = {one.name: one.default for one in fields(Limit)}
    for key, value in plain.items():
        if key not in kinds:
            raise ValueError(f"{at}.{key}: is no field of a limit")
        text = key == "metric" or isinstance(kinds[key], str)
        fits = isinstance(value, str) if text else isinstance(value, bool) or _is_number(value) or value is None
        if not fits:
            raise ValueError(f"{at}.{key}: must be {'a text' if text else 'a number'}")
    return Limit(**plain)


def _limits(plain: Any) -> dict[str, float]:
    if isinstance(plain, list):
        # A list of limits as in the config.
        pairs = [(one.get("metric"), one.get("max")) if isinstance(one, dict) else (None, None) for one in plain]
    elif isinstance(plain, dict):
        pairs = list(plain.items())
    else:
        pairs = [(None, None)]
    found = {}
    for metric, bound in pairs:
        match = _TEXT.fullmatch(bound) if isinstance(bound, str) else None
        number = float(match[1]) * _FACTORS[match[2]] if match else bound
        if not isinstance(metric, str) or not _is_number(number):
            raise ValueError('header.limits: must be an object such as {"error_rate": 0.01, "p99": 200} (ms)')
        found[metric] = round(float(number), 9)
    return found


def _after(blocks: Sequence[Block], t: Any) -> float:
    if not _is_number(t):
        raise ValueError("t: must be the block's end in seconds")
    if blocks and t <= blocks[-1].t:
        raise ValueError(f"t: is not after that of line {blocks[-1].line}: blocks stand in the order of time")
    return float(t)


def _sample(plain: Mapping[str, Any], version: str) -> Sample:
    found = plain.get(version)
    if found is None:
        return Sample()
    if not isinstance(found, dict):
        raise ValueError(f"{version}: must be an object")  # noqa: TRY004
    requests, bad = (_count(found.get(key, 0), f"{version}.{key}") for key in ("requests", "bad"))
    if bad > requests + 1:  # counters are read without any order between them: one may be seen too early
        raise ValueError(f"{version}.bad: is more than requests")
    client_errors = found.get("client_errors")
    sample = Sample(
        requests=requests,
        bad=bad,
        client_errors=None if client_errors is None else _count(client_errors, f"{version}.client_errors"),
        over=_counts(found, "over", version),
        within=_counts(found, "within", version),
        hist=_hist(found, version),
        signals={
            key: _pair(value, f"{version}.signals.{key}") for key, value in _mapping(found, "signals", version).items()
        },
    )
    if found and "requests" not in found:
        raise ValueError(f"{version}.requests: is missing")
    return sample


def _hist(found: Mapping[str, Any], version: str) -> dict[int, int] | None:
    if found.get("hist") is None:
        return None
    hist = {}
    for index, count in _mapping(found, "hist", version).items():
        if not index.isdecimal() or int(index) > hdr.OVERFLOW:
            raise ValueError(f"{version}.hist: {index!r} is no index of the scale (0 to {hdr.OVERFLOW})")
        hist[int(index)] = _count(count, f"{version}.hist.{index}")
    return hist


def _mapping(found: Mapping[str, Any], key: str, version: str) -> Mapping[str, Any]:
    plain = found.get(key) or {}
    if not isinstance(plain, dict):
        raise ValueError(f"{version}.{key}: must be an object")  # noqa: TRY004
    return plain


def _counts(found: Mapping[str, Any], key: str, version: str) -> dict[str, int]:
    return {
        called: _count(value, f"{version}.{key}.{called}") for called, value in _mapping(found, key, version).items()
    }


def _pair(value: Any, key: str) -> tuple[int, int]:
    if not isinstance(value, list) or len(value) != 2:
        raise ValueError(f"{key}: must be [seen, matched]")
    return _count(value[0], key), _count(value[1], key)


def _count(value: Any, key: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{key}: must be a whole number of at least 0")
    return value


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e15


def _usual(blocks: Sequence[Block]) -> float:
    steps = [after.t - before.t for before, after in pairwise(blocks)]
    return median(steps) if steps else BLOCK_S
