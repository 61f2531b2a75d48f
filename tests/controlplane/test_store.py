"""The state file: what is stored is read back, kill -9 loses no answer, and a bad file is refused and left alone."""

import contextlib
import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from proxy.controlplane.store import CONFIG, REGISTERED, Change, Owed, Row, Store, from_row, to_row
from proxy.errors import StateError
from proxy.rollout.plan import Check, Hook, Hooks, Limit, Plan, Signal, Stage
from proxy.rollout.state import Expiry, Passed, Rollout, ServiceState
from proxy.routing.table import Endpoint, Version

ROOT = Path(__file__).parents[2]
ROW = Row("idle", 1000, 7, "", "salt", live_s=12.5, expires_in_s=60.0, back_bp=0, expiry_revision=7)
V2 = Version("2", (Endpoint("http://127.0.0.1:9002", "127.0.0.1", 9002), Endpoint("unix:/x", "localhost", 80, "/x")))


def event(seq, service="web"):
    return {
        "seq": seq,
        "time": 1.5,
        "service": service,
        "type": "WeightsSet",
        "actor": "ann",
        "reason": "because",
        "before": {"new": 0},
        "after": {"new": 10},
        "evidence": {},
    }


@pytest.fixture(params=["file", "memory"])
def store(request, tmp_path):
    store = Store.open(tmp_path / "state.db" if request.param == "file" else None)
    yield store
    store.close()


def test_what_is_stored_is_read_back(store):
    change = Change(
        rows={"web": ROW},
        versions={("web", CONFIG): Version("1"), ("web", REGISTERED): V2},
        endpoints={("web", 1, "http://127.0.0.1:9002"): 2},
        events=(event(4),),
    )
    store.save(change).result()
    stored = store.load()
    assert stored.rows == {"web": ROW}
    assert stored.versions == {("web", CONFIG): Version("1"), ("web", REGISTERED): V2}
    assert stored.endpoints == {("web", 1, "http://127.0.0.1:9002"): 2}
    assert stored.last_seq == 4
    store.save(Change(versions={("web", REGISTERED): None})).result()
    assert store.load().versions == {("web", CONFIG): Version("1")}


def test_events_come_in_pages_oldest_first(store):
    store.save(Change(events=tuple(event(seq) for seq in range(1, 8)))).result()
    assert [item["seq"] for item in store.events(2, 3).result()] == [3, 4, 5]
    assert [item["seq"] for item in store.last_events(2)] == [6, 7]
    assert store.events(6, 10).result() == [event(7)]


def modes(path):
    """Return the modes of the state file and of those that SQLite keeps beside it."""
    return {one.name: oct(one.stat().st_mode & 0o777) for one in path.parent.glob(path.name + "*")}


def test_only_its_owner_reads_the_state_also_one_of_an_older_release(tmp_path):
    path = tmp_path / "state.db"
    ours = dict.fromkeys(("state.db", "state.db-wal", "state.db-shm"), "0o600")
    before = os.umask(0)
    try:
        store = Store.open(path)
        store.save(Change(rows={"web": ROW})).result()
        assert modes(path) == ours
        # Killed: the files beside it stay. Made by a release that left their modes to the umask.
        copied = tmp_path / "old" / "state.db"
        copied.parent.mkdir()
        for name in ours:
            shutil.copy(path.with_name(name), copied.with_name(name))
            copied.with_name(name).chmod(0o644)
        store.close()
        again = Store.open(copied)
        assert modes(copied) == ours
        assert again.load().rows == {"web": ROW}
        again.close()
    finally:
        os.umask(before)


