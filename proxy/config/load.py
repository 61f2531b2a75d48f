"""Text to plain data, with the position of every key and value.

PyYAML's `compose` gives nodes with their positions; this file turns them into dicts, lists and scalars and keeps
a `Place` for every key path, so that whatever is wrong later can be shown as `FILE:LINE:COLUMN: key.path`.

Rules:
* Scalars are read by YAML 1.2's plain rules: `true`/`false`, whole numbers, decimals, null. No dates, no octal,
  no `12:30` as a number in base 60. A bare `yes`, `no`, `on`, `off` stays a `Bare` text, which the model refuses
  everywhere: other YAML readers take it for a boolean.
* `${NAME}` and `${NAME:-default}` are replaced inside values after the YAML was read, so that a variable's text can
  never become structure; `$${` stands for `${`. What is shown of a value in an error is the text of the file, never
  the text of the variable: it may be a secret. A user name and password in a URL are never shown either.
* A key that stands twice is refused. Anchors, aliases and `<<` work; other tags are refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import yaml

from proxy.errors import ConfigError, Problem

Loc = tuple[str | int, ...]
MAX_NODES = 100_000  # aliases can make a small text a huge tree
SHOWN_MAX = 60
_VARIABLE = re.compile(r"\$(\$?)\{([^}]*)(\}?)")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_INT = re.compile(r"[-+]?(?:0|[1-9][0-9]*)", re.ASCII)
_FLOAT = re.compile(r"[-+]?(?:0|[1-9][0-9]*)?\.[0-9]+(?:[eE][-+]?[0-9]+)?", re.ASCII)
_PASSWORD = re.compile(r"//[^/]*@")
_BARE = {"yes", "no", "on", "off"}
_TAG = "tag:yaml.org,2002:"
_PLAIN, _QUOTED, _MERGE = "plain", "quoted", _TAG + "merge"
_TAGS = {_PLAIN, _QUOTED, _MERGE, _TAG + "str", _TAG + "map", _TAG + "seq"}


class _Loader(yaml.SafeLoader):
    """PyYAML without its YAML 1.1 guesses: a scalar's tag says only whether it had quotes."""

    def resolve(self, kind: type[yaml.Node], value: Any, implicit: Any) -> Any:
        if kind is not yaml.ScalarNode:
            return self.DEFAULT_SEQUENCE_TAG if kind is yaml.SequenceNode else self.DEFAULT_MAPPING_TAG
        if not implicit[0]:
            return _QUOTED
        return _MERGE if value == "<<" else _PLAIN


