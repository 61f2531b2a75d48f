"""Judge and rewrite the head of a response.

The problem: an endpoint is trusted with its content, not with the connection. A response whose end is not certain
would let its tail be read as the answer to somebody else's request, so whatever RFC 9112 calls faulty framing is
refused (502) and the endpoint's connection closed.

Cost: as `proxy.http1.request`.

Decisions where the RFC leaves a choice:
* Status 100…999 (RFC 9110 §15: a code that is not known is read by its class); the reason phrase may be missing.
* Folded fields are refused with 502 (RFC 9112 §5.2); whitespace before a colon is removed (§5.1 demands it).
* Content-Length more than once is refused even when equal, and with Transfer-Encoding too (§6.3).
* 1xx, 204 and 304 end with their head whatever they claim; Content-Length is not passed on with 1xx and 204
  (RFC 9110 §8.6).
* Upgrade is passed on with 101 and 426, whose meaning it is (RFC 9110 §7.8, §15.5.22).
"""

from __future__ import annotations

from proxy.http1.fields import (
    CACHE_CONTROL,
    CONNECTION,
    CONTENT_LENGTH,
    CONTENT_TYPE,
    FIELD_BYTES,
    LINE_SIZE_MAX,
    ORDINARY,
    OWS,
    RESPONSE_KINDS,
    TRAILER,
    TRANSFER_ENCODING,
    UNKNOWN,
    UPGRADE,
    VARYING,
    ConnectionMemo,
    Lines,
    Names,
    Options,
    http_major,
    mark_named,
    parse_length,
    rebuild,
)
from proxy.http1.head import CHUNKED, UNTIL_CLOSE, Refusal, ResponseHead

_STATUS_LINES_MAX = 512

# status, HTTP/1.0?, the line to forward
_Start = tuple[int, bool, bytes]


def _protocol(detail: str) -> Refusal:
    return Refusal(502, "protocol", detail)


