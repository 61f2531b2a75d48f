"""`tidegate version`."""

from __future__ import annotations

import json

import typer

from proxy import __version__
from proxy.cli.options import Format, Output


def version(output: Output = Format.TEXT) -> None:
    """Say the version."""
    typer.echo(json.dumps({"version": __version__}) if output is Format.JSON else f"tidegate {__version__}")
