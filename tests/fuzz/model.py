"""A second reading of what a stream of requests or answers means, written from the RFCs and not from the proxy.

It is slow and plain: regular expressions over the whole stream. Where it and the proxy differ, one of them is wrong.

*Meaning*: one request that may reach an endpoint: method, target, authority, body, trailers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from ipaddress import AddressValueError, IPv6Address

TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
VALUE = rb"[\t\x20-\x7e\x80-\xff]*"
EXTENSION = rb"[ \t]*(?:;" + VALUE + rb")?"  # RFC 9112 §7.1.1: one that nobody knows is ignored
CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})(" + EXTENSION + rb")\Z")
FIELD = re.compile(rb"(" + TOKEN + rb"):(" + VALUE + rb")\Z")
REQUEST_LINE = re.compile(rb"(" + TOKEN + rb") ([^ ]+) HTTP/([0-9])\.([0-9])\Z")
REG_NAME = re.compile(rb"(?:[A-Za-z0-9\-._~!$&'()*+,;=]|%[0-9A-Fa-f]{2})+(?::[0-9]*)?\Z")
FUTURE = rb"[vV][0-9A-Fa-f]+\.[A-Za-z0-9\-._~!$&'()*+,;=:]+"
LITERAL = re.compile(rb"\[([0-9A-Fa-f:.]+|" + FUTURE + rb")\](?::[0-9]*)?\Z")
PCHAR = rb"[A-Za-z0-9\-._~!$&'()*+,;=:@/%\[\]{}|^`]"
PATH = re.compile(rb"/" + PCHAR + rb"*(?:\?(?:" + PCHAR + rb"|[?\\])*)?\Z")
TRAILERS_DROPPED = set(
    b"age authorization cache-control connection content-encoding content-length content-range content-type cookie "
    b"date expect expires forwarded host if-match if-modified-since if-none-match if-range if-unmodified-since "
    b"keep-alive location max-forwards pragma proxy-authenticate proxy-authorization proxy-connection range "
    b"retry-after set-cookie te trailer transfer-encoding upgrade vary via warning www-authenticate x-forwarded-for "
    b"x-forwarded-host x-forwarded-proto x-real-ip x-request-id".split()
)


class Wrong(Exception):
    """The stream goes no further from here."""


class Unfinished(Exception):
    """The stream ends before the message does."""


@dataclass
class Meaning:
    """One message as it must arrive."""

    method: bytes = b""
    target: bytes = b""
    host: bytes | None = None
    status: int = 0
    body: bytes = b""
    trailers: list[bytes] = field(default_factory=list)
    keep: bool = True
    lines: list[bytes] = field(default_factory=list)


@dataclass
class Reading:
    """What a stream means: whole messages, then its end: "clean", "unfinished", "wrong", "closed"."""

    messages: list[Meaning] = field(default_factory=list)
    end: str = "clean"
    begun: Meaning | None = None  # a message whose head is good and whose body is not whole
    interims: int = 0
    asked: list[bytes] = field(default_factory=list)  # methods, also of requests that the proxy answers, and goes on
    rest: bytes = b""  # of requests: from the message on that is not whole or not good


def _head(data: bytes, at: int, most: int, blanks: bytes = b"") -> tuple[bytes, list[tuple[bytes, bytes, bytes]], int]:
    end = data.find(b"\r\n\r\n", at)
    if end < 0:
        raise Unfinished
    start, *lines = data[at:end].split(b"\r\n")
    if not re.match(VALUE + rb"\Z", start) or len(lines) > most:
        raise Wrong
    fields = []
    for line in lines:
        name, colon, value = line.partition(b":")
        match = FIELD.match(name.rstrip(blanks) + colon + value)
        if match is None:
            raise Wrong
        fields.append((match[1].lower(), match[2].strip(b" \t"), line))
    return start, fields, end + 4


def _members(values: list[bytes]) -> list[bytes]:
    return [member.strip(b" \t").lower() for value in values for member in value.split(b",") if member.strip(b" \t")]


def _length(values: list[bytes]) -> int:
    if len(values) != 1 or not re.match(rb"[0-9]+\Z", values[0]) or int(values[0]) >= 1 << 63:
        raise Wrong
    return int(values[0])


def _chunks(data: bytes, at: int, meaning: Meaning) -> int:
    while True:
        end = data.find(b"\r\n", at)
        if end < 0:
            raise Unfinished
        match = CHUNK_LINE.match(data[at:end])
        if match is None or int(match[1], 16) >= 1 << 63:
            raise Wrong
        size, at = int(match[1], 16), end + 2
        if not size:
            break
        meaning.body += data[at : at + size]
        tail = data[at + size : at + size + 2]
        if not b"\r\n".startswith(tail):
            raise Wrong
        if len(tail) < 2:
            raise Unfinished
        at += size + 2
    lines = []
    while True:
        end = data.find(b"\r\n", at)
        if end < 0:
            raise Unfinished
        if end == at:
            break
        lines.append(data[at:end])
        at = end + 2
    if len(lines) > 64:
        raise Wrong
    for line in lines:
        match = FIELD.match(line)
        if match is None:
            raise Wrong
        if match[1].lower().replace(b"_", b"-") not in TRAILERS_DROPPED:
            meaning.trailers.append(line)
    return at + 2


def is_authority(text: bytes) -> bool:
    """Tell whether `text` is a host with an optional port."""
    match = REG_NAME.match(text) or LITERAL.match(text)
    if match is None:
        return False
    if match.re is LITERAL and match[1][:1] not in b"vV":
        try:
            IPv6Address(match[1].decode())
        except AddressValueError:
            return False
    return True


def _request(data: bytes, at: int, reading: Reading) -> int:
    for _ in range(4):
        at += 2 if data.startswith(b"\r\n", at) else 0
    start, fields, at = _head(data, at, 128)
    match = REQUEST_LINE.match(start)
    if match is None or match[3] != b"1" or len(match[1]) > 64 or match[1] == b"CONNECT":
        raise Wrong
    old = match[4] == b"0"
    said = Meaning(match[1], match[2])

    def values(name: bytes) -> list[bytes]:
        return [value for key, value, _ in fields if key == name]

    hosts = values(b"host")
    if len(hosts) > 1 or (not hosts and not old) or not all(is_authority(host) for host in hosts):
        raise Wrong
    said.host = hosts[0] if hosts else None
    absolute = re.match(rb"(?i)https?://([^/?]*)(.*)\Z", said.target)
    if absolute:
        said.host, rest = absolute[1], absolute[2]
        if b"%" in said.host or not is_authority(said.host):
            raise Wrong
        said.target = rest if rest[:1] == b"/" else b"/" + rest
        if not rest and said.method == b"OPTIONS":
            said.target = b"*"
    if not (said.target == b"*" and said.method == b"OPTIONS") and not PATH.match(said.target):
        raise Wrong
    options = _members(values(b"connection"))
    said.keep = b"close" not in options and (not old or b"keep-alive" in options)
    if not old and any(member != b"100-continue" for member in _members(values(b"expect"))):
        raise Wrong
    counted = values(b"max-forwards")
    ends_here = False
    if counted and said.method in {b"OPTIONS", b"TRACE"}:
        if len(counted) > 1 or not re.match(rb"[0-9]+\Z", counted[0]):
            raise Wrong
        ends_here = not counted[0].strip(b"0")
    lengths, codings = values(b"content-length"), values(b"transfer-encoding")
    if codings:
        if old or lengths or len(codings) > 1 or codings[0].lower() != b"chunked":
            raise Wrong
        if ends_here:
            raise Wrong
        reading.begun = said
        at = _chunks(data, at, said)
    elif lengths:
        length = _length(lengths)
        if length and ends_here:
            raise Wrong
        reading.begun = said
        said.body = data[at : at + length]
        if len(said.body) < length:
            raise Unfinished
        at += length
    reading.begun = None
    if ends_here:
        if old or not said.keep:
            raise Wrong
    else:
        reading.messages.append(said)
    reading.asked.append(said.method)
    return at


def read_requests(data: bytes) -> Reading:
    """Return what a client's stream means."""
    reading = Reading()
    at = 0
    try:
        while at < len(data):
            at = _request(data, at, reading)
            if reading.messages and not reading.messages[-1].keep:
                reading.end = "closed"
                break
    except Unfinished:
        reading.end = "unfinished"
    except Wrong:
        reading.end = "wrong"
    reading.rest = data[at:]
    return reading


