"""The controller, block by block: real shared memory, SQLite and latch files; time and one worker's hand are played."""

import asyncio
import os
import threading
from dataclasses import replace
from itertools import pairwise

import pytest

from proxy.controlplane.operations import Order
from proxy.controlplane.watch import Watch
from proxy.errors import CounterWentBack, Refused, StateError
from proxy.ipc import layout
from proxy.rollout.plan import Limit, ServicePlan
from proxy.rollout.state import IDLE, ROLLED_BACK
from proxy.routing.split import seed_of
from proxy.routing.table import NEW, STABLE, Version
from tests.controlplane.regions import B, C, service, table, version
from tests.controlplane.ruled import ANN, FakeClock, World, begun

ERRORS = Limit("error_rate", max=0.01, window_s=10.0)
SLOW = Limit("p99", max=200, window_s=10.0)
PLAN = ServicePlan("web", limits=(ERRORS, SLOW), initial_weight=1000)
PLANS = (PLAN,)
TABLE = table()
NO_NEW = table(service(new=Version()))


def running(test):
    """Run a test in a loop; the worlds that it makes are closed at its end."""

    def run(tmp_path):
        worlds = []

        async def start(plans=PLANS, made=TABLE, *, path=tmp_path / "state.db", **more):
            if worlds:
                more.setdefault("clock", FakeClock(5.0))  # the machine was started again: its clock begins anew
            world = await begun(path, plans, made, **more)
            worlds.append(world)
            return world

        async def whole():
            try:
                await test(start)
            finally:
                for world in worlds:
                    await world.settle()
                    if world.generations.live:
                        world.close()

        asyncio.run(whole())

    run.__name__ = test.__name__  # not functools.wraps: pytest would look through it and want `start`
    return run


async def until(condition):
    """Let the loop turn until a condition holds."""
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0)


# --- shutting ---------------------------------------------------------------------------------------------------------


@running
async def test_a_breach_shuts_in_the_tick_that_sees_it_and_is_stored_and_told(start):
    world = await start()
    assert world.word() == 1000
    world.good(200)
    await world.tick()
    assert world.word() == 1000
    world.bad(50)
    world.clock.pass_s(0.25)
    tick = asyncio.create_task(world.controller.tick())
    await tick
    # At once: before anything was stored.
    assert world.word() == 0
    assert world.latch.read("web").reason == "ErrorRateAboveLimit"
    await world.settle()
    event = (await world.controller.status.events(0, 10))[-1]
    assert (event["type"], event["actor"], event["reason"]) == ("RolledBack", "controller", "ErrorRateAboveLimit")
    assert event["before"] == {"new": 10, "phase": "idle", "revision": 1}
    assert event["after"] == {"new": 0, "phase": "rolled_back", "revision": 2}
    numbers = event["evidence"]
    assert (numbers["value"], numbers["limit"], numbers["n"], numbers["bad"]) == (0.2, 0.01, 250, 50)
    assert numbers["blocks"] == [2, 3]
    assert numbers["decided_ns"] <= world.clock.ns
    assert world.store.load().rows["web"].phase == ROLLED_BACK
    assert world.store.last_events(1) == [event]


@running
async def test_a_service_is_judged_at_the_end_of_its_own_block(start):
    slow, quick = replace(PLAN, block_s=1.0), replace(PLAN, name="shop", block_s=0.1)
    world = await start((slow, quick), table(service(), service("shop")))
    assert world.controller.tick_s == 0.1
    await world.tick(0.1, times=20)
    world.bad(50, "shop")
    await world.tick(0.1)
    assert world.word("shop") == 0
    first = world.blocks("web")
    while (before := world.blocks("web")) == first:
        await world.tick(0.1)  # to the end of a block
    world.bad()
    await world.tick(0.1, times=9)
    assert (world.word(), world.blocks("web")) == (1000, before)
    await world.tick(0.1)
    assert (world.word(), world.blocks("web")) == (0, before + 1)
    assert (await start()).controller.tick_s == 0.25


@running
async def test_what_shut_the_gate_does_not_shut_it_again_before_the_next_block_ends(start):
    world = await start((replace(PLAN, block_s=1.0),))
    world.bad()
    await world.tick(times=5)
    assert world.word() == 0
    await world.controller.weights.set_weights("web", 1000, ANN)
    await world.tick(times=8)
    assert (world.word(), world.state().phase) == (1000, IDLE)


@running
async def test_after_a_rollback_no_tick_opens_and_no_second_rollback_is_told(start):
    world = await start()
    world.bad()
    await world.tick(times=3)
    world.good(1000)
    await world.tick(times=100)
    await world.settle()
    assert (world.word(), world.state().phase) == (0, ROLLED_BACK)
    assert world.types().count("RolledBack") == 1


