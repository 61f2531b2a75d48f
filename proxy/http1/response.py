"""Judge and rewrite the head of a response.

The problem: an endpoint is trusted with its content, not with the connection. A response whose end is not certain
would let its tail be read as the answer to somebody else's request, so whatever RFC 9112 calls faulty framing is
refused (502) and the endpoint's connection closed.

Cost: as `proxy.http1.request`; 0.2 µs for a head that the endpoint repeats. A watched field costs a search of the head,
and nothing where none is watched.

Decisions where the RFC leaves a choice:
* Status 100…999 (RFC 9110 §15: a code that is not known is read by its class); the reason phrase may be missing.
* Folded fields are refused with 502 (RFC 9112 §5.2); whitespace before a colon is removed (§5.1 demands it).
* Content-Length more than once is refused even when equal, and with Transfer-Encoding too (§6.3).
* 1xx, 204 and 304 end with their head whatever they claim; Content-Length is not passed on with 1xx and 204
  (RFC 9110 §8.6), and after one that announces a body the endpoint's connection is not used again.
* Upgrade is passed on with 101 and 426, whose meaning it is (RFC 9110 §7.8, §15.5.22).
"""

from __future__ import annotations

from proxy.http1.fields import (
    CACHE_CONTROL,
    CONNECTION,
    CONTENT_LENGTH,
    CONTENT_TYPE,
    DROP,
    FIELD_BYTES,
    LINE_SIZE_MAX,
    NO_OPTIONS,
    ORDINARY,
    OWS,
    RESPONSE_KINDS,
    TRAILER,
    TRANSFER_ENCODING,
    UNKNOWN,
    UPGRADE,
    VARYING,
    Line,
    Lines,
    Names,
    Options,
    http_major,
    is_unclean,
    named,
    parse_length,
    rebuild,
)
from proxy.http1.head import CHUNKED, UNTIL_CLOSE, Refusal, ResponseHead

_STATUS_LINES_MAX = 512

_CLOSE = Options(b"close")
_UNCLEAN = "The head of the response has a control character, or a line that does not end in CRLF."

# status, HTTP/1.0?, the line to forward
_Start = tuple[int, bool, bytes]


def _protocol(detail: str) -> Refusal:
    return Refusal(502, "protocol", detail)


