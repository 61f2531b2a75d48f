"""The latch: survives SIGKILL right after the store, refuses what is not a latch, never replaces it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from proxy.controlplane.latch import HEADER, REASONS, RECORD, Latch, Shut
from proxy.errors import StateError

ROOT = Path(__file__).parents[2]

# Shuts or opens, says so without any system call between, and is killed in the same breath.
KILLED = """
import os, signal, sys
from pathlib import Path
from proxy.controlplane.latch import Latch
latch = Latch.open(Path(sys.argv[1]))
latch.register(["web", "shop"])
if sys.argv[2] == "shut":
    latch.shut("shop", "P99AboveLimit", 1_700_000_000.9)
else:
    latch.clear("shop")
os.kill(os.getpid(), signal.SIGKILL)
"""


def killed(path, what):
    done = subprocess.run([sys.executable, "-c", KILLED, str(path), what], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL


@pytest.mark.slow
def test_a_shut_latch_survives_kill_9_and_so_does_an_opened_one(tmp_path):
    path = tmp_path / "state.db.latch"
    for _ in range(3):
        killed(path, "shut")
        latch = Latch.open(path)
        assert latch.read("shop") == Shut("P99AboveLimit", 1_700_000_000)
        assert latch.read("web") is None
        latch.close()
        killed(path, "open")
        latch = Latch.open(path)
        assert latch.read("shop") is None
        latch.close()


def test_every_reason_is_read_back_and_an_unknown_one_is_still_shut():
    latch = Latch.open(None)
    latch.register(["web"])
    for reason in REASONS:
        latch.shut("web", reason, 17)
        assert latch.read("web") == Shut(reason, 17)
    latch.shut("web", "SomethingOfTheNextRelease", 17)
    assert latch.read("web") == Shut("Latched", 17)
    latch.clear("web")
    assert latch.read("web") is None
    assert latch.read("nobody") is None
    latch.close()


def test_the_file_grows_with_the_services_and_keeps_what_is_shut(tmp_path):
    path = tmp_path / "new" / "latch"
    latch = Latch.open(path)
    latch.register(["first"])
    latch.shut("first", "OperatorRollback", 1)
    latch.register([f"service-{number}" for number in range(100)] + ["first"])
    latch.shut("service-99", "NoHealthyEndpoint", 2)
    latch.close()
    again = Latch.open(path)
    assert again.read("first") == Shut("OperatorRollback", 1)
    assert again.read("service-99") == Shut("NoHealthyEndpoint", 2)
    assert again.read("service-98") is None
    again.close()
    assert path.stat().st_blocks * 512 >= HEADER + 101 * RECORD, "no hole in the file: a full disk must not kill us"
    assert [entry.name for entry in path.parent.iterdir()] == ["latch"]


@pytest.mark.parametrize(
    "content",
    [b"", b"x" * 10_000, b"\0" * 4096],
    ids=["empty", "text", "zeroes"],
)
def test_what_is_no_latch_is_refused_and_left_as_it_is(tmp_path, content):
    path = tmp_path / "latch"
    path.write_bytes(content)
    with pytest.raises(StateError) as error:
        Latch.open(path)
    assert str(path) in str(error.value)
    assert error.value.exit_code == 5
    assert path.read_bytes() == content


@pytest.mark.parametrize("damage", ["cut", "newer", "record"])
def test_a_damaged_latch_is_refused(tmp_path, damage):
    path = tmp_path / "latch"
    latch = Latch.open(path)
    latch.register(["web"])
    latch.close()
    raw = bytearray(path.read_bytes())
    if damage == "cut":
        raw = raw[: HEADER + 8]
    elif damage == "newer":
        raw[8] = 9
    else:
        raw[HEADER + 8] = 0
    path.write_bytes(raw)
    with pytest.raises(StateError):
        Latch.open(path)
    assert path.read_bytes() == raw


def test_a_name_that_does_not_fit_is_refused():
    latch = Latch.open(None)
    with pytest.raises(StateError, match="longer"):
        latch.register(["x" * 300])
    latch.close()


def test_no_descriptor_is_left_open_by_a_refusal(tmp_path):
    path = tmp_path / "latch"
    path.write_bytes(b"no")
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(StateError):
        Latch.open(path)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_records_that_are_prepared_do_not_exist_before_they_are_registered(tmp_path):
    path = tmp_path / "state.db.latch"
    latch = Latch.open(path)
    latch.register(["web"])
    many = [f"service-{number}" for number in range(40)]  # more than the file has room for
    latch.prepare(["web", *many])
    latch.shut("web", REASONS[1], 17)
    there = Latch.open(path)
    assert (there.read("web"), there._index) == (Shut(REASONS[1], 17), {"web": 0})
    there.close()
    latch.prepare(["web", "shop"])  # another reload, because that one was refused
    latch.register(["shop"])
    latch.prepare(many)
    latch.register(many)
    latch.shut("shop", REASONS[1], 18)
    latch.shut(many[-1], REASONS[1], 19)
    latch.close()
    there = Latch.open(path)
    assert there._index == {"web": 0, "shop": 1, **{name: place for place, name in enumerate(many, 2)}}
    assert [there.read(name).at for name in ("web", "shop", many[-1])] == [17, 18, 19]
    there.close()


def test_only_its_owner_reads_it(tmp_path):
    before = os.umask(0)
    try:
        Latch.open(tmp_path / "state.db.latch").close()
    finally:
        os.umask(before)
    assert (tmp_path / "state.db.latch").stat().st_mode & 0o777 == 0o600
