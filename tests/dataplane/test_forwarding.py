"""What endpoints are told about clients, which Host they see, and what is removed on the way."""

from __future__ import annotations

import re

import pytest

from proxy.ipc import layout
from tests.dataplane.harness import same
from tests.dataplane.wire import answers, request, response

TRUSTED = ("127.0.0.1/32",)


def seen(gate, *lines, method="GET", **fields):
    """Return what the endpoint saw of a request with `lines`."""
    stable = gate.backend()
    gate.serve(stable, **fields)
    assert gate.client().request(method, "/", *lines).status == 200
    return stable.requests[-1]


def test_an_untrusted_client_speaks_only_for_itself(gate):
    message = seen(
        gate,
        "X-Forwarded-For: 192.0.2.1",
        "X-Forwarded-Proto: https",
        "X-Forwarded-Host: evil.test",
        "X_Forwarded_For: 192.0.2.2",
        "Forwarded: for=192.0.2.1",
        "X-Real-IP: 192.0.2.1",
        "Via: 1.0 fred",
    )
    assert message.get("X-Forwarded-For") == "127.0.0.1"
    assert message.get("X-Forwarded-Proto") == "http"
    assert message.get("X-Forwarded-Host") == "shop.test"
    assert [message.get(name) for name in ("Forwarded", "X-Real-IP", "X_Forwarded_For")] == [None] * 3
    assert message.all("Via") == ["1.0 fred", "1.1 tidegate"]


def test_a_trusted_proxy_speaks_for_its_clients(gate):
    message = seen(
        gate,
        "X-Forwarded-For: 192.0.2.1, 10.0.0.1",
        "X-Forwarded-For: 10.0.0.2",
        "X-Forwarded-Proto: https",
        "X-Forwarded-Host: front.test",
        "Forwarded: for=192.0.2.1",
        "X-Real-IP: 192.0.2.1",
        trusted_proxies=TRUSTED,
    )
    assert message.get("X-Forwarded-For") == "192.0.2.1, 10.0.0.1, 10.0.0.2, 127.0.0.1"
    assert message.get("X-Forwarded-Proto") == "https"
    assert message.get("X-Forwarded-Host") == "front.test"
    assert message.get("Forwarded") == "for=192.0.2.1"
    assert message.get("X-Real-IP") == "192.0.2.1"


def test_trust_ends_with_the_table_that_gave_it(gate):
    line = "X-Forwarded-For: 192.0.2.1"
    assert seen(gate, line, trusted_proxies=TRUSTED).get("X-Forwarded-For") == "192.0.2.1, 127.0.0.1"
    assert seen(gate, line).get("X-Forwarded-For") == "127.0.0.1"