@running
async def test_a_rollback_stores_0_in_every_live_generation(start):
    world = await start()
    # The table changes, but not what `new` is; the old generation still has exchanges.
    await world.controller.reloads.reload(PLANS, table(service(new=version("2", B, C))), ANN)
    assert [world.word(generation=number) for number in (0, 1)] == [1000, 1000]
    await world.controller.weights.rollback("web", ANN)
    assert [world.word(generation=number) for number in (0, 1)] == [0, 0]


@running
async def test_hung_requests_shut_the_gate_before_any_of_them_has_ended(start):
    world = await start()
    world.good(1000)
    await world.tick()
    world.hand.add(world.hand.version_at(NEW) + layout.VERSION_SLOW, 30)
    await world.tick()
    assert world.word() == 0
    await world.settle()
    numbers = (await world.controller.status.events(0, 10))[-1]["evidence"]
    assert (numbers["metric"], numbers["value"], numbers["slower"], numbers["n"]) == ("p99", 200, 30, 1030)
    assert numbers["at_least"] is True  # none of them has ended: nobody knows by how much they are slower
    (shown,) = [limit for limit in world.controller.status.service_status("web")["limits"] if limit["metric"] == "p99"]
    assert (shown["value"], shown["at_least"]) == (200, True)


@running
async def test_what_stable_does_wrong_is_not_charged_to_new(start):
    world = await start()
    world.hand.end(STABLE, status=500, kind="status", times=1000)
    await world.tick(times=5)
    assert world.word() == 1000


@running
async def test_limits_that_only_tell_do_so_once_per_breach(start):
    plans = (
        ServicePlan(
            "web",
            limits=(
                Limit("error_rate", max=0.01, action="alert", window_s=1.0),
                Limit("error_rate", max=0.01, dry_run=True, window_s=1.0),
                Limit("error_rate", max=0.01, version=STABLE, action="pause", window_s=1.0),
            ),
            initial_weight=1000,
        ),
    )
    world = await start(plans)
    for _ in range(2):
        for _ in range(8):
            world.bad(30)
            world.hand.end(STABLE, status=500, kind="status", times=30)
            await world.tick()
        for _ in range(240):  # a minute
            world.good(30)
            world.good(30, version=STABLE)
            await world.tick()
    await world.settle()
    assert world.word() == 1000
    assert world.types().count("LimitFailed") == 4
    assert world.types().count("LimitWouldFail") == 2


@running
async def test_no_healthy_endpoint_of_new(start):
    world = await start((ServicePlan("web", initial_weight=1000),))
    for _ in range(41):
        world.fail_connections(NEW)
        world.good(5, version=STABLE)
        assert world.word() == 1000
        await world.tick()
    assert world.word() == 0
    await world.settle()
    event = (await world.controller.status.events(0, 10))[-1]
    assert event["reason"] == "NoHealthyEndpoint"
    assert event["evidence"]["seconds"] == 10.0


@running
async def test_a_rollback_is_stored_and_told_also_without_the_value_that_led_to_it(start):
    world = await start()

    def fail(*_):
        raise ValueError("no histogram")

    world.controller._measured = fail
    world.bad(50)
    await world.tick()
    assert world.word() == 0
    await world.settle()
    event = (await world.controller.status.events(0, 10))[-1]
    assert (event["type"], event["evidence"]["bad"]) == ("RolledBack", 50)
    assert world.store.load().rows["web"].phase == ROLLED_BACK


@running
async def test_a_service_that_cannot_be_judged_keeps_no_other_from_being_judged(start):
    shop = replace(PLAN, name="shop")
    world = await start((PLAN, shop), table(service(), service("shop")))

    def fail(*_):
        raise ValueError("a judge that cannot count")

    world.controller.services.entry("web").watch.look = fail
    for _ in range(4):
        world.bad(20, "shop")
        with pytest.raises(ValueError, match="cannot count"):
            await world.tick()
    # Not every service was judged: that is no tick, and the workers get no beat for it.
    assert (world.word("shop"), world.state("shop").phase, world.word("web")) == (0, ROLLED_BACK, 1000)


# --- no stable --------------------------------------------------------------------------------------------------------


@running
async def test_without_a_ready_stable_the_weight_stays_until_there_is_one(start):
    world = await start()
    for _ in range(8):
        world.bad()
        world.fail_connections(STABLE)
        await world.tick()
    await world.settle()
    # The first breach came with stable still well: take the case where it is not.
    assert world.state().phase == ROLLED_BACK
    for _ in range(8):
        world.fail_connections(STABLE)
        await world.tick()
    await world.controller.weights.set_weights("web", 2000, ANN)
    for _ in range(8):
        world.bad()
        world.fail_connections(STABLE)
        await world.tick()
    await world.settle()
    assert world.word() == 2000
    assert world.types().count("NoStable") == 1
    world.hand.add(world.hand.endpoint_at(STABLE) + layout.ENDPOINT_CONNECTED)
    await world.tick(times=2)
    await world.settle()
    assert (world.word(), world.state().reason) == (0, "ErrorRateAboveLimit")


