"""The kinds of values in a config: how each is written, read and written again.

They are types of pydantic fields: what a field takes, its bounds and how the documentation names it (`Notation`).
In memory: durations are seconds, shares 0…1, sizes bytes, weights 1/10,000.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
)
from pydantic_core import PydanticCustomError

from proxy.config.addresses import (
    parse_check_target,
    parse_endpoint,
    parse_field_name,
    parse_listen,
    parse_match_host,
    parse_match_path,
    parse_network,
    parse_upstream_host,
    parse_url,
)
from proxy.config.load import Bare
from proxy.config.units import (
    format_duration,
    format_share,
    format_size,
    format_weight,
    parse_duration,
    parse_share,
    parse_size,
    parse_weight,
)
from proxy.config.wrong import WrongValue

WORKERS_MAX = 256
# RFC 9110 §7.6.1, and all that begins with proxy-.
HOP_BY_HOP = frozenset({"connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"})
_NAME_MAX = 63
_PATTERN_MAX = 200
_METRIC = re.compile(r"[a-z][a-z0-9_]*", re.ASCII)
_JSON_STEP = re.compile(r"""\.([A-Za-z_][\w-]*)|\[(\d{1,6})\]|\[("[^"]+"|'[^']+')\]""", re.ASCII)


def _text(parse: Callable[[str], Any]) -> BeforeValidator:
    """Return a validator that lets `parse` see texts only; other scalars get their own message in `schema`."""

    def validate(value: object) -> Any:
        if not isinstance(value, str) or isinstance(value, Bare):
            raise PydanticCustomError("text_expected", "must be text")
        return parse(value)

    return BeforeValidator(validate)


def _or_none(parse: Callable[[object], Any]) -> BeforeValidator:
    return BeforeValidator(lambda value: None if value in (None, "none") else parse(value))


def _write(write: Callable[[Any], str]) -> PlainSerializer:
    return PlainSerializer(lambda value: "none" if value is None else write(value))


def _name(text: str) -> str:
    inner = text.strip("-")
    plain = inner == text and text.isascii() and text.replace("-", "").isalnum() and text == text.lower()
    if not plain or len(text) > _NAME_MAX:
        raise WrongValue("is not a name", "lower-case letters, digits and - inside, at most 63 characters")
    return text


def _label(text: str) -> str:
    if not text.isascii() or not text.isprintable() or text != text.strip() or len(text) > _NAME_MAX:
        raise WrongValue("is not a label", "printable ASCII without spaces around it, at most 63 characters")
    return text


def _token(text: str) -> str:
    if not text.isascii() or not text.isprintable() or " " in text:
        raise WrongValue("holds a space or a character that no HTTP header can carry")
    return text


def _path(text: str) -> str:
    if not text.strip() or not text.isprintable():
        raise WrongValue("is not a path")
    return text


def _salt(text: str) -> str:
    if not text.strip() or len(text) > 200:
        raise WrongValue("is not a salt", "write rollout or a fixed text of at most 200 characters")
    return text


def _signal_header(text: str) -> str:
    name = parse_field_name(text)
    if name in HOP_BY_HOP or name.startswith("proxy-"):
        cure = "take a header that says something about the answer, such as x-cache"
        raise WrongValue("is hop-by-hop: it belongs to the connection and says nothing about the answer", cure)
    return name


def _metric_name(text: str) -> str:
    if not _METRIC.fullmatch(text) or len(text) > _NAME_MAX:
        raise WrongValue("is not a metric's name", "lower-case letters, digits and _ only, such as cache_hit_rate")
    return text


def _pattern(text: str) -> str:
    if not text or len(text) > _PATTERN_MAX:
        raise WrongValue(f"is not a pattern of 1 to {_PATTERN_MAX} characters")
    try:
        re.compile(text)
    except re.error as error:
        raise WrongValue(f"is no regular expression ({error.msg})", "write it like ^HIT, in quotes") from None
    return text


def _argument(text: str) -> str:
    if "\0" in text:
        raise WrongValue("holds a NUL")
    return text


def _ratio(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise WrongValue("is not a ratio", "write a number, such as 1.2 for 20% more than stable, 0.6 for 40% less")
    return float(value)


def parse_json_path(text: str) -> tuple[str | int, ...]:
    """Return the keys and indexes of a path such as `$.memory[0].rss` or `$["resident set"]`."""
    cure = "write it like $.memory.rss, $[0] or $['resident set']"
    if not text.startswith("$"):
        raise WrongValue("does not begin with $", cure)
    parts: list[str | int] = []
    at = 1
    while at < len(text):
        found = _JSON_STEP.match(text, at)
        if found is None:
            raise WrongValue("is not a JSON path", cure)
        name, index, quoted = found.groups()
        parts.append(int(index) if index is not None else name if name is not None else quoted[1:-1])
        at = found.end()
    return tuple(parts)


def none_for(value: object) -> object:
    """Return a section's value, `None` for the word none."""
    return None if value == "none" else value


def hide_query(url: str | None) -> str | None:
    """Return a URL without the text of its query, which may hold a secret."""
    return None if url is None else url.partition("?")[0] + ("?***" if "?" in url else "")


def hide_path(url: str | None) -> str | None:
    """Return a URL without the text of its path and query: with some services the path itself is the secret."""
    if url is None:
        return None
    scheme, _, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host}{slash}{'***' if path else ''}"


