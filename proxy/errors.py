"""The one tree of errors.

An error here says three things to the person who meets it: what is wrong, where, and the cure.
No exception of this tree crosses a Protocol callback: the data plane turns failures into values
on the exchange. These are for the control plane, the admin API and the command line.
"""

from __future__ import annotations

from dataclasses import dataclass


class TidegateError(Exception):
    """Base of all errors that a person is meant to read.

    `what` is one sentence, `where` a file position, address, path or key, `cure` the next step.
    `exit_code` is what the command line ends with (INTERFACE §3).
    """

    exit_code = 1

    def __init__(self, what: str, *, where: str = "", cure: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.cure = cure

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        return f"{text} ({self.cure})" if self.cure else text


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake in a config, a plan or a request body.

    `line` and `column` count from 1; 0 means that there is no position (a request body).
    """

    key: str
    message: str
    file: str = ""
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}: " if self.file else ""
        return f"{place}{self.key}: {self.message}" if self.key else f"{place}{self.message}"


class ConfigError(TidegateError):
    """A config with at least one problem; all of them are reported at once."""

    exit_code = 2

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems


class UnsupportedPlatform(TidegateError):
    """The machine cannot run the proxy (not Linux, or a kernel older than 5.10)."""

    exit_code = 2


class StateError(TidegateError):
    """The state file is corrupt, of a newer schema, or held by another instance."""

    exit_code = 5


class AddressInUse(TidegateError):
    """An address to listen on is taken."""

    exit_code = 6


class SegmentMismatch(TidegateError):
    """A shared-memory segment is not of the layout that the reader expects."""


class CounterWentBack(TidegateError):
    """A counter shrank between two snapshots: a bug, never a state of the world."""


class Refused(TidegateError):
    """An operator's request that is not carried out.

    `status` is the HTTP status of the admin API, `title` a stable UpperCamelCase word,
    `problems` name the fields at fault, `extra` goes into the problem+json object as it is. `cure` is in the words of
    the API; `command` is the cure at the command line, where that is another one.
    """

    def __init__(
        self,
        status: int,
        title: str,
        what: str,
        *,
        cure: str = "",
        command: str = "",
        problems: tuple[Problem, ...] = (),
        extra: dict[str, object] | None = None,
    ) -> None:
        super().__init__(what, cure=cure)
        self.status = status
        self.title = title
        self.command = command
        self.problems = problems
        self.extra = extra or {}
