"""The PROXY protocol's header: the specification's examples, every cut, and whatever else may come."""

from __future__ import annotations

import socket
import struct
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.dataplane.preface import V1_LONGEST, V2, Malformed, Preface, crc32c, parse

SIGNATURE = b"\x0d\x0a\x0d\x0a\x00\x0d\x0a\x51\x55\x49\x54\x0a"


def v2(family: int, block: bytes, *, command: int = 0x21) -> bytes:
    return SIGNATURE + bytes([command, family]) + struct.pack("!H", len(block)) + block


def tlv(kind: int, value: bytes) -> bytes:
    return struct.pack("!BH", kind, len(value)) + value


INET = socket.inet_aton("192.0.2.7") + socket.inet_aton("198.51.100.1") + struct.pack("!HH", 56324, 443)
INET6 = ip_address("2001:db8::7").packed + ip_address("2001:db8::1").packed + struct.pack("!HH", 56324, 443)
UNIX = b"/run/client.sock".ljust(108, b"\0") + b"/run/server.sock".ljust(108, b"\0")


def with_checksum(family: int, block: bytes, *tlvs: bytes) -> bytes:
    whole = v2(family, block + tlv(0x03, bytes(4)) + b"".join(tlvs))
    at = whole.index(tlv(0x03, bytes(4)), 16) + 3
    return whole[:at] + struct.pack("!I", crc32c(whole)) + whole[at + 4 :]


