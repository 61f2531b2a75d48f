"""More connections than the admin API holds: the idle ones go, and whoever asks is answered."""

import asyncio
import json

import pytest

from proxy.admin.crowd import CROWD
from tests.admin.serving import running, served


async def opened(port, count):
    return [await asyncio.open_connection("127.0.0.1", port) for _ in range(count)]


async def asked(reader, writer, path="/livez"):
    writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    return await reader.readuntil(b"\r\n\r\n")


async def let_go(connections):
    for _, writer in connections:
        writer.close()
    await asyncio.gather(*(writer.wait_closed() for _, writer in connections), return_exceptions=True)


@running
async def test_a_newcomer_is_let_in_for_the_oldest_that_asks_nothing():
    async with served() as admin:
        crowd = admin.run.app[CROWD]
        crowd._most = 4
        connections = await opened(admin.port, 4)
        for reader, writer in connections[1:]:
            assert b"200 OK" in await asked(reader, writer)
        newcomers = await opened(admin.port, 2)
        for reader, writer in newcomers:
            assert b"200 OK" in await asked(reader, writer)
        async with asyncio.timeout(30):
            # The one that never asked, and the first that has its answer; the others still serve.
            assert await connections[0][0].read() == b""
            assert b"ok" in await connections[1][0].read()
        assert b"200 OK" in await asked(*connections[3])
        assert not crowd.busy
        await let_go([*connections, *newcomers])


@pytest.mark.slow
@running
async def test_when_all_are_busy_a_newcomer_is_told_so():
    async with served() as admin:
        crowd = admin.run.app[CROWD]
        crowd._most = 2
        streams = await opened(admin.port, 2)
        for reader, writer in streams:
            assert b"200 OK" in await asked(reader, writer, "/api/v1/events?follow=true")
        (newcomer,) = await opened(admin.port, 1)
        head, _, body = (await asyncio.wait_for(newcomer[0].read(), 30)).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
        assert b"application/problem+json" in head
        assert json.loads(body)["title"] == "TooManyConnections"
        await let_go([newcomer, *streams[:1]])
        async with asyncio.timeout(30):
            while crowd.refused or len(crowd.busy) > 1:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        (newcomer,) = await opened(admin.port, 1)
        assert b"200 OK" in await asked(*newcomer)
        await let_go([newcomer, *streams])
