"""Cases about heads of requests: request line, Host, fields, and what is for one hop only."""

from __future__ import annotations

from collections.abc import Iterator

from tests.conformance.case import Answer, Case, Request, refused, req

GOOD = [Answer(200, body=b"ok")]
TCHAR = b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def passed(name: str, ref: str, send: object, request: Request, **more: object) -> Case:
    """Return a case whose one request reaches the backend and is answered."""
    return Case(name, ref, send, [request], more.pop("answers", GOOD), **more)


def methods() -> Iterator[Case]:
    """Any token is a method (RFC 9110 §9.1); anything else is none."""
    known = [
        "GET",
        "POST",
        "PUT",
        "DELETE",
        "OPTIONS",
        "TRACE",
        "PATCH",
        "PROPFIND",
        "PROPPATCH",
        "MKCOL",
        "COPY",
        "MOVE",
        "LOCK",
        "UNLOCK",
        "SEARCH",
        "REPORT",
        "MKACTIVITY",
        "CHECKOUT",
        "MERGE",
        "M-SEARCH",
        "NOTIFY",
        "SUBSCRIBE",
        "UNSUBSCRIBE",
        "PURGE",
        "LINK",
        "UNLINK",
        "SOURCE",
        "ACL",
        "BIND",
        "REBIND",
        "QUERY",
        "BASELINE-CONTROL",
        "MKCALENDAR",
        "UPDATEREDIRECTREF",
        "VERSION-CONTROL",
        "LABEL",
        "PRI",
        "get",
        "Get",
        "gET",
        "GETX",
        "X",
        "GE",
        "g0",
        "0",
        "_",
        "~",
        "--",
        "!",
        "$%&'*+",
        "^`|",
        "CONNECTX",
        "connect",
    ]
    for word in known:
        method = word.encode()
        yield passed(
            f"method_{word}", "RFC 9110 §9.1", req(method + b" /m HTTP/1.1"), Request(method + b" /m HTTP/1.1")
        )
    yield Case(
        "method_HEAD",
        "RFC 9110 §9.3.2",
        req(b"HEAD /m HTTP/1.1"),
        [Request(b"HEAD /m HTTP/1.1")],
        [Answer(200, (b"Content-Length: 2",), body=b"")],
        methods=[b"HEAD"],
    )
    yield refused("method_CONNECT", "RFC 9110 §9.3.6", req(b"CONNECT a:80 HTTP/1.1"), 501)
    yield passed("method_of_64", "RFC 9110 §9.1", req(b"M" * 64 + b" / HTTP/1.1"), Request(b"M" * 64 + b" / HTTP/1.1"))
    for byte in b'"(),/:;<=>?@[\\]{}\x00\x01\x08\t\x0b\x0c\x1f\x7f\x80\xa0\xff':
        yield refused(f"method_with_{byte:02x}", "RFC 9110 §9.1", req(b"G%cT / HTTP/1.1" % byte))
    for byte in b'"(),:;<=>@\t\x0b\xff\xfe':
        yield refused(f"method_begins_with_{byte:02x}", "RFC 9110 §9.1", req(b"%cGET / HTTP/1.1" % byte))


