"""A TLS connection that is given up before it is made, or that breaks in its handshake, leaves nothing behind."""

from __future__ import annotations

import asyncio
import gc
import socket
import ssl
from types import SimpleNamespace

import pytest
import uvloop

from proxy.dataplane.tls import TlsLayer
from proxy.dataplane.upstream import Upstream
from proxy.tls import client_context, read_pair, server_context
from tests.certificates import issue


@pytest.fixture
def by_hand():
    """Let nothing be collected: what is held by nobody is gone at once, or waits for the collector."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def layers():
    return [one for one in gc.get_objects() if isinstance(one, TlsLayer)]


@pytest.mark.parametrize("at", ["connecting", "connected", "shaking"])
def test_it_waits_for_no_collector(by_hand, at):
    context = client_context(verify=False)

    async def give_up(server, turns):
        loop = asyncio.get_running_loop()
        worker = SimpleNamespace(loop=loop, upstreams=set(), turns=None)
        trust = SimpleNamespace(context=context, server_name="x.test", session=None)
        endpoint = SimpleNamespace(unix=None, host="127.0.0.1", port=server.getsockname()[1])
        pool = SimpleNamespace(endpoint=endpoint, name=None, tls=trust, connect_s=9.0, idle=[])
        upstream = Upstream(worker, pool, SimpleNamespace())
        if at == "shaking":
            accepted, _ = await loop.sock_accept(server)
            with accepted:
                await loop.sock_recv(accepted, 1000)
        for _ in range(turns):
            await asyncio.sleep(0)
        upstream.close()
        assert not worker.upstreams
        for _ in range(5):
            await asyncio.sleep(0.001)

    async def main():
        with socket.create_server(("127.0.0.1", 0)) as server:
            server.setblocking(False)
            for turns in {"connecting": [1], "connected": range(1, 12), "shaking": [0]}[at]:
                await give_up(server, turns)
                assert not layers(), turns

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


class Kept(asyncio.Protocol):
    """An application that somebody holds longer than its connection, as the wheel does."""

    def connection_made(self, transport):
        self.transport = transport


ALERT = b"\x15\x03\x01\x00\x02\x01\x00"


@pytest.mark.parametrize("side", ["client's", "server's"])
def test_a_broken_handshake_gives_its_memory_back_at_once(by_hand, side, authority, tmp_path):
    files = issue(authority, tmp_path, "shop.test", name="shop.test")
    context = (
        server_context(read_pair(files.cert, files.key).pem) if side == "server's" else client_context(verify=False)
    )
    kept, ended = [], []

    def layer():
        kept.append(Kept())
        if side == "server's":
            return TlsLayer(kept[-1], context, None, plain=lambda *_: None, refused=ended.append)
        opened = asyncio.get_running_loop().create_future()
        opened.add_done_callback(lambda one: ended.append(one.exception()))
        return TlsLayer(kept[-1], context, None, opened=opened)

    async def break_off(server, loop):
        if side == "server's":
            ours = await loop.create_server(layer, "127.0.0.1", 0)
            with socket.create_connection(ours.sockets[0].getsockname()) as client:
                client.sendall(ALERT)
                while not ended:  # noqa: ASYNC110
                    await asyncio.sleep(0.001)
            ours.close()
            return
        connecting = asyncio.create_task(loop.create_connection(layer, *server.getsockname()))
        accepted, _ = await loop.sock_accept(server)
        with accepted:
            await loop.sock_sendall(accepted, ALERT)
            await connecting
            while not ended:  # noqa: ASYNC110
                await asyncio.sleep(0.001)

    def secured():
        return [one for one in gc.get_objects() if isinstance(one, ssl.SSLObject)]

    async def main():
        with socket.create_server(("127.0.0.1", 0)) as server:
            server.setblocking(False)
            async with asyncio.timeout(30):
                await break_off(server, asyncio.get_running_loop())
                while secured():  # noqa: ASYNC110
                    await asyncio.sleep(0.001)
            assert len(kept) == len(ended) == 1

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
