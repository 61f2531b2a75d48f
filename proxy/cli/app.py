"""The `tidegate` command: the verbs, found when they are called, and one way out for every error.

A verb's module is imported only when that verb runs (or when help lists them all), so that `tidegate version` and
`tidegate status` do not wait for aiohttp, pydantic or yaml. An error is one sentence with its cure on stderr and an
exit code of INTERFACE §3; a traceback is shown only with TIDEGATE_DEBUG=1.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from proxy import __version__
from proxy.cli.options import OUTPUT
from proxy.cli.text import printable
from proxy.errors import ConfigError, TidegateError

VERBS = {
    "run": "proxy.cli.run:run",
    "demo": "proxy.cli.demo:demo",
    "check": "proxy.cli.check:check",
    "plan": "proxy.cli.plan:plan",
    "replay": "proxy.cli.replay:replay",
    "simulate": "proxy.cli.simulate:simulate",
    "status": "proxy.cli.status:status",
    "weights": "proxy.cli.steer:weights",
    "rollback": "proxy.cli.steer:rollback",
    "rollout": "proxy.cli.rollout:rollout",
    "drain": "proxy.cli.endpoints:drain",
    "undrain": "proxy.cli.endpoints:undrain",
    "why": "proxy.cli.report:why",
    "report": "proxy.cli.report:report",
    "explain": "proxy.cli.look:explain",
    "events": "proxy.cli.look:events",
    "healthcheck": "proxy.cli.look:healthcheck",
    "version": "proxy.cli.version:version",
}
INTERRUPTED = 130


class LazyGroup(TyperGroup):
    """A group of `VERBS` whose modules are imported on demand."""

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]  # noqa: ARG002
        """Return all verbs in the order of the table."""
        return list(VERBS)

    def get_command(self, ctx: typer.Context, cmd_name: str) -> Any:  # type: ignore[override]  # noqa: ARG002
        """Return the verb's command; `None` if there is no such verb."""
        if cmd_name in VERBS and cmd_name not in self.commands:
            module, _, name = VERBS[cmd_name].partition(":")
            self.commands[cmd_name] = _command(cmd_name, getattr(import_module(module), name))
        return self.commands.get(cmd_name)

    def resolve_command(self, ctx: typer.Context, args: list[str]) -> Any:  # type: ignore[override]
        """Return the command that `args` name; all are loaded if there is none, to suggest one."""
        if args[0] not in VERBS:
            for name in VERBS:
                self.get_command(ctx, name)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]
        """Run the verb; turn our own errors into a sentence and an exit code."""
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            error.message = _plain(error.message)
            raise
        except TidegateError as error:
            _explain(error, json_wanted=ctx.meta.get(OUTPUT) == "json")
            raise typer.Exit(error.exit_code) from None
        except BrokenPipeError:  # whoever read our output is gone, as in `tidegate events | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None


def _command(name: str, target: Any) -> Any:
    if not isinstance(target, typer.Typer):
        function, target = target, typer.Typer(add_completion=False, rich_markup_mode=None)
        target.command(name)(function)
    command = typer.main.get_command(target)
    command.name = name
    _speak(command)
    return command


def _speak(command: Any) -> None:
    """Let help call an argument by its name alone (what Python type it has tells nobody anything), and cut nothing."""
    command.short_help = (command.help or "").split("\n")[0]  # without it the list of verbs cuts them short
    for parameter in command.params:
        if parameter.param_type_name == "argument":
            parameter.display_type_rich = lambda ctx: None  # noqa: ARG005
            parameter.get_usage_pieces = partial(_without_braces, parameter.get_usage_pieces)
    for sub in getattr(command, "commands", {}).values():
        _speak(sub)


def _without_braces(pieces: Callable[[Any], list[str]], ctx: Any) -> list[str]:
    return [piece.replace("{", "").replace("}", "") for piece in pieces(ctx)]


def _plain(message: str) -> str:
    """Return what is said of a wrong value in plain words, where it is in those of the library that reads it."""
    message = message.removeprefix("Value error, ")
    if not message.startswith("Input should be "):
        return message
    message = message.replace("Input should be ", "must be ").partition(", unable to parse")[0]
    words = {"a valid number": "a number", "a valid integer": "a whole number"}
    words |= {"greater than or equal to": "at least", "less than or equal to": "at most"}
    return next((message.replace(theirs, ours) for theirs, ours in words.items() if theirs in message), message)


def _explain(error: TidegateError, *, json_wanted: bool = False) -> None:
    problem = getattr(error, "problem", None)
    if json_wanted and problem:
        typer.echo(json.dumps(problem))
    if isinstance(error, ConfigError):
        count = len(error.problems)
        typer.echo(str(error), err=True)
        typer.echo(f"tidegate: {count} problem{'' if count == 1 else 's'}; nothing was started", err=True)
    else:
        typer.echo(f"tidegate: {error}", err=True)
        for line in getattr(error, "said", ()):
            typer.echo(f"  {printable(line)}", err=True)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tidegate {__version__}")
        raise typer.Exit


app = typer.Typer(
    cls=LazyGroup,
    name="tidegate",
    help="A reverse proxy that splits traffic between two versions, measures both, and shuts by itself.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say the version.")
    ] = False,
) -> None:
    """Split traffic between two versions, measure both, and shut by itself."""


def main() -> None:
    """Run the command line; never show a traceback unless TIDEGATE_DEBUG is set."""
    try:
        app(prog_name="tidegate")
    except Exception as error:
        if os.environ.get("TIDEGATE_DEBUG"):
            raise
        what = f"{type(error).__name__}: {error}".strip(": ")
        typer.echo(f"tidegate: unexpected error: {what} (TIDEGATE_DEBUG=1 shows where it came from)", err=True)
        sys.exit(1)