def lines() -> Iterator[Case]:
    """The request line: one space between three parts (RFC 9112 §3)."""
    ref = "RFC 9112 §3"
    for name, line in {
        "two_spaces_before_target": b"GET  / HTTP/1.1",
        "two_spaces_before_version": b"GET /  HTTP/1.1",
        "space_behind_version": b"GET / HTTP/1.1 ",
        "tab_behind_version": b"GET / HTTP/1.1\t",
        "space_first": b" GET / HTTP/1.1",
        "tab_first": b"\tGET / HTTP/1.1",
        "tab_between": b"GET\t/ HTTP/1.1",
        "tab_before_version": b"GET /\tHTTP/1.1",
        "vertical_tab": b"GET\x0b/ HTTP/1.1",
        "form_feed": b"GET /\x0cHTTP/1.1",
        "cr_between": b"GET\r/ HTTP/1.1",
        "cr_before_version": b"GET / \rHTTP/1.1",
        "cr_behind_version": b"GET / HTTP/1.1\r",
        "nbsp_between": b"GET\xa0/ HTTP/1.1",
        "space_in_target": b"GET /a b HTTP/1.1",
        "fourth_word": b"GET / HTTP/1.1 x",
        "second_version": b"GET / HTTP/1.1 HTTP/1.1",
        "no_version": b"GET /",
        "no_version_but_space": b"GET / ",
        "no_target": b"GET HTTP/1.1",
        "no_target_two_spaces": b"GET  HTTP/1.1",
        "only_method": b"GET",
        "only_a_version": b"HTTP/1.1",
        "a_status_line": b"HTTP/1.1 200 OK",
        "a_field": b"X: y",
        "nul": b"GET /\x00 HTTP/1.1",
        "del": b"GET /\x7f HTTP/1.1",
    }.items():
        yield refused(f"line_{name}", ref, req(line))
    for version in (
        b"http/1.1 Http/1.1 HTTP/1 HTTP/1. HTTP/.1 HTTP/11 HTTP/1.10 HTTP/01.1 HTTP/1.01 HTTP/1,1 HTTP1.1 HTTP/x.y "
        b"HTTP/+1.1 HTTP/-1.1 HTTP/1.-1 HTTP/1.1.1 HTTP/1.1; HTTP//1.1 HTTPS/1.1 HTPP/1.1 ICY/1.1 RTSP/1.0 SIP/2.0 "
        b"HTTP/1.1a HTTP/\xb1.1 HTTP/1:1 HTTP-1.1 HTTP/1.1HTTP/1.1"
    ).split():
        yield refused(f"version_{version!r}", "RFC 9112 §2.3", req(b"GET / " + version))
    for version in (b"HTTP/2.0", b"HTTP/3.0", b"HTTP/0.9", b"HTTP/9.9", b"HTTP/2.1", b"HTTP/0.0"):
        yield refused(f"version_{version.decode()}", "RFC 9110 §15.6.6", req(b"GET / " + version), 505)
    for version in (b"HTTP/1.2", b"HTTP/1.9"):
        yield passed(
            f"version_{version.decode()}", "RFC 9110 §2.5", req(b"GET / " + version), Request(b"GET / HTTP/1.1")
        )
    for name, send in {
        "no_host": b"HEAD / HTTP/1.1\r\n\r\n",
        "bad_line": b"HEAD  / HTTP/1.1\r\nHost: a\r\n\r\n",
        "bad_length": req(b"HEAD / HTTP/1.1", b"Content-Length: x"),
        "behind_an_empty_line": b"\r\nHEAD / HTTP/1.1\r\n\r\n",
    }.items():
        answer = [Answer(400, (b"Connection: close",), body=b"")]
        yield Case(f"head_refused_{name}", "RFC 9110 §9.3.2", send, [], answer, open=False, methods=[b"HEAD"])
    yield refused("http2_preface", "RFC 9113 §3.4", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505)
    yield refused("http09", ref, b"GET /\r\n")
    yield refused("tls_hello", ref, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"x" * 64)
    plain = Request(b"GET / HTTP/1.1")
    yield passed("empty_line_first", "RFC 9112 §2.2", b"\r\n" + req(), plain)
    yield passed("two_empty_lines_first", "RFC 9112 §2.2", b"\r\n\r\n" + req(), plain)
    yield refused("many_empty_lines_first", "RFC 9112 §2.2", b"\r\n" * 9 + req())
    yield refused("empty_line_of_lf_first", "RFC 9112 §2.2", b"\n" + req())
    yield refused("empty_line_of_cr_first", "RFC 9112 §2.2", b"\r" + req())
    yield refused("bare_lf_line_end", "RFC 9112 §2.2", b"GET / HTTP/1.1\nHost: a\r\n\r\n")
    yield refused("bare_lf_everywhere", "RFC 9112 §2.2", b"GET / HTTP/1.1\nHost: a\n\n")
    yield refused("bare_lf_field_end", "RFC 9112 §2.2", b"GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n")
    yield refused("bare_lf_head_end", "RFC 9112 §2.2", [b"GET / HTTP/1.1\r\nHost: a\r\n\n"])
    yield refused("bare_cr_field_end", "RFC 9112 §2.2", b"GET / HTTP/1.1\r\nHost: a\rX: y\r\n\r\n")
    yield refused("cr_cr_lf", "RFC 9112 §2.2", b"GET / HTTP/1.1\r\nHost: a\r\r\n\r\n")
    yield refused("lf_cr", "RFC 9112 §2.2", b"GET / HTTP/1.1\r\nHost: a\n\r\n\r\n")
    yield refused("long_target", "RFC 9110 §15.5.15", req(b"GET /" + b"a" * 17000 + b" HTTP/1.1"), 414)
    long = b"GET /" + b"a" * 8000 + b" HTTP/1.1"
    yield passed("target_of_8000", "RFC 9112 §3", req(long), Request(long))
    yield refused("long_head", "RFC 6585 §5", req(b"GET / HTTP/1.1", b"X: " + b"y" * 40000), 431)
    yield refused("many_fields", "RFC 6585 §5", req(b"GET / HTTP/1.1", *[b"X: y"] * 200), 431)
    yield refused("long_name", "RFC 6585 §5", req(b"GET / HTTP/1.1", b"x" * 40000 + b": y"), 431)