class Bare(str):
    """A `yes`, `no`, `on` or `off` without quotes."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Place:
    """Where a key and its value stand, counted from 1. `shown` is the value as the file has it (scalars only).

    `file`: the file, where it is not the document's own.
    """

    key: str
    key_line: int
    key_column: int
    line: int
    column: int
    shown: str | None = None
    file: str = ""


@dataclass(slots=True)
class Document:
    """Plain data, the place of every key path in it, and what is already known to be wrong, by path.

    `warnings`: what is right and yet may surprise. `expanded`: the paths whose value holds an environment variable.
    `metrics`: the names that limits below a path may use.
    """

    name: str
    data: object = None
    places: dict[Loc, Place] = field(default_factory=dict)
    problems: dict[Loc, Problem] = field(default_factory=dict)
    warnings: list[Problem] = field(default_factory=list)
    expanded: set[Loc] = field(default_factory=set)
    metrics: dict[Loc, tuple[str, ...]] = field(default_factory=dict)

    def place(self, loc: Loc) -> Place:
        """Return the place of `loc`, or of what surrounds it."""
        while loc not in self.places:
            loc = loc[:-1]
        return self.places[loc]

    def same(self, loc: Loc, source: Loc) -> None:
        """Let `loc`, which the text does not have, stand where `source` stands."""
        self.places[loc] = self.places[source]
        if source in self.expanded:
            self.expanded.add(loc)

    def report(self, loc: Loc, message: str, *, at_key: bool = False) -> None:
        """Note a problem at `loc`; what is wrong around or at the same path already is enough."""
        if any(loc[:length] in self.problems for length in range(1, len(loc) + 1)):
            return
        self.problems[loc] = self._problem(loc, message, at_key=at_key)

    def warn(self, loc: Loc, message: str) -> None:
        """Note what may surprise at `loc`."""
        self.warnings.append(self._problem(loc, message, at_key=False))

    def graft(self, loc: Loc, source: Document, inner: Loc) -> None:
        """Let `loc` and all below it stand where `inner` of another document stands, with what is wrong there.

        What has a place already keeps it.
        """
        file = "" if source is self else source.name
        for path, place in list(source.places.items()):
            if path[: len(inner)] == inner:
                self.places.setdefault((*loc, *path[len(inner) :]), replace(place, file=place.file or file))
        for path, problem in list(source.problems.items()):
            if path[: len(inner)] == inner:
                self.problems.setdefault((*loc, *path[len(inner) :]), problem)
        self.expanded |= {(*loc, *path[len(inner) :]) for path in source.expanded if path[: len(inner)] == inner}

    def error(self) -> ConfigError:
        """Return all problems in the order of the text, those of other files after those of its own."""
        return ConfigError(self.in_order(self.problems.values()))

    def in_order(self, problems: Iterable[Problem]) -> list[Problem]:
        """Return problems or warnings, each once, in the order of the text."""
        return sorted(
            dict.fromkeys(problems),
            key=lambda problem: (problem.file != self.name, problem.file, problem.line, problem.column),
        )

    def _problem(self, loc: Loc, message: str, *, at_key: bool) -> Problem:
        place = self.place(loc)
        line, column = (place.key_line, place.key_column) if at_key else (place.line, place.column)
        return Problem(path_text(loc, self.places), message, place.file or self.name, line, column)


def path_text(loc: Loc, places: Mapping[Loc, Place]) -> str:
    """Return `services[0].limits[1].max` for a path; a place may know a better text (short forms)."""
    if loc in places:
        return places[loc].key
    if not loc:
        return ""
    return join(path_text(loc[:-1], places), loc[-1])


def join(path: str, part: str | int) -> str:
    """Return `path` with one more key or index."""
    if isinstance(part, int):
        return f"{path}[{part}]"
    return f"{path}.{part}" if path else part


def load(text: str, environ: Mapping[str, str], name: str) -> Document:
    """Return the document of a YAML text; raise `ConfigError` at once where the text is no YAML."""
    document = Document(name)
    document.places[()] = Place("", 1, 1, 1, 1)
    try:
        node = yaml.compose(text, Loader=_Loader)
        if node is not None:
            document.data = _Builder(document, environ).build(node, (), "", node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        raise ConfigError([_no_yaml(error, text, name, line, column)]) from None
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        line, column = before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1
        what = f"the character U+{ord(text[error.position]):04X} is not allowed: remove it"
        raise ConfigError([Problem("", what, name, line, column)]) from None
    except RecursionError:
        raise ConfigError([Problem("", "is nested too deeply", name, 1, 1)]) from None
    return document


def _no_yaml(error: yaml.MarkedYAMLError, text: str, name: str, line: int, column: int) -> Problem:
    """Return what is wrong where the text is no YAML: between [] and {} a `${…}` without quotes begins a mapping."""
    before = "".join(text.splitlines(keepends=True)[line - 1 : line])
    variable = _VARIABLE.match(before, column - 2) if column > 1 else None
    if variable is not None:
        cure = f'write "{variable[0]}"' if variable[3] else 'write "${NAME}"'
        return Problem("", f"has a variable without quotes between [] or {{}}: {cure}", name, line, column - 1)
    what = " ".join(part for part in (error.context, error.problem) if part)
    return Problem("", f"is not YAML here: {what}", name, line, column)


def from_body(data: object) -> Document:
    """Return the document of a request's body, which has no lines and columns."""
    document = Document("", data)
    document.places[()] = Place("", 0, 0, 0, 0)
    _place_values(document, data, (), "")
    return document


def plain(text: str) -> object:
    """Return what a scalar without quotes means."""
    if text in {"", "~", "null", "Null", "NULL"}:
        return None
    if text.lower() in {"true", "false"}:
        return text.lower() == "true"
    if _INT.fullmatch(text) and len(text) < 20:
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    return Bare(text) if text.lower() in _BARE else text


