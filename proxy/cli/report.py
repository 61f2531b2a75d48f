"""`tidegate report` and `tidegate why`: what became of a rollout, whole or in one sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from proxy.cli import text
from proxy.cli.client import Client, UsageError, connect
from proxy.cli.options import DEFAULT_ADMIN, Admin, Ca, Format, Output, ServiceName, TokenFile
from proxy.rollout import told

PATIENCE_S = 60.0  # a long rollout is read from its journal when its supervisor was restarted


def report(
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write one HTML file with plots.", show_default=False)
    ] = None,
    admin: Admin = DEFAULT_ADMIN,
    token_file: TokenFile = None,
    ca: Ca = None,
    service: ServiceName = None,
    output: Output = Format.TEXT,
) -> None:
    """Show the report of the last rollout as Markdown, as JSON, or write it as one HTML file."""
    client = connect(admin, token_file, ca, timeout_s=PATIENCE_S)
    path = f"{client.service(service)}/report"
    if html is not None:
        if output is Format.JSON:
            raise UsageError("--html and -o json exclude each other")
        page = client.call("GET", path, headers={"Accept": "text/html"}).value
        try:
            html.write_text(page, encoding="utf-8")
        except OSError as error:
            why = (error.strerror or "unwritable").lower()
            raise UsageError(f"the report cannot be written: {why}", where=str(html)) from None
        typer.echo(f"{html}: {len(page.encode()):,} bytes")
    elif output is Format.JSON:
        typer.echo(json.dumps(client.call("GET", path, headers={"Accept": "application/json"}).value))
    else:
        typer.echo(client.call("GET", path, headers={"Accept": "text/markdown"}).value, nl=False)


def why(
    admin: Admin = DEFAULT_ADMIN,
    token_file: TokenFile = None,
    ca: Ca = None,
    service: ServiceName = None,
    output: Output = Format.TEXT,
) -> None:
    """Say the last transition in one sentence, with its numbers, and what came of it.

    The value is that of the whole stage; `N of the last M requests` is what the decision rests on (docs/rollouts.md).
    """
    client = connect(admin, token_file, ca)
    path = client.service(service)
    events = _events(client, path)
    move = told.last_move(events)
    after = [] if move is None else [event for event in events if event["seq"] > move["seq"]]
    after = [event for event in after if event["type"] in told.REMARKABLE]
    if output is Format.JSON:
        found = {"sentence": None if move is None else told.sentence(move), "event": move, "since": after}
        typer.echo(json.dumps(found))
        return
    if move is None:
        typer.echo(f"{path.rpartition('/')[2]}: nothing was decided yet")
        return
    for event in (move, *after[-3:]):
        typer.echo(text.printable(told.sentence(event)))


def _events(client: Client, path: str) -> list[dict[str, Any]]:
    """Return the newest events of a service in order, as many as it takes to find a move."""
    item = client.get(path)
    last = item.get("last_event")
    if last is None:
        return []
    found: list[dict[str, Any]] = []
    for since, until in told.pages_back(last["seq"]):
        page = client.get("/api/v1/events", {"since": since, "limit": told.PAGE})["events"]
        found = [*told.of_page(page, last["service"], until), *found]
        if told.last_move(found) is not None:
            break
    return found
