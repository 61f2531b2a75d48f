"""Options that several verbs share, and what their values mean."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, TypeVar

import typer

Value = TypeVar("Value")
OUTPUT = "proxy.output"  # where a context remembers how to print


class Format(StrEnum):
    """How a verb prints: for people, or the API's object unchanged."""

    TEXT = "text"
    JSON = "json"


def _remember(ctx: typer.Context, value: Format | None) -> Format | None:
    if value is not None:
        ctx.meta[OUTPUT] = value.value
    return value


Output = Annotated[
    Format,
    typer.Option(
        "--output",
        "-o",
        metavar="text|json",
        help="text, or json: the API's object unchanged.",
        callback=_remember,
    ),
]
OutputToo = Annotated[  # of a verb below one that has it
    Format | None,
    typer.Option("--output", "-o", metavar="text|json", help="text or json.", callback=_remember),
]
Admin = Annotated[
    str,
    typer.Option(
        "--admin", metavar="ADDRESS", envvar="TIDEGATE_ADMIN", help="The admin API: http[s]://HOST:PORT or unix:/path."
    ),
]
TokenFile = Annotated[
    Path | None,
    typer.Option(
        "--token-file",
        metavar="FILE",
        help="A file with the admin token, which the API at --admin gets; or the token itself in TIDEGATE_ADMIN_TOKEN.",
    ),
]
Ca = Annotated[
    Path | None,
    typer.Option(
        "--ca",
        metavar="FILE",
        envvar="TIDEGATE_ADMIN_CA",
        help="Who signed the certificate of an https:// admin API: a PEM file.",
    ),
]
ServiceName = Annotated[
    str | None, typer.Option("--service", metavar="NAME", help="Which service, where there are several.")
]
DEFAULT_ADMIN = "http://127.0.0.1:9900"


def checked(parse: Callable[[str], Value], text: str, hint: str) -> Value:
    """Return `parse(text)`; its `ValueError` becomes a usage error about `hint` (exit code 2)."""
    try:
        return parse(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} {error}", param_hint=hint) from None
