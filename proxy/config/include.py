"""Plan files: read, brought to one form, and put where a service names them.

A file holds one plan (`stages: …`) or several (`plans: {NAME: {stages: …}}`, with `signals` and `checks` beside them
that all of them know). After `as_plans` it is always several. In a service `rollouts: {NAME: FILE}` takes the one plan
of a file, or of several that of the same name; `FILE#OTHER` takes another. Its text then stands in the tree as if it
had been written there, but keeps its own places: a mistake is told in the file it is in. Relative paths in a plan are
taken from the directory of its file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from proxy.config.load import Document, Loc, load
from proxy.errors import ConfigError, Problem

_SHARED = ("signals", "checks")


def read_text(path: Path, what: str = "a config file") -> str:
    """Return the text of a file; raise `ConfigError` with its place. `what` it should be, for people."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        cure = f"give the path of {what}" if isinstance(error, FileNotFoundError | IsADirectoryError) else ""
        message = f"cannot be read: {error.strerror}" + (f" ({cure})" if cure else "")
        raise ConfigError([Problem("", message, str(path), 1, 1)]) from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        column = error.start - error.object.rfind(b"\n", 0, error.start)
        message = "is not UTF-8 here: save the file as UTF-8"
        raise ConfigError([Problem("", message, str(path), line, column)]) from None


def is_plan(data: object) -> bool:
    """Return whether the data of a file is that of one or several plans."""
    return isinstance(data, dict) and "services" not in data and bool({"stages", "plans"} & data.keys())


def as_plans(document: Document) -> None:
    """Bring the document of one plan, named as its file, or of several to the form of several."""
    data: Any = document.data
    if "plans" not in data:
        name = re.sub(r"[^a-z0-9]+", "-", Path(document.name).stem.lower()).strip("-")[:63].strip("-") or "plan"
        whole = Document(document.name, {"plans": {name: data}})
        for loc in ((), ("plans",), ("plans", name)):
            whole.graft(loc, document, ())
        document.data, document.places = whole.data, whole.places
        document.problems, document.expanded = whole.problems, whole.expanded
        return
    shared = {key: data.pop(key) for key in _SHARED if key in data}
    plans = data["plans"]
    for name, plan in plans.items() if isinstance(plans, dict) else ():
        for key, values in shared.items() if isinstance(plan, dict) else ():
            own = plan.get(key)
            if own is None:
                plan[key] = values
            elif isinstance(own, dict) and isinstance(values, dict):
                plan[key] = values | own
            document.graft(("plans", name, key), document, (key,))


def include(document: Document, base: Path, environ: Mapping[str, str]) -> None:
    """Put the plan files that the services of a config name in their places."""
    services = document.data.get("services") if isinstance(document.data, dict) else None
    for index, service in enumerate(services if isinstance(services, list) else []):
        rollouts: Any = service.get("rollouts") if isinstance(service, dict) else None
        for name, value in list(rollouts.items()) if isinstance(rollouts, dict) else ():
            if isinstance(value, str) and value:
                loc = ("services", index, "rollouts", name)
                plan = _from_file(document, loc, value, base, environ)
                if plan is not None:
                    rollouts[name] = plan


def _from_file(
    document: Document, loc: Loc, reference: str, base: Path, environ: Mapping[str, str]
) -> dict[str, Any] | None:
    """Return the plan that `FILE` or `FILE#NAME` names; report why there is none."""
    file, _, chosen = reference.partition("#")
    try:
        path = base / file
        source = load(read_text(path, "a rollout plan"), environ, str(Path(document.name).parent / file))
    except ConfigError as error:
        first = error.problems[0]
        if first.line == 1 and first.message.startswith("cannot be read"):
            document.report(loc, f"{first.message}: relative paths are taken from the directory of this file")
        else:
            document.problems[loc] = first
        return None
    if not is_plan(source.data):
        document.report(loc, f"{file} holds no rollout plan: it needs stages, or plans by name")
        return None
    as_plans(source)
    data: Any = source.data
    plans = data["plans"] if isinstance(data["plans"], dict) else {}
    wanted = chosen or (next(iter(plans)) if len(plans) == 1 else str(loc[-1]))
    for key in data.keys() - {"plans"}:
        source.report((key,), "is not known here: known are plans, signals, checks", at_key=True)
        document.problems[*loc, key] = source.problems[key,]
    if not isinstance(plans.get(wanted), dict):
        names = ", ".join(plans) or "none"
        cure = f": write {file}#{next(iter(plans))}" if plans else ""
        document.report(loc, f"{file} has no plan {wanted} (it has {names}){cure}")
        return None
    plan: dict[str, Any] = plans[wanted]
    for path_loc in [path for path in document.places if path[: len(loc)] == loc]:
        del document.places[path_loc]
    document.graft(loc, source, ("plans", wanted))
    _anchor(plan, path.absolute().parent)
    return plan


def _anchor(plan: dict[str, Any], base: Path) -> None:
    """Make the relative paths of a plan absolute: it will stand in another directory's file."""
    hooks, checks = plan.get("hooks"), plan.get("checks")
    for hook in hooks.values() if isinstance(hooks, dict) else ():
        if isinstance(hook, dict) and "run" in hook and isinstance(hook.get("cwd", "."), str):
            hook["cwd"] = str(base / hook.get("cwd", "."))
    for check in checks.values() if isinstance(checks, dict) else ():
        if isinstance(check, dict) and isinstance(check.get("file"), str) and check["file"]:
            check["file"] = str(base / check["file"])
