"""Checks: what they read, what they say when they cannot, and that nobody waits for them."""

from __future__ import annotations

import asyncio
import functools
import gzip
import os
import socket
import threading
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from proxy.clock import SystemClock
from proxy.controlplane import checks as module
from proxy.controlplane.checks import BODY_MAX, Checks, Reading, place
from proxy.rollout.plan import Check, ServicePlan
from tests.controlplane.waiting import until

SECRETS = ("hush", "s3cret")
Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


def running(scenario: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Make a test of an async scenario; no check may be left behind."""

    async def whole(*args: Any, **fields: Any) -> None:
        await scenario(*args, **fields)
        assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("check ")]

    @functools.wraps(scenario)
    def test(*args: Any, **fields: Any) -> None:
        asyncio.run(whole(*args, **fields))

    return test


@asynccontextmanager
async def serving(answer: Answer) -> AsyncIterator[str]:
    """A real server whose every path is answered by `answer`; yields its URL, which holds a secret or two."""
    application = web.Application()
    application.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://user:hush@127.0.0.1:{runner.addresses[0][1]}/metrics?token=s3cret"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def watching(*checks: Check) -> AsyncIterator[Checks]:
    reader = Checks(SystemClock())
    reader.watch([ServicePlan("web", checks=checks)])
    try:
        yield reader
    finally:
        await reader.close()


async def first(check: Check) -> Reading:
    """Return the first reading of a check."""
    async with watching(check) as reader:
        return await until(lambda: (one := reader.reading("web", check.name)).number and one)


def says(status: int = 200, body: bytes = b"", **headers: str) -> Answer:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=status, body=body, headers={key.replace("_", "-"): headers[key] for key in headers})

    return answer


@pytest.mark.parametrize(
    "body, path, value",
    [
        (b'{"rss": 12345}', ("rss",), 12345.0),
        (b'{"a": [{"b": 1}, {"b": -0.5}]}', ("a", 1, "b"), -0.5),
        (b"[[7]]", (0, 0), 7.0),
        (b" 4096\n", (), 4096.0),
        (b'{"big": 123456789012345678901234567890}', ("big",), 1.2345678901234568e29),
    ],
)
@pytest.mark.parametrize("from_file", [False, True])
@running
async def test_a_number_is_read(tmp_path, body, path, value, from_file):
    if from_file:
        (tmp_path / "number").write_bytes(body)
        reading = await first(Check("n", file=str(tmp_path / "number"), path=path))
    else:
        async with serving(says(body=body)) as url:
            reading = await first(Check("n", url=url, path=path))
    assert (reading.value, reading.error, reading.failures_in_a_row, reading.number) == (value, "", 0, 1)
    assert reading.at > 0


@pytest.mark.parametrize(
    "body, path, error",
    [
        (b"<html>s3cret</html>", ("rss",), "is not JSON"),
        (b"", (), "is not JSON"),
        (b"NaN", (), "is not JSON"),
        (b"[" * 5000, (), "is not JSON"),
        (b'{"rss": 1}', ("heap", "used"), "has no $.heap"),
        (b'{"rss": 1}', (0,), "has no $[0]"),
        (b"[1]", (1,), "has no $[1]"),
        (b"[1]", ("rss",), "has no $.rss"),
        (b'{"a": {"b": null}}', ("a", "b"), "has no $.a.b"),
        (b'{"rss": "s3cret"}', ("rss",), ": $.rss is not a number"),
        (b'{"rss": true}', ("rss",), ": $.rss is not a number"),
        (b'{"rss": 1}', (), ": $ is not a number"),
        (b" " * (BODY_MAX + 1), (), "has more than 64 KiB"),
    ],
)
@pytest.mark.parametrize("from_file", [False, True])
@running
async def test_what_is_no_number_is_an_error_that_says_where(tmp_path, body, path, error, from_file):
    if from_file:
        (tmp_path / "number").write_bytes(body)
        check = Check("n", file=str(tmp_path / "number"), path=path)
        reading = await first(check)
    else:
        async with serving(says(body=body)) as url:
            check = Check("n", url=url, path=path)
            reading = await first(check)
    assert reading.value is None
    assert reading.error == f"{place(check)}{'' if error.startswith(':') else ' '}{error}"
    assert reading.failures_in_a_row == 1
    assert not any(secret in reading.error for secret in SECRETS)


@pytest.mark.parametrize(
    "answer, error",
    [
        (says(503, b"1"), "answered 503"),
        (says(204), "answered 204"),
        (says(302, b"1", Location="/elsewhere"), "answered 302"),
        (says(200, gzip.compress(b"1"), Content_Encoding="gzip"), "is not JSON"),
    ],
)
@running
async def test_only_a_plain_200_is_an_answer(answer, error):
    async with serving(answer) as url:
        assert (await first(Check("n", url=url))).error.endswith(error)


@running
async def test_what_it_sends_is_what_the_url_says():
    asked = []

    async def answer(request):
        asked.append((request.path_qs, request.headers.get("Authorization"), request.headers["Accept-Encoding"]))
        return web.Response(body=b"1")

    async with serving(answer) as url:
        assert (await first(Check("n", url=url))).value == 1.0
    assert asked == [("/metrics?token=s3cret", "Basic " + b64encode(b"user:hush").decode(), "identity")]


@running
async def test_an_endless_answer_is_left_at_the_limit():
    async def answer(request):
        stream = web.StreamResponse()
        await stream.prepare(request)
        while True:
            await stream.write(b" " * 4096)

    async with serving(answer) as url:
        reading = await first(Check("n", url=url))
    assert reading.error.endswith("has more than 64 KiB")


@pytest.mark.parametrize("trickles", [False, True])
@running
async def test_an_answer_that_does_not_come_is_an_error_in_time(trickles):
    async def answer(request):
        stream = web.StreamResponse()
        if trickles:
            await stream.prepare(request)
        while True:
            if trickles:
                await stream.write(b" ")
            await asyncio.sleep(0.01)

    async with serving(answer) as url:
        check = Check("n", url=url, timeout_s=0.1)
        reading = await first(check)
    assert reading.error == f"{place(check)} took longer than 0.1 s"


@running
async def test_nobody_there():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        reading = await first(Check("n", url=f"http://u:hush@127.0.0.1:{port}/s3cret"))
    assert reading.error == f"http://127.0.0.1:{port}: connection refused"


@pytest.mark.parametrize("how", ["at once", "within the head", "within the body", "garbage"])
@running
async def test_a_connection_that_breaks(how):
    parts = {"at once": b"", "within the head": b"HTTP/1.1 200 OK\r\n", "garbage": b"s3cret\r\n\r\n"}
    parts["within the body"] = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n1"

    async def connected(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(parts[how])
        writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        reading = await first(Check("n", url=f"http://127.0.0.1:{port}/s3cret"))
    assert reading.error.startswith(f"http://127.0.0.1:{port}: ")
    assert "s3cret" not in reading.error


@pytest.mark.parametrize("url", ["nonsense://hush/s3cret", "http://[hush", "http://user:hush@:99999/s3cret"])
@running
async def test_a_url_that_is_none_is_an_error_like_any_other(url):
    reading = await first(Check("n", url=url))
    assert reading.value is None
    assert reading.error
    assert "s3cret" not in reading.error


@pytest.mark.parametrize(
    "kind, error", [("missing", ": no such file or directory"), ("folder", " is not a regular file"), ("fifo", None)]
)
@running
async def test_a_file_that_is_none(tmp_path, kind, error):
    path = tmp_path / "file"
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)  # nobody writes: to open it in the usual way would wait for ever
    reading = await first(Check("n", file=str(path)))
    assert reading.error == f"{path}{error or ' is not a regular file'}"


@running
async def test_a_file_system_that_hangs_holds_up_nothing(tmp_path, monkeypatch):
    """Neither the loop, nor other checks, and it is not asked again before it has answered."""
    release, asked = threading.Event(), []
    (tmp_path / "well").write_text("1")
    real = module._content

    def content(check):
        if check.name == "well":
            return real(check)
        asked.append(check)
        assert release.wait(30)
        return b"5"

    monkeypatch.setattr(module, "_content", content)
    hung = Check("hung", file=str(tmp_path / "hung"), every_s=0.05, timeout_s=0.1)
    async with watching(hung, Check("well", file=str(tmp_path / "well"), every_s=0.05)) as reader:
        reading = await until(lambda: (one := reader.reading("web", "hung")).failures_in_a_row >= 3 and one)
        assert reading.error == f"{tmp_path / 'hung'}: the last reading still hangs"
        assert len(asked) == 1
        await until(lambda: reader.reading("web", "well").value == 1.0)
        release.set()
        reading = await until(lambda: (one := reader.reading("web", "hung")).value == 5.0 and one)
        assert reading.failures_in_a_row == 0


@running
async def test_failures_are_counted_until_one_succeeds():
    answers = iter([503, 503, 503])

    async def answer(_):
        return web.Response(status=next(answers, 200), body=b"3")

    async with serving(answer) as url, watching(Check("n", url=url, every_s=0.02)) as reader:
        seen = {}
        while True:
            one = reader.reading("web", "n")
            seen[one.number] = one
            if one.value is not None:
                break
            await asyncio.sleep(0)
    rows = [(number, one.failures_in_a_row, one.value) for number, one in seen.items()]
    assert rows == [(0, 0, None), (1, 1, None), (2, 2, None), (3, 3, None), (4, 0, 3.0)]
    times = [one.at for one in seen.values()]
    assert times == sorted(times)


@running
async def test_a_reload_keeps_what_is_the_same_and_begins_what_is_not_anew(tmp_path):
    for name in "abc":
        (tmp_path / name).write_text("1")
    a, b, c = (Check(name, file=str(tmp_path / name), every_s=60) for name in "abc")
    async with watching(a, b) as reader:
        await until(lambda: len(reader.readings("web")) == 2)
        kept = reader.reading("web", "a")
        changed = replace(b, path=("rss",))
        reader.watch([ServicePlan("web", checks=(a, changed)), ServicePlan("shop", checks=(c,))])
        assert reader.readings("web") == {"a": kept}
        assert reader.reading("web", "b") == Reading(0)
        await until(lambda: reader.reading("web", "b").number and reader.reading("shop", "c").number)
        assert reader.reading("web", "a") is kept
        assert reader.reading("web", "b").error.endswith("has no $.rss")
        assert reader.reading("shop", "c").value == 1.0
        reader.watch([ServicePlan("web")])
        assert reader.readings("web") == reader.readings("shop") == {}


@running
async def test_closing_ends_a_reading_that_is_being_made():
    asked = asyncio.Event()

    async def answer(_):
        asked.set()
        await asyncio.sleep(30)

    async with serving(answer) as url:
        async with watching(Check("n", url=url)) as reader:
            await asked.wait()
        assert reader.readings("web") == {}


@running
async def test_a_session_that_is_given_is_left_open():
    async with serving(says(body=b"1")) as url, aiohttp.ClientSession() as session:
        reader = Checks(SystemClock(), session)
        reader.watch([ServicePlan("web", checks=(Check("n", url=url),))])
        await until(lambda: reader.reading("web", "n").value)
        await reader.close()
        assert not session.closed


@running
async def test_two_services_may_read_the_same_file(tmp_path):
    (tmp_path / "n").write_text("1")
    check = Check("n", file=str(tmp_path / "n"))
    reader = Checks(SystemClock())
    reader.watch([ServicePlan(name, checks=(check,)) for name in ("web", "shop")])
    await until(lambda: reader.reading("web", "n").number and reader.reading("shop", "n").number)
    assert [reader.reading(name, "n").value for name in ("web", "shop")] == [1.0, 1.0]
    await reader.close()