def _server_name(text: str) -> str:
    if ":" in text and not text.startswith("["):
        raise WrongValue("has a port", "write the name alone: it is compared with the certificate")
    return parse_upstream_host(text).strip("[]")


def _listen(value: object) -> str:
    if not isinstance(value, str) or isinstance(value, Bare):
        if isinstance(value, int) and not isinstance(value, bool):
            raise WrongValue("is a port without an address", f"write 0.0.0.0:{value}")
        raise PydanticCustomError("text_expected", "must be text")
    return parse_listen(value)


def _workers(value: object) -> object:
    if value == "auto" or (isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= WORKERS_MAX):
        return value
    raise WrongValue(f"is neither auto nor a whole number from 1 to {WORKERS_MAX}")


@dataclass(frozen=True, slots=True)
class Notation:
    """What a value looks like, for the documentation."""

    text: str


Duration = Annotated[float, Notation("duration"), BeforeValidator(parse_duration), _write(format_duration)]
Wait = Annotated[Duration, Field(gt=0)]
DurationOrKeep = Annotated[
    float | None,
    Notation("duration or keep"),
    BeforeValidator(lambda value: None if value == "keep" else parse_duration(value)),
    PlainSerializer(lambda value: "keep" if value is None else format_duration(value)),
]
WaitOrNone = Annotated[
    Annotated[float, Field(gt=0)] | None,
    Notation("duration or none"),
    _or_none(parse_duration),
    _write(format_duration),
]
Share = Annotated[float, Notation("share"), BeforeValidator(parse_share), _write(format_share)]
Weight = Annotated[int, Notation("weight"), BeforeValidator(parse_weight), _write(format_weight)]
Size = Annotated[int, Notation("size"), BeforeValidator(parse_size), _write(format_size)]
SizeOrNone = Annotated[int | None, Notation("size or none"), _or_none(parse_size), _write(format_size)]
Workers = Annotated[
    int | Literal["auto"], Notation(f"auto, or a number from 1 to {WORKERS_MAX}"), BeforeValidator(_workers)
]
Name = Annotated[str, Notation("name"), _text(_name)]
Label = Annotated[str, Notation("text"), _text(_label)]
Salt = Annotated[str, Notation("text"), _text(_salt)]
Secret = Annotated[str, Notation("text"), _text(_token)]
File = Annotated[str, Notation("path"), _text(_path)]
FileOrNone = Annotated[
    str | None, Notation("path or none"), _text(lambda text: None if text == "none" else _path(text)), _write(str)
]
Listen = Annotated[str, Notation("address"), BeforeValidator(_listen)]
EndpointUrl = Annotated[str, Notation("endpoint"), _text(lambda text: parse_endpoint(text).url)]
ServerName = Annotated[str, Notation("host"), _text(_server_name)]
Network = Annotated[str, Notation("network"), _text(parse_network)]
FieldName = Annotated[str, Notation("header name"), _text(parse_field_name)]
SignalHeader = Annotated[str, Notation("header name"), _text(_signal_header)]
MatchHost = Annotated[str, Notation("host"), _text(parse_match_host)]
CheckTarget = Annotated[str, Notation("path, with a query"), _text(parse_check_target)]
MatchPath = Annotated[str, Notation("path prefix"), _text(parse_match_path)]
Url = Annotated[str, Notation("URL"), _text(parse_url), PlainSerializer(hide_query)]
HookUrl = Annotated[str, Notation("URL"), _text(parse_url), PlainSerializer(hide_path)]
MetricName = Annotated[str, Notation("metric name"), _text(_metric_name)]
Pattern = Annotated[str, Notation("regular expression"), _text(_pattern)]
JsonPath = Annotated[str, Notation("JSON path"), _text(lambda text: text if parse_json_path(text) is not None else "")]
Ratio = Annotated[float, Notation("number"), Field(gt=0, le=1000), BeforeValidator(_ratio)]
Argument = Annotated[str, Notation("text"), _text(_argument)]
UpstreamHost = Annotated[str, Notation("preserve, endpoint or a host"), _text(parse_upstream_host)]


class Section(BaseModel):
    """A mapping of the config: unknown keys and wrong types are refused."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)