class ResponseParser:
    """Parses the heads of one worker's responses; holds the memos and no state of any connection.

    `head_limit` is bytes, `field_limit` a number of fields.
    """

    __slots__ = ("_connection", "_field_limit", "_head_limit", "_lines", "_names", "_starts")

    def __init__(self, head_limit: int = 64 * 1024, field_limit: int = 256) -> None:
        self._head_limit = head_limit
        self._field_limit = field_limit
        self._names = Names(RESPONSE_KINDS)
        self._lines = Lines()
        self._connection = ConnectionMemo()
        self._starts: dict[bytes, _Start] = {}

    def parse(self, data: bytes, start: int, method: bytes) -> ResponseHead | Refusal | None:
        """Return the head that begins at `start`, why it is refused, or `None` when more bytes are needed.

        `data` must be `bytes`. `method` is the request's: it decides whether there can be a body.
        """
        end = data.find(b"\r\n\r\n", start)
        if end < 0:
            return self._judge_unfinished(data, start)
        block = data[start : end + 2]
        lines = block.split(b"\r\n")
        lines.pop()
        count = len(lines)
        if (
            len(block.translate(None, FIELD_BYTES)) != count + count
            or end + 4 - start > self._head_limit
            or count > self._field_limit + 1
        ):
            return self._judge_unfit(end + 4 - start, lines)
        line = lines[0]
        begin = self._starts.get(line)
        if begin is None:
            judged = self._judge_start(line)
            if isinstance(judged, Refusal):
                return judged
            begin = judged
        status, http10, forwarded_line = begin

        seen = self._lines.seen
        known = self._names.known
        length = UNTIL_CLOSE
        coding: bytes | None = None
        options: Options | None = None
        shared = status == 304
        event_stream = False
        upgrade = b""
        trailer_lines: tuple[bytes, ...] = ()
        edits: dict[bytes, bytes] = {}
        for line in lines[1:]:
            if line in seen:
                continue
            name, colon, value = line.partition(b":")
            kind = known.get(name, UNKNOWN)
            if kind < 0 or not colon:
                kind = self._names.learn(name)
                if kind < 0 or not colon:
                    name = name.rstrip(OWS)
                    kind = self._names.learn(name)
                    if kind < 0 or not colon:
                        return _bad_line(line, lines)
                    # > RFC 9112 §5.1: A proxy MUST remove any such whitespace from a response message before
                    # > forwarding the message downstream.
                    edits[line] = name + b":" + value
                    if kind == ORDINARY:
                        continue
            if kind == ORDINARY:
                if len(line) <= LINE_SIZE_MAX:
                    self._lines.remember(line)
            elif kind == VARYING:
                continue
            elif kind == CONTENT_LENGTH:
                if length >= 0:
                    return _protocol("The response has more than one Content-Length field.")
                length = parse_length(value.strip(OWS))
                if length < 0:
                    return _protocol("The Content-Length of the response is not a decimal number below 2^63.")
                canonical = b" %d" % length
                if value != canonical:
                    edits[line] = name + b":" + canonical
                if status < 200 or status == 204:
                    edits[line] = b""
            elif kind == CACHE_CONTROL:
                if b"public" not in value.lower():
                    if line not in edits and len(line) <= LINE_SIZE_MAX:
                        self._lines.remember(line)
                elif b"public" in [member.strip(OWS) for member in value.lower().split(b",")]:
                    shared = True
            elif kind == CONTENT_TYPE:
                if value.partition(b";")[0].strip(OWS).lower() == b"text/event-stream":
                    event_stream = True
                elif line not in edits and len(line) <= LINE_SIZE_MAX:
                    self._lines.remember(line)
            elif kind == CONNECTION:
                more = self._connection.known.get(value) or self._connection.learn(value)
                options = more if options is None else options.joined(more)
                edits[line] = b""
            elif kind == TRANSFER_ENCODING:
                if coding is not None:
                    return _protocol("The response has more than one Transfer-Encoding field.")
                coding = value.strip(OWS).lower()
                edits[line] = b""
            elif kind == TRAILER:
                trailer_lines += (line,)
            elif kind == UPGRADE:
                protocol = value.strip(OWS)
                upgrade = upgrade + b", " + protocol if upgrade else protocol
                edits[line] = b""
            else:
                edits[line] = b""

        if coding is not None:
            if http10 or length >= 0 or coding != b"chunked":
                return _bad_coding(http10, length)
            length = CHUNKED
        if method == b"HEAD" or status < 200 or status in {204, 304}:
            length = 0
        if trailer_lines and length != CHUNKED:
            for line in trailer_lines:
                edits[line] = b""
        if options is None:
            keep_alive = not http10
        else:
            keep_alive = not options.close and (options.keep_alive or not http10)
            if options.names:
                mark_named(lines, options.names, edits)
        extra: list[bytes] = []
        if upgrade:
            if status in {101, 426}:
                extra = [b"Connection: upgrade", b"Upgrade: " + upgrade]
            if status != 101:
                upgrade = b""
        elif status == 101:
            # > RFC 9110 §15.2.2: The server MUST generate an Upgrade header field in the response.
            return _protocol("The response switches protocols without saying to which.")
        if edits or forwarded_line != lines[0]:
            lines[0] = forwarded_line
            block = rebuild(lines, edits, extra)
        head = ResponseHead()
        head.end = end + 4
        head.status = status
        head.http10 = http10
        head.keep_alive = keep_alive and length != UNTIL_CLOSE and status != 101
        head.length = length
        head.upgrade = upgrade
        head.shared = shared
        head.event_stream = event_stream
        head.block = block
        return head

    def _judge_start(self, line: bytes) -> _Start | Refusal:
        """Judge a status line without its CRLF (RFC 9112 §4); remember it."""
        version, code = line[:8], line[9:12]
        major = http_major(version)
        if major < 0:
            return _protocol("The response does not begin with an HTTP version.")
        if major != 1:
            return _protocol("The response is not of HTTP/1.1 or HTTP/1.0.")
        blank = line[8:9] == b" " and line[12:13] in {b"", b" "}
        if not blank or len(code) != 3 or not code.isdigit() or code[:1] == b"0":
            return _protocol("The status line has no status code from 100 to 999.")
        forwarded = b"HTTP/1.1 " + code + b" " + line[13:]
        start = (int(code), version == b"HTTP/1.0", line if line == forwarded else forwarded)
        if len(line) <= LINE_SIZE_MAX:
            if len(self._starts) >= _STATUS_LINES_MAX:
                self._starts.clear()
            self._starts[line] = start
        return start

    def _judge_unfit(self, size: int, lines: list[bytes]) -> Refusal:
        """Say what is wrong with a complete head that failed the first proof."""
        judged = self._judge_start(lines[0])
        if isinstance(judged, Refusal):
            return judged
        if size > self._head_limit:
            return _protocol(f"The head of the response is larger than {self._head_limit} bytes.")
        if len(lines) > self._field_limit + 1:
            return _protocol(f"The response has more than {self._field_limit} fields.")
        return _protocol("The head of the response has a control character, or a line that does not end in CRLF.")

    def _judge_unfinished(self, data: bytes, start: int) -> Refusal | None:
        """Refuse a head whose end has not arrived as soon as something in it is certainly wrong."""
        size = len(data) - start
        if not b"HTTP/1.".startswith(data[start : start + 7]):
            return _protocol("The response does not begin with an HTTP version.")
        if size >= self._head_limit:
            return _protocol(f"The head of the response is larger than {self._head_limit} bytes.")
        pairs = data.count(b"\r\n", start)
        if data.count(b"\n", start) != pairs or (size > 0 and data.count(b"\r", start) - (data[-1] == 13) != pairs):
            return _protocol("The head of the response has a line that does not end in CRLF.")
        if pairs > self._field_limit + 1:
            return _protocol(f"The response has more than {self._field_limit} fields.")
        return None


def _bad_line(line: bytes, lines: list[bytes]) -> Refusal:
    """Say what is wrong with a field line whose name is not one."""
    place = f"Field {lines.index(line)} of the response"
    if line[:1] in {b" ", b"\t"}:
        return _protocol(f"{place} begins with whitespace; folded fields are refused.")
    if b":" not in line:
        return _protocol(f"{place} has no colon.")
    return _protocol(f"{place} has a name that is not a token.")


def _bad_coding(http10: bool, length: int) -> Refusal:  # noqa: FBT001
    """Say what is wrong with the Transfer-Encoding of a response."""
    if http10:
        return _protocol("The response is HTTP/1.0 and has a Transfer-Encoding field.")
    if length >= 0:
        return _protocol("The response has both a Content-Length and a Transfer-Encoding field.")
    return _protocol("The Transfer-Encoding of the response is not chunked alone.")
