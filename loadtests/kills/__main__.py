"""`python -m loadtests.kills --rounds 500 --seed S`: kill -9 at instants of a rollout under load, and what came of it.

Plays the game of `game.py` against a real `tidegate run`, prints a table and, from 100 rounds on, keeps it in
`RESULTS.md`. The exit code is 1 when anything was that may never be.
"""

from __future__ import annotations

import argparse
import datetime as dt
import platform
import statistics
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from loadtests.kills.game import RATE, Game, Round
from loadtests.kills.traffic import Traffic

KEPT_FROM = 100
RESULTS = Path(__file__).with_name("RESULTS.md")


def main(argv: Sequence[str]) -> int:
    """Play, tell, and keep what was found."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.kills", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args(argv)
    began = time.monotonic()
    with TemporaryDirectory(prefix="tidegate-kills-") as folder, Traffic() as traffic:
        game = Game(Path(folder), traffic, arguments.seed)
        game.play(game.draw_kinds(arguments.rounds), told=20)
        lines = table(game, traffic, time.monotonic() - began)
    command = f"python -m loadtests.kills --rounds {arguments.rounds} --seed {arguments.seed}"
    now = dt.datetime.now(dt.UTC)
    text = "\n".join(
        [
            "# The supervisor, killed",
            "",
            f"`{command}`, {now:%Y-%m-%d %H:%M} UTC, CPython {platform.python_version()},",
            f"{RATE:.0f} requests/s, two workers. What a round is, and what is checked: `game.py` and `watch.py`.",
            "",
            *lines,
        ]
    )
    print(text)
    if arguments.rounds >= KEPT_FROM:
        RESULTS.write_text(text + "\n")
    for violation in game.violations:
        print(violation.what)
    return 1 if game.violations else 0


def table(game: Game, traffic: Traffic, took_s: float) -> list[str]:
    """Return the figures of a game as Markdown."""
    alone = [one for one in game.rounds if not one.everybody]
    everybody = [one for one in game.rounds if one.everybody]
    restarts = sorted(one.restart_s for one in game.rounds)
    kinds = Counter(one.kind for one in game.rounds)
    rows = {
        "rounds": f"{len(game.rounds)} in {took_s / 60:.0f} min",
        "kinds": ", ".join(f"{kind} {count}" for kind, count in sorted(kinds.items())),
        "transitions in the journal": str(game.watch.transitions),
        "rollbacks": str(game.watch.rolled_back),
        "samples of word, latch and store": str(game.watch.samples),
        "requests at `new`, each checked": str(game.watch.checked),
        "**violations**": str(len(game.violations)),
        "requests sent": str(traffic.sent),
        f"failed requests, supervisor killed ({len(alone)} rounds)": _failed(alone),
        "… of one connection at most": str(_most(alone)),
        f"failed requests, workers killed too ({len(everybody)} rounds)": _failed(everybody),
        "restart until ready (median, most)": f"{statistics.median(restarts):.1f} s, {restarts[-1]:.1f} s",
    }
    return ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())]


def _failed(rounds: list[Round]) -> str:
    how = Counter(failure.how for one in rounds for failure in one.failures)
    told = ", ".join(f"{word} {count}" for word, count in sorted(how.items()))
    return f"{how.total()} ({told})" if how else "0"


def _most(rounds: list[Round]) -> int:
    return max((max(Counter(one.client for one in each.failures).values(), default=0) for each in rounds), default=0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