def _answer(data: bytes, method: bytes, reading: Reading) -> None:
    at = 0
    while True:
        begin = at
        start, fields, at = _head(data, at, 256, b" \t")  # RFC 9112 §5.1: a proxy removes them there
        match = re.match(rb"HTTP/1\.([0-9]) ([1-9][0-9]{2})(?: |\Z)", start)
        if match is None:
            raise Wrong
        said = Meaning(status=int(match[2]))
        lengths = [value for key, value, _ in fields if key == b"content-length"]
        codings = [value for key, value, _ in fields if key == b"transfer-encoding"]
        length = _length(lengths) if lengths else None
        if codings and (len(codings) > 1 or lengths or codings[0].lower() != b"chunked" or match[1] == b"0"):
            raise Wrong
        if said.status == 101 or at - begin > 64 * 1024:
            raise Wrong
        if said.status >= 200:
            break
        reading.interims += 1
    reading.begun = said
    if method == b"HEAD" or said.status in {204, 304}:
        pass
    elif codings:
        at = _chunks(data, at, said)
    elif length is None:
        said.body, at = data[at:], len(data)
    else:
        said.body = data[at : at + length]
        if len(said.body) < length:
            raise Unfinished
        at += length
    reading.begun = None
    reading.messages.append(said)


def read_answer(data: bytes, method: bytes) -> Reading:
    """Return what an endpoint's stream, which ends behind `data`, means as the answer to `method`."""
    reading = Reading()
    try:
        _answer(data, method, reading)
    except Unfinished:
        reading.end = "unfinished"
    except Wrong:
        reading.end = "wrong"
    return reading
