"""`tidegate check`: every mistake of a config or a rollout plan at once, with its place and cure."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from proxy.cli.options import Format, Output
from proxy.errors import ConfigError


def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The config, or rollout plans.", show_default=False)],
    output: Output = Format.TEXT,
) -> None:
    """Say everything that is wrong with a config or a plan, as FILE:LINE:COLUMN: key: message (exit code 2), or ok."""
    from proxy.config.compile import compile_file
    from proxy.config.names import unresolved
    from proxy.config.plans import compile_plan_file, is_plan_file

    try:
        if is_plan_file(file):
            notes = compile_plan_file(file, os.environ).notes
        else:
            compiled = compile_file(file, os.environ)
            notes = (*unresolved(compiled.table), *compiled.notes)
        problems = []
    except ConfigError as error:
        notes, problems = (), error.problems
    if output is Format.JSON:
        errors = [
            {"key": item.key, "message": item.message, "file": item.file, "line": item.line, "column": item.column}
            for item in problems
        ]
        typer.echo(json.dumps({"valid": not problems, "notes": list(notes), "errors": errors}))
    elif problems:
        for problem in problems:
            typer.echo(str(problem))
    else:
        typer.echo("ok")
        for note in notes:
            typer.echo(f"  {note}")
    if problems:
        raise typer.Exit(ConfigError.exit_code)
