"""Field names and values: which bytes they may have, and what a name means to a proxy.

Nouns: *kind* (a small integer: what the parsers do with a field of that name), *names* (a bounded memo from a name
as received, case and all, to its kind, so that a name is checked as a token once and not at every request),
*lines* (a bounded memo of whole lines and what they say: clients and endpoints repeat them).

Rules: a name is a token (RFC 9110 §5.1), directly followed by a colon (RFC 9112 §5.1); a value has visible ASCII,
obs-text, SP and HTAB (RFC 9110 §5.5); anything else never passes. A field whose name only differs from one of ours
by `_` for `-` is removed: CGI-like endpoints cannot tell the two apart, and nginx does the same.
"""

from __future__ import annotations

OWS = b" \t"
DIGITS = b"0123456789"
ALPHA = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
# > RFC 9110 §5.6.2: tchar = "!" / "#" / "$" / "%" / "&" / "'" / "*" / "+" / "-" / "." / "^" / "_" / "`" / "|" / "~"
# > / DIGIT / ALPHA
TOKEN_BYTES = b"!#$%&'*+-.^_`|~" + DIGITS + ALPHA
# > RFC 9110 §5.5: field-vchar = VCHAR / obs-text; inside a value SP and HTAB too. CR, LF and the rest remain.
FIELD_BYTES = b"\t" + bytes(range(0x20, 0x7F)) + bytes(range(0x80, 0x100))
MINTED_BYTES = ALPHA + DIGITS + b"-_"
REQUEST_ID_BYTES = ALPHA + DIGITS + b"._~+/=-"
LENGTH_MAX = (1 << 63) - 1

TAIL = 2048

UNKNOWN = -1
ORDINARY = 0  # forwarded as it is
VARYING = 1  # forwarded as it is, and not worth (or, being secret, not fit for) the memo of lines
HOST = 2
COOKIE = 3
CONNECTION = 4
CONTENT_LENGTH = 5
TRANSFER_ENCODING = 6
UPGRADE = 7
TRAILER = 8
DROP = 9
TE = 10
EXPECT = 11
REQUEST_ID = 12
FORWARDED_FOR = 13
FORWARDED_PROTO = 14
FORWARDED_HOST = 15
TRUSTED_ONLY = 16
CACHE_CONTROL = 17
CONTENT_TYPE = 18
MAX_FORWARDS = 19
WATCHED = 64  # flag: the value is handed over in `RequestHead.found`

REQUEST_KINDS: dict[bytes, int] = {
    b"host": HOST,
    b"cookie": COOKIE,
    b"connection": CONNECTION,
    b"content-length": CONTENT_LENGTH,
    b"transfer-encoding": TRANSFER_ENCODING,
    b"upgrade": UPGRADE,
    b"trailer": TRAILER,
    b"keep-alive": DROP,
    b"proxy-connection": DROP,
    b"http2-settings": DROP,  # belongs to `Upgrade: h2c`, which is not forwarded
    b"te": TE,
    b"expect": EXPECT,
    b"max-forwards": MAX_FORWARDS,
    b"x-request-id": REQUEST_ID,
    b"x-forwarded-for": FORWARDED_FOR,
    b"x-forwarded-proto": FORWARDED_PROTO,
    b"x-forwarded-host": FORWARDED_HOST,
    b"forwarded": TRUSTED_ONLY,
    b"x-real-ip": TRUSTED_ONLY,
    **dict.fromkeys(
        (
            b"authorization",
            b"proxy-authorization",
            b"x-api-key",
            b"x-auth-token",
            b"x-csrf-token",
            b"if-none-match",
            b"if-modified-since",
            b"referer",
            b"range",
            b"traceparent",
            b"tracestate",
            b"baggage",
            b"idempotency-key",
            b"sec-websocket-key",
        ),
        VARYING,
    ),
}

