"""The reference, generated from the models: `reference.yaml` of configs and of plans, `docs/reference/config.md`.

    python -m proxy.config.reference          write these files of the checkout

A key is documented once, by its description in `model`; a test fails when the files are older than the models.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import yaml
from annotated_types import Ge, Gt, Le
from pydantic import PlainSerializer
from pydantic.fields import FieldInfo

from proxy.config.limits import CheckConfig, LimitConfig, RequireConfig, SignalConfig
from proxy.config.model import AdminConfig, Config, EndpointTlsConfig, ListenerConfig, TokenConfig
from proxy.config.schema import sections_in
from proxy.config.stages import HookConfig, PlanConfig
from proxy.config.units import format_duration, format_size
from proxy.config.values import Notation, Section

ROOT = Path(__file__).parents[2]
# Keys that cannot stand there as they are, most because they exclude another one: shown as comments, so that the file
# stays a valid one. A section among them is shown by its example.
ALTERNATIVES: dict[type[Section], set[str]] = {
    TokenConfig: {"token_file"},
    # These name files that not everybody has.
    ListenerConfig: {"tls"},
    AdminConfig: {"tls"},
    EndpointTlsConfig: {"ca", "server_name", "cert", "key"},
    LimitConfig: {"min", "max_ratio", "floor"},
    RequireConfig: {"max", "max_ratio", "floor"},
    CheckConfig: {"file"},
    HookConfig: {"run", "cwd"},
}
# What an entry of a mapping by names is called.
NAMES: dict[type[Section], str] = {SignalConfig: "cache_hit_rate", CheckConfig: "memory_bytes"}
# The other hooks are of the same model as `before_start`.
_SAME_HOOKS = ("before_stage", "after_rollback", "after_complete")
PLAN_TITLE = "A rollout plan"
# What `stable` and `new`, two of the same model, are shown with.
NEW_VERSION = {"label": '"2.4.0"', "endpoints": "[http://127.0.0.1:9002]"}
COMMENT_COLUMN = 38
WIDTH = 120
YAML_HEAD = """\
# Every key of a config with its default, or an example where it has none.
# GENERATED from proxy/config/model.py by `python -m proxy.config.reference`: do not edit.
#
# Durations are a number and ms, s, m, h or d; shares and weights a number and %; sizes a number and KiB, MiB or GiB.
# ${NAME} and ${NAME:-default} take environment variables, $${ stands for ${ itself.
# `tidegate check FILE` names every mistake of a config with its line, column and cure.
"""
PLAN_HEAD = """\
# Every key of a rollout plan with its default, or an example where it has none.
# GENERATED from proxy/config/stages.py by `python -m proxy.config.reference`: do not edit.
#
# `tidegate check FILE` names every mistake, `tidegate plan FILE --rate 200` prints the timetable.
# A file can also hold several plans: `plans: {NAME: {stages: …}}`, with signals and checks beside them for all.
"""
MARKDOWN_HEAD = """\
# Config

<!-- Generated from proxy/config/model.py by `python -m proxy.config.reference`: do not edit. -->

One YAML file. [`config/reference.yaml`](../../config/reference.yaml) is this page as a file that runs;
`tidegate check FILE` names every mistake at once, as `FILE:LINE:COLUMN: key.path: message`.

* **duration**: one number and one unit of `ms s m h d`, such as `250ms`. **share**: a number and `%`, such as `0.5%`.
  **weight**: a share with at most two decimals. **size**: a number and `KiB`, `MiB` or `GiB`.
  A bare number is refused for each of them.
* **address**: `0.0.0.0:8080`, `[::]:8080` or `unix:/path`. A unix socket for clients has mode 0666, as with nginx: its
  folder says who may connect. That of the admin API has 0600. **endpoint**: `http://host[:port]`,
  `https://host[:port]` or `unix:/path`. **network**: an IP address or `10.0.0.0/8`. **path**: relative ones are taken
  from the directory of the file.
* `${NAME}` and `${NAME:-default}` take environment variables inside values; without a default the variable must
  be set. `$${` stands for `${` itself. What an error shows of a value is the text of the file, never the variable's.
* `true` and `false` are the only booleans. A bare `yes`, `no`, `on` or `off` is refused: put it in quotes.
* Anchors, aliases and `<<` work. A key that stands twice is refused.
* A rollout plan is a file of its own: [`config/rollouts/`](../../config/rollouts) holds examples,
  `tidegate plan FILE` prints its timetable.
* A stored weight wins over `split.new`. Changes of `listen`, `workers`, `state` and `admin` need a restart; other
  certificates do not.