@contextlib.contextmanager
def largest_file(size):
    """Let no file grow beyond `size`, as if the disk were full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_probe_finds_a_full_disk_and_changes_nothing(tmp_path):
    path = tmp_path / "state.db"
    store = Store.open(path)
    store.save(Change(rows={"web": ROW}, events=(event(1),))).result()
    before = store.load()
    store.probe().result()
    with largest_file(4096), pytest.raises(StateError, match="the state store fails"):
        store.probe().result()
    store.probe().result()
    assert store.load() == before
    store.close()


@pytest.mark.parametrize("in_file", [True, False])
def test_only_the_newest_events_are_kept_while_it_runs_and_the_file_stops_growing(tmp_path, monkeypatch, in_file):
    monkeypatch.setattr("proxy.controlplane.store." + ("EVENTS_KEPT" if in_file else "EVENTS_KEPT_IN_MEMORY"), 50)
    store = Store.open(tmp_path / "state.db" if in_file else None)
    pages = []
    for _ in range(4):
        for _ in range(60):
            seq = store.load().last_seq + 1
            store.save(Change(events=(event(seq) | {"evidence": {"of": "x" * 3000}},))).result()
        pages.append(store._run(lambda: store._connection.execute("PRAGMA page_count").fetchone()[0]).result())
    kept = store.events(0, 1000).result()
    store.close()
    assert [item["seq"] for item in kept] == list(range(191, 241))
    assert pages[1] == pages[2] == pages[3]


def test_events_beyond_those_kept_go_when_the_file_is_opened(tmp_path, monkeypatch):
    store = Store.open(tmp_path / "state.db")
    store.save(Change(events=tuple(event(seq) for seq in range(1, 101)))).result()
    store.close()
    monkeypatch.setattr("proxy.controlplane.store.EVENTS_KEPT", 50)
    store = Store.open(tmp_path / "state.db")
    kept = store.events(0, 1000).result()
    store.close()
    assert [item["seq"] for item in kept] == list(range(51, 101))


def test_a_change_is_stored_as_a_whole_or_not_at_all(store):
    store.save(Change(rows={"web": ROW})).result()
    broken = Row("idle", 20_000, 8, "", "salt")
    with pytest.raises(StateError):
        store.save(Change(rows={"web": Row("idle", 1, 8, "", "salt"), "shop": broken}, events=(event(1),))).result()
    assert store.load().rows == {"web": ROW}
    assert store.load().last_seq == 0
    store.save(Change(rows={"shop": ROW})).result()


def test_states_become_rows_and_rows_states_in_whatever_time_it_is():
    state = ServiceState(
        weight_bp=1000, revision=7, salt="salt", has_new=True, expiry=Expiry(160.0, 0, 7), live_since=87.5
    )
    assert to_row(state, 100.0) == ROW
    later = from_row(ROW, 5000.0, has_new=True)
    assert later.expiry == Expiry(5060.0, 0, 7)
    assert later.live_since == 4987.5
    assert from_row(to_row(ServiceState(), 1.0), 9.0, has_new=False) == ServiceState()


def test_a_full_disk_is_an_error_of_the_state_and_the_store_goes_on(tmp_path):
    store = Store.open(tmp_path / "state.db")
    pages = store._run(lambda: store._connection.execute("PRAGMA page_count").fetchone()[0]).result()
    store._run(lambda: store._connection.execute(f"PRAGMA max_page_count = {pages}").fetchall()).result()
    big = {**event(1), "evidence": {"x": "y" * 100_000}}
    with pytest.raises(StateError, match=r"state\.db"):
        store.save(Change(rows={"web": ROW}, events=(big,))).result()
    assert store.load().rows == {}
    store.save(Change(rows={"web": ROW})).result()
    store.close()


KILLED = """
import os, signal, sys
from pathlib import Path
from proxy.controlplane.store import Change, Row, Store
store = Store.open(Path(sys.argv[1]))
for revision in range(1, int(sys.argv[2]) + 1):
    store.save(Change(rows={"web": Row("idle", revision, revision, "", "salt")})).result()
