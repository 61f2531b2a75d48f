"""Reads byte streams with the parsers under test, in any pieces, and loads the corpus.

`read_requests` and `read_response` do what the data plane does: collect bytes until a head is there, decode the body
as its framing says, go on with what follows. What they return must not depend on how the bytes were cut.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import yaml

from proxy.http1.body import ChunkedBody
from proxy.http1.head import CHUNKED, UNTIL_CLOSE, Refusal, RequestHead, ResponseHead
from proxy.http1.request import RequestParser
from proxy.http1.response import ResponseParser

CORPUS = Path(__file__).parent.parent / "corpus" / "http"
HEAD_LIMIT = 32 * 1024
TARGET_LIMIT = 16 * 1024
FIELD_LIMIT = 128
WATCH = frozenset({b"x-user"})

REQUESTS = RequestParser(HEAD_LIMIT, TARGET_LIMIT, FIELD_LIMIT, WATCH)
RESPONSES = ResponseParser()


@dataclass
class Case:
    """One entry of the corpus; the files say what the keys mean."""

    name: str
    ref: str
    send: bytes
    status: int = 0
    heads: list[dict[str, object]] = field(default_factory=list)
    trusted: bool = False
    in_body: bool = False
    open: bool = False
    after: int = 0
    to: bytes = b"GET"
    rest: bytes = b""
    extra: bytes = b""


@dataclass
class Message:
    """A message as it was read; `body` without framing."""

    head: dict[str, object]
    body: bytes = b""
    trailers: bytes = b""


@dataclass
class Reading:
    """What was read: whole messages, then a message that has not ended, a refusal, or bytes that are no message."""

    messages: list[Message] = field(default_factory=list)
    open: Message | None = None
    refusal: Refusal | None = None
    rest: bytes = b""

    def outcome(self) -> tuple[object, ...]:
        """Return what must be the same however the bytes were cut (which of several errors is met first may differ)."""
        return self.messages, self.open, self.refusal and self.refusal.status, self.rest


class Stream:
    """Bytes that arrive piece by piece."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._waiting = iter(pieces)
        self.data = b""

    def more(self) -> bool:
        """Take the next piece; tell whether there was one."""
        piece = next(self._waiting, None)
        self.data += piece or b""
        return piece is not None

    def head(self, parse) -> RequestHead | ResponseHead | Refusal | None:
        """Return what `parse` makes of the stream's beginning as soon as it can tell; `None` at the end."""
        while True:
            head = parse(self.data) if self.data else None
            if head is not None or not self.more():
                break
        if isinstance(head, RequestHead | ResponseHead):
            self.data = self.data[head.end :]
        return head

    def body(self, message: Message, length: int, decoder: ChunkedBody) -> bool | Refusal:
        """Read the body into `message`; tell whether it ended, or why not."""
        if length == UNTIL_CLOSE:
            while self.more():
                pass
            message.body, self.data = self.data, b""
        elif length == CHUNKED:
            while not decoder.done:
                if not self.data and not self.more():
                    return False
                payload, end = decoder.feed(self.data)
                message.body += payload
                self.data = self.data[end:]
                if decoder.refusal is not None:
                    return decoder.refusal
            message.trailers = decoder.trailers
        else:
            while len(self.data) < length:
                if not self.more():
                    message.body, self.data = self.data, b""
                    return False
            message.body, self.data = self.data[:length], self.data[length:]
        return True


def attributes(head: RequestHead | ResponseHead) -> dict[str, object]:
    """Return what a head says, without where it stood and who read it."""
    return {name: getattr(head, name) for name in head.__slots__ if name not in {"end", "parser"}}


def read_requests(pieces: Iterable[bytes], *, trusted: bool = False, parser: RequestParser = REQUESTS) -> Reading:
    """Read pipelined requests."""
    stream = Stream(pieces)
    reading = Reading()
    while True:
        head = stream.head(lambda data: parser.parse(data, 0, trusted))
        if head is None:
            reading.rest = stream.data
            return reading
        if isinstance(head, Refusal):
            reading.refusal = head
            return reading
        message = Message(attributes(head))
        if not _finish(reading, stream, message, stream.body(message, head.length, ChunkedBody())):
            return reading


def read_response(pieces: Iterable[bytes], method: bytes, parser: ResponseParser = RESPONSES) -> Reading:
    """Read the response to a request with `method`, and what comes behind it until the connection closes."""
    stream = Stream(pieces)
    reading = Reading()
    head = stream.head(lambda data: parser.parse(data, 0, method))
    if isinstance(head, Refusal):
        reading.refusal = head
        return reading
    if head is not None:
        message = Message(attributes(head))
        if not _finish(reading, stream, message, stream.body(message, head.length, ChunkedBody(502, "protocol"))):
            return reading
        while stream.more():
            pass
    reading.rest = stream.data
    return reading


def _finish(reading: Reading, stream: Stream, message: Message, ended: bool | Refusal) -> bool:
    if ended is True:
        reading.messages.append(message)
        return True
    reading.open = message
    if isinstance(ended, Refusal):
        reading.refusal = ended
    return False


def read(case: Case, pieces: Iterable[bytes]) -> Reading:
    """Read a corpus entry that arrives in `pieces` with fresh parsers."""
    if is_response(case):
        return read_response(pieces, case.to, ResponseParser())
    parser = RequestParser(HEAD_LIMIT, TARGET_LIMIT, FIELD_LIMIT, WATCH)
    return read_requests(pieces, trusted=case.trusted, parser=parser)


def is_response(case: Case) -> bool:
    """Tell whether the entry is a response."""
    return case.name.split(":")[0].endswith("responses")


def _bytes(value: object) -> object:
    """Turn the corpus's text (latin-1; runs as `{text, times}`) into bytes."""
    if isinstance(value, str):
        return value.encode("latin-1")
    if isinstance(value, list):
        return [_bytes(item) for item in value]
    if isinstance(value, dict):
        return {key: _bytes(item) for key, item in value.items()}
    return value


def _send(value: str | list[str | dict[str, object]]) -> bytes:
    parts = [value] if isinstance(value, str) else value
    texts = [part if isinstance(part, str) else part["text"] * part["times"] for part in parts]
    return "".join(texts).encode("latin-1")


@cache
def corpus(verdict: str) -> list[Case]:
    """Load the entries of `accept` or `reject`; names are `VERDICT/FILE:NAME`."""
    cases = []
    for path in sorted((CORPUS / verdict).glob("*.yaml")):
        for row in yaml.load(path.read_text(), yaml.CSafeLoader):
            name, ref, send = row.pop("name"), row.pop("ref"), _send(row.pop("send"))
            more = {key: _bytes(value) for key, value in row.items()}
            cases.append(Case(f"{verdict}/{path.stem}:{name}", ref, send, **more))
    return cases
