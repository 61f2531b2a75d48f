"""Orphans here are fakes in this process or children that hold sockets; whole takeovers are in test_supervisor."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys

import pytest

from proxy.controlplane import handover as module
from proxy.controlplane.handover import Handover
from proxy.controlplane.listeners import inode, open_listeners
from proxy.controlplane.roster import Process, start_time
from proxy.ipc import channel
from tests.controlplane.waiting import until

LOCAL = "127.0.0.1:0"


class Orphan:
    """The orphan's end of the conversation."""

    def __init__(self, path, slot, listeners, controls=(), segments=()):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(str(path))
        self.receiver = channel.Receiver()
        described = [listener.describe() for listener in listeners]
        channel.send(
            self.sock,
            {
                "type": "orphan",
                "slot": slot,
                "pid": os.getpid(),
                "listeners": described,
                "controls": list(controls),
            },
            [*(listener.sock.fileno() for listener in listeners), *segments],
        )

    async def answer(self):
        messages = await until(lambda: self.receiver.feed(self.sock))
        return messages[0][0]

    def close(self):
        self.sock.close()


@contextlib.asynccontextmanager
async def opened(path, **more):
    lines = []
    more.setdefault("adopt", lambda *_: None)
    handover = Handover(path, log=lines.append, **more)
    handover.open()
    try:
        yield handover, lines
    finally:
        handover.close()


def me(slot=0):
    return Process(slot, os.getpid(), start_time(os.getpid()) or 0)


def close(listeners):
    for listener in listeners:
        listener.sock.close()


def sleeper():
    return subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "handover"


def test_the_sockets_of_all_slots_come_through_one_orphan(path):
    async def main():
        before, _ = open_listeners([LOCAL], 2)
        async with opened(path, orphans=[me()], asked={before[0].address: LOCAL}) as (handover, _):
            orphan = Orphan(path, 0, before)
            offered = await handover.collect()
            assert [inode(one.sock) for one in offered] == [inode(one.sock) for one in before]
            assert [(one.asked, one.slot) for one in offered] == [(LOCAL, 0), (LOCAL, 1)]
            close(before)
            handover.retire(offered)
            assert await orphan.answer() == {"type": "retire", "adopted": True}
            orphan.close()
            # The queue lives on with us.
            with socket.create_connection(offered[0].sock.getsockname(), timeout=30):
                pass
            close(offered)

    asyncio.run(main())


def test_the_control_segments_of_an_orphan_are_taken(path):
    async def main():
        before, _ = open_listeners([LOCAL], 1)
        taken = []
        async with opened(path, orphans=[me()], adopt=lambda *what: taken.append(what)) as (handover, _):
            with open(os.devnull) as one, open(os.devnull) as other:  # noqa: ASYNC230, PTH123
                controls = [{"hash": 7, "weights": {"web": 8}}, {"hash": 9, "weights": {}}]
                orphan = Orphan(path, 0, before, controls, [one.fileno(), other.fileno()])
                close(await handover.collect())
            assert [what[1:] for what in taken] == [(7, {"web": 8}), (9, {})]
            for fd, *_ in taken:
                os.close(fd)
            orphan.close()
            close(before)

    asyncio.run(main())


def test_two_orphans_offer_the_same_sockets_once(path):
    async def main():
        before, _ = open_listeners([LOCAL], 2)
        async with opened(path, orphans=[me()]) as (handover, _):
            orphans = [Orphan(path, slot, before) for slot in (0, 1)]
            await until(lambda: len([one for one in handover._visitors if one.accepts_on is not None]) == 2)
            offered = await handover.collect()
            assert len(offered) == 2
            handover.retire(offered[:1])
            assert await orphans[0].answer() == {"type": "retire", "adopted": True}
            assert await orphans[1].answer() == {"type": "retire", "adopted": False}
            for orphan in orphans:
                orphan.close()
            close(offered + before)

    asyncio.run(main())


def test_an_orphan_that_comes_late_is_answered_at_once(path):
    async def main():
        before, _ = open_listeners([LOCAL], 2)
        async with opened(path) as (handover, _):
            assert await handover.collect() == []
            handover.retire(before[:1])
            for slot, adopted in ((0, True), (1, False)):
                orphan = Orphan(path, slot, before)
                assert await orphan.answer() == {"type": "retire", "adopted": adopted}
                orphan.close()
            close(before)

    asyncio.run(main())


def test_a_stopped_orphan_is_not_waited_for_and_killed_when_it_stays_silent(path, monkeypatch):
    monkeypatch.setattr(module, "COME_S", 0.1)
    child = sleeper()
    child.send_signal(signal.SIGSTOP)

    async def main():
        orphan = Process(1, child.pid, start_time(child.pid) or 0)
        async with opened(path, orphans=[orphan]) as (handover, lines):
            assert await handover.collect() == []
            handover.retire([])
            handover.reap()
            assert orphan.alive
            monkeypatch.setattr(module, "SILENT_S", 0.0)
            handover.reap()
            assert child.wait(30) == -signal.SIGKILL
            assert len(lines) == 2
            assert all(str(child.pid) in line for line in lines)

    try:
        asyncio.run(main())
    finally:
        child.kill()
        child.communicate()


def test_nobody_waits_for_the_dead(path):
    child = sleeper()
    gone = Process(0, child.pid, start_time(child.pid) or 0)
    child.kill()
    child.communicate()

    async def main():
        async with opened(path, orphans=[gone]) as (handover, lines):
            assert await handover.collect() == []
            assert lines == []

    asyncio.run(main())


def test_nonsense_at_the_handover_is_shown_the_door(path):
    async def main():
        before, _ = open_listeners([LOCAL], 1)
        deaf = socket.socket()
        async with opened(path) as (handover, lines):
            for message, fds in (
                ({"type": "orphan"}, []),
                ({"slot": 0, "listeners": []}, [before[0].sock.fileno()]),
                ({"slot": 0, "listeners": [{"address": "a", "slot": 0}]}, [deaf.fileno()]),
            ):
                with socket.socket(socket.AF_UNIX) as sock:
                    sock.connect(str(path))
                    channel.send(sock, message, fds)
                    await until(lambda: lines)
                    assert sock.recv(1) == b""
                    assert "makes no sense" in lines.pop()
            assert await handover.collect() == []
        deaf.close()
        close(before)

    asyncio.run(main())


def test_the_path_is_for_this_user_alone_and_goes_with_the_supervisor(path):
    async def main():
        path.write_text("left behind by kill -9")
        async with opened(path):
            assert path.stat().st_mode & 0o777 == 0o600
        assert not path.exists()

    asyncio.run(main())