def targets() -> Iterator[Case]:
    """Targets pass byte for byte (RFC 9112 §3.2.1)."""
    for number, target in enumerate(
        (
            b"/a//b", b"//a", b"///", b"//a.example/b", b"/a/../b", b"/..", b"/../../etc", b"/./a", b"/a/.", b"/a;b=c",
            b"/;", b"/a?b", b"/?", b"/??", b"/a?b?c", b"/a?b/../c", b"/%2e%2e/", b"/%2F", b"/%2f", b"/%00", b"/%0d%0a",
            b"/%20", b"/+", b"/a%", b"/%zz", b"/%u1234", b"/caf%C3%A9", b"/~a", b"/a:b", b"/:80", b"/@", b"/a@b",
            b"/http://x/", b"/?u=http://x/?y", b"/a=b&c", b"/a,b", b"/(a)", b"/'a'", b"/!$&*", b"/[a]", b"/{a}",
            b"/a|b",
            b"/^", b"/`", b"/?a[]=1", b"/?{%22a%22}", b"/?a|b", b"/?\\", b"/a.b.", b"/*", b"/%", b"/?%", b"/-", b"/_",
        )
    ):  # fmt: skip
        line = b"GET " + target + b" HTTP/1.1"
        yield passed(f"target_{number}_{target!r}", "RFC 9112 §3.2.1", req(line), Request(line))
    for byte in range(0x21, 0x7F):
        if bytes([byte]).isalnum():
            continue
        for where, shape in (("path", b"/x%cy"), ("query", b"/x?y%cz")):
            target = shape % byte
            bad = byte in b'"<>#' or (byte == 0x5C and where == "path")
            line = b"GET " + target + b" HTTP/1.1"
            name = f"target_{where}_{byte:02x}"
            if bad:
                yield refused(name, "RFC 9112 §3.2", req(line))
            else:
                yield passed(name, "RFC 3986 §3.3", req(line), Request(line))
    for byte in (*range(1, 0x20), 0x7F):
        if byte not in b"\n\r":
            yield refused(f"target_control_{byte:02x}", "RFC 9112 §3.2", req(b"GET /x%cy HTTP/1.1" % byte))
    for name, text in {"utf8": b"\xc3\xa9", "latin1": b"\xe9", "overlong": b"\xc0\xaf", "nbsp": b"\xa0"}.items():
        yield refused(f"target_raw_{name}", "RFC 3986 §2", req(b"GET /" + text + b" HTTP/1.1"))
    for name, target in {
        "authority": b"a:80", "relative": b"a/b", "dot": b".", "query": b"?a", "empty_scheme": b"://a/",
        "ftp": b"ftp://a/", "one_slash": b"http:/a", "no_slash": b"http:a", "no_authority": b"http:///x",
        "only_scheme": b"http://", "userinfo": b"http://u@a/", "userinfo_password": b"http://u:p@a/",
        "userinfo_trick": b"http://a@b/", "fragment": b"/a#b", "absolute_fragment": b"http://a/#b",
        "backslash": b"\\a", "absolute_backslash": b"http://a\\@b/", "bad_port": b"http://a:x/",
        "escape": b"http://a%62/", "bad_escape": b"http://a%zz/", "space": b"http://a /", "empty_port_host": b"http://:80/",
        "star_path": b"*/a",
        "asterisk": b"*", "scheme_tail": b"httpx://a/",
        "javascript": b"javascript://a/",
    }.items():  # fmt: skip
        yield refused(f"target_form_{name}", "RFC 9112 §3.2", req(b"GET " + target + b" HTTP/1.1"))
    yield passed("options_asterisk", "RFC 9112 §3.2.4", req(b"OPTIONS * HTTP/1.1"), Request(b"OPTIONS * HTTP/1.1"))
    for name, target, path, authority in (
        ("plain", b"http://b/x", b"/x", b"b"), ("same_host", b"http://a/x", b"/x", b"a"),
        ("https", b"https://b/x", b"/x", b"b"), ("upper_scheme", b"HTTP://b/x", b"/x", b"b"),
        ("no_path", b"http://b", b"/", b"b"), ("no_path_query", b"http://b?q", b"/?q", b"b"),
        ("port", b"http://b:8080/x?y", b"/x?y", b"b:8080"), ("large_port", b"http://b:99999/x", b"/x", b"b:99999"),
        ("comma", b"http://b,c/x", b"/x", b"b,c"), ("empty_port", b"http://b:/x", b"/x", b"b:"),
        ("ipv6", b"http://[::1]:80/x", b"/x", b"[::1]:80"), ("ipv4", b"http://127.0.0.1/x", b"/x", b"127.0.0.1"),
        ("double_slash", b"http://b//x", b"//x", b"b"), ("upper_host", b"http://B.Example/x", b"/x", b"B.Example"),
    ):  # fmt: skip
        request = Request(b"GET " + path + b" HTTP/1.1", (b"Host: " + authority,))
        yield passed(f"absolute_{name}", "RFC 9112 §3.2.2", req(b"GET " + target + b" HTTP/1.1"), request)
    yield refused("absolute_without_host", "RFC 9112 §3.2", req(b"GET http://b/x HTTP/1.1", host=b""))
    yield passed(
        "absolute_options",
        "RFC 9112 §3.2.4",
        req(b"OPTIONS http://b HTTP/1.1"),
        Request(b"OPTIONS * HTTP/1.1", (b"Host: b",)),
    )
    yield passed(
        "absolute_10_without_host", "RFC 9112 §3.2.2", req(b"GET http://b/x HTTP/1.0", host=b""),
        Request(b"GET /x HTTP/1.1", (b"Host: b",)), open=False,
    )  # fmt: skip