@running
async def test_a_persons_order_is_obeyed_without_a_ready_stable_with_a_warning(start):
    world = await start()
    for _ in range(3):
        world.fail_connections(STABLE)
        await world.tick()
    answer = await world.controller.weights.rollback("web", ANN)
    assert world.word() == 0
    assert "stable" in answer["warning"]
    assert "durable" not in answer


# --- orders -----------------------------------------------------------------------------------------------------------


@running
async def test_weights_are_stored_before_the_answer_and_carry_a_revision(start):
    world = await start()
    answer = await world.controller.weights.set_weights("web", 2500, Order("ann", "looks good", if_match=1))
    assert answer == {"service": "web", "stable": 75, "new": 25, "revision": 2}
    assert world.word() == 2500
    assert world.store.load().rows["web"].weight_bp == 2500
    event = (await world.controller.status.events(0, 10))[-1]
    assert (event["type"], event["actor"], event["reason"]) == ("WeightsSet", "ann", "looks good")


@running
async def test_a_stale_revision_does_not_raise_but_lowers(start):
    world = await start()
    with pytest.raises(Refused) as refused:
        await world.controller.weights.set_weights("web", 2500, Order("ann", if_match=7))
    assert refused.value.status == 412
    assert world.word() == 1000
    assert (await world.controller.weights.set_weights("web", 500, Order("ann", if_match=7)))["new"] == 5
    assert (await world.controller.weights.set_weights("web", 0, Order("ann", if_match=7)))["new"] == 0
    assert (world.state().phase, world.state().reason) == (ROLLED_BACK, "OperatorRollback")


@running
async def test_a_dry_run_says_what_would_move_and_moves_nothing(start):
    world = await start()
    answer = await world.controller.weights.set_weights("web", 2550, Order("ann", dry_run=True))
    assert answer == {
        "service": "web",
        "stable": 74.5,
        "new": 25.5,
        "revision": 1,
        "moves": {"to_new": 1550, "to_stable": 0, "of": 10_000},
    }
    answer = await world.controller.weights.set_weights("web", 0, Order("ann", dry_run=True))
    assert answer["moves"] == {"to_new": 0, "to_stable": 1000, "of": 10_000}
    assert (world.word(), world.state().revision) == (1000, 1)
    with pytest.raises(Refused):
        await world.controller.weights.set_weights("web", 2500, Order("ann", if_match=7, dry_run=True))


@running
async def test_raising_after_a_rollback_is_a_persons_word_and_judges_afresh(start):
    world = await start()
    world.bad(100)
    await world.tick()
    assert world.word() == 0
    await world.controller.weights.set_weights("web", 2000, ANN)
    assert (world.word(), world.state().phase, world.latch.read("web")) == (2000, IDLE, None)
    # What was bad before is still in the window of 10 s, and judged no more.
    world.good(30)
    await world.tick(times=4)
    assert world.word() == 2000
    world.bad(30)
    await world.tick()
    assert world.word() == 0


@running
async def test_what_ended_before_the_gate_was_opened_again_is_in_no_new_trial(start):
    world = await start()
    world.bad()
    await world.tick()
    await world.settle()
    assert world.state().phase == ROLLED_BACK
    world.good(2, version=STABLE)
    world.bad()  # ended on new after the last tick, and before the next opening
    world.clock.pass_s(0.1)
    await world.controller.weights.set_weights("web", 2000, ANN)
    world.good(20)
    world.clock.pass_s(0.15)
    await world.controller.tick()
    (errors, slow) = world.controller.status.service_status("web")["limits"]
    assert (errors["samples"], errors["value"], slow["samples"]) == (20, 0.0, 20)
    await world.tick(times=8)
    assert world.word() == 2000
    assert world.controller.status.service_status("web")["versions"]["new"]["bad"] == 100  # counted they are


@running
async def test_names_are_checked(start):
    world = await start()
    assert world.controller.services.service_name(None) == "web"
    with pytest.raises(Refused) as refused:
        await world.controller.weights.rollback("shop", ANN)
    assert refused.value.status == 404
    two = await start((PLAN, ServicePlan("shop")), table(service(), service("shop")), path=None)
    with pytest.raises(Refused) as refused:
        two.controller.services.service_name(None)
    assert refused.value.status == 400


