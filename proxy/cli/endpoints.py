"""`tidegate drain` and `tidegate undrain`: take one endpoint out, and let it in again."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from proxy.cli import text
from proxy.cli.client import UsageError, connect
from proxy.cli.options import DEFAULT_ADMIN, Admin, Ca, Format, Output, ServiceName, TokenFile
from proxy.cli.steer import Reason, warn

Url = Annotated[str, typer.Argument(metavar="URL", help="The endpoint, such as http://10.0.0.7:8000.")]
Maintenance = Annotated[bool, typer.Option("--maintenance", help="Say that it is out for longer.")]


def drain(
    url: Url,
    maintenance: Maintenance = False,
    admin: Admin = DEFAULT_ADMIN,
    token_file: TokenFile = None,
    ca: Ca = None,
    service: ServiceName = None,
    reason: Reason = "",
    output: Output = Format.TEXT,
) -> None:
    """Give an endpoint no new requests; what it has it may finish. It stays out through restarts."""
    state = "maintenance" if maintenance else "drain"
    _set(url, state, admin=admin, token_file=token_file, ca=ca, service=service, reason=reason, output=output)


def undrain(
    url: Url,
    admin: Admin = DEFAULT_ADMIN,
    token_file: TokenFile = None,
    ca: Ca = None,
    service: ServiceName = None,
    reason: Reason = "",
    output: Output = Format.TEXT,
) -> None:
    """Give an endpoint requests again."""
    _set(url, "ready", admin=admin, token_file=token_file, ca=ca, service=service, reason=reason, output=output)


def _set(
    url: str, state: str, *, admin: str, token_file: TokenFile, ca: Ca, service: str | None, reason: str, output: Format
) -> None:
    client = connect(admin, token_file, ca)
    path = f"{client.service(service)}/endpoints"
    known = client.get(path)
    versions = [one["version"] for one in known["endpoints"] if one["url"] == url.rstrip("/")]
    if not versions:
        urls = ", ".join(dict.fromkeys(one["url"] for one in known["endpoints"])) or "none"
        raise UsageError(f"{known['service']} has no endpoint {url}", cure=f"there are: {urls}")
    answer: dict[str, Any] = known
    for version in versions:
        body = {"version": version, "url": url.rstrip("/"), "state": state}
        answer = client.call("PATCH", path, body=body | ({"reason": reason} if reason else {})).value
        warn(answer)
    if output is Format.JSON:
        typer.echo(json.dumps(answer))
        return
    for one in answer["endpoints"]:
        if one["url"] == url.rstrip("/"):
            typer.echo(f"{one['version']} {one['url']}: {text.word(one['state'])}, {one['in_flight']} in flight")
