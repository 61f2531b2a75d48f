"""Plain text for people: columns, numbers, times, colours where a terminal wants them.

Colour is an addition, never the only carrier of meaning; NO_COLOR (https://no-color.org) and a pipe switch it off.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from textwrap import wrap
from typing import Any

import typer

COLOURS = {"PASS": "green", "FAIL": "red", "ERROR": "red", "rolled_back": "red", "progressing": "cyan"}
COLOURS |= {"completed": "green", "paused": "yellow", "down": "red", "ready": "green"}


def coloured() -> bool:
    """Return whether stdout is a terminal that may be coloured."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def word(text: str) -> str:
    """Return a phase, verdict or state in its colour."""
    colour = COLOURS.get(text)
    return typer.style(text, fg=colour) if colour and coloured() else text


def number(value: Any, digits: int = 1, unit: str = "") -> str:
    """Return a number with at most `digits` decimals, `-` for none."""
    if value is None:
        return "-"
    text = f"{value:,.{digits}f}"
    return (text.rstrip("0").rstrip(".") if "." in text else text) + unit


def percent(share: Any) -> str:
    """Return a share 0…1 in percent, `-` for none."""
    return "-" if share is None else number(share * 100, 2, "%")


def duration(seconds: Any) -> str:
    """Return seconds in the two largest units, such as `2h 3m`; `-` for none."""
    if seconds is None:
        return "-"
    rest = int(seconds)
    parts: list[str] = []
    for unit, size in (("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)):
        count, rest = divmod(rest, size)
        if count or (unit == "s" and not parts):
            parts.append(f"{count}{unit}")
    return " ".join(parts[:2])


def moment(time: Any) -> str:
    """Return a time of the API (seconds since 1970, or text) as UTC to the millisecond."""
    if not isinstance(time, int | float):
        return str(time)
    return datetime.fromtimestamp(time, UTC).isoformat(" ", "milliseconds").replace("+00:00", "Z")


def table(rows: Sequence[Sequence[str]], *, right: frozenset[int] = frozenset(), indent: str = "  ") -> list[str]:
    """Return aligned lines; columns in `right` are right-aligned. Cells are not coloured: that would misalign them."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append((indent + "  ".join(cells)).rstrip())
    return lines


def wrapped(lines: Sequence[str]) -> list[str]:
    """Return the lines, those wider than the terminal broken between words; elsewhere the lines as they are."""
    if not sys.stdout.isatty():
        return list(lines)
    width = shutil.get_terminal_size().columns
    return [
        part
        for line in lines
        for part in (
            wrap(line, width, subsequent_indent="    ", break_long_words=False) if len(line) > width else [line]
        )
    ]


def printable(text: Any) -> str:
    """Return text that came from elsewhere without control characters (a terminal would obey them)."""
    return "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in str(text))
