"""What is decided and ordered while something else is being stored: state, words, seed and flags stay one."""

import asyncio

import pytest

from proxy.controlplane.operations import Order
from proxy.controlplane.store import Change
from proxy.errors import Refused
from proxy.rollout.state import COMPLETED, PAUSED, ROLLED_BACK, TAKEN_OVER
from proxy.routing.split import seed_of
from proxy.routing.table import STABLE
from tests.controlplane.ruled import ANN
from tests.controlplane.test_controller import running
from tests.controlplane.test_rollouts import PLANS, flow


def agreed(world, service="web"):
    """Return whether words, flags, seed and latch are those of the state."""
    state = world.state(service)
    words = world.word(service), world.watchdog_off(service), world.seed(service)
    shut = world.latch.read(service) is not None
    return (*words, shut) == (state.weight_bp, state.watchdog_off, seed_of(state.salt), state.phase == ROLLED_BACK)


async def pending(world, *, bad=0):
    """Let blocks pass until a decision is being stored."""
    while world.controller.services.entry("web").pending is None:
        world.good(10, version=STABLE)
        world.good(10)
        world.bad(bad)
        await world.tick()
    return world.controller.services.entry("web").pending


async def given(order):
    """Give an order and let it come as far as it does without the disk."""
    task = asyncio.create_task(order)
    await asyncio.sleep(0.01)
    return task


@running
async def test_a_pause_while_a_stage_is_being_stored_pauses_that_stage(start):
    world = await start(PLANS)
    await world.controller.rollouts.start("web", None, ANN)
    await flow(world, 9.5)
    with world.slow_store():
        assert (await pending(world)).weight_bp == 5000
        pause = await given(world.controller.rollouts.pause("web", ANN))
        assert world.word() == 100
    answer = await pause
    await world.settle()
    assert (answer["phase"], answer["weights"]["new"], world.word()) == (PAUSED, 50, 5000)
    assert agreed(world)


@running
async def test_a_stage_that_could_not_be_stored_is_not_the_one_that_is_paused(start):
    world = await start(PLANS)
    await world.controller.rollouts.start("web", None, ANN)
    await flow(world, 9.5)
    save, failed = world.store.save, []

    def once(change):
        if not failed and any(event["type"] == "StageEntered" for event in change.events):
            failed.append(world.store._run(lambda: world.store._connection.execute("no SQL")))
            return failed[0]
        return save(change)

    world.store.save = once
    with world.slow_store():
        await pending(world)
        pause = await given(world.controller.rollouts.pause("web", ANN))
    assert (await pause)["weights"]["new"] == 1
    await world.settle()
    assert agreed(world)


@running
async def test_the_weight_of_a_stage_that_is_being_stored_is_taken_over(start):
    world = await start(PLANS)
    await world.controller.rollouts.start("web", None, ANN)
    await flow(world, 9.5)
    with world.slow_store():
        await pending(world)
        order = await given(world.controller.weights.set_weights("web", 5000, Order("ann", take_over=True)))
        same = await given(world.controller.weights.set_weights("web", 100, Order("ann", take_over=True)))
        # What lowers what is to come waits for nothing.
        assert (world.state().reason, world.state().weight_bp) == (TAKEN_OVER, 100)
    assert (await same)["new"] in (1, 50)  # what is set when it is answered: the other order may have come in between
    assert (await order)["new"] == 50
    await world.settle()
    assert (world.word(), agreed(world)) == (5000, True)


@running
async def test_what_is_more_than_in_force_is_stored_first_though_less_is_than_what_is_being_stored(start):
    world = await start(PLANS)
    await world.controller.rollouts.start("web", None, ANN)
    await flow(world, 9.5)
    with world.slow_store():
        await pending(world)
        order = await given(world.controller.weights.set_weights("web", 3000, Order("ann", take_over=True)))
        assert world.word() == 100
    await order
    await world.settle()
    assert (world.word(), agreed(world)) == (3000, True)


@running
async def test_a_weight_for_a_time_while_the_completion_is_being_stored(start):
    world = await start(PLANS)
    await world.controller.rollouts.start("web", None, ANN)
    await flow(world, 20)
    await flow(world, 19.5)
    with world.slow_store():
        assert (await pending(world)).phase == COMPLETED
        order = await given(world.controller.weights.set_weights("web", 10_000, ANN, ttl_s=3600))
    await order
    await world.settle()
    assert world.state().expiry is not None
    assert (world.state().watchdog_off, agreed(world)) == (True, True)


@running
async def test_a_rollback_while_a_start_is_being_stored_keeps_seed_and_salt_the_same(start):
    world = await start(PLANS)
    with world.slow_store():
        begun = await given(world.controller.rollouts.start("web", None, ANN))
        back = await given(world.controller.weights.rollback("web", ANN))
        assert agreed(world)
    with pytest.raises(Refused, match="something else"):
        await begun
    assert (await back)["phase"] == ROLLED_BACK
    await world.settle()
    assert agreed(world)
    assert world.store.load().rows["web"].salt == world.state().salt
    await world.controller.weights.set_weights("web", 3000, ANN)
    assert (world.word(), agreed(world)) == (3000, True)