def test_fields_of_two_hosts_on_one_connection_do_not_mix(gate):
    stable = gate.backend()
    gate.serve(stable)
    client = gate.client()
    for host in ("a.test", "b.test", "a.test"):
        client.send(f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        client.response()
        assert stable.requests[-1].get("X-Forwarded-Host") == host
        assert stable.requests[-1].get("Host") == host


def test_via_may_be_left_out(gate):
    assert seen(gate, via=False).get("Via") is None


def test_via_says_what_the_client_spoke(gate):
    stable = gate.backend()
    gate.serve(stable)
    client = gate.client()
    for version in ("1.1", "1.0", "1.1"):
        client.send(request("GET", "/", "Connection: keep-alive", version=version))
        client.response()
        assert stable.requests[-1].get("Via") == f"{version} tidegate"


def test_request_ids_are_minted_or_kept(gate):
    assert re.fullmatch(r"[0-9a-f]{32}", seen(gate).get("X-Request-Id"))
    assert seen(gate, "X-Request-ID: abc-123_x.y").get("X-Request-Id") == "abc-123_x.y"
    assert re.fullmatch(r"[0-9a-f]{32}", seen(gate, "X-Request-Id: no spaces please").get("X-Request-Id"))
    stable = gate.backend()
    gate.serve(stable)
    client = gate.client()
    for _ in range(10):
        client.request()
    assert len({one.get("X-Request-Id") for one in stable.requests}) == 10


def test_what_belongs_to_the_connection_does_not_pass(gate):
    message = seen(
        gate,
        "Connection: keep-alive, X-Hop",
        "X-Hop: 1",
        "Keep-Alive: timeout=5",
        "Proxy-Connection: keep-alive",
        "Upgrade: h2c",
        "TE: gzip",
        "X-Stays: 1",
        "traceparent: 00-1-2-03",
    )
    names = {name for name, _ in message.fields}
    assert not names & {"Connection", "X-Hop", "Keep-Alive", "Proxy-Connection", "Upgrade", "TE"}
    assert message.get("X-Stays") == "1"
    assert message.get("traceparent") == "00-1-2-03"


def test_order_case_and_duplicates_are_kept(gate):
    message = seen(gate, "x-B: 1", "X-a: 2", "x-B: 3", "accept:*/*")
    kept = [field for field in message.fields if field[0].lower() in {"x-b", "x-a", "accept"}]
    assert kept == [("x-B", "1"), ("X-a", "2"), ("x-B", "3"), ("accept", "*/*")]


def test_what_belongs_to_the_endpoints_connection_does_not_pass(gate):
    gate.serve(
        gate.backend(
            answers(
                response(
                    200, "Connection: X-Hop", "X-Hop: 1", "Keep-Alive: timeout=5", "Set-Cookie: a=1", "Set-Cookie: b=2"
                )
            )
        )
    )
    answer = gate.client().request()
    assert [answer.get(name) for name in ("Connection", "X-Hop", "Keep-Alive")] == [None] * 3
    assert answer.all("Set-Cookie") == ["a=1", "b=2"]


# ---------------------------------------------------------------- Host


@pytest.mark.parametrize("lines", [(), ("X-Host: shop.test",)])
def test_host(gate, lines):
    stable = gate.backend()
    own = stable.endpoint.url.removeprefix("http://")
    for setting, expected in [("preserve", "shop.test"), ("endpoint", own), ("inner.test", "inner.test")]:
        gate.serve(stable, host=setting)
        client = gate.client()
        client.send("\r\n".join(["GET / HTTP/1.1", *lines, "Host: shop.test", "X: y", "", ""]).encode())
        assert client.response().status == 200
        message = stable.requests[-1]
        assert message.get("Host") == expected
        assert message.get("X-Forwarded-Host") == "shop.test"
        assert message.get("X-Host") == (lines[0].split()[1] if lines else None)
        client.send(b"GET / HTTP/1.0\r\nX: y\r\n\r\n")
        assert client.response().status == 200
        message = stable.requests[-1]
        assert message.get("Host") == (own if setting == "preserve" else expected)
        assert message.get("X-Forwarded-Host") is None


def test_host_of_each_endpoint_after_a_failover(gate):
    stable = gate.backend()
    new = gate.backend(answers(response(500)))
    gate.serve(stable, new, weight=10_000, host="endpoint")
    assert gate.client().request().status == 200
    for backend in (stable, new):
        assert backend.requests[0].get("Host") == backend.endpoint.url.removeprefix("http://")


def test_absolute_and_asterisk_targets(gate):
    stable = gate.backend()
    gate.serve(stable)
    client = gate.client()
    client.send(b"GET http://other.test/a?b HTTP/1.1\r\nHost: shop.test\r\n\r\n")
    client.response()
    assert stable.requests[-1].line == "GET /a?b HTTP/1.1"
    assert stable.requests[-1].get("Host") == "other.test"
    client.send(b"GET http://old.test/ HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    client.response()
    assert stable.requests[-1].get("Host") == "old.test"
    assert client.request("OPTIONS", "*").status == 200
    assert stable.requests[-1].line == "OPTIONS * HTTP/1.1"


@pytest.mark.parametrize("method", ["DELETE", "PATCH", "PROPFIND", "M-SEARCH", "get", "TRACE"])
def test_any_method_passes(gate, method):
    assert seen(gate, method=method).method == method


def test_the_answer_names_the_request_only_when_the_proxy_gives_it(gate):
    gate.serve(gate.backend())
    client = gate.client()
    assert client.request().get("X-Request-Id") is None
    gate.set_state(0, layout.ENDPOINT_DOWN)
    assert client.request("GET", "/", "X-Request-Id: abc").get("X-Request-Id") == "abc"
    same(gate.local_replies, {(503, "no_endpoint"): 1})


def test_a_local_reply_to_head_has_no_body(gate):
    gate.serve(gate.backend())
    gate.set_state(0, layout.ENDPOINT_DOWN)
    client = gate.client()
    client.send(request("HEAD") + request("GET"))
    head = client.response("HEAD")
    whole = client.response()
    assert head.get("Content-Length") == str(len(whole.body))
