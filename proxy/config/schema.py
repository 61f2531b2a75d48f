"""Data against the model: pydantic's errors become sentences with a place and a cure.

Pydantic finds every wrong value in one pass; this file says it in the words of the config. What is shown of a value
is the text of the file (`Place.shown`), and of a secret nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal, TypeVar, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from proxy.config.load import Bare, Document, Loc
from proxy.config.model import Config
from proxy.config.stages import PlanConfig
from proxy.config.units import format_duration, format_size
from proxy.config.values import Section

Model = TypeVar("Model", bound=Section)
SECRETS = {"token"}
EMPTY = "is empty: give it a value or remove the key"
_BOUNDS = {
    "greater_than": ("gt", "above"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "below"),
    "less_than_equal": ("le", "at most"),
}


def validate(document: Document, root: type[Model]) -> Model | None:
    """Return the document as a `root`, or `None` after everything wrong was reported to it."""
    try:
        model = root.model_validate(document.data)
    except ValidationError as error:
        details = error.errors(include_url=False)
        meant = {
            (*detail["loc"][:-1], _meant(root, detail["loc"]))
            for detail in details
            if detail["type"] == "extra_forbidden"
        }
        for detail in details:
            if detail["type"] != "missing" or detail["loc"] not in meant:  # else it is there, misspelt
                _report(document, root, detail)
        model = None
    _report_unclear(document, (), document.data)
    return model


@dataclass(frozen=True, slots=True)
class _Mistake:
    """One of pydantic's errors: where, the value, and what its kind says beside."""

    document: Document
    root: type[Section]
    loc: Loc
    kind: str
    value: object
    context: dict[str, Any]
    text: str

    @property
    def shown(self) -> str:
        """The value as the file has it, in quotes and with a space after it; nothing for a secret."""
        return "" if self.raw is None else f'"{self.raw}" '

    @property
    def raw(self) -> str | None:
        """The value as the file has it; `None` for a secret or a collection."""
        return None if self.loc[-1] in SECRETS else self.document.place(self.loc).shown


def _report(document: Document, root: type[Section], detail: ErrorDetails) -> None:
    loc, kind, value = detail["loc"], detail["type"], detail["input"]
    if kind == "missing":
        document.report(loc, "is missing" + _about(root, loc))
    elif kind == "extra_forbidden":
        document.report(loc, _unknown_key(root, loc), at_key=True)
    elif kind == "unknown_metric":
        short = document.place(loc).key.endswith(f".{value}")
        shown = value if short else document.place(loc).shown
        define = "; or define it under signals or checks" if "stages" in loc else ""
        document.report(loc, _unknown_metric(value, shown, _metrics(document, loc)) + define, at_key=short)
    elif loc[-1:] == ("[key]",):  # the name of an entry, such as that of a signal
        why = detail.get("ctx", {}).get("error", detail["msg"])
        document.report(loc[:-1], f'"{value}" {why}', at_key=True)
    else:
        mistake = _Mistake(document, root, loc, kind, value, detail.get("ctx", {}), detail["msg"])
        document.report(loc, _wrong_value(mistake))


def _wrong_value(mistake: _Mistake) -> str:
    """Return the sentence about a wrong value: first what holds for every key, then by pydantic's kind of error."""
    value, kind = mistake.value, mistake.kind
    if kind == "whole":  # a validator of `model` has said it all
        return mistake.text
    if value is None:
        return EMPTY
    if isinstance(value, dict | list) and kind not in _ABOUT_COLLECTIONS:
        return f"is {'a mapping' if isinstance(value, dict) else 'a list'} here, but takes one value"
    return _SENTENCES[kind](mistake) if kind in _SENTENCES else f"{mistake.shown}is not right: {mistake.text.lower()}"


def _out_of_bounds(mistake: _Mistake) -> str:
    name, words = _BOUNDS[mistake.kind]
    return f"must be {words} {_bound(mistake.document, mistake.loc, mistake.context[name])}"


def _unknown_word(mistake: _Mistake) -> str:
    options = _options(mistake.root, mistake.loc)
    if isinstance(mistake.value, Bare):
        return f"{_bare(mistake.value)}; the words are {', '.join(options)}"
    return f"{mistake.shown}is not known here: {_choose(mistake.value, options)}"


def _no_text(mistake: _Mistake) -> str:
    if isinstance(mistake.value, Bare):
        return _bare(mistake.value)
    what = "a boolean" if isinstance(mistake.value, bool) else "a number"
    if mistake.raw is None:
        return f"is {what} to YAML: put it in quotes"
    return f'{mistake.raw} is {what} to YAML: write "{mistake.raw}"'


def _refused(mistake: _Mistake) -> str:
    error = mistake.context["error"]
    return error.what if mistake.loc in mistake.document.expanded else str(error)


def _bare(value: Bare) -> str:
    return f'{value} without quotes is a boolean to many YAML readers: write "{value}" if you mean the text'


def _no_integer(mistake: _Mistake) -> str:
    return f"{mistake.shown}is not a whole number" + (": remove the quotes" if str(mistake.value).isdecimal() else "")


