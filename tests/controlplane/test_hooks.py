"""Hooks: go, no, silence and rubbish; a command that hangs leaves nothing behind."""

import asyncio
import contextlib
import json
import os
import signal
from pathlib import Path

import pytest
from aiohttp import web

from proxy.controlplane.hooks import call
from proxy.controlplane.rollouts import shown_hook
from proxy.rollout.plan import Hook
from tests.controlplane.waiting import until, until_now


def run(hook, **about):
    return asyncio.run(call(hook, "before_stage", {"service": "web", **about}))


def test_a_command_gets_what_it_is_about_and_its_exit_code_decides(tmp_path):
    good = run(Hook(run=("sh", "-c", "cat; pwd"), cwd=str(tmp_path)))
    assert good.ok
    told, where = good.said["output"].rsplit("}", 1)
    assert json.loads(told + "}") == {"hook": "before_stage", "service": "web"}
    assert where.strip() == str(tmp_path)
    bad = run(Hook(run=("sh", "-c", "echo no >&2; exit 7")))
    assert (bad.ok, bad.said["exit"], bad.said["output"]) == (False, 7, "no\n")


def test_a_command_that_cannot_be_started_is_a_no():
    found = run(Hook(run=("/no/such/command",)))
    assert not found.ok
    assert "cannot be started" in found.said["why"]


@pytest.mark.slow
def test_a_command_that_hangs_is_ended_with_all_that_it_started(tmp_path):
    pid = tmp_path / "pid"
    found = run(Hook(run=("sh", "-c", f"sleep 600 & echo $! > {pid}; echo began; wait"), timeout_s=0.5))
    assert (found.ok, found.said["output"]) == (False, "began\n")
    assert "did not end within 0.5 s" in found.said["why"]
    child = int(pid.read_text())
    # Its pipe is closed a moment before it is a zombie, or reaped.
    until_now(lambda: not alive(child))


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


@pytest.mark.slow
def test_what_a_command_leaves_in_the_background_holds_nothing_up_and_goes_on(tmp_path):
    pid = tmp_path / "pid"
    found = run(Hook(run=("sh", "-c", f"sleep 600 & echo $! > {pid}; echo restarted; exit 0"), timeout_s=60))
    child = int(pid.read_text())
    try:
        assert (found.ok, found.said["exit"], found.said["output"]) == (True, 0, "restarted\n")
        assert alive(child)
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_command_that_is_not_waited_for_any_more_is_ended(tmp_path):
    pid = tmp_path / "pid"

    async def whole():
        hook = Hook(run=("sh", "-c", f"sleep 600 & echo $! > {pid}.new; mv {pid}.new {pid}; wait"), timeout_s=60)
        asked = asyncio.create_task(call(hook, "after_rollback", {}))
        await until(pid.exists)
        asked.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asked

    asyncio.run(whole())
    child = int(pid.read_text())
    until_now(lambda: not alive(child))


def children():
    """Return the processes that this one has started, and that have not ended."""
    found = []
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):  # a thread may end meanwhile; its children are given to another
            found += (task / "children").read_text().split()
    return {pid for pid in found if alive(pid)}


def test_a_command_is_ended_whenever_it_is_not_waited_for_any_more():
    before = children()

    async def cancelled_after(turns):
        asked = asyncio.create_task(call(Hook(run=("sleep", "600"), timeout_s=60), "x", {}))
        for _ in range(turns):
            await asyncio.sleep(0)
        asked.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asked

    async def whole():
        for turns in range(12):
            await cancelled_after(turns)

    asyncio.run(whole())
    until_now(lambda: children() <= before)


def test_a_command_that_reads_nothing_and_says_much_is_no_trouble():
    found = run(Hook(run=("sh", "-c", "exec 0<&-; head -c 1000000 /dev/zero | tr '\\0' x")), rest="y" * 200_000)
    assert found.ok
    assert len(found.said["output"]) == 4000