def hosts() -> Iterator[Case]:
    """Exactly one Host that is one (RFC 9112 §3.2)."""
    ref = "RFC 9112 §3.2"
    good = (
        b"a a.b a.b. A.B a:80 a:0 a:65535 a: a-b a_b a~b xn--caf-dma 1.2.3.4 1.2.3.4:80 [::1] [::1]:80 [::] [fe80::1] "
        b"[::ffff:1.2.3.4] [v1.a:b] a%20b a!b a$b a&b a'b a(b) a*b a+b a;b a=b localhost 1 0x7f.1 a,b , a:65536 "
        b"a:99999 a:000080 [::1]:65536"
    ).split()
    for number, host in enumerate([*good, b"a" * 256, b"a" * 4000, b"a:" + b"9" * 4000]):
        line = b"Host: " + host
        yield passed(f"host_{number}_{host[:20]!r}", ref, req(host=line), Request(b"GET / HTTP/1.1", (line,)))
    for number, host in enumerate(
        (
            b"", b" ", b"a b", b"a, b", b"a/b", b"a\\b", b"a?b", b"a#b", b"a@b", b"u:p@a", b"http://a",
            b"a:x", b"a:-1",
            b"a:+1", b"a:+80", b"a:80:80", b"a:80 ,b", b":80", b":", b"[::1", b"::1", b"[::1]x",
            b"[::1]:x", b"[]", b"[a]",
            b"[::1%25eth0]", b"[::g]", b"[1.2.3.4]", b'a"b', b"a<b", b"a>b", b"a{b", b"a|b", b"a^b", b"a`b", b"a%b",
            b"a%zz", b"a%2",
            b"caf\xc3\xa9", b"\xe9", b"a\tb", b"a\x00b", b"a\x01b", b"a\x7fb", b"[::1", b"a]b", b"a%4",
        )
    ):  # fmt: skip
        yield refused(f"host_bad_{number}_{host[:20]!r}", ref, req(host=b"Host: " + host))
    yield refused("host_missing", ref, req(host=b""))
    yield refused("host_twice", ref, req(b"GET / HTTP/1.1", b"Host: a"))
    yield refused("host_twice_differing", ref, req(b"GET / HTTP/1.1", b"Host: b"))
    yield refused("host_twice_in_other_case", ref, req(b"GET / HTTP/1.1", b"hOST: b"))
    yield refused("host_twice_empty", ref, req(b"GET / HTTP/1.1", b"Host:"))
    yield refused("host_twice_absolute", ref, req(b"GET http://a/ HTTP/1.1", b"Host: a"))
    yield refused("host_folded", "RFC 9112 §5.2", req(host=b"Host: a\r\n b"))
    yield refused("host_space_before_colon", "RFC 9112 §5.1", req(host=b"Host : a"))
    yield refused("host_behind_blank_line", ref, b"GET / HTTP/1.1\r\n\r\nHost: a\r\n\r\n")
    for name, line in {
        "no_space": b"Host:a",
        "tabs": b"Host:\ta\t",
        "spaces": b"Host:   a   ",
        "case": b"HOST: a",
    }.items():
        yield passed(f"host_line_{name}", "RFC 9112 §5.1", req(host=line), Request(b"GET / HTTP/1.1", (line,)))
    yield passed(
        "host_last", "RFC 9110 §7.2", req(b"GET / HTTP/1.1", b"X: y", b"Host: a", host=b""),
        Request(b"GET / HTTP/1.1", (b"X: y", b"Host: a")),
    )  # fmt: skip


