"""Judge and rewrite the head of a request.

The problem: two programs that read the same bytes as different messages let a client smuggle one request inside
another. So there is one reading here, the strict one of RFC 9110 and 9112: what is ambiguous is refused, and what is
forwarded has nothing left to interpret.

Cost: one `find`, one `split`, one `translate` that proves that no control byte, bare CR or bare LF is in the head,
and one set look-up for each field that was seen before. Where nothing has to go, the block is the received bytes.

Decisions where the RFCs leave a choice:
* Start line: exactly one SP between its parts; HTTP/1.x with x > 1 is read as 1.1 (RFC 9110 §2.5), other majors get
  505, anything else 400, HTTP/0.9 too. Any method token passes (RFC 9110 §9.1) but CONNECT.
* Targets: `#` and bytes that no URL parser leaves bare (`"<>`, and a backslash in a path) are refused; what browsers
  send though RFC 3986 wants it escaped (`[]{}|^`, a backquote, a stray `%`) passes byte for byte, as it does in
  nginx, HAProxy and Envoy.
* Host: exactly one, never empty (RFC 9112 §3.2); an absolute-form target replaces it (§3.2.2), and may have no escapes
  in its authority: nobody's host has them, and who unescapes it reads another one.
* Content-Length more than once is refused even when equal; Transfer-Encoding must be `chunked` alone, in HTTP/1.1, and
  without Content-Length (RFC 9112 §6.1 and §6.3).
* Max-Forwards of OPTIONS and TRACE is counted down; at 0 the request ends here: OPTIONS gets 200, TRACE 405
  (RFC 9110 §7.6.2, §9.3.8). With other methods it passes as it is.
* Proxy-Authorization is the endpoint's business here and passes (RFC 9110 §11.7.2).
"""

from __future__ import annotations

from proxy.http1.authority import is_authority
from proxy.http1.fields import (
    ALPHA,
    CONNECTION,
    CONTENT_LENGTH,
    COOKIE,
    DIGITS,
    EXPECT,
    FIELD_BYTES,
    FORWARDED_FOR,
    FORWARDED_HOST,
    FORWARDED_PROTO,
    HOST,
    LENGTH_MAX,
    LINE_SIZE_MAX,
    MAX_FORWARDS,
    MINTED_BYTES,
    NO_OPTIONS,
    ORDINARY,
    OWS,
    REQUEST_ID,
    REQUEST_ID_BYTES,
    REQUEST_KINDS,
    TAIL,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    TRUSTED_ONLY,
    UNKNOWN,
    UPGRADE,
    VARYING,
    WATCHED,
    Line,
    Lines,
    Names,
    Options,
    http_major,
    is_token,
    is_unclean,
    named,
    parse_length,
    rebuild,
)
from proxy.http1.head import CHUNKED, COOKIE_NAME, MINTED_SIZE, Refusal, RequestHead, malformed

