"""`tidegate replay`: recorded blocks, judged by other limits."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

import typer

from proxy.cli import text
from proxy.cli.client import UsageError
from proxy.cli.options import Format, Output, checked
from proxy.cli.plan import described
from proxy.config.units import parse_duration, parse_share
from proxy.rollout.analysis import INCONCLUSIVE
from proxy.rollout.plan import LATENCIES, METRICS, Limit
from proxy.rollout.recording import read_files
from proxy.rollout.replay import Replay, limit_of
from proxy.rollout.replay import replay as judge_again

EPOCH_S = 1e9  # a journal whose times are larger counts from 1970


def replay(
    journal: Annotated[
        list[Path], typer.Argument(metavar="JOURNAL...", help="Block journals, oldest first.", show_default=False)
    ],
    limits: Annotated[
        str | None,
        typer.Option("--limits", help="Such as error_rate=1%,p99=200ms; without it those that were recorded."),
    ] = None,
    output: Output = Format.TEXT,
) -> None:
    """Say when a recorded run would have been rolled back by these limits."""
    wanted = None if limits is None else checked(parse_limits, limits, "--limits")
    recording = read_files((str(path), _lines(path)) for path in journal)
    if wanted is None and not any(block.header.limits or block.header.judged for block in recording.blocks):
        cure = "give some with --limits, such as --limits error_rate=1%,p99=200ms"
        raise UsageError("the journal names no limits", where=recording.name, cure=cure)
    found = judge_again(recording, wanted)
    if output is Format.JSON:
        typer.echo(json.dumps(found.plain()))
    else:
        typer.echo("\n".join(_page(found, wanted)))


def parse_limits(given: str) -> tuple[Limit, ...]:
    """Return the limits of a text such as `error_rate=1%,p99=200ms`; `availability` is a minimum."""
    found: list[Limit] = []
    for part in given.split(","):
        metric, sign, bound = (piece.strip() for piece in part.partition("="))
        if not sign or not bound:
            raise ValueError(f"has {part.strip()!r}, which is not METRIC=LIMIT, such as error_rate=1%")
        if metric not in METRICS:
            near = get_close_matches(metric, METRICS, 1)
            hint = f": did you mean {near[0]}?" if near else f" (known: {', '.join(METRICS)})"
            raise ValueError(f"has the unknown metric {metric!r}{hint}")
        if any(limit.metric == metric for limit in found):
            raise ValueError(f"has {metric} twice")
        try:
            number = parse_duration(bound, bare="ms") * 1000 if metric in LATENCIES else parse_share(bound)
        except ValueError as error:
            raise ValueError(f"has {metric}={bound}, which {error}") from None
        found.append(limit_of(metric, round(number, 9)))
    return tuple(found)


def _lines(path: Path) -> Iterator[str]:
    try:
        opened = gzip.open if path.suffix == ".gz" else open
        with opened(path, "rt", encoding="utf-8", errors="replace") as file:
            yield from file
    except (OSError, EOFError) as error:
        why = (getattr(error, "strerror", None) or str(error)).lower()
        raise UsageError(f"the journal cannot be read: {why}", where=str(path)) from None


def _page(found: Replay, limits: tuple[Limit, ...] | None) -> Iterator[str]:
    rules = "the recorded limits" if limits is None else ", ".join(described(limit) for limit in limits)
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
            yield f"  {_moment(decision.t)}: {decision.reason}, nothing moved; {_numbers(decision.evidence)}"
    if found.left_out:
        yield f"  not in a journal, left out: {', '.join(described(limit) for limit in found.left_out)}"
    if rollback is None:
        for verdict in found.verdicts:
            more = (
                f", needs {verdict.needed:,} more requests" if verdict.word == INCONCLUSIVE and verdict.needed else ""
            )
            share = f"{verdict.count:,} of {verdict.n:,}"
            yield f"  {verdict.word} {described(verdict.limit)}: {share} {_what(verdict.limit)}{more}"


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
