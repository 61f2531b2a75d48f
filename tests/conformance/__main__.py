"""Compare Tidegate with its peers, case by case.

`python -m tests.conformance --peers` runs every case against nginx, HAProxy, Envoy and Caddy too (those that are
there; `CADDY=/path/to/caddy` names a program) and prints where Tidegate does otherwise than most of them, and the cases
in which Tidegate does otherwise than the case says. A row reads `requests at the backend > statuses end`.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
from collections import Counter
from pathlib import Path

from tests.conformance.case import Case, check, outcome, run
from tests.conformance.cases import CASES
from tests.conformance.proxies import PEERS, program, started
from tests.conformance.wire import Recorder, Talk, Unreadable


def say(case: Case, port: int, recorder: Recorder, quiet: float) -> tuple[str, Talk | None]:
    try:
        talk = run(case, port, recorder, quiet)
    except (OSError, Unreadable) as error:
        return f"?{type(error).__name__}: {error}"[:60], None
    return outcome(talk), talk


def run_all(name: str, cases: list[Case], folder: Path, results: dict[str, dict[str, tuple[str, Talk | None]]]) -> None:
    recorder = Recorder()
    quiet = 3.0 if name == "tidegate" else 1.0
    rows = results[name] = {}
    with started(name, folder / name, recorder) as port:
        for case in cases:
            rows[case.name] = say(case, port, recorder, quiet)
    recorder.close()


def forwarded(talk: Talk | None) -> str:
    if talk is None:
        return "-"
    return " | ".join(f"{seen.start!r} {len(seen.lines)} {seen.body[:20]!r} {seen.trailers}" for seen in talk.seen)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.conformance", description=__doc__)
    parser.add_argument("--peers", action="store_true", help="run the peers too")
    parser.add_argument("--match", default="", help="only cases whose name has this")
    parser.add_argument("--show", action="store_true", help="print what every proxy forwarded")
    options = parser.parse_args()
    cases = [case for case in CASES if options.match in case.name and not case.trusted]
    names = ["tidegate", *(name for name in PEERS if options.peers and program(name))]
    results: dict[str, dict[str, tuple[str, Talk | None]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        threads = [threading.Thread(target=run_all, args=(name, cases, Path(folder), results)) for name in names]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    print(f"{len(cases)} cases; {', '.join(names)}\n")
    same, against = Counter(), 0
    for case in cases:
        said = {name: results[name].get(case.name, ("missing", None)) for name in names}
        own, talk = said["tidegate"]
        wrong = check(case, talk) if talk else ["nothing came of it"]
        counts = Counter(said[name][0] for name in names[1:])
        most, votes = counts.most_common(1)[0] if counts else (own, 0)
        same.update(name for name in names[1:] if said[name][0] == own)
        against += votes * 2 > len(names) - 1 and most != own
        if wrong or (votes * 2 > len(names) - 1 and most != own) or options.show or (counts and own not in counts):
            print(f"{case.name} ({case.ref})")
            for text in wrong:
                print(f"    WRONG {text}")
            for name in names:
                print(f"    {name:9} {said[name][0]}" + (f"   {forwarded(said[name][1])}" if options.show else ""))
    if names[1:]:
        print("\nthe same outcome as Tidegate: " + ", ".join(f"{name} {same[name]}" for name in names[1:]))
        print(f"cases in which most of them agree on another one: {against}")


main()