@running
async def test_a_weight_for_a_time_goes_back_by_itself(start):
    world = await start()
    answer = await world.controller.weights.set_weights("web", 5000, ANN, ttl_s=60)
    assert answer["expires_in_s"] == pytest.approx(60, abs=0.01)
    await world.tick(59)
    assert world.word() == 5000
    await world.tick(1.5)
    await world.settle()
    assert (world.word(), world.state().revision) == (1000, 3)
    assert world.store.load().rows["web"].expires_in_s is None


@running
async def test_a_later_weight_does_not_take_an_earlier_time_away_and_says_so(start):
    world = await start()
    await world.controller.weights.set_weights("web", 5000, ANN, ttl_s=60)
    answer = await world.controller.weights.set_weights("web", 6000, Order("bob"))
    assert "ttl" in answer["warning"]
    assert answer["expires_in_s"] > 59
    await world.tick(61)
    assert (world.word(), world.state().phase) == (0, IDLE)


@running
async def test_an_endpoint_is_taken_out_by_a_person_and_stays_out_after_a_restart(start):
    both = table(service(stable=version("1", B, C)))
    world = await start(made=both)
    answer = await world.controller.endpoint_changes.set_endpoint("web", STABLE, B.url, "drain", Order("ann", "disk"))
    shown = [one for one in answer["endpoints"] if one["version"] == "stable"]
    assert [(one["state"], one["why"]) for one in shown] == [("drain", "set by an operator"), ("ready", "")]
    assert "warning" not in answer
    assert world.types()[-1] == "EndpointSet"
    await world.controller.endpoint_changes.set_endpoint("web", STABLE, B.url, "drain", ANN)
    assert world.types().count("EndpointSet") == 1
    world.close()
    again = await start(made=both)
    states = [one["state"] for one in again.controller.status.service_status("web")["versions"]["stable"]["endpoints"]]
    assert states == ["drain", "ready"]
    # Without a ready endpoint of stable nothing moves there by itself.
    answer = await again.controller.endpoint_changes.set_endpoint("web", STABLE, C.url, "maintenance", ANN)
    assert answer["warning"].startswith("no endpoint of stable is ready: ")
    again.bad()
    await again.tick()
    await again.settle()
    assert (again.word(), again.types()[-1]) == (1000, "NoStable")
    answer = await again.controller.endpoint_changes.set_endpoint("web", STABLE, C.url, "ready", ANN)
    assert "warning" not in answer
    again.bad()
    await again.tick()
    assert again.word() == 0


@running
async def test_endpoint_states_that_make_no_sense_are_refused(start):
    world = await start()
    for url, state, status in ((B.url, "down", 400), ("http://127.0.0.1:1", "drain", 404)):
        with pytest.raises(Refused) as refused:
            await world.controller.endpoint_changes.set_endpoint("web", NEW, url, state, ANN)
        assert refused.value.status == status
    world.break_store()
    with pytest.raises(Refused) as refused:
        await world.controller.endpoint_changes.set_endpoint("web", NEW, B.url, "drain", ANN)
    assert refused.value.status == 503
    assert world.controller.status.service_status("web")["versions"]["new"]["endpoints"][0]["state"] == "ready"


# --- restarts ---------------------------------------------------------------------------------------------------------


@running
async def test_killed_between_the_shutting_store_and_the_commit_stays_shut(start):
    world = await start()
    await world.settle()
    world.break_store()  # the commit never comes: as if killed right after the store into latch and words
    world.bad()
    await world.tick()
    assert world.word() == 0
    await world.settle()
    assert world.store.load().rows["web"].weight_bp == 1000
    world.close()
    again = await start()
    assert (again.word(), again.state().phase, again.state().reason) == (0, ROLLED_BACK, "ErrorRateAboveLimit")
    assert again.state().revision == 2
    assert again.store.load().rows["web"].phase == ROLLED_BACK


@running
async def test_killed_between_the_commit_that_opens_and_the_latch_stays_shut(start):
    world = await start()
    await world.controller.weights.rollback("web", ANN)
    await world.controller.weights.set_weights("web", 3000, ANN)
    world.latch.shut("web", "OperatorRollback", 1)
    world.close()
    again = await start()
    assert (again.word(), again.state().phase) == (0, ROLLED_BACK)


@running
async def test_a_lost_store_does_not_open_what_the_latch_holds_shut(start):
    world = await start()
    await world.controller.weights.rollback("web", ANN)
    path = world.store.path
    world.close()
    path.unlink()
    again = await start()
    assert (again.word(), again.state().phase) == (0, ROLLED_BACK)


@running
async def test_weight_revision_salt_and_what_is_left_of_a_time_survive(start):
    world = await start()
    await world.controller.weights.set_weights("web", 2000, ANN, ttl_s=100)
    salt, seed = world.state().salt, world.seed()
    await world.tick(40)
    await world.settle()
    world.close()
    again = await start()
    assert (again.word(), again.state().revision, again.state().salt) == (2000, 2, salt)
    assert again.seed() == seed == seed_of(salt)
    assert again.controller.status.weights("web")["expires_in_s"] == pytest.approx(60, abs=1)
    await again.tick(61)
    assert again.word() == 1000