store.save(Change(rows={"web": Row("idle", 9999, 9999, "", "salt")}))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_was_answered_survives_kill_9(tmp_path):
    path = tmp_path / "state.db"
    done = subprocess.run([sys.executable, "-c", KILLED, str(path), "5"], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    store = Store.open(path)
    assert store.load().rows["web"].weight_bp in {5, 9999}
    store.close()


def refused(path):
    before = path.read_bytes()
    with pytest.raises(StateError) as error:
        Store.open(path)
    assert error.value.exit_code == 5
    assert str(path) in str(error.value)
    assert path.read_bytes() == before
    return str(error.value)


def made(path, *, rows=0):
    store = Store.open(path)
    store.save(Change(rows={f"service-{number}": ROW for number in range(rows)})).result()
    store.close()
    return path


@pytest.mark.parametrize("content", [b"", b"hello", b"\0" * 8192, b"SQLite format 3\0" + b"x" * 5000])
def test_what_is_no_database_is_refused_and_left_as_it_is(tmp_path, content):
    path = tmp_path / "state.db"
    path.write_bytes(content)
    refused(path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["state.db"]


def test_a_damaged_page_is_found_at_start(tmp_path):
    path = made(tmp_path / "state.db", rows=2000)
    raw = bytearray(path.read_bytes())
    raw[4096 * 3 : 4096 * 20] = os.urandom(4096 * 17)
    path.write_bytes(raw)
    assert "damaged" in refused(path)


def test_a_file_cut_in_half_is_refused(tmp_path):
    path = made(tmp_path / "state.db", rows=2000)
    raw = path.read_bytes()
    path.write_bytes(raw[: len(raw) // 2])
    assert "damaged" in refused(path)


def test_a_newer_schema_is_refused(tmp_path):
    path = made(tmp_path / "state.db")
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE meta SET value = '4'")
    connection.close()
    assert "schema 4" in refused(path)


def test_another_programs_database_is_refused(tmp_path):
    path = tmp_path / "state.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE services (name TEXT)")
    connection.close()
    assert "another program" in refused(path)


def test_a_missing_file_whose_log_is_there_is_refused(tmp_path):
    path = tmp_path / "state.db"
    (tmp_path / "state.db-wal").write_bytes(b"what was not yet in the file")
    with pytest.raises(StateError, match="log"):
        Store.open(path)
    assert not path.exists()


def test_a_directory_that_cannot_be_made_is_an_error_of_the_state(tmp_path):
    (tmp_path / "file").write_text("no directory")
    with pytest.raises(StateError, match="file"):
        Store.open(tmp_path / "file" / "state.db")


def test_a_crash_while_the_file_is_made_leaves_a_draft_that_is_no_obstacle(tmp_path):
    (tmp_path / "state.db.new").write_bytes(b"half a da")
    made(tmp_path / "state.db")
    assert [entry.name for entry in tmp_path.iterdir()] == ["state.db"]


@pytest.mark.parametrize("damage", ["UPDATE services SET phase = 'lost'", "UPDATE versions SET endpoints = '[1]'"])
def test_what_nobody_can_have_stored_is_an_error_of_the_state(tmp_path, damage):
    path = tmp_path / "state.db"
    store = Store.open(path)
    rows = {"web": to_row(ServiceState(salt="x"), 1.0)}
    store.save(Change(rows, {("web", CONFIG): Version("1", (Endpoint("http://a:1", "a", 1),))})).result()
    store.close()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute(damage)
        connection.commit()
    store = Store.open(path)
    with pytest.raises(StateError, match=str(path)):
        store.load()
    store.close()


@pytest.mark.slow
def test_a_file_that_another_program_holds_says_so(tmp_path):
    path = tmp_path / "state.db"
    store = Store.open(path)
    store.close()
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StateError, match="another program holds"):
            Store.open(path)


def test_a_file_of_schema_1_is_brought_to_this_one_as_it_is(tmp_path):
    path = made(tmp_path / "state.db", rows=3)
    with sqlite3.connect(path) as connection:
        connection.execute("DROP TABLE owed")
        connection.execute("ALTER TABLE services DROP COLUMN rollout")
        connection.execute("UPDATE meta SET value = '1' WHERE key = 'schema_version'")
    connection.close()
    store = Store.open(path)
    assert store.load().rows == {f"service-{number}": ROW for number in range(3)}
    store.close()
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT value FROM meta").fetchone()[0] == "3"
    connection.close()
    Store.open(path).close()


def test_a_rollout_is_kept_with_its_plan_and_what_has_passed_of_its_stage():
    limit = Limit("p99", max=200, window_s=10.0)
    check = Check("rss", file="/x", path=("a", 0))
    hooks = Hooks(after_rollback=Hook(run=("sh", "-c", "x"), cwd="/"))
    stages = (Stage("a", 100, 60.0, 5, (limit,), (limit,), "manual"), Stage("b", 10_000, 60.0))
    plan = Plan("p", stages, "manual", 30.0, "rollback", 5.0, hooks, (Signal("h", "x", "y"),), (check,))
    more = {"record": {"p95": {"n": 5000, "value": 12.5}}, "record_of": "a", "passed": (Passed(0, 7.5, "ann", "ok"),)}
    rollout = Rollout(plan, 1, 10.0, 90.0, 80.0, 60.0, **more)
    state = ServiceState("progressing", 10_000, 5, "", "s", has_new=True, live_since=50.0, rollout=rollout)
    back = from_row(to_row(state, 100.0), 7.0, has_new=True)
    assert back.rollout == Rollout(plan, 1, 20.0, 7.0, -13.0, 60.0, **more)
    assert back.rollout.elapsed_s(7.0) == 20.0
    paused = from_row(to_row(ServiceState("paused", rollout=rollout.stopped(100.0)), 200.0), 7.0, has_new=True)
    assert (paused.rollout.since, paused.rollout.elapsed_s(99.0)) == (None, 20.0)


def test_an_owed_hook_is_kept_until_it_is_paid(store):
    owed = Owed("web", "after_rollback", 7, Hook(run=("sh", "-c", "x"), cwd="/", timeout_s=3.0), {"stage": "a"})
    other = replace(owed, revision=9, hook=Hook(url="http://127.0.0.1/x"))
    store.save(Change(owed={one.key: one for one in (owed, other)})).result()
    assert store.load().owed == {owed.key: owed, other.key: other}
    store.save(Change(owed={owed.key: None})).result()
    assert store.load().owed == {other.key: other}


def test_a_progressing_row_without_its_rollout_is_damage(tmp_path):
    store = Store.open(tmp_path / "state.db")
    store.save(Change(rows={"web": Row("progressing", 100, 1, "", "s")})).result()
    with pytest.raises(StateError, match="without a rollout"):
        store.load()
    store.close()