class ResponseParser:
    """Parses the heads of one worker's responses; holds the memos and no state of any connection.

    `head_limit` is bytes, `field_limit` a number of fields. `watch` names the fields (any case) whose values are
    wanted in `ResponseHead.found`.
    """

    __slots__ = ("_field_limit", "_head_limit", "_lines", "_names", "_starts", "_watched")

    def __init__(
        self, head_limit: int = 64 * 1024, field_limit: int = 256, watch: frozenset[bytes] = frozenset()
    ) -> None:
        self._head_limit = head_limit
        self._field_limit = field_limit
        self._names = Names(RESPONSE_KINDS)
        self._lines = Lines()
        self._starts: dict[bytes, _Start] = {}
        self._watched = tuple((name.lower(), b"\r\n" + name.lower() + b":") for name in watch)

    def parse(
        self, data: bytes, start: int, method: bytes, last: ResponseHead | None = None
    ) -> ResponseHead | Refusal | None:
        """Return the head that begins at `start`, why it is refused, or `None` when more bytes are needed.

        `data` must be `bytes`. `method` is the request's: it decides whether there can be a body. `last` is a head that
        was read before: endpoints repeat theirs within a second, and what is the same to the letter is the same head.
        """
        if (
            last is not None
            and data.startswith(last.received, start)
            and start == last.end - len(last.received)
            and last.parser is self
            and (method == b"HEAD") == last.bodiless
        ):
            return last
        end = data.find(b"\r\n\r\n", start)
        if end < 0:
            return self._judge_unfinished(data, start)
        block = data[start : end + 2]
        lines = block.split(b"\r\n")
        lines.pop()
        if end + 4 - start > self._head_limit or len(lines) > self._field_limit + 1:
            return self._judge_unfit(end + 4 - start, lines)
        begin = self._starts.get(lines[0])
        if begin is None:
            judged = self._judge_start(lines[0])
            if isinstance(judged, Refusal):
                return judged
            begin = judged
        status, http10, start_line = begin

        ordinary = self._lines.ordinary
        known_lines = self._lines.known
        known_names = self._names.known
        length = UNTIL_CLOSE
        length_line = b""
        coding: bytes | None = None
        options = NO_OPTIONS
        shared = status == 304
        event_stream = False
        upgrade = b""
        trailer_lines: tuple[bytes, ...] = ()
        edits: list[tuple[bytes, bytes]] = []
        for line in lines[1:]:
            if line in ordinary:
                continue
            meaning = known_lines.get(line)
            if meaning is None:
                if line.translate(None, FIELD_BYTES):
                    return _protocol(_UNCLEAN)
                name, colon, _ = line.partition(b":")
                if colon and known_names.get(name, UNKNOWN) == VARYING:
                    continue
                judged_line = self._judge_line(line, lines)
                if isinstance(judged_line, Refusal):
                    return judged_line
                meaning = judged_line
            kind = meaning.kind
            if kind == CONTENT_LENGTH:
                if length >= 0:
                    return _protocol("The response has more than one Content-Length field.")
                length = meaning.number
                length_line = line
            elif kind == CONNECTION:
                options = meaning.options if options is NO_OPTIONS else options.joined(meaning.options)
            elif kind == TRANSFER_ENCODING:
                if coding is not None:
                    return _protocol("The response has more than one Transfer-Encoding field.")
                coding = meaning.text
            elif kind == CACHE_CONTROL:
                shared = True
            elif kind == CONTENT_TYPE:
                event_stream = True
            elif kind == TRAILER:
                trailer_lines += (line,)
            elif kind == UPGRADE:
                upgrade = upgrade + b", " + meaning.text if upgrade else meaning.text
            if meaning.forward != line:
                edits.append((line, meaning.forward))

        if coding is not None:
            if http10 or length >= 0 or coding != b"chunked":
                return _bad_coding(http10, length)
            length = CHUNKED
        if status < 200 or status == 204:
            if length >= 0:
                edits.append((length_line, b""))
            if length not in (0, UNTIL_CLOSE):
                # The endpoint may send what it announced; it would be read as the next answer.
                options = options.joined(_CLOSE)
            length = 0
        elif status == 304 or method == b"HEAD":
            length = 0
        if trailer_lines and length != CHUNKED:
            edits += [(line, b"") for line in trailer_lines]
        if options.names:
            edits += named(lines, options.names)
        extra: list[bytes] = []
        if upgrade:
            if status in {101, 426}:
                extra = [b"Connection: upgrade", b"Upgrade: " + upgrade]
            if status != 101:
                upgrade = b""
        elif status == 101:
            # > RFC 9110 §15.2.2: The server MUST generate an Upgrade header field in the response.
            return _protocol("The response switches protocols without saying to which.")
        if edits or extra or start_line != lines[0]:
            block = rebuild(block, lines, start_line, edits, extra)
        head = ResponseHead()
        head.end = end + 4
        head.status = status
        head.http10 = http10
        head.keep_alive = (
            not options.close and (options.keep_alive or not http10) and length != UNTIL_CLOSE and status != 101
        )
        head.length = length
        head.upgrade = upgrade
        head.shared = shared
        head.event_stream = event_stream
        head.block = block
        head.dated = b"\r\nDate:" in block or b"\r\ndate:" in block.lower()
        head.received = data[start : end + 4]
        head.bodiless = method == b"HEAD"
        head.parser = self
        head.found = self._find(block) if self._watched and status >= 200 else None
        return head

    def _find(self, block: bytes) -> dict[bytes, bytes] | None:
        """Return the values of the watched fields in a judged block.

        A search of the whole block, and no mark on the memoised lines: those who watch nothing pay nothing for it.
        """
        found: dict[bytes, bytes] | None = None
        lowered = block.lower()
        for name, needle in self._watched:
            at = lowered.find(needle)
            if at >= 0:
                begin = at + len(needle)
                value = block[begin : block.index(b"\r\n", begin)].strip(OWS)
                if found is None:
                    found = {name: value}
                else:
                    found[name] = value
        return found

    def _judge_line(self, line: bytes, lines: list[bytes]) -> Line | Refusal:
        """Judge a line by itself and remember what it says; those that say nothing to a proxy are ORDINARY."""
        name, colon, value = line.partition(b":")
        # > RFC 9112 §5.1: A proxy MUST remove any such whitespace [before the colon] from a response message before
        # > forwarding the message downstream.
        clean_name = name.rstrip(OWS)
        kind = self._names.learn(clean_name)
        if kind < 0 or not colon:
            return _bad_line(line, lines)
        forward = line if clean_name == name else clean_name + b":" + value
        text = value.strip(OWS).lower()
        meaning = Line(kind, b"", text=text)
        if kind == CONTENT_LENGTH:
            meaning.number = parse_length(text)
            if meaning.number < 0:
                return _protocol("The Content-Length of the response is not a decimal number below 2^63.")
            canonical = b" %d" % meaning.number
            meaning.forward = forward if value == canonical else clean_name + b":" + canonical
        elif kind == CONNECTION:
            meaning.options = Options(value)
        elif kind == UPGRADE:
            meaning.text = value.strip(OWS)
        elif kind not in {TRANSFER_ENCODING, DROP}:
            meaning.forward = forward
            says_public = kind == CACHE_CONTROL and b"public" in [part.strip(OWS) for part in text.split(b",")]
            says_stream = kind == CONTENT_TYPE and text.partition(b";")[0].rstrip(OWS) == b"text/event-stream"
            if kind != TRAILER and not says_public and not says_stream:
                meaning.kind = ORDINARY
                if forward is line and kind != VARYING:
                    self._lines.remember(line)
                    return meaning
        if kind != VARYING:
            self._lines.learn(line, meaning)
        return meaning

    def _judge_start(self, line: bytes) -> _Start | Refusal:
        """Judge a status line without its CRLF (RFC 9112 §4); remember it."""
        if line.translate(None, FIELD_BYTES):
            return _protocol(_UNCLEAN)
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
        return _protocol(f"The response has more than {self._field_limit} fields.")

    def _judge_unfinished(self, data: bytes, start: int) -> Refusal | None:
        """Refuse a head whose end has not arrived as soon as something in it is certainly wrong."""
        size = len(data) - start
        if not b"HTTP/1.".startswith(data[start : start + 7]):
            return _protocol("The response does not begin with an HTTP version.")
        if size >= self._head_limit:
            return _protocol(f"The head of the response is larger than {self._head_limit} bytes.")
        if is_unclean(data, start):
            return _protocol(_UNCLEAN)
        if data.endswith(b"\n") and data.count(b"\n", start) > self._field_limit + 1:
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
