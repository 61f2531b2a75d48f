"""Whole supervisors as processes of their own, with fake workers (fake_worker.py)."""

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from proxy.controlplane.lock import place_of
from proxy.controlplane.roster import read
from proxy.controlplane.supervisor import worker_command
from tests.controlplane.waiting import until_now
from tests.ports import held_port

pytestmark = pytest.mark.e2e

HERE = Path(__file__).parent
CONFIG = """
listen: {listen}
workers: {workers}
state: {state}
admin: {{listen: "{admin}"}}
services:
  - name: web
    stable: {{endpoints: ["http://127.0.0.1:9"]}}
    new: {{endpoints: ["http://127.0.0.1:10"]}}
drain: {{delay: {delay}, timeout: 2s}}
"""


class Running:
    """One supervisor process."""

    def __init__(
        self,
        directory,
        *knobs,
        listen="127.0.0.1:0",
        workers=2,
        admin="127.0.0.1:0",
        delay="100ms",
        state="tidegate.db",
    ):
        self.directory = directory
        self.config = directory / "tidegate.yaml"
        text = CONFIG if state else CONFIG.replace("state: {state}\n", "")
        self.config.write_text(text.format(listen=listen, workers=workers, admin=admin, delay=delay, state=state))
        self.log = (directory / "log").open("a+")
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "run_supervisor.py"), str(self.config), *knobs],
            env={**os.environ, "PYTHONPATH": str(HERE.parents[1])},
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
        )
        self.addresses = []
        self.admin = ""

    def started(self):
        """Wait until everything is announced."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if found := re.match(r"listening on (.*)", line):
                self.addresses.append(found[1])
            elif found := re.match(r"admin API on (.*)", line):
                self.admin = found[1]
                return self
        raise AssertionError(f"ended with {self.process.wait()}: {self.logged()}")

    def logged(self):
        self.log.flush()
        return (self.directory / "log").read_text()

    @property
    def address(self):
        host, _, port = self.addresses[0].rpartition(":")
        return host, int(port)

    def ask(self):
        """Return the pid of the worker that answers."""
        return ask(self.address)

    def get(self, path):
        """Return (status, body) of the admin API."""
        connection = http.client.HTTPConnection(self.admin.removeprefix("http://"), timeout=60)
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        return answer.status, json.loads(body) if body[:1] in b"{[" else body

    @property
    def workers(self):
        """The live workers by slot."""
        return {process.slot: process.pid for process in read(self.directory / "tidegate.db.workers").orphans}

    def end(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        return self.process.wait(60)


def ask(address):
    with socket.create_connection(address, timeout=60) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
        answer = b""
        while data := sock.recv(4096):
            answer += data
    return int(answer.rpartition(b"\r\n")[2])


@pytest.fixture
def start(tmp_path):
    """Start supervisors in `tmp_path`; whatever they leave behind is ended with the test."""
    started = []

    def go(*knobs, wait=True, **more):
        running = Running(tmp_path, *knobs, **more)
        started.append(running)
        return running.started() if wait else running

    yield go
    for running in started:
        if running.process.poll() is None:
            running.process.kill()
        running.process.wait()
        running.process.stdout.close()  # its workers may still hold the other end
        running.log.close()
    for roster in tmp_path.rglob("*.workers"):
        for process in read(roster).orphans:
            process.kill()


class Client:
    """Somebody who connects again and again; `failures` holds whatever went wrong."""

    def __init__(self, address):
        self.address = address
        self.answers = []
        self.failures = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self):
        while not self._stop.is_set():
            try:
                self.answers.append(ask(self.address))
            except (OSError, ValueError) as error:
                self.failures.append(repr(error))
            time.sleep(0.005)  # a visitor, not a flood

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()

    def answered(self, count=10):
        """Wait for that many more answers."""
        goal = len(self.answers) + count
        until_now(lambda: len(self.answers) >= goal)
        return self.answers[goal - count :]


def test_workers_are_of_this_package_whatever_the_current_directory_holds(tmp_path, monkeypatch):
    (tmp_path / "proxy").mkdir()
    (tmp_path / "proxy" / "__init__.py").write_text("raise SystemExit('a stranger')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(HERE.parents[1]))
    done = subprocess.run([*worker_command(), "-1"], capture_output=True, text=True, check=False)
    assert "a stranger" not in done.stderr
    assert "Bad file descriptor" in done.stderr or "negative file descriptor" in done.stderr


def test_it_serves_and_drains_and_leaves_nothing_behind(start, tmp_path):
    it = start()
    assert it.ask() in it.workers.values()
    assert it.get("/readyz")[0] == 200
    workers = it.get("/api/v1/status")[1]["workers"]
    assert {row["slot"]: row["pid"] for row in workers} == it.workers
    assert it.end() == 0
    left = {path.name for path in tmp_path.iterdir()}
    assert {"tidegate.db.handover", "tidegate.db.workers"}.isdisjoint(left)
    with pytest.raises(ConnectionRefusedError):
        ask(it.address)


def test_readiness_turns_at_once_and_the_workers_go_on_accepting(start):
    it = start(delay="60s")
    it.process.send_signal(signal.SIGTERM)
    until_now(lambda: it.get("/readyz")[0] == 503)
    assert it.ask()
    assert it.end() == 0


def test_a_second_signal_ends_at_once(start):
    it = start("slow", delay="60s")
    it.process.send_signal(signal.SIGINT)
    until_now(lambda: it.get("/readyz")[0] == 503)
    assert it.end(signal.SIGINT) == 0


def test_workers_that_do_not_end_in_a_drain_are_ended(start):
    it = start("slow")
    pids = list(it.workers.values())
    assert it.end() == 0
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_a_killed_worker_is_replaced_without_a_refused_connection(start):
    it = start()
    with Client(it.address) as client:
        client.answered()
        victim = it.workers[0]
        os.kill(victim, signal.SIGKILL)
        until_now(lambda: it.workers.get(0) not in (None, victim))
        client.answered(20)
        # Only what the victim had already accepted may be lost.
        assert len(client.failures) <= 1
        assert not any("refused" in failure for failure in client.failures)
    assert it.get("/readyz")[0] == 200


def test_a_second_instance_is_told_the_pid_of_the_first(start):
    it = start()
    second = start(wait=False)
    assert second.process.wait(60) == 5
    assert str(it.process.pid) in second.logged()
    assert it.get("/livez")[0] == 200


def test_two_names_of_one_state_are_one_state(start, tmp_path):
    it = start()
    (tmp_path / "alias.db").symlink_to(tmp_path / "tidegate.db")
    second = start(wait=False, state="alias.db")
    assert second.process.wait(60) == 5
    assert str(it.process.pid) in second.logged()


@pytest.mark.parametrize("which", ["listen", "admin"])
def test_a_taken_address_is_refused_and_nothing_was_started(start, tmp_path, which):
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        second = start(wait=False, **{which: address})
        assert second.process.wait(60) == 6
        assert address in second.logged()
    assert not (tmp_path / "tidegate.db.workers").exists()


def test_a_damaged_state_is_refused_and_left_as_it_is(start, tmp_path):
    (tmp_path / "tidegate.db").write_text("nonsense")
    it = start(wait=False)
    assert it.process.wait(60) == 5
    assert (tmp_path / "tidegate.db").read_text() == "nonsense"


def test_the_workers_of_a_killed_supervisor_serve_on_and_the_next_one_takes_over(start):
    first = start()
    before = set(first.workers.values())
    with Client(first.address) as client:
        client.answered()
        first.process.kill()
        first.process.wait()
        assert set(client.answered(20)) <= before
        second = start()
        assert second.address == first.address
        until_now(lambda: not any(Path(f"/proc/{pid}").exists() for pid in before))
        after = set(second.workers.values())
        assert after.isdisjoint(before)
        client.answered(1)
        assert set(client.answered(20)) <= after
        assert client.failures == []
    assert second.logged().count("adopted=true") == 2
    assert second.end() == 0


def test_a_successor_that_dies_before_it_serves_leaves_everything_to_the_next_one(start):
    first = start()
    before = set(first.workers.values())
    with Client(first.address) as client:
        first.process.kill()
        first.process.wait()
        second = start("mute=1", wait=False)
        until_now(lambda: len(read(second.directory / "tidegate.db.workers").orphans) == 4)
        second.process.kill()
        second.process.wait()
        client.answered()
        third = start()
        assert third.address == first.address
        until_now(lambda: len(read(third.directory / "tidegate.db.workers").orphans) == 2)
        until_now(lambda: not any(Path(f"/proc/{pid}").exists() for pid in before))
        client.answered(20)
        assert client.failures == []
    assert third.end() == 0


def test_a_successor_whose_workers_refuse_the_first_table_ends_and_the_orphans_serve_on(start):
    first = start()
    before = set(first.workers.values())
    first.process.kill()
    first.process.wait()
    second = start("refuse=1", wait=False)
    assert second.process.wait(60) == 1
    assert re.search(r"error: worker [01] cannot use its first table: does not please me\n", second.logged())
    assert ask(first.address) in before
    assert set(second.workers.values()) == before


@pytest.mark.parametrize("workers", [1, 3])
def test_the_next_one_may_have_more_or_fewer_workers(start, workers):
    first = start()
    before = set(first.workers.values())
    first.process.kill()
    first.process.wait()
    second = start(workers=workers)
    until_now(lambda: not any(Path(f"/proc/{pid}").exists() for pid in before))
    assert second.address == first.address
    assert len(second.workers) == workers
    with Client(second.address) as client:
        assert set(client.answered(30)) <= set(second.workers.values())
        assert client.failures == []
    assert second.logged().count("adopted=true") == min(workers, 2)


def test_the_next_one_may_listen_elsewhere(start, tmp_path):
    first = start()
    before = set(first.workers.values())
    first.process.kill()
    first.process.wait()
    second = start(listen=f"unix:{tmp_path}/s")
    until_now(lambda: not any(Path(f"/proc/{pid}").exists() for pid in before))
    with pytest.raises(ConnectionRefusedError):
        ask(first.address)
    assert second.addresses == [f"unix:{tmp_path}/s"]
    assert second.logged().count("adopted=false") == 2


def test_a_unix_listener_is_taken_over_too(start, tmp_path):
    address = f"unix:{tmp_path}/s"
    first = start(listen=address)
    identity = (tmp_path / "s").stat().st_ino
    first.process.kill()
    first.process.wait()
    second = start(listen=address)
    assert (tmp_path / "s").stat().st_ino == identity
    assert second.logged().count("adopted=true") == 2
    assert second.end() == 0
    assert not (tmp_path / "s").exists()


def test_a_stopped_orphan_does_not_hold_up_the_next_one(start):
    first = start()
    stopped = first.workers[0]
    os.kill(stopped, signal.SIGSTOP)
    first.process.kill()
    first.process.wait()
    # The sockets of both slots come from the neighbour.
    second = start()
    assert second.address == first.address
    assert str(stopped) in second.logged()
    ours = {row["pid"] for row in second.get("/api/v1/status")[1]["workers"]}
    with Client(second.address) as client:
        assert set(client.answered(30)) <= ours
        assert client.failures == []
    # It is told to retire when it wakes up, and it has nothing to finish.
    os.kill(stopped, signal.SIGCONT)
    until_now(lambda: not Path(f"/proc/{stopped}").exists())


def test_orphans_do_not_hide_a_stranger(start):
    first = start()
    first.process.kill()
    first.process.wait()
    with socket.socket() as stranger:
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        stranger.bind(first.address)
        stranger.listen()
        second = start(wait=False, listen=first.addresses[0])
        assert second.process.wait(60) == 6
    # Nobody was retired for nothing.
    assert set(first.workers) == {0, 1}


def test_without_a_state_file_the_next_one_on_these_addresses_takes_over(start, monkeypatch):
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    with contextlib.closing(held_port()) as held:
        address = f"127.0.0.1:{held.getsockname()[1]}"
        first = start(listen=address, state=None)
        roster = place_of(None, [address], {}).workers
        before = {process.pid for process in read(roster).orphans}
        second = start(listen=address, state=None, wait=False)
        assert second.process.wait(60) == 6
        assert str(first.process.pid) in second.logged()
        with Client(first.address) as client:
            client.answered()
            first.process.kill()
            first.process.wait()
            third = start(listen=address, state=None)
            until_now(lambda: not any(Path(f"/proc/{pid}").exists() for pid in before))
            assert before.isdisjoint(client.answered(20)[1:])
            assert client.failures == []
        assert third.end() == 0


def test_whoever_is_told_to_end_while_its_workers_do_not_listen_ends_the_orphans_too(start):
    first = start()
    before = set(first.workers.values())
    first.process.kill()
    first.process.wait()
    second = start("dead", wait=False)
    until_now(lambda: "ended with code 3" in second.logged())
    assert all(Path(f"/proc/{pid}").exists() for pid in before)
    assert second.end() == 0
    assert second.logged().count("adopted=false") == 2
    until_now(lambda: not any(Path(f"/proc/{pid}").exists() for pid in before))


def test_a_table_that_the_workers_refuse_is_taken_back(start):
    it = start("refuse=2")
    it.config.write_text(it.config.read_text().replace("127.0.0.1:10", "127.0.0.1:11"))
    it.process.send_signal(signal.SIGHUP)
    until_now(lambda: "does not please me" in it.logged())
    assert it.get("/readyz")[0] == 200
    new = it.get("/api/v1/status")[1]["services"]["web"]["versions"]["new"]
    assert [endpoint["url"] for endpoint in new["endpoints"]] == ["http://127.0.0.1:10"]
    assert it.ask() in it.workers.values()


def test_a_bad_config_changes_nothing_and_says_what_check_says(start):
    it = start()
    it.config.write_text("listen: 8080\nservices: []\n")
    it.process.send_signal(signal.SIGHUP)
    until_now(lambda: "services" in it.logged())
    assert it.get("/readyz")[0] == 200
    assert it.ask() in it.workers.values()


def test_a_reload_reaches_the_workers_and_names_what_needs_a_restart(start):
    it = start()
    it.config.write_text(
        it.config.read_text().replace("workers: 2", "workers: 3").replace("timeout: 2s", "timeout: 3s")
    )
    it.process.send_signal(signal.SIGHUP)
    until_now(lambda: "the config was reloaded" in it.logged())
    assert set(it.workers) == {0, 1}
