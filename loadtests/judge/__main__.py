"""`python -m loadtests.judge`: how fast the judge is and how often it is wrong, in counts with exact bounds.

Prints Markdown, the targets first; what was printed last is kept in `RESULTS.md`. Every row has its own stream of
chance, made from the seed and its place, so that one part can be run alone. 300 healthy days take a minute of one core.
"""

from __future__ import annotations

import argparse
import datetime as dt
import platform
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TypeAlias

import numpy as np

from loadtests.judge.counts import Counted
from loadtests.judge.scenarios import (
    AT,
    NEVER,
    OTHERS,
    PRODUCT,
    Alarms,
    Blamed,
    Days,
    Failure,
    Fault,
    blamed,
    failing,
    healthy_days,
    near,
    outage,
    settings_on_healthy_days,
)
from loadtests.judge.streams import WHOLE, Healthy
from loadtests.judge.vectorised import NAIVE_RESPONSES, NAIVE_WINDOWS
from proxy.rollout.evidence import ShareEvidence
from proxy.rollout.ratio import Attribution, RatioEvidence

PARTS = ("failing", "outages", "near", "shared", "healthy", "bursts", "load", "settings", "cost")
# The limit that the targets are for; the others are shown.
TARGET = 0.01


@dataclass(frozen=True, slots=True)
class Options:
    """What is run: `runs` per row, `hours` of each healthy day, which limits (shares)."""

    seed: int
    runs: int
    hours: int
    limits: tuple[float, ...]


