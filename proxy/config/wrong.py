"""What a parser of one value raises.

The text is a predicate about the value ("needs a unit: write 30s"), so that the caller puts the value or its key
before it. Only the cure may repeat what was given: a value that came from an environment variable may be a secret,
and is shown without the cure.
"""

from __future__ import annotations


class WrongValue(ValueError):
    """A value that cannot be read. `what` never holds a part of it, `cure` may."""

    def __init__(self, what: str, cure: str = "") -> None:
        super().__init__(f"{what}: {cure}" if cure else what)
        self.what = what
