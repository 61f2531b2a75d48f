"""`tidegate plan`: what a rollout plan means in time, before anything runs."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from proxy.cli import text
from proxy.cli.client import UsageError
from proxy.cli.options import Format, Output
from proxy.config.units import format_duration, format_reading, format_share, format_weight
from proxy.rollout.plan import CHECK, Limit
from proxy.rollout.timetable import Reaction, StageTime, Timetable, timetable
from proxy.routing.table import FULL, NEW

RIGHT = frozenset({1, 2, 3})


def plan(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Rollout plans, or a config with rollouts.", show_default=False)
    ],
    rate: Annotated[
        float | None,
        typer.Option(
            "--rate",
            metavar="PER_SECOND",
            min=0.001,
            max=10_000_000,
            help="Requests per second, both versions together.",
        ),
    ] = None,
    service: Annotated[
        str, typer.Option("--service", metavar="NAME", help="Only the rollouts of this service of a config.")
    ] = "",
    name: Annotated[str, typer.Option("--plan", metavar="NAME", help="Only the plan of this name.")] = "",
    output: Output = Format.TEXT,
) -> None:
    """Print a plan's timetable: when its stages begin, how fast it rolls back, which traffic it needs."""
    from proxy.config.compile import compile_file
    from proxy.config.plans import compile_plan_file, is_plan_file

    if is_plan_file(file):
        alone = compile_plan_file(file, os.environ)
        plans, notes = [("", each, timetable(each, rate=rate)) for each in alone.plans], alone.notes
    else:
        config = compile_file(file, os.environ)
        plans = [
            (one.name, each, timetable(each, rate=rate, service=one)) for one in config.plans for each in one.rollouts
        ]
        notes = config.notes
    tables = [(of, table) for of, each, table in plans if service in ("", of) and name in ("", each.name)]
    if not tables:
        _none(file, [(of, each.name) for of, each, _ in plans], service, name)
    if output is Format.JSON:
        found = [shown(table) | ({"service": of} if of else {}) for of, table in tables]
        typer.echo(json.dumps({"plans": found, "notes": list(notes)}))
        return
    typer.echo("\n\n".join("\n".join(_page(of, table)) for of, table in tables))


def _none(file: Path, there: list[tuple[str, str]], service: str, name: str) -> NoReturn:
    if not there:
        cure = "name a plan under rollouts of a service, or give the file of a plan"
        raise UsageError("no service of this config has rollouts", where=str(file), cure=cure)
    asked = " and ".join(part for part in (f"service {service}" * bool(service), f"plan {name}" * bool(name)) if part)
    names = ", ".join(f"{each} of service {of}" if of else each for of, each in there)
    raise UsageError(f"there is no {asked}", where=str(file), cure=f"there are the plans: {names}")


def shown(table: Timetable) -> dict[str, Any]:
    """Return a timetable as JSON: shares as fractions, weights in percent, durations in seconds."""
    return {
        "plan": table.plan.name,
        "rate": table.rate,
        "least_s": table.least_s,
        "last_stage_s": table.last_s,
        "stages": [
            {
                "name": time.stage.name,
                "weight": time.stage.weight_bp / 100,
                "advance": time.stage.advance,
                "from_s": time.from_s,
                "hold_s": time.stage.hold_s,
                "least_s": time.least_s,
                "min_requests": time.needed,
                "rate_new": time.rate_new,
                "expected": time.expected,
                "enough": time.enough,
            }
            for time in table.stages
        ],
        "limits": [
            {
                "stage": reaction.stage.name,
                "limit": described(reaction.limit),
                "judge": reaction.limit.judge,
                "action": _action(reaction.limit),
                "total_s": reaction.total_s,
                "worst_s": reaction.worst_s,
                "estimated": reaction.estimated,
            }
            for reaction in table.reactions
        ],
        "warnings": list(table.warnings),
    }