@running
async def test_events_go_on_with_the_next_number(start):
    world = await start()
    await world.controller.weights.rollback("web", ANN)
    seen = await world.controller.status.events(0, 100)
    world.close()
    again = await start()
    assert (await again.controller.status.events(0, 100)) == seen
    await again.controller.weights.set_weights("web", 100, ANN)
    assert [event["seq"] for event in (await again.controller.status.events(seen[-1]["seq"], 10))] == [
        seen[-1]["seq"] + 1
    ]


@running
async def test_a_stored_weight_wins_over_the_configs_and_that_is_said(start):
    world = await start()
    await world.controller.weights.set_weights("web", 2000, ANN)
    world.close()
    again = World(world.store.path, PLANS, TABLE)
    notes = await again.controller.start()
    assert again.word() == 2000
    assert notes == ("web: the stored weight of new, 20 %, wins over the config's 10 %",)
    await again.settle()
    again.close()


@running
async def test_another_new_in_the_config_at_a_restart_begins_at_0(start):
    world = await start()
    await world.controller.weights.set_weights("web", 2000, ANN)
    salt = world.state().salt
    world.close()
    again = await start(made=table(service(new=version("3", B))))
    assert (again.word(), again.state().phase, again.state().salt) == (0, IDLE, salt)


@running
async def test_a_rolled_back_service_that_gets_another_new_has_a_fresh_salt(start):
    world = await start()
    await world.controller.weights.rollback("web", ANN)
    salt = world.state().salt
    world.close()
    again = await start(made=table(service(new=version("3", B))))
    assert (again.word(), again.state().phase, again.latch.read("web")) == (0, IDLE, None)
    assert again.state().salt != salt


# --- storing fails ----------------------------------------------------------------------------------------------------


@running
async def test_a_raise_that_cannot_be_stored_is_refused_and_changes_nothing(start):
    world = await start()
    await world.settle()
    before = world.state()
    world.break_store()
    with pytest.raises(Refused) as refused:
        await world.controller.weights.set_weights("web", 2000, ANN)
    assert refused.value.status == 503
    assert (world.word(), world.state()) == (1000, before)
    with pytest.raises(Refused):
        await (await _at_0(world)).controller.versions.put_new("web", "3", ["http://127.0.0.1:9003"], ANN)
    assert world.controller.services.table == TABLE
    world.mend_store()
    assert (await world.controller.weights.set_weights("web", 2000, ANN))["new"] == 20


async def _at_0(world):
    await world.controller.weights.rollback("web", ANN)
    return world


@running
async def test_a_gate_that_is_shut_stays_shut_when_it_cannot_be_stored(start):
    world = await start()
    await world.settle()
    world.break_store()
    answer = await world.controller.weights.rollback("web", ANN)
    assert (world.word(), answer["durable"], answer["phase"]) == (0, False, "rolled_back")
    assert world.latch.read("web") is not None
    assert (await world.controller.weights.rollback("web", ANN))["durable"] is False
    world.mend_store()
    # It is tried again, and what could not be told to the store then is there now.
    await world.tick(1.5)
    await world.settle()
    assert world.store.load().rows["web"].phase == ROLLED_BACK
    assert world.store.last_events(1)[0]["type"] == "RolledBack"
    assert "durable" not in await world.controller.weights.rollback("web", ANN)


@running
async def test_lowering_that_cannot_be_stored_is_in_force_and_says_so(start):
    world = await start()
    await world.settle()
    world.break_store()
    answer = await world.controller.weights.set_weights("web", 500, ANN)
    assert (answer["new"], answer["durable"], world.word()) == (5, False, 500)


@running
async def test_a_rollback_overtakes_a_raise_that_is_being_stored(start):
    world = await start()
    await world.settle()
    release = asyncio.Event()
    loop = asyncio.get_running_loop()

    def slow_disk():
        asyncio.run_coroutine_threadsafe(release.wait(), loop).result()

    world.store._thread.submit(slow_disk)
    raising = asyncio.create_task(world.controller.weights.set_weights("web", 5000, ANN))
    await until(lambda: world.controller.services.entries["web"].pending is not None)
    rolling = asyncio.create_task(world.controller.weights.rollback("web", Order("bob")))
    await until(lambda: world.word() == 0)
    assert not raising.done()
    release.set()
    with pytest.raises(Refused) as refused:
        await raising
    assert refused.value.title == "Overtaken"
    assert (await rolling)["phase"] == "rolled_back"
    assert (world.word(), world.state().phase, world.state().revision) == (0, ROLLED_BACK, 3)
    assert world.latch.read("web") is not None
    assert world.store.load().rows["web"].phase == ROLLED_BACK
    assert [event["seq"] for event in (await world.controller.status.events(0, 10))] == [1, 2, 3]


