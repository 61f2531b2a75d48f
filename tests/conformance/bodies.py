"""Cases about bodies of requests, and about several requests of one connection."""

from __future__ import annotations

from collections.abc import Iterator

from tests.conformance.case import BODY, FIN, OK, Answer, Case, Request, refused, req
from tests.conformance.messages import GOOD, passed

POST = b"POST / HTTP/1.1"
CHUNKED = b"Transfer-Encoding: chunked"
HELLO = b"5\r\nhello\r\n0\r\n\r\n"
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
EARLY = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def lengths() -> Iterator[Case]:
    """Content-Length is one decimal number (RFC 9110 §8.6)."""
    ref = "RFC 9112 §6.3"
    for number, value in enumerate(
        (
            b"+5", b"-5", b"-0", b"0x5", b"5,5", b"5, 5", b"5,6", b",5", b"5,", b"5;", b"5.0", b"5e0", b"five",
            b"5 5", b"5\t5", b"", b" ",
            b"\x0b5", b"5\x0c", b"5\x00", b"\xb25", b"\xd9\xa5", b"9223372036854775808", b"18446744073709551616",
            b"18446744073709551621",
            b"9" * 40, b"0" * 30 + b"x", b"5_0", b"1_0", b"'5'", b'"5"', b"5\r", b"0b1", b"0o5", b"1e1", b"NaN",
            b"5\xa0", b"(5)", b"5#", b"5h",
        )
    ):  # fmt: skip
        yield refused(f"length_{number}_{value[:22]!r}", ref, req(POST, b"Content-Length: " + value, body=b"hello"))
    for first, second in ((b"5", b"5"), (b"5", b"6"), (b"0", b"5"), (b"5", b"0"), (b"5", b""), (b"", b"5")):
        fields = b"Content-Length: " + first, b"content-length: " + second
        yield refused(f"length_twice_{first!r}_{second!r}", ref, req(POST, *fields, body=b"hello"))
    yield refused(
        "length_twice_apart", ref, req(POST, b"Content-Length: 5", b"X: y", b"Content-Length: 5", body=b"hello")
    )
    yield refused("length_space_before_colon", "RFC 9112 §5.1", req(POST, b"Content-Length : 5", body=b"hello"))
    yield refused("length_tab_before_colon", "RFC 9112 §5.1", req(POST, b"Content-Length\t: 5", body=b"hello"))
    yield refused("length_folded", "RFC 9112 §5.2", req(POST, b"Content-Length:\r\n 5", body=b"hello"))
    five = Request(POST, (b"Content-Length: 5",), body=b"hello")
    for name, line in {
        "plain": b"Content-Length: 5", "zeros": b"Content-Length: 00005", "spaces": b"Content-Length:  5  ",
        "tabs": b"Content-Length:\t5\t",
    }.items():  # fmt: skip
        yield passed(f"length_{name}", "RFC 9110 §8.6", req(POST, line, body=b"hello"), five)
    yield passed(
        "length_case", "RFC 9110 §5.1", req(POST, b"CONTENT-length: 5", body=b"hello"), Request(POST, body=b"hello")
    )
    yield passed(
        "length_zero", "RFC 9110 §8.6", req(POST, b"Content-Length: 0"), Request(POST, (b"Content-Length: 0",))
    )
    yield passed(
        "length_none", "RFC 9112 §6.3", req(POST), Request(POST, lacks=(b"content-length", b"transfer-encoding"))
    )
    for method in (b"GET", b"HEAD", b"DELETE", b"OPTIONS", b"PUT", b"PATCH", b"FOO"):
        line = method + b" / HTTP/1.1"
        answers = [Answer(200, body=b"" if method == b"HEAD" else b"ok")]
        yield passed(
            f"length_with_{method.decode()}",
            "RFC 9110 §9.3",
            req(line, b"Content-Length: 5", body=b"hello"),
            Request(line, body=b"hello"),
            answers=answers,
            methods=[method],
        )
        yield passed(
            f"chunked_with_{method.decode()}",
            "RFC 9110 §9.3",
            req(line, CHUNKED, body=HELLO),
            Request(line, body=b"hello"),
            answers=answers,
            methods=[method],
        )
    big = bytes(range(256)) * 1024
    yield passed(
        "length_256k", "RFC 9112 §6.2", req(POST, b"Content-Length: %d" % len(big), body=big), Request(POST, body=big)
    )
    yield passed("length_slow", "RFC 9112 §6.2", [("slow", req(POST, b"Content-Length: 5", body=b"hello"))], five)
    yield Case(
        "length_short",
        "RFC 9112 §6.3",
        [req(POST, b"Content-Length: 10", body=b"hello"), ("seen", 1), FIN],
        [Request(POST, body=b"hello", whole=False)],
        [],
        open=False,
    )


