"""Durations, shares, sizes and weights: text with a unit to numbers and back.

A config is read by people in a hurry: `timeout: 30` could be seconds or milliseconds, `max: 1` one per cent or all.
So every such value carries its unit, and a bare number is refused with the cure. `parse_…` raises `WrongValue`,
`format_…` gives the shortest text that `parse_…` reads back as the same number.
"""

from __future__ import annotations

import re
from decimal import Decimal

from proxy.config.wrong import WrongValue

DURATION_UNITS = {"ms": Decimal("0.001"), "s": Decimal(1), "m": Decimal(60), "h": Decimal(3600), "d": Decimal(86400)}
SIZE_UNITS = {"KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}
LONGEST_S = 366 * 86400  # no wait of a proxy is longer; a typo is
LARGEST = 1024**5
LEAST_MS = 100  # fewer milliseconds are hardly meant by a bare number
_QUANTITY = re.compile(r"(\d{1,18}(?:\.\d{1,18})?)\s*([A-Za-zµ%]*)", re.ASCII)
_FORGIVING = {"sec": "s", "secs": "s", "second": "s", "seconds": "s", "min": "m", "mins": "m", "minute": "m"}
_FORGIVING |= {"minutes": "m", "hour": "h", "hours": "h", "day": "d", "days": "d", "msec": "ms", "millis": "ms"}


def parse_duration(value: object, *, bare: str = "ms s") -> float:
    """Return seconds for a text such as `250ms`, `30s`, `5m`, `2h` or `1d`; `bare`: the units of the likelier cures."""
    number, unit = _split(value, "a duration", "ms, s, m, h or d", "30s", bare=bare)
    if unit not in DURATION_UNITS:
        right = _FORGIVING.get(unit.lower(), unit.lower())
        cure = f"{_plain(number)}{right}" if right in DURATION_UNITS else "30s"
        raise WrongValue("has an unknown unit (ms, s, m, h and d are known)", f"write {cure}")
    seconds = number * DURATION_UNITS[unit]
    if seconds > LONGEST_S:
        raise WrongValue("is longer than a year (366d)")
    return float(seconds)


def format_duration(seconds: float) -> str:
    """Return the text of `seconds` with the largest unit that needs no decimals."""
    exact = Decimal(repr(seconds))
    for unit in ("d", "h", "m", "s", "ms"):
        count = exact / DURATION_UNITS[unit]
        if exact and count == count.to_integral_value():
            return f"{_plain(count)}{unit}"
    return f"{_plain(exact)}s"


def parse_share(value: object) -> float:
    """Return a fraction 0…1 for a text such as `1%` or `0.05%`."""
    number, unit = _split(value, "a share", "%", "1%", bare="%")
    if unit != "%":
        raise WrongValue("is not a share", "write a number and %, such as 1%")
    if number > 100:
        raise WrongValue("is above 100%")
    return float(number / 100)


def format_share(share: float) -> str:
    """Return the text of a fraction 0…1, such as `0.05%`."""
    return f"{_plain(Decimal(repr(share)) * 100)}%"


def parse_weight(value: object) -> int:
    """Return 1/10,000 (0…10,000) for a text such as `10%` or `0.25%`."""
    number, unit = _split(value, "a weight", "%", "10%", bare="%")
    if unit != "%":
        raise WrongValue("is not a weight", "write a number and %, such as 10%")
    if number > 100:
        raise WrongValue("is above 100%")
    hundredths = number * 100
    if hundredths != hundredths.to_integral_value():
        raise WrongValue("has more than two decimals", "the smallest step of a weight is 0.01%")
    return int(hundredths)


def format_weight(weight: int) -> str:
    """Return the text of a weight in 1/10,000, such as `0.25%`."""
    return f"{_plain(Decimal(weight) / 100)}%"


def parse_size(value: object) -> int:
    """Return bytes for a text such as `16KiB`, `1.5MiB` or `2GiB`."""
    number, unit = _split(value, "a size", "KiB, MiB or GiB", "32KiB", bare="")
    if unit not in SIZE_UNITS:
        named = {known[0].lower(): known for known in SIZE_UNITS}.get(unit[:1].lower(), "KiB")
        raise WrongValue("has an unknown unit (KiB, MiB and GiB are known)", f"write {_plain(number)}{named}")
    size = number * SIZE_UNITS[unit]
    if size != size.to_integral_value():
        raise WrongValue("is no whole number of bytes")
    if size > LARGEST:
        raise WrongValue("is larger than 1048576GiB")
    return int(size)


def parse_reading(value: object) -> float:
    """Return what a check's value is compared with: a bare number, or bytes for a text such as `1.5GiB`."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, str) and value.endswith(tuple(SIZE_UNITS)):
        return float(parse_size(value))
    raise WrongValue("is neither a number nor a size", "write what the check reads, such as 500, 1.5e9 or 1GiB")


def format_reading(reading: float) -> int | float:
    """Return the number that `parse_reading` reads back as the same."""
    return int(reading) if reading.is_integer() and abs(reading) < 10**15 else reading


def format_size(size: int) -> str:
    """Return the text of `size` bytes with the largest unit that needs no decimals."""
    for unit in ("GiB", "MiB"):
        if size and size % SIZE_UNITS[unit] == 0:
            return f"{size // SIZE_UNITS[unit]}{unit}"
    return f"{_plain(Decimal(size) / 1024)}KiB"


def _split(value: object, what: str, units: str, example: str, *, bare: str) -> tuple[Decimal, str]:
    """Return number and unit; `bare` are the units that the cure of a bare number offers ("" = none is likelier)."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise WrongValue(f"is not {what}", f"write a number and {units}, such as {example}")
    found = _QUANTITY.fullmatch(str(value).strip())
    if found is None:
        raise WrongValue(f"is not {what}", f"write a number and {units}, such as {example}")
    if not found[2]:
        likely = [one for one in bare.split() if one != "ms" or Decimal(found[1]) >= LEAST_MS or bare == "ms"]
        offered = " or ".join(f"{found[1]}{one}" for one in likely)
        cure = f"write {offered}" if offered else f"write it as {example}"
        raise WrongValue(f"needs a unit ({units})", cure)
    return Decimal(found[1]), found[2]


def _plain(number: Decimal) -> str:
    text = format(number, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text
