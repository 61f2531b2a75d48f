"""Looking into plain data that may be wrong: what is not of the expected shape counts as absent.

Rules use these, because they run beside the model, which reports what is wrong by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from proxy.config.load import Loc
from proxy.config.wrong import WrongValue

T = TypeVar("T")
Finding = tuple[Loc, str]


def good(parse: Callable[[Any], T], value: object) -> T | None:
    """Return the parsed value, or `None` if it is wrong by itself."""
    if not isinstance(value, str):
        return None
    try:
        return parse(value)
    except WrongValue:
        return None


def mapping(data: dict[str, Any], key: str) -> dict[str, Any]:
    """Return the mapping under a key."""
    value = data.get(key)
    return value if isinstance(value, dict) else {}


def items(data: dict[str, Any], key: str) -> list[Any]:
    """Return the list under a key."""
    value = data.get(key)
    return value if isinstance(value, list) else []


def mappings(data: dict[str, Any], key: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield index and item of the mappings in the list under a key."""
    for index, item in enumerate(items(data, key)):
        if isinstance(item, dict):
            yield index, item
