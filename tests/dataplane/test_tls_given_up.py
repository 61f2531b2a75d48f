"""A TLS connection to an endpoint that is given up before it is made leaves nothing behind."""

from __future__ import annotations

import asyncio
import gc
import socket
from types import SimpleNamespace

import pytest
import uvloop

from proxy.dataplane.tls import TlsLayer
from proxy.dataplane.upstream import Upstream
from proxy.tls import client_context


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