@running
async def test_a_rollback_while_a_start_is_being_stored_in_vain(start):
    world = await start(PLANS)
    world.break_store()
    with world.slow_store():
        begun = await given(world.controller.rollouts.start("web", None, ANN))
        back = await given(world.controller.weights.rollback("web", ANN))
    with pytest.raises(Refused):
        await begun
    assert (await back)["durable"] is False
    world.mend_store()
    await world.tick(1.0, times=2)
    await world.settle()
    assert agreed(world)
    assert world.store.load().rows["web"].salt == world.state().salt
    await world.controller.weights.set_weights("web", 3000, ANN)
    assert (world.word(), agreed(world)) == (3000, True)


@running
async def test_a_rollback_while_the_workers_refuse_what_finish_made_stays(start):
    world = await start(PLANS)
    await world.controller.rollouts.start("web", None, ANN)
    await flow(world, 60)
    assert world.state().phase == COMPLETED

    async def refuse(_table, _words):
        await world.controller.weights.rollback("web", ANN)
        raise Refused(503, "TableRefused", "no worker took it")

    world.controller.services.switch = refuse
    with pytest.raises(Refused):
        await world.controller.rollouts.finish("web", ANN)
    await world.settle()
    state = world.state()
    assert (state.phase, state.weight_bp, state.has_new, agreed(world)) == (ROLLED_BACK, 0, True, True)


@running
async def test_a_rollback_while_the_workers_refuse_another_version_stays(start):
    world = await start(PLANS)
    await world.controller.weights.set_weights("web", 2000, ANN)

    async def refuse(_table, _words):
        await world.controller.weights.rollback("web", ANN)
        raise Refused(503, "TableRefused", "no worker took it")

    world.controller.services.switch = refuse
    with pytest.raises(Refused):
        await world.controller.versions.put_new("web", "3", ["http://127.0.0.1:9002"], ANN)
    await world.settle()
    state = world.state()
    assert (state.phase, state.weight_bp, state.has_new, agreed(world)) == (ROLLED_BACK, 0, True, True)


async def start_overtaken(world, latency):
    """Start by a plan for which the workers need another table, and roll back while they get it."""
    plan = {"stages": [{"name": "one", "weight": "5%", "hold": "10s", "limits": {"p95": latency}}]}
    switch = world.switch

    async def slow(made, words):
        await world.controller.weights.rollback("web", ANN)
        await switch(made, words)

    world.controller.services.switch = slow
    with pytest.raises(Refused) as refused:
        await world.controller.rollouts.start("web", plan, ANN)
    await world.settle()
    return refused.value.title, world.state().phase, world.word()


@running
async def test_a_rollback_while_the_workers_get_a_table_for_a_start_ends_the_start(start):
    world = await start(PLANS)
    assert await start_overtaken(world, "120ms") == ("Overtaken", ROLLED_BACK, 0)
    # Also one that changes nothing, because the gate was shut before.
    assert await start_overtaken(world, "130ms") == ("Overtaken", ROLLED_BACK, 0)
    assert agreed(world)


@running
async def test_a_finish_that_was_overtaken_is_undone_in_the_store_by_what_overtook_it(start):
    world = await start(PLANS)
    await world.controller.rollouts.start("web", None, ANN)
    await flow(world, 60)
    stable = world.controller.services.service("web").stable
    saved = []
    save = world.store.save
    with world.slow_store():
        finish = await given(world.controller.rollouts.finish("web", ANN))
        back = await given(world.controller.weights.rollback("web", ANN))
        # Killed right after the answer: nothing else comes to the file.
        world.store.save = lambda change: saved.append(change) or save(Change())
    answer = await back
    assert (answer["phase"], answer.get("durable", True)) == (ROLLED_BACK, True)
    await world.settle()
    assert finish.done()
    assert saved
    world.close()
    again = await start(PLANS)
    assert again.controller.services.service("web").stable == stable
    assert (again.state().phase, again.state().has_new, again.word()) == (ROLLED_BACK, True, 0)
    with pytest.raises(Refused):
        await finish


@running
async def test_what_lowers_new_overtakes_a_finish_that_is_being_stored(start):
    world = await start(PLANS)
    await world.controller.rollouts.start("web", None, ANN)
    await flow(world, 60)
    with world.slow_store():
        finish = await given(world.controller.rollouts.finish("web", ANN))
        order = await given(world.controller.weights.set_weights("web", 5000, ANN))
        assert world.word() == 5000
    assert (await order)["new"] == 50
    with pytest.raises(Refused):
        await finish
    await world.settle()
    assert (world.state().phase, agreed(world)) == (PAUSED, True)
    world.close()
    again = await start(PLANS)
    assert (again.word(), again.controller.services.service("web").new.label) == (5000, "2")