def fields() -> Iterator[Case]:
    """Names are tokens, values visible characters, spaces, tabs and obs-text (RFC 9110 §5)."""
    for byte in range(256):
        if byte in b"\r\n":
            continue
        text = bytes([byte])
        if text in TCHAR and not text.isalnum():
            line = b"X" + text + b"Y: v"
            # By `_` for `-` alone nobody is meant here: no field of ours is called so.
            yield passed(
                f"name_with_{byte:02x}",
                "RFC 9110 §5.1",
                req(b"GET / HTTP/1.1", line),
                Request(b"GET / HTTP/1.1", (line,)),
            )
        elif text not in TCHAR and byte != 0x3A and (byte < 0x80 or byte % 32 == 0 or byte == 255):
            yield refused(f"name_with_{byte:02x}", "RFC 9110 §5.1", req(b"GET / HTTP/1.1", b"X" + text + b"Y: v"))
        line = b"X: a" + text + b"b"
        if (
            byte == 9
            or (0x20 <= byte < 0x7F and not text.isalnum())
            or (byte >= 0x80 and byte % 16 == 0)
            or byte == 255
        ):
            yield passed(
                f"value_with_{byte:02x}",
                "RFC 9110 §5.5",
                req(b"GET / HTTP/1.1", line),
                Request(b"GET / HTTP/1.1", (line,)),
            )
        elif byte < 0x20 or byte == 0x7F:
            yield refused(f"value_with_{byte:02x}", "RFC 9110 §5.5", req(b"GET / HTTP/1.1", line))
    for name, line in {
        "empty": b"X:", "empty_space": b"X: ", "empty_tabs": b"X:\t\t", "no_space": b"X:y", "many_spaces": b"X:    y",
        "trailing": b"X: y   ", "inner_spaces": b"X: a   b", "colon": b"X: a:b", "colons": b"X:::",
        "quoted": b'X: "a, b"',
        "utf8": b"X: caf\xc3\xa9", "comma": b"X: ,", "long": b"X: " + b"y" * 4000, "case": b"x-CaSe: y",
        "digits": b"1: 2",
        "crlf_escaped": b"X: a%0d%0aY: b", "semicolons": b"X: ;;", "brackets": b"X: <a>; rel=b",
    }.items():  # fmt: skip
        yield passed(
            f"field_{name}", "RFC 9110 §5.5", req(b"GET / HTTP/1.1", line), Request(b"GET / HTTP/1.1", (line,))
        )
    many = (b"A: 1", b"b: 2", b"A: 3", b"a: 4", b"A:", b"C: 1, 2")
    yield passed(
        "field_repeated_in_order", "RFC 9110 §5.3", req(b"GET / HTTP/1.1", *many), Request(b"GET / HTTP/1.1", many)
    )
    many = tuple(b"X-%d: %d" % (i, i) for i in range(100))
    yield passed("field_hundred", "RFC 9110 §5.4", req(b"GET / HTTP/1.1", *many), Request(b"GET / HTTP/1.1", many))
    ref = "RFC 9112 §5.1"
    for name, line in {
        "space_before_colon": b"X : y", "tab_before_colon": b"X\t: y", "no_colon": b"X", "no_name": b": y",
        "two_words": b"X Y: z",
        "space_only": b" ", "only_colon": b":", "cr": b"X: a\rb", "cr_end": b"X: a\r", "nul": b"X: \x00",
        "quote_name": b'"X": y',
    }.items():  # fmt: skip
        yield refused(f"field_bad_{name}", ref, req(b"GET / HTTP/1.1", line))
        yield refused(f"field_bad_{name}_first", ref, req(b"GET / HTTP/1.1", b"Host: a", host=line))
    ref = "RFC 9112 §5.2"
    for name, line in {
        "space": b"X: a\r\n b", "tab": b"X: a\r\n\tb", "empty": b"X: a\r\n ", "two": b"X: a\r\n b\r\n c",
        "smuggler": b"X: a\r\n Content-Length: 5",
    }.items():  # fmt: skip
        yield refused(f"fold_{name}", ref, req(b"GET / HTTP/1.1", line))
    yield refused("fold_first", "RFC 9112 §2.2", b"GET / HTTP/1.1\r\n X: y\r\nHost: a\r\n\r\n")
    yield refused("fold_blank_first", "RFC 9112 §2.2", b"GET / HTTP/1.1\r\n \r\nHost: a\r\n\r\n")
    for name in (
        b"Content_Length",
        b"content_LENGTH",
        b"Transfer_Encoding",
        b"X_Forwarded_For",
        b"X_Real_IP",
        b"Host_",
    ):
        lacks = () if name == b"Host_" else (name.lower(),)
        yield passed(
            f"underscore_{name.decode()}", "RFC 3875 §4.1.18", req(b"GET / HTTP/1.1", name + b": 5"),
            Request(b"GET / HTTP/1.1", lacks=lacks),
        )  # fmt: skip


