"""Events: numbered without a gap that anybody could miss, told in order, found again however old."""

import asyncio
import threading

import pytest

from proxy.controlplane.journal import AT_ONCE, KEPT, Journal, Packed
from proxy.controlplane.store import Change, Store
from proxy.rollout.effect import Note
from tests.admin.serving import running

NOTE = Note("WeightsSet", "ann", "", {"new": 0}, {"new": 10}, {"n": 1})


@pytest.fixture
def store():
    store = Store.open(None)
    yield store
    store.close()


def test_an_event_has_the_shape_of_the_api(store):
    event = Journal(store).make("web", NOTE, 1.5, {"decided_ns": 7})
    assert event == {
        "seq": 1,
        "time": 1.5,
        "service": "web",
        "type": "WeightsSet",
        "actor": "ann",
        "reason": "",
        "before": {"new": 0},
        "after": {"new": 10},
        "evidence": {"n": 1, "decided_ns": 7},
    }


@running
async def test_events_are_told_in_the_order_of_their_numbers(store):
    journal = Journal(store)
    first, refused, third = (journal.make(name, NOTE, 1.0) for name in ("web", "web", "shop"))
    journal.announce(third)
    assert await journal.since(0, 10) == []
    journal.announce(first)
    assert await journal.since(0, 10) == [first]
    journal.drop(refused)
    assert await journal.since(0, 10) == [first, third]
    assert (journal.last("web"), journal.last("shop"), journal.last("nobody")) == (first, third, None)


@running
async def test_the_log_says_it_in_one_line(store, caplog):
    journal = Journal(store)
    note = Note(
        "RolledBack",
        "ann",
        "bad\nday",
        {"new": 10, "phase": "idle", "revision": 1},
        {"new": 0, "phase": "rolled_back", "revision": 1},
        {"n": 1},
    )
    with caplog.at_level("INFO", "tidegate.events"):
        journal.announce(journal.make("web", note, 1.0))
    assert caplog.messages == [
        "RolledBack: web was rolled back from 10 % at 1970-01-01 00:00:01Z by ann: bad day revision=1 n=1"
    ]


@running
async def test_many_events_are_unpacked_beside_the_loop(store, monkeypatch):
    journal = Journal(store)
    events = [journal.make("web", NOTE, float(number)) for number in range(3 * AT_ONCE)]
    for event in events:
        journal.announce(event)
    threads = set()
    unpack = Packed.event
    monkeypatch.setattr(Packed, "event", lambda one: threads.add(threading.current_thread()) or unpack(one))
    assert await journal.since(0, AT_ONCE) == events[:AT_ONCE]
    assert threads == {threading.main_thread()}
    threads.clear()
    assert await journal.since(0, 1000) == events
    assert threading.main_thread() not in threads


@running
async def test_older_events_come_from_the_store_page_by_page(store):
    journal = Journal(store)
    events = [journal.make("web", NOTE, float(number)) for number in range(KEPT + 50)]
    store.save(Change(events=tuple(events))).result()
    for event in events:
        journal.announce(event)
    found, seq = [], 0
    while page := await journal.since(seq, 300):
        found += page
        seq = page[-1]["seq"]
    assert found == events
    again = Journal(store)
    again.begin(len(events))
    assert await again.since(len(events) - 2, 10) == events[-2:]
    assert again.make("web", NOTE, 1.0)["seq"] == len(events) + 1


@running
async def test_old_events_keep_the_loop_waiting_for_no_disk(store):
    journal = Journal(store)
    for number in range(KEPT + 1):
        journal.announce(journal.make("web", NOTE, float(number)))
    disk = threading.Event()
    store._run(disk.wait)  # the store's thread hangs, as in a commit on a slow disk
    asking = asyncio.create_task(journal.since(0, 10))
    await asyncio.sleep(0)  # the loop goes on
    assert not asking.done()
    disk.set()
    assert await asking == []


@running
async def test_what_is_stored_but_not_told_yet_is_not_found(store):
    journal = Journal(store)
    events = [journal.make("web", NOTE, float(number)) for number in range(KEPT + 3)]
    store.save(Change(events=tuple(events))).result()
    for event in events[:-1]:
        journal.announce(event)
    assert await journal.since(0, 2 * KEPT) == events[:-1]


def test_a_follower_gets_what_is_there_and_what_comes(store):
    async def follow():
        journal = Journal(store)
        before = journal.make("web", NOTE, 1.0)
        journal.announce(before)
        seen = []
        arrived = asyncio.Event()

        async def read():
            async for event in journal.follow(0):
                seen.append(event["seq"])
                arrived.set()

        reading = asyncio.create_task(read())
        await arrived.wait()
        for _ in range(150):
            journal.announce(journal.make("web", NOTE, 2.0))
        journal.close()
        await reading
        assert seen == list(range(1, 152))

    asyncio.run(follow())


@running
async def test_who_followed_another_journal_is_told_this_one_from_its_beginning(store):
    """As after a restart of an instance whose state is in memory: the numbers begin again."""
    journal = Journal(store)
    for _ in range(2):
        event = journal.make("web", NOTE, 1.0)
        await asyncio.wrap_future(store.save(Change(events=(event,))))
        journal.announce(event)
    journal.close()
    assert [event["seq"] async for event in journal.follow(500)] == [1, 2]
    assert [event["seq"] async for event in journal.follow(2)] == []
