"""Cases about answers: an endpoint is trusted with its content, not with the connection."""

from __future__ import annotations

from collections.abc import Iterator

from tests.conformance.case import CLOSE, FIN, OK, RESET, Answer, Case, Request, req

GET = req()
SEEN = [Request(b"GET / HTTP/1.1")]
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
HELLO = b"5\r\nhello\r\n0\r\n\r\n"
SECOND = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"


def got(name: str, ref: str, answer: object, wanted: Answer, *, method: bytes = b"GET", **more: object) -> Case:
    """Return a case about one answer."""
    line = method + b" / HTTP/1.1"
    return Case(name, ref, req(line), [Request(line)], [wanted], backend=[answer], methods=[method], **more)


def bad(name: str, ref: str, answer: object, **more: object) -> Case:
    """Return a case whose answer is not passed on: 502, and the client's connection is as good as before."""
    return got(name, ref, answer, Answer(502), **more)


def head(*fields: bytes, line: bytes = b"HTTP/1.1 200 OK", body: bytes = b"") -> bytes:
    """Return an answer."""
    return b"\r\n".join([line, *fields, b"", b""]) + body


def statuses() -> Iterator[Case]:
    """Status lines (RFC 9112 §4, RFC 9110 §15)."""
    for status in (
        200, 201, 202, 203, 206, 207, 208, 226, 299, 300, 301, 302, 303, 305, 307, 308, 399, 400, 401, 402, 403, 404,
        405, 406, 407, 408, 409, 410, 411, 412, 413, 414, 415, 416,
        417, 418, 421, 422, 423, 424, 425, 426, 428, 429, 431, 451, 499, 500, 501, 502, 503, 504, 505, 506, 507, 508,
        510, 511, 599, 600, 999,
    ):  # fmt: skip
        line = b"HTTP/1.1 %d Reason" % status
        yield got(
            f"status_{status}",
            "RFC 9110 §15",
            head(b"Content-Length: 2", line=line, body=b"hi"),
            Answer(status, start=line, body=b"hi"),
        )
    for name, line, forwarded in (
        ("no_reason", b"HTTP/1.1 200 ", b"HTTP/1.1 200 "), ("no_reason_no_space", b"HTTP/1.1 200", b"HTTP/1.1 200 "),
        ("long_reason", b"HTTP/1.1 200 a  b\tc", b"HTTP/1.1 200 a  b\tc"),
        ("obs_text_reason", b"HTTP/1.1 200 caf\xe9", b"HTTP/1.1 200 caf\xe9"), ("version_10", b"HTTP/1.0 200 OK",
        b"HTTP/1.1 200 OK"), ("version_12", b"HTTP/1.2 200 OK", b"HTTP/1.1 200 OK"),
    ):  # fmt: skip
        yield got(
            f"status_line_{name}",
            "RFC 9112 §4",
            head(b"Content-Length: 2", line=line, body=b"hi"),
            Answer(200, start=forwarded, body=b"hi"),
        )
    for number, line in enumerate(
        (
            b"HTTP/1.1 20 OK", b"HTTP/1.1 2000 OK", b"HTTP/1.1 2x0 OK", b"HTTP/1.1 -20 OK", b"HTTP/1.1 099 OK",
            b"HTTP/1.1 000 OK", b"HTTP/1.1  200 OK", b"HTTP/1.1\t200 OK", b"HTTP/2.0 200 OK",
            b"HTTP/0.9 200 OK", b"http/1.1 200 OK", b"HTTP/1.10 200 OK", b"HTTP/1 200 OK", b"ICY 200 OK", b"200 OK",
            b"HTTP/1.1", b"HTTP/1.1 ", b"HTTP/1.1 OK", b"HTTP/1.1 200OK", b"HTTPS/1.1 200 OK",
            b"HTTP/1.1 200\x00", b"HTTP/1.1 200 \x01", b"HTTP/1.1 200 a\rb", b" HTTP/1.1 200 OK", b"\xff\xfe",
            b"<html>hello</html>", b"GET / HTTP/1.1", b"HTTP/1.1 +20 OK", b"HTTP/1.1 2 0 OK",
        )
    ):  # fmt: skip
        yield bad(
            f"status_line_bad_{number}_{line!r}", "RFC 9112 §4", head(b"Content-Length: 2", line=line, body=b"hi")
        )
    for name, method in (("get", b"GET"), ("head", b"HEAD")):
        yield got(
            f"status_204_{name}",
            "RFC 9110 §15.3.5",
            b"HTTP/1.1 204 No\r\n\r\n",
            Answer(204, lacks=(b"content-length", b"transfer-encoding"), body=b""),
            method=method,
        )
        yield got(
            f"status_304_{name}",
            "RFC 9110 §15.4.5",
            b'HTTP/1.1 304 No\r\nContent-Length: 99\r\nETag: "x"\r\n\r\n',
            Answer(304, (b"Content-Length: 99", b'ETag: "x"'), body=b""),
            method=method,
        )
    yield got(
        "status_204_with_length",
        "RFC 9110 §8.6",
        b"HTTP/1.1 204 No\r\nContent-Length: 0\r\n\r\n",
        Answer(204, lacks=(b"content-length",), body=b""),
    )
    yield got(
        "status_204_with_body",
        "RFC 9112 §6.3",
        b"HTTP/1.1 204 No\r\nContent-Length: 2\r\n\r\nhi",
        Answer(204, lacks=(b"content-length",), body=b""),
    )
    yield got(
        "status_204_chunked",
        "RFC 9112 §6.1",
        b"HTTP/1.1 204 No\r\nTransfer-Encoding: chunked\r\n\r\n" + HELLO,
        Answer(204, lacks=(b"transfer-encoding",), body=b""),
    )
    yield got("status_204_poison", "RFC 9112 §6.3", b"HTTP/1.1 204 No\r\n\r\n" + SECOND, Answer(204, body=b""))
    yield got(
        "status_304_with_body",
        "RFC 9112 §6.3",
        b"HTTP/1.1 304 No\r\nContent-Length: 2\r\n\r\nhi",
        Answer(304, body=b""),
    )
    yield got(
        "status_304_chunked",
        "RFC 9112 §6.1",
        b"HTTP/1.1 304 No\r\nTransfer-Encoding: chunked\r\n\r\n" + HELLO,
        Answer(304, body=b""),
    )
    yield got("status_304_poison", "RFC 9112 §6.3", b"HTTP/1.1 304 No\r\n\r\n" + SECOND, Answer(304, body=b""))
    yield got(
        "status_205",
        "RFC 9110 §15.3.6",
        b"HTTP/1.1 205 Reset\r\nContent-Length: 0\r\n\r\n",
        Answer(205, (b"Content-Length: 0",), body=b""),
    )
    yield got(
        "status_205_with_body",
        "RFC 9112 §6.3",
        b"HTTP/1.1 205 Reset\r\nContent-Length: 2\r\n\r\nhi",
        Answer(205, body=b"hi"),
    )
    yield got(
        "status_426_upgrade",
        "RFC 9110 §15.5.22",
        head(b"Upgrade: x/1", b"Connection: upgrade", b"Content-Length: 0", line=b"HTTP/1.1 426 Up"),
        Answer(426, (b"Connection: upgrade", b"Upgrade: x/1")),
    )
    yield got(
        "upgrade_in_200",
        "RFC 9110 §7.8",
        head(b"Upgrade: h2c", b"Connection: upgrade", b"Content-Length: 0"),
        Answer(200, lacks=(b"upgrade", b"connection")),
    )
    ref = "RFC 9110 §15.2"
    for status in (100, 102, 103, 104, 150, 199):
        yield got(
            f"interim_{status}",
            ref,
            b"HTTP/1.1 %d X\r\nLink: </a>\r\n\r\n" % status + OK,
            Answer(200, body=b"ok"),
            interims=[status],
        )
    yield got(
        "interims",
        ref,
        b"HTTP/1.1 103 X\r\n\r\n" * 3 + b"HTTP/1.1 102 Y\r\n\r\n" + OK,
        Answer(200, body=b"ok"),
        interims=[103, 103, 103, 102],
    )
    yield got(
        "interim_apart",
        ref,
        [b"HTTP/1.1 103 X\r\nLi", 0.02, b"nk: <a>\r\n\r\n", 0.02, OK],
        Answer(200, body=b"ok"),
        interims=[103],
    )
    yield got(
        "interim_to_head",
        ref,
        b"HTTP/1.1 103 X\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n",
        Answer(200, (b"Content-Length: 2",), body=b""),
        interims=[103],
        method=b"HEAD",
    )
    yield got(
        "interim_with_length",
        "RFC 9110 §8.6",
        b"HTTP/1.1 103 X\r\nContent-Length: 0\r\n\r\n" + OK,
        Answer(200, body=b"ok"),
        interims=[103],
    )
    yield got(
        "interims_without_end",
        ref,
        b"HTTP/1.1 103 X\r\nX: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n\r\n" * 2000 + OK,
        Answer(502),
    )
    yield got("interim_then_end", ref, [b"HTTP/1.1 103 X\r\n\r\n", CLOSE], Answer(502), interims=[103])
    yield bad("interim_bad_second", ref, b"HTTP/1.1 103 X\r\n\r\nnonsense\r\n\r\n")