"""


def texts() -> dict[str, str]:
    """Return every generated file: path below the checkout → text."""
    return {
        "config/reference.yaml": reference_yaml(),
        "config/rollouts/reference.yaml": plan_yaml(),
        "docs/reference/config.md": reference_markdown(),
    }


def reference_yaml() -> str:
    """Return `config/reference.yaml`."""
    return YAML_HEAD + "\n" + "\n".join(_section_yaml(Config, "", {})) + "\n"


def plan_yaml() -> str:
    """Return `config/rollouts/reference.yaml`."""
    return PLAN_HEAD + "\n" + "\n".join(_section_yaml(PlanConfig, "", {})) + "\n"


def reference_markdown() -> str:
    """Return `docs/reference/config.md`."""
    sections = (*_section_markdown(Config, ""), *_section_markdown(PlanConfig, PLAN_TITLE))
    return MARKDOWN_HEAD + "\n" + "\n".join(sections) + "\n"


def write(root: Path = ROOT) -> list[Path]:
    """Write all files below `root` and return their paths."""
    for name, text in texts().items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return [root / name for name in texts()]


def _section_yaml(section: type[Section], indent: str, values: Mapping[str, str]) -> Iterator[str]:
    for key, field in _fields(section):
        inner = _inner(field)
        hidden = "# " if key in ALTERNATIVES.get(section, ()) else ""
        if inner is None or inner is PlanConfig or hidden:
            yield from _commented(f"{indent}{hidden}{key}: {values.get(key) or _value(field)}", field.description)
            continue
        yield from _commented(f"{indent}{key}:", field.description)
        if get_origin(field.annotation) is list:
            lines = list(_section_yaml(inner, indent + "    ", {}))
            yield indent + "  - " + lines[0].removeprefix(indent + "    ")
            yield from lines[1:]
            yield from (f"{indent}  - {text}" for text in field.examples or ())
        elif get_origin(field.annotation) is dict:
            yield f"{indent}  {NAMES[inner]}:"
            yield from _section_yaml(inner, indent + "    ", {})
        else:
            yield from _section_yaml(inner, indent + "  ", NEW_VERSION if key == "new" else {})


def _commented(text: str, comment: str | None) -> Iterator[str]:
    """Yield a line with its comment to the right, continued below where it is long."""
    column = max(COMMENT_COLUMN, len(text) + 2)
    parts = textwrap.wrap(comment or "", WIDTH - column - 2)
    for part in parts:
        yield f"{text:<{column}}# {part}"
        text = ""


def _section_markdown(section: type[Section], title: str) -> Iterator[str]:
    shown = title if " " in title else f"`{title}`" if title else "Top level"
    if title.endswith("stable"):
        shown += f" and `{title.removesuffix('stable')}new`"
    yield f"## {shown}\n\n{inspect.cleandoc(section.__doc__ or '')}\n"
    yield "| key | takes | default | meaning |\n|---|---|---|---|"
    for key, field in _fields(section):
        default = "required" if field.is_required() else _default(field)
        meaning = (field.description or "").replace("|", "\\|")
        yield f"| `{key}` | {_takes(field)} | {default} | {meaning} |"
    yield ""
    prefix = "plan" if " " in title else title
    for key, field in _fields(section):
        inner = _inner(field)
        if inner is None or inner is PlanConfig or key in {"new", *_SAME_HOOKS}:
            continue
        kind = get_origin(field.annotation)
        suffix = "[]" if kind is list else ".NAME" if kind is dict else ""
        yield from _section_markdown(inner, f"{prefix}.{key}{suffix}".lstrip("."))


def _fields(section: type[Section]) -> Iterator[tuple[str, FieldInfo]]:
    for name, field in section.model_fields.items():
        yield field.alias or name, field


def _inner(field: FieldInfo) -> type[Section] | None:
    return next(sections_in(field.annotation), None)


def _value(field: FieldInfo) -> str:
    """Return a value as YAML: the example of a key whose default shows nothing, or the default."""
    return str(field.examples[0]) if field.examples else _yaml(_written(field, field.get_default()))


def _default(field: FieldInfo) -> str:
    default = field.get_default()
    if isinstance(default, Section):
        return ""
    if _inner(field) is not None and isinstance(default, list):
        default = [item.model_dump(mode="json") for item in default]
    text = _written(field, default)
    return "absent" if text is None else f"`{_yaml(text)}`"


def _written(field: FieldInfo, value: Any) -> Any:
    """Return a value in the notation of the file."""
    for item in field.metadata:
        if isinstance(item, PlainSerializer):
            return item.func(value)  # type: ignore[call-arg]
    return value


def _yaml(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("...\n").strip()


def _takes(field: FieldInfo) -> str:
    many = "list of " if get_origin(field.annotation) is list else ""
    inner = _inner(field)
    if inner is not None and get_origin(field.annotation) is dict:
        return "mappings by name"
    if inner is not None:
        return many + ("mappings" if many else "mapping")
    return many + (_notation(field.annotation, field.metadata) or "text") + _range(field.metadata)


def _notation(annotation: Any, metadata: Any) -> str:
    """Return how a value is written, from the `Notation` on its type or from the type itself."""
    for item in metadata:
        if isinstance(item, Notation):
            return item.text
    if get_origin(annotation) is Literal:
        return _words(get_args(annotation))
    if annotation in _SIMPLE:
        return _SIMPLE[annotation]
    texts = (_notation(part, getattr(part, "__metadata__", ())) for part in get_args(annotation))
    return next((text for text in texts if text), "")


_SIMPLE: dict[Any, str] = {bool: "`true` or `false`", int: "number"}


def _range(metadata: list[Any]) -> str:
    kind = next((item.text for item in metadata if isinstance(item, Notation)), "")
    write = {"duration": format_duration, "size": format_size}.get(kind, str)
    lowest = next((write(item.ge) for item in metadata if isinstance(item, Ge)), None)  # type: ignore[arg-type]
    highest = next((write(item.le) for item in metadata if isinstance(item, Le)), None)  # type: ignore[arg-type]
    if lowest is not None and highest is not None:
        return f", {lowest} … {highest}"
    return ", above 0" if any(isinstance(item, Gt) for item in metadata) else ""


def _words(words: Any) -> str:
    return ", ".join(f"`{word}`" for word in words)


if __name__ == "__main__":
    for path in write():
        print(path)  # noqa: T201