# --- versions and reloads ---------------------------------------------------------------------------------------------


@running
async def test_registering_a_new_version_from_a_deploy_script(start):
    world = await start(made=NO_NEW)
    assert world.word() == 0
    with pytest.raises(Refused) as refused:
        await world.controller.weights.set_weights("web", 100, ANN)
    assert refused.value.title == "NoNewVersion"
    salt = world.state().salt
    answer = await world.controller.versions.put_new("web", "2.3.0", ["http://127.0.0.1:9002"], ANN)
    assert answer["versions"]["new"]["label"] == "2.3.0"
    assert (world.word(), world.state().phase) == (0, IDLE)
    assert world.state().salt != salt
    assert world.seed() == seed_of(world.state().salt)
    assert world.generations.current.table.services[0].new.endpoints[0].port == 9002
    await world.controller.weights.set_weights("web", 100, ANN)
    assert world.word() == 100
    world.close()
    again = await start(made=NO_NEW)
    assert again.generations.current.table.services[0].new.label == "2.3.0"
    assert again.word() == 100


@running
async def test_registering_over_a_running_new_shuts_it_first(start):
    world = await start()
    world.on_switch = lambda: seen.append(world.word(generation=0))
    seen = []
    await world.controller.versions.put_new("web", "3", ["http://127.0.0.1:9003"], ANN)
    assert seen == [0]
    assert world.word() == 0
    await world.controller.weights.set_weights("web", 4000, ANN)
    # In the generation where `new` is the old one, what still waits goes to stable.
    assert [world.word(generation=number) for number in (0, 1)] == [0, 4000]


@running
async def test_bad_endpoints_are_refused_with_their_place(start):
    world = await start()
    with pytest.raises(Refused) as refused:
        await world.controller.versions.put_new("web", "3", ["http://127.0.0.1:9003", "nonsense"], ANN)
    assert refused.value.status == 400
    assert [problem.key for problem in refused.value.problems] == ["endpoints.1"]
    with pytest.raises(Refused):
        await world.controller.versions.put_new("web", "3", [], ANN)
    assert world.word() == 1000


@running
async def test_removing_new_and_the_config_that_still_names_it(start):
    world = await start()
    answer = await world.controller.versions.delete_new("web", ANN)
    assert "new" not in answer["versions"]
    assert world.word() == 0
    assert await world.controller.versions.delete_new("web", ANN) == world.controller.status.service_status("web")
    world.close()
    again = await start()
    assert again.controller.services.table.services[0].new == Version()
    # Until the config says something else than it said then.
    await again.controller.reloads.reload(PLANS, table(service(new=version("3", C))), ANN)
    assert again.controller.services.table.services[0].new.label == "3"
    assert again.word() == 0


@running
async def test_a_reload_that_changes_what_new_is_sets_its_weight_to_0_and_says_so(start):
    world = await start()
    notes = await world.controller.reloads.reload(PLANS, table(service(new=version("3", B))), ANN)
    assert notes == ("web: new was '2' and is now '3': its weight is set from 10 % to 0 %",)
    assert [world.word(generation=number) for number in (0, 1)] == [0, 0]
    assert world.types()[-1] == "NewChanged"
    world.bad()
    await world.tick()
    assert world.state().phase == IDLE


@running
async def test_a_reload_that_does_not_touch_new_keeps_its_weight_and_users(start):
    world = await start()
    seed = world.seed()
    plans = (ServicePlan("web", limits=(Limit("p99", max=100, window_s=10.0),), initial_weight=1000),)
    made = table(service(new=version("2", B, C), thresholds=(100_000,)))
    assert await world.controller.reloads.reload(plans, made, ANN) == ()
    assert (world.word(), world.seed()) == (1000, seed)
    world.hand.end(NEW, us=150_000, times=50)
    await world.tick()
    assert (world.word(), world.state().reason) == (0, "P99AboveLimit")


@running
async def test_services_come_and_go_with_reloads(start):
    world = await start()
    shop = ServicePlan("shop", limits=(ERRORS,), initial_weight=500)
    both = table(service(), service("shop"))
    await world.controller.reloads.reload((PLAN, shop), both, ANN)
    assert (world.word("web"), world.word("shop")) == (1000, 500)
    gone = await world.controller.reloads.reload(PLANS, TABLE, replace(ANN, dry_run=True))
    kept = "shop: is no longer served: its weight of new, 5 %, is kept and applies again when the service comes back"
    assert gone == (kept,)
    await world.controller.weights.rollback("shop", ANN)
    assert await world.controller.reloads.reload(PLANS, TABLE, ANN) == ("shop: is no longer served",)
    assert world.controller.services.names() == ("web",)
    await world.tick()
    await world.controller.reloads.reload((PLAN, shop), both, ANN)
    assert (world.word("shop"), world.state("shop").phase) == (0, ROLLED_BACK)


