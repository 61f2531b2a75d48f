"""Real processes (fake_worker.py), sockets and shared memory."""

import asyncio
import contextlib
import os
import re
import signal
import sys
from pathlib import Path

import pytest

from proxy.controlplane import workers as module
from proxy.controlplane.board import Board
from proxy.controlplane.generations import Generations, ServiceWords
from proxy.controlplane.listeners import inode, open_listeners, sockets_of
from proxy.controlplane.roster import Roster, read
from proxy.controlplane.workers import Workers
from proxy.errors import TidegateError
from proxy.routing.table import Endpoint, RoutingTable, Service, Version
from tests.controlplane.waiting import until

FAKE = Path(__file__).with_name("fake_worker.py")
ROOT = FAKE.parents[2]
TABLE = RoutingTable((Service("web", Version("1", (Endpoint("http://127.0.0.1:9", "127.0.0.1", 9),))),))
WORDS = {"web": ServiceWords(0, 0, 1)}


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


class Fleet:
    """Workers with everything they need."""

    def __init__(self, tmp_path, slots, *knobs, argv=None):
        self.listeners, _ = open_listeners(["127.0.0.1:0"], slots)
        self.board = Board.create(slots)
        self.generations = Generations()
        self.generations.create(TABLE, WORDS)
        self.roster = tmp_path / "workers"
        self.lines = []
        self.workers = Workers(
            argv or (sys.executable, str(FAKE), *knobs),
            slots=slots,
            listeners=self.listeners,
            handover=str(tmp_path / "handover"),
            board=self.board,
            generations=self.generations,
            roster=Roster(self.roster, listeners=self.listeners),
            log=self.lines.append,
        )

    @property
    def address(self):
        return self.listeners[0].sock.getsockname()

    @property
    def pids(self):
        return [row["pid"] for row in self.workers.rows(0.25)]

    @property
    def counted(self):
        """Requests that the fakes counted: living regions and what was folded."""
        folded = self.generations.totals.process[0]
        return folded + sum(
            region.words[generation.counters_layout.process]
            for generation in self.generations.live
            for region in generation.counters.values()
        )

    async def ask(self):
        """Return the pid of the worker that answers."""
        async with asyncio.timeout(30):
            reader, writer = await asyncio.open_connection(*self.address)
            writer.write(b"GET / HTTP/1.1\r\n\r\n")
            answer = await reader.read()
            writer.close()
            await writer.wait_closed()
        return int(answer.rpartition(b"\r\n")[2])


@contextlib.asynccontextmanager
async def fleet(tmp_path, slots, *knobs, argv=None):
    it = Fleet(tmp_path, slots, *knobs, argv=argv)
    it.workers.start()
    try:
        yield it
    finally:
        it.workers.kill()
        async with asyncio.timeout(30):
            await it.workers.all_ended()
        it.generations.close()
        it.board.close()
        for listener in it.listeners:
            listener.sock.close()


async def listening(it):
    async with asyncio.timeout(30):
        await it.workers.all_listen()


def test_every_slot_gets_a_worker_and_all_of_them_answer(tmp_path):
    async def main():
        async with fleet(tmp_path, 2) as it:
            await listening(it)
            asked = set()

            async def both():
                while asked != set(it.pids):
                    asked.add(await it.ask())

            await asyncio.wait_for(both(), 30)
            assert [row["state"] for row in it.workers.rows(0.25)] == ["listening", "listening"]
            assert {process.pid for process in read(it.roster).orphans} == set(it.pids)
            assert {os.getsid(pid) for pid in it.pids} == set(it.pids)
        assert read(it.roster).orphans == ()

    asyncio.run(main())


def test_a_killed_worker_is_replaced_and_its_counts_are_kept(tmp_path):
    async def main():
        async with fleet(tmp_path, 1) as it:
            await listening(it)
            (first,) = it.pids
            for _ in range(5):
                assert await it.ask() == first
            os.kill(first, signal.SIGKILL)
            # The queue lives on: whoever connects now waits for the successor.
            assert await it.ask() != first
            assert it.counted == 6
            assert any("signal 9" in line and str(first) in line for line in it.lines)

    asyncio.run(main())


def test_a_worker_that_keeps_dying_is_restarted_ever_more_slowly(tmp_path, monkeypatch):
    delays = []

    async def main():
        loop = asyncio.get_running_loop()
        later = loop.call_later

        def call_later(delay, call, *arguments, **more):
            if getattr(call, "__name__", "") == "_start":
                delays.append(delay)
                delay = 0
            return later(delay, call, *arguments, **more)

        monkeypatch.setattr(loop, "call_later", call_later)
        async with fleet(tmp_path, 1, argv=("/bin/false",)):
            await until(lambda: len(delays) >= 9)

    asyncio.run(main())
    assert delays[:9] == [0.0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]


def test_a_program_that_is_not_there_is_tried_again(tmp_path):
    async def main():
        async with fleet(tmp_path, 1, argv=("/nowhere/at/all",)) as it:
            await until(lambda: len(it.lines) >= 2)
            assert "cannot be started" in it.lines[0]
            assert it.workers.rows(0.25) == [{"slot": 0, "pid": None, "state": "down", "beat_age_s": None}]

    asyncio.run(main())


def test_a_worker_that_talks_nonsense_is_replaced(tmp_path):
    talk = "import socket, sys; from proxy.ipc import channel; s = socket.socket(fileno=int(sys.argv[1])); "
    nonsense = talk + "channel.send(s, {'type': 'ack'}); s.recv(1); import signal; signal.pause()"

    async def main():
        async with fleet(tmp_path, 1, argv=(sys.executable, "-c", nonsense)) as it:
            await until(lambda: any("does not make sense" in line for line in it.lines))
            await until(lambda: any("signal 9" in line for line in it.lines))

    asyncio.run(main())


