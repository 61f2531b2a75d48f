import os
import signal
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from proxy.config.addresses import UNIX_PATH_MAX
from proxy.controlplane.lock import acquire, place_of, runtime_directory
from proxy.errors import AddressInUse, StateError

HOLD = """
import sys, time
from pathlib import Path
from tempfile import TemporaryDirectory
from proxy.controlplane.lock import acquire
state = Path(sys.argv[1])
lock = acquire(state.with_name(state.name + ".lock"), state=state)
print("held", flush=True)
sys.stdin.read()
"""


def holder(state: Path) -> "subprocess.Popen[bytes]":
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(state)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    return process


def end(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    process.communicate()


def test_a_second_instance_is_refused_with_the_pid_of_the_first(tmp_path):
    state = tmp_path / "tidegate.db"
    first = holder(state)
    try:
        with pytest.raises(StateError) as caught:
            acquire(tmp_path / "tidegate.db.lock", state=state)
        assert caught.value.exit_code == 5
        assert str(first.pid) in str(caught.value)
        assert str(state) in str(caught.value)
    finally:
        end(first)


def test_kill_9_opens_the_lock(tmp_path):
    state = tmp_path / "tidegate.db"
    first = holder(state)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    lock = acquire(tmp_path / "tidegate.db.lock", state=state)
    assert (tmp_path / "tidegate.db.lock").read_text() == f"{os.getpid()}\n"
    lock.release()
    acquire(tmp_path / "tidegate.db.lock", state=state).release()


def test_a_child_does_not_keep_the_lock(tmp_path):
    state = tmp_path / "tidegate.db"
    path = tmp_path / "tidegate.db.lock"
    lock = acquire(path, state=state)
    child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    try:
        lock.release()
        acquire(path, state=state).release()
    finally:
        end(child)


def test_the_directory_of_the_state_is_made(tmp_path):
    state = tmp_path / "var" / "tidegate.db"
    acquire(place_of(state, (), {}).lock, state=state).release()
    assert state.parent.is_dir()


def test_a_lock_that_cannot_be_written_names_its_path(tmp_path):
    blocker = tmp_path / "file"
    blocker.write_text("")
    with pytest.raises(StateError, match=r"file/tidegate\.db\.lock"):
        acquire(blocker / "tidegate.db.lock", state=blocker / "tidegate.db")


@pytest.fixture
def short():
    """Return a directory whose path leaves room for a socket's name; that of `tmp_path` may not."""
    with TemporaryDirectory(prefix="tg-") as path:
        yield Path(path)


def test_without_a_state_file_the_address_is_what_is_taken(short):
    addresses = ("127.0.0.1:8080",)
    place = place_of(None, addresses, {"XDG_RUNTIME_DIR": str(short)})
    lock = acquire(place.lock, state=None, addresses=addresses)
    with pytest.raises(AddressInUse, match=rf"127\.0\.0\.1:8080: .*{os.getpid()}") as caught:
        acquire(place.lock, state=None, addresses=addresses)
    assert caught.value.exit_code == 6
    lock.release()


def test_places_of_states_in_memory_are_told_apart_by_address(short):
    environ = {"XDG_RUNTIME_DIR": str(short)}
    one = place_of(None, ("127.0.0.1:1", "127.0.0.1:2"), environ)
    assert one == place_of(None, ("127.0.0.1:2", "127.0.0.1:1"), environ)
    assert one.lock != place_of(None, ("127.0.0.1:1",), environ).lock
    assert (short / "tidegate").stat().st_mode & 0o777 == 0o700


def test_a_port_chosen_by_the_kernel_leaves_nothing_to_find(short):
    place = place_of(None, ("127.0.0.1:0",), {"XDG_RUNTIME_DIR": str(short)})
    assert place.handover is None
    assert str(os.getpid()) in place.lock.name


def test_a_path_too_long_for_a_socket_moves_to_the_runtime_directory(tmp_path, short):
    state = tmp_path / ("d" * 100) / "tidegate.db"
    place = place_of(state, (), {"XDG_RUNTIME_DIR": str(short)})
    assert place.handover is not None
    assert len(str(place.handover)) <= UNIX_PATH_MAX
    assert place.lock == state.with_name("tidegate.db.lock")


def test_a_runtime_directory_open_to_others_is_refused(short):
    (short / "tidegate").mkdir()
    (short / "tidegate").chmod(0o755)
    with pytest.raises(StateError, match="0700"):
        runtime_directory({"XDG_RUNTIME_DIR": str(short)})


def test_a_runtime_directory_too_deep_for_a_socket_is_passed_over(tmp_path):
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    found = place_of(None, ("127.0.0.1:1",), {"XDG_RUNTIME_DIR": str(deep)}).handover
    assert found is not None
    assert len(str(found)) <= UNIX_PATH_MAX