def hops() -> Iterator[Case]:
    """What is for one hop only goes no further; what is not, does (RFC 9110 §7.6.1)."""
    ref = "RFC 9110 §7.6.1"

    def hop(
        name: str, *lines: bytes, has: tuple[bytes, ...] = (), lacks: tuple[bytes, ...] = (), **more: object
    ) -> Case:
        return passed(
            f"hop_{name}", ref, req(b"GET / HTTP/1.1", *lines), Request(b"GET / HTTP/1.1", has, lacks), **more
        )

    yield hop("close", b"Connection: close", lacks=(b"connection",), open=False)
    yield hop("close_case", b"Connection: ClOsE", lacks=(b"connection",), open=False)
    yield hop("close_in_list", b"Connection: x, close", lacks=(b"connection",), open=False)
    yield hop("close_second_field", b"Connection: x", b"Connection: close", lacks=(b"connection",), open=False)
    yield hop("close_and_keep_alive", b"Connection: keep-alive, close", lacks=(b"connection",), open=False)
    yield hop("keep_alive", b"Connection: keep-alive", b"Keep-Alive: timeout=5", lacks=(b"connection", b"keep-alive"))
    yield hop("proxy_connection", b"Proxy-Connection: keep-alive", lacks=(b"proxy-connection",))
    yield hop("proxy_connection_close", b"Proxy-Connection: close", lacks=(b"proxy-connection",))
    yield hop("named", b"Connection: X-A", b"X-A: 1", b"X-B: 2", has=(b"X-B: 2",), lacks=(b"x-a", b"connection"))
    yield hop("named_before", b"X-A: 1", b"Connection: x-a", b"X-B: 2", has=(b"X-B: 2",), lacks=(b"x-a", b"connection"))
    yield hop("named_twice", b"X-A: 1", b"Connection: X-A", b"x-a: 2", lacks=(b"x-a", b"connection"))
    yield hop("named_two", b"Connection: X-A, X-B", b"X-A: 1", b"X-B: 2", lacks=(b"x-a", b"x-b", b"connection"))
    yield hop("named_two_fields", b"Connection: X-A", b"X-A: 1", b"Connection: X-B", b"X-B: 2", lacks=(b"x-a", b"x-b"))
    yield hop("named_tabs", b"Connection:\tX-A\t,\tX-B", b"X-A: 1", b"X-B: 2", lacks=(b"x-a", b"x-b", b"connection"))
    yield hop("named_empty_members", b"Connection: ,, X-A ,", b"X-A: 1", lacks=(b"x-a", b"connection"))
    yield hop("named_not_there", b"Connection: X-A", lacks=(b"connection",))
    yield hop("empty", b"Connection:", lacks=(b"connection",))
    yield hop("no_token", b"Connection: a b, \x80", lacks=(b"connection",))
    yield hop("names_host", b"Connection: Host", has=(b"Host: a",), lacks=(b"connection",))
    yield hop(
        "names_forwarded",
        b"Connection: X-Forwarded-For, X-Request-Id, Via",
        lacks=(b"connection",),
        has=(b"Via: 1.1 tidegate",),
    )
    yield hop("names_cookie", b"Connection: Cookie", b"Cookie: a=b", has=(b"Cookie: a=b",))
    yield hop("te", b"TE: gzip", lacks=(b"te",))
    yield hop("te_trailers", b"TE: trailers", b"Connection: TE", has=(b"Connection: TE", b"TE: trailers"))
    yield hop(
        "te_trailers_and_more", b"TE: gzip;q=0.5, Trailers", b"Connection: te", has=(b"Connection: TE", b"TE: trailers")
    )
    yield hop("te_trailers_q", b"TE: deflate, gzip;q=1, x", lacks=(b"te", b"connection"))
    yield hop("trailer_without_body", b"Trailer: X", lacks=(b"trailer",))
    yield hop("proxy_authorization", b"Proxy-Authorization: Basic x", has=(b"Proxy-Authorization: Basic x",))
    yield hop(
        "http2_settings",
        b"Upgrade: h2c",
        b"HTTP2-Settings: AAMAAABkAAQAAP__",
        b"Connection: Upgrade, HTTP2-Settings",
        lacks=(b"upgrade", b"http2-settings", b"connection"),
    )
    yield hop("upgrade_without_connection", b"Upgrade: websocket", lacks=(b"upgrade", b"connection"))
    yield hop("upgrade_malformed", b"Upgrade: a b", b"Connection: upgrade", lacks=(b"upgrade", b"connection"))
    yield hop(
        "upgrade_refused",
        b"Upgrade: websocket",
        b"Connection: Upgrade",
        has=(b"Connection: upgrade", b"Upgrade: websocket"),
    )
    yield hop(
        "upgrade_list", b"Upgrade: h2c, websocket, x/1", b"Connection: Upgrade", has=(b"Upgrade: websocket, x/1",)
    )
    length = req(b"POST / HTTP/1.1", b"Connection: Content-Length", b"Content-Length: 5", body=b"hello")
    yield passed(
        "hop_names_content_length", ref, length, Request(b"POST / HTTP/1.1", (b"Content-Length: 5",), body=b"hello")
    )
    coded = req(
        b"POST / HTTP/1.1",
        b"Connection: Transfer-Encoding",
        b"Transfer-Encoding: chunked",
        body=b"5\r\nhello\r\n0\r\n\r\n",
    )
    yield passed(
        "hop_names_transfer_encoding",
        ref,
        coded,
        Request(b"POST / HTTP/1.1", (b"Transfer-Encoding: chunked",), body=b"hello"),
    )