def framings() -> Iterator[Case]:
    """Where an answer ends (RFC 9112 §6.3)."""
    ref = "RFC 9112 §6.3"
    yield got(
        "length",
        ref,
        head(b"Content-Length: 5", body=b"hello"),
        Answer(200, (b"Content-Length: 5",), (b"transfer-encoding",), b"hello"),
    )
    yield got("length_zero", ref, head(b"Content-Length: 0"), Answer(200, (b"Content-Length: 0",), body=b""))
    yield got(
        "length_leading_zeros",
        "RFC 9110 §8.6",
        head(b"Content-Length: 005", body=b"hello"),
        Answer(200, (b"Content-Length: 5",), body=b"hello"),
    )
    for number, value in enumerate(
        (
            b"+5",
            b"-5",
            b"0x5",
            b"5,5",
            b"5, 6",
            b"five",
            b"5 5",
            b"",
            b"9223372036854775808",
            b"9" * 30,
            b"5;",
            b"5.0",
            b"\xb25",
            b"5\x00",
            b"5_0",
            b"1e1",
            b"5,",
            b",5",
        )
    ):
        yield bad(f"length_bad_{number}_{value!r}", ref, head(b"Content-Length: " + value, body=b"hello"))
    yield bad("length_twice", ref, head(b"Content-Length: 5", b"Content-Length: 5", body=b"hello"))
    yield bad("length_twice_differing", ref, head(b"Content-Length: 5", b"Content-Length: 6", body=b"hello!"))
    yield bad("both", ref, head(b"Content-Length: 5", b"Transfer-Encoding: chunked", body=HELLO))
    yield bad("both_reversed", ref, head(b"Transfer-Encoding: chunked", b"Content-Length: 5", body=HELLO))
    for number, value in enumerate(
        (
            b"gzip",
            b"gzip, chunked",
            b"chunked, gzip",
            b"identity",
            b"",
            b"chunked, chunked",
            b"x",
            b"chunked;q=1",
            b"\x0bchunked",
            b"chunked x",
            b",chunked",
            b"xchunked",
            b"deflate, chunked",
            b"identity, chunked",
        )
    ):
        yield bad(f"coding_bad_{number}_{value!r}", "RFC 9112 §6.1", head(b"Transfer-Encoding: " + value, body=HELLO))
    yield bad(
        "coding_twice", "RFC 9112 §6.1", head(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked", body=HELLO)
    )
    yield bad("coding_in_10", "RFC 9112 §6.1", head(b"Transfer-Encoding: chunked", line=b"HTTP/1.0 200 OK", body=HELLO))
    for name, value in (("upper", b"CHUNKED"), ("spaces", b"  chunked "), ("tabs", b"\tchunked\t")):
        yield got(
            f"coding_{name}",
            "RFC 9112 §7",
            head(b"Transfer-Encoding:" + value, body=HELLO),
            Answer(200, (b"Transfer-Encoding: chunked",), body=b"hello"),
        )
    for name, answer in {
        "none_11": head(body=b"hello"),
        "none_10": head(line=b"HTTP/1.0 200 OK", body=b"hello"),
        "none_close": head(b"Connection: close", body=b"hello"),
    }.items():
        yield got(
            f"until_close_{name}", ref, [answer, CLOSE], Answer(200, (b"Transfer-Encoding: chunked",), body=b"hello")
        )
    yield got("until_close_empty", ref, [head(), CLOSE], Answer(200, body=b""))
    yield got("until_half_close", ref, [head(body=b"hello"), FIN, 0.05], Answer(200, body=b"hello"))
    yield Case(
        "until_close_to_10",
        ref,
        req(b"GET / HTTP/1.0"),
        SEEN,
        [Answer(200, lacks=(b"transfer-encoding",), body=b"hello")],
        backend=[[head(body=b"hello"), CLOSE]],
        open=False,
    )
    yield Case(
        "until_reset_to_10",
        "RFC 9112 §8",
        req(b"GET / HTTP/1.0"),
        SEEN,
        [Answer(200, cut=True)],
        backend=[[head(body=b"hello"), 0.05, RESET]],
        ended="reset",
        open=False,
    )
    yield got(
        "keep_alive_10",
        "RFC 9112 §9.3",
        head(b"Connection: keep-alive", b"Content-Length: 5", line=b"HTTP/1.0 200 OK", body=b"hello"),
        Answer(200, lacks=(b"connection",), body=b"hello"),
    )
    yield got(
        "close_11",
        "RFC 9112 §9.6",
        [head(b"Connection: close", b"Content-Length: 5", body=b"hello"), CLOSE],
        Answer(200, lacks=(b"connection",), body=b"hello"),
    )
    for status in (200, 404, 500):
        line = b"HTTP/1.1 %d X" % status
        yield got(
            f"head_{status}_length",
            "RFC 9110 §9.3.2",
            head(b"Content-Length: 500000", line=line),
            Answer(status, (b"Content-Length: 500000",), body=b""),
            method=b"HEAD",
        )
        yield got(
            f"head_{status}_chunked",
            "RFC 9112 §6.1",
            head(b"Transfer-Encoding: chunked", line=line),
            Answer(status, body=b""),
            method=b"HEAD",
        )
        yield got(
            f"head_{status}_no_length",
            "RFC 9110 §9.3.2",
            head(line=line),
            Answer(status, lacks=(b"content-length",), body=b""),
            method=b"HEAD",
        )
        yield got(
            f"head_{status}_with_body",
            "RFC 9112 §6.3",
            head(b"Content-Length: 5", line=line, body=b"hello"),
            Answer(status, (b"Content-Length: 5",), body=b""),
            method=b"HEAD",
        )
    yield got("head_chunked_with_body", "RFC 9112 §6.3", CHUNKED + HELLO, Answer(200, body=b""), method=b"HEAD")
    yield got(
        "extra_bytes", "RFC 9112 §6.3", head(b"Content-Length: 2", body=b"hi" + b"there"), Answer(200, body=b"hi")
    )
    yield got("extra_answer", "RFC 9112 §9.2", head(b"Content-Length: 2", body=b"hi" + SECOND), Answer(200, body=b"hi"))
    yield got(
        "extra_answer_late",
        "RFC 9112 §9.2",
        [head(b"Content-Length: 2", body=b"hi"), 0.05, SECOND],
        Answer(200, body=b"hi"),
    )
    yield got("extra_after_chunks", "RFC 9112 §6.3", CHUNKED + HELLO + SECOND, Answer(200, body=b"hello"))
    yield got("extra_crlf", "RFC 9112 §6.3", head(b"Content-Length: 2", body=b"hi\r\n"), Answer(200, body=b"hi"))
    ref = "RFC 9112 §7.1"
    for name, data, body in (
        ("one", HELLO, b"hello"), ("none", b"0\r\n\r\n", b""), ("zeros", b"0005\r\nhello\r\n000\r\n\r\n", b"hello"),
        ("extension", b'5;a="b"\r\nhello\r\n0;c\r\n\r\n', b"hello"),
        ("extension_open", b'5 ;a="b\r\nhello\r\n0;=\r\n\r\n', b"hello"),
        ("space", b"5 \r\nhello\r\n0\t\r\n\r\n", b"hello"),
        ("upper", b"A\r\n0123456789\r\n0\r\n\r\n", b"0123456789"), ("many", b"1\r\nx\r\n" * 3000 + b"0\r\n\r\n",
        b"x" * 3000), ("large", b"20000\r\n" + b"x" * 0x20000 + b"\r\n0\r\n\r\n", b"x" * 0x20000),
    ):  # fmt: skip
        yield got(
            f"chunks_{name}",
            ref,
            CHUNKED + data,
            Answer(200, (b"Transfer-Encoding: chunked",), (b"content-length",), body),
        )
    yield got("chunks_bytewise", ref, [CHUNKED, *(bytes([byte]) for byte in HELLO)], Answer(200, body=b"hello"))
    yield got(
        "chunks_gzip_content",
        "RFC 9110 §8.4",
        head(b"Transfer-Encoding: chunked", b"Content-Encoding: gzip", body=HELLO),
        Answer(200, (b"Content-Encoding: gzip",), body=b"hello"),
    )
    for number, data in enumerate(
        (
            b"x\r\n", b"-5\r\nhello\r\n", b"0x5\r\nhello\r\n", b"5\nhello\r\n",
            b" 5\r\nhello\r\n", b"5\r\nhello0\r\n\r\n", b"5\r\nhello\n0\r\n\r\n", b"\r\n", b"fffffffffffffffff\r\n",
            b"8000000000000000\r\n", b"5;\x00\r\nhello\r\n", b"5\r\nhello\r\n0\r\nX y\r\n\r\n",
            b"5\r\nhello\r\n0\r\nX : y\r\n\r\n", b"5\r\nhello\r\n0\r\n X: y\r\n\r\n",
            b"5\r\nhello\r\n0\r\nX: \x00\r\n\r\n",
            b"5\r\nhello\r\n0\r\n\n", b"5\r\nhello\r\n0\n\n", b"5\r\nhello!\r\n0\r\n\r\n", b"5\rhello\r\n0\r\n\r\n",
            b"+5\r\nhello\r\n0\r\n\r\n", b"5;" + b"a" * 5000 + b"\r\n",
        )
    ):  # fmt: skip
        yield got(f"chunks_bad_{number}_{data[:24]!r}", ref, CHUNKED + data, Answer(200, cut=True), open=False)
    for name, steps in {
        "length": [head(b"Content-Length: 10", body=b"hello"), CLOSE], "length_reset": [head(b"Content-Length: 10",
        body=b"hello"), 0.05, RESET], "chunks": [CHUNKED + b"5\r\nhello\r\n", CLOSE],
        "in_chunk": [CHUNKED + b"5\r\nhel", CLOSE], "in_size": [CHUNKED + b"5\r\nhello\r\n5", CLOSE],
        "before_trailers_end": [CHUNKED + b"5\r\nhello\r\n0\r\nX: y\r\n", CLOSE],
        "last_crlf": [CHUNKED + b"5\r\nhello\r\n0\r\n", CLOSE],
    }.items():  # fmt: skip
        body = b"hel" if name == "in_chunk" else b"hello"
        yield got(f"truncated_{name}", "RFC 9112 §8", steps, Answer(200, body=body, cut=True), open=False, ended="fin")
    for name, data in {
        "head": b"HTTP/1.1 200 OK\r\nContent-",
        "line": b"HTTP/1.",
        "fields": b"HTTP/1.1 200 OK\r\nX: y\r\n",
    }.items():
        yield bad(f"truncated_{name}", "RFC 9112 §8", [data, CLOSE])
    # Without a body nothing of a POST can be sent again: a GET would be, on a connection that had been used before.
    yield bad("truncated_nothing", "RFC 9112 §8", [CLOSE], method=b"POST")
    ref = "RFC 9110 §6.5"
    yield got(
        "trailers",
        ref,
        CHUNKED + b"5\r\nhello\r\n0\r\nX: y\r\nZ: 1\r\nX: z\r\n\r\n",
        Answer(200, body=b"hello", trailers=(b"X: y", b"Z: 1", b"X: z")),
    )
    yield got(
        "trailers_declared",
        ref,
        head(b"Trailer: X", b"Transfer-Encoding: chunked", body=b"0\r\nX: y\r\n\r\n"),
        Answer(200, (b"Trailer: X",), body=b"", trailers=(b"X: y",)),
    )
    for name in (
        b"Content-Length",
        b"Transfer-Encoding",
        b"Set-Cookie",
        b"Location",
        b"Content-Type",
        b"Cache-Control",
        b"Connection",
        b"Content-Encoding",
        b"Date",
        b"WWW-Authenticate",
        b"Trailer",
        b"Vary",
        b"Expires",
        b"Age",
    ):
        yield got(
            f"trailers_forbidden_{name.decode()}",
            ref,
            CHUNKED + b"5\r\nhello\r\n0\r\n" + name + b": 5\r\nX: y\r\n\r\n",
            Answer(200, body=b"hello", trailers=(b"X: y",)),
        )
    yield Case(
        "trailers_to_10",
        ref,
        req(b"GET / HTTP/1.0"),
        SEEN,
        [Answer(200, lacks=(b"x", b"trailer"), body=b"hello")],
        backend=[CHUNKED + b"5\r\nhello\r\n0\r\nX: y\r\n\r\n"],
        open=False,
    )


def fields() -> Iterator[Case]:
    """Fields of an answer pass byte for byte, but those of the hop (RFC 9110 §5, §7.6.1)."""
    ref = "RFC 9110 §5.5"
    lines = (
        b"Set-Cookie: a=b; Path=/", b"Set-Cookie: c=d", b"set-cookie: e=f; Expires=Mon, 01 Jan 2024 00:00:00 GMT",
        b"X: caf\xe9", b"X: caf\xc3\xa9", b"X:", b"X: ", b"X:y", b"X:   y   ", b"X: a\tb", b"x-CASE: y",
        b'ETag: W/"x"', b"Vary: *", b"Cache-Control: max-age=1", b"Content-Type: text/plain; charset=x",
        b"Location: /a?b#c", b"Server: me/1", b"Date: Mon, 01 Jan 2024 00:00:00 GMT",
        b'WWW-Authenticate: Basic realm="x"',
        b"WWW-Authenticate: Bearer", b"Proxy-Authenticate: Basic", b"Link: </a>; rel=preload", b"Age: 5",
        b"Warning: 110 - x", b"Via: 1.1 x", b"Retry-After: 1", b"Allow: GET", b"Accept-Ranges: bytes",
        b"Content-Range: bytes 0-1/2",
        b"Content-Encoding: br", b"Content-Language: de", b"Strict-Transport-Security: max-age=1", b"Alt-Svc: clear",
        b"Refresh: 5", b"P3P: x", b"X-Accel-Redirect: /x", b"X-Accel-Buffering: no", b"X-Sendfile: /x", b"Status: 404",
        b"X-Request-Id: theirs", b"X_Under: score", b"!#$%&'*+-.^_`|~: y", b"X: " + b"y" * 8000, b"Expires: 0",
        b"Last-Modified: x", b'Content-Disposition: attachment; filename="\xe4"', b"Timing-Allow-Origin: *",
        b"Public-Key-Pins: x",
    )  # fmt: skip
    for number, line in enumerate(lines):
        yield got(f"field_{number}_{line[:24]!r}", ref, head(line, b"Content-Length: 0"), Answer(200, (line,)))
    yield got("fields_in_order", "RFC 9110 §5.3", head(*lines, b"Content-Length: 0"), Answer(200, lines))
    for number, line in enumerate(
        (
            b"X",
            b": y",
            b"X Y: z",
            b" X: y",
            b"X: a\x00b",
            b"X: a\x01",
            b"X: \x7f",
            b"X: a\rb",
            b"\x00: y",
            b"X\x0b: y",
            b'"X": y',
            b"X: y\r\n folded",
            b"X\xe9: y",
            b"(X): y",
        )
    ):
        yield bad(f"field_bad_{number}_{line!r}", ref, head(line, b"Content-Length: 0"))
    yield got(
        "space_before_colon",
        "RFC 9112 §5.1",
        head(b"X : y", b"Content-Length\t: 2", body=b"hi"),
        Answer(200, (b"X: y", b"Content-Length: 2"), body=b"hi"),
    )
    yield got(
        "hop_by_hop",
        "RFC 9110 §7.6.1",
        head(
            b"Connection: X-A, keep-alive",
            b"Keep-Alive: timeout=5",
            b"X-A: 1",
            b"X-B: 2",
            b"Proxy-Connection: x",
            b"Content-Length: 0",
        ),
        Answer(200, (b"X-B: 2",), (b"x-a", b"connection")),
    )
    yield got(
        "names_content_length",
        "RFC 9110 §7.6.1",
        head(b"Connection: Content-Length", b"Content-Length: 2", body=b"hi"),
        Answer(200, (b"Content-Length: 2",), body=b"hi"),
    )
    yield got(
        "date_added", "RFC 9110 §6.6.1", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", Answer(200, body=b"hi")
    )
    yield bad("bare_lf", "RFC 9112 §2.2", b"HTTP/1.1 200 OK\nContent-Length: 2\n\nhi")
    yield bad("bare_lf_in_field", "RFC 9112 §2.2", b"HTTP/1.1 200 OK\r\nX: y\nContent-Length: 2\r\n\r\nhi")
    yield bad("large_head", "RFC 9110 §5.4", head(*[b"X: " + b"y" * 1000] * 100))
    yield bad("many_fields", "RFC 9110 §5.4", head(*[b"X: y"] * 400))
    yield got("head_of_30k", "RFC 9110 §5.4", head(*[b"X: " + b"y" * 1000] * 30, b"Content-Length: 0"), Answer(200))
    yield got(
        "bytewise",
        "RFC 9112 §6.3",
        [bytes([byte]) for byte in head(b"Content-Length: 5", body=b"hello")],
        Answer(200, body=b"hello"),
    )


def all_cases() -> Iterator[Case]:
    """Return every case of this file."""
    for family in (statuses, framings, fields):
        for case in family():
            case.name = f"answer_{case.name}"
            yield case