class _Builder:
    """Walks the nodes once and fills a document."""

    def __init__(self, document: Document, environ: Mapping[str, str]) -> None:
        self.document = document
        self.environ = environ
        self.nodes = 0
        self.open: set[int] = set()  # collections that are being walked: an alias to one of them has no end

    def build(self, node: yaml.Node, loc: Loc, key: str, key_node: yaml.Node) -> object:
        self._count(node, key)
        self.document.places[loc] = _place(node, key, key_node)
        if node.tag not in _TAGS:
            self.document.report(loc, f"has the YAML tag {node.tag}: write the plain value")
            return None
        if isinstance(node, yaml.ScalarNode):
            return self.scalar(node, loc)
        if id(node) in self.open:
            raise ConfigError([self._problem(node, key, "contains itself through an alias")])
        self.open.add(id(node))
        try:
            if isinstance(node, yaml.SequenceNode):
                return [
                    self.build(item, (*loc, index), join(key, index), item) for index, item in enumerate(node.value)
                ]
            return self.mapping(node, loc, key)
        finally:
            self.open.discard(id(node))

    def mapping(self, node: yaml.Node, loc: Loc, key: str, known: Iterable[str] = ()) -> dict[str, object]:
        """Return a mapping without the keys in `known`, which stand in the one that this is merged into."""
        data: dict[str, object] = {}
        seen: dict[str, yaml.Node] = {}
        merged: list[yaml.Node] = []
        for name_node, value_node in node.value:
            if not isinstance(name_node, yaml.ScalarNode):
                self.document.problems[(*loc, str(name_node.start_mark.index))] = self._problem(
                    name_node, key, "has a key that is no word: write plain words as keys"
                )
                continue
            name = name_node.value
            path = (*loc, name)
            if name_node.tag == _MERGE:
                merged += value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node]
            elif name in seen:
                first = seen[name].start_mark.line + 1
                self.document.problems[(*path, str(name_node.start_mark.index))] = self._problem(
                    name_node, join(key, name), f"stands twice: the first one is in line {first}, remove one of them"
                )
            else:
                seen[name] = name_node
                if name not in known:
                    data[name] = self.build(value_node, path, join(key, name), name_node)
        for source in merged:
            data |= self.merge(source, loc, key, {*known, *data})
        return data

    def merge(self, source: yaml.Node, loc: Loc, key: str, known: Iterable[str]) -> dict[str, object]:
        """Return what `<<` brings in beside the keys that are known: those of the mapping itself win."""
        self._count(source, key)
        if not isinstance(source, yaml.MappingNode) or id(source) in self.open:
            self.document.report((*loc, "<<"), "merges something that is no mapping")
            return {}
        self.open.add(id(source))
        data = self.mapping(source, loc, key, known)
        self.open.discard(id(source))
        return data

    def scalar(self, node: yaml.ScalarNode, loc: Loc) -> object:
        text = self.expand(node, loc)
        if node.tag != _PLAIN:
            return text
        # A variable that is set to nothing is an empty text, not a missing value.
        return "" if not text and node.value else plain(text)

    def expand(self, node: yaml.ScalarNode, loc: Loc) -> str:
        """Return the scalar's text with its variables replaced; report those that have no value."""

        def replace(found: re.Match[str]) -> str:
            escaped, inside, closed = found.groups()
            if escaped:
                return found[0][1:]
            name, has_default, default = inside.partition(":-")
            if not closed or not _NAME.fullmatch(name):
                self.document.report(loc, "holds a ${ that names no variable: write ${NAME} or $${ for the text itself")
                return ""
            if has_default:
                return self.environ.get(name) or default
            if name not in self.environ:
                cure = f"set it, or give it a default as in ${{{name}:-value}}"
                self.document.report(loc, f"the environment variable {name} is not set: {cure}")
                return ""
            return self.environ[name]

        if "${" not in node.value:
            return str(node.value)
        self.document.expanded.add(loc)
        return _VARIABLE.sub(replace, node.value)

    def _count(self, node: yaml.Node, key: str) -> None:
        self.nodes += 1
        if self.nodes > MAX_NODES:
            raise ConfigError([self._problem(node, key, f"has more than {MAX_NODES} values")])

    def _problem(self, node: yaml.Node, key: str, message: str) -> Problem:
        return Problem(key, message, self.document.name, node.start_mark.line + 1, node.start_mark.column + 1)


def _place(node: yaml.Node, key: str, key_node: yaml.Node) -> Place:
    shown = _shown(node.value) if isinstance(node, yaml.ScalarNode) else None
    at, value = key_node.start_mark, node.start_mark
    return Place(key, at.line + 1, at.column + 1, value.line + 1, value.column + 1, shown)


def _place_values(document: Document, data: object, loc: Loc, key: str) -> None:
    shown = data if isinstance(data, str) else json.dumps(data) if isinstance(data, int | float) else None
    document.places[loc] = Place(key, 0, 0, 0, 0, None if shown is None else _shown(shown))
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for part, value in items:
        _place_values(document, value, (*loc, part), join(key, part))


def _shown(text: str) -> str:
    short = text if len(text) <= SHOWN_MAX else text[:SHOWN_MAX] + "…"
    return _PASSWORD.sub("//***@", "".join(character if character.isprintable() else "�" for character in short))
