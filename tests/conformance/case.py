"""What a case is, how one is run against a proxy, and what must hold afterwards.

A case sends bytes and says what must come of them: which requests reach the backend, byte for byte where it matters,
and what the client gets. Beyond what a case asks for, every message that leaves the proxy is read by the strict
readers of `wire`, and must have none of the fields that end at a hop.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from tests.conformance.wire import (
    BODY,
    CLOSE,
    FIN,
    OK,
    PATIENCE,
    PROBE,
    RESET,
    Client,
    Recorder,
    Seen,
    Talk,
    Unreadable,
    read_answers,
)

_HOP = {b"connection", b"keep-alive", b"proxy-connection", b"te", b"transfer-encoding", b"upgrade", b"trailer"}
__all__ = ["BODY", "CLOSE", "FIN", "OK", "RESET", "Answer", "Case", "Request", "check", "refused", "req", "run"]


@dataclass(frozen=True)
class Request:
    """What must reach the backend. `has`: lines, byte for byte and in this order; `lacks`: names, lower case."""

    start: bytes
    has: tuple[bytes, ...] = ()
    lacks: tuple[bytes, ...] = ()
    body: bytes | None = b""
    trailers: tuple[bytes, ...] | None = ()
    whole: bool = True


@dataclass(frozen=True)
class Answer:
    """What must reach the client. `cut`: the answer must be seen to be incomplete."""

    status: int
    has: tuple[bytes, ...] = ()
    lacks: tuple[bytes, ...] = ()
    body: bytes | None = None
    trailers: tuple[bytes, ...] | None = None
    start: bytes = b""
    cut: bool = False


@dataclass
class Case:
    """One conversation. `send`: bytes, or steps (bytes, FIN, ("seen", n), ("got", bytes), ("slow", bytes)).

    `open`: the client's connection must be good for another request afterwards, `None` if either will do.
    """

    name: str
    ref: str
    send: bytes | list[object]
    requests: list[Request]
    answers: list[Answer]
    open: bool | None = True
    backend: list[object] | None = None
    early: bool = False
    interims: list[int] | None = None
    tunnelled: bytes = b""
    methods: list[bytes] = field(default_factory=list)
    trusted: bool = False
    ended: str = ""  # how the client sees the end: "fin" or "reset"; "" if either will do
    loose: bool = False  # the beginning of the request may have reached the backend, but never all of it

    def __post_init__(self) -> None:
        if not self.methods:
            first = self.send if isinstance(self.send, bytes) else b"".join(s for s in self.send if type(s) is bytes)
            self.methods = re.findall(rb"(?:\A|\r\n)(HEAD|GET|POST)(?= [/h])", first) or [b"GET"]


def req(line: bytes = b"GET / HTTP/1.1", *fields: bytes, body: bytes = b"", host: bytes = b"Host: a") -> bytes:
    """Return a request."""
    return b"\r\n".join([line, *([host] if host else []), *fields, b"", b""]) + body


def refused(
    name: str, ref: str, send: bytes | list[object], status: int = 400, before: int = 0, **more: object
) -> Case:
    """Return a case whose request is refused and whose connection is closed, after `before` good ones."""
    good = [Request(b"") for _ in range(before)]
    answers = [Answer(200)] * before + [Answer(status, (b"Connection: close",))]
    return Case(name, ref, send, good, answers, open=False, **more)


def run(case: Case, port: int, recorder: Recorder, quiet: float = PATIENCE) -> Talk:
    """Have the conversation; `quiet`: how long a silence is the end of it."""
    recorder.begin(case.backend, early=case.early)
    client = Client(port, case.methods)
    try:
        for step in case.send if isinstance(case.send, list) else [case.send]:
            match step:
                case bytes():
                    client.send(step)
                case "fin":
                    client.sock.shutdown(1)
                case ("seen", number):
                    wanted = number
                    recorder.wait(lambda wanted=wanted: len(recorder.seen) >= wanted)
                case ("got", needle):
                    client.read_until(lambda needle=needle: needle in client.received, quiet)
                case ("slow", data):
                    for index in range(len(data)):
                        client.send(data[index : index + 1])
        wanted = len(case.answers)
        client.read_until(lambda: client.finals() >= wanted, quiet)
        if case.tunnelled:
            client.read_until(lambda: client.received.endswith(case.tunnelled), quiet)
        if case.open is False:
            client.read_to_the_end(quiet)
        elif quiet < PATIENCE:
            client.read_to_the_end(0.05)
        reusable = case.open is not False and client.ended == "open" and not case.tunnelled
        reused = _reuse(client, quiet) if reusable else None
        received, methods = client.received, client.methods
    finally:
        client.close()
    _probe(port, quiet)
    if case.requests and not all(request.whole for request in case.requests) and quiet == PATIENCE:
        recorder.wait(lambda: recorder.aborted)
    interims, answers, rest = read_answers(received, methods, ended=client.ended == "fin")
    if reused and answers:
        answers.pop()
    cut = bool(rest) or any(not answer.whole for answer in answers)
    with recorder.lock:
        seen, garbage, tunnelled = list(recorder.seen), list(recorder.garbage), recorder.tunnelled
    return Talk(seen, garbage, interims, answers, client.ended, cut, received, reused, tunnelled)


def _reuse(client: Client, quiet: float) -> bool:
    """Tell whether the connection serves another request, and answers that one and nothing else before it."""
    before = client.received
    try:
        whole = client.finals()
        client.methods = [*client.methods[:whole], *client.methods[-1:] * max(0, whole - len(client.methods)), b"GET"]
        client.send(b"GET " + PROBE + b" HTTP/1.1\r\nHost: a\r\n\r\n")
        client.read_until(lambda: client.finals() > whole, quiet)
        return client.finals() == whole + 1 and client.received[len(before) :].startswith(b"HTTP/1.1 200 ")
    finally:
        if client.finals() <= whole:
            client.received = before


def _probe(port: int, quiet: float) -> None:
    """Send a request on a connection of its own: what the case caused has reached the backend by then."""
    client = Client(port, [b"GET"])
    client.send(b"GET " + PROBE + b" HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    client.read_to_the_end(quiet)
    client.close()


def _in_order(wanted: tuple[bytes, ...], lines: list[bytes]) -> bool:
    rest = iter(lines)
    return all(line in rest for line in wanted)


def check(case: Case, talk: Talk) -> list[str]:
    """Return what is wrong with a conversation."""
    wrong = [f"the backend got {garbage}" for garbage in talk.garbage]
    if case.loose:
        if len(talk.seen) > 1 or any(seen.whole for seen in talk.seen):
            wrong.append(f"the backend got whole requests: {[(seen.start, seen.body) for seen in talk.seen]}")
    elif len(talk.seen) != len(case.requests):
        wrong.append(
            f"{len(talk.seen)} requests at the backend, not {len(case.requests)}: {[s.start for s in talk.seen]}"
        )
    for wanted, seen in zip(case.requests, talk.seen, strict=False):
        wrong += [f"request: {text}" for text in _differences(wanted, seen)]
        hops = [line for line in seen.lines if line.partition(b":")[0].lower() in {b"keep-alive", b"proxy-connection"}]
        wrong += [f"forwarded {hops}"] if hops else []
    if len(talk.answers) != len(case.answers):
        wrong.append(f"{len(talk.answers)} answers, not {len(case.answers)}: {talk.received[:300]!r}")
    for wanted, seen in zip(case.answers, talk.answers, strict=False):
        if int(seen.start[9:12]) != wanted.status:
            wrong.append(f"answered {seen.start!r}, not {wanted.status}: {seen.body[:300]!r}")
            continue
        wrong += [f"answer: {text}" for text in _differences(wanted, seen)]
        names = {line.partition(b":")[0].lower() for line in seen.lines}
        if names & {b"keep-alive", b"proxy-connection", b"te"}:
            wrong.append(f"passed on {names & _HOP}")
    if case.interims is not None and [int(seen.start[9:12]) for seen in talk.interims] != case.interims:
        wrong.append(f"interim answers {[seen.start for seen in talk.interims]}")
    if case.open and not talk.reused:
        wrong.append(f"the connection cannot be used again ({talk.ended})")
    if case.open is False and talk.ended == "open":
        wrong.append("the connection stays open")
    if case.ended and talk.ended != case.ended:
        wrong.append(f"the connection ends by {talk.ended}, not {case.ended}")
    if case.tunnelled and talk.tunnelled != case.tunnelled:
        wrong.append(f"the tunnel carried {talk.tunnelled!r}")
    if not any(wanted.cut for wanted in case.answers) and talk.cut:
        wrong.append(f"incomplete: {talk.received[-200:]!r}")
    return wrong


def _differences(wanted: Request | Answer, seen: Seen) -> list[str]:
    found = []
    if wanted.start and seen.start != wanted.start:
        found.append(f"start line {seen.start!r}")
    if not _in_order(wanted.has, seen.lines):
        found.append(f"not {wanted.has} in {seen.lines}")
    if present := [name for name in wanted.lacks if any(line.lower().startswith(name + b":") for line in seen.lines)]:
        found.append(f"{present} in {seen.lines}")
    if wanted.body is not None and seen.body != wanted.body and wanted.start != b"":
        found.append(f"body {seen.body[:80]!r}")
    if isinstance(wanted, Answer):
        if wanted.body is not None and seen.body != wanted.body:
            found.append(f"body {seen.body[:80]!r}")
        if wanted.cut == seen.whole:
            found.append("whole" if seen.whole else "not whole")
    elif wanted.start and wanted.whole != seen.whole:
        found.append(f"whole: {seen.whole}")
    if wanted.trailers is not None and wanted.start and tuple(seen.trailers) != wanted.trailers:
        found.append(f"trailers {seen.trailers}")
    if isinstance(wanted, Answer) and wanted.trailers is not None and tuple(seen.trailers) != wanted.trailers:
        found.append(f"trailers {seen.trailers}")
    return found


def outcome(talk: Talk) -> str:
    """Say shortly what happened: requests at the backend, statuses, end."""
    try:
        statuses = ",".join(map(str, talk.statuses)) or "-"
    except Unreadable:
        statuses = "?"
    garbage = "!garbage" if talk.garbage else ""
    return f"{len(talk.seen)}>{statuses}{'~cut' if talk.cut else ''}{garbage} {'open' if talk.reused else talk.ended}"
