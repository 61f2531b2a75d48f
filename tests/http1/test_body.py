"""Chunked bodies: laws beyond the corpus."""

from __future__ import annotations

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.http1.body import LAST_CHUNK, ChunkedBody, chunk

payloads = st.lists(st.binary(min_size=1, max_size=40), max_size=6)
extensions = st.sampled_from([b"", b";a", b" ; a=b", b';a="b;\\"c"', b";a=b;c", b" ", b";", b';="'])
trailers = st.sampled_from([b"", b"X: y\r\n", b"X: y\r\nX: z\r\nContent-Length: 5\r\n"])


def feed_all(pieces: list[bytes]) -> tuple[bytes, ChunkedBody, int]:
    body = ChunkedBody()
    payload, consumed = b"", 0
    for piece in pieces:
        part, end = body.feed(piece)
        payload += part
        consumed += end
        if body.done or body.refusal:
            break
    return payload, body, consumed


@given(payloads, st.data(), extensions, trailers)
def test_any_cut_gives_the_payload_and_stops_at_the_end(
    parts: list[bytes], data: st.DataObject, extension: bytes, trailer: bytes
) -> None:
    coded = b"".join(b"%x%b\r\n%b\r\n" % (len(part), extension, part) for part in parts)
    coded += b"0" + extension + b"\r\n" + trailer + b"\r\n"
    stream = coded + b"GET / HTTP/1.1\r\n"
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    payload, body, consumed = feed_all(pieces)
    assert body.refusal is None
    assert body.done
    assert payload == b"".join(parts)
    assert body.trailers == trailer.replace(b"Content-Length: 5\r\n", b"")
    assert consumed == len(coded)


small_chunks = st.builds(
    lambda zeros, payload, extension: b"0" * zeros + b"%x%b\r\n%b\r\n" % (len(payload), extension, payload),
    st.integers(0, 9),
    st.binary(min_size=1, max_size=17),
    st.sampled_from(
        [b"", b";", b" ", b" ;a", b"\t" * 9, b";" + b"a" * 15, b";" + b"a" * 16, b" a", b";\x00", b";\xff"]
    ),
)
noise = st.text("012f;\r\n ax", max_size=8).map(str.encode)


@given(st.lists(st.one_of(small_chunks, small_chunks, noise), max_size=12))
def test_a_run_of_small_chunks_is_read_like_each_of_its_bytes(parts: list[bytes]) -> None:
    stream = b"".join(parts)
    payload, body, consumed = feed_all([stream])
    each_payload, each_body, each_consumed = feed_all([stream[at : at + 1] for at in range(len(stream))])
    assert body.done == each_body.done
    assert bool(body.refusal) == bool(each_body.refusal)
    assert payload == each_payload
    if not body.refusal:
        assert consumed == each_consumed


@pytest.mark.parametrize(
    "stream",
    [
        b"1\r\na\r\n10\r\n\r\nGET /x HTTP/1.\r\n0\r\n\r\n",
        b"1\r\na\r\n20\r\n\r\nGET /admin HTTP/1.1\r\nHost: x\r\n\r\n",
        b"1\r\na\r\n1;" + b"a" * 16 + b"\r\nb\r\n0\r\n\r\n",
        b"1\r\na\r\n1" + b" " * 9 + b"\r\nb\r\n0\r\n\r\n",
        b"1\r\na\r\n000000001\r\nb\r\n0\r\n\r\n",
        b"1\r\na\r\n2\r\nbc\n\n0\r\n\r\n",
    ],
)
def test_what_is_almost_a_small_chunk_is_none(stream: bytes) -> None:
    # Python before 3.11.5 did not go back to where a pattern in a possessive quantifier had begun.
    payload, body, consumed = feed_all([stream])
    each_payload, each_body, each_consumed = feed_all([stream[at : at + 1] for at in range(len(stream))])
    assert (payload, body.done, bool(body.refusal)) == (each_payload, each_body.done, bool(each_body.refusal))
    assert consumed == each_consumed or body.refusal


