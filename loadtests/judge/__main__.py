"""`python -m loadtests.judge`: how fast the judge is and how often it is wrong, in counts with exact bounds.

Prints Markdown; what was printed last is kept in `RESULTS.md`. Every row has its own stream of chance, made from the
seed and its place, so that one part can be run alone. A healthy row of 300 days takes two minutes of one core.
"""

from __future__ import annotations

import argparse
import datetime as dt
import platform
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from loadtests.judge.counts import Counted
from loadtests.judge.scenarios import AT, NEVER, Alarms, Failure, failing, healthy_days, outage
from loadtests.judge.streams import WHOLE, Healthy
from loadtests.judge.vectorised import NAIVE_RESPONSES, NAIVE_WINDOWS
from proxy.rollout.evidence import ShareEvidence
from proxy.rollout.ratio import Attribution, RatioEvidence

PARTS = ("cost", "failing", "outages", "healthy", "bursts", "load")


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


def report(options: Options, parts: list[str], command: str) -> Iterator[str]:
    """Yield the lines of the report."""
    began = time.monotonic()
    yield "# The judge, simulated"
    yield ""
    yield f"`{f'python -m loadtests.judge {command}'.strip()}`, {dt.datetime.now(dt.UTC):%Y-%m-%d %H:%M} UTC,"
    yield f"seed {options.seed}, numpy {np.__version__}. Blocks of 250 ms; budget: 1 % false alarms in 24 h over two"
    yield f"limits, an alarm at {AT:.2f} nats. In brackets: 95 % Clopper-Pearson."
    yield f"Naive: {NAIVE_WINDOWS} breached windows of {NAIVE_RESPONSES} responses in a row."
    tables = {"cost": _cost, "failing": _failing, "outages": _outages, "healthy": _healthy, "bursts": _bursts}
    tables["load"] = _load
    for part in parts:
        yield ""
        yield from tables[part](options)
    yield ""
    yield f"Took {(time.monotonic() - began) / 60:.1f} min on one core of {platform.machine()}."


def _cost(_options: Options) -> Iterator[str]:
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


def _failing(options: Options) -> Iterator[str]:
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
                failure = Failure(allowed, rate, share, poisson, within)
                chance = np.random.default_rng((options.seed, 1, place))
                alarms, naive = failing(failure, runs, chance)
                cells = (
                    _percent(allowed),
                    _percent(share),
                    str(rate),
                    "random" if poisson else "even",
                    "within a block" if within else "with a block",
                    f"{most} blocks",
                    str(Counted(int((alarms <= most).sum()), runs)),
                    f"{_quantile(alarms, 0.5)}, {_quantile(alarms, 0.95)}",
                    str(Counted(int((naive <= most).sum()), runs)),
                    _quantile(naive, 0.5),
                )
                yield f"| {' | '.join(cells)} |"


def _outages(options: Options) -> Iterator[str]:
    yield "## Everything fails for a while, from a random instant on: how many runs are rolled back (limit 1 %)"
    yield ""
    lengths = (0.5, 0.75, 0.9, 1.0, 1.1, 1.25, 1.5)
    yield f"| requests/s | {' | '.join(f'{seconds} s' for seconds in lengths)} |"
    yield f"|---{'|---' * len(lengths)}|"
    runs = min(200, options.runs)
    for rate in (20, 80, 400):
        chance = np.random.default_rng((options.seed, 2, rate))
        yield f"| {rate} | {' | '.join(str(outage(seconds, rate, runs, chance)) for seconds in lengths)} |"


def _healthy(options: Options) -> Iterator[str]:
    yield "## Healthy days rolled back"
    yield ""
    yield f"{options.hours} h from midnight; errors at 20 % of the limit in bursts of mean 5, p99 (p999, p95) at 90 %"
    yield "of its limit; blocks of 20 responses on average, 14 at night and 26 by day. `max_ratio`: 1.5, with a"
    yield "floor of a tenth of the limit."
    yield ""
    yield from _days(
        options,
        3,
        [
            (f"limit {_percent(allowed)}, weight {_percent(weight)}", Healthy(weight=weight, allowed=allowed))
            for allowed in options.limits
            for weight in (0.01, 0.1, 0.5)
        ],
    )


def _bursts(options: Options) -> Iterator[str]:
    yield f"## The same with longer bursts and a deeper night (limit 1 %, weight 10 %, {options.hours} h from midnight)"
    yield ""
    rows = [(f"bursts of mean {burst}", Healthy(burst=burst, swing=0.0)) for burst in (5, 7.5, 10, 20)]
    rows += [
        (f"bursts of mean 5, blocks of {20 * (1 - swing):.0f} at night", Healthy(swing=swing)) for swing in (0.5, 0.8)
    ]
    rows += [("bursts of mean 10, blocks of 1 s", Healthy(burst=10, per_block=80))]
    yield from _days(options, 4, rows)


def _load(options: Options) -> Iterator[str]:
    yield f"## The same service at 160 requests/s, by weight (limit 1 %, {options.hours} h from midnight)"
    yield ""
    rows = []
    for weight in (0.01, 0.1, 0.5):
        for of, said in ((WHOLE, "bursts of the service's responses"), ("own", "bursts of the version's responses")):
            healthy = Healthy(weight=weight, per_block=40 * weight, of=of)
            rows.append((f"weight {_percent(weight)}, blocks of {40 * weight:g}, {said}", healthy))
    yield from _days(options, 5, rows)


def _days(options: Options, part: int, rows: list[tuple[str, Healthy]]) -> Iterator[str]:
    yield "| service | errors + latency by evidence | `max_ratio` by evidence | errors + latency, naive |"
    yield "|---|---|---|---|"
    for place, (name, healthy) in enumerate(rows):
        days = healthy_days(healthy, options.runs, np.random.default_rng((options.seed, part, place)), options.hours)
        yield f"| {name} | {days.fixed} | {days.ratio} | {days.naive} |"


def _quantile(alarms: Alarms, q: float) -> str:
    block = int(np.quantile(alarms, q, method="higher"))
    return "never" if block == NEVER else str(block)


def _percent(share: float) -> str:
    return f"{100 * share:g} %"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
