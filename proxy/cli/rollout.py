"""`tidegate rollout …`: start, pause, resume, promote, finish, status, drill."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from proxy.cli import status as view
from proxy.cli import text
from proxy.cli.client import Client, UsageError, connect
from proxy.cli.options import DEFAULT_ADMIN, Admin, Ca, Format, Output, ServiceName, TokenFile
from proxy.cli.steer import Reason, warn
from proxy.rollout import told

HOOKS_S = 60.0  # before an order is answered its hooks may take their time
REACHED_S = 30.0  # what a drill takes beside its decision, at most
NO_GO = 1
AS_BEFORE = "as before: same users, same stage, same hold clock"
ANEW = "the stage's evidence and min_requests are gathered anew"

IfMatch = Annotated[
    int | None, typer.Option("--if-match", metavar="REVISION", help="Only if this is the revision now.")
]

rollout = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    no_args_is_help=True,
    help="Run a rollout: start, pause, resume, promote, finish, status, drill.",
)


@rollout.command()
def start(
    plan: Annotated[
        str | None,
        typer.Argument(metavar="PLAN", help="A plan of the config, or a file; by default the one called default."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Look at everything before, change nothing.")] = False,
    reason: Reason = "",
    if_match: IfMatch = None,
    admin: Admin = DEFAULT_ADMIN,
    token_file: TokenFile = None,
    ca: Ca = None,
    service: ServiceName = None,
    output: Output = Format.TEXT,
) -> None:
    """Start a rollout; with --dry-run say go or no-go (exit code 1) with what was found.

    Without it what is no-go is printed as a warning, and the rollout starts all the same.
    """
    client = connect(admin, token_file, ca, timeout_s=HOOKS_S)
    body: dict[str, Any] = {} if plan is None else {"plan": _named_or_read(plan)}
    answer = _call(client, service, "", {**body, **_why(reason)}, if_match, dry_run=dry_run)
    if not dry_run:
        _print(client, service, answer, output)
        for finding in answer.get("warnings", []):
            typer.echo(f"warning: {_said(finding)}", err=True)
        return
    typer.echo(json.dumps(answer) if output is Format.JSON else "\n".join(_findings(answer)))
    if not answer["go"]:
        raise typer.Exit(NO_GO)


@rollout.command()
def pause(
    reason: Reason = "",
    admin: Admin = DEFAULT_ADMIN,
    token_file: TokenFile = None,
    ca: Ca = None,
    service: ServiceName = None,
    output: Output = Format.TEXT,
) -> None:
    """Stop the clock of the stage; the weight stays, and the limits stay armed."""
    client = connect(admin, token_file, ca)
    _print(client, service, _call(client, service, "/pause", _why(reason)), output)


@rollout.command()
def resume(
    reason: Reason = "",
    if_match: IfMatch = None,
    admin: Admin = DEFAULT_ADMIN,
    token_file: TokenFile = None,
    ca: Ca = None,
    service: ServiceName = None,
    output: Output = Format.TEXT,
) -> None:
    """Let a paused rollout go on at the weight of its stage."""
    client = connect(admin, token_file, ca)
    _print(client, service, _call(client, service, "/resume", _why(reason), if_match), output)


@rollout.command()
def promote(
    full: Annotated[bool, typer.Option("--full", help="Go to the last stage at once.")] = False,
    reason: Reason = "",
    if_match: IfMatch = None,
    admin: Admin = DEFAULT_ADMIN,
    token_file: TokenFile = None,
    ca: Ca = None,
    service: ServiceName = None,
    output: Output = Format.TEXT,
) -> None:
    """Go to the next stage now; from the last one: completed."""
    client = connect(admin, token_file, ca, timeout_s=HOOKS_S)
    body = {**({"full": True} if full else {}), **_why(reason)}
    _print(client, service, _call(client, service, "/promote", body, if_match), output)


@rollout.command()
def finish(
    reason: Reason = "",
    if_match: IfMatch = None,
    admin: Admin = DEFAULT_ADMIN,
    token_file: TokenFile = None,
    ca: Ca = None,
    service: ServiceName = None,
    output: Output = Format.TEXT,
) -> None:
    """Make the new version the stable one, after a completed rollout."""
    client = connect(admin, token_file, ca)
    _print(client, service, _call(client, service, "/finish", _why(reason), if_match), output)


@rollout.command()
def status(
    admin: Admin = DEFAULT_ADMIN,
    token_file: TokenFile = None,
    ca: Ca = None,
    service: ServiceName = None,
    output: Output = Format.TEXT,
) -> None:
    """Say where the rollout is: its stages, and what the limits say.

    `evidence X of Y`: X of what speaks for a fault is there, at Y the limit acts (docs/rollouts.md).
    """
    client = connect(admin, token_file, ca)
    path = client.service(service)
    _print(client, service, client.get(f"{path}/rollout"), output)


@rollout.command()
def drill(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say which limit would decide and how long it takes, shut nothing.")
    ] = False,
    reason: Reason = "",
    admin: Admin = DEFAULT_ADMIN,
    token_file: TokenFile = None,
    ca: Ca = None,
    service: ServiceName = None,
    output: Output = Format.TEXT,
) -> None:
    """Prove that a breach shuts the gate in every worker, by a failure that no client sees.

    Then users, stage and hold clock are as before; the stage's evidence and min_requests are gathered anew.
    """
    wanted = _call(connect(admin, token_file, ca), service, "/drill", {}, dry_run=True)
    if output is Format.TEXT:
        about, most = told.duration(wanted["expected_s"]), told.duration(wanted["most_s"])
        typer.echo(f"{' or '.join(wanted['limits'])} decides about {about} after the first failure, {most} at most")
    elif dry_run:
        typer.echo(json.dumps(wanted))
    if dry_run:
        if output is Format.TEXT:
            typer.echo(f"then everything is {AS_BEFORE}\n{ANEW}")
        return
    client = connect(admin, token_file, ca, timeout_s=wanted["most_s"] + REACHED_S)
    found = _call(client, service, "/drill", _why(reason))
    typer.echo(json.dumps(found) if output is Format.JSON else "\n".join(_drilled(found)))
    if found["drill"] != "passed":
        raise typer.Exit(1)


def _call(
    client: Client,
    service: str | None,
    verb: str,
    body: dict[str, Any],
    if_match: int | None = None,
    *,
    dry_run: bool = False,
) -> dict[str, Any]:
    headers = {} if if_match is None else {"If-Match": f'"{if_match}"'}
    query = [("dry_run", "true")] if dry_run else []
    path = f"{client.service(service)}/rollout{verb}"
    answer: dict[str, Any] = client.call("POST", path, query, body or None, headers).value
    return answer


def _why(reason: str) -> dict[str, str]:
    return {"reason": reason} if reason else {}


def _named_or_read(plan: str) -> str | dict[str, Any]:
    """Return a plan's name, or what a file holds (a name with a `/`, or one that ends like YAML or JSON)."""
    if "/" not in plan and not plan.endswith((".yaml", ".yml", ".json")):
        return plan
    from proxy.config.include import read_text
    from proxy.config.load import load

    document = load(read_text(Path(plan), "a rollout plan"), os.environ, plan)
    if document.problems:
        raise document.error()
    found: Any = document.data
    if not isinstance(found, dict) or "plans" in found:
        raise UsageError("is not one plan: it needs stages at its top", where=plan)
    return dict(found)


