"""`tidegate status`: what is going on, once, as it changes, or until it is settled."""

from __future__ import annotations

import json
import time
from typing import Annotated, Any

import typer

from proxy.cli import text
from proxy.cli.client import ApiError, Client, SomethingElse, Unreachable, UsageError, connect
from proxy.cli.options import DEFAULT_ADMIN, Admin, Ca, Format, Output, ServiceName, TokenFile, checked
from proxy.config.units import parse_duration
from proxy.rollout import told
from proxy.rollout.plan import MANUAL

WATCH_S = 1.0
POLL_S = 0.5
ROLLED_BACK = 3
TIMED_OUT = 4
SETTLED = frozenset({"idle", "completed"})
BAR = 20  # characters
CLEAR = "\x1b[H\x1b[2J"


def status(
    admin: Admin = DEFAULT_ADMIN,
    token_file: TokenFile = None,
    ca: Ca = None,
    service: ServiceName = None,
    output: Output = Format.TEXT,
    watch: Annotated[bool, typer.Option("--watch", help="Show it again every second, until Ctrl-C.")] = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait until tidegate answers and no rollout is under way; 3 = rolled back.")
    ] = False,
    timeout: Annotated[
        str, typer.Option("--timeout", metavar="DURATION", help="With --wait: how long; then exit code 4.")
    ] = "10m",
) -> None:
    """Say what every version gets and does, and what the limits say.

    `evidence X of Y`: X of what speaks for a fault is there, at Y the limit acts (docs/rollouts.md).
    """
    client = connect(admin, token_file, ca)
    if watch and wait:
        raise UsageError("--watch and --wait exclude each other")
    if watch:
        _watch(client, service, output)
    elif wait:
        _wait(client, service, output, checked(parse_duration, timeout, "--timeout"))
    else:
        _print(_get(client, service), service, output)


def _get(client: Client, service: str | None) -> dict[str, Any]:
    status: dict[str, Any] = client.get("/api/v1/status")
    if service is not None and service not in status["services"]:
        names = ", ".join(status["services"]) or "none"
        raise UsageError(f"there is no service {service!r}", cure=f"there are: {names}")
    return status


def _print(status: dict[str, Any], service: str | None, output: Format) -> None:
    if output is Format.JSON:
        typer.echo(json.dumps(status if service is None else status["services"][service]))
    else:
        typer.echo("\n".join(text.wrapped(render(status, service))))


def _watch(client: Client, service: str | None, output: Format) -> None:
    seen = False
    while True:
        try:
            status = _get(client, service)
        except Unreachable as error:
            # Who watches a rollout wants to see the supervisor come back.
            if not seen:
                raise
            typer.echo(f"tidegate: {error}; trying again", err=True)
        else:
            seen = True
            if output is Format.TEXT:
                typer.echo(CLEAR if text.coloured() else "", nl=False)
            _print(status, service, output)
        time.sleep(WATCH_S)


