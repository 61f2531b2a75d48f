"""`make bench`: Tidegate beside nginx, HAProxy and Envoy, in one run on one machine.

What is compared is CPU time per request: it holds on a busy machine where requests per second do not. Take the ratios
of one run, never figures of two runs. It is no test and has no pass mark.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import shlex
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from loadtests.bench.cases import CASES
from loadtests.bench.contestants import Contestant, Envoy, HAProxy, Nginx, Tidegate
from loadtests.bench.race import run
from loadtests.bench.report import HEADINGS, as_json, as_markdown, as_readme, cells

RESULTS = Path(__file__).resolve().parents[1] / "results"
README = Path(__file__).resolve().parents[2] / "README.md"
BEGIN, END = "<!-- bench: written by make bench ARGS=--readme -->", "<!-- /bench -->"


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m loadtests.bench", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds (5)")
    parser.add_argument("--seconds", type=float, default=3, help="seconds of load per measurement, whole ones (3)")
    parser.add_argument("--cases", default=",".join(case.name for case in CASES), help="of %(default)s")
    parser.add_argument("--only", default="", help="contestants: of tidegate,nginx,haproxy,envoy and --also names")
    parser.add_argument(
        "--also",
        action="append",
        default=[],
        metavar="NAME=CHECKOUT",
        help="one more tidegate from another checkout (its .venv is used if it has one); may be given again",
    )
    parser.add_argument("--json", type=Path, default=RESULTS / "bench.json", help="where the JSON goes (%(default)s)")
    parser.add_argument(
        "--markdown", type=Path, default=RESULTS / "bench.md", help="where the table goes (%(default)s)"
    )
    parser.add_argument("--readme", action="store_true", help="put the short table into README.md as well")
    parser.add_argument("--keep", action="store_true", help="keep configs and logs of the contestants")
    return parser.parse_args(argv)


def main(argv: list[str]) -> int:
    """Run the benchmark; return 0, or 2 when it cannot run with these arguments on this machine."""
    arguments = _arguments(argv)
    for program in ("wrk", "nginx", "taskset"):
        if shutil.which(program) is None:
            print(f"bench: {program} is not installed (apt-get install wrk nginx util-linux)", file=sys.stderr)
            return 2
    known = {case.name: case for case in CASES}
    names = [name for name in arguments.cases.split(",") if name]
    contestants: list[Contestant] = [Tidegate(), Nginx(), HAProxy(), Envoy()]
    for item in arguments.also:
        name, _, path = item.partition("=")
        contestants.insert(1, Tidegate(name, Path(path).resolve()))
    only = [name for name in arguments.only.split(",") if name]
    wrong = [name for name in names if name not in known]
    wrong += [name for name in only if name not in {contestant.name for contestant in contestants}]
    if wrong:
        print(f"bench: unknown case or contestant: {', '.join(wrong)}", file=sys.stderr)
        return 2
    if only:
        contestants = [contestant for contestant in contestants if contestant.name in only]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what was started is ended
    console = Console(stderr=True)
    folder = Path(tempfile.mkdtemp(prefix="tidegate-bench-"))
    try:
        with console.status("starting") as status:
            outcome = run(
                contestants,
                [known[name] for name in names],
                rounds=arguments.rounds,
                seconds=arguments.seconds,
                folder=folder,
                say=lambda text: (
                    status.update(text)
                    if console.is_terminal and not text.startswith("skipped")
                    else console.print(text, markup=False, highlight=False)
                ),
            )
    finally:
        if arguments.keep:
            console.print(f"configs and logs: {folder}", markup=False)
        else:
            shutil.rmtree(folder, ignore_errors=True)
    command = "make bench" + (f' ARGS="{shlex.join(argv)}"' if argv else "")
    result = as_json(outcome, command, dt.datetime.now(dt.UTC))
    for path, text in ((arguments.json, json.dumps(result, indent=1)), (arguments.markdown, as_markdown(result))):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    if arguments.readme:
        text = README.read_text()
        before, _, rest = text.partition(BEGIN)
        README.write_text(f"{before}{BEGIN}\n{as_readme(result)}{END}{rest.partition(END)[2]}")
    _print(result)
    for complaint in result["complaints"]:
        print(f"not comparable: {complaint}")
    print(f"\n{os.path.relpath(arguments.json)}\n{os.path.relpath(arguments.markdown)}")
    return 0


def _print(result: dict[str, Any]) -> None:
    table = Table(title=f"{result['date']} · {result['machine']}", title_justify="left")
    for index, heading in enumerate(HEADINGS):
        table.add_column(heading, justify="left" if index < 2 else "right")
    rows = result["summary"]
    for row, following in zip(rows, [*rows[1:], None], strict=True):
        table.add_row(*cells(row), end_section=following is None or following["case"] != row["case"])
    Console(width=None if sys.stdout.isatty() else 150).print(table)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
