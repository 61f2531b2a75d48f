"""`tidegate simulate`: a plan played many times with made-up traffic."""

from __future__ import annotations

import json
import os
import random
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any

import typer

from proxy.cli import text
from proxy.cli.client import UsageError
from proxy.cli.options import Format, Output, checked
from proxy.cli.plan import described
from proxy.config.units import parse_duration, parse_share
from proxy.rollout.plan import Plan, ServicePlan
from proxy.rollout.simulate import Outcome, World, prepared, run, summary

SAID_EVERY_S = 10.0  # how far it is, where nobody sits at a terminal
CLEAR = "\x1b[K"  # to the end of the line


def simulate(
    plan: Annotated[Path, typer.Argument(metavar="PLAN", help="A rollout plan.", show_default=False)],
    rate: Annotated[
        float,
        typer.Option(
            "--rate",
            metavar="PER_SECOND",
            min=0.001,
            max=1_000_000,
            help="Requests per second, both versions together.",
        ),
    ] = 100.0,
    new_error_rate: Annotated[
        str, typer.Option("--new-error-rate", metavar="SHARE", help="Share of bad responses of new.")
    ] = "0%",
    stable_error_rate: Annotated[
        str, typer.Option("--stable-error-rate", metavar="SHARE", help="And of stable.")
    ] = "0%",
    new_slow_rate: Annotated[
        str,
        typer.Option("--new-slow-rate", metavar="SHARE", help="Share of new that is slower than every latency limit."),
    ] = "0%",
    stable_slow_rate: Annotated[str, typer.Option("--stable-slow-rate", metavar="SHARE", help="And of stable.")] = "0%",
    burst: Annotated[
        float, typer.Option("--burst", metavar="COUNT", min=1, max=1e6, help="Bad responses come in rows so long.")
    ] = 1.0,
    fault_after: Annotated[
        str, typer.Option("--fault-after", metavar="DURATION", help="For so long new is as good as stable, such as 1h.")
    ] = "0s",
    longest: Annotated[
        str | None, typer.Option("--longest", metavar="DURATION", help="Play only so much of the rollout, such as 6h.")
    ] = None,
    name: Annotated[str, typer.Option("--plan", metavar="NAME", help="Which plan, where the file has several.")] = "",
    runs: Annotated[int, typer.Option("--runs", metavar="COUNT", min=1, max=1_000_000, help="How often.")] = 20,
    seed: Annotated[int, typer.Option("--seed", metavar="NUMBER", help="The same seed gives the same runs.")] = 1,
    jobs: Annotated[
        int | None, typer.Option("--jobs", metavar="COUNT", min=1, help="Processes; by default one per CPU.")
    ] = None,
    output: Output = Format.TEXT,
) -> None:
    """Say how likely a plan rolls back, how fast it finds a fault, and how long it takes, by playing it many times."""
    from proxy.config.plans import compile_plan_file

    world = World(
        rate=rate,
        new_error_rate=checked(parse_share, new_error_rate, "--new-error-rate"),
        stable_error_rate=checked(parse_share, stable_error_rate, "--stable-error-rate"),
        new_slow_rate=checked(parse_share, new_slow_rate, "--new-slow-rate"),
        stable_slow_rate=checked(parse_share, stable_slow_rate, "--stable-slow-rate"),
        burst=burst,
        fault_s=checked(parse_duration, fault_after, "--fault-after"),
        longest_s=None if longest is None else checked(parse_duration, longest, "--longest"),
    )
    chosen = _chosen(compile_plan_file(plan, os.environ).plans, name, plan)
    kept, around, left_out = prepared(chosen, ServicePlan("simulated", rollouts=(chosen,)))
    around = replace(around, rollouts=(kept,))
    found = summary(_play(kept, around, world, runs, seed, jobs), world)
    found = {
        "plan": chosen.name,
        "seed": seed,
        "limits": sum(len(stage.limits) for stage in chosen.stages),
        **found,
        "taken_as_met": sorted({described(one) for one in left_out}),
    }
    if output is Format.JSON:
        typer.echo(json.dumps(found))
    else:
        typer.echo("\n".join(_page(found, world)))


