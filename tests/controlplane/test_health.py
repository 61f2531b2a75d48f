"""Active checks over real sockets: what passes, what is said of what does not, and what a reload keeps."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import ssl
from dataclasses import replace

import pytest
import trustme

from proxy.controlplane.health import AT_ONCE, RESTARTED, Checked
from proxy.rollout.plan import ServicePlan
from proxy.routing.health import Health
from proxy.routing.table import STABLE, Endpoint, EndpointTls, Match, RoutingTable, Service, Version
from tests.controlplane.waiting import until
from tests.ports import held_port

RULE = Health("/health?deep=1", interval_s=0.02, timeout_s=5.0, rise=2, fall=3)
PLAN = ServicePlan("web", health=RULE)
WELL = b"HTTP/1.1 204 No Content\r\n\r\n"
BAD = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"


class Endpoints:
    """An endpoint that answers with `answer` (`None`: never; b"": closes), and keeps what it was asked."""

    def __init__(self, answer=WELL):
        self.answer = answer
        self.asked = []
        self.open = 0
        self.most = 0

    async def serve(self, reader, writer):
        self.open += 1
        self.most = max(self.most, self.open)
        try:
            self.asked.append(await reader.readuntil(b"\r\n\r\n"))
            if self.answer is None:
                await reader.read()  # until the check has given up
            else:
                writer.write(self.answer)
        finally:
            self.open -= 1
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


@contextlib.asynccontextmanager
async def listening(one, **more):
    server = await asyncio.start_server(one.serve, "127.0.0.1", 0, **more)
    async with server:
        port = server.sockets[0].getsockname()[1]
        scheme = "https" if more else "http"
        yield Endpoint(f"{scheme}://127.0.0.1:{port}", "127.0.0.1", port, tls=bool(more))
        server.close()
        await until(lambda: not one.open)


@contextlib.asynccontextmanager
async def checked():
    """Yield checks, and look that they leave no task behind."""
    before = asyncio.all_tasks()
    checks = Checked()
    try:
        yield checks
    finally:
        await checks.close()
        assert {task for task in asyncio.all_tasks() - before if task.get_name().startswith("health")} == set()


def table(*endpoints, **fields):
    return RoutingTable((Service("web", Version("1", endpoints), **fields),))


def key(endpoint):
    return ("web", STABLE, endpoint.url)


def run(test):
    """Run a test in a loop."""

    @functools.wraps(test)
    def whole(**fixtures):
        asyncio.run(test(**fixtures))

    return whole


@run
async def test_down_after_fall_failures_and_up_after_rise_passes():
    one = Endpoints()
    async with listening(one) as endpoint, checked() as checks:
        checks.watch([PLAN], table(endpoint))
        await until(lambda: len(one.asked) > 3)
        assert checks.down == {}
        one.answer = BAD
        await until(lambda: checks.down)
        assert checks.down[key(endpoint)] == "3 checks failed: 503"
        one.answer = WELL
        await until(lambda: not checks.down)
        head = one.asked[0].decode()
    assert head.startswith(f"GET /health?deep=1 HTTP/1.1\r\nHost: 127.0.0.1:{endpoint.port}\r\n")
    assert "\r\nConnection: close\r\n" in head


async def why(endpoint, rule=RULE, **fields):
    """Return what is said of an endpoint that does not pass."""
    async with checked() as checks:
        checks.watch([replace(PLAN, health=replace(rule, fall=1))], table(endpoint, **fields))
        return (await until(lambda: checks.down))[key(endpoint)].partition(": ")[2]


@run
async def test_what_is_said_of_each_failure():
    for answer, said in (
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "404"),
        (b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 500 No\r\n\r\n", "500"),
        (b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n", "101"),
        (b"", "the connection was closed without an answer"),
        (b"HTTP/1.1 200", "the connection was closed without an answer"),
    ):
        one = Endpoints(answer)
        async with listening(one) as endpoint:
            assert await why(endpoint) == said
    async with listening(Endpoints(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")) as endpoint:
        assert (await why(endpoint)).startswith("malformed answer: ")
    async with listening(Endpoints(None)) as endpoint:
        assert await why(endpoint, replace(RULE, timeout_s=0.05)) == "no answer within 0.05 s"
    with held_port() as closed:
        assert await why(Endpoint("http://x", "127.0.0.1", closed.getsockname()[1])) == "connection refused"
    assert await why(Endpoint("unix:/nowhere/x", "localhost", 80, "/nowhere/x")) == "no such file or directory"
    assert await why(Endpoint("http://no.invalid", "no.invalid", 80), replace(RULE, timeout_s=30.0)) in (
        "the name is not known",
        "no answer within 30 s",
    )


@run
async def test_redirects_interim_responses_and_long_heads_pass():
    long = b"".join(b"X-%d: %s\r\n" % (at, b"v" * 400) for at in range(100))
    one = Endpoints(b"HTTP/1.1 302 Found\r\nLocation: /login\r\nContent-Length: 0\r\n\r\n")
    for answer in (one.answer, b"HTTP/1.1 103 Early Hints\r\n\r\n" + WELL, b"HTTP/1.0 200 OK\r\n" + long + b"\r\n"):
        one.answer = answer
        async with listening(one) as endpoint, checked() as checks:
            checks.watch([PLAN], table(endpoint), {key(endpoint)})
            await until(lambda checks=checks: not checks.down)


@run
async def test_one_that_was_down_before_the_restart_is_asked_at_once_and_has_to_pass():
    one = Endpoints(None)
    rule = replace(RULE, interval_s=3600.0)
    async with listening(one) as endpoint, checked() as checks:
        checks.watch([replace(PLAN, health=rule)], table(endpoint), {key(endpoint)})
        assert checks.down == {key(endpoint): RESTARTED}
        await until(lambda: one.asked)
    async with checked() as checks:
        checks.watch([replace(PLAN, health=None)], table(endpoint), {key(endpoint)})
        assert checks.down == {}


@run
async def test_unix_sockets_are_checked(tmp_path):
    one = Endpoints(BAD)
    path = str(tmp_path / "endpoint")
    async with await asyncio.start_unix_server(one.serve, path):
        assert await why(Endpoint(f"unix:{path}", "localhost", 80, path)) == "503"
        assert b"\r\nHost: localhost\r\n" in one.asked[0]
        await until(lambda: not one.open)


@run
async def test_tls_endpoints_are_verified():
    authority = trustme.CA()
    ca = authority.cert_pem.bytes().decode()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("app.internal").configure_cert(context)
    one = Endpoints(BAD)
    async with listening(one, ssl=context) as endpoint:
        trusting = EndpointTls(ca=ca, server_name="app.internal")
        assert await why(endpoint, endpoint_tls=trusting) == "503"
        assert await why(endpoint, endpoint_tls=EndpointTls(ca=ca)) == "TLS: certificate verify failed"
        assert await why(endpoint, endpoint_tls=EndpointTls(verify=False)) == "503"


@run
async def test_the_host_is_the_one_that_requests_come_with():
    one = Endpoints()
    async with listening(one) as endpoint:
        for fields, host in (
            ({"match": Match("shop.example.com")}, "shop.example.com"),
            ({"match": Match("*.example.com")}, f"127.0.0.1:{endpoint.port}"),
            ({"host": "endpoint", "match": Match("shop.example.com")}, f"127.0.0.1:{endpoint.port}"),
            ({"host": "app.internal:81"}, "app.internal:81"),
        ):
            one.asked.clear()
            async with checked() as checks:
                checks.watch([PLAN], table(endpoint, **fields))
                await until(lambda: one.asked)
            assert f"\r\nHost: {host}\r\n".encode() in one.asked[0]


@run
async def test_a_reload_keeps_what_is_known_and_forgets_what_is_gone():
    one = Endpoints(BAD)
    async with listening(one) as endpoint, listening(Endpoints()) as other, checked() as checks:
        checks.watch([PLAN], table(endpoint, other))
        await until(lambda: checks.down)
        task = checks._tasks[key(endpoint)]
        checks.watch([PLAN], table(endpoint))
        assert checks._tasks == {key(endpoint): task}
        # Another rule: another task, the same knowledge.
        checks.watch([replace(PLAN, health=replace(RULE, interval_s=3600.0))], table(endpoint))
        assert list(checks.down) == [key(endpoint)]
        assert checks._tasks[key(endpoint)] is not task
        checks.watch([replace(PLAN, health=None)], table(endpoint))
        assert (checks.down, checks._tasks) == ({}, {})


@run
async def test_so_many_checks_at_once_and_no_more():
    one = Endpoints(None)
    async with listening(one) as endpoint, checked() as checks:
        services = tuple(
            Service(f"web{at}", Version("1", (endpoint,)), Version("2", (endpoint,))) for at in range(AT_ONCE)
        )
        plans = [ServicePlan(service.name, health=RULE) for service in services]
        checks.watch(plans, RoutingTable(services))
        await until(lambda: len(one.asked) == AT_ONCE)
        assert one.most == AT_ONCE


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_checks_are_spread(share):
    """With the draws at either end, the first check comes within the interval."""

    async def whole():
        one = Endpoints()
        checks = Checked(draw=lambda: share)
        async with listening(one) as endpoint:
            checks.watch([PLAN], table(endpoint))
            await until(lambda: len(one.asked) > 2)
            await checks.close()

    asyncio.run(whole())
