"""A disk that hangs or fails for long: orders are answered, users are safe, and nothing grows without end."""

import asyncio
import threading
from contextlib import contextmanager

import pytest

from proxy.controlplane.commits import MOST_SAVING
from proxy.controlplane.operations import Order
from proxy.errors import Refused
from proxy.rollout.state import IDLE, ROLLED_BACK
from proxy.routing.table import STABLE
from tests.controlplane.regions import B
from tests.controlplane.ruled import ANN
from tests.controlplane.test_controller import running, until
from tests.controlplane.test_rollouts import PLANS, last, planned


@contextmanager
def hanging(world, monkeypatch, *, inside=False):
    """Let the disk hang; `inside`: in the middle of the next change."""
    monkeypatch.setattr("proxy.controlplane.commits.PATIENCE_S", 0.1)
    monkeypatch.setattr("proxy.controlplane.preflight.CONNECT_S", 0.1)
    go = threading.Event()
    if inside:
        real = world.store._save

        def slow(change):
            go.wait()
            world.store._save = real
            real(change)

        world.store._save = slow
    else:
        world.store._thread.submit(go.wait)
    try:
        yield
    finally:
        go.set()


@running
async def test_a_rollback_is_answered_while_the_disk_hangs_and_stored_when_it_answers(start):
    with pytest.MonkeyPatch.context() as patch:
        world = await start(PLANS)
        await world.controller.weights.set_weights("web", 5000, ANN)
        with hanging(world, patch):
            answer = await world.controller.weights.rollback("web", ANN)
            assert (answer["durable"], answer["phase"], world.word()) == (False, ROLLED_BACK, 0)
            assert answer["last_event"]["type"] == "RolledBack"
        await world.settle()
        assert world.store.load().rows["web"].phase == ROLLED_BACK
        assert world.types()[-1] == "RolledBack"


@running
async def test_what_could_not_be_stored_late_either_is_tried_again(start):
    with pytest.MonkeyPatch.context() as patch:
        world = await start(PLANS)
        await world.controller.weights.set_weights("web", 5000, ANN)
        with hanging(world, patch):
            fail = world.store._connection.execute
            world.store._run(lambda: fail("PRAGMA query_only = 1").fetchall())
            await world.controller.weights.rollback("web", ANN)
        await world.settle()
        world.mend_store()
        await world.tick(2.0)
        await world.settle()
        assert world.store.load().rows["web"].phase == ROLLED_BACK
        assert world.types()[-1] == "RolledBack"


@running
async def test_what_gives_more_is_refused_while_the_disk_hangs_and_never_stored(start):
    with pytest.MonkeyPatch.context() as patch:
        world = await start(PLANS)
        controller = world.controller
        with hanging(world, patch):
            url = controller.services.service("web").stable.endpoints[0].url
            for order in (
                controller.weights.set_weights("web", 5000, ANN),
                controller.rollouts.start("web", None, ANN),
                controller.versions.put_new("web", "3", ["http://127.0.0.1:9003"], ANN),
                controller.endpoint_changes.set_endpoint("web", STABLE, url, "drain", ANN),
                controller.reloads.reload(PLANS, controller.services.table, ANN),
            ):
                with pytest.raises(Refused, match="has not answered for") as refused:
                    await order
                assert refused.value.status == 503
            found = await controller.rollouts.start("web", None, Order("ann", dry_run=True))
            assert "state" in [one["check"] for one in found["findings"] if one["finding"] == "no-go"]
            assert (world.word(), world.state().phase) == (0, IDLE)
            assert controller.services.service("web").new.endpoints == (B,)
        await world.settle()
        assert world.store.load().rows["web"].weight_bp == 0
        await controller.weights.set_weights("web", 5000, ANN)
        assert world.word() == 5000


@running
async def test_what_was_refused_and_is_stored_late_is_undone(start):
    with pytest.MonkeyPatch.context() as patch:
        world = await start(PLANS)
        before = world.controller.commits.versions.copy()
        with hanging(world, patch, inside=True), pytest.raises(Refused):
            await world.controller.versions.put_new("web", "3", ["http://127.0.0.1:9003"], ANN)
        await world.settle()
        stored = world.store.load()
        assert stored.versions == before
        assert (stored.rows["web"].revision, stored.rows["web"].salt) == (world.state().revision, world.state().salt)
        assert last(world, "ChangeUndone")["after"]["new"] == 0
        again = await start(PLANS)
        assert again.controller.services.service("web").new.endpoints == (B,)


@running
async def test_a_store_that_fails_for_long_costs_no_more_memory_and_it_is_told_what_is_lost(start):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("proxy.controlplane.commits.MOST_EVENTS", 50)
        world = await start(planned(progress_report_s=1.0))
        await world.controller.rollouts.start("web", None, ANN)
        world.break_store()
        for _ in range(400):
            world.good(10, version=STABLE)
            await world.tick()
            await asyncio.sleep(0)
        await world.settle()
        assert len(world.controller.commits._unstored_events) == 50
        world.mend_store()
        await world.tick(2.0)
        await world.settle()
        lost = last(world, "EventsLost")["evidence"]["lost"]
        told = world.store.last_events(1000)
        assert lost > 10
        assert len(told) == told[-1]["seq"] - lost


@running
async def test_a_store_that_hangs_is_not_given_more_and_more(start):
    with pytest.MonkeyPatch.context() as patch:
        world = await start(planned(progress_report_s=1.0))
        await world.controller.rollouts.start("web", None, ANN)
        with hanging(world, patch):
            for _ in range(200):
                world.good(10, version=STABLE)
                await world.tick()
                await asyncio.sleep(0)
            assert world.store._thread._work_queue.qsize() <= MOST_SAVING
        await world.settle()
        told = world.store.last_events(1000)
        assert len(told) == told[-1]["seq"]
        assert [one["type"] for one in told].count("ProgressReport") > 40


@pytest.mark.parametrize("slow", [False, True])
def test_what_is_stored_late_is_what_is_in_force_then(slow, tmp_path):
    @running
    async def stored_late(start):
        await late(start, slow=slow)

    stored_late(tmp_path)


async def late(start, *, slow):
    world = await start(PLANS)
    await world.controller.weights.set_weights("web", 5000, ANN)
    world.break_store()
    shut = await world.controller.versions.put_new("web", "3", ["http://127.0.0.1:9003"], ANN)
    assert (shut["durable"], world.word()) == (False, 0)
    with pytest.raises(Refused):
        await world.controller.versions.put_new("web", "refused", ["http://127.0.0.1:9009"], ANN)
    world.mend_store()
    go = threading.Event()
    world.store._thread.submit(go.wait)
    order = asyncio.create_task(world.controller.versions.put_new("web", "4", ["http://127.0.0.1:9004"], ANN))
    await until(lambda: world.controller.services.entry("web").pending is not None)
    if slow:
        await world.tick(2.0)
    go.set()
    await order
    await world.tick(2.0)
    await world.settle()
    assert world.store.load().versions == world.controller.commits.versions
    assert (await start(PLANS)).controller.services.service("web").new.label == "4"