# RFC 3986 §3.3 and §3.4 (unreserved, sub-delims, ":@/?%") and what browsers leave bare.
_TARGET_BYTES = ALPHA + DIGITS + b"-._~!$&'()*+,;=:@/?%[]{}|^`"
_METHOD_MAX = 64
_USUAL_METHODS = frozenset({b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS"})
_EMPTY_LINES_MAX = 4
_REQUEST_ID_MAX = 128
_STARTS_MAX = 1024

_NO_LENGTH = -2
_CHUNKED_LINE = b"Transfer-Encoding: chunked"
_COUNTED_METHODS = frozenset({b"OPTIONS", b"TRACE"})
_UNCLEAN = "The head has a control character, or a line that does not end in CRLF."

# method, target, path, HTTP/1.0?, authority of an absolute-form target or b"", the line to forward
_Start = tuple[bytes, bytes, bytes, bool, bytes, bytes]


class RequestParser:
    """Parses the heads of one worker's requests; holds the memos and no state of any connection.

    `head_limit` and `target_limit` are bytes, `field_limit` is a number of fields. `watch` names the fields (any
    case) whose values are wanted in `RequestHead.found`.
    """

    __slots__ = (
        "_field_limit",
        "_head_limit",
        "_lines",
        "_names",
        "_starts",
        "_target_limit",
    )

    def __init__(
        self, head_limit: int, target_limit: int, field_limit: int, watch: frozenset[bytes] = frozenset()
    ) -> None:
        self._head_limit = head_limit
        self._target_limit = target_limit
        self._field_limit = field_limit
        self._names = Names(REQUEST_KINDS, watch)
        self._lines = Lines()
        self._starts: dict[bytes, _Start] = {}

    def parse(
        self,
        data: bytes,
        start: int,
        trusted: bool,  # noqa: FBT001
        last: RequestHead | None = None,
    ) -> RequestHead | Refusal | None:
        """Return the head that begins at `start`, why it is refused, or `None` when more bytes are needed.

        `data` must be `bytes`. `trusted`: the peer may speak for others (`trusted_proxies`). `last` is the head that
        this parser read before on the same connection: clients repeat their fields, and what is the same to the
        letter needs no second judgement.
        """
        end = data.find(b"\r\n\r\n", start)
        if end < 0:
            return self._judge_unfinished(data, start)
        if last is not None and last.parser is self:
            if end + 4 == last.end and data.startswith(last.received, start):
                return last
            line_end = data.find(b"\r\n", start)
            if (
                data[line_end : end + 2] == last.fields
                and end + 4 - start <= self._head_limit
                and line_end > start  # an empty line before the request line is skipped below
            ):
                line = data[start:line_end]
                judged = self._starts.get(line) or self._judge_start(line)
                if isinstance(judged, Refusal):
                    return judged
                if judged[3] == last.http10 and not judged[4]:
                    return _repeated(last, judged, end + 4, data[start : end + 4])
        block = data[start : end + 2]
        lines = block.split(b"\r\n")
        lines.pop()
        if end + 4 - start > self._head_limit or len(lines) > self._field_limit + 1:
            return self._judge_unfit(data, start, end, lines, trusted)
        begin = self._starts.get(lines[0])
        if begin is None:
            if not lines[0]:
                return self._judge_unfit(data, start, end, lines, trusted)
            judged = self._judge_start(lines[0])
            if isinstance(judged, Refusal):
                return judged
            begin = judged
        method, target, path, http10, authority, start_line = begin

        ordinary = self._lines.ordinary
        known_lines = self._lines.known
        known_names = self._names.known
        host = b""
        host_line = b""
        cookie = minted = b""
        length = _NO_LENGTH
        options = NO_OPTIONS
        found: dict[bytes, bytes] | None = None
        edits: list[tuple[bytes, bytes]] = []
        rare: list[tuple[int, bytes, bytes]] | None = None
        for line in lines[1:]:
            if line in ordinary:
                continue
            meaning = known_lines.get(line)
            if meaning is None:
                if line.translate(None, FIELD_BYTES):
                    return malformed(_UNCLEAN)
                name, colon, value = line.partition(b":")
                kind = known_names.get(name, UNKNOWN)
                if kind < 0 or not colon:
                    kind = self._names.learn(name)
                    if kind < 0 or not colon:
                        return _bad_line(line, lines)
                if kind == ORDINARY:
                    self._lines.remember(line)
                    continue
                if kind >= WATCHED:
                    if found is None:
                        found = {}
                    found.setdefault(name.lower(), value.strip(OWS))
                if kind & ~WATCHED <= VARYING:
                    continue
                if kind & ~WATCHED == COOKIE:
                    value = value.strip(OWS)
                    if COOKIE_NAME in value:
                        rest, token = _split_minted(value)
                        if rest is not value:
                            edits.append((line, name + b": " + rest if rest else b""))
                            value = rest
                            minted = minted or token
                    if value:
                        cookie = cookie + b"; " + value if cookie else value
                    continue
                if kind & ~WATCHED > CONTENT_LENGTH:
                    if rare is None:
                        rare = []
                    rare.append((kind & ~WATCHED, line, value))
                    continue
                judged_line = self._judge_line(kind, line, name, value)
                if isinstance(judged_line, Refusal):
                    return judged_line
                meaning = judged_line
            kind = meaning.kind
            if kind == HOST:
                if host_line:
                    return malformed("The request has more than one Host field.")
                host = meaning.text
                host_line = line
            elif kind == CONNECTION:
                options = meaning.options if options is NO_OPTIONS else options.joined(meaning.options)
                edits.append((line, b""))
            else:
                if length >= 0:
                    return malformed("The request has more than one Content-Length field.")
                length = meaning.number
                if meaning.forward != line:
                    edits.append((line, meaning.forward))

        if not host_line and not http10:
            return malformed("The request has no Host field, which HTTP/1.1 requires.")
        if authority:
            if not host_line:
                # > RFC 9112 §3.2.2: A proxy MUST generate a new Host field-value based on the received request-target.
                host_line = b"Host: " + authority
                start_line += b"\r\n" + host_line
            elif host != authority:
                rewritten = host_line[: host_line.find(b":")] + b": " + authority
                edits.append((host_line, rewritten))
                host_line = rewritten
            host = authority

        head = RequestHead()
        head.end = end + 4
        head.method = method
        head.target = target
        head.path = path
        head.host = host
        head.http10 = http10
        head.keep_alive = not options.close and (options.keep_alive or not http10)
        head.length = length
        head.expect = False
        head.upgrade = head.request_id = head.forwarded_for = head.forwarded_proto = head.forwarded_host = b""
        head.cookie = cookie
        head.minted = minted
        head.found = found
        head.host_line = host_line + b"\r\n" if host_line else b""
        extra: list[bytes] = []
        if rare is not None:
            refusal = _judge_rare(head, rare, options, edits, extra, trusted)
            if refusal is not None:
                return refusal
        elif length < 0:
            head.length = 0
        if options.names:
            edits += named(lines, options.names)
        if edits or extra or start_line != lines[0]:
            block = rebuild(block, lines, start_line, edits, extra)
        head.block = block
        # The rest of the block is what these fields always become, unless the target named another host or the method
        # says what to do with a field.
        varies = authority or (rare is not None and any(kind == MAX_FORWARDS for kind, _, _ in rare))
        head.fields = b"" if varies else data[start + len(lines[0]) : end + 2]
        head.forwarded_fields = block[len(start_line) :]
        head.received = data[start : end + 4]
        head.parser = self
        return head

    def _judge_line(self, kind: int, line: bytes, name: bytes, value: bytes) -> Line | Refusal:
        """Judge a Host, Connection or Content-Length line by itself; remember it unless its value is watched."""
        text = value.strip(OWS)
        if kind & ~WATCHED == HOST:
            if not is_authority(text):
                return malformed("The Host field of the request is not a host with an optional port.")
            meaning = Line(HOST, line, text=text)
        elif kind & ~WATCHED == CONNECTION:
            meaning = Line(CONNECTION, b"")
            meaning.options = Options(value)
        else:
            length = parse_length(text)
            if length < 0:
                return malformed("The Content-Length of the request is not a decimal number below 2^63.")
            canonical = b" %d" % length
            meaning = Line(CONTENT_LENGTH, line if value == canonical else name + b":" + canonical, number=length)
        if kind < WATCHED:
            self._lines.learn(line, meaning)
        return meaning

    def _judge_start(self, line: bytes) -> _Start | Refusal:
        """Judge a request line without its CRLF (RFC 9112 §3); remember it when it may come again."""
        parts = line.split(b" ")
        if len(parts) != 3:
            return malformed("The request line is not a method, a target and a version with one space between them.")
        method, target, version = parts
        if method not in _USUAL_METHODS and (not is_token(method) or len(method) > _METHOD_MAX):
            return malformed(f"The method is not a token of at most {_METHOD_MAX} characters.")
        http10 = version == b"HTTP/1.0"
        if not http10 and version != b"HTTP/1.1":
            # > RFC 9110 §2.5: process a higher minor version as the highest one known within the same major version.
            major = http_major(version)
            if major < 0:
                return malformed("The request line does not end in an HTTP version.")
            if major != 1:
                return Refusal(505, "http_version", "Only HTTP/1.1 and HTTP/1.0 are understood here.")
        if len(target) > self._target_limit:
            return Refusal(414, "target_too_long", f"The request target is longer than {self._target_limit} bytes.")
        if method == b"CONNECT":
            return Refusal(501, "connect", "CONNECT is not supported: this is a reverse proxy.")
        authority = b""
        if target == b"*":
            if method != b"OPTIONS":
                return malformed("The target * is only for OPTIONS.")
        elif target[:1] != b"/":
            scheme, separator, rest = target.partition(b"://")
            if not separator or scheme.lower() not in {b"http", b"https"}:
                return malformed("The request target is neither a path nor an http or https URL.")
            authority, target = _split_absolute(rest, method)
            if b"%" in authority or not is_authority(authority):
                return malformed("The authority in the request target is not a host with an optional port.")
        path = b"/" if target == b"*" else target.partition(b"?")[0]
        if target.translate(None, _TARGET_BYTES).strip(b"\\") or b"\\" in path:
            return malformed("The request target has a character that a URL must not have.")
        same = not authority and version == b"HTTP/1.1"
        forwarded_line = line if same else method + b" " + target + b" HTTP/1.1"
        start = (method, target, path, http10, authority, forwarded_line)
        # Queries vary too much (and may hold secrets).
        if len(line) <= LINE_SIZE_MAX and b"?" not in target:
            if len(self._starts) >= _STARTS_MAX:
                self._starts.clear()
            self._starts[line] = start
        return start

    def _judge_unfit(
        self,
        data: bytes,
        start: int,
        end: int,
        lines: list[bytes],
        trusted: bool,  # noqa: FBT001
    ) -> RequestHead | Refusal | None:
        """Say what is wrong with a complete head that failed the first proof, or skip the empty lines before it."""
        if not lines[0]:
            # > RFC 9112 §2.2: a server SHOULD ignore at least one empty line (CRLF) received prior to the request-line.
            begin = _skip_empty_lines(data, start)
            if begin < 0:
                return malformed("There are too many empty lines before the request line.")
            return self.parse(data, begin, trusted)
        judged = self._judge_start(lines[0])
        if isinstance(judged, Refusal):
            return judged
        if end + 4 - start > self._head_limit:
            return self._too_large()
        if len(lines) > self._field_limit + 1:
            return self._too_many()
        return malformed(_UNCLEAN)

    def _judge_unfinished(self, data: bytes, start: int) -> Refusal | None:
        """Refuse a head whose end has not arrived as soon as something in it is certainly wrong.

        Looks at the request line and at line ends only, and only near the end of what has arrived: a head that
        arrives byte by byte passes here once per byte.
        """
        begin = _skip_empty_lines(data, start)
        if begin < 0:
            return malformed("There are too many empty lines before the request line.")
        size = len(data) - begin
        if size == 0 or (size == 1 and data[begin] == 13):
            return None
        line_end = data.find(b"\r\n", begin, begin + self._head_limit)
        if line_end < 0:
            refusal = self._judge_unfinished_start(data, begin)
            if refusal is not None:
                return refusal
        elif len(data) - line_end <= TAIL:
            judged = self._judge_start(data[begin:line_end])
            if isinstance(judged, Refusal):
                return judged
        if is_unclean(data, begin):
            return malformed(_UNCLEAN)
        if size >= self._head_limit:
            return self._too_large()
        if data[-1] == 10 and data.count(b"\n", begin) > self._field_limit + 1:
            return self._too_many()
        return None

    def _judge_unfinished_start(self, data: bytes, begin: int) -> Refusal | None:
        """Refuse the beginning of a request line that cannot become one."""
        space = data.find(b" ", begin, begin + _METHOD_MAX + 1)
        method = data[begin : space if space >= 0 else begin + _METHOD_MAX + 1]
        if len(method) > _METHOD_MAX or not is_token(method):
            return malformed(f"The method is not a token of at most {_METHOD_MAX} characters.")
        if space >= 0 and len(data) - space - 1 > self._target_limit + len(b" HTTP/1.1\r"):
            return Refusal(414, "target_too_long", f"The request target is longer than {self._target_limit} bytes.")
        return None

    def _too_large(self) -> Refusal:
        return Refusal(431, "head_too_large", f"The head of the request is larger than {self._head_limit} bytes.")

    def _too_many(self) -> Refusal:
        return Refusal(431, "head_too_large", f"The request has more than {self._field_limit} fields.")


def _skip_empty_lines(data: bytes, start: int) -> int:
    """Return the index after the CRLFs at `start`, or -1 when there are too many."""
    begin = start
    while data.startswith(b"\r\n", begin):
        begin += 2
        if begin - start > 2 * _EMPTY_LINES_MAX:
            return -1
    return begin


def _split_absolute(rest: bytes, method: bytes) -> tuple[bytes, bytes]:
    """Split what follows `scheme://` into authority and origin-form target."""
    cut = min((index for index in (rest.find(b"/"), rest.find(b"?")) if index >= 0), default=len(rest))
    authority, target = rest[:cut], rest[cut:]
    if not target:
        # > RFC 9112 §3.2.4: an OPTIONS request with an absolute-form without path and query becomes OPTIONS * at the
        # > last proxy.
        return authority, b"*" if method == b"OPTIONS" else b"/"
    return authority, target if target[:1] == b"/" else b"/" + target


def _split_minted(value: bytes) -> tuple[bytes, bytes]:
    """Take the minted cookie out of a Cookie value; return the rest (the same object if it was not there) and it."""
    kept: list[bytes] = []
    token = b""
    pairs = value.split(b";")
    for pair in pairs:
        name, _, text = pair.partition(b"=")
        if name.strip(OWS) != COOKIE_NAME:
            kept.append(pair)
        elif not token:
            text = text.strip(OWS)
            if len(text) == MINTED_SIZE and not text.translate(None, MINTED_BYTES):
                token = text
    if len(kept) == len(pairs):
        return value, b""
    return b";".join(kept).strip(OWS), token


def _repeated(last: RequestHead, begin: _Start, end: int, received: bytes) -> RequestHead:
    """Return the head of a request whose fields are those of `last`, with another start line."""
    head = RequestHead()
    head.received = received
    head.method, head.target, head.path, head.http10, _, start_line = begin
    head.end = end
    head.host = last.host
    head.keep_alive = last.keep_alive
    head.length = last.length
    head.expect = last.expect
    head.upgrade = last.upgrade
    head.cookie = last.cookie
    head.minted = last.minted
    head.found = last.found
    head.request_id = last.request_id
    head.forwarded_for = last.forwarded_for
    head.forwarded_proto = last.forwarded_proto
    head.forwarded_host = last.forwarded_host
    head.host_line = last.host_line
    head.fields = last.fields
    head.forwarded_fields = last.forwarded_fields
    head.parser = last.parser
    head.block = start_line + last.forwarded_fields
    return head


def _bad_line(line: bytes, lines: list[bytes]) -> Refusal:
    """Say what is wrong with a field line whose name is not one."""
    place = f"Field {lines.index(line)} of the head"
    name, colon, _ = line.partition(b":")
    if line[:1] in {b" ", b"\t"}:
        # > RFC 9112 §5.2: a server that receives an obs-fold in a request MUST either reject the message (400) or
        # > replace it; §2.2: whitespace between the start line and the first field is rejected.
        return malformed(f"{place} begins with whitespace; folded fields are refused.")
    if not colon:
        return malformed(f"{place} has no colon.")
    if name[-1:] in {b" ", b"\t"}:
        # > RFC 9112 §5.1: A server MUST reject, with 400, any request that has whitespace between a field name and
        # > colon.
        return malformed(f"{place} has whitespace between its name and the colon.")
    return malformed(f"{place} has a name that is not a token.")


def _judge_rare(
    head: RequestHead,
    rare: list[tuple[int, bytes, bytes]],
    options: Options,
    edits: list[tuple[bytes, bytes]],
    extra: list[bytes],
    trusted: bool,  # noqa: FBT001
) -> Refusal | None:
    """Judge the fields that most requests do not have. `rare`: kind, line, value after the colon."""
    coding: bytes | None = None
    counted = False
    ends_here = False
    upgrades: list[bytes] = []
    trailers_wanted = False
    trailer_lines: list[bytes] = []
    for kind, line, raw in rare:
        value = raw.strip(OWS)
        if kind == TRANSFER_ENCODING:
            if coding is not None:
                return malformed("The request has more than one Transfer-Encoding field.")
            coding = value
            if line != _CHUNKED_LINE:
                edits.append((line, _CHUNKED_LINE))
            continue
        if kind == TRAILER:
            trailer_lines.append(line)
            continue
        if kind == TRUSTED_ONLY and trusted:
            continue
        if kind == MAX_FORWARDS:
            if head.method in _COUNTED_METHODS:
                if counted or not value.isdigit():
                    return malformed("The Max-Forwards of the request is not one decimal number.")
                counted = True
                ends_here = not value.strip(b"0")
                edits.append((line, line[: line.find(b":")] + b": %d" % (_forwards(value) - 1)))
            continue
        edits.append((line, b""))
        if kind == UPGRADE:
            upgrades.append(value)
        elif kind == TE:
            trailers_wanted = trailers_wanted or b"trailers" in [
                member.strip(OWS) for member in value.lower().split(b",")
            ]
        elif kind == EXPECT:
            # > RFC 9110 §10.1.1: A server that receives a 100-continue expectation in an HTTP/1.0 request MUST ignore
            # > that expectation. Another expectation: MAY respond with 417.
            if not head.http10:
                for member in value.lower().split(b","):
                    expectation = member.strip(OWS)
                    if expectation == b"100-continue":
                        head.expect = True
                    elif expectation:
                        return Refusal(417, "expectation", "The only expectation that can be met is 100-continue.")
        elif kind == REQUEST_ID:
            if not head.request_id and len(value) <= _REQUEST_ID_MAX and not value.translate(None, REQUEST_ID_BYTES):
                head.request_id = value
        elif trusted and value:
            if kind == FORWARDED_FOR:
                head.forwarded_for = head.forwarded_for + b", " + value if head.forwarded_for else value
            elif kind == FORWARDED_PROTO:
                head.forwarded_proto = head.forwarded_proto or value
            elif kind == FORWARDED_HOST:
                head.forwarded_host = head.forwarded_host or value
    if coding is not None:
        refusal = _judge_coding(coding, head)
        if refusal is not None:
            return refusal
        head.length = CHUNKED
    else:
        head.length = max(head.length, 0)
        edits += [(line, b"") for line in trailer_lines]
    if ends_here:
        return _counted_out(head)
    if upgrades and options.upgrade and not head.http10:
        head.upgrade = _offered(b", ".join(upgrades))
    if head.upgrade:
        extra.append(b"Connection: upgrade, TE" if trailers_wanted else b"Connection: upgrade")
        extra.append(b"Upgrade: " + head.upgrade)
    elif trailers_wanted:
        extra.append(b"Connection: TE")
    if trailers_wanted:
        extra.append(b"TE: trailers")
    return None


def _forwards(value: bytes) -> int:
    """Return the number in a Max-Forwards value.

    > RFC 9110 §7.6.2: the lesser of the received value decremented by one, or the recipient's maximum supported value.
    """
    digits = value.lstrip(b"0")
    return min(int(digits or b"0"), LENGTH_MAX) if len(digits) <= 19 else LENGTH_MAX


def _counted_out(head: RequestHead) -> Refusal:
    """Return the answer to a request that Max-Forwards stops here."""
    # > RFC 9110 §7.6.2: If the received value is zero (0), the intermediary MUST NOT forward the request; instead, the
    # > intermediary MUST respond as the final recipient.
    if head.method == b"OPTIONS":
        answer = Refusal(200, "max_forwards", "Max-Forwards is 0: the request ends at this proxy.")
    else:
        answer = Refusal(405, "max_forwards", "Max-Forwards is 0, and this proxy does not answer TRACE itself.")
    if head.keep_alive and not head.http10 and not head.length:
        answer.end = head.end
    return answer


def _judge_coding(coding: bytes, head: RequestHead) -> Refusal | None:
    """Judge the only Transfer-Encoding of a request; `head.length` is negative when there is no Content-Length."""
    if head.http10:
        # > RFC 9112 §6.1: A server or client that receives an HTTP/1.0 message containing a Transfer-Encoding header
        # > field MUST treat the message as if the framing is faulty.
        return malformed("The request is HTTP/1.0 and has a Transfer-Encoding field.")
    if head.length >= 0:
        # > RFC 9112 §6.1: A server MAY reject a request that contains both Content-Length and Transfer-Encoding.
        return malformed("The request has both a Content-Length and a Transfer-Encoding field.")
    coding = coding.lower()
    if coding == b"chunked":
        return None
    codings = [member.strip(OWS) for member in coding.split(b",")]
    if codings[-1] == b"chunked" and codings.count(b"chunked") == 1 and all(map(is_token, codings)):
        # > RFC 9112 §6.1: A server that receives a request message with a transfer coding it does not understand
        # > SHOULD respond with 501.
        return Refusal(501, "coding", "The only transfer coding understood here is chunked.")
    # > RFC 9112 §6.3: If chunked is not the final encoding the server MUST respond with 400 and close the connection.
    return malformed("The Transfer-Encoding of the request is not chunked.")


def _offered(value: bytes) -> bytes:
    """Return the protocols of an Upgrade value that may be forwarded (RFC 9110 §7.8), or b"".

    `h2c` is not: the endpoint would answer in a protocol that nobody here can follow (RFC 9113 removed it).
    """
    kept: list[bytes] = []
    for member in value.split(b","):
        protocol = member.strip(OWS)
        if not protocol or protocol.lower() == b"h2c":
            continue
        name, slash, version = protocol.partition(b"/")
        if not is_token(name) or (slash and not is_token(version)):
            return b""
        kept.append(protocol)
    return b", ".join(kept)
