"""The demo's own measuring: the backend keeps honest books, the load does not wait for the one that it measures."""

import asyncio
import time
from contextlib import asynccontextmanager
from functools import partial

import pytest

from proxy.cli.demo.backend import ERRORS, SLOW, WELL, Backend, BackendConnection
from proxy.cli.demo.load import Load


@asynccontextmanager
async def serving(make_protocol):
    """Serve on a free port; yield it; leave no connection behind."""
    protocols = []

    def accept():
        protocols.append(Watched(make_protocol()))
        return protocols[-1]

    server = await asyncio.get_running_loop().create_server(accept, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for protocol in protocols:
            protocol.transport.abort()
        await until(lambda: all(protocol.lost for protocol in protocols), "every connection is closed")


class Watched(asyncio.Protocol):
    """Passes everything on to `inner` and knows whether the connection is lost."""

    def __init__(self, inner: asyncio.Protocol) -> None:
        self.inner, self.lost = inner, False

    def connection_made(self, transport) -> None:
        self.transport = transport
        self.inner.connection_made(transport)

    def data_received(self, data) -> None:
        self.inner.data_received(data)

    def connection_lost(self, exc) -> None:
        self.lost = True
        self.inner.connection_lost(exc)


async def until(condition, what: str) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 (what is waited for has no event to offer)
            await asyncio.sleep(0.005)
    assert condition(), what


async def talk(port: int, request: bytes, answers: int) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    received = b""
    while received.count(b"HTTP/1.1 ") < answers or not received.endswith((b"\n", b"\r\n\r\n")):
        received += await reader.read(4096)
    writer.close()
    await writer.wait_closed()
    return received


def test_a_backend_counts_what_it_answers():
    async def play():
        backend = Backend("new")
        async with serving(partial(BackendConnection, backend)) as port:
            good = await talk(port, b"GET / HTTP/1.1\r\nx-sent-ns: 17\r\n\r\nGET / HTTP/1.1\r\n\r\n", 2)
            backend.fail(ERRORS)
            bad = await talk(port, b"GET / HTTP/1.1\r\n\r\n", 1)
        return backend, good, bad

    backend, good, bad = asyncio.run(play())
    assert good.count(b"HTTP/1.1 200") == 2
    assert good.count(b"hello from new") == 2
    assert bad.startswith(b"HTTP/1.1 500")
    assert (backend.requests, backend.bad) == (3, 1)
    assert backend.first_bad_ns > 0


def test_what_came_after_an_instant_is_split_by_when_it_was_sent():
    backend = Backend("new")
    backend.arrivals += [(100, 90), (210, 190), (220, 201), (230, 0)]
    assert backend.after(200) == (1, 2)
    backend.fail(WELL)
    assert backend.after(0) == (0, 0)


def test_a_slow_backend_answers_well_but_counts_it_as_bad():
    backend = Backend("stable", mode=SLOW)
    response, wait_s = backend.answer(b"GET / HTTP/1.1")
    assert response.startswith(b"HTTP/1.1 200")
    assert wait_s > 0
    assert backend.bad == 1


def test_the_load_goes_on_sending_while_nobody_answers():
    async def play():
        async with serving(asyncio.Protocol) as port:
            load = Load("127.0.0.1", port, rate=200)
            load.start()
            await until(lambda: load.sent >= 40, "an open loop does not wait for answers")
            answered = load.answered
            await load.finish(0)
            await until(lambda: load.errors == load.sent, "every request is accounted for")
        return load, answered

    load, answered = asyncio.run(play())
    assert answered == 0
    assert load.answered == 0


def test_latency_counts_from_the_intended_time_and_every_request_is_accounted_for():
    async def play():
        backend = Backend("stable")
        async with serving(partial(BackendConnection, backend)) as port:
            load = Load("127.0.0.1", port, rate=500)
            load.start()
            await until(lambda: load.sent >= 50, "it sends")
            # The loop stands still: what was due meanwhile is late, and has to show it.
            time.sleep(0.05)  # noqa: ASYNC251
            await until(lambda: load.sent >= 80, "it catches up")
            p50, p99 = load.quantiles()
            await load.finish(30)
        return backend, load, p50, p99

    backend, load, p50, p99 = asyncio.run(play())
    assert load.errors == 0
    assert load.answered == load.sent == backend.requests
    assert p99 > 40
    assert p50 <= p99


def test_an_answer_of_500_is_an_error_for_the_client():
    async def play():
        backend = Backend("stable", mode=ERRORS)
        async with serving(partial(BackendConnection, backend)) as port:
            load = Load("127.0.0.1", port, rate=200)
            load.start()
            await until(lambda: load.sent >= 10, "it sends")
            await load.finish(30)
        return load

    load = asyncio.run(play())
    assert load.answered == 0
    assert load.errors == load.sent


@pytest.mark.parametrize("rate", [100, 1000])
def test_the_grid_of_the_load_is_the_rate(rate):
    assert Load("127.0.0.1", 1, rate)._step_ns == 1e9 / rate
