"""What the parsers hand over: a judged head, or a refusal.

The problem: an exchange must know everything about a message before its first body byte, and the next hop must get
a head in which nothing is left to interpret. Nouns: *head* (start line and fields of one message), *block* (the head
as it is forwarded, every line ended by CRLF, without the empty line that ends it), *refusal* (why a message goes no
further). All of them are plain records: the parsers fill them, nobody else writes to them.

Sources: RFC 9110 (semantics), RFC 9112 (HTTP/1.1).
"""

from __future__ import annotations

CHUNKED = -1  # `length` of a body in chunked coding
UNTIL_CLOSE = -2  # `length` of a response body that ends with the connection
COOKIE_NAME = b"tidegate"  # the cookie that the proxy mints
REMEMBERED_HEAD = 4096  # a larger head is not kept to be compared with the next one of its connection
MINTED_SIZE = 22  # its value: 128 random bits in base64url


class Refusal:
    """Why a message goes no further.

    `status` and `reason` are a pair of `proxy.ipc.layout.LOCAL_REPLIES`; `detail` is one sentence that names the
    place and never repeats what was received. `end` is the index just after a request that is answered here and has
    nothing unread behind it: its connection goes on. 0: it ends.
    """

    __slots__ = ("detail", "end", "reason", "status")

    def __init__(self, status: int, reason: str, detail: str) -> None:
        self.status = status
        self.reason = reason
        self.detail = detail
        self.end = 0

    def __repr__(self) -> str:
        return f"Refusal({self.status}, {self.reason!r}, {self.detail!r})"


def malformed(detail: str) -> Refusal:
    """Return the refusal of a request that is not HTTP/1.1 as the RFCs write it."""
    return Refusal(400, "malformed", detail)


class RequestHead:
    """A request that may be forwarded.

    `end` is the index just after the head. `target` is what the endpoint gets, byte for byte (origin-form, or `*`);
    `path` is for matching: the target up to `?`, and `/` for `*`. `host` is the effective authority: of the
    absolute-form target if there was one, else of Host; empty only in HTTP/1.0. `length` is at least 0, or `CHUNKED`.
    `upgrade` is what the client offers, in HTTP/1.1 with `Connection: upgrade`, else empty. `cookie` holds all
    cookies but the minted one, joined with `"; "`; `minted` is the minted cookie's value if well formed. `found` has
    the watched fields by lower-case name, the first value of a repeated one. `forwarded_…` come from trusted peers
    only. `host_line` is the Host line in `block`, CRLF included, or empty.

    `received` is the whole head as it came, `fields` its field lines, CRLF before and behind, and `forwarded_fields`
    what they became in `block`; `fields` is empty when that depends on the start line. `parser` judged them. One head
    may stand for several requests of a connection: nobody changes it.

    Not in `block`: hop-by-hop fields, Expect, X-Request-Id, X-Forwarded-For/-Proto/-Host, the minted cookie.
    """

    __slots__ = (
        "block",
        "cookie",
        "end",
        "expect",
        "fields",
        "forwarded_fields",
        "forwarded_for",
        "forwarded_host",
        "forwarded_proto",
        "found",
        "host",
        "host_line",
        "http10",
        "keep_alive",
        "length",
        "method",
        "minted",
        "parser",
        "path",
        "received",
        "request_id",
        "target",
        "upgrade",
    )

    end: int
    method: bytes
    target: bytes
    path: bytes
    host: bytes
    http10: bool
    keep_alive: bool
    length: int
    expect: bool
    upgrade: bytes
    cookie: bytes
    minted: bytes
    found: dict[bytes, bytes] | None
    request_id: bytes
    forwarded_for: bytes
    forwarded_proto: bytes
    forwarded_host: bytes
    block: bytes
    host_line: bytes
    received: bytes
    fields: bytes
    forwarded_fields: bytes
    parser: object


class ResponseHead:
    """A response that may be forwarded.

    `keep_alive`: the endpoint's connection may be used again once the message is complete. `length` is at least 0,
    `CHUNKED` or `UNTIL_CLOSE`; 0 wherever method or status forbid a body. `upgrade` is set for 101. `shared`: a cookie
    must not be minted on it (304, or `Cache-Control: public`). `found` has the watched fields that the client gets, by
    lower-case name, the first value of a repeated one; `None` where there are none, and with 1xx. `dated`: it has a
    Date. Not in `block`: hop-by-hop fields, Transfer-Encoding.

    `received`, `bodiless` (the answer to a HEAD) and `parser` are what it was made from. One head may stand for several
    responses: nobody changes it.
    """

    __slots__ = (
        "block",
        "bodiless",
        "dated",
        "end",
        "event_stream",
        "found",
        "http10",
        "keep_alive",
        "length",
        "parser",
        "received",
        "shared",
        "status",
        "upgrade",
    )

    end: int
    status: int
    http10: bool
    keep_alive: bool
    length: int
    upgrade: bytes
    shared: bool
    event_stream: bool
    found: dict[bytes, bytes] | None
    block: bytes
    dated: bool
    received: bytes
    bodiless: bool
    parser: object