def _print(client: Client, service: str | None, item: dict[str, Any], output: Format) -> None:
    if output is Format.JSON:
        typer.echo(json.dumps(item))
    else:
        name = service or client.service(service).rpartition("/")[2]
        typer.echo("\n".join(view.of_service(name, item)))
    warn(item)


def _findings(answer: dict[str, Any]) -> Iterator[str]:
    yield f"{'go' if answer['go'] else 'no-go'}: {answer['plan']}"
    yield from text.table([[one["finding"], one["check"], _said(one)] for one in answer["findings"]])


def _said(finding: dict[str, Any]) -> str:
    cure = f" ({finding['cure']})" if finding.get("cure") else ""
    return text.printable(f"{finding['what']}{cure}")


def _drilled(found: dict[str, Any]) -> Iterator[str]:
    yield f"drill {found['drill']}" + (f": {found['why']}" if found.get("why") else "")
    if found.get("decided_s") is not None:
        yield f"  decided {_took(found['decided_s'])} after the first failure, by {found.get('limit') or 'a limit'}"
    if found.get("reached_s") is not None:
        yield f"  weight 0 in every worker {_took(found['reached_s'])} after that"
    if "latched" in found:
        yield f"  latch: {'shut' if found['latched'] else 'not shut'}"
    if found.get("restored"):
        yield from (f"  everything is {AS_BEFORE}", f"  {ANEW}")
    else:
        yield "  everything is NOT as before: see `tidegate status`"


def _took(seconds: float) -> str:
    return f"{text.number(seconds * 1000, 1)} ms" if seconds < 1 else told.duration(seconds)