@running
async def test_a_reload_that_workers_refuse_brings_back_what_was(start):
    world = await start()
    switch = world.switch

    async def refuse(made, words):
        await switch(made, words)
        await switch(before, world.controller.services.words())
        raise Refused(500, "TableRefused", "the workers cannot use the new table")

    before = world.controller.services.table
    world.controller.services.switch = refuse
    salt = world.state().salt
    with pytest.raises(Refused):
        await world.controller.versions.put_new("web", "3", ["http://127.0.0.1:9003"], ANN)
    await world.settle()
    assert (world.word(), world.state().has_new, world.state().salt) == (0, True, salt)
    assert world.controller.services.table == before
    await world.tick()
    world.close()
    again = await start()
    assert again.controller.services.table.services[0].new.label == "2"
    assert again.word() == 0


@running
async def test_a_dry_reload_says_what_would_be(start):
    world = await start()
    notes = await world.controller.reloads.reload(
        PLANS, table(service(new=version("3", B))), Order("ann", dry_run=True)
    )
    assert "'3'" in notes[0]
    assert (world.word(), world.controller.services.table) == (1000, TABLE)


@running
async def test_a_fixed_salt_comes_into_force_at_weight_0(start):
    fixed = (ServicePlan("web", salt="mine", initial_weight=1000),)
    world = await start()
    salt = world.state().salt
    notes = await world.controller.reloads.reload(fixed, TABLE, ANN)
    assert "salt" in notes[0]
    assert world.state().salt == salt
    await world.controller.weights.rollback("web", ANN)
    await world.controller.reloads.reload(fixed, TABLE, ANN)
    assert (world.state().salt, world.seed()) == ("mine", seed_of("mine"))


# --- status, events, silence ------------------------------------------------------------------------------------------


@running
async def test_the_services_part_of_status(start):
    world = await start()
    world.good(980)
    world.bad(5)
    world.good(3000, version=STABLE)
    await world.tick(times=5)
    shown = world.controller.status.service_status("web")
    assert shown["weights"] == {"stable": 90, "new": 10, "revision": 1, "expires_in_s": None}
    assert (shown["phase"], shown["reason"], shown["stage"]) == ("idle", None, None)
    new = shown["versions"]["new"]
    assert (new["label"], new["requests"], new["bad"], new["in_flight"], new["rescued"]) == ("2", 985, 5, 0, 0)
    assert new["window"]["requests"] == 985
    assert new["window"]["error_rate"] == 5 / 985
    assert new["window"]["p99_ms"] == pytest.approx(1.0, rel=0.01)
    assert set(new["window"]) == {"seconds", "requests", "error_rate", "p50_ms", "p95_ms", "p99_ms", "p999_ms"}
    assert new["endpoints"] == [
        {"url": B.url, "state": "ready", "why": "", "in_flight": 0, "requests": 985, "bad": 5},
    ]
    assert [limit["metric"] for limit in shown["limits"]] == ["error_rate", "p99"]
    errors, slow = shown["limits"]
    assert {key: errors[key] for key in ("version", "max", "value", "unit", "verdict", "samples", "needed")} == {
        "version": "new",
        "max": 0.01,
        "value": 5 / 985,
        "unit": "ratio",
        "verdict": "PASS",
        "samples": 985,
        "needed": 0,
    }
    assert (errors["proven"], errors["judge"], errors["action"]) == (False, "window", "rollback")
    assert (slow["unit"], slow["max"], slow["verdict"]) == ("ms", 200, "PASS")
    assert shown["last_event"]["type"] == "ServiceAdded"


@running
async def test_limits_are_shown_before_the_first_block(start):
    world = await start()
    limits = world.controller.status.service_status("web")["limits"]
    assert [(limit["verdict"], limit["needed"], limit["value"]) for limit in limits] == [("INCONCLUSIVE", 20, None)] * 2


@running
async def test_metrics_know_phase_rollbacks_and_limits(start):
    world = await start()
    world.bad()
    await world.tick()
    standing = world.controller.status.standings()["web"]
    assert (standing.new_set, standing.phase) == (0, "rolled_back")
    assert standing.rollbacks == {
        "ErrorRateAboveLimit": 1,
        "P99AboveLimit": 0,
        "OperatorRollback": 0,
        "NoHealthyEndpoint": 0,
    }
    assert [limit.verdict for limit in standing.limits] == ["FAIL", "PASS"]