def _chosen(plans: tuple[Plan, ...], name: str, path: Path) -> Plan:
    names = ", ".join(one.name for one in plans)
    if not name and len(plans) == 1:
        return plans[0]
    found = next((one for one in plans if one.name == (name or "default")), None)
    if found is None:
        what = f"there is no plan {name!r}" if name else f"there are {len(plans)} plans"
        raise UsageError(what, where=str(path), cure=f"name one with --plan: {names}")
    return found


def _play(plan: Plan, around: ServicePlan, world: World, runs: int, seed: int, jobs: int | None) -> list[Outcome]:
    many = min(runs, jobs or len(os.sched_getaffinity(0)))
    work = [(plan, around, world, f"{seed}.{number}") for number in range(runs)]
    if many == 1:
        return list(_counted((_one(*each) for each in work), runs))
    # Spawned: a fork would take whatever threads hold with it.
    with ProcessPoolExecutor(many, mp_context=get_context("spawn")) as pool:
        futures = [pool.submit(_one, *each) for each in work]
        return list(_counted((future.result() for future in as_completed(futures)), runs))


def _one(plan: Plan, around: ServicePlan, world: World, seed: str) -> Outcome:
    return run(plan, around, world, random.Random(seed).random)  # noqa: S311  # nothing secret


def _counted(outcomes: Iterator[Outcome], runs: int) -> Iterator[Outcome]:
    """Pass the outcomes on; say how far it is: in place to a person at a terminal, else now and then in a line."""
    at_terminal = sys.stderr.isatty()
    began = said = time.monotonic()
    if at_terminal:
        typer.echo(f"0 of {runs} runs", err=True, nl=False)
    for number, outcome in enumerate(outcomes, 1):
        now = time.monotonic()
        left = text.duration(round((now - began) / number * (runs - number)))
        done = f"{number} of {runs} runs" + (f", about {left} left" if number < runs else "")
        if at_terminal:
            typer.echo(f"\r{done}{CLEAR}" + ("\n" if number == runs else ""), err=True, nl=False)
        elif now - said >= SAID_EVERY_S:
            said = now
            typer.echo(done, err=True)
        yield outcome


def _page(found: dict[str, Any], world: World) -> Iterator[str]:
    yield f"{found['plan']}: {found['runs']} runs at {world.rate:g} requests/s (seed {found['seed']})"
    rows = [["", "RUNS", "SHARE", "95 %"]]
    for word in ("rolled_back", "completed", "paused", "not_over"):
        part = found[word]
        between = f"{text.percent(part['low'])} to {text.percent(part['high'])}"
        rows.append([word.replace("_", " "), str(part["runs"]), text.percent(part["share"]), between])
    yield from text.table(rows, right=frozenset({1, 2, 3}))
    if not found["limits"]:
        yield "  the plan has no limits, so nothing can roll it back here: those of a service are not simulated"
    for word, said in (("reasons", "because of"), ("stages", "rolled back in stage")):
        if found[word]:
            yield f"  {said}: {', '.join(f'{key} {count}×' for key, count in found[word].items())}"
    for word, said in (("detect_s", "time to detect"), ("finish_s", "time to finish")):
        if (times := found[word]) is not None:
            yield f"  {said}: {', '.join(f'{key} {_seconds(value)}' for key, value in times.items())}"
    if (bad := found["bad_before"]) is not None:
        yield f"  bad responses of new before it: {', '.join(f'{key} {value:,.0f}' for key, value in bad.items())}"
    if found["taken_as_met"]:
        yield f"  not simulated, taken as met: {', '.join(found['taken_as_met'])}"


def _seconds(seconds: float) -> str:
    return text.duration(seconds) if seconds >= 60 else f"{text.number(seconds, 2)}s"
