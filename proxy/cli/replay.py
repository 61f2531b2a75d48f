"""`tidegate replay`: recorded blocks, judged by other limits.

A journal holds all rollouts of a service. The last one is judged, unless another one is asked for.
"""

from __future__ import annotations

import gzip
import json
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from difflib import get_close_matches
from pathlib import Path
from textwrap import indent
from typing import Annotated, Any

import typer

from proxy.cli import text
from proxy.cli.client import UsageError
from proxy.cli.options import Format, Output, checked
from proxy.cli.plan import described
from proxy.config.units import format_duration, parse_duration, parse_share
from proxy.errors import ConfigError, Problem
from proxy.rollout.analysis import INCONCLUSIVE
from proxy.rollout.plan import LATENCIES, METRICS, Limit
from proxy.rollout.recording import Recording, read_files
from proxy.rollout.replay import Replay, limit_of
from proxy.rollout.replay import replay as judge_again

# What stands around a section `limits` to make a plan of it.
STAGE = "stages:\n  - name: limits\n    weight: 10%\n    hold: 1h\n"
INDENT = "    "
FORM = re.compile(r"(?P<metric>\w+)\s*=\s*(?P<bound>\S+)(?:\s+over\s+(?P<window>\S+))?(?:\s+for\s+(?P<held>\S+))?")
MOST_NAMED = 5  # rollouts whose beginnings are named
SECONDS = re.compile(r"\d{1,11}(?:\.\d*)?")
EPOCH_S = 1e9  # a journal whose times are larger counts from 1970


def replay(
    journal: Annotated[
        list[Path], typer.Argument(metavar="JOURNAL", help="Block journals, oldest first.", show_default=False)
    ],
    limits: Annotated[
        str | None,
        typer.Option(
            "--limits",
            metavar="LIMITS",
            help=(
                "Such as 'error_rate=1%,p99=200ms' or 'error_rate=2% over 5m for 2m', or @FILE with a section limits "
                "as in a config; without it those that were recorded."
            ),
        ),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            "--since",
            metavar="TIME",
            help=(
                "Judge the rollout that went on at this time, or the next one, from then on: as 2026-03-01T12:00Z (UTC "
                "unless it says otherwise) or in seconds; without it the last one."
            ),
            show_default=False,
        ),
    ] = None,
    every: Annotated[
        bool, typer.Option("--all", help="Judge all rollouts of the journal as if they were one.")
    ] = False,
    output: Output = Format.TEXT,
) -> None:
    """Say when a recorded rollout would have been rolled back by these limits."""
    wanted = None if limits is None else checked(parse_limits, limits, "--limits")
    if since is not None and every:
        raise UsageError("--since and --all exclude each other", cure="leave one of them out")
    from_s = None if since is None else checked(parse_time, since, "--since")
    whole = read_files((str(path), _lines(path)) for path in journal)
    recording, part = _chosen(whole, from_s, every=every)
    if wanted is None and not any(block.header.limits or block.header.judged for block in recording.blocks):
        cure = "give some with --limits, such as --limits error_rate=1%,p99=200ms"
        raise UsageError("the journal names no limits", where=recording.name, cure=cure)
    found = judge_again(recording, wanted)
    if output is Format.JSON:
        typer.echo(json.dumps(found.plain() | ({"part": part} if part else {})))
    else:
        typer.echo("\n".join([*_page(found, wanted), *_told(part)]))


def parse_limits(given: str) -> tuple[Limit, ...]:
    """Return the limits of a text: `METRIC=BOUND`, and ` over WINDOW`, ` for TIME` where they are not by evidence.

    They are separated by commas; `availability` is a minimum. `@FILE` is a file with a section `limits`.
    """
    if given.startswith("@"):
        return _from_file(Path(given[1:]))
    found: list[Limit] = []
    for part in given.split(","):
        limit = _parsed(part.strip())
        if any((one.metric, one.window_s) == (limit.metric, limit.window_s) for one in found):
            raise ValueError(f"has {limit.metric} twice")
        found.append(limit)
    return tuple(found)


def parse_time(given: str) -> float:
    """Return the seconds of a text: a number of them, or a date and time (ISO 8601) since 1970, of UTC by default."""
    if SECONDS.fullmatch(given):
        return float(given)
    try:
        moment = datetime.fromisoformat(given)
    except ValueError:
        raise ValueError("is no time: write 2026-03-01T12:00Z, or seconds") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _chosen(whole: Recording, since: float | None, *, every: bool) -> tuple[Recording, dict[str, Any]]:
    """Return what is to be judged, and which part of the journal it is; nothing if it is all of it."""
    trials = whole.trials()
    if every:
        chosen, number = whole, None
    elif since is None:
        chosen, number = trials[-1], len(trials)
    else:
        rests = ((trial.since(since), number) for number, trial in enumerate(trials, 1))
        found = next(((rest, number) for rest, number in rests if rest is not None), None)
        if found is None:
            began = ", ".join(_moment(trial.began) for trial in trials[-MOST_NAMED:])
            cure = f"give an earlier --since (rollouts began at {began})"
            raise UsageError(f"nothing was recorded after {_moment(since)}", where=whole.name, cure=cure)
        chosen, number = found
    if since is None and len(trials) == 1:
        return chosen, {}
    return chosen, {"number": number, "of": len(trials), "from": chosen.began, "to": chosen.ended}