_SENTENCES: dict[str, Callable[[_Mistake], str]] = {
    **dict.fromkeys(_BOUNDS, _out_of_bounds),
    **dict.fromkeys(
        ("model_type", "model_attributes_type", "dict_type"), lambda mistake: _not_a_mapping(mistake.root, mistake.loc)
    ),
    **dict.fromkeys(("text_expected", "string_type"), _no_text),
    **dict.fromkeys(("int_type", "int_from_float"), _no_integer),
    "too_short": lambda mistake: f"is empty: it needs at least {mistake.context['min_length']}",
    "list_type": lambda _: "must be a list: write [first, second], or one per line with - before it",
    "value_error": lambda mistake: mistake.shown + _refused(mistake),
    "literal_error": _unknown_word,
    "bool_type": lambda mistake: f"{mistake.shown}is neither true nor false: write one of them, without quotes",
}
_ABOUT_COLLECTIONS = {"model_type", "model_attributes_type", "dict_type", "list_type", "too_short"}


def _not_a_mapping(root: type[Section], loc: Loc) -> str:
    section = section_at(root, loc)
    if section is None:
        return "must be a mapping of names"
    return f"must be a mapping with keys such as {', '.join(_keys(section)[:4])}"


def _unknown_key(root: type[Section], loc: Loc) -> str:
    section = section_at(root, loc[:-1])
    if section is None:
        return "is not known"
    if section is Config and loc[-1] in PlanConfig.model_fields:
        return "belongs to a rollout plan, which is a file of its own"
    return f"is not known here: {_choose(loc[-1], _keys(section))}"


def _unknown_metric(value: object, shown: object, known: Sequence[str]) -> str:
    return f'"{shown}" is not a metric: {_choose(value, known)}'


def _metrics(document: Document, loc: Loc) -> tuple[str, ...]:
    """Return the names that the limit at a path could have."""
    return next((document.metrics[loc[:end]] for end in range(len(loc), 0, -1) if loc[:end] in document.metrics), ())


def _meant(root: type[Section], loc: Loc) -> str | None:
    """Return the key that an unknown one was probably meant to be."""
    section = section_at(root, loc[:-1])
    return _closest(loc[-1], _keys(section)) if section else None


def _about(root: type[Section], loc: Loc) -> str:
    section = section_at(root, loc[:-1])
    description = field_of(section, loc[-1]).description if section else ""
    return f": {description}" if description else ""


def _bound(document: Document, loc: Loc, bound: float) -> str:
    """Return a bound in the notation of the value that passed it."""
    shown = document.place(loc).shown or ""
    if shown.endswith("iB"):
        return format_size(int(bound))
    if bound and shown[-1:].isalpha():
        return format_duration(float(bound))
    return f"{bound:g}"


def _keys(section: type[Section]) -> list[str]:
    """Return the keys of a section."""
    return [field.alias or name for name, field in section.model_fields.items()]


def _options(root: type[Section], loc: Loc) -> tuple[str, ...]:
    """Return the words that a key takes, if it takes only some."""
    end = len(loc) - 1 if isinstance(loc[-1], str) else len(loc) - 2
    section = section_at(root, loc[:end])
    return tuple(_literals(field_of(section, loc[end]).annotation)) if section else ()


def _literals(annotation: Any) -> Iterable[str]:
    if get_origin(annotation) is Literal:
        yield from get_args(annotation)
    else:
        for argument in get_args(annotation):
            yield from _literals(argument)


def _choose(value: object, options: Sequence[str]) -> str:
    """Return the word that was probably meant, and all that are known."""
    close, known = _closest(value, options), ", ".join(options)
    return f"did you mean {close}? (known: {known})" if close else f"known are {known}"


def _closest(value: object, options: Sequence[str]) -> str | None:
    return next(iter(get_close_matches(str(value).lower(), options, n=1)), None)


def _report_unclear(document: Document, loc: Loc, value: object) -> None:
    """Report every key without a value and every bare yes/no/on/off that the model took for a text."""
    if isinstance(value, dict):
        for key, item in value.items():
            _report_unclear(document, (*loc, key), item)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _report_unclear(document, (*loc, index), item)
    elif isinstance(value, Bare):
        document.report(loc, _bare(value))
    elif value is None:
        document.report(loc, EMPTY)


def field_of(section: type[Section], key: object) -> FieldInfo:
    """Return the field that a key of a section stands for."""
    return next(field for name, field in section.model_fields.items() if (field.alias or name) == key)


def section_at(root: type[Section], loc: Loc) -> type[Section] | None:
    """Return the model of the mapping at a path, `None` if there is none (a value, or a mapping by names)."""
    kind: Any = root
    for part in loc:
        section = _section(kind)
        if section is not None:
            keys = {field.alias or name: field.annotation for name, field in section.model_fields.items()}
            if part not in keys:
                return None
            kind = keys[str(part)]
        else:
            kind = _item(kind)
    return _section(kind)


def sections_in(annotation: Any) -> Iterator[type[Section]]:
    """Yield the models inside a type such as `list[Model] | None`."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation
    for argument in get_args(annotation):
        yield from sections_in(argument)


def _section(kind: Any) -> type[Section] | None:
    """Return the model that a type is, itself or else `None`."""
    if isinstance(kind, type) and issubclass(kind, Section):
        return kind
    if get_origin(kind) in (list, dict):
        return None
    return next((kind for kind in get_args(kind) if isinstance(kind, type) and issubclass(kind, Section)), None)


def _item(kind: Any) -> Any:
    """Return the type of what a list or a mapping by names holds."""
    if get_origin(kind) in (list, dict):
        return get_args(kind)[-1]
    return next((item for argument in get_args(kind) if (item := _item(argument)) is not None), None)
