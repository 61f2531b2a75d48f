import errno
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from proxy.controlplane.listeners import Listener, path_identity
from proxy.controlplane.roster import Left, Process, Roster, boot_id, read, start_time


@pytest.fixture
def child():
    process = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    yield process
    process.kill()
    process.communicate()


def test_live_workers_are_found_again_and_dead_ones_are_not(tmp_path, child):
    path = tmp_path / "workers"
    with socket.socket() as sock:
        roster = Roster(path, listeners=[Listener("127.0.0.1:0", "127.0.0.1:81", 0, sock)])
    roster.add(0, child.pid)
    left = read(path)
    assert left.orphans == (Process(0, child.pid, start_time(child.pid) or 0),)
    assert left.asked == {"127.0.0.1:81": "127.0.0.1:0"}
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # a zombie is not alive
    assert read(path).orphans == ()


def test_a_recycled_pid_is_not_ours(tmp_path, child):
    stranger = Process(0, child.pid, (start_time(child.pid) or 0) + 1)
    assert not stranger.alive
    assert not stranger.kill()
    assert child.poll() is None


def test_kill_hits_the_very_process(child):
    process = Process(0, child.pid, start_time(child.pid) or 0)
    assert process.kill()
    assert child.wait(30) == -signal.SIGKILL
    assert not process.kill()


def test_a_list_of_another_boot_or_not_readable_means_no_orphans(tmp_path, child):
    path = tmp_path / "workers"
    assert read(path) == Left()
    path.write_text("{")
    assert read(path) == Left()
    Roster(path).add(0, child.pid)
    found = json.loads(path.read_text())
    assert found["boot"] == boot_id()
    path.write_text(json.dumps({**found, "boot": "another"}))
    assert read(path) == Left()


def test_orphans_stay_on_the_list_while_they_live(tmp_path, child):
    path = tmp_path / "workers"
    orphan = Process(3, child.pid, start_time(child.pid) or 0)
    roster = Roster(path, [orphan])
    roster.add(0, os.getpid())
    assert {process.slot for process in read(path).orphans} == {0, 3}
    roster.clear()
    assert read(path).orphans == (orphan,)
    orphan.kill()
    child.wait(30)
    roster.clear()
    assert not path.exists()


def test_unix_paths_are_known_by_their_inode(tmp_path):
    address = f"unix:{tmp_path}/s"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(f"{tmp_path}/s")
        Roster(tmp_path / "workers", listeners=[Listener(address, address, None, sock)]).add(0, os.getpid())
    assert read(tmp_path / "workers").paths == {path_identity(address)}


def test_a_full_disk_does_not_keep_a_worker_off_the_list(tmp_path, child, monkeypatch):
    path = tmp_path / "workers"
    roster = Roster(path)
    roster.add(0, child.pid)
    size = path.stat().st_size

    def full(self, data):
        self.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    roster.add(1, child.pid)
    assert [process.slot for process in read(path).orphans] == [0, 1]
    assert (path.stat().st_size, list(tmp_path.iterdir())) == (size, [path])
    roster.clear()
    assert not path.exists()