def codings() -> Iterator[Case]:
    """Transfer-Encoding is `chunked` alone, in HTTP/1.1, without a length (RFC 9112 §6.1)."""
    ref = "RFC 9112 §6.1"
    for number, value in enumerate(
        (
            b"chunked, chunked", b"chunked,chunked", b"chunked, identity", b"identity", b"identity, identity", b"",
            b" ", b",", b"chunke", b"chunkedd",
            b"xchunked", b"x chunked", b"chunked x", b"chunked;q=1", b"chunked;", b"chunked; a=b", b'"chunked"',
            b"'chunked'", b"chunked,", b",chunked",
            b"chunked, gzip", b"gzip", b"chunked\x0b", b"\x0bchunked", b"\x0cchunked", b"chunked\x00", b"chunked\xa0",
            b"\xa0chunked", b"ch\xfcnked",
            b"chun\tked", b"c h u n k e d", b"chunked\r", b"chunKed chunked", b"[chunked]", b"(chunked)", b"cow",
            b"trailers", b"chunked:", b"-chunked", b"chunked=1",
            b"\xc4\xb0chunked", b"chun\xe2\x84\xaaed", b"null", b"chunked\x7f", b"\x01chunked", b"chunked|chunked",
            b"gzip chunked", b"chunked/1", b"0",
        )
    ):  # fmt: skip
        yield refused(f"coding_{number}_{value!r}", ref, req(POST, b"Transfer-Encoding: " + value, body=HELLO))
    for value in (
        b"gzip, chunked",
        b"x, chunked",
        b"identity, chunked",
        b"gzip,chunked",
        b"deflate, gzip, chunked",
        b"gzip , chunked",
    ):
        yield refused(f"coding_{value!r}", ref, req(POST, b"Transfer-Encoding: " + value, body=HELLO), 501)
    for name, fields in {
        "twice": (CHUNKED, CHUNKED), "twice_other_case": (CHUNKED, b"transfer-encoding: chunked"),
        "then_identity": (CHUNKED, b"Transfer-Encoding: identity"),
        "identity_first": (b"Transfer-Encoding: identity", CHUNKED), "then_empty": (CHUNKED, b"Transfer-Encoding:"),
        "empty_first": (b"Transfer-Encoding:", CHUNKED),
        "gzip_field_first": (b"Transfer-Encoding: gzip", CHUNKED), "apart": (CHUNKED, b"X: y", CHUNKED),
        "then_cow": (CHUNKED, b"Transfer-encoding: cow"),
        "folded": (b"Transfer-Encoding:\r\n chunked",), "folded_tail": (b"Transfer-Encoding: chunked\r\n , identity",
        ), "folded_x": (b"Transfer-Encoding: x\r\n\tchunked",),
        "space_colon": (b"Transfer-Encoding : chunked",), "tab_colon": (b"Transfer-Encoding\t: chunked",),
        "space_first": (b" Transfer-Encoding: chunked",),
        "cr_inside": (b"X: y\rTransfer-Encoding: chunked",), "lf_inside": (b"X: y\nTransfer-Encoding: chunked",),
        "quoted_name": (b'"Transfer-Encoding": chunked',),
        "nul_name": (b"Transfer-Encoding\x00: chunked",), "vt_name": (b"\x0bTransfer-Encoding: chunked",),
        "vt_after_name": (b"Transfer-Encoding\x0b: chunked",),
        "high_name": (b"Transfer-Encoding\xff: chunked",), "split_name": (b"Transfer\r\n-Encoding: chunked",),
        "no_colon": (b"Transfer-Encoding chunked",),
    }.items():  # fmt: skip
        yield refused(f"coding_{name}", ref, req(POST, *fields, body=HELLO))
    for name, fields in {
        "length_first": (b"Content-Length: 5", CHUNKED), "coding_first": (CHUNKED, b"Content-Length: 5"),
        "zero_length": (b"Content-Length: 0", CHUNKED),
        "exact_length": (b"Content-Length: 15", CHUNKED), "length_apart": (b"Content-Length: 5", b"X: y", CHUNKED),
        "case": (b"content-length: 5", b"TRANSFER-ENCODING: CHUNKED"),
        "bad_length": (b"Content-Length: x", CHUNKED), "identity": (b"Content-Length: 15",
        b"Transfer-Encoding: identity"), "empty_coding": (b"Content-Length: 15", b"Transfer-Encoding:"),
        "two_lengths": (b"Content-Length: 5", b"Content-Length: 5", CHUNKED),
        "connection_named": (b"Connection: Content-Length", b"Content-Length: 5", CHUNKED),
        "coding_named": (b"Connection: Transfer-Encoding", b"Content-Length: 15", CHUNKED),
        "cow": (b"Content-Length: 15", b"Transfer-Encoding: cow"),
    }.items():  # fmt: skip
        yield refused(f"both_{name}", "RFC 9112 §6.3", req(POST, *fields, body=HELLO + SMUGGLED))
    yield refused("coding_in_10", ref, req(b"POST / HTTP/1.0", CHUNKED, body=HELLO))
    yield refused(
        "coding_in_10_keep_alive", ref, req(b"POST / HTTP/1.0", CHUNKED, b"Connection: keep-alive", body=HELLO)
    )
    yield refused("coding_and_length_in_10", ref, req(b"POST / HTTP/1.0", CHUNKED, b"Content-Length: 15", body=HELLO))
    hello = Request(POST, (CHUNKED,), body=b"hello")
    for name, line in {
        "plain": CHUNKED, "title": b"Transfer-Encoding: Chunked", "upper": b"TRANSFER-ENCODING: CHUNKED",
        "no_space": b"Transfer-Encoding:chunked",
        "spaces": b"Transfer-Encoding:   chunked  ", "tabs": b"Transfer-Encoding:\tchunked\t",
    }.items():  # fmt: skip
        yield passed(f"coding_{name}", ref, req(POST, line, body=HELLO), hello)
    for twin in (b"Transfer_Encoding: chunked", b"Transfer_Encoding: cow", b"Content_Length: 100"):
        yield passed(
            f"coding_twin_{twin!r}",
            "RFC 3875 §4.1.18",
            req(POST, b"Content-Length: 5", twin, body=b"hello"),
            Request(POST, (b"Content-Length: 5",), (b"transfer_encoding", b"content_length"), body=b"hello"),
        )


