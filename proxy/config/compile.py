"""The door of this room: a file, a text or flags become `Compiled`, or a `ConfigError` with every mistake.

text → `load` (positions, variables) → `include` (plan files) → `normal` (short forms, metrics) →
`schema` (one value at a time) → `rules` (between values) → `certificates` → `tables`. Plan files alone: `plans`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proxy.config import certificates, rules, schema, tables
from proxy.config.addresses import parse_endpoint
from proxy.config.flags import flag_of, flags_to_yaml
from proxy.config.include import include, is_plan, read_text
from proxy.config.load import load
from proxy.config.model import Config
from proxy.config.normal import normalise
from proxy.config.tables import AdminSettings, CertificateFiles, Entrance, Settings, Token
from proxy.config.tokens import check_same, read_token_files, warn_of_weak
from proxy.errors import ConfigError, Problem
from proxy.rollout.plan import ServicePlan
from proxy.routing.table import RoutingTable

__all__ = [
    "AdminSettings",
    "CertificateFiles",
    "Compiled",
    "Entrance",
    "Settings",
    "Token",
    "compile_file",
    "compile_flags",
    "compile_text",
    "parse_endpoint",
]


@dataclass(frozen=True, slots=True)
class Compiled:
    """A config that is right. `redacted` holds it with every default and no secret; `notes` are for people."""

    settings: Settings
    table: RoutingTable
    plans: tuple[ServicePlan, ...]
    source: Path | None
    redacted: dict[str, Any]
    notes: tuple[str, ...]


def compile_file(path: Path, environ: Mapping[str, str], *, log_in_force: str | None = None) -> Compiled:
    """Return the compiled config of a file; raise `ConfigError` with all problems.

    `log_in_force`: the path of the access log that is in use already; that it cannot be opened is no problem then.
    """
    text = read_text(path)
    return _compile(text, environ, name=str(path), base=path.absolute().parent, source=path, log_in_force=log_in_force)


def compile_text(text: str, environ: Mapping[str, str], *, name: str = "<text>", base: Path = Path()) -> Compiled:
    """Return the compiled config of a text; relative paths are taken from `base`."""
    return _compile(text, environ, name=name, base=base, source=None)


def compile_flags(
    *,
    stable: Sequence[str],
    new: Sequence[str] = (),
    weight: str = "10%",
    sticky: str = "cookie:session",
    p99: str = "200ms",
    error_rate: str = "1%",
    listen: str | None = None,
    admin_listen: str | None = None,
    state: Path | str | None = None,
    environ: Mapping[str, str] = os.environ,
) -> tuple[Compiled, str]:
    """Return the compiled config of `run` without a file, and the YAML that says the same.

    `environ` gives TIDEGATE_ADMIN_TOKEN; an empty `p99` or `error_rate` leaves that limit out. Problems name flags.
    """
    text = flags_to_yaml(
        stable=stable,
        new=new,
        weight=weight,
        sticky=sticky,
        p99=p99,
        error_rate=error_rate,
        listen=listen,
        admin_listen=admin_listen,
        state=None if state is None else str(state),
    )
    try:
        return _compile(text, environ, name="", base=Path(), source=None, said=_of_flag), text
    except ConfigError as error:
        raise ConfigError([_of_flag(problem) for problem in error.problems]) from None


def _of_flag(problem: Problem) -> Problem:
    """Return a problem or a warning as one of the flag, which has no line."""
    return Problem(flag_of(problem.key), problem.message)


def _compile(
    text: str,
    environ: Mapping[str, str],
    *,
    name: str,
    base: Path,
    source: Path | None,
    said: Callable[[Problem], Problem] = lambda warning: warning,
    log_in_force: str | None = None,
) -> Compiled:
    document = load(text, environ, name)
    if document.data is None and not document.problems:
        raise ConfigError([Problem("", "is empty: a config needs at least services", name, 1, 1)])
    if is_plan(document.data):
        cure = f"check it with `tidegate plan {name}`"
        raise ConfigError([Problem("", f"is a rollout plan, not a config: {cure}", name, 1, 1)])
    include(document, base, environ)
    normalise(document)
    config = schema.validate(document, Config)
    rules.check(document, base, log_in_force)
    trusts = certificates.check(document, base)
    tokens = read_token_files(document, base)
    check_same(document, tokens)
    warn_of_weak(document, tokens)
    if config is None or document.problems:
        raise document.error()
    settings = tables.settings(config, base, tokens)
    warnings = (f"warning: {said(warning)}" for warning in document.in_order(document.warnings))
    return Compiled(
        settings=settings,
        table=tables.routing_table(config, base, trusts),
        plans=tables.plans(config, base),
        source=source,
        redacted=tables.redacted(config, document.expanded),
        notes=(*warnings, *tables.notes(config, settings)),
    )
