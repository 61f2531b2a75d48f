"""`python -m loadtests.held --seed S`: 2,000 requests/s and 200 WebSockets through reloads, kills and a drain.

Plays `play.py` against a real `tidegate run`, prints a table and, when nothing was made smaller, keeps it in
`RESULTS.md`. The exit code is 1 when a request failed or a tunnel ended without excuse.
"""

from __future__ import annotations

import argparse
import datetime as dt
import os
import platform
import resource
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from loadtests.held.play import WORKERS, Outcome, Plan, Play

RESULTS = Path(__file__).with_name("RESULTS.md")
DESCRIPTORS = 8192


def main(argv: Sequence[str]) -> int:
    """Play, tell, and keep what was found."""
    full = Plan()
    parser = argparse.ArgumentParser(prog="python -m loadtests.held", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rate", type=float, default=full.rate, help="requests per second (%(default)g)")
    parser.add_argument("--seed", type=int, default=full.seed)
    arguments = parser.parse_args(argv)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, DESCRIPTORS)), hard))
    plan = Plan(rate=arguments.rate, seed=arguments.seed)
    began, load = time.monotonic(), os.getloadavg()[0]
    with TemporaryDirectory(prefix="tidegate-held-") as folder:
        outcome = Play(Path(folder), plan, lambda text: print(text, file=sys.stderr, flush=True)).run()
    took_s = time.monotonic() - began
    command = f"python -m loadtests.held --rate {plan.rate:g} --seed {plan.seed}"
    now = dt.datetime.now(dt.UTC)
    text = "\n".join(
        [
            "# Load, held",
            "",
            f"`{command}`, {now:%Y-%m-%d %H:%M} UTC, CPython {platform.python_version()},",
            f"{WORKERS} workers, {os.cpu_count()} cores (load {load:.0f} before). What is an excuse: `play.py`.",
            "",
            *table(plan, outcome, took_s),
        ]
    )
    print(text)
    for one in (*outcome.failed, *outcome.dropped):
        print(one)
    if plan.rate >= full.rate:
        RESULTS.write_text(text + "\n")
    return 1 if outcome.failed or outcome.dropped or outcome.internal_errors or outcome.exit_code else 0


def table(plan: Plan, outcome: Outcome, took_s: float) -> list[str]:
    """Return the figures of a run as Markdown."""
    rows = {
        "reloads (HUP and API)": str(plan.reloads),
        "kill -9": f"{plan.worker_kills} workers, {plan.supervisor_kills} supervisors, each started again",
        "took, with the drain after TERM": f"{took_s:.0f} s",
        "connections": f"{plan.connections} for requests, {plan.tunnels} WebSockets",
        "requests": f"{outcome.sent} sent, {outcome.answered} answered; {outcome.rate:.0f}/s before TERM",
        "**failed requests**": _told(one.how for one in outcome.failed),
        "on connections that lived on a killed worker": _told(one.how for one in outcome.excused),
        "longest wait for an answer": f"{outcome.longest_s:.2f} s",
        "**tunnels closed before the drain's end**": _told(one.how for one in outcome.dropped),
        "tunnels that lived on a killed worker": str(outcome.killed_tunnels),
        "tunnels closed at a drain's end": str(outcome.drained_tunnels),
        "echoes and pongs": f"{outcome.echoes}; {outcome.late_echoes} later than a second",
        "most loaded worker, of the mean": f"{outcome.imbalance:.2f}",
        "internal errors": str(outcome.internal_errors),
        "exit code after TERM": str(outcome.exit_code),
    }
    return ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())]


def _told(words: Iterable[str]) -> str:
    how = Counter(words)
    told = ", ".join(f"{word} {count}" for word, count in sorted(how.items()))
    return f"{how.total()} ({told})" if how else "0"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