RESPONSE_KINDS: dict[bytes, int] = {
    b"connection": CONNECTION,
    b"content-length": CONTENT_LENGTH,
    b"transfer-encoding": TRANSFER_ENCODING,
    b"upgrade": UPGRADE,
    b"trailer": TRAILER,
    b"keep-alive": DROP,
    b"proxy-connection": DROP,
    b"cache-control": CACHE_CONTROL,
    b"content-type": CONTENT_TYPE,
    **dict.fromkeys(
        (
            b"etag",
            b"last-modified",
            b"expires",
            b"age",
            b"location",
            b"set-cookie",
            b"content-range",
            b"content-disposition",
            b"x-request-id",
            b"server-timing",
            b"sec-websocket-accept",
        ),
        VARYING,
    ),
}

# Connection must not be a way to take these from a message (RFC 9110 §7.6.1 forbids naming them; Envoy refuses such
# a request): a name in this set is not obeyed.
PROTECTED = frozenset(
    {
        b"host",
        b"cookie",
        b"content-length",
        b"transfer-encoding",
        b"trailer",
        b"forwarded",
        b"x-real-ip",
        b"x-request-id",
        b"x-forwarded-for",
        b"x-forwarded-proto",
        b"x-forwarded-host",
    }
)

_NAMES_MAX = 2048
_NAME_SIZE_MAX = 64
_LINES_MAX = 2048
LINE_SIZE_MAX = 256


def is_token(name: bytes) -> bool:
    """Tell whether `name` is a token of RFC 9110 §5.6.2."""
    return name != b"" and not name.translate(None, TOKEN_BYTES)


def http_major(version: bytes) -> int:
    """Return the major of `HTTP/d.d` (RFC 9112 §2.3: upper case, one digit each), -1 when it is not a version."""
    if len(version) != 8 or version[:5] != b"HTTP/" or version[6:7] != b".":
        return -1
    return int(version[5:6]) if (version[5:6] + version[7:]).isdigit() else -1


class Names:
    """Kinds of field names by exact bytes; bounded.

    `known` is for look-ups in the request path; what is missing there goes through `learn`.
    """

    __slots__ = ("_kinds", "known")

    def __init__(self, kinds: dict[bytes, int], watch: frozenset[bytes] = frozenset()) -> None:
        self._kinds = dict(kinds)
        for name in watch:
            lower = name.lower()
            self._kinds[lower] = kinds.get(lower, ORDINARY) | WATCHED
        self.known: dict[bytes, int] = {}

    def learn(self, name: bytes) -> int:
        """Return the kind of `name`, or `UNKNOWN` when it is no token."""
        if not is_token(name):
            return UNKNOWN
        lower = name.lower()
        kind = self._kinds.get(lower, ORDINARY)
        if kind == ORDINARY and b"_" in lower:
            twin = self._kinds.get(lower.replace(b"_", b"-"), ORDINARY) & ~WATCHED
            kind = DROP if twin > VARYING else ORDINARY
        if len(name) <= _NAME_SIZE_MAX:
            if len(self.known) >= _NAMES_MAX:
                self.known.clear()
            self.known[name] = kind
        return kind


class Options:
    """What a Connection value says: `close`, `keep_alive`, `upgrade`, and the other names, lower case, to remove."""

    __slots__ = ("close", "keep_alive", "names", "upgrade")

    def __init__(self, value: bytes) -> None:
        # Empty members are allowed in lists (RFC 9110 §5.6.1); what is no token names no field and has no effect.
        members = {member.strip(OWS) for member in value.lower().split(b",")}
        self.close = b"close" in members
        self.keep_alive = b"keep-alive" in members
        self.upgrade = b"upgrade" in members
        members -= {b"close", b"keep-alive", b"upgrade", b"te", b""}
        self.names = frozenset(members - PROTECTED)

    def joined(self, other: Options) -> Options:
        """Return what two Connection fields say together."""
        options = Options(b"")
        options.close = self.close or other.close
        options.keep_alive = self.keep_alive or other.keep_alive
        options.upgrade = self.upgrade or other.upgrade
        options.names = self.names | other.names
        return options