def _told(part: dict[str, Any]) -> Iterator[str]:
    if not part:
        return
    number, of = part["number"], part["of"]
    which = f"all {of} rollouts of the journal as one" if number is None else f"rollout {number} of {of} in the journal"
    more = "" if number is None or of == 1 else "; --since TIME for another one"
    yield f"  {which}, from {_moment(part['from'])} to {_moment(part['to'])}{more}"


def _parsed(part: str) -> Limit:
    match = FORM.fullmatch(part)
    if match is None:
        raise ValueError(f"has {part!r}, which is not METRIC=LIMIT, such as error_rate=1% or p99=200ms over 1m for 30s")
    metric, bound = match["metric"], match["bound"]
    if metric not in METRICS:
        near = get_close_matches(metric, METRICS, 1)
        hint = f": did you mean {near[0]}?" if near else f" (known: {', '.join(METRICS)})"
        raise ValueError(f"has the unknown metric {metric!r}{hint}")
    if match["held"] and not match["window"]:
        raise ValueError(f"has {part!r}: write the window too, such as {metric}={bound} over 1m for {match['held']}")
    try:
        number = parse_duration(bound, bare="ms") * 1000 if metric in LATENCIES else parse_share(bound)
        window_s = parse_duration(match["window"]) if match["window"] else None
        for_s = parse_duration(match["held"]) if match["held"] else 0.0
    except ValueError as error:
        raise ValueError(f"has {part}, which {error}") from None
    return replace(limit_of(metric, round(number, 9)), window_s=window_s, for_s=for_s)


def _from_file(path: Path) -> tuple[Limit, ...]:
    """Return the limits of a file, in the notation of a config: it is read as a stage of a plan is."""
    from proxy.config.include import read_text
    from proxy.config.plans import compile_plan_text

    try:
        plans = compile_plan_text(STAGE + indent(read_text(path), INDENT), os.environ, name=str(path)).plans
    except ConfigError as error:
        raise ConfigError([_as_in_file(problem) for problem in error.problems]) from None
    return plans[0].stages[0].limits


def _as_in_file(problem: Problem) -> Problem:
    key = problem.key.removeprefix("stages[0]").lstrip(".")
    line, column = max(1, problem.line - STAGE.count("\n")), max(1, problem.column - len(INDENT))
    return replace(problem, key=key, line=line, column=column)


def _lines(path: Path) -> Iterator[str]:
    try:
        opened = gzip.open if path.suffix == ".gz" else open
        with opened(path, "rt", encoding="utf-8", errors="replace") as file:
            yield from file
    except (OSError, EOFError) as error:
        why = (getattr(error, "strerror", None) or str(error)).lower()
        raise UsageError(f"the journal cannot be read: {why}", where=str(path)) from None


def _page(found: Replay, limits: tuple[Limit, ...] | None) -> Iterator[str]:
    rules = "the recorded limits" if limits is None else ", ".join(_rule(limit) for limit in limits)
    counted = f"{found.blocks:,} blocks, {found.requests:,} requests to new, {found.bad:,} of them bad"
    rollback = found.rollback
    if rollback is None:
        yield f"not rolled back by {rules}: {counted}"
    else:
        yield f"rolled back at {_moment(rollback.t)}: {rollback.reason} (by {rules})"
        yield f"  {_numbers(rollback.evidence)}"
        yield f"  {counted}"
    for decision in found.decisions:
        if decision is not rollback:
            did = "would pause a rollout" if decision.action == "pause" else "nothing moved"
            yield f"  {_moment(decision.t)}: {decision.reason}, {did}; {_numbers(decision.evidence)}"
    if found.left_out:
        yield f"  not in a journal, left out: {', '.join(described(limit) for limit in found.left_out)}"
    if rollback is None:
        for one in found.untold:
            hung = f"{one.requests:,} requests to new were slower than {one.recorded_ms:g}ms and hung on"
            yield f"  not known: {hung}; whether for {one.limit.max:g}ms, the journal does not tell"
        for verdict in found.verdicts:
            more = (
                f", needs {verdict.needed:,} more requests" if verdict.word == INCONCLUSIVE and verdict.needed else ""
            )
            share = f"{verdict.count:,} of {verdict.n:,}"
            yield f"  {verdict.word} {described(verdict.limit)}: {share} {_what(verdict.limit)}{more}"


def _rule(limit: Limit) -> str:
    said = described(limit)
    if limit.window_s is not None:
        said += f" over {format_duration(limit.window_s)}"
    return said + (f" for {format_duration(limit.for_s)}" if limit.for_s else "")


def _what(limit: Limit) -> str:
    if limit.quantile is not None:
        return "slower"
    return "good" if limit.min is not None else "bad"


def _numbers(evidence: dict[str, Any]) -> str:
    counts = next(((word, evidence[word]) for word in ("bad", "good", "slower") if word in evidence), ("", 0))
    since = evidence.get("since_breach")
    told = f"{counts[1]:,} of {evidence['n']:,} requests {counts[0]}"
    if isinstance(since, dict):
        told += f"; the evidence is {since['bad']:,} of the last {since['n']:,}, in {since['blocks']:,} blocks"
    return told


def _moment(t: float) -> str:
    return text.moment(t) if t >= EPOCH_S else f"{t:g} s"