@running
async def test_events_are_followed_as_they_come_and_end_with_the_controller(start):
    world = await start()
    seen = []

    async def follow():
        seen.extend([event async for event in world.controller.status.follow_events(0)])

    following = asyncio.create_task(follow())
    await world.controller.weights.set_weights("web", 2000, ANN)
    await world.controller.weights.rollback("web", ANN)
    await world.controller.close()
    await following
    assert [event["type"] for event in seen] == ["ServiceAdded", "WeightsSet", "RolledBack"]
    assert all(later["seq"] == earlier["seq"] + 1 for earlier, later in pairwise(seen))
    assert seen == (await world.controller.status.events(0, 10)) == world.store.last_events(10)


@running
async def test_a_reload_with_another_service_does_not_wait_for_the_latch_in_the_loop(start):
    world = await start()
    threads, fsync = [], os.fsync

    def synced(descriptor):
        threads.append(threading.current_thread())
        fsync(descriptor)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("proxy.controlplane.latch.os.fsync", synced)
        await world.controller.reloads.reload(
            (PLAN, replace(PLAN, name="shop")), table(service(), service("shop")), ANN
        )
    assert threads
    assert threading.main_thread() not in threads
    await world.controller.weights.rollback("shop", ANN)
    assert world.latch.read("shop").reason == "OperatorRollback"


@running
async def test_a_controller_that_was_silent_says_so(start):
    world = await start()
    await world.tick()
    await world.tick(5.0)
    assert world.types()[-1] == "ControllerSilent"
    assert (await world.controller.status.events(0, 10))[-1]["evidence"]["silent_s"] == pytest.approx(5.0)
    assert world.word() == 1000


@running
async def test_ticks_that_fail_one_after_the_other_are_one_silence(start):
    world = await start()
    await world.tick()

    def fails(*_args):
        raise CounterWentBack("the counters went back")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Watch, "breach", fails)
        for _ in range(400):
            with pytest.raises(CounterWentBack):
                await world.tick()
    await world.tick(times=2)
    await world.tick(5.0)
    await world.settle()
    told = [one["evidence"] for one in world.store.last_events(10) if one["type"] == "ControllerSilent"]
    assert told == [{"silent_s": 2.0}, {"silent_s": 100.25, "over": True}, {"silent_s": 5.0}]


@running
async def test_explain_uses_what_is_in_force(start):
    world = await start()
    await world.controller.weights.set_weights("web", 10_000, ANN)
    answer = world.controller.status.explain("web", {}, {}, None)
    assert (answer["weight"], answer["version"]) == (100, "new")
    await world.controller.weights.rollback("web", ANN)
    assert world.controller.status.explain("web", {}, {}, None)["version"] == "stable"


@running
async def test_a_tick_that_cannot_judge_raises(start):
    world = await start()
    world.good(100)
    await world.tick(11, times=2)
    world.hand.set(world.hand.version_at(NEW) + layout.VERSION_ENDED, 1)
    with pytest.raises(CounterWentBack):
        await world.tick()


def test_a_state_that_cannot_be_read_starts_nothing(tmp_path):
    async def attempt():
        world = World(tmp_path / "state.db", PLANS, TABLE)
        world.store._run(lambda: world.store._connection.execute("DROP TABLE services")).result()
        with pytest.raises(StateError):
            await world.controller.start()
        assert world.generations.live == []
        world.close()

    asyncio.run(attempt())


@running
async def test_another_config_is_told_with_who_brought_it_and_the_same_one_is_not(start):
    world = await start()
    looser = replace(PLAN, limits=(replace(ERRORS, max=0.5), SLOW))
    for _ in range(2):
        await world.controller.reloads.reload((looser,), TABLE, Order("ann", "it is noisy"))
    await world.settle()
    told = [event for event in world.store.last_events(10) if event["type"] == "ConfigChanged"]
    assert [(event["actor"], event["reason"], event["evidence"]) for event in told] == [
        ("ann", "it is noisy", {"changed": ["limits"]})
    ]
    assert told[0]["before"] == told[0]["after"]


@running
async def test_services_that_come_and_go_are_told_with_who_brought_the_config(start):
    world = await start()
    both = (PLAN, replace(PLAN, name="api"))
    reload = world.controller.reloads.reload
    await reload(both, table(service(), service("api")), Order("ann", "one more"))
    await reload((PLAN,), TABLE, Order("SIGHUP"))
    await world.settle()
    told = [event for event in world.store.last_events(10) if event["service"] == "api"]
    assert [(event["type"], event["actor"], event["reason"]) for event in told] == [
        ("ServiceAdded", "ann", "one more"),
        ("ServiceRemoved", "SIGHUP", ""),
    ]
    assert told[0]["after"]["new"] == told[1]["before"]["new"] == 10