def test_a_stopped_worker_is_killed_and_replaced(tmp_path):
    async def main():
        async with fleet(tmp_path, 2) as it:
            await listening(it)
            first, second = it.pids
            os.kill(first, signal.SIGSTOP)
            for _ in range(module.HUNG_SWEEPS + 1):
                beat = it.board.row(1).beat
                await until(lambda beat=beat: it.board.row(1).beat > beat)
                it.workers.sweep()
            await until(lambda: it.pids[0] not in (None, first))
            assert it.pids[1] == second
            await listening(it)
            assert any("no beat" in line for line in it.lines)

    asyncio.run(main())


def test_a_worker_that_is_still_starting_gets_more_time(tmp_path):
    async def main():
        async with fleet(tmp_path, 1, "frozen") as it:
            for _ in range(module.HUNG_SWEEPS + 1):
                it.workers.sweep()
            assert it.workers.rows(0.25)[0]["state"] == "starting"

    asyncio.run(main())


def test_a_switch_waits_until_every_worker_has_the_table(tmp_path):
    async def main():
        async with fleet(tmp_path, 2) as it:
            await listening(it)
            generation = it.generations.create(TABLE, WORDS)
            async with asyncio.timeout(30):
                assert await it.workers.switch(generation) == []
            assert [it.board.row(slot).generation for slot in (0, 1)] == [generation.number] * 2
            # Both have let go of the one before.
            await until(lambda: it.generations.live == [generation])

    asyncio.run(main())


def test_a_worker_that_does_not_acknowledge_is_replaced(tmp_path):
    async def main():
        async with fleet(tmp_path, 2, "mute=2") as it:
            await listening(it)
            before = it.pids
            switch = asyncio.ensure_future(it.workers.switch(it.generations.create(TABLE, WORDS)))
            await asyncio.sleep(0)
            assert not switch.done()
            for _ in range(module.HUNG_SWEEPS):
                beats = [it.board.row(slot).beat for slot in (0, 1)]
                await until(lambda beats=beats: all(it.board.row(slot).beat > beat for slot, beat in enumerate(beats)))
                it.workers.sweep()
            assert await asyncio.wait_for(switch, 30) == []
            await until(lambda: None not in it.pids and not set(it.pids) & set(before))
            assert sum("does not acknowledge" in line for line in it.lines) == 2

    asyncio.run(main())


def test_a_refused_table_says_why(tmp_path):
    async def main():
        async with fleet(tmp_path, 1, "refuse=2") as it:
            await listening(it)
            async with asyncio.timeout(30):
                refusals = await it.workers.switch(it.generations.create(TABLE, WORDS))
            assert refusals == ["worker 0: does not please me"]

    asyncio.run(main())


def test_a_worker_that_refuses_its_first_table_is_replaced(tmp_path):
    async def main():
        async with fleet(tmp_path, 2, "refuse=2") as it:
            await listening(it)
            first, second = it.pids
            await asyncio.wait_for(it.workers.switch(it.generations.create(TABLE, WORDS)), 30)  # both stay as they are
            os.kill(first, signal.SIGKILL)
            await until(lambda: sum("first table" in line for line in it.lines) >= 2)  # again and again
            assert it.pids[1] == second
            said = r"worker 0 \(pid \d+\) cannot use its first table \(does not please me\): killed"
            assert any(re.fullmatch(said, line) for line in it.lines)

    asyncio.run(main())


def test_the_start_ends_where_the_first_table_of_all_is_refused(tmp_path):
    async def main():
        async with fleet(tmp_path, 1, "refuse=1") as it:
            with pytest.raises(TidegateError, match="worker 0 cannot use its first table: does not please me"):
                await listening(it)

    asyncio.run(main())


def test_a_worker_that_dies_in_a_switch_does_not_hold_it_up(tmp_path):
    async def main():
        async with fleet(tmp_path, 1) as it:
            await listening(it)
            os.kill(it.pids[0], signal.SIGSTOP)
            switch = asyncio.ensure_future(it.workers.switch(it.generations.create(TABLE, WORDS)))
            await asyncio.sleep(0)
            os.kill(it.pids[0], signal.SIGKILL)
            assert await asyncio.wait_for(switch, 30) == []
            await listening(it)
            assert it.board.row(0).generation == 2

    asyncio.run(main())


def test_drained_workers_serve_until_the_delay_is_over_and_are_not_replaced(tmp_path):
    async def main():
        async with fleet(tmp_path, 2) as it:
            await listening(it)
            it.workers.drain(1000.0, 5.0)
            assert await it.ask() in it.pids
            it.workers.drain(0.0, 5.0)
            async with asyncio.timeout(30):
                await it.workers.all_ended()
            assert it.lines == []

    asyncio.run(main())


def test_a_second_word_ends_a_drain_at_once(tmp_path):
    async def main():
        async with fleet(tmp_path, 2, "slow") as it:
            await listening(it)
            it.workers.drain(0.0, 1000.0)
            it.workers.stop()
            async with asyncio.timeout(30):
                await it.workers.all_ended()

    asyncio.run(main())


def test_a_worker_gets_every_socket_of_every_slot(tmp_path):
    async def main():
        async with fleet(tmp_path, 3) as it:
            await listening(it)
            held = sockets_of(it.pids)
            assert {inode(listener.sock) for listener in it.listeners} <= held

    asyncio.run(main())
