"""Patterns that Python reads right in every version."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from re import _parser  # type: ignore[attr-defined]

import proxy

ROOT = Path(proxy.__file__).parent


def forbids_going_back(pattern: str | bytes) -> bool:
    return bool(re.search("POSSESSIVE_REPEAT|ATOMIC_GROUP", str(_parser.parse(pattern))))


def test_no_pattern_forbids_going_back() -> None:
    # Before 3.11.5 such a pattern went on behind the beginning of what it gave up (gh-106052).
    assert forbids_going_back("(?:ab?c)?+")
    assert forbids_going_back("a(?>b)")
    patterns = {}
    for path in ROOT.rglob("*.py"):
        if re.search(r"^\w+ = re\.compile\(", path.read_text(), re.MULTILINE):
            name = ".".join(("proxy", *path.relative_to(ROOT).with_suffix("").parts))
            found = {key: value for key, value in vars(import_module(name)).items() if isinstance(value, re.Pattern)}
            assert found, name
            patterns.update({f"{name}.{key}": value.pattern for key, value in found.items()})
    assert "proxy.http1.body._SMALL_CHUNK" in patterns
    assert [key for key, pattern in patterns.items() if forbids_going_back(pattern)] == []