def test_a_call_takes_as_many_chunks_whatever_their_order() -> None:
    small, larger = chunk(b"a"), chunk(b"x" * 16)
    for pattern in (small, larger, small + larger, small * 2 + larger, small * 5 + larger):
        _, end = ChunkedBody().feed(pattern * 5000)
        assert 500 <= pattern.count(b"\r\n") // 2 * end // len(pattern) <= 5000


@pytest.mark.parametrize("line", [b"1", b"1;", b"1" + b" " * 12, b"10", b"1;" + b"a" * 17])
def test_very_many_chunks_are_for_several_calls(line: bytes) -> None:
    size = int(line.split(b";")[0], 16)
    stream = (line + b"\r\n" + b"x" * size + b"\r\n") * 20_000 + LAST_CHUNK
    body = ChunkedBody()
    position, parts = 0, []
    while position < len(stream):
        part, position = body.feed(stream, position)
        parts.append(part)
        assert body.refusal is None
    assert body.done
    assert b"".join(parts) == b"x" * size * 20_000
    assert max(map(len, parts)) <= 5000 * size


@given(payloads, trailers)
def test_h11_reads_what_we_write(parts: list[bytes], trailer: bytes) -> None:
    peer = h11.Connection(h11.SERVER)
    peer.receive_data(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
    peer.next_event()
    peer.receive_data(b"".join(map(chunk, parts)) + LAST_CHUNK)
    payload = b""
    while isinstance(event := peer.next_event(), h11.Data):
        payload += event.data
    assert isinstance(event, h11.EndOfMessage)
    assert payload == b"".join(parts)


def test_one_chunk_in_one_piece_is_one_slice_and_many_are_joined() -> None:
    assert ChunkedBody().feed(b"5\r\nhello\r\n") == (b"hello", 10)
    assert ChunkedBody().feed(b"junk1\r\na\r\n1\r\nb\r\n", 4) == (b"ab", 16)
    assert ChunkedBody().feed(b"") == (b"", 0)


def test_payload_flows_before_its_chunk_is_whole() -> None:
    body = ChunkedBody()
    assert body.feed(b"ffff\r\nhel") == (b"hel", 9)
    assert body.feed(b"lo") == (b"lo", 2)
    assert not body.done


def test_payload_before_an_error_is_returned() -> None:
    body = ChunkedBody(502, "protocol")
    assert body.feed(b"2\r\nhi\r\nx\r\n")[0] == b"hi"
    assert body.refusal is not None
    assert (body.refusal.status, body.refusal.reason) == (502, "protocol")


@pytest.mark.parametrize("data", [b"x", b"\n", b"\r", b";", b" ", b"5\rx", b"5;a\n", b"1\r\nax", b"1\r\na\rx"])
def test_errors_are_found_at_once(data: bytes) -> None:
    body = ChunkedBody()
    body.feed(data)
    assert body.refusal is not None


def test_a_line_that_never_ends_is_bounded() -> None:
    body = ChunkedBody()
    body.feed(b"5;")
    fed = 0
    while body.refusal is None:
        body.feed(b"a" * 64)
        fed += 64
    assert fed <= 4096 + 64
    digits = ChunkedBody()
    digits.feed(b"0" * 5000)
    assert digits.refusal is not None


def test_trailers_that_never_end_are_bounded() -> None:
    body = ChunkedBody()
    body.feed(b"0\r\n")
    fed = 0
    while body.refusal is None:
        body.feed(b"X: y\r\n")
        fed += 6
    assert fed <= 16 * 1024 + 6


def test_extensions_that_the_payload_pays_for_are_not_limited() -> None:
    body = ChunkedBody()
    signed = b"%x;chunk-signature=%b\r\n%b\r\n" % (1000, b"f" * 64, b"x" * 1000)
    for _ in range(1000):
        assert len(body.feed(signed)[0]) == 1000
    assert body.refusal is None
