"""`tidegate explain`, `events` and `healthcheck`: the verbs that only look."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from proxy.cli import text
from proxy.cli.client import ApiError, Client, Unreachable, connect
from proxy.cli.options import DEFAULT_ADMIN, Admin, Ca, Format, Output, ServiceName, TokenFile, checked
from proxy.cli.status import line
from proxy.config.units import parse_duration

PAGE = 1000
PATIENCE_S = 60.0
RETRY_S = 1.0


def explain(
    cookie: Annotated[list[str] | None, typer.Option("--cookie", metavar="NAME=VALUE", help="A cookie.")] = None,
    header: Annotated[list[str] | None, typer.Option("--header", metavar="NAME=VALUE", help="A header.")] = None,
    client_ip: Annotated[
        str | None, typer.Option("--client-ip", metavar="ADDRESS", help="The client's address.")
    ] = None,
    admin: Admin = DEFAULT_ADMIN,
    token_file: TokenFile = None,
    ca: Ca = None,
    service: ServiceName = None,
    output: Output = Format.TEXT,
) -> None:
    """Say which version a request gets, and which key decided."""
    query = [("cookie", pair) for pair in cookie or []] + [("header", pair) for pair in header or []]
    query += [("client_ip", client_ip)] if client_ip else []
    client = connect(admin, token_file, ca)
    query.append(("service", service or client.service(None).rpartition("/")[2]))
    found = client.get("/api/v1/explain", query)
    if output is Format.JSON:
        typer.echo(json.dumps(found))
        return
    # Without a version chance decides: a cookie is minted, or every request is drawn.
    goes = f"goes to {found['version']}" if found["version"] else "goes to either version"
    typer.echo(f"{found['service']}: {goes}: {text.printable(found['reason'])}")
    key = f"key {found['key']} from {found['key_from']}" if found.get("key") else f"key from {found['key_from']}"
    typer.echo(f"  {text.printable(key)}; new has {text.number(found['weight'], 2, '%')}")


def events(
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes, until Ctrl-C.")] = False,
    since: Annotated[int, typer.Option("--since", metavar="NUMBER", min=0, help="Only events after this number.")] = 0,
    last: Annotated[
        int | None, typer.Option("--last", "-n", metavar="COUNT", min=1, help="Only so many, the last ones.")
    ] = None,
    admin: Admin = DEFAULT_ADMIN,
    token_file: TokenFile = None,
    ca: Ca = None,
    service: ServiceName = None,
    output: Output = Format.TEXT,
) -> None:
    """Show the journal: who or what changed what, when and why."""
    client = connect(admin, token_file, ca)
    stored = deque(_stored(client, since), maxlen=last)
    shown = [event for event in stored if service is None or event.get("service") == service]
    if service is not None and not shown:
        client.get(client.service(service))  # one that never was is a mistake; of one that is gone events may be left
    if output is Format.JSON and not follow:
        typer.echo(json.dumps({"events": shown}))
        return
    for event in shown:
        _print(event, output)
    if follow:
        reached = stored[-1]["seq"] if stored else since
        for event in _coming(client, reached):
            if service is None or event.get("service") == service:
                _print(event, output)


def healthcheck(
    admin: Admin = DEFAULT_ADMIN,
    ca: Ca = None,
    timeout: Annotated[
        str, typer.Option("--timeout", metavar="DURATION", help="How long to wait for the answer.")
    ] = "3s",
    output: Output = Format.TEXT,
) -> None:
    """Say whether traffic should come here (exit code 0) or not (1)."""
    client = Client(admin, ca=ca, timeout_s=checked(parse_duration, timeout, "--timeout"))  # it needs no token
    try:
        client.get("/readyz")
    except ApiError as error:
        if error.status != 503:
            raise
        typer.echo(json.dumps({"ready": False}) if output is Format.JSON else "not ready")
        raise typer.Exit(1) from None
    typer.echo(json.dumps({"ready": True}) if output is Format.JSON else "ready")


def _stored(client: Client, since: int) -> Iterator[dict[str, Any]]:
    while True:
        page = client.get("/api/v1/events", {"since": since, "limit": PAGE})["events"]
        yield from page
        if len(page) < PAGE:
            return
        since = page[-1]["seq"]


def _coming(client: Client, since: int) -> Iterator[dict[str, Any]]:
    """Yield events as they come; after a lost connection go on where it was, for a minute of trying."""
    lost = 0.0
    while True:
        try:
            for event in client.stream("/api/v1/events", {"since": since, "follow": "true"}):
                lost = 0.0
                since = event["seq"]
                yield event
        except Unreachable:
            if lost and time.monotonic() - lost > PATIENCE_S:
                raise
        except ApiError as error:
            if error.status < 500:
                raise
        lost = lost or time.monotonic()
        time.sleep(RETRY_S)


def _print(event: dict[str, Any], output: Format) -> None:
    typer.echo(json.dumps(event) if output is Format.JSON else line(event))
