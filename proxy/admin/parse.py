"""Strict reading of what operators send: JSON bodies, query parameters, If-Match.

Nothing is guessed and nothing is clamped. A body that says a key twice, or `NaN`, has two meanings depending on
who reads it (RFC 8259 section 4 leaves it open), so it is refused; an unknown key or parameter is refused with the
known ones, because a mistyped `dry_run` must not move traffic.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from difflib import get_close_matches
from math import isfinite
from typing import Any, NoReturn, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from proxy.errors import Problem, Refused

FULL_PERCENT = 100
BUCKETS_PER_PERCENT = 100
BUCKET = Decimal("0.01")  # percent
UNMATCHED = -1  # a revision that no service ever has

# What pydantic says of these names its own types and no way out.
_SENTENCES = {
    "missing": "is missing",
    "model_type": "must be a JSON object",
    "string_type": "must be a text in quotes",
    "bool_type": "must be true or false, without quotes",
    "list_type": "must be a list in square brackets",
    "literal_error": "must be {expected}",
    "string_too_long": "must have at most {max_length} characters",
    "too_short": "must have at least {min_length} of them",
    "too_long": "must have at most {max_length} of them",
}

Model = TypeVar("Model", bound=BaseModel)


def refuse(problems: Iterable[Problem], what: str = "the request is not valid; nothing was changed") -> NoReturn:
    """Raise the 400 that names the fields at fault."""
    raise Refused(400, "RequestInvalid", what, problems=tuple(problems))


@dataclass(frozen=True, slots=True)
class Body:
    """The bytes of a request's body and whether their declared type is the expected one."""

    raw: bytes
    typed: bool

    def read(self, kind: type[Model]) -> Model:
        """Return the body as a `kind`; an empty one is an empty object."""
        try:
            return kind.model_validate(self.json() if self.raw.strip() else {})
        except ValidationError as error:
            known = list(kind.model_fields)
            refuse(_problem(item, known) for item in error.errors())

    def json(self) -> Any:
        """Return the body's JSON; numbers with a point or an exponent come as `Decimal`."""
        try:
            return json.loads(
                self.raw.decode("utf-8"),
                object_pairs_hook=_unique,
                parse_float=Decimal,
                parse_constant=_refuse_constant,
            )
        except (ValueError, RecursionError) as error:
            reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
            refuse([Problem("", f"not a JSON text in UTF-8: {reason}")])


def weight_bp(percent: Any, key: str) -> int:
    """Return a weight in percent (0…100, at most two decimals) as 1/10,000."""
    if isinstance(percent, bool) or not isinstance(percent, int | Decimal):
        refuse([Problem(key, "must be a number: percent from 0 to 100")])
    if not 0 <= percent <= FULL_PERCENT:
        refuse([Problem(key, "must be from 0 to 100 percent")])
    rounded = Decimal(percent).quantize(BUCKET)
    if rounded != percent:
        refuse([Problem(key, "must have at most two decimals (one bucket is 0.01 percent)")])
    return int(rounded * BUCKETS_PER_PERCENT)


def part(value: Any, key: str) -> float:
    """Return one of two numbers that are normalised together: finite, not negative."""
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        refuse([Problem(key, "must be a number")])
    try:
        number = float(value)
    except OverflowError:
        number = float("inf")
    if not isfinite(number):
        refuse([Problem(key, "is too large")])
    if number < 0 or (number == 0 and value < 0):
        refuse([Problem(key, "must not be negative")])
    return number


def share_bp(stable: float, new: float) -> int:
    """Return the share of `new` of the sum, in 1/10,000, to the nearest bucket.

    A part above 0 gets at least one bucket, so that rounding neither shuts nor fully opens the gate.
    """
    larger = max(stable, new)
    if larger == 0:
        refuse([Problem("", "the two numbers must not both be 0")])
    bp = round(10_000 * (new / larger) / (stable / larger + new / larger))
    if new > 0 and bp == 0:
        return 1
    return 9_999 if stable > 0 and bp == 10_000 else bp


def if_match(values: Sequence[str], current: int) -> int | None:
    """Return the revision that If-Match names: `None` without one, `UNMATCHED` if it can match no revision.

    # > An origin server MUST use the strong comparison function when comparing entity tags for If-Match
    # > (RFC 9110 section 13.1.1)
    A weak tag or one that is not ours therefore matches nothing. Of a list, the current revision counts.
    """
    if not values:
        return None
    tags = [tag.strip() for value in values for tag in value.split(",")]
    if tags == ["*"]:
        return None
    revisions = [
        int(tag[1:-1]) for tag in tags if tag[:1] == tag[-1:] == '"' and tag[1:-1].isdecimal() and len(tag) < 20
    ]
    if not revisions:
        return UNMATCHED
    return current if current in revisions else revisions[0]


def boolean(text: str) -> bool:
    """Return `true` or `false`."""
    if text not in {"true", "false"}:
        raise ValueError("must be true or false")
    return text == "true"


def integer(text: str) -> int:
    """Return a number of at most 18 digits."""
    if not (text.isascii() and text.isdecimal()) or len(text) > 18:
        raise ValueError("must be a whole number, 0 or larger")
    return int(text)


def pair(text: str) -> tuple[str, str]:
    """Return NAME=VALUE as two strings."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise ValueError("must be NAME=VALUE")
    return name, value


def address(text: str) -> str:
    """Return an IPv4 or IPv6 address in its canonical form."""
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise ValueError("must be an IPv4 or IPv6 address") from None


def mapping(pairs: Iterable[tuple[str, str]], key: str) -> dict[str, str]:
    """Return pairs as a mapping; a name that comes twice is refused."""
    found: dict[str, str] = {}
    for name, value in pairs:
        if name in found:
            refuse([Problem(key, f"{name!r} is given twice")])
        found[name] = value
    return found


def unknown(key: str, known: Iterable[str]) -> str:
    """Return the sentence about a key that does not exist here."""
    names = list(known)
    near = get_close_matches(key, names, n=1)
    if near:
        return f"is not known here: did you mean {near[0]}?"
    return f"is not known here: known are {', '.join(names)}" if names else "is not known here: nothing is"


def _problem(item: ErrorDetails, known: list[str]) -> Problem:
    key = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in item["loc"]).lstrip(".")
    if item["type"] == "extra_forbidden":
        return Problem(key, unknown(key, known))
    sentence = _SENTENCES.get(item["type"])
    if sentence is not None:
        return Problem(key, sentence.format(**item.get("ctx", {})))
    return Problem(key, item["msg"].removeprefix("Value error, "))


def _unique(pairs: list[tuple[str, Any]]) -> Mapping[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        refuse([Problem(twice, "is given twice")])
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")
