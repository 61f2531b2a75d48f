"""`tidegate run`: start the proxy from a config file, or from flags with no file at all.

What it says at the start goes to standard output, unless the access log is written there: that is JSON alone.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from proxy.cli.client import UsageError

LOG_FORMAT = "%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s: %(message)s"
LOG_TIME = "%Y-%m-%d %H:%M:%S"  # UTC, as in `tidegate events`


def run(
    config: Annotated[
        Path | None, typer.Option("--config", "-c", metavar="FILE", help="The config file.", show_default=False)
    ] = None,
    stable: Annotated[list[str] | None, typer.Option("--stable", metavar="URL", help="An endpoint of stable.")] = None,
    new: Annotated[list[str] | None, typer.Option("--new", metavar="URL", help="An endpoint of new.")] = None,
    weight: Annotated[str | None, typer.Option("--weight", metavar="PERCENT", help="The weight of new [10%].")] = None,
    sticky: Annotated[
        str | None,
        typer.Option("--sticky", metavar="KEY", help="cookie:NAME, header:NAME, client_ip or none [cookie:session]."),
    ] = None,
    p99: Annotated[
        str | None, typer.Option("--p99", metavar="DURATION", help="The limit on the 99th percentile [200ms].")
    ] = None,
    error_rate: Annotated[
        str | None, typer.Option("--error-rate", metavar="SHARE", help="The limit on the error rate [1%].")
    ] = None,
    listen: Annotated[
        str | None, typer.Option("--listen", metavar="ADDRESS", help="Where clients come in [0.0.0.0:8080].")
    ] = None,
    admin_listen: Annotated[
        str | None, typer.Option("--admin-listen", metavar="ADDRESS", help="Where the admin API is [127.0.0.1:9900].")
    ] = None,
    state: Annotated[
        Path | None, typer.Option("--state", metavar="FILE", help="Where to store; without, in memory only.")
    ] = None,
) -> None:
    """Start the proxy. TERM and INT drain it, HUP reads the config file again."""
    flags: dict[str, Any] = {
        "stable": stable,
        "new": new,
        "weight": weight,
        "sticky": sticky,
        "p99": p99,
        "error_rate": error_rate,
        "listen": listen,
        "admin_listen": admin_listen,
        "state": state,
    }
    given = {name: value for name, value in flags.items() if value is not None and value != []}
    if config is not None and given:
        names = ", ".join("--" + name.replace("_", "-") for name in given)
        raise UsageError(f"--config and {names} exclude each other", cure="put it into the file")
    if config is None and not stable:
        raise UsageError("nothing to run", cure="give --config FILE, or --stable URL")
    if weight is not None and not new:
        raise UsageError("--weight is that of new, and there is none", cure="add --new URL, or leave --weight out")
    from proxy.config.compile import compile_file, compile_flags

    if config is not None:
        compiled = compile_file(config, os.environ)
    else:
        compiled, equivalent = compile_flags(**given)
        typer.echo(f"# the same as a config file:\n{equivalent.rstrip()}\n")
    say = partial(_say, err=compiled.table.access_log.path == "-")
    for note in compiled.notes:
        say(note if note.startswith("warning: ") else f"note: {note}")
    flush_log = _log_to_stderr()
    from proxy.admin.app import runner
    from proxy.controlplane.supervisor import run as supervise

    raise typer.Exit(supervise(compiled, announce=say, admin=runner, flush_log=flush_log))


def _log_to_stderr() -> Callable[[], None]:
    """Have the log written to standard error; return what writes the lines that wait for its reader."""
    from proxy.cli.stderr import STDERR, Lines
    from proxy.dataplane.sink import Sink

    try:
        handler = Lines(Sink(STDERR))
    except OSError:
        return lambda: None  # it is closed
    formatter = logging.Formatter(LOG_FORMAT, LOG_TIME)
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    return handler.flush


def _say(line: str, *, err: bool) -> None:
    typer.echo(line, err=err)  # which flushes