def chunks() -> Iterator[Case]:
    """Chunks by the letter (RFC 9112 §7.1)."""
    ref = "RFC 9112 §7.1"

    def body(name: str, data: bytes, payload: bytes = b"hello", ref: str = ref, **more: object) -> Case:
        return passed(
            f"chunks_{name}", ref, req(POST, CHUNKED, body=data), Request(POST, (CHUNKED,), body=payload, **more)
        )

    tail = b"\r\nhello\r\n0\r\n\r\n"
    yield body("one", HELLO)
    yield body("none", b"0\r\n\r\n", b"")
    yield body("two", b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n")
    yield body("hex_lower", b"a\r\n0123456789\r\n0\r\n\r\n", b"0123456789")
    yield body("hex_upper", b"A\r\n0123456789\r\n0\r\n\r\n", b"0123456789")
    yield body("zeros", b"0005" + tail)
    yield body("sixteen_digits", b"0000000000000005" + tail)
    yield body("zeros_at_the_end", b"5\r\nhello\r\n0000\r\n\r\n")
    yield body("crlf_payload", b"4\r\n\r\n\r\n\r\n0\r\n\r\n", b"\r\n\r\n")
    yield body("request_payload", b"%x\r\n%b\r\n0\r\n\r\n" % (len(SMUGGLED), SMUGGLED), SMUGGLED)
    yield body("bytewise", b"".join(b"1\r\n%c\r\n" % byte for byte in b"hello" * 200) + b"0\r\n\r\n", b"hello" * 200)
    yield passed("chunks_slow", ref, [("slow", req(POST, CHUNKED, body=HELLO))], Request(POST, body=b"hello"))
    for number, extension in enumerate(
        (
            b";a",
            b";a=b",
            b';a="b"',
            b';a="b;c"',
            b" ; a = b",
            b"\t;a",
            b";a;b=c;d",
            b';a="\\""',
            b';a="b,\xe9"',
            b';a=""',
            b";" + b"x" * 500,
            b" ",
            b"\t",
            b";",
            b";;a",
            b";=b",
            b"; ",
            b';a="b',
            b';a="b"c',
            b";a=b c",
            b";a=",
            b";a\xff b",
            b";a@b",
        )
    ):
        yield body(f"extension_{number}", b"5" + extension + tail, ref="RFC 9112 §7.1.1")
        yield body(f"extension_last_{number}", b"5\r\nhello\r\n0" + extension + b"\r\n\r\n", ref="RFC 9112 §7.1.1")
    for number, size in enumerate(
        (
            b"", b" 5", b"\t5", b"+5", b"-5", b"-0", b"0x5", b"0X5", b"x5", b"5x", b"g", b"5h", b"5.0",
            b"5,", b"5 5",
            b"5 a", b"5\t=b", b"5;a\x00", b"5;\x01", b"5;a=\x7f", b"\x005",
            b"5\x00", b"\x0b5", b"5\x0b", b"\xb25", b"'5'", b'"5"',
            b"00000000000000005", b"10000000000000005", b"8000000000000000", b"ffffffffffffffff",
            b"fffffffffffffffff", b"7fffffffffffffff5", b"1" * 30, b"5_0",
            b"5:", b"(5)", b"5#", b"5//", b"5\r", b"5;a\r", b'5;a="\r"',
        )
    ):  # fmt: skip
        yield _bad(f"size_{number}_{size[:20]!r}", ref, size + tail)
    for name, data in {
        "lf_after_size": b"5\nhello\r\n0\r\n\r\n", "cr_after_size": b"5\rhello\r\n0\r\n\r\n",
        "lf_after_payload": b"5\r\nhello\n0\r\n\r\n",
        "nothing_after_payload": b"5\r\nhello0\r\n\r\n", "payload_too_long": b"5\r\nhello!\r\n0\r\n\r\n",
        "payload_too_short": b"6\r\nhello\r\n0\r\n\r\n",
        "cr_after_payload": b"5\r\nhello\r0\r\n\r\n", "two_crlf_after_payload": b"5\r\nhello\r\n\r\n0\r\n\r\n",
        "lf_after_last": b"5\r\nhello\r\n0\n\r\n",
        "lf_at_the_end": b"5\r\nhello\r\n0\r\n\n", "lf_lf": b"5\r\nhello\r\n0\n\n",
        "extension_lf": b"5;a\nhello\r\n0\r\n\r\n", "extension_quoted_lf": b'5;a="\n"' + tail,
        "extension_quoted_crlf": b'5;a="\r\n"' + tail, "extension_lf_smuggle": b"5;\nhello\r\n0\r\n\r\n",
        "crlf_before_size": b"\r\n5" + tail, "space_before_crlf": b"5\r\nhello \r\n0\r\n\r\n",
        "cr_cr_lf": b"5\r\r\nhello\r\n0\r\n\r\n", "last_sign": b"5\r\nhello\r\n-0\r\n\r\n",
        "last_x": b"5\r\nhello\r\n0x0\r\n\r\n",
        "long_extension": b"5;" + b"a" * 5000 + tail,
        "many_extensions": b"".join(b"1;%b\r\nx\r\n" % (b"a" * 3000) for _ in range(20)) + b"0\r\n\r\n",
        "nothing": b"\r\n\r\n",
        "a_request": SMUGGLED,
    }.items():  # fmt: skip
        yield _bad(name, ref, data)
    ref = "RFC 9110 §6.5"

    def trailers(name: str, section: bytes, kept: tuple[bytes, ...] = (), lacks: tuple[bytes, ...] = ()) -> Case:
        data = b"5\r\nhello\r\n0\r\n" + section + b"\r\n"
        return passed(
            f"trailers_{name}",
            ref,
            req(POST, CHUNKED, b"Trailer: X", body=data),
            Request(POST, (b"Trailer: X",), lacks, b"hello", kept),
        )

    yield trailers("one", b"X: y\r\n", (b"X: y",))
    yield trailers("two_in_order", b"X: y\r\nA: 1\r\nX: z\r\n", (b"X: y", b"A: 1", b"X: z"))
    yield trailers("undeclared", b"Checksum: 1\r\n", (b"Checksum: 1",))
    yield trailers("empty_value", b"X:\r\n", (b"X:",))
    yield trailers("obs_text", b"X: \xe9\r\n", (b"X: \xe9",))
    for name in (
        b"Content-Length", b"Transfer-Encoding", b"Host", b"Connection", b"Trailer", b"TE", b"Upgrade",
        b"Content-Type", b"Content-Encoding", b"Content-Range", b"Authorization",
        b"Proxy-Authorization", b"Cookie", b"Set-Cookie", b"Cache-Control", b"Expect", b"Max-Forwards", b"Range",
        b"If-Match", b"X-Forwarded-For", b"X-Real-IP", b"Forwarded", b"Via",
        b"Keep-Alive", b"Proxy-Connection", b"X-Request-Id", b"content_length", b"TRANSFER-ENCODING", b"host",
    ):  # fmt: skip
        lacks = (
            ()
            if name.lower() in {b"host", b"transfer-encoding", b"trailer", b"x-forwarded-for", b"via", b"x-request-id"}
            else (name.lower(),)
        )
        yield trailers(f"forbidden_{name.decode()}", name + b": 5\r\nX: y\r\n", (b"X: y",), lacks)
    for name, section in {
        "space_before_colon": b"X : y\r\n", "no_colon": b"X\r\n", "no_name": b": y\r\n", "fold": b"X: y\r\n z\r\n",
        "fold_first": b" X: y\r\n", "lf": b"X: y\n", "cr": b"X: y\rZ: a\r\n",
        "nul": b"X: \x00\r\n", "control": b"X: \x01\r\n", "too_large": b"X: " + b"y" * 20000 + b"\r\n",
        "too_many": b"X: y\r\n" * 70, "a_request": b"GET / HTTP/1.1\r\n",
    }.items():  # fmt: skip
        yield _bad(f"trailers_{name}", ref, b"5\r\nhello\r\n0\r\n" + section + b"\r\n")


def _bad(name: str, ref: str, data: bytes) -> Case:
    """Return a case whose body is wrong: 400; nothing whole of it reaches the backend, nor anything behind it."""
    return refused(f"chunks_bad_{name}", ref, req(POST, CHUNKED, body=data + SMUGGLED), loose=True)


def connections() -> Iterator[Case]:
    """Several requests of one connection are answered in order, or not at all (RFC 9112 §9.3)."""
    ref = "RFC 9112 §9.3.2"
    get = [Request(b"GET /%d HTTP/1.1" % n) for n in range(10)]
    gets = [req(b"GET /%d HTTP/1.1" % n) for n in range(10)]
    numbered = [b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n%d" % n for n in range(10)]
    yield Case(
        "pipeline_ten",
        ref,
        b"".join(gets),
        get,
        [Answer(200, body=b"%d" % n) for n in range(10)],
        backend=numbered,
        methods=[b"GET"],
    )
    yield Case(
        "pipeline_slow",
        ref,
        [("slow", b"".join(gets[:3]))],
        get[:3],
        [Answer(200, body=b"%d" % n) for n in range(3)],
        backend=numbered,
        methods=[b"GET"],
    )
    mixed = (
        gets[0]
        + req(POST, b"Content-Length: 5", body=b"hello")
        + req(b"HEAD /h HTTP/1.1")
        + req(POST, CHUNKED, body=HELLO)
        + gets[4]
    )
    yield Case(
        "pipeline_mixed",
        ref,
        mixed,
        [get[0], Request(POST, body=b"hello"), Request(b"HEAD /h HTTP/1.1"), Request(POST, body=b"hello"), get[4]],
        [Answer(200)] * 2 + [Answer(200, body=b"")] + [Answer(200)] * 2,
        methods=[b"GET", b"POST", b"HEAD", b"POST", b"GET"],
    )
    for name, second in {
        "bad_line": b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", "no_host": b"GET / HTTP/1.1\r\n\r\n", "both": req(POST,
        b"Content-Length: 5", CHUNKED, body=HELLO), "fold": req(b"GET / HTTP/1.1", b"X: y\r\n z"),
        "space_colon": req(b"GET / HTTP/1.1", b"X : y"), "coding": req(POST, b"Transfer-Encoding: x", body=HELLO),
        "garbage": b"\x00\x01\x02\r\n\r\n", "lf": b"GET / HTTP/1.1\nHost: a\n\n",
    }.items():  # fmt: skip
        yield Case(
            f"pipeline_{name}_second",
            ref,
            gets[0] + second + SMUGGLED,
            [get[0]],
            [Answer(200), Answer(400)],
            open=False,
            methods=[b"GET"],
        )
    yield Case(
        "pipeline_after_close",
        "RFC 9112 §9.6",
        req(b"GET /0 HTTP/1.1", b"Connection: close") + SMUGGLED,
        [get[0]],
        [Answer(200, (b"Connection: close",))],
        open=False,
        methods=[b"GET"],
    )
    yield Case(
        "pipeline_after_10",
        "RFC 9112 §9.3",
        req(b"GET /0 HTTP/1.0") + SMUGGLED,
        [get[0]],
        [Answer(200, (b"Connection: close",))],
        open=False,
        methods=[b"GET"],
    )
    yield Case(
        "pipeline_behind_body",
        "RFC 9112 §6.3",
        req(POST, b"Content-Length: 5", body=b"hello") + gets[1],
        [Request(POST, body=b"hello"), get[1]],
        [Answer(200)] * 2,
        methods=[b"GET"],
    )
    yield Case(
        "pipeline_behind_longer_body",
        "RFC 9112 §6.3",
        req(POST, b"Content-Length: 4", body=b"hello"),
        [Request(POST, body=b"hell")],
        [Answer(200)],
        open=None,
        methods=[b"GET"],
    )
    yield Case(
        "pipeline_body_is_a_request",
        "RFC 9112 §6.3",
        req(b"GET /0 HTTP/1.1", b"Content-Length: %d" % len(SMUGGLED), body=SMUGGLED) + gets[1],
        [Request(b"GET /0 HTTP/1.1", body=SMUGGLED), get[1]],
        [Answer(200)] * 2,
        methods=[b"GET"],
    )
    yield Case(
        "pipeline_crlf_between",
        "RFC 9112 §2.2",
        req(POST, b"Content-Length: 5", body=b"hello") + b"\r\n" + gets[1],
        [Request(POST, body=b"hello"), get[1]],
        [Answer(200)] * 2,
        methods=[b"GET"],
    )
    yield Case(
        "pipeline_behind_upgrade_refused",
        "RFC 9110 §7.8",
        req(b"GET /0 HTTP/1.1", b"Connection: upgrade", b"Upgrade: x") + gets[1],
        get[:2],
        [Answer(200)] * 2,
        methods=[b"GET"],
    )
    switch = [b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"]
    yield Case(
        "upgrade",
        "RFC 9110 §7.8",
        [req(b"GET /0 HTTP/1.1", b"Connection: upgrade", b"Upgrade: x"), ("got", b"\r\n\r\n"), b"\x00\xffping"],
        get[:1],
        [Answer(101, (b"Connection: upgrade", b"Upgrade: x"))],
        backend=switch,
        open=None,
        tunnelled=b"\x00\xffping",
    )
    yield Case(
        "upgrade_bytes_with_handshake",
        "RFC 6455 §4.1",
        req(b"GET /0 HTTP/1.1", b"Connection: upgrade", b"Upgrade: x") + SMUGGLED,
        get[:1],
        [Answer(101)],
        backend=switch,
        open=None,
        tunnelled=SMUGGLED,
        methods=[b"GET"],
    )
    socket_fields = (
        b"Upgrade: websocket",
        b"Connection: keep-alive, Upgrade",
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        b"Sec-WebSocket-Version: 13",
        b"Sec-WebSocket-Protocol: chat",
        b"Sec-WebSocket-Extensions: permessage-deflate",
    )
    accept = [
        (
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
        )
    ]
    yield Case(
        "upgrade_websocket",
        "RFC 6455 §4.2",
        [req(b"GET /0 HTTP/1.1", *socket_fields), ("got", b"\r\n\r\n"), b"\x81\x00"],
        [Request(get[0].start, socket_fields[2:])],
        [Answer(101, (b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",))],
        backend=accept,
        open=None,
        tunnelled=b"\x81\x00",
    )
    yield Case("switch_unasked", "RFC 9110 §15.2.2", gets[0], get[:1], [Answer(502)], backend=switch)
    yield Case(
        "switch_in_10",
        "RFC 9110 §7.8",
        req(b"GET /0 HTTP/1.0", b"Connection: upgrade", b"Upgrade: x"),
        [Request(get[0].start, lacks=(b"upgrade",))],
        [Answer(502)],
        backend=switch,
        open=False,
    )
    # HTTP/1.0
    ref = "RFC 9112 §9.3"
    yield Case(
        "http10", ref, req(b"GET /0 HTTP/1.0"), get[:1], [Answer(200, (b"Connection: close",), body=b"ok")], open=False
    )
    yield Case(
        "http10_keep_alive",
        ref,
        req(b"GET /0 HTTP/1.0", b"Connection: keep-alive"),
        get[:1],
        [Answer(200, (b"Connection: keep-alive",))],
    )
    yield Case(
        "http10_keep_alive_case",
        ref,
        req(b"GET /0 HTTP/1.0", b"Connection: Keep-Alive"),
        get[:1],
        [Answer(200, (b"Connection: keep-alive",))],
    )
    yield Case("http10_without_host", ref, req(b"GET /0 HTTP/1.0", host=b""), get[:1], [Answer(200)], open=False)
    yield Case("http10_two_hosts", "RFC 9112 §3.2", req(b"GET /0 HTTP/1.0", b"Host: b"), [], [Answer(400)], open=False)
    yield Case(
        "http10_post",
        ref,
        req(b"POST / HTTP/1.0", b"Content-Length: 5", body=b"hello"),
        [Request(POST, body=b"hello")],
        [Answer(200)],
        open=False,
    )
    yield Case(
        "http10_chunked_answer",
        "RFC 9112 §6.1",
        req(b"GET /0 HTTP/1.0"),
        get[:1],
        [Answer(200, lacks=(b"transfer-encoding",), body=b"hello")],
        backend=[b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + HELLO],
        open=False,
    )
    yield Case(
        "http10_keep_alive_chunked_answer",
        "RFC 9112 §6.1",
        req(b"GET /0 HTTP/1.0", b"Connection: keep-alive"),
        get[:1],
        [Answer(200, lacks=(b"transfer-encoding",), body=b"hello")],
        backend=[b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + HELLO],
        open=False,
    )
    yield Case(
        "http10_interim",
        "RFC 9110 §15.2",
        req(b"GET /0 HTTP/1.0"),
        get[:1],
        [Answer(200)],
        backend=[b"HTTP/1.1 103 Early\r\n\r\n" + OK],
        interims=[],
        open=False,
    )
    # The end of a connection
    yield Case("half_close_in_head", "RFC 9112 §9.5", [b"GET / HTTP/1.1\r\nHost: a\r\n", FIN], [], [], open=False)
    yield Case(
        "half_close_in_chunks",
        "RFC 9112 §8",
        [req(POST, CHUNKED, body=b"5\r\nhel"), ("seen", 1), FIN],
        [Request(POST, body=b"hel", whole=False)],
        [],
        open=False,
    )
    yield Case(
        "half_close_before_last_chunk",
        "RFC 9112 §8",
        [req(POST, CHUNKED, body=b"5\r\nhello\r\n"), ("seen", 1), FIN],
        [Request(POST, body=b"hello", whole=False)],
        [],
        open=False,
    )
    yield Case(
        "half_close_before_trailers_end",
        "RFC 9112 §8",
        [req(POST, CHUNKED, body=b"5\r\nhello\r\n0\r\nX: y\r\n"), ("seen", 1), FIN],
        [Request(POST, body=b"hello", whole=False)],
        [],
        open=False,
    )
    yield Case(
        "half_close_when_idle",
        "RFC 9112 §9.5",
        [req(b"GET /0 HTTP/1.1"), ("got", b"ok"), FIN],
        get[:1],
        [Answer(200)],
        open=False,
    )
    # Expect
    ref = "RFC 9110 §10.1.1"
    expect = req(POST, b"Content-Length: 5", b"Expect: 100-continue")
    said = Request(POST, (b"Expect: 100-continue",), body=b"hello")
    yield Case(
        "expect_continue",
        ref,
        [expect, ("got", b"\r\n\r\n"), b"hello"],
        [said],
        GOOD,
        backend=[[b"HTTP/1.1 100 Continue\r\n\r\n", BODY, OK]],
        interims=[100],
    )
    yield Case("expect_not_waiting", ref, [expect, ("seen", 1), b"hello"], [said], GOOD)
    yield Case(
        "expect_case",
        ref,
        [req(POST, b"Content-Length: 5", b"expect: 100-CONTINUE"), ("seen", 1), b"hello"],
        [said],
        GOOD,
    )
    yield Case("expect_body_with_head", ref, expect + b"hello", [Request(POST, body=b"hello")], GOOD)
    yield Case(
        "expect_refused_417",
        ref,
        expect,
        [Request(POST, (b"Expect: 100-continue",), whole=False)],
        [Answer(417, (b"Connection: close",))],
        backend=[b"HTTP/1.1 417 No\r\nContent-Length: 0\r\n\r\n"],
        early=True,
        open=False,
    )
    yield Case(
        "expect_refused_401",
        ref,
        expect,
        [Request(POST, whole=False)],
        [Answer(401)],
        backend=[b"HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n"],
        early=True,
        open=False,
    )
    yield Case(
        "expect_chunked",
        ref,
        [req(POST, CHUNKED, b"Expect: 100-continue"), ("seen", 1), HELLO],
        [Request(POST, (b"Expect: 100-continue",), body=b"hello")],
        GOOD,
    )
    yield Case(
        "expect_10_ignored",
        ref,
        req(b"POST / HTTP/1.0", b"Content-Length: 5", b"Expect: 100-continue", body=b"hello"),
        [Request(POST, lacks=(b"expect",), body=b"hello")],
        GOOD,
        interims=[],
        open=False,
    )
    yield Case("expect_without_body", ref, req(b"GET /0 HTTP/1.1", b"Expect: 100-continue"), get[:1], GOOD)
    for number, value in enumerate(
        (
            b"200-ok",
            b"100-continue=x",
            b"x",
            b"100-continue, x",
            b"100",
            b"continue",
            b"100-continue;q=1",
            b'"100-continue"',
        )
    ):
        yield refused(f"expect_unknown_{number}_{value!r}", ref, req(b"GET / HTTP/1.1", b"Expect: " + value), 417)
    # Answers that do not wait for the body
    ref = "RFC 9112 §9.3"
    unread = req(POST, b"Content-Length: 100000")
    yield Case(
        "early_answer",
        ref,
        [unread + b"x" * 1000, ("got", b"ok")],
        [Request(POST, whole=False, body=None)],
        [Answer(200, (b"Connection: close",), body=b"ok")],
        backend=[EARLY],
        early=True,
        open=False,
    )
    yield Case(
        "early_answer_rest_is_a_request",
        ref,
        [unread + b"x" * 1000, ("got", b"ok"), SMUGGLED],
        [Request(POST, whole=False, body=None)],
        [Answer(200, (b"Connection: close",))],
        backend=[EARLY],
        early=True,
        open=False,
        methods=[b"POST"],
    )
    yield Case(
        "early_answer_chunked",
        ref,
        [req(POST, CHUNKED, body=b"5\r\nhello\r\n"), ("got", b"ok"), b"0\r\n\r\n" + SMUGGLED],
        [Request(POST, whole=False, body=None)],
        [Answer(200, (b"Connection: close",))],
        backend=[EARLY],
        early=True,
        open=False,
        methods=[b"POST"],
    )
    for name, data in {"in_line": b"GET /smug", "in_fields": b"GET / HTTP/1.1\r\nHost: a\r\nX", "nothing": b""}.items():
        yield Case(f"ends_{name}", "RFC 9112 §8", [data, FIN], [], [], open=False)


def all_cases() -> Iterator[Case]:
    """Return every case of this file."""
    for family in (lengths, codings, chunks, connections):
        yield from family()