def main(argv: list[str]) -> int:
    """Run the chosen parts; return 0."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.judge", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=20_260_101)
    parser.add_argument("--runs", type=int, default=300, help="runs per healthy row; the others take 200 (300)")
    parser.add_argument("--hours", type=int, default=24, help="length of a healthy day (24)")
    parser.add_argument("--limits", default="1,0.1,5", help="limits in percent (1,0.1,5)")
    parser.add_argument("--parts", default=",".join(PARTS), help=f"which parts ({','.join(PARTS)})")
    arguments = parser.parse_args(argv)
    limits = tuple(float(limit) / 100 for limit in arguments.limits.split(","))
    options = Options(arguments.seed, arguments.runs, arguments.hours, limits)
    for line in report(options, arguments.parts.split(","), " ".join(argv)):
        print(line, flush=True)
    return 0


@dataclass(frozen=True, slots=True)
class Target:
    """What the judge has to reach, what it does reach, and whether that is enough."""

    asked: str
    found: Counted
    met: bool


Targets: TypeAlias = list[Target]


def report(options: Options, parts: list[str], command: str) -> Iterator[str]:
    """Yield the lines of the report."""
    began = time.process_time()
    tables: dict[str, Callable[[Options, Targets], Iterator[str]]] = {
        "failing": _failing,
        "outages": _outages,
        "near": _near,
        "shared": _shared,
        "healthy": _healthy,
        "bursts": _bursts,
        "load": _load,
        "settings": _settings,
        "cost": _cost,
    }
    targets: Targets = []
    details = [["", *tables[part](options, targets)] for part in parts]
    yield "# The judge, simulated"
    yield ""
    yield f"`{f'python -m loadtests.judge {command}'.strip()}`, {dt.datetime.now(dt.UTC):%Y-%m-%d %H:%M} UTC,"
    yield f"seed {options.seed}, numpy {np.__version__}, {(time.process_time() - began) / 60:.0f} min of CPU time"
    yield f"({platform.machine()}). Blocks of 250 ms; budget: 1 % false alarms in 24 h over two limits, however many"
    yield f"stages share it, an alarm at {AT:.2f} nats. In brackets: 95 % Clopper-Pearson."
    yield f"Naive: {NAIVE_WINDOWS} breached windows of {NAIVE_RESPONSES} responses in a row."
    yield "The blocks of a failure are counted from the first that holds a bad response."
    if targets:
        yield ""
        yield from _targets(targets)
    for lines in details:
        yield from lines


def _targets(targets: Targets) -> Iterator[str]:
    yield f"## Targets (limit {_percent(TARGET)})"
    yield ""
    yield "| asked | found | |"
    yield "|---|---|---|"
    for target in targets:
        yield f"| {target.asked} | {target.found} | {'met' if target.met else '**not met**'} |"


def _cost(_options: Options, _: Targets) -> Iterator[str]:
    share, ratio, whose = ShareEvidence(0.01, AT), RatioEvidence(1.5, 0.001, AT), Attribution(0.01, AT)
    rounds = 20_000
    yield "## Cost per block"
    yield ""
    yield "| judge | CPU µs per limit and block |"
    yield "|---|---|"
    blocks = [(20, number % 7 == 0, 180, 1) for number in range(rounds)]
    looks: dict[str, Callable[[int, int, int, int], None]] = {
        "fixed limit": lambda n, bad, _stable_n, _stable_bad: share.look(n, bad),
        "`max_ratio` with floor": ratio.look,
        "whose fault": whose.look,
    }
    for name, look in looks.items():
        before = time.process_time()
        for block in blocks:
            look(*block)
        yield f"| {name} | {(time.process_time() - before) / rounds * 1e6:.1f} |"


def _failing(options: Options, targets: Targets) -> Iterator[str]:
    yield "## `new` fails after 20,000 good responses"
    yield ""
    yield "| limit | bad | requests/s | arrivals | begins | within | by evidence | median, p95 | naive | naive median |"
    yield "|---|---|---|---|---|---|---|---|---|---|"
    runs = min(200, options.runs)
    place = 0
    for allowed in options.limits:
        for share, rate, most in ((1.0, 20, 5), (1.0, 80, 5), (1.0, 400, 5), (0.2, 80, 10), (0.2, 400, 10)):
            for poisson, within in ((False, False), (True, False), (True, True)):
                place += 1
                begins = "within a block" if within else "with a block"
                arrivals = "random" if poisson else "even"
                failure = Failure(allowed, rate, share, poisson, within)
                chance = np.random.default_rng((options.seed, 1, place))
                alarms, naive = failing(failure, runs, chance)
                found = Counted(int((alarms <= most).sum()), runs)
                if allowed == TARGET:
                    asked = f"{_percent(share)} bad at {rate}/s ({arrivals}), begins {begins}: {most} blocks in ≥ 95 %"
                    targets.append(Target(asked, found, found.hits >= 0.95 * runs))
                cells = (
                    _percent(allowed),
                    _percent(share),
                    str(rate),
                    arrivals,
                    begins,
                    f"{most} blocks",
                    str(found),
                    f"{_quantile(alarms, 0.5)}, {_quantile(alarms, 0.95)}",
                    str(Counted(int((naive <= most).sum()), runs)),
                    _quantile(naive, 0.5),
                )
                yield f"| {' | '.join(cells)} |"
    yield ""
    yield "A bet wins less than 1/limit in a block: less than 20 at 5 %, and six such are less than the alarm needs."
    yield "Hence total failure takes seven blocks there, whatever is bet."


def _outages(options: Options, targets: Targets) -> Iterator[str]:
    yield "## Everything fails for a while, from a random instant on: how many runs are rolled back (limit 1 %)"
    yield ""
    lengths = (0.5, 0.75, 0.9, 1.0, 1.1, 1.25, 1.5)
    yield f"| requests/s | {' | '.join(f'{seconds} s' for seconds in lengths)} |"
    yield f"|---{'|---' * len(lengths)}|"
    runs = min(200, options.runs)
    for rate in (20, 80, 400):
        chance = np.random.default_rng((options.seed, 2, rate))
        found = [outage(seconds, rate, runs, chance) for seconds in lengths]
        asked = f"all bad for {lengths[1]} s at {rate}/s: ≤ 5 % rolled back"
        targets.append(Target(asked, found[1], found[1].hits <= 0.05 * runs))
        yield f"| {rate} | {' | '.join(map(str, found))} |"


def _near(options: Options, targets: Targets) -> Iterator[str]:
    runs, hours = min(100, options.runs), options.hours
    yield f"## Near the limit ({_percent(TARGET)}): when half and when 95 % of {runs} runs alarm, bad ones one by one"
    yield ""
    rates = (1, 20, 80, 400)
    yield f"| true share | {' | '.join(f'{rate}/s' for rate in rates)} |"
    yield f"|---{'|---' * len(rates)}|"
    for row, (times, most) in enumerate(((0.9, 24), (1.25, 6), (1.5, 6), (2.0, 6), (3.0, 3), (5.0, 3), (20.0, 3))):
        cells = []
        for rate in rates:
            chance = np.random.default_rng((options.seed, 6, row, rate))
            alarms = near(TARGET, times, rate, runs, 3600 * min(most, hours), chance)
            alarmed = Counted(int((alarms != NEVER).sum()), runs)
            if times < 1:
                cells.append(f"{alarmed} in {min(most, hours)} h")
                targets.append(Target(f"{_percent(times * TARGET)} bad at {rate}/s: never", alarmed, not alarmed.hits))
            else:
                cells.append(f"{_seconds(alarms, 0.5)}, {_seconds(alarms, 0.95)}")
        yield f"| {_percent(times * TARGET)} | {' | '.join(cells)} |"


FAULTS = (0.02, 0.05, 0.2, 1.0)
FAULT_RATES = (20, 80, 400)
# So many blocks after an alarm it is late.
LATE = 8


def _shared(options: Options, targets: Targets) -> Iterator[str]:
    runs = min(200, options.runs)
    worst = _Worst(runs)
    yield f"## Whose fault it is (limit {_percent(TARGET)}, {runs} runs each)"
    yield ""
    yield "Both are as bad as said from a random instant on, before that a fifth of what the limit allows; bad ones"
    yield "come one by one or, where said, in bursts of mean 5. The rate is that of `new`, the block the median one of"
    yield "the alarms. How many alarms freeze the ramp; how many runs are not rolled back in the minute after it:"
    yield ""
    weights = (0.1, 0.5, 0.9)
    yield from _head("both bad", "requests/s", "block", *(f"weight {_percent(weight)}" for weight in weights))
    for place, (share, rate, burst) in enumerate(_faults()):
        fault = Fault(rate=rate, share=share, burst=burst)
        found = [blamed(replace(fault, weight=weight), runs, _chance(options, 0, place)) for weight in weights]
        yield _row(_bad(fault), str(rate), _quantile(found[0].alarmed, 0.5), *map(_frozen, found))
        for weight, one in zip(weights, found, strict=True):
            if burst == 1:
                lasting = int((one.rolled_back == NEVER).sum())
                worst.note(f"a fault of both at weight {_percent(weight)}: ≥ 95 % frozen", lasting, 0.95)
    yield ""
    yield f"`new` alone is as bad, stable stays as bad as said. How many runs are rolled back more than {LATE} blocks"
    yield "after the alarm, and how many blocks after it 95 % are:"
    yield ""
    places = ((0.1, 0.8), (0.5, 0.8), (0.9, 0.0), (0.9, 0.2), (0.9, 0.5), (0.9, 0.8))
    said = [f"weight {_percent(weight)}, stable {_percent(healthy * TARGET)}" for weight, healthy in places]
    yield from _head("`new` bad", "requests/s", *said)
    for place, (share, rate, burst) in enumerate(_faults()):
        fault = Fault(rate=rate, share=share, burst=burst, shared=False)
        found = [
            blamed(replace(fault, weight=weight, healthy=healthy), runs, _chance(options, 1, place))
            for weight, healthy in places
        ]
        yield _row(_bad(fault), str(rate), *map(_late, found))
        for name, one in zip(said, found, strict=True):
            if burst == 1:
                in_time = int((one.rolled_back - one.alarmed <= LATE).sum())
                worst.note(f"`new` alone, {name}: ≤ 1 % frozen for more than {LATE} blocks", in_time, 0.99)
            most = {1.0: 5, 0.2: 10}.get(share)
            if burst == 1 and most and (rate > FAULT_RATES[0] or share == 1):
                quick = int((one.rolled_back <= most).sum())
                worst.note(f"`new` alone {_percent(share)} bad, {name}: {most} blocks in ≥ 95 %", quick, 0.95)
    targets += worst.targets()


class _Worst:
    """Of all rows that something is asked of, the one that does it least often."""

    def __init__(self, runs: int) -> None:
        self._runs = runs
        self._found: dict[str, tuple[int, float]] = {}

    def note(self, asked: str, hits: int, least: float) -> None:
        """Take in a row; `least`: the part of the runs that is asked for."""
        self._found[asked] = min((hits, least), self._found.get(asked, (self._runs, least)))

    def targets(self) -> Targets:
        """Return what was asked, with the worst that was found."""
        return [
            Target(f"{asked}, in the worst row", Counted(hits, self._runs), hits >= least * self._runs)
            for asked, (hits, least) in self._found.items()
        ]


def _faults() -> Iterator[tuple[float, int, float]]:
    yield from ((share, rate, 1.0) for share in FAULTS for rate in FAULT_RATES)
    yield from ((share, 80, 5.0) for share in FAULTS[1:3])


def _chance(options: Options, table: int, place: int) -> np.random.Generator:
    return np.random.default_rng((options.seed, 8, table, place))


def _bad(fault: Fault) -> str:
    return _percent(fault.share) + (" in bursts" if fault.burst > 1 else "")


def _frozen(fault: Blamed) -> str:
    return f"{int(fault.frozen.sum())}; {Counted(int((fault.rolled_back == NEVER).sum()), len(fault.alarmed))}"


def _late(fault: Blamed) -> str:
    waited = np.where(fault.rolled_back == NEVER, NEVER, fault.rolled_back - fault.alarmed)
    q95 = int(np.quantile(waited, 0.95, method="higher"))
    return f"{int((waited > LATE).sum())}; {'later' if q95 == NEVER else q95}"


def _head(*cells: str) -> Iterator[str]:
    yield _row(*cells)
    yield f"|{'---|' * len(cells)}"


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _healthy(options: Options, targets: Targets) -> Iterator[str]:
    yield "## Healthy days rolled back"
    yield ""
    yield f"{options.hours} h from midnight; errors at 20 % of the limit in bursts of mean 5, p99 (p999, p95) at 90 %"
    yield "of its limit; blocks of 20 responses on average, 14 at night and 26 by day. `max_ratio`: 1.5, with a"
    yield "floor of a tenth of the limit."
    yield ""
    rows = [(allowed, weight) for allowed in options.limits for weight in (0.01, 0.1, 0.5)]
    days = _days(
        options,
        3,
        [
            (f"limit {_percent(allowed)}, weight {_percent(weight)}", Healthy(weight=weight, allowed=allowed))
            for allowed, weight in rows
        ],
    )
    yield from DAYS_HEAD
    for (allowed, weight), (found, line) in zip(rows, days, strict=True):
        if allowed == TARGET:
            asked = f"healthy {options.hours} h at weight {_percent(weight)}: ≤ 1 % rolled back"
            for name, counted in (("", found.fixed), (" by `max_ratio`", found.ratio)):
                targets.append(Target(asked + name, counted, counted.hits <= 0.01 * counted.runs))
        yield line


def _bursts(options: Options, _: Targets) -> Iterator[str]:
    options = _short(options)
    yield f"## The same with longer bursts and a deeper night (limit 1 %, weight 10 %, {options.hours} h from midnight)"
    yield ""
    rows = [(f"bursts of mean {burst}", Healthy(burst=burst, swing=0.0)) for burst in (5, 7.5, 10, 20)]
    rows += [
        (f"bursts of mean 5, blocks of {20 * (1 - swing):.0f} at night", Healthy(swing=swing)) for swing in (0.5, 0.8)
    ]
    rows += [("bursts of mean 10, blocks of 1 s", Healthy(burst=10, per_block=80))]
    yield from DAYS_HEAD
    yield from (line for _, line in _days(options, 4, rows))


def _load(options: Options, _: Targets) -> Iterator[str]:
    options = _short(options)
    yield f"## The same service at 160 requests/s, by weight (limit 1 %, {options.hours} h from midnight)"
    yield ""
    rows = []
    for weight in (0.01, 0.1, 0.5):
        for of, said in ((WHOLE, "bursts of the service's responses"), ("own", "bursts of the version's responses")):
            healthy = Healthy(weight=weight, per_block=40 * weight, of=of)
            rows.append((f"weight {_percent(weight)}, blocks of {40 * weight:g}, {said}", healthy))
    yield from DAYS_HEAD
    yield from (line for _, line in _days(options, 5, rows))


def _settings(options: Options, _targets: Targets) -> Iterator[str]:
    runs = min(200, options.runs)
    yield "## What other constants would do (limit 1 %)"
    yield ""
    yield "Bets on the whole share reach the fifth block at any instant only if they are so large that outages of 0.9 s"
    yield "and ordinary bursts make alarms. Columns, at 80 requests/s: total failure that begins within a block, found"
    yield "within 5 blocks; 20 % bad, within 10; 0.9 s and 1 s of total failure, rolled back; the very same healthy"
    yield f"days of {options.hours} h at weight 10 %, rolled back."
    yield ""
    yield "| setting | 100 %, 5 blocks | 20 %, 10 blocks | outage of 0.9 s | of 1 s | healthy days |"
    yield "|---|---|---|---|---|---|"
    settings = (PRODUCT, *OTHERS)

    def chance(part: int) -> np.random.Generator:
        return np.random.default_rng((options.seed, 7, part))

    days = settings_on_healthy_days(settings, Healthy(), options.runs, chance(0), options.hours)
    for setting, healthy in zip(settings, days, strict=True):
        cells = [setting.name]
        for number, (share, most) in enumerate(((1.0, 5), (0.2, 10)), 1):
            failure = Failure(rate=80, share=share, within=True, blocks=40)
            blocks, _naive = failing(failure, runs, chance(number), setting)
            cells.append(str(Counted(int((blocks <= most).sum()), runs)))
        cells += [str(outage(seconds, 80, runs, chance(3), setting)) for seconds in (0.9, 1.0)]
        yield f"| {' | '.join([*cells, str(healthy)])} |"


DAYS_HEAD = (
    "| service | errors + latency by evidence | `max_ratio` by evidence | errors + latency, naive |",
    "|---|---|---|---|",
)


def _days(options: Options, part: int, rows: list[tuple[str, Healthy]]) -> Iterator[tuple[Days, str]]:
    placed = [(name, healthy, (options.seed, part, place)) for place, (name, healthy) in enumerate(rows)]
    for _, group in groupby(placed, lambda row: row[1].allowed):
        names, services, seeds = zip(*group, strict=True)
        chances = map(np.random.default_rng, seeds)
        for name, days in zip(names, healthy_days(services, options.runs, chances, options.hours), strict=True):
            yield days, f"| {name} | {days.fixed} | {days.ratio} | {days.naive} |"


def _short(options: Options) -> Options:
    return replace(options, runs=min(100, options.runs), hours=min(6, options.hours))


def _seconds(alarms: Alarms, q: float) -> str:
    block = int(np.quantile(alarms, q, method="higher"))
    if block == NEVER:
        return "later"
    seconds = block / 4
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _quantile(alarms: Alarms, q: float) -> str:
    block = int(np.quantile(alarms, q, method="higher"))
    return "never" if block == NEVER else str(block)


def _percent(share: float) -> str:
    return f"{100 * share:g} %"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