def _wait(client: Client, service: str | None, output: Format, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    waiting_for = "an answer"
    said: set[str] = set()
    while True:
        try:
            status = _get(client, service)
        except SomethingElse:
            raise
        except Unreachable:
            waiting_for = f"an answer from {client.admin}"
        except ApiError as error:
            if error.status < 500:
                raise
            waiting_for = str(error)
        else:
            phases = {name: item["phase"] for name, item in status["services"].items() if service in {None, name}}
            if "rolled_back" in phases.values():
                _print(status, service, output)
                raise typer.Exit(ROLLED_BACK)
            unsettled = [name for name, phase in phases.items() if phase not in SETTLED]
            if not unsettled:
                _print(status, service, output)
                return
            waiting_for = ", ".join(f"{name} ({phases[name]})" for name in unsettled)
            _say_paused({name for name in unsettled if phases[name] == "paused"} - said)
            said |= {name for name in unsettled if phases[name] == "paused"}
        if time.monotonic() + POLL_S > deadline:
            typer.echo(f"tidegate: timed out after {text.duration(timeout_s)} waiting for {waiting_for}", err=True)
            raise typer.Exit(TIMED_OUT)
        time.sleep(POLL_S)


def _say_paused(names: set[str]) -> None:
    """Say that a person has to go first: a paused rollout ends by nothing else."""
    for name in sorted(names):
        cure = "tidegate rollout resume, rollout promote or rollback lets it go on or ends it"
        typer.echo(f"tidegate: {name} is paused and waits for a person ({cure})", err=True)


def render(status: dict[str, Any], service: str | None = None) -> list[str]:
    """Return the lines that show a status object."""
    workers = status["workers"]
    states = sorted({worker["state"] for worker in workers})
    counted = ", ".join(f"{sum(worker['state'] == state for worker in workers)} {state}" for state in states)
    lines = [f"tidegate {status['version']}, up {text.duration(status['uptime_s'])}, workers: {counted or 'none'}"]
    for name, item in status["services"].items():
        if service in {None, name}:
            lines += ["", *of_service(name, item)]
    return lines


def of_service(name: str, item: dict[str, Any]) -> list[str]:
    """Return the lines that show one service's object."""
    weights = item["weights"]
    reason = f" ({item['reason']})" if item.get("reason") else ""
    head = f"{name}: {text.word(item['phase'])}{reason}, revision {weights['revision']}"
    if weights.get("expires_in_s") is not None:
        head += f", this weight ends in {text.duration(weights['expires_in_s'])}"
    windows = [(counts.get("window") or {}).get("seconds") for counts in item["versions"].values() if counts]
    if any(windows):
        head += f"; rates and times of the last {text.duration(max(filter(None, windows)))}"
    return [
        head,
        *_stage(item.get("stage"), item["phase"]),
        *_versions(item),
        *_endpoints(item),
        *_limits(item),
        *_last(item),
    ]


def _stage(stage: dict[str, Any] | None, phase: str) -> list[str]:
    if stage is None:
        return []
    held = f"{text.duration(stage['elapsed_s'])} of {text.duration(stage['hold_s'])}"
    head = f"  stage {stage['index'] + 1} of {stage['of']}: {stage['name']}, {text.number(stage['weight'], 2)}%, {held}"
    if stage.get("requests") is not None:
        head += f", {text.number(stage['requests'], 0)} of at least {text.number(stage['min_requests'], 0)} requests"
    ladder = [_rung(number, rung, stage, phase) for number, rung in enumerate(stage.get("stages", []))]
    waits = [*stage.get("open", []), *(["tidegate rollout promote"] if stage.get("advance") == MANUAL else [])]
    said = [f"  waits for: {', '.join(waits)}"] if waits and phase == "progressing" else []
    return [head, *(text.table(ladder) if ladder else []), *said]


def _rung(number: int, rung: dict[str, Any], stage: dict[str, Any], phase: str) -> list[str]:
    at, hold_s = stage["index"], rung["hold_s"]
    if number < at or phase == "completed":
        ran_s = rung.get("ran_s")
        mark, bar = ("-", f"{_bar(0)}  skipped") if ran_s is None else ("x", _ran(ran_s, hold_s) + _left(rung))
    elif number > at:
        mark, bar = " ", f"{_bar(0)}  {text.duration(hold_s)}"
    else:
        mark, bar = ("!" if phase == "rolled_back" else ">"), _ran(stage["elapsed_s"], hold_s, whole=False)
    return [f"[{mark}]", rung["name"], f"{text.number(rung['weight'], 2)}%", bar]


def _ran(ran_s: float, hold_s: float, *, whole: bool = True) -> str:
    """Return a stage's bar and how much of its hold has passed; one that is `whole` needs no more than its hold."""
    took, hold = text.duration(ran_s), text.duration(hold_s)
    of = hold if whole and took == hold else f"{took} of {hold}"
    return f"{_bar(ran_s / hold_s if hold_s else 1.0)}  {of}"


def _bar(part: float) -> str:
    filled = int(BAR * min(1.0, part))
    return "#" * filled + "." * (BAR - filled)


def _left(rung: dict[str, Any]) -> str:
    how = told.left_early(rung)
    return f", {text.printable(how)}" if how else ""


def _versions(item: dict[str, Any]) -> list[str]:
    rows = [["VERSION", "WEIGHT", "REQUESTS", "BAD", "IN FLIGHT", "RATE/S", "ERRORS", "P50", "P99"]]
    for version in ("stable", "new"):
        counts = item["versions"].get(version)
        if not counts:
            continue
        window = counts.get("window") or {}
        seconds, requests = window.get("seconds"), window.get("requests")
        rows.append(
            [
                text.printable(f"{version} {counts.get('label') or ''}".rstrip()),
                text.number(item["weights"].get(version), 2, "%"),
                text.number(counts.get("requests"), 0),
                text.number(counts.get("bad"), 0),
                text.number(counts.get("in_flight"), 0),
                text.number(requests / seconds if seconds and requests is not None else None),
                text.percent(window.get("error_rate")),
                text.number(window.get("p50_ms"), 1, "ms"),
                text.number(window.get("p99_ms"), 1, "ms"),
            ]
        )
    return text.table(rows, right=frozenset(range(1, 9)))


def _endpoints(item: dict[str, Any]) -> list[str]:
    rows = []
    for version in ("stable", "new"):
        for endpoint in (item["versions"].get(version) or {}).get("endpoints", []):
            why = f"({text.printable(endpoint['why'])})" if endpoint.get("why") else ""
            rows.append([version, endpoint["url"], endpoint["state"], why])
    return text.table(rows) if rows else []


def _by_proof(item: dict[str, Any]) -> bool:
    """Tell whether the stage goes on as soon as every limit is proven; the last one is always held to its end."""
    stage = item.get("stage") or {}
    last = stage.get("index", 0) + 1 >= stage.get("of", 0)
    return item.get("phase") == "progressing" and stage.get("advance") == "evidence" and not last


def _limits(item: dict[str, Any]) -> list[str]:
    rows, by_proof = [], _by_proof(item)
    for limit in item.get("limits", []):
        bound = f"<= {_value(limit, limit['max'])}" if limit.get("max") is not None else ""
        if limit.get("min") is not None:
            bound = f">= {_value(limit, limit['min'])}"
        if limit.get("max_ratio") is not None:
            bound = f"<= {text.number(limit['max_ratio'], 2)} times stable's"
        where = " in this stage" if limit.get("scope") == "stage" else ""
        rows.append(
            [
                limit["verdict"] + (", proven" if limit.get("proven") else ""),
                f"{limit['metric']} of {limit['version']} {bound}{where}",
                f"is {'> ' if limit.get('at_least') else ''}{_value(limit, limit.get('value'))}",
                f"over {text.number(limit.get('samples'), 0)} requests",
                _open(limit, by_proof=by_proof),
                f"-> {limit['action']}" + (" (dry run)" if limit.get("dry_run") else ""),
            ]
        )
    return text.table(rows) if rows else []


def _open(limit: dict[str, Any], *, by_proof: bool) -> str:
    """Return what a limit waits for; one that is PASS waits for nothing unless the stage goes on by proof."""
    if limit["verdict"] == "PASS":
        waits = by_proof and limit.get("needed") and not limit.get("proven")
        return f"needs {text.number(limit['needed'], 0)} more to be proven" if waits else ""
    if limit.get("needed"):
        proof = by_proof and limit["needed"] == limit.get("needed_to_prove")
        return f"needs {text.number(limit['needed'], 0)} more" + (" to be proven" if proof else "")
    if limit["verdict"] == "INCONCLUSIVE" and limit.get("alarm_at") and limit.get("evidence") is not None:
        return f"over the limit, evidence {text.number(limit['evidence'])} of {text.number(limit['alarm_at'])}"
    if limit["verdict"] == "INCONCLUSIVE" and limit.get("for_s") and limit.get("held_s"):
        return f"over the limit for {text.duration(limit['held_s'])} of {text.duration(limit['for_s'])}"
    return text.printable(limit["why"]) if limit.get("why") else ""


def _value(limit: dict[str, Any], value: Any) -> str:
    if limit.get("unit") == "ratio":
        return text.percent(value)
    unit = limit.get("unit") or ""
    if unit == "number":
        return text.number(value, 2)
    return text.number(value, 2, unit if unit == "ms" else f" {unit}".rstrip())


def _last(item: dict[str, Any]) -> list[str]:
    event = item.get("last_event")
    return [f"  last: {line(event)}"] if event else []


def line(event: dict[str, Any]) -> str:
    """Return one event as one line: when, which service, what, by whom, and how it came."""
    parts = [text.moment(event["time"]), event.get("service") or "-", event["type"]]
    if event.get("actor"):
        parts.append(f"by {event['actor']}")
    said = f"{' '.join(parts)}: {told.predicate(event)}"
    revision = (event.get("after") or {}).get("revision")
    if revision not in (None, (event.get("before") or {}).get("revision")):
        said += f" (revision {revision})"
    return text.printable(said)
