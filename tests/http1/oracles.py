"""Two other readings of the same bytes: h11 and llhttp (httptools).

Each function reads the first message of a stream and returns an `Opinion`. Differences that only come from the
libraries' interfaces are evened out here; differences of judgement are not.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import h11
import httptools

from tests.http1.reading import Reading


@dataclass
class Opinion:
    """What somebody thinks of the first message: `error` if refused, `whole` if it has ended."""

    error: str = ""
    start: tuple[bytes, ...] = ()
    fields: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytes = b""
    whole: bool = False
    upgrade: bool = False  # llhttp stops here and leaves the body to whoever speaks the other protocol


def ours(reading: Reading) -> Opinion:
    """Turn our reading of a stream into an opinion about its first message."""
    message = reading.messages[0] if reading.messages else reading.open
    if message is None:
        return Opinion(error=reading.refusal.detail if reading.refusal else "")
    error = reading.refusal.detail if reading.refusal and not reading.messages else ""
    head = message.head
    first, *lines = head["block"].split(b"\r\n")[:-1]
    start = tuple(first.split(b" ")[:2]) if "method" in head else (b"%d" % head["status"],)
    fields = [(name.lower(), value.strip(b" \t")) for name, _, value in (line.partition(b":") for line in lines)]
    return Opinion(error, start, fields, message.body, whole=bool(reading.messages))


def by_h11(data: bytes, method: bytes | None = None) -> Opinion:
    """Read a request, or with `method` the response to it; the connection closes after `data`."""
    connection = h11.Connection(h11.SERVER if method is None else h11.CLIENT, max_incomplete_event_size=1 << 17)
    opinion = Opinion()
    if method is not None:
        connection.send(h11.Request(method=method, target="/", headers=[("Host", "a")]))
        connection.send(h11.EndOfMessage())
    try:
        connection.receive_data(data)
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                if method is None or connection.their_state is not h11.SEND_BODY:
                    break
                connection.receive_data(b"")
            elif event is h11.PAUSED or isinstance(event, h11.ConnectionClosed):
                break
            elif isinstance(event, h11.Request):
                opinion.start = (event.method, event.target)
                opinion.fields = list(event.headers)
            elif isinstance(event, h11.InformationalResponse | h11.Response):
                opinion.start = (b"%d" % event.status_code,)
                opinion.fields = list(event.headers)
                if isinstance(event, h11.InformationalResponse):
                    opinion.whole = True
                    break
            elif isinstance(event, h11.Data):
                opinion.body += event.data
            elif isinstance(event, h11.EndOfMessage):
                opinion.whole = True
                break
    except h11.RemoteProtocolError as error:
        opinion.error = str(error)
    return opinion


class _Callbacks:
    def __init__(self) -> None:
        self.opinion = Opinion()
        self.target = b""
        self.body = bytearray()
        self.headers_done = False

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.headers_done and not self.opinion.whole:
            self.opinion.fields.append((name.lower(), value.strip(b" \t")))

    def on_headers_complete(self) -> None:
        self.headers_done = True

    def on_body(self, body: bytes) -> None:
        if not self.opinion.whole:
            self.body += body

    def on_message_complete(self) -> None:
        self.opinion.whole = True


def by_llhttp(data: bytes, method: bytes | None = None) -> Opinion:
    """Read a request, or with `method` a response (llhttp is not told what was asked)."""
    callbacks = _Callbacks()
    opinion = callbacks.opinion
    parser = httptools.HttpRequestParser(callbacks) if method is None else httptools.HttpResponseParser(callbacks)
    # Byte by byte after the head, so that a second message cannot blur what was said of the first.
    try:
        for index in range(len(data)):
            parser.feed_data(data[index : index + 1])
            if opinion.whole:
                break
    except httptools.HttpParserUpgrade:
        opinion.upgrade = True
        opinion.whole = True
    except httptools.HttpParserError as error:
        opinion.error = str(error) or type(error).__name__
    if callbacks.headers_done:
        opinion.start = (
            (parser.get_method(), callbacks.target) if method is None else (b"%d" % parser.get_status_code(),)
        )
    opinion.body = bytes(callbacks.body)
    return opinion