GOOD = [
    # Section 2.1: the examples of version 1, the longest line of each kind among them.
    (b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n", b"192.168.0.1"),
    (b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n", b"255.255.255.255"),
    (
        b"PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n",
        b"ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
    ),
    (b"PROXY UNKNOWN\r\n", None),
    (b"PROXY UNKNOWN " + b" ".join([b":".join([b"ffff"] * 8)] * 2) + b" 65535 65535\r\n", None),
    (b"PROXY TCP6 ::ffff:192.0.2.1 2001:db8::1 0 1\r\n", b"192.0.2.1"),
    # Section 2.2: version 2.
    (v2(0x11, INET), b"192.0.2.7"),
    (v2(0x21, INET6), b"2001:db8::7"),
    (v2(0x21, ip_address("::ffff:192.0.2.7").packed + INET6[16:]), b"192.0.2.7"),
    (v2(0x31, UNIX), b""),
    (v2(0x00, b""), None),
    (v2(0x00, b"ignored, as TLVs are", command=0x20), None),
    (v2(0x77, b"", command=0x20), None),
    (v2(0x12, INET), None),
    (v2(0x22, INET6), None),
    (v2(0x11, INET + tlv(0x01, b"h2") + tlv(0x04, b"") + tlv(0xEA, b"x" * 300)), b"192.0.2.7"),
    (with_checksum(0x11, INET, tlv(0x02, b"shop.test")), b"192.0.2.7"),
    (with_checksum(0x00, b""), None),
]
BAD = [
    b"GET / HTTP/1.1\r\n",
    b"\x16\x03\x01\x02\x00",
    b"PROXY\r\n",
    b"PROXY TCP4\r\n",
    b"PROXY TCP5 192.0.2.1 192.0.2.2 1 2\r\n",
    b"PROXY UDP4 192.0.2.1 192.0.2.2 1 2\r\n",
    b"PROXY tcp4 192.0.2.1 192.0.2.2 1 2\r\n",
    b"PROXY  TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
    b"PROXY TCP4 192.0.2.1  192.0.2.2 1 2\r\n",
    b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2 \r\n",
    b"PROXY TCP4 192.0.2.1 192.0.2.2 1\r\n",
    b"PROXY TCP4 192.0.2.01 192.0.2.2 1 2\r\n",
    b"PROXY TCP4 192.0.2.256 192.0.2.2 1 2\r\n",
    b"PROXY TCP4 2001:db8::1 2001:db8::2 1 2\r\n",
    b"PROXY TCP6 192.0.2.1 192.0.2.2 1 2\r\n",
    b"PROXY TCP4 192.0.2.1 192.0.2.2 01 2\r\n",
    b"PROXY TCP4 192.0.2.1 192.0.2.2 65536 2\r\n",
    b"PROXY TCP4 192.0.2.1 192.0.2.2 -1 2\r\n",
    b"PROXY TCP4 192.0.2.\xb2 192.0.2.2 1 2\r\n",
    b"PROXY TCP6 fe80::1%eth0 2001:db8::2 1 2\r\n",
    b"PROXY UNKNOWNS\r\n",
    b"PROXY UNKNOWN " + b"x" * V1_LONGEST,
    b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\n" + b"x" * V1_LONGEST,
    SIGNATURE[:-1] + b"\x0b",
    v2(0x11, INET, command=0x11),
    v2(0x11, INET, command=0x22),
    v2(0x13, INET),
    v2(0x41, INET),
    v2(0x11, INET[:-1]),
    v2(0x21, INET),
    v2(0x31, UNIX[:-1]),
    v2(0x11, INET + b"\x01"),
    v2(0x11, INET + b"\x01\x00\x05abcd"),
    v2(0x11, INET + tlv(0x03, bytes(4))),
    v2(0x11, INET + tlv(0x03, b"abc")),
    with_checksum(0x11, INET)[:-1] + b"\x00",
]


@pytest.mark.parametrize("data,source", GOOD)
def test_what_is_whole(data, source):
    assert parse(data) == Preface(len(data), source)
    assert parse(data + b"GET / HTTP/1.1\r\n") == Preface(len(data), source)


@pytest.mark.parametrize("data,source", GOOD)
def test_every_cut_waits_for_the_rest(data, source):
    assert [parse(data[:cut]) for cut in range(len(data))] == [None] * len(data)


@pytest.mark.parametrize("data", BAD)
def test_what_is_none(data):
    with pytest.raises(Malformed):
        parse(data)


@pytest.mark.parametrize("data", BAD)
def test_what_is_none_is_never_taken_on_the_way(data):
    for cut in range(len(data)):
        try:
            assert parse(data[:cut]) is None
        except Malformed:
            return


def test_a_wrong_first_byte_is_known_at_once():
    for byte in set(range(256)) - {ord("P"), V2[0]}:
        with pytest.raises(Malformed):
            parse(bytes([byte]))


def test_the_checksum_is_that_of_rfc_3720():
    # Appendix B.4
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc32c(bytes(range(32))) == 0x46DD794E
    assert crc32c(b"123456789") == 0xE3069283


@given(st.binary(max_size=300))
def test_anything_gives_an_answer(data):
    for begin in (b"", b"PROXY ", b"PROXY TCP4 ", SIGNATURE, SIGNATURE + b"\x21\x11\x00"):
        whole = begin + data
        try:
            found = parse(whole)
        except Malformed:
            continue
        assert found is None or 0 < found.end <= len(whole)


@given(st.sampled_from([data for data, _ in GOOD]), st.data())
def test_a_mutation_never_reads_beyond_the_header(data, draw):
    at = draw.draw(st.integers(0, len(data) - 1))
    mutated = data[:at] + bytes([draw.draw(st.integers(0, 255))]) + data[at + 1 :]
    try:
        found = parse(mutated + b"x" * 400)
    except Malformed:
        return
    if found is not None and found.source:
        assert str(ip_address(found.source.decode())).encode() == found.source
    if found is not None and not mutated.startswith(SIGNATURE):
        assert mutated[: found.end].endswith(b"\r\n")


@given(st.ip_addresses(), st.integers(0, 65535), st.integers(0, 65535))
def test_both_versions_say_the_same(address, port, other):
    kind = "TCP4" if address.version == 4 else "TCP6"
    text = f"PROXY {kind} {address} {address} {port} {other}\r\n".encode()
    family = 0x11 if address.version == 4 else 0x21
    block = address.packed * 2 + struct.pack("!HH", port, other)
    first, second = parse(text), parse(v2(family, block))
    assert first is not None
    assert second is not None
    assert first.source == second.source
