"""The PROXY protocol: what a balancer in front of us says about its client before the client's own bytes.

A *preface* is version 1 (a line of text) or version 2 (a binary block with optional TLVs). It is required where a
listener has it switched on: guessing would let every client write its own address. This file is pure: bytes in, a
`Preface` out. It reads strictly, for a balancer makes no mistakes, and whoever else does is none.

Rules: LOCAL, UNKNOWN, UNSPEC and transports that are not streams leave the connection's own address in force; unix
clients have none; TLVs are walked and skipped; a checksum (CRC32C) that is there must be right.

Source: https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt, sections 2.1, 2.2 and 2.2.3; RFC 3720 appendix
B.4 for the checksum.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

V1 = b"PROXY "
V2 = b"\r\n\r\n\x00\r\nQUIT\n"
V1_LONGEST = 107
_V2_HEAD = 16
_LOCAL, _PROXY = 0x20, 0x21
_LONE_PORT = re.compile(rb"0|[1-9][0-9]{0,4}")
# family and transport → bytes of one address, and of the whole address block
_BLOCKS = {
    0x00: (0, 0),
    0x11: (4, 12),
    0x12: (4, 12),
    0x21: (16, 36),
    0x22: (16, 36),
    0x31: (108, 216),
    0x32: (108, 216),
}
_TCP = {0x11, 0x21}
_UNIX_STREAM = 0x31
_TLV_CRC32C = 0x03


class Malformed(ValueError):
    """These bytes begin no preface."""


@dataclass(frozen=True, slots=True)
class Preface:
    """A whole preface of `end` bytes.

    `source`: the client's address as text, b"" for a unix client, `None`: the connection's own address stands.
    """

    end: int
    source: bytes | None


def parse(data: bytes) -> Preface | None:
    """Return the preface that `data` begins with, `None` while it is not whole; raise `Malformed`."""
    if data[:1] == b"P":
        return _text(data)
    if not V2.startswith(data[: len(V2)]):
        raise Malformed("no signature of the PROXY protocol")
    return _binary(data)


def _text(data: bytes) -> Preface | None:
    end = data.find(b"\r\n", 0, V1_LONGEST)
    if not V1.startswith(data[: len(V1)]) or (end < 0 and len(data) >= V1_LONGEST):
        raise Malformed("no line of the PROXY protocol")
    if end < 0:
        return None
    words = data[len(V1) : end].split(b" ")
    if words[0] == b"UNKNOWN":
        return Preface(end + 2, None)
    kinds: dict[bytes, type[IPv4Address | IPv6Address]] = {b"TCP4": IPv4Address, b"TCP6": IPv6Address}
    if len(words) != 5 or words[0] not in kinds:
        raise Malformed("neither TCP4, TCP6 nor UNKNOWN")
    kind = kinds[words[0]]
    if b"%" in words[1] + words[2]:
        raise Malformed("an address has a zone, which means something on one machine only")
    try:
        source, _ = kind(words[1].decode("ascii")), kind(words[2].decode("ascii"))
    except ValueError:
        raise Malformed("an address is wrong") from None
    for port in words[3:]:
        if not _LONE_PORT.fullmatch(port) or int(port) > 65535:
            raise Malformed("a port is wrong")
    return Preface(end + 2, _plain(source))


def _binary(data: bytes) -> Preface | None:
    if len(data) < _V2_HEAD:
        return None
    command, family = data[12], data[13]
    end = _V2_HEAD + int.from_bytes(data[14:16], "big")
    if command not in (_LOCAL, _PROXY) or (command == _PROXY and family not in _BLOCKS):
        raise Malformed("an unknown version, command or family")
    # > Section 2.2: The receiver must accept this connection as valid and must use the real connection endpoints and
    # > discard the protocol block including the family which is ignored.
    address, block = _BLOCKS[family] if command == _PROXY else (0, 0)
    if end - _V2_HEAD < block:
        raise Malformed("shorter than its addresses")
    if len(data) < end:
        return None
    if command == _LOCAL:
        return Preface(end, None)
    _walk(data[:end], _V2_HEAD + block)
    if family == _UNIX_STREAM:
        return Preface(end, b"")
    if family not in _TCP:
        return Preface(end, None)
    source = data[_V2_HEAD : _V2_HEAD + address]
    return Preface(end, _plain(IPv4Address(source) if address == 4 else IPv6Address(source)))


def _walk(whole: bytes, at: int) -> None:
    """Raise `Malformed` unless TLVs fill the block, and a checksum among them is right."""
    while at < len(whole):
        size = int.from_bytes(whole[at + 1 : at + 3], "big")
        value = at + 3
        if value > len(whole) or value + size > len(whole):
            raise Malformed("a TLV is longer than the block")
        if whole[at] == _TLV_CRC32C:
            zeroed = whole[:value] + bytes(size) + whole[value + size :]
            if size != 4 or crc32c(zeroed) != int.from_bytes(whole[value : value + 4], "big"):
                raise Malformed("the checksum is wrong")
        at = value + size


def _plain(address: IPv4Address | IPv6Address) -> bytes:
    """Return an address as text, an IPv4 one as such even where it came as IPv6."""
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return str(mapped or address).encode()


def crc32c(data: bytes) -> int:
    """Return the CRC32C (Castagnoli) of `data`."""
    value = 0xFFFF_FFFF
    for byte in data:
        value = value >> 8 ^ _TABLE[(value ^ byte) & 0xFF]
    return value ^ 0xFFFF_FFFF


def _table() -> tuple[int, ...]:
    values = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F6_3B78 if value & 1 else 0)
        values.append(value)
    return tuple(values)


_TABLE = _table()