def proxying() -> Iterator[Case]:
    """What a proxy adds, and what a client may not say in its place (INTERFACE §5)."""

    def spoof(
        name: str, *lines: bytes, has: tuple[bytes, ...] = (), lacks: tuple[bytes, ...] = (), trusted: bool = False
    ) -> Case:
        ref = "RFC 7239 §8.1"
        return passed(
            name, ref, req(b"GET / HTTP/1.1", *lines), Request(b"GET / HTTP/1.1", has, lacks), trusted=trusted
        )

    own = (b"X-Forwarded-For: 127.0.0.1", b"X-Forwarded-Proto: http", b"X-Forwarded-Host: a", b"Via: 1.1 tidegate")
    yield spoof("adds", has=own)
    yield spoof("spoofed_for", b"X-Forwarded-For: 9.9.9.9", has=own)
    yield spoof("spoofed_for_twice", b"X-Forwarded-For: 9.9.9.9", b"x-forwarded-for: 8.8.8.8", has=own)
    yield spoof("spoofed_proto", b"X-Forwarded-Proto: https", b"X-Forwarded-Host: evil", has=own)
    yield spoof("spoofed_forwarded", b"Forwarded: for=9.9.9.9", has=own, lacks=(b"forwarded",))
    yield spoof("spoofed_real_ip", b"X-Real-IP: 9.9.9.9", b"x-real-ip: 1", has=own, lacks=(b"x-real-ip",))
    yield spoof(
        "spoofed_underscore",
        b"X_Forwarded_For: 9.9.9.9",
        b"x_real_ip: 1",
        has=own,
        lacks=(b"x_forwarded_for", b"x_real_ip"),
    )
    yield spoof(
        "via_kept",
        b"Via: 1.0 fred",
        b"Via: 1.1 p.example",
        has=(b"Via: 1.0 fred", b"Via: 1.1 p.example", b"Via: 1.1 tidegate"),
    )
    yield spoof("trusted_for", b"X-Forwarded-For: 9.9.9.9", has=(b"X-Forwarded-For: 9.9.9.9, 127.0.0.1",), trusted=True)
    yield spoof(
        "trusted_for_twice",
        b"X-Forwarded-For: 9.9.9.9",
        b"X-Forwarded-For: 8.8.8.8",
        has=(b"X-Forwarded-For: 9.9.9.9, 8.8.8.8, 127.0.0.1",),
        trusted=True,
    )
    yield spoof(
        "trusted_proto",
        b"X-Forwarded-Proto: https",
        b"X-Forwarded-Host: h",
        has=(b"X-Forwarded-Proto: https", b"X-Forwarded-Host: h"),
        trusted=True,
    )
    yield spoof(
        "trusted_forwarded",
        b"Forwarded: for=9.9.9.9",
        b"X-Real-IP: 9.9.9.9",
        has=(b"Forwarded: for=9.9.9.9", b"X-Real-IP: 9.9.9.9"),
        trusted=True,
    )
    others = (
        b"X-Forwarded-Port: 1", b"X-Forwarded-Prefix: /p", b"X-Forwarded-Server: s", b"True-Client-IP: 9.9.9.9",
    )  # fmt: skip
    yield spoof("spoofed_others_pass", *others, has=others)
    yield spoof("request_id", b"X-Request-Id: abc-1", has=(b"X-Request-Id: abc-1",))
    yield spoof("request_id_first_of_two", b"X-Request-Id: abc", b"X-Request-Id: def", has=(b"X-Request-Id: abc",))
    yield spoof(
        "trace_context",
        b"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        b"tracestate: a=b",
        b"baggage: c=d",
        has=(
            b"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            b"tracestate: a=b",
            b"baggage: c=d",
        ),
    )
    every = (
        b"Accept: */*", b"Accept-Encoding: gzip, br", b"Accept-Language: de", b"Authorization: Basic eDp5",
        b"Cache-Control: no-cache",
        b"Cookie: a=b; c=d", b"Cookie: e=f", b"DNT: 1", b"From: a@b", b'If-Match: "x"',
        b"If-Modified-Since: Mon, 01 Jan 2024 00:00:00 GMT",
        b'If-None-Match: W/"y"', b'If-Range: "z"', b"Origin: null", b"Pragma: no-cache", b"Range: bytes=0-1,3-",
        b"Referer: http://x/",
        b"User-Agent: me (caf\xe9)", b"Warning: 199 - x", b"X-Custom: ", b"Sec-Fetch-Mode: cors",
        b"Content-Type: text/plain", b"Content-Language: en",
        b"Date: Mon, 01 Jan 2024 00:00:00 GMT", b"Server: no", b"Max-Forwards: 3", b"Age: 3", b"Alt-Used: x",
        b"Early-Data: 1", b"Prefer: a=b",
    )  # fmt: skip
    for number, line in enumerate(every):
        name = line.partition(b":")[0].decode()
        yield passed(
            f"end_to_end_{number}_{name}",
            "RFC 9110 §7.6",
            req(b"GET / HTTP/1.1", line),
            Request(b"GET / HTTP/1.1", (line,)),
        )
    yield passed("end_to_end_all", "RFC 9110 §7.6", req(b"GET / HTTP/1.1", *every), Request(b"GET / HTTP/1.1", every))
    ref = "RFC 9110 §7.6.2"
    for method in (b"OPTIONS", b"TRACE"):
        word = method.decode()
        most = b"%d" % (2**63 - 2)
        for value, next_value in (
            (b"5", b"4"), (b"1", b"0"), (b"010", b"9"), (b"99999999999", b"99999999998"),
            (b"5" * 19, b"5" * 18 + b"4"), (b"1" * 40, most),
            (b"9" * 5000, most),
        ):  # fmt: skip
            send = req(method + b" / HTTP/1.1", b"Max-Forwards: " + value)
            yield passed(
                f"max_forwards_{word}_{value[:20].decode()}_{len(value)}",
                ref,
                send,
                Request(method + b" / HTTP/1.1", (b"Max-Forwards: " + next_value,)),
            )
        status = 200 if method == b"OPTIONS" else 405
        answer = Answer(status, (b"Allow: OPTIONS",), (b"connection",))
        for value in (b"0", b"00"):
            send = req(method + b" / HTTP/1.1", b"Max-Forwards: " + value)
            yield Case(f"max_forwards_{word}_{value.decode()}", ref, send, [], [answer])
        here = req(method + b" / HTTP/1.1", b"Max-Forwards: 0")
        yield Case(
            f"max_forwards_{word}_0_pipelined",
            ref,
            here + req(b"GET /next HTTP/1.1") + here,
            [Request(b"GET /next HTTP/1.1")],
            [answer, Answer(200), answer],
        )
        closing = Answer(status, (b"Allow: OPTIONS", b"Connection: close"))
        for name, send in {
            "close": req(method + b" / HTTP/1.1", b"Max-Forwards: 0", b"Connection: close"),
            "http10": req(method + b" / HTTP/1.0", b"Max-Forwards: 0"),
            "length": req(method + b" / HTTP/1.1", b"Max-Forwards: 0", b"Content-Length: 5", body=b"hello"),
            "chunked": req(
                method + b" / HTTP/1.1", b"Max-Forwards: 0", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"
            ),
        }.items():
            yield Case(f"max_forwards_{word}_0_{name}", ref, send, [], [closing], open=False)
        for value in (b"-1", b"+1", b"x", b"", b"1, 2", b"1.5"):
            yield refused(
                f"max_forwards_{word}_bad_{value[:8]!r}", ref, req(method + b" / HTTP/1.1", b"Max-Forwards: " + value)
            )
        yield refused(
            f"max_forwards_{word}_twice", ref, req(method + b" / HTTP/1.1", b"Max-Forwards: 5", b"Max-Forwards: 0")
        )
    yield passed(
        "max_forwards_other_method",
        ref,
        req(b"GET / HTTP/1.1", b"Max-Forwards: 0"),
        Request(b"GET / HTTP/1.1", (b"Max-Forwards: 0",)),
    )


def all_cases() -> Iterator[Case]:
    """Return every case of this file."""
    for family in (methods, lines, targets, hosts, fields, hops, proxying):
        yield from family()