def described(limit: Limit) -> str:
    """Return what breaches a limit, such as `p99 > 200ms`."""
    metric = limit.metric if limit.version == NEW else f"{limit.metric} of stable"
    if limit.max_ratio is not None:
        return f"{metric} > {limit.max_ratio:g} × stable"
    if limit.min is not None:
        return f"{metric} < {_bound(limit, limit.min)}"
    return f"{metric} > {_bound(limit, limit.max or 0.0)}"


def _bound(limit: Limit, bound: float) -> str:
    if limit.source == CHECK:
        return f"{format_reading(bound):,}"
    return format_share(bound) if limit.quantile is None else format_duration(round(bound / 1000, 9))


def _action(limit: Limit) -> str:
    return f"{limit.action} (dry run)" if limit.dry_run else limit.action


def _page(service: str, table: Timetable) -> Iterator[str]:
    count, last = len(table.stages), format_weight(table.stages[-1].stage.weight_bp)
    whole = f"all of it {_at_least(table.least_s)}" + (", and a person" if _waits(table) else "")
    named = f"{service}: {table.plan.name}" if service else table.plan.name
    yield f"{named}: {count} stage{'s' * (count > 1)}, {last} {_after(table.last_s)}, {whole}"
    yield ""
    head = ["stage", "weight", "from", "hold", "at least", "advance", "requests to new"]
    rows = [head, *(_stage_row(time) for time in table.stages)]
    yield from text.table(rows, right=RIGHT)
    yield ""
    if table.reactions:
        yield "From the fault to the action, which takes no time itself:"
        rows = [["stage", "limit", "judged", "all fails", "at worst", "then"]]
        rows += [_reaction_row(reaction) for reaction in table.reactions]
        yield from text.table(rows, right=frozenset({3, 4}))
    else:
        yield "No limit is known here: those of a service are in its config, `tidegate plan CONFIG` counts them in"
    if any(reaction.estimated for reaction in table.reactions):
        how = "about; with --rate chance and low traffic count" if table.rate is None else "in 19 of 20 cases"
        yield f"  ~ evidence: at twice the limit, {how}; nearer to it takes longer: see tidegate simulate"
    if table.rate is None:
        yield "  --rate says which requests the holds give, and takes low traffic into account"
    for warning in table.warnings:
        yield f"warning: {warning}"


def _waits(table: Timetable) -> bool:
    return any(time.by_person for time in table.stages)


def _after(seconds: float | None) -> str:
    return "never" if seconds is None else "at once" if not seconds else f"after {text.duration(seconds)}"


def _at_least(seconds: float | None) -> str:
    return "never" if seconds is None else f"in {text.duration(seconds)}"


def _stage_row(time: StageTime) -> list[str]:
    stage = time.stage
    needs = f"{time.needed:,}"
    if time.rate_new is not None:
        enough = "" if time.enough else ": not enough"
        needs += f" of {time.expected:,} in the hold ({time.rate_new:,.4g}/s){enough}"
    return [
        stage.name,
        format_weight(stage.weight_bp),
        text.duration(time.from_s),
        text.duration(stage.hold_s),
        text.duration(time.least_s),
        stage.advance,
        needs,
    ]


def _reaction_row(reaction: Reaction) -> list[str]:
    limit = reaction.limit
    judged = limit.judge + ("" if limit.sliding_s is None else f" {format_duration(limit.sliding_s)}")
    if limit.for_s:
        judged += f" for {format_duration(limit.for_s)}"
    if limit.after_s:
        judged += f" after {format_duration(limit.after_s)}"
    if reaction.total_s is None and limit.max_ratio is not None and reaction.stage.weight_bp == FULL:
        return [reaction.stage.name, described(limit), judged, "", "by record", _action(limit)]
    mark = "~" if reaction.estimated and reaction.worst_s is not None else ""
    return [
        reaction.stage.name,
        described(limit),
        judged,
        _seconds(reaction.total_s),
        mark + _seconds(reaction.worst_s),
        _action(limit),
    ]


def _seconds(seconds: float | None) -> str:
    if seconds is None:
        return "never"
    return text.duration(seconds) if seconds >= 60 else f"{text.number(seconds, 1)}s"