def test_a_command_that_never_stops_talking_is_ended_at_once(tmp_path):
    pid = tmp_path / "pid"
    found = run(Hook(run=("sh", "-c", f"echo $$ > {pid}; exec yes"), timeout_s=60))
    assert (found.ok, found.said["why"]) == (False, "said more than 1048576 bytes")
    assert len(found.said["output"]) == 4000
    assert not Path(f"/proc/{pid.read_text().strip()}").exists()


def test_what_a_hook_says_has_no_secret_of_the_environment_in_it(monkeypatch):
    monkeypatch.setenv("TIDEGATE_ADMIN_TOKEN", "the-operators-own")
    found = run(Hook(run=("sh", "-c", "env; exit 1")))
    assert "TIDEGATE_ADMIN_TOKEN=***" in found.said["output"]
    assert "the-operators-own" not in found.said["output"]


async def answered(reply, path="/"):
    """Return what a hook gets from a server that says `reply` to everything, and which paths it asked for."""
    asked = []

    async def serve(reader, writer):
        asked.append((await reader.readuntil(b"\r\n\r\n")).split()[1].decode())
        writer.write(reply)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        return await call(Hook(url=f"http://127.0.0.1:{port}{path}"), "before_stage", {}), asked


def test_a_redirect_to_a_page_to_log_in_is_a_no_that_shows_what_was_said():
    reply = b"HTTP/1.1 302 Found\r\nLocation: /login\r\nContent-Length: 6\r\nConnection: close\r\n\r\nlog in"
    found, asked = asyncio.run(answered(reply))
    assert (found.ok, found.said["status"], found.said["body"]) == (False, 302, "log in")
    assert found.said["why"] == "answered 302: a redirect is not followed"
    assert asked == ["/"]


@pytest.mark.parametrize(
    "reply, why",
    [
        (b"garbage\r\n\r\n", "what it answers is not valid HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: abc\r\n\r\n", "what it answers is not valid HTTP"),
        (
            b"HTTP/1.1 302 Found\r\nLocation: ftp://x/?token=OURS\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            "a redirect is not followed",
        ),
        (b"", "the connection was closed before the answer was complete"),
    ],
)
def test_no_failure_shows_the_url_which_may_hold_a_secret(reply, why):
    found, _ = asyncio.run(answered(reply, "/gate?token=OURS"))
    assert not found.ok
    assert why in found.said["why"]
    assert "OURS" not in str(shown_hook(found))


@pytest.mark.parametrize("status,ok", [(200, True), (204, True), (302, False), (503, False)])
def test_an_url_gets_a_post_and_its_status_decides(status, ok):
    seen = []

    async def answer(request):
        seen.append(await request.json())
        return web.Response(status=status, text="maybe" if status != 204 else None)

    async def whole():
        app = web.Application()
        app.router.add_post("/", answer)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = site._server.sockets[0].getsockname()[1]
        found = await call(Hook(url=f"http://127.0.0.1:{port}/"), "before_start", {"stage": "canary"})
        await runner.cleanup()
        return found

    found = asyncio.run(whole())
    assert (found.ok, found.said["status"]) == (ok, status)
    assert seen == [{"hook": "before_start", "stage": "canary"}]


def test_an_url_that_never_answers_or_is_not_there_is_a_no():
    async def silent(reader, writer):
        await reader.read()
        writer.close()

    async def whole():
        server = await asyncio.start_server(silent, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        hung = await call(Hook(url=f"http://127.0.0.1:{port}/", timeout_s=0.2), "x", {})
        server.close()
        await server.wait_closed()
        gone = await call(Hook(url=f"http://127.0.0.1:{port}/"), "x", {})
        return hung, gone

    hung, gone = asyncio.run(whole())
    assert (hung.ok, hung.said["why"]) == (False, "no answer within 0.2 s")
    assert (gone.ok, "cannot be reached" in gone.said["why"]) == (False, True)


def test_no_descriptor_is_left_behind():
    def descriptors():
        return len(list(Path("/proc/self/fd").iterdir()))

    run(Hook(run=("true",)))
    before = descriptors()
    for _ in range(3):
        run(Hook(run=("true",)))
    assert descriptors() == before
