"""`tidegate weights` and `tidegate rollback`: the verbs that move traffic."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from proxy.cli import text
from proxy.cli.client import UsageError, connect
from proxy.cli.options import DEFAULT_ADMIN, Admin, Ca, Format, Output, OutputToo, ServiceName, TokenFile, checked
from proxy.config.units import parse_duration, parse_weight

Reason = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why, for the journal.")]


class _Weights(TyperGroup):
    def resolve_command(self, ctx: typer.Context, args: list[str]) -> Any:  # type: ignore[override]
        """Return the verb; whoever gives a weight in its place is told the verb that takes it."""
        if args[0][:1].isdigit():
            raise UsageError(f"{args[0]!r} is no verb of weights", cure=f"write `tidegate weights set {args[0]}`")
        return super().resolve_command(ctx, args)


weights = typer.Typer(
    cls=_Weights,
    add_completion=False,
    rich_markup_mode=None,
    invoke_without_command=True,
    help="Show the weights, or set that of new: `tidegate weights set 25%`.",
)


@weights.callback()
def show(
    ctx: typer.Context,
    admin: Admin = DEFAULT_ADMIN,
    token_file: TokenFile = None,
    ca: Ca = None,
    service: ServiceName = None,
    output: Output = Format.TEXT,
) -> None:
    """Show the weights, or set that of new: `tidegate weights set 25%`."""
    ctx.obj = {"admin": admin, "token_file": token_file, "ca": ca, "service": service, "output": output}
    if ctx.invoked_subcommand is None:
        client = connect(admin, token_file, ca)
        _print(client.get(f"{client.service(service)}/weights"), output)


@weights.command("set")
def set_(
    ctx: typer.Context,
    new: Annotated[str, typer.Argument(metavar="PERCENT", help="The weight of new, such as 25% or 0.5%.")],
    reason: Reason = "",
    ttl: Annotated[
        str | None,
        typer.Option("--ttl", metavar="DURATION", help="Take it back after so long, such as 30m; none: keep it."),
    ] = None,
    if_match: Annotated[
        int | None, typer.Option("--if-match", metavar="REVISION", help="Only if this is the revision now.")
    ] = None,
    take_over: Annotated[bool, typer.Option("--take-over", help="Pause a rollout that is progressing.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say who would move, change nothing.")] = False,
    admin: Annotated[
        str | None, typer.Option("--admin", metavar="ADDRESS", help="The admin API.", show_default=False)
    ] = None,
    token_file: TokenFile = None,
    ca: Ca = None,
    service: ServiceName = None,
    output: OutputToo = None,
) -> None:
    """Set the weight of new; stable gets the rest."""
    given = ctx.obj
    percent = checked(parse_weight, new, "PERCENT") / 100
    if ttl not in (None, "none"):
        checked(parse_duration, ttl, "--ttl")
    client = connect(admin or given["admin"], token_file or given["token_file"], ca or given["ca"])
    body: dict[str, Any] = {"new": percent}
    body |= {"reason": reason} if reason else {}
    body |= {"ttl": ttl} if ttl else {}
    query = [(name, "true") for name, wanted in (("dry_run", dry_run), ("take_over", take_over)) if wanted]
    headers = {} if if_match is None else {"If-Match": f'"{if_match}"'}
    path = f"{client.service(service or given['service'])}/weights"
    _print(client.call("PUT", path, query, body, headers).value, output or given["output"], dry_run=dry_run)


def rollback(
    admin: Admin = DEFAULT_ADMIN,
    token_file: TokenFile = None,
    ca: Ca = None,
    service: ServiceName = None,
    reason: Reason = "",
    output: Output = Format.TEXT,
) -> None:
    """Send everything to stable, now and in every phase."""
    client = connect(admin, token_file, ca)
    path = f"{client.service(service)}/rollback"
    item = client.call("POST", path, body={"reason": reason} if reason else None).value
    if output is Format.JSON:
        typer.echo(json.dumps(item))
    else:
        name = path.split("/")[4]
        typer.echo(f"{name}: all weight is on stable, revision {item['weights']['revision']}")
    warn(item)


def _print(item: dict[str, Any], output: Format, *, dry_run: bool = False) -> None:
    if output is Format.JSON:
        typer.echo(json.dumps(item))
    else:
        shares = f"stable {text.number(item['stable'], 2)}%, new {text.number(item['new'], 2)}%"
        would = "would be " if dry_run else ""
        line = f"{item['service']}: {would}{shares}, revision {item['revision']}"
        if item.get("expires_in_s") is not None:
            line += f", for another {text.duration(item['expires_in_s'])}"
        typer.echo(line)
        if moves := item.get("moves"):
            typer.echo(
                f"  of {moves['of']:,} buckets {moves['to_new']:,} move to new, {moves['to_stable']:,} to stable"
            )
        for said in _paused(item.get("paused"), would="would be" if dry_run else "is"):
            typer.echo(f"  {said}")
    warn(item)


def _paused(paused: dict[str, Any] | None, *, would: str) -> Iterator[str]:
    """Say which rollout stands still while a person sets the weight, and how it goes on."""
    if paused is None:
        return
    yield f"the rollout {text.printable(paused['plan'])!r} {would} paused in stage {text.printable(paused['stage'])}"
    for verb, where in (("resume", "goes back to"), ("promote", "goes on to")):
        leads = paused[verb]
        to = "completes it at" if leads["phase"] == "completed" else where
        yield f"tidegate rollout {verb} {to} {text.number(leads['weight'], 2)}%, stage {text.printable(leads['stage'])}"


def warn(item: dict[str, Any]) -> None:
    """Say on stderr what an answer warns of."""
    if item.get("durable") is False:
        typer.echo("tidegate: done, but not stored: the state store failed (see the log of the supervisor)", err=True)
    if item.get("warning"):
        typer.echo(f"tidegate: {item['warning']}", err=True)