NO_OPTIONS = Options(b"")


class Line:
    """What a single line says by itself, worked out once.

    `kind` and, by kind, `text` (HOST: the authority), `number` (CONTENT_LENGTH), `options` (CONNECTION);
    `forward` is the line to forward in its place, `b""` for none, and the line itself where nothing changes.
    """

    __slots__ = ("forward", "kind", "number", "options", "text")

    def __init__(self, kind: int, forward: bytes, *, text: bytes = b"", number: int = 0) -> None:
        self.kind = kind
        self.forward = forward
        self.text = text
        self.number = number
        self.options = NO_OPTIONS


class Lines:
    """Lines that were seen before; bounded in number and size. Lines of secrets are not kept.

    `ordinary` holds those with which there is nothing to do, `known` the others. Both were proven to have no byte
    that is not allowed.
    """

    __slots__ = ("known", "ordinary")

    def __init__(self) -> None:
        self.ordinary: set[bytes] = set()
        self.known: dict[bytes, Line] = {}

    def remember(self, line: bytes) -> None:
        """Keep an ordinary line if it is short."""
        if len(line) <= LINE_SIZE_MAX:
            if len(self.ordinary) >= _LINES_MAX:
                self.ordinary.clear()
            self.ordinary.add(line)

    def learn(self, line: bytes, meaning: Line) -> None:
        """Keep the meaning of a line if it is short."""
        if len(line) <= LINE_SIZE_MAX:
            if len(self.known) >= _LINES_MAX:
                self.known.clear()
            self.known[line] = meaning


def named(lines: list[bytes], names: frozenset[bytes]) -> list[tuple[bytes, bytes]]:
    """Return the edits that remove the fields in `lines` (start line first) that Connection named."""
    return [(line, b"") for line in lines[1:] if line[: line.find(b":")].lower() in names]


def rebuild(
    block: bytes, lines: list[bytes], start_line: bytes, edits: list[tuple[bytes, bytes]], extra: list[bytes]
) -> bytes:
    """Return `block`, which consists of `lines`, as it is forwarded.

    `edits`: (line, new line or `b""` to remove it), one for each time that a line is to be changed. Two equal lines
    have equal edits, because an edit depends on nothing but the line. `extra`: lines to put behind the others.
    """
    if len(edits) == 1 and not extra and start_line == lines[0]:
        old, new = edits[0]
        return block.replace(b"\r\n" + old + b"\r\n", b"\r\n" + new + b"\r\n" if new else b"\r\n", 1)
    changes = dict(edits)
    kept = [changes.get(line, line) for line in lines[1:]]
    return b"\r\n".join([start_line, *filter(None, kept), *extra, b""])


def is_unclean(data: bytes, begin: int) -> bool:
    """Tell whether a bare CR or LF, or NUL, is in the last `TAIL` bytes of a head from `begin` on that has no end yet.

    What came before was looked at when it came, or will be when the head is whole: a head that arrives byte by byte
    must not be searched from its beginning at every byte.
    """
    if len(data) - begin > TAIL:
        begin = data.find(b"\n", len(data) - TAIL) + 1 or len(data) - TAIL
    pairs = data.count(b"\r\n", begin)
    return (
        data.count(b"\n", begin) != pairs
        or data.count(b"\r", begin) - data.endswith(b"\r", begin) != pairs
        or data.find(b"\0", begin) >= 0
    )


def parse_length(value: bytes) -> int:
    """Return the number in a Content-Length value without its whitespace, or -1 when it is not one.

    > RFC 9110 §8.6: Content-Length = 1*DIGIT. A recipient MUST anticipate potentially large decimal numerals.
    Lists (`5, 5`), signs and hexadecimal are refused; more than 2^63-1 too.
    """
    if not value.isdigit():
        return -1
    digits = value.lstrip(b"0")
    if len(digits) > 19:
        return -1
    length = int(digits or b"0")
    return length if length <= LENGTH_MAX else -1
