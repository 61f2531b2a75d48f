import asyncio

import orjson
import pytest

from proxy.controlplane.operations import Order
from tests.admin.serving import running, served

EVENTS = "/api/v1/events"


async def change(api, times):
    for _ in range(times):
        await api.operations.rollback("web", Order(actor="test", reason="é"))


async def next_event(stream):
    """Return (id, event) of the next event of a stream; comments are skipped."""
    while True:
        block = await asyncio.wait_for(stream.content.readuntil(b"\n\n"), 30)
        if not block.startswith(b":"):
            first, second = block.decode().rstrip("\n").split("\n")
            assert first.startswith("id: ")
            assert second.startswith("data: ")
            return int(first[4:]), orjson.loads(second[6:])


async def until(condition):
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 (what is waited for has no event to offer)
            await asyncio.sleep(0)


@running
async def test_events_come_in_pages():
    async with served() as api:
        await change(api, 5)
        value, _ = await api.ask("GET", EVENTS)
        assert [event["seq"] for event in value["events"]] == [1, 2, 3, 4, 5]
        value, _ = await api.ask("GET", EVENTS + "?since=2&limit=2")
        assert [event["seq"] for event in value["events"]] == [3, 4]
        for bad in ("since=-1", "since=x", "since=٣", "limit=0", "limit=1001", "follow=1", "since=" + "9" * 19):
            await api.ask("GET", f"{EVENTS}?{bad}", status=400)


@pytest.fixture(autouse=True)
def _look_often(monkeypatch):
    monkeypatch.setattr("proxy.admin.events.LOOK_S", 0.02)


@running
async def test_followers_get_stored_and_coming_events():
    async with served() as api:
        await change(api, 2)
        url = f"http://127.0.0.1:{api.port}{EVENTS}?since=1&follow=true"
        async with api.session.get(url) as stream:
            assert stream.content_type == "text/event-stream"
            number, event = await next_event(stream)
            assert number == event["seq"] == 2
            await change(api, 1)
            number, event = await next_event(stream)
            assert (number, event["reason"]) == (3, "é")
        await until(lambda: api.operations.streams == 0)


@running
async def test_last_event_id_goes_on_where_it_was():
    async with served() as api:
        await change(api, 3)
        url = f"http://127.0.0.1:{api.port}{EVENTS}"
        headers = {"Accept": "text/event-stream", "Last-Event-ID": "2"}
        async with api.session.get(url, headers=headers) as stream:
            assert (await next_event(stream))[0] == 3
        await api.ask("GET", EVENTS, status=400, headers=headers | {"Last-Event-ID": "x"})


@running
async def test_an_idle_stream_shows_that_it_lives(monkeypatch):
    monkeypatch.setattr("proxy.admin.events.HEARTBEAT_S", 0.01)
    async with served() as api, api.session.get(f"http://127.0.0.1:{api.port}{EVENTS}?follow=true") as stream:
        for _ in range(3):
            assert (await asyncio.wait_for(stream.content.readuntil(b"\n\n"), 30)).startswith(b":")


@running
async def test_shutdown_ends_streams():
    async with served() as api, api.session.get(f"http://127.0.0.1:{api.port}{EVENTS}?follow=true") as stream:
        await until(lambda: api.operations.streams == 1)
        async with asyncio.timeout(30):
            await asyncio.gather(api.run.cleanup(), stream.content.read())
        assert api.operations.streams == 0


@running
async def test_the_end_of_events_ends_the_stream():
    async with served() as api, api.session.get(f"http://127.0.0.1:{api.port}{EVENTS}?follow=true") as stream:
        await until(lambda: api.operations.streams == 1)
        api.operations.ended = True
        api.operations.arrived.set()
        await asyncio.wait_for(stream.content.read(), 30)


@running
async def test_streams_are_bounded(monkeypatch):
    monkeypatch.setattr("proxy.admin.events.MAX_STREAMS", 1)
    async with served() as api:
        async with api.session.get(f"http://127.0.0.1:{api.port}{EVENTS}?follow=true"):
            await api.ask("GET", EVENTS + "?follow=true", status=503)
            await api.ask("GET", EVENTS)
        await until(lambda: api.operations.streams == 0)
        async with api.session.get(f"http://127.0.0.1:{api.port}{EVENTS}?follow=true") as stream:
            assert stream.status == 200
