"""Rollouts in a real controller: shared memory, SQLite and latch are real; time and one worker's hand are played."""

import asyncio
import json
import resource
import socket
import tempfile
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from proxy.controlplane import hooks
from proxy.controlplane.checks import Checks
from proxy.controlplane.hooks import Answer
from proxy.controlplane.operations import Order
from proxy.controlplane.scales import TTFB, Scale
from proxy.controlplane.store import Change, Owed
from proxy.errors import Refused
from proxy.ipc import layout
from proxy.rollout import told
from proxy.rollout.analysis import Reading
from proxy.rollout.plan import CHECK, HOLD, SIGNAL, Check, Hook, Hooks, Limit, Plan, ServicePlan, Stage
from proxy.rollout.state import COMPLETED, IDLE, PAUSED, PROGRESSING, ROLLED_BACK
from proxy.routing.split import seed_of
from proxy.routing.table import NEW, STABLE, Endpoint, Signal
from tests.controlplane.regions import B, C, service, table, version
from tests.controlplane.ruled import ANN, FakeClock
from tests.controlplane.test_controller import running, until
from tests.controlplane.waiting import until as stored

ERRORS = Limit("error_rate", max=0.01)
SLOW = Limit("p99", max=200)
PLAN = Plan(
    "default", (Stage("canary", 100, 10.0, 100), Stage("half", 5000, 10.0, 100), Stage("full", 10_000, 20.0, 100))
)
SERVICE = ServicePlan("web", limits=(ERRORS, SLOW), rollouts=(PLAN,))
PLANS = (SERVICE,)
TABLE = table()


def planned(**more):
    return (replace(SERVICE, rollouts=(replace(PLAN, **more),)),)


async def flow(world, seconds, *, new=10, stable=10, bad=0):
    """Let blocks pass with so many responses of each version per block."""
    for _ in range(round(seconds / 0.25)):
        world.good(stable, version=STABLE)
        if world.word():
            world.good(new)
            world.bad(bad)
        await world.tick()
        await world.settle()


def last(world, kind):
    return next(event.event() for event in reversed(world.controller._journal._tail) if event.type == kind)


def reasons(world, kind):
    return [event.event()["reason"] for event in world.controller._journal._tail if event.type == kind]


@asynccontextmanager
async def listening(count):
    """Give so many endpoints to which connections can be made, and one to which none can."""
    servers = [await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0) for _ in range(count)]
    ports = [server.sockets[0].getsockname()[1] for server in servers]
    found = [Endpoint(f"http://127.0.0.1:{port}", "127.0.0.1", port) for port in ports]
    with socket.socket() as bound:  # bound, and never listening
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        try:
            yield [*found, Endpoint(f"http://127.0.0.1:{port}", "127.0.0.1", port)]
        finally:
            for server in servers:
                server.close()
                await server.wait_closed()


@running
async def test_a_rollout_opens_stage_after_stage_and_completes(start):
    world = await start(PLANS)
    answer = await world.controller.rollouts.start("web", None, ANN)
    assert (answer["phase"], answer["weights"]["new"], answer["stage"]["name"]) == ("progressing", 1, "canary")
    seen = []
    for _ in range(50):
        await flow(world, 1)
        seen.append(world.word())
    assert list(dict.fromkeys(seen)) == [100, 5000, 10_000]
    assert seen.index(5000) == 9  # the tenth second
    assert world.state().phase == COMPLETED
    shown = world.controller.status.service_status("web")
    assert (shown["phase"], shown["stage"]["name"]) == ("completed", "full")
    assert reasons(world, "StageEntered") == ["HoldOver", "HoldOver"]
    # A silent controller takes nobody away from what is everybody's now.
    word = world.generations.current.control.words[world.generations.current.control_layout.services[0]]
    assert word & layout.FLAG_WATCHDOG_OFF
    assert world.controller.services.words()["web"].flags == layout.FLAG_WATCHDOG_OFF


@running
async def test_a_limit_says_that_it_only_alerts_once_a_rollout_is_completed(start):
    world = await start(PLANS)
    actions = []
    await world.controller.rollouts.start("web", None, ANN)
    for seconds in (5, 50):
        await flow(world, seconds)
        actions.append([limit["action"] for limit in world.controller.status.service_status("web")["limits"]])
    assert actions == [["rollback"] * 2, ["alert"] * 2]
    await flow(world, 5, bad=20)
    assert (world.state().phase, world.word()) == (COMPLETED, 10_000)
    assert last(world, "LimitFailed")["evidence"]["action"] == "alert"


@running
async def test_every_reason_by_which_the_config_can_roll_back_is_counted_from_the_start(start):
    world = await start(planned(max_hold_s=5.0, on_max_hold="rollback"))
    reasons = {"OperatorRollback", "NoHealthyEndpoint", "ErrorRateAboveLimit", "P99AboveLimit", "MaxHoldOver"}
    assert world.controller.status.standings()["web"].rollbacks == dict.fromkeys(reasons, 0)


@running
async def test_the_answer_of_a_start_and_a_promotion_shows_nothing_of_the_stage_before(start):
    stages = (PLAN.stages[0], replace(PLAN.stages[1], limits=(Limit("availability", min=0.99),)), PLAN.stages[2])
    world = await start(planned(stages=stages))

    def shown(answer):
        stage = answer["stage"]
        return stage["name"], stage["requests"], [(one["metric"], one["samples"]) for one in answer["limits"]]

    await world.controller.rollouts.start("web", None, ANN)
    await flow(world, 2)
    assert shown(world.controller.status.service_status("web")) == ("canary", 80, [("error_rate", 80), ("p99", 80)])
    answer = await world.controller.rollouts.promote("web", ANN)
    assert shown(answer) == ("half", 0, [("error_rate", 0), ("p99", 0), ("availability", 0)])
    await flow(world, 1)
    assert world.controller.status.service_status("web")["stage"]["requests"] == 40
    answer = await world.controller.weights.rollback("web", ANN)
    assert shown(answer)[:2] == ("half", 40)
    answer = await world.controller.rollouts.start("web", None, ANN)
    assert shown(answer) == ("canary", 0, [("error_rate", 0), ("p99", 0)])


@running
async def test_a_failing_version_is_rolled_back_by_evidence_and_the_rollback_is_verified(start):
    world = await start(PLANS)
    await world.controller.rollouts.start("web", "default", ANN)
    await flow(world, 12)
    assert world.word() == 5000
    blocks = 0
    while world.word():
        world.good(10, version=STABLE)
        world.bad(10)
        await world.tick()
        blocks += 1
    assert blocks <= 5
    await world.settle()
    event = last(world, "RolledBack")
    assert event["reason"] == "ErrorRateAboveLimit"
    assert event["before"]["stage"] == "half"
    assert event["evidence"]["evidence"] >= event["evidence"]["alarm_at"]
    assert event["evidence"]["interval"][1] <= 1
    assert world.latch.read("web").reason == "ErrorRateAboveLimit"
    await flow(world, 4)
    assert last(world, "RollbackVerified")["evidence"]["stable"]["over"] == []
    status = world.controller.status.service_status("web")
    assert (status["phase"], status["reason"], status["stage"]["name"]) == (
        "rolled_back",
        "ErrorRateAboveLimit",
        "half",
    )


@pytest.mark.parametrize("way", ["failing", "a person", "another version", "no version"])
def test_the_event_that_ends_a_rollout_keeps_what_it_was(way, tmp_path):
    async def test(start):
        world = await start(PLANS)
        controller = world.controller
        await controller.rollouts.start("web", None, ANN)
        await flow(world, 5, bad=0 if way != "failing" else 10)
        match way:
            case "a person":
                await controller.weights.rollback("web", ANN)
            case "another version":
                await controller.versions.put_new("web", "3", [C.url], ANN)
            case "no version":
                await controller.versions.delete_new("web", ANN)
        kinds = {"another version": "NewChanged", "no version": "NewRemoved"}
        kept = last(world, kinds.get(way, "RolledBack"))["evidence"]["rollout"]
        assert kept["labels"] == {"stable": "1", "new": "2"}
        assert (kept["stage"]["plan"], kept["stage"]["name"], len(kept["limits"])) == ("default", "canary", 2)
        assert (way == "failing") is ("FAIL" in {limit["verdict"] for limit in kept["limits"]})
        # It is over once: what comes after it keeps nothing.
        await controller.weights.rollback("web", ANN)
        ends = [one.event() for one in controller._journal._tail if "rollout" in one.event()["evidence"]]
        assert len(ends) == 1

    running(test)(tmp_path)


@running
async def test_a_rollback_that_does_not_help_is_said_to_be_ineffective(start):
    world = await start(PLANS)
    await world.controller.rollouts.start("web", None, ANN)
    await world.controller.weights.rollback("web", ANN)
    for _ in range(125):
        world.hand.end(STABLE, status=500, kind="status", times=10)
        await world.tick()
    await world.settle()
    event = last(world, "RollbackIneffective")
    assert event["evidence"]["stable"]["over"] == ["error_rate"]
    assert "RollbackVerified" not in [one.type for one in world.controller._journal._tail]


@running
async def test_a_rollback_is_verified_once_whatever_restarts_in_between(start):
    world = await start(PLANS)
    await world.controller.rollouts.start("web", None, ANN)
    await flow(world, 1)
    await world.controller.weights.rollback("web", ANN)
    await flow(world, 1)
    world.close()
    again = await start(PLANS)
    await flow(again, 1)
    assert "RollbackVerified" not in again.types()
    await flow(again, 3)
    assert again.types()[-1] == "RollbackVerified"
    again.close()
    third = await start(PLANS)
    await flow(third, 40)
    assert third.types().count("RollbackVerified") == 1
    assert "RollbackIneffective" not in third.types()


@running
async def test_a_rollback_that_does_not_help_is_told_after_a_restart_too(start):
    world = await start(PLANS)
    await world.controller.rollouts.start("web", None, ANN)
    await world.controller.weights.rollback("web", ANN)
    world.close()
    again = await start(PLANS, clock=FakeClock(5000.0))
    for _ in range(125):
        again.hand.end(STABLE, status=500, kind="status", times=10)
        await again.tick()
    await again.settle()
    assert last(again, "RollbackIneffective")["evidence"]["seconds"] >= 30


@running
async def test_no_traffic_for_any_time_neither_advances_nor_rolls_back(start):
    world = await start(PLANS)
    await world.controller.rollouts.start("web", None, ANN)
    for _ in range(500):
        await world.tick(3600.0)
    assert (world.state().phase, world.word()) == (PROGRESSING, 100)
    assert world.controller.status.service_status("web")["stage"]["needed"] == 100


@running
async def test_when_stable_fails_too_the_ramp_freezes_and_nobody_is_rolled_back(start):
    world = await start(PLANS)
    await world.controller.rollouts.start("web", None, ANN)
    await flow(world, 12)
    for _ in range(40):
        world.hand.end(STABLE, status=500, kind="status", times=10)
        world.bad(10)
        await world.tick()
    await world.settle()
    assert (world.state().phase, world.state().reason, world.word()) == (PAUSED, "SharedFault", 5000)
    # Stable is well again and new is not: now it is its own fault.
    await flow(world, 40, new=0, bad=10)
    assert world.state().phase == ROLLED_BACK


@running
async def test_pause_resume_and_promote(start):
    world = await start(PLANS)
    await world.controller.rollouts.start("web", None, ANN)
    await flow(world, 5)
    assert (await world.controller.rollouts.pause("web", ANN))["phase"] == "paused"
    await flow(world, 60)
    assert world.word() == 100
    await world.controller.rollouts.resume("web", ANN)
    await flow(world, 4)
    assert world.word() == 100
    await flow(world, 2)
    assert world.word() == 5000
    await world.controller.rollouts.promote("web", ANN, full=True)
    assert world.word() == 10_000
    with pytest.raises(Refused) as refused:
        await world.controller.rollouts.resume("web", ANN)
    assert refused.value.extra["allowed"] == ["pause", "promote", "weights", "rollback", "versions/new", "drill"]
    with pytest.raises(Refused) as refused:
        await world.controller.rollouts.start("web", "nope", ANN)
    assert (refused.value.status, refused.value.title) == (404, "NoSuchPlan")


@running
async def test_weights_by_hand_pause_a_rollout_when_they_take_over(start):
    world = await start(PLANS)
    await world.controller.rollouts.start("web", None, ANN)
    with pytest.raises(Refused) as refused:
        await world.controller.weights.set_weights("web", 3000, ANN)
    assert refused.value.title == "RolloutProgressing"
    said = {
        "plan": "default",
        "stage": "canary",
        "resume": {"phase": "progressing", "stage": "canary", "weight": 1},
        "promote": {"phase": "progressing", "stage": "half", "weight": 50},
    }
    would = await world.controller.weights.set_weights("web", 3000, Order("ann", take_over=True, dry_run=True))
    assert (would["paused"], world.state().phase) == (said, PROGRESSING)
    answer = await world.controller.weights.set_weights("web", 3000, Order("ann", take_over=True))
    assert (answer["paused"], world.word(), world.state().phase) == (said, 3000, PAUSED)
    for weight_bp in (10, 6000):  # also when it was paused before: resume takes both back
        answer = await world.controller.weights.set_weights("web", weight_bp, ANN)
        assert (answer["paused"], world.word()) == (said, weight_bp)
    await world.controller.rollouts.resume("web", ANN)
    assert (world.word(), world.state().phase) == (100, PROGRESSING)
    assert (await world.controller.weights.set_weights("web", 50, ANN))["paused"] == said  # lowering needs no take_over
    assert "paused" not in await world.controller.weights.set_weights("web", 0, ANN)
    assert world.state().phase == ROLLED_BACK


@running
async def test_a_weight_that_takes_a_completed_rollout_back_says_where_the_verbs_lead(start):
    world = await start(planned(stages=PLAN.stages[2:]))
    await world.controller.rollouts.start("web", None, ANN)
    await world.controller.rollouts.promote("web", ANN)
    assert world.state().phase == COMPLETED
    answer = await world.controller.weights.set_weights("web", 2000, ANN)
    assert answer["paused"]["resume"] == {"phase": "progressing", "stage": "full", "weight": 100}
    assert answer["paused"]["promote"] == {"phase": "completed", "stage": "full", "weight": 100}


@running
async def test_kill_9_keeps_stage_and_elapsed_time_and_begins_the_windows_anew(start):
    world = await start(PLANS)
    await world.controller.rollouts.start("web", None, ANN)
    await flow(world, 17)
    assert world.word() == 5000
    salt = world.state().salt
    world.close()
    again = await start(PLANS)
    state = again.state()
    assert (state.phase, state.weight_bp, state.salt, again.word()) == (PROGRESSING, 5000, salt, 5000)
    elapsed_s = state.rollout.elapsed_s(again.clock.ns / 1e9)
    # It is stored every second.
    assert 5.9 <= elapsed_s <= 7.1
    assert again.controller.status.service_status("web")["stage"]["requests"] == 0
    await flow(again, 10)
    assert again.word() == 10_000


@running
async def test_what_gives_more_is_stored_first_and_asked_for_again_when_that_fails(start):
    world = await start(PLANS)
    await world.controller.rollouts.start("web", None, ANN)
    await flow(world, 9)
    world.break_store()
    await flow(world, 5)
    assert (world.word(), world.state().rollout.stage) == (100, 0)
    world.mend_store()
    await flow(world, 3)
    assert world.word() == 5000
    assert world.store.load().rows["web"].weight_bp == 5000


@running
async def test_v1_to_v2_to_v3_and_v3_gets_nobody_before_its_own_first_stage(start):
    world = await start(PLANS)
    await world.controller.rollouts.start("web", None, ANN)
    first_salt = world.state().salt
    await flow(world, 60)
    assert world.state().phase == COMPLETED
    with pytest.raises(Refused):
        await world.controller.rollouts.start("web", None, ANN)
    words = []
    world.on_switch = lambda: words.append([world.word(generation=one) for one in range(len(world.generations.live))])
    done = await world.controller.rollouts.finish("web", ANN)
    kept = last(world, "RolloutFinished")["evidence"]["rollout"]
    assert kept["labels"] == {"stable": "1", "new": "2"}
    assert (kept["stage"]["plan"], kept["stage"]["index"], kept["stage"]["elapsed_s"]) == ("default", 2, 20.0)
    assert [limit["metric"] for limit in kept["limits"]] == ["error_rate", "p99"]
    # The old generation keeps its word: whoever is still there goes on to v2, which is stable in the new one.
    assert words == [[10_000, 0]]
    assert (done["phase"], done["weights"]["new"], done["stage"]) == ("idle", 0, None)
    assert done["versions"]["stable"]["label"] == "2"
    assert "new" not in done["versions"]
    assert done["limits"] == []  # those on a new version that has gone
    assert world.state().salt != first_salt
    with pytest.raises(Refused) as refused:
        await world.controller.rollouts.start("web", None, ANN)
    assert refused.value.title == "NoNewVersion"
    world.on_switch = lambda: None
    await world.controller.versions.put_new("web", "3", [C.url], ANN)
    await world.tick()
    assert len(world.controller.status.service_status("web")["limits"]) == 2
    assert [service.new.label for service in world.controller.services.table.services] == ["3"]
    assert world.word() == 0
    await flow(world, 30)
    assert world.word() == 0
    await world.controller.rollouts.start("web", None, ANN)
    assert all(world.word(generation=one) == 0 for one in range(len(world.generations.live) - 1))
    assert (world.word(), world.seed()) == (100, seed_of(world.state().salt))
    await flow(world, 60)
    assert world.state().phase == COMPLETED
    await world.controller.rollouts.finish("web", ANN)
    world.close()
    # The config still says 1 and 2: what was finished stands until it says something else.
    again = await start(PLANS)
    only = again.controller.services.table.services[0]
    assert (only.stable.label, only.new.endpoints, again.state().phase) == ("3", (), IDLE)
    again.close()
    edited = await start(PLANS, table(service(stable=version("3", C), new=version("4", B))))
    only = edited.controller.services.table.services[0]
    assert (only.stable.label, only.new.label, edited.word()) == ("3", "4", 0)


@running
async def test_a_finish_that_workers_refuse_leaves_everybody_where_they_are(start):
    world = await start(PLANS)
    await world.controller.rollouts.start("web", None, ANN)
    await flow(world, 60)

    def refuse():
        world.on_switch = lambda: None
        raise Refused(500, "TableRefused", "no")

    world.on_switch = refuse
    with pytest.raises(Refused):
        await world.controller.rollouts.finish("web", ANN)
    assert (world.state().phase, world.state().weight_bp, world.state().has_new) == (COMPLETED, 10_000, True)
    assert world.controller.services.table.services[0].stable.label == "1"


@running
async def test_a_record_of_stable_is_what_100_percent_is_compared_with(start):
    ratio = Limit("error_rate", max_ratio=2.0, floor=0.001)
    stages = tuple(replace(stage, limits=(ratio,)) for stage in PLAN.stages)
    world = await start(planned(stages=stages))
    await world.controller.rollouts.start("web", None, ANN)
    await flow(world, 12)
    for _ in range(60):
        world.hand.end(STABLE, status=500, kind="status", times=1)
        world.good(199, version=STABLE)
        world.good(50)
        await world.tick()
        await world.settle()
    assert world.word() == 10_000
    state = world.state()
    assert (state.rollout.record_of, set(state.rollout.record)) == ("half", {"error_rate"})
    for _ in range(4):
        world.good(50)
        await world.tick()
    found = next(one for one in world.controller.status.service_status("web")["limits"] if "max_ratio" in one)
    assert found["record"]["stage"] == "half"
    assert found["verdict"] == "PASS"
    for _ in range(20):
        world.bad(30)
        world.good(70)
        await world.tick()
    assert world.state().phase == ROLLED_BACK


@running
async def test_a_latency_that_pauses_a_rollout_is_told_as_it_was_measured(start):
    pauses = replace(SLOW, window_s=10.0, for_s=2.0, action="pause")
    world = await start((replace(planned()[0], limits=(ERRORS, pauses)),))
    await world.controller.rollouts.start("web", None, ANN)
    world.hand.end(NEW, 300_000, times=100)
    await flow(world, 4)
    assert world.state().phase == PAUSED
    event = last(world, "RolloutPaused")
    assert event["evidence"]["value"] == pytest.approx(300, rel=0.01)
    assert not event["evidence"]["at_least"]
    assert "p99 of new was 30" in told.sentence(event)


@running
async def test_a_requirement_that_is_not_met_holds_the_stage(start):
    wanted = Limit("p99", max=200, action=HOLD)
    world = await start(planned(stages=(replace(PLAN.stages[0], require=(wanted,)), *PLAN.stages[1:]), max_hold_s=10.0))
    await world.controller.rollouts.start("web", None, ANN)
    world.hand.end(NEW, 300_000, times=8)  # 2 % of the stage's, and no alarm by itself
    await flow(world, 12)
    assert world.word() == 100
    assert "required p99 ≤ 200 ms FAIL" in world.controller.status.service_status("web")["stage"]["open"]
    await flow(world, 12)
    assert (world.state().phase, world.state().reason) in {(PAUSED, "MaxHoldOver"), (PROGRESSING, "")}


class FakeChecks:
    def __init__(self):
        self.last = {}

    def readings(self, _service):
        return self.last

    def watch(self, plans):
        pass

    async def close(self):
        pass


@running
async def test_a_check_that_cannot_be_read_pauses_after_three_readings(start):
    memory = Limit("memory_bytes", max=1e9, source=CHECK)
    checked = replace(
        planned(stages=(replace(PLAN.stages[0], limits=(memory,)),))[0], checks=(Check("memory_bytes", file="/x"),)
    )
    world = await start((checked,))
    world.controller.services.checks = checks = FakeChecks()
    checks.last["memory_bytes"] = Reading(1, 5e8)
    await world.controller.rollouts.start("web", None, ANN)
    await flow(world, 3)
    for number in (2, 3):
        checks.last["memory_bytes"] = Reading(number, None, "refused")
        await flow(world, 3)
        assert world.state().phase == PROGRESSING
    checks.last["memory_bytes"] = Reading(4, None, "refused")
    await flow(world, 1)
    assert (world.state().phase, world.state().reason) == (PAUSED, "CheckUnreadable")
    checks.last["memory_bytes"] = Reading(5, 2e9)
    await flow(world, 1)
    assert (world.state().phase, world.state().reason) == (ROLLED_BACK, "MemoryBytesAboveLimit")


@running
async def test_a_preflight_finds_a_disk_that_is_full(start):
    world = await start(PLANS)
    await flow(world, 3)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        found = await world.controller.rollouts.start("web", None, Order("ann", dry_run=True))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    (state,) = [finding for finding in found["findings"] if finding["check"] == "state"]
    assert (found["go"], state["finding"]) == (False, "no-go")
    assert "the state store fails" in state["what"]


@running
async def test_a_hook_that_says_no_refuses_a_start_and_shows_what_it_said(start):
    hook = Hook(run=("sh", "-c", "echo not on fridays; exit 3"))
    world = await start(planned(hooks=Hooks(before_start=hook)))
    with pytest.raises(Refused) as refused:
        await world.controller.rollouts.start("web", None, ANN)
    assert (refused.value.status, refused.value.title) == (409, "HookFailed")
    event = last(world, "HookFailed")
    assert (event["actor"], event["evidence"]["refused"], event["before"]) == ("ann", "start", event["after"])
    assert told.predicate(event) == (
        "called the hook before_start in vain: it ended with exit code 3; not on fridays\n; the start was refused"
    )
    assert (refused.value.extra["exit"], refused.value.extra["output"]) == (3, "not on fridays\n")
    assert (world.word(), world.state().phase, world.state().revision) == (0, IDLE, 1)


@running
async def test_the_status_of_a_hook_is_told_beside_that_of_the_refusal(start):
    async def frozen(_hook, name, _about):
        return Answer(ok=False, said={"hook": name, "url": "http://gate", "status": 503, "body": "frozen"})

    world = await start(planned(hooks=Hooks(before_start=Hook(url="http://gate"))))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hooks, "call", frozen)
        with pytest.raises(Refused) as refused:
            await world.controller.rollouts.start("web", None, ANN)
    extra = refused.value.extra
    assert (refused.value.status, extra["answered"], extra["body"]) == (409, 503, "frozen")
    assert not extra.keys() & {"url", "status"}


def waiting(folder):
    """Return a hook that says go when its file is there, and that file."""
    file = Path(folder, "go")
    return Hook(run=("sh", "-c", f"while [ ! -e {file} ]; do sleep 0.02; done")), file


@running
async def test_a_rollback_while_the_hooks_of_a_start_are_asked_stands(start):
    """Also where nothing is to be shut: whoever rolls back does not want what is about to start."""
    with tempfile.TemporaryDirectory() as folder:
        hook, go = waiting(folder)
        world = await start(planned(hooks=Hooks(before_start=hook)))
        await world.controller.weights.rollback("web", ANN)
        begin = asyncio.create_task(world.controller.rollouts.start("web", None, ANN))
        await until(lambda: world.controller.services.entry("web").asking)
        with pytest.raises(Refused) as second:
            await world.controller.rollouts.start("web", None, ANN)
        assert second.value.title == "Busy"
        # Nobody else waits for the hook: what raises a weight or changes the table goes on.
        assert not world.controller.services.changing.locked()
        await world.controller.weights.rollback("web", ANN)
        go.touch()
        with pytest.raises(Refused) as refused:
            await begin
        assert refused.value.title == "Overtaken"
        assert (world.state().phase, world.word()) == (ROLLED_BACK, 0)
        assert (await world.controller.rollouts.start("web", None, ANN))["phase"] == PROGRESSING


@running
async def test_a_version_that_comes_while_hooks_are_asked_is_not_started(start):
    with tempfile.TemporaryDirectory() as folder:
        hook, go = waiting(folder)
        world = await start(planned(hooks=Hooks(before_start=hook)))
        begin = asyncio.create_task(world.controller.rollouts.start("web", None, ANN))
        await until(lambda: world.controller.services.entry("web").asking)
        await world.controller.versions.put_new("web", "another", ["http://127.0.0.1:1"], ANN)
        go.touch()
        with pytest.raises(Refused) as refused:
            await begin
        assert (refused.value.title, world.state().phase) == ("Overtaken", IDLE)


@running
async def test_a_hook_between_stages_is_asked_and_a_hanging_one_pauses(start):
    hook = Hook(run=("sh", "-c", "sleep 600"), timeout_s=0.2)
    ran = Hook(run=("sh", "-c", "cat"))
    world = await start(planned(hooks=Hooks(before_stage=ran, after_rollback=ran)))
    await world.controller.rollouts.start("web", None, ANN)
    await flow(world, 11)
    while world.word() == 100:
        await world.tick()
        await world.settle()
    assert world.word() == 5000
    told = json.loads(last(world, "StageEntered")["evidence"]["hook"]["output"])
    assert (told["service"], told["stage"], told["hook"]) == ("web", "half", "before_stage")
    state = world.controller.services.entry("web").state
    slow = replace(state.rollout, plan=replace(state.rollout.plan, hooks=Hooks(before_stage=hook, after_rollback=ran)))
    world.controller.services.entry("web").state = replace(state, rollout=slow)
    await flow(world, 11)
    await until(lambda: world.state().phase == PAUSED)
    assert (world.word(), world.state().reason) == (5000, "HookFailed")
    assert "did not end" in last(world, "RolloutPaused")["evidence"]["why"]
    await world.controller.weights.rollback("web", ANN)
    await world.settle()
    assert last(world, "HookCalled")["reason"] == "after_rollback"


@contextmanager
def asked_by_hand(monkeypatch):
    """Hooks are asked, and the test says what they answer: gives the futures, oldest first."""
    asked = []

    async def ask(_hook, name, _about):
        asked.append(asyncio.get_running_loop().create_future())
        return Answer(await asked[-1], {"hook": name, "number": len(asked)})

    with monkeypatch.context() as patched:
        patched.setattr(hooks, "call", ask)
        try:
            yield asked
        finally:
            for one in asked:
                one.cancel()


async def until_asked(world, asked, times):
    """Let good blocks pass until the next question is decided, and wait until it is stored and asked."""
    while not world.state().rollout.asking:
        world.good(10, version=STABLE)
        world.good(10)
        await world.tick()
    await stored(lambda: len(asked) == times)


def test_what_a_hook_said_moves_no_stage_whose_limits_are_no_longer_good(monkeypatch, tmp_path):
    @running
    async def test(start):
        world = await start(planned(hooks=Hooks(before_stage=Hook(run=("true",)))))
        with asked_by_hand(monkeypatch) as asked:
            begun = asyncio.create_task(world.controller.rollouts.start("web", None, ANN))
            await until(lambda: asked)
            asked[0].set_result(True)
            await begun
            await until_asked(world, asked, 2)
            for _ in range(20):
                if not world.controller.status.service_status("web")["stage"]["open"]:
                    world.good(10, version=STABLE)
                    world.good(8)
                    world.bad(2)
                    await world.tick()
            assert world.state().phase == PROGRESSING
            assert world.controller.status.service_status("web")["stage"]["open"] == ["error_rate ≤ 1 % INCONCLUSIVE"]
            asked[1].set_result(True)
            await world.settle()
            await world.tick()
            await world.settle()
            assert (world.state().phase, world.word(), len(asked)) == (PROGRESSING, 100, 2)

    test(tmp_path)


def test_an_answer_to_a_question_before_a_pause_is_none(monkeypatch, tmp_path):
    @running
    async def test(start):
        world = await start(planned(hooks=Hooks(before_stage=Hook(run=("true",)))))

        with asked_by_hand(monkeypatch) as asked:
            begun = asyncio.create_task(world.controller.rollouts.start("web", None, ANN))
            await until(lambda: asked)
            asked[0].set_result(True)
            await begun
            await until_asked(world, asked, 2)
            await world.controller.rollouts.pause("web", ANN)
            await world.controller.rollouts.resume("web", ANN)
            await until_asked(world, asked, 3)
            asked[1].set_result(False)
            await until(lambda: len(world.controller.commits.tasks) == 1)
            assert (world.state().phase, world.word()) == (PROGRESSING, 100)
            asked[2].set_result(True)
            await flow(world, 1)
            assert (world.word(), last(world, "StageEntered")["evidence"]["hook"]["number"]) == (5000, 3)

    test(tmp_path)


def test_an_answer_for_a_service_that_has_gone_meanwhile_is_none(monkeypatch, tmp_path, caplog):
    @running
    async def test(start):
        world = await start(planned(hooks=Hooks(before_stage=Hook(run=("true",)))))
        with asked_by_hand(monkeypatch) as asked:
            begun = asyncio.create_task(world.controller.rollouts.start("web", None, ANN))
            await until(lambda: asked)
            asked[0].set_result(True)
            await begun
            while len(asked) < 2:
                world.good(10, version=STABLE)
                world.good(10)
                await world.tick()
                await asyncio.sleep(0)
            with world.slow_store():
                pause = asyncio.create_task(world.controller.rollouts.pause("web", ANN))
                await until(lambda: world.controller.services.entry("web").pending is not None)
                asked[1].set_result(True)
                there, world.controller.services.entries = world.controller.services.entries, {}
                for _ in range(10):
                    await asyncio.sleep(0)
            await asyncio.gather(pause, return_exceptions=True)
            await world.settle()
            world.controller.services.entries = there
        assert (world.state().phase, world.word()) == (PAUSED, 100)
        assert "could not be finished" not in caplog.text

    test(tmp_path)


def called(log):
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


@running
async def test_a_hook_that_is_owed_when_the_supervisor_dies_is_called_after_the_restart(start):
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "log")
        plans = planned(hooks=Hooks(after_rollback=Hook(run=("sh", "-c", 'echo "$(cat)" >> "$0"', str(log)))))
        world = await start(plans)
        await world.controller.rollouts.start("web", None, ANN)
        world.controller.commits.on_owed = lambda _owed: None  # killed right after the commit
        await world.controller.weights.rollback("web", Order("ann", "it smells"))
        assert [key[1:] for key in world.store.load().owed] == [("after_rollback", 3)]
        world.close()
        again = await start(plans)
        await again.settle()
        (told,) = called(log)
        found = [told[key] for key in ("hook", "reason", "stage", "revision", "phase", "new", "labels")]
        labels = {"stable": "1", "new": "2"}
        assert found == ["after_rollback", "OperatorRollback", "canary", 3, "rolled_back", 0, labels]
        assert last(again, "HookCalled")["reason"] == "after_rollback"
        assert again.store.load().owed == {}
        again.close()
        third = await start(plans)
        await third.settle()
        assert len(called(log)) == 1


@running
async def test_the_end_of_the_supervisor_waits_for_no_hook(start):
    hangs = Hook(run=("sleep", "600"), timeout_s=600)
    world = await start(planned(hooks=Hooks(before_start=hangs, after_rollback=hangs)))
    plan = replace(PLAN, hooks=Hooks(after_rollback=hangs))
    rollouts = world.controller.rollouts
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rollouts, "_plan", lambda _entry, _plan: plan)
        await rollouts.start("web", None, ANN)
    await world.controller.weights.rollback("web", ANN)
    asked = asyncio.create_task(rollouts.start("web", None, ANN))
    await until(lambda: len(rollouts._calls) == 2)
    async with asyncio.timeout(30):
        await world.controller.close()
        with pytest.raises(Refused, match="was not waited for") as refused:
            await asked
    assert (refused.value.status, refused.value.title) == (503, "Ending")
    assert not rollouts._calls
    assert world.state().phase == ROLLED_BACK
    assert [owed.name for owed in world.store.load().owed.values()] == ["after_rollback"]


@running
async def test_a_hook_is_owed_when_the_gate_was_shut_and_the_commit_never_came(start):
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "log")
        plans = planned(hooks=Hooks(after_rollback=Hook(run=("sh", "-c", 'echo "$(cat)" >> "$0"', str(log)))))
        world = await start(plans)
        await world.controller.rollouts.start("web", None, ANN)
        await flow(world, 1)
        world.latch.shut("web", "P99AboveLimit", 0.0)
        world.close()
        again = await start(plans)
        await again.settle()
        (told,) = called(log)
        assert (told["reason"], told["phase"]) == ("P99AboveLimit", "rolled_back")


@running
async def test_a_hook_is_called_when_its_rollback_could_not_be_stored(start):
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "log")
        plans = planned(hooks=Hooks(after_rollback=Hook(run=("sh", "-c", 'echo "$(cat)" >> "$0"', str(log)))))
        world = await start(plans)
        await world.controller.rollouts.start("web", None, ANN)
        world.break_store()
        assert (await world.controller.weights.rollback("web", ANN))["durable"] is False
        await world.settle()
        assert len(called(log)) == 1
        world.mend_store()
        await flow(world, 3)
        assert world.store.load().owed == {}
        assert world.types()[-3:] == ["RolledBack", "HookCalled", "RollbackVerified"]


@running
async def test_a_hook_that_is_owed_by_a_service_that_is_gone_is_forgotten(start):
    with tempfile.TemporaryDirectory() as folder:
        hook = Hook(run=("sh", "-c", 'echo "$(cat)" >> "$0"', str(Path(folder, "log"))))
        world = await start(planned(hooks=Hooks(after_rollback=hook)))
        owed = Owed("before", "after_rollback", 7, hook, {"revision": 7})
        world.store.save(Change(owed={owed.key: owed})).result()
        world.close()
        again = await start(PLANS)
        await again.settle()
        assert not called(Path(folder, "log"))
        assert again.store.load().owed == {}


@running
async def test_a_hook_before_a_stage_is_asked_again_after_a_restart(start):
    plans = planned(hooks=Hooks(before_stage=Hook(run=("true",))))
    world = await start(plans)
    await world.controller.rollouts.start("web", None, ANN)
    world.controller.commits.on_hook = lambda _service, _hook: None  # killed before it answers
    await flow(world, 13)
    assert (world.word(), world.state().rollout.asking) == (100, True)
    world.close()
    again = await start(plans)
    assert (again.state().phase, again.word(), again.state().rollout.asking) == (PROGRESSING, 100, False)
    await flow(again, 4)
    assert again.word() == 5000


@running
async def test_a_stage_says_of_which_part_of_its_hold_the_requests_are_that_it_was_judged_by(start):
    world = await start(PLANS)
    await world.controller.rollouts.start("web", None, ANN)
    await flow(world, 6)
    world.close()
    again = await start(PLANS)
    await flow(again, 5)
    evidence = last(again, "StageEntered")["evidence"]
    assert evidence["elapsed_s"] == pytest.approx(10, abs=0.3)
    assert evidence["judged_s"] == pytest.approx(4, abs=0.6)
    assert evidence["requests"] == pytest.approx(160, abs=20)  # 40 a second
    await again.controller.rollouts.pause("web", ANN)
    await flow(again, 5)
    await again.controller.rollouts.resume("web", ANN)
    await flow(again, 11)
    evidence = last(again, "StageEntered")["evidence"]
    assert evidence["elapsed_s"] == pytest.approx(10, abs=0.3)
    assert evidence["judged_s"] == pytest.approx(15, abs=0.6)


@running
async def test_a_dry_run_is_the_pre_flight(start):
    world = await start(planned(hooks=Hooks(before_start=Hook(run=("no-such-command",)))))
    await flow(world, 10)
    found = await world.controller.rollouts.start("web", None, Order("ann", dry_run=True))
    by_check = {finding["check"]: finding["finding"] for finding in found["findings"]}
    assert found["go"] is False
    assert by_check["hook before_start"] == "no-go"
    assert by_check["phase"] == by_check["stable measured"] == by_check["state"] == "ok"
    assert by_check["stage canary"] == "warning"
    assert world.word() == 0


@running
async def test_the_pre_flight_connects_to_endpoints_that_nobody_has_asked_yet(start):
    async def found(stable, new):
        world = await start(PLANS, table(service(stable=version("1", *stable), new=version("2", *new))))
        answer = await world.controller.rollouts.start("web", None, Order("ann", dry_run=True))
        by_check = {one["check"]: one for one in answer["findings"]}
        ends = by_check["stable endpoints"], by_check["new endpoints"]
        return answer["go"], *[(one["finding"], one["what"]) for one in ends]

    async with listening(2) as (first, second, dead):
        ready = ("ok", "1 of 1 ready, a connection to each came about")
        assert await found([first], [second]) == (True, ready, ready)
        refused = f"{dead.url}: connection refused"
        one_left = ("warning", f"2 of 2 ready, but cannot be reached: {refused}")
        assert await found([first], [second, dead]) == (True, ready, one_left)
        none_left = ("no-go", f"1 of 1 ready, but none can be reached: {refused}")
        assert await found([first], [dead]) == (False, ready, none_left)
        assert await found([dead], [second]) == (False, none_left, ready)


@running
async def test_a_start_says_what_its_pre_flight_would_have_called_no_go(start):
    world = await start(PLANS)
    await world.controller.endpoint_changes.set_endpoint("web", NEW, B.url, "drain", ANN)
    what = "none of 1 endpoints of new is ready"
    answer = await world.controller.rollouts.start("web", None, ANN)
    assert answer["phase"] == "progressing"  # scripts rely on that
    assert answer["warnings"] == [
        {"check": "new endpoints", "finding": "no-go", "what": what, "cure": f"tidegate undrain {B.url}"}
    ]
    event = last(world, "RolloutStarted")
    assert event["evidence"]["no_go"] == [what]
    assert f"although {what}" in told.sentence(event)
    await world.controller.weights.rollback("web", ANN)
    await world.controller.endpoint_changes.set_endpoint("web", NEW, B.url, "ready", ANN)
    assert "warnings" not in await world.controller.rollouts.start("web", None, ANN)
    assert "no_go" not in last(world, "RolloutStarted")["evidence"]


@running
async def test_the_pre_flight_says_what_the_measured_rate_cannot_give(start):
    rare = replace(PLAN.stages[1], limits=(Limit("p99", max=200, window_s=0.25, min_requests=50),))
    world = await start(planned(stages=(PLAN.stages[0], rare, PLAN.stages[2])))
    await flow(world, 10)  # 40 requests/s
    found = await world.controller.rollouts.start("web", None, Order("ann", dry_run=True))
    said = [(one["check"], one["finding"], one["what"]) for one in found["findings"] if "stage" in one["check"]]
    assert "no-go" not in [finding for _, finding, _ in said]  # it may well be meant
    assert ("stage full", "ok", "about 800 requests to new, 100 needed") in said
    assert [(check, what.split(":")[0].split(" that")[0]) for check, finding, what in said if finding == "warning"] == [
        ("stage canary", "the hold gives 4 of the 100 requests"),
        ("stage half", "p99 is never judged"),
    ]


@running
async def test_what_is_not_possible_in_a_phase_is_refused_with_phase_and_what_is(start):
    world = await start(PLANS)
    orders = world.controller.rollouts
    for verb in (orders.pause, orders.resume, orders.promote, orders.finish):
        with pytest.raises(Refused) as refused:
            await verb("web", ANN)
        assert (refused.value.status, refused.value.title) == (409, "WrongPhase")
        assert refused.value.extra == {"phase": IDLE, "allowed": ["start", "weights", "rollback", "versions/new"]}
    await orders.start("web", None, ANN)
    for verb in (orders.resume, orders.finish, lambda name, order: orders.start(name, None, order)):
        with pytest.raises(Refused) as refused:
            await verb("web", ANN)
        assert refused.value.extra["phase"] == PROGRESSING
        assert {"pause", "promote", "weights", "rollback"} < set(refused.value.extra["allowed"])
        assert not {"start", "resume", "finish"} & set(refused.value.extra["allowed"])
    assert (world.word(), world.state().phase) == (100, PROGRESSING)


@running
async def test_a_plan_in_a_request_is_counted_by_the_workers_before_it_begins(start):
    world = await start(PLANS)
    inline = {"stages": [{"name": "one", "weight": "5%", "hold": "10s", "limits": {"p95": "120ms"}}]}
    await world.controller.rollouts.start("web", inline, ANN)
    assert world.controller.services.table.services[0].thresholds_us == (120_000, 200_000)
    assert (world.word(), world.state().rollout.plan.name) == (500, "(inline)")
    await flow(world, 1)
    verdicts = {one["metric"]: one["verdict"] for one in world.controller.status.service_status("web")["limits"]}
    assert verdicts == {"error_rate": "PASS", "p99": "PASS", "p95": "PASS"}
    # A reload knows nothing of it and leaves it alone.
    await world.controller.reloads.reload(PLANS, TABLE, ANN)
    assert world.controller.services.table.services[0].thresholds_us == (120_000, 200_000)
    with pytest.raises(Refused) as refused:
        await world.controller.rollouts.start("web", {"stages": [], "hooks": {}}, ANN)
    assert refused.value.status == 400
    assert refused.value.problems


def latencies(*ms, metric="p95", weight="5%"):
    limits = [{"metric": metric, "max": f"{each}ms"} for each in ms]
    return {"stages": [{"name": "one", "weight": weight, "hold": "10s", "limits": limits}]}


@running
async def test_what_a_plan_in_a_request_needs_makes_room_for_that_of_the_next(start):
    world = await start(PLANS)
    await flow(world, 1)
    before = world.controller.status.service_status("web")["versions"]["stable"]["requests"]
    await world.controller.rollouts.start("web", latencies(*range(10, 25)), ANN)
    assert len(world.controller.services.table.services[0].thresholds_us) == 16
    await world.controller.weights.rollback("web", ANN)
    await world.controller.rollouts.start("web", latencies(*range(30, 45)), ANN)
    counted = world.controller.services.table.services[0].thresholds_us
    assert counted == (*(ms * 1000 for ms in range(30, 45)), 200_000)
    await flow(world, 2)
    assert {one["verdict"] for one in world.controller.status.service_status("web")["limits"]} == {"PASS"}
    # Counts go on through every generation.
    assert world.controller.status.service_status("web")["versions"]["stable"]["requests"] == before + 80


@running
async def test_a_plan_that_needs_more_than_there_is_room_for_does_not_start(start):
    world = await start(PLANS)
    generations = len(world.hands)
    with pytest.raises(Refused) as refused:
        await world.controller.rollouts.start("web", latencies(*range(10, 26)), ANN)
    assert refused.value.status == 400
    (problem,) = refused.value.problems
    assert problem.key == "stages[0].limits[15].max"
    assert "17th different latency limit of this service: at most 16, so use a bound again" in problem.message
    assert (world.word(), world.state().phase, len(world.hands)) == (0, IDLE, generations)


@running
async def test_a_named_plan_that_a_reload_changed_is_counted_before_it_begins(start):
    world = await start(PLANS)
    await flow(world, 1)
    slower = (replace(PLAN.stages[0], limits=(Limit("ttfb_p99", max=80),)), *PLAN.stages[1:])
    changed = table(service(thresholds=(200_000,), first=(80_000,)))
    await world.controller.reloads.reload(planned(stages=slower), changed, ANN)
    assert not world.controller.services.history.due(Scale(TTFB, "web", NEW))
    await world.controller.rollouts.start("web", None, ANN)
    await flow(world, 2)
    assert world.controller.services.history.due(
        Scale(TTFB, "web", NEW)
    )  # a limit is on them: they are kept by the second
    assert {one["verdict"] for one in world.controller.status.service_status("web")["limits"]} == {"PASS"}
    # Changed again while it runs, and kept: what it needs is counted on.
    await world.controller.reloads.reload(PLANS, TABLE, Order("ann", running_plan="keep"))
    assert world.controller.services.table.services[0].ttfb_thresholds_us == (80_000,)
    await flow(world, 2)
    assert {one["verdict"] for one in world.controller.status.service_status("web")["limits"]} == {"PASS"}


@running
async def test_a_config_that_leaves_no_room_for_a_running_rollout_is_refused(start):
    world = await start(PLANS)
    await world.controller.rollouts.start("web", latencies(*range(10, 25)), ANN)
    await flow(world, 1)
    generations = len(world.hands)
    more = (replace(SERVICE, limits=(*SERVICE.limits, Limit("p50", max=50), Limit("p90", max=60))),)
    with pytest.raises(Refused) as refused:
        await world.controller.reloads.reload(more, table(service(thresholds=(50_000, 60_000, 200_000))), ANN)
    assert (refused.value.status, refused.value.title) == (409, "NotCounted")
    assert "reload when the rollout is over" in refused.value.cure
    assert (world.word(), world.state().phase, len(world.hands)) == (500, PROGRESSING, generations)


@running
async def test_a_kept_plan_keeps_its_signals(start):
    hits = Signal("hits", "x-cache", "^HIT")
    stages = (replace(PLAN.stages[0], limits=(Limit("hits", min=0.5, source=SIGNAL),)), *PLAN.stages[1:])
    with_hits = tuple(replace(plan, signals=(hits,)) for plan in planned(stages=stages, signals=(hits,)))
    world = await start(with_hits, table(replace(service(), signals=(hits,))))
    await world.controller.rollouts.start("web", None, ANN)
    await world.controller.reloads.reload(PLANS, TABLE, Order("ann", running_plan="keep"))
    assert world.controller.services.table.services[0].signals == (hits,)
    await flow(world, 1)
    assert "ERROR" not in {one["verdict"] for one in world.controller.status.service_status("web")["limits"]}
    other = table(replace(service(), signals=(replace(hits, matches="^MISS"),)))
    with pytest.raises(Refused) as refused:
        await world.controller.reloads.reload(PLANS, other, Order("ann", running_plan="keep"))
    assert refused.value.title == "NotCounted"


@contextmanager
def files():
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def memory_in(file, **more):
    return Check("memory_bytes", file=str(file), every_s=0.01, **more)


def checked(check, *, limits=(ERRORS,), rollout=()):
    """A service with a check of its own (or of its plan), which a stage is judged by."""
    stages = (replace(PLAN.stages[0], hold_s=600.0, limits=(Limit("memory_bytes", max=1e9, source=CHECK),)),)
    plan = replace(PLAN, stages=stages, checks=rollout)
    return (replace(SERVICE, limits=limits, rollouts=(plan,), checks=(check, *rollout) if check else rollout),)


@asynccontextmanager
async def checking(start, plans, **more):
    """A world with a rollout under way that reads checks."""
    world = await start(plans, **more)
    world.controller.services.checks = checks = Checks(world.clock)
    try:
        await world.controller.rollouts.start("web", None, ANN)
        await flow(world, 1)
        yield world, checks
    finally:
        await checks.close()


async def read(checks, value):
    await until(lambda: checks.reading("web", "memory_bytes").value == value)


@running
async def test_a_kept_plan_is_judged_by_the_checks_of_the_service_until_it_is_over(start):
    with files() as tmp_path:
        check = memory_in(tmp_path / "used")
        await keep_judging(start, tmp_path, checked(check))


@running
async def test_a_kept_plan_is_judged_by_its_own_checks_until_it_is_over(start):
    with files() as tmp_path:
        check = memory_in(tmp_path / "used")
        await keep_judging(start, tmp_path, checked(None, rollout=(check,)))


async def keep_judging(start, tmp_path, plans):
    used, other = tmp_path / "used", tmp_path / "other"
    used.write_text("5e8")
    other.write_text("1")
    async with checking(start, plans) as (world, checks):
        await read(checks, 5e8)
        for others in (PLANS, checked(memory_in(other))):  # removed, and then there again as another one
            await world.controller.reloads.reload(others, TABLE, Order("ann", running_plan="keep"))
            await flow(world, 2)
            assert checks.reading("web", "memory_bytes").value == 5e8
            (limit,) = (
                one for one in world.controller.status.service_status("web")["limits"] if one["scope"] == "stage"
            )
            assert (limit["metric"], limit["verdict"]) == ("memory_bytes", "PASS")
        used.write_text("2e9")
        await read(checks, 2e9)
        await flow(world, 1)
        assert (world.state().phase, world.state().reason) == (ROLLED_BACK, "MemoryBytesAboveLimit")
        await flow(world, 1)
        await read(checks, 1.0)  # what the config says now


@running
async def test_a_changed_check_of_the_service_is_a_changed_plan(start):
    with files() as tmp_path:
        (tmp_path / "used").write_text("5e8")
        async with checking(start, checked(memory_in(tmp_path / "used"))) as (world, checks):
            with pytest.raises(Refused) as refused:
                await world.controller.reloads.reload(checked(memory_in(tmp_path / "other")), TABLE, ANN)
            assert refused.value.title == "PlanChanged"
            assert refused.value.extra["allowed"] == ["keep", "restart"]
            await read(checks, 5e8)


@running
async def test_a_reload_cannot_give_a_name_two_checks_while_a_rollout_runs(start):
    with files() as tmp_path:
        (tmp_path / "used").write_text("5e8")
        limits = (ERRORS, Limit("memory_bytes", max=3e9, source=CHECK))
        async with checking(start, checked(memory_in(tmp_path / "used"), limits=limits)) as (world, checks):
            changed = checked(memory_in(tmp_path / "other"), limits=limits)
            with pytest.raises(Refused) as refused:
                await world.controller.reloads.reload(changed, TABLE, Order("ann", running_plan="keep"))
            assert (refused.value.status, refused.value.title) == (409, "OtherCheck")
            assert "the check memory_bytes" in refused.value.what
            assert "running_plan=restart" in refused.value.cure
            await read(checks, 5e8)
            (tmp_path / "other").write_text("6e8")
            await world.controller.reloads.reload(changed, TABLE, Order("ann", running_plan="restart"))
            await read(checks, 6e8)


@running
async def test_a_kept_plan_has_its_checks_after_a_restart(start):
    with files() as tmp_path:
        (tmp_path / "used").write_text("5e8")
        async with checking(start, checked(memory_in(tmp_path / "used"))) as (world, _):
            await world.settle()
            world.close()
        again = await start(PLANS)
        assert reasons(again, "PlanKept") == ["PlanChanged"]
        again.controller.services.checks = checks = Checks(again.clock)
        try:
            await again.tick()
            await read(checks, 5e8)
        finally:
            await checks.close()


@running
async def test_a_reload_with_another_plan_is_refused_unless_somebody_says_what_to_do(start):
    world = await start(PLANS)
    await world.controller.rollouts.start("web", None, ANN)
    await flow(world, 12)
    other = planned(stages=(Stage("careful", 50, 60.0), *PLAN.stages[1:]))
    with pytest.raises(Refused) as refused:
        await world.controller.reloads.reload(other, TABLE, ANN)
    assert (refused.value.status, refused.value.title) == (409, "PlanChanged")
    await world.controller.reloads.reload(other, TABLE, Order("ann", running_plan="keep"))
    assert (world.word(), world.state().rollout.plan) == (5000, PLAN)
    await world.controller.reloads.reload(other, TABLE, Order("ann", running_plan="restart"))
    assert (world.word(), world.state().rollout.now_at.name) == (50, "careful")


@running
async def test_a_changed_plan_at_a_restart_is_kept_and_said(start):
    world = await start(PLANS)
    await world.controller.rollouts.start("web", None, ANN)
    await world.settle()
    world.close()
    again = await start(planned(stages=PLAN.stages[:1]))
    assert again.state().rollout.plan == PLAN
    assert reasons(again, "PlanKept") == ["PlanChanged"]


async def passing(world):
    """Let a block pass, and a little real time, by which a drill waits for workers."""
    await world.tick()
    await world.answered()
    await asyncio.sleep(0.005)


async def drilling(world, **more):
    """Begin a drill, and return it as soon as failures are made up."""
    drill = asyncio.create_task(world.controller.drills.drill("web", Order("ann", **more)))
    await stored(lambda: drill.done() or world.controller.services.entry("web").drill is not None)
    return drill


@running
async def test_a_drill_shuts_the_gate_by_the_very_limits_and_restores_everything(start):
    world = await start(PLANS)
    await world.controller.rollouts.start("web", None, ANN)
    await flow(world, 12)
    before = world.state()
    seen = []

    def reached(_service, _ns):
        seen.append((world.word(), world.latch.read("web") is not None))
        return len(seen) > 1

    world.controller.drills.reached = reached
    drill = await drilling(world)
    while not drill.done():
        world.good(10)
        await passing(world)
    found = await drill
    assert (found["drill"], found["limit"], found["restored"]) == ("passed", "ErrorRateAboveLimit", True)
    assert seen == [(0, True)] * 2
    assert found["latched"]
    assert "rollout" not in last(world, "DrillShut")["evidence"]  # it has ended nothing
    state = world.state()
    assert (state.phase, state.weight_bp, state.salt, world.word()) == (PROGRESSING, 5000, before.salt, 5000)
    assert world.latch.read("web") is None
    assert world.controller.services.entry("web").rollbacks["ErrorRateAboveLimit"] == 0
    # Nothing of it is left in what is judged or shown.
    await flow(world, 5)
    status = world.controller.status.service_status("web")
    assert status["versions"]["new"]["bad"] == 0
    assert all(one["verdict"] == "PASS" for one in status["limits"])


@running
async def test_what_a_person_orders_before_the_drill_has_decided_stands_after_it(start):
    world = await start(PLANS)
    await world.controller.rollouts.start("web", None, ANN)
    await flow(world, 12)
    drill = await drilling(world)
    await world.controller.weights.set_weights("web", 700, ANN)
    while not drill.done():
        world.good(10)
        await passing(world)
    assert (await drill)["restored"]
    assert (world.state().phase, world.state().reason, world.word()) == (PAUSED, "TakenOver", 700)


@running
async def test_a_drill_holds_nobody_up_and_what_is_ordered_after_its_decision_stands(start):
    world = await start(PLANS)
    await world.controller.rollouts.start("web", None, ANN)
    await flow(world, 12)
    world.controller.drills.reached = lambda service, ns: world.state().phase == IDLE
    drill = await drilling(world)
    while world.word():
        world.good(10)
        await passing(world)
    await world.controller.weights.set_weights("web", 900, ANN)
    while not drill.done():
        await passing(world)
    found = await drill
    assert (found["drill"], found["restored"], found["why"]) == ("failed", False, "not restored")
    assert (world.state().phase, world.word()) == (IDLE, 900)


@running
async def test_0_percent_that_is_ordered_while_a_drill_has_shut_the_gate_stays(start):
    world = await start(PLANS)
    await world.controller.rollouts.start("web", None, ANN)
    await flow(world, 12)
    held = [True]
    world.controller.drills.reached = lambda _service, _ns: not held[0]
    drill = await drilling(world)
    while world.word():
        world.good(10)
        await world.tick()
        await asyncio.sleep(0)
    answer = await world.controller.weights.set_weights("web", 0, Order("ann", "get it out"))
    assert answer["new"] == 0
    held[0] = False
    while not drill.done():
        await world.tick()
        await asyncio.sleep(0)
    assert (await drill)["restored"] is False
    assert (world.state().phase, world.state().reason, world.word()) == (ROLLED_BACK, "OperatorRollback", 0)
    assert last(world, "RolledBack")["reason"] == "get it out"


async def drilled(world, **more):
    """Return what a drill says, while time passes and all is well."""
    drill = await drilling(world, **more)
    while not drill.done():
        world.good(10)
        await passing(world)
    return await drill


async def refused(world):
    """Return with what a drill is refused: not a block may pass for it."""
    with pytest.raises(Refused) as found:
        await world.controller.drills.drill("web", ANN)
    return found.value


@running
async def test_a_drill_needs_a_gate_to_shut(start):
    world = await start(PLANS)
    found = await refused(world)
    assert found.title == "NothingToShut"
    cure = "give new weight first: tidegate rollout start, or tidegate weights set"
    assert str(found) == f"new is at 0 %: there is no gate to shut ({cure})"
    assert found.extra == {"phase": IDLE, "allowed": ["start", "weights", "rollback", "versions/new"]}
    await world.controller.weights.set_weights("web", 1000, ANN)
    await world.controller.weights.rollback("web", ANN)
    assert "was rolled back (OperatorRollback) and its gate is shut" in str(await refused(world))
    await world.controller.versions.delete_new("web", ANN)
    assert (await refused(world)).title == "NoNewVersion"


@running
async def test_a_drill_of_limits_that_roll_nobody_back_is_refused_at_once(start):
    only_alerts = (replace(ERRORS, action="alert"), replace(SLOW, action="pause"), replace(SLOW, dry_run=True))
    world = await start((replace(SERVICE, limits=only_alerts),))
    await world.controller.rollouts.start("web", None, ANN)
    await flow(world, 1)
    found = await refused(world)
    assert (found.status, found.title, found.extra["phase"]) == (409, "NoLimit", PROGRESSING)
    assert str(found) == (
        "no limit in stage 'canary' of plan 'default' would roll back for requests that fail: error_rate has action "
        "alert; p99 has action pause; p99 is a dry run (add one with action rollback to the limits of service web, or "
        "to the stage, such as {error_rate: 5%})"
    )
    world.controller.services.entry("web").plan = replace(SERVICE, limits=())
    await flow(world, 1)
    assert "there is none" in str(await refused(world))


@running
async def test_a_drill_lasts_as_long_as_its_limit_needs_and_says_so_before(start):
    late = Limit("error_rate", max=0.02, window_s=60.0, for_s=60.0)
    world = await start((replace(SERVICE, limits=(late,), rollouts=()),))
    await world.controller.weights.set_weights("web", 1000, ANN)
    await flow(world, 5)
    before = world.controller.status.service_status("web")
    said = await world.controller.drills.drill("web", Order("ann", dry_run=True))
    assert said == {
        "limit": "ErrorRateAboveLimit",
        "limits": ["ErrorRateAboveLimit"],
        "expected_s": 60.5,
        "most_s": 90.5,
    }
    assert world.controller.status.service_status("web") == before
    found = await drilled(world)
    assert found["drill"] == "passed"
    assert 60 <= found["decided_s"] <= 60.5


@running
async def test_a_drill_is_decided_by_a_share_that_is_compared_with_stable_over_a_window(start):
    compared = Limit("error_rate", max_ratio=2.0, window_s=10.0, for_s=1.0)
    world = await start((replace(SERVICE, limits=(compared,)),))
    await world.controller.rollouts.start("web", None, ANN)
    await flow(world, 0.25)
    assert "error_rate has too little of stable to compare with" in str(await refused(world))
    await flow(world, 2)
    found = await drilled(world)
    assert (found["drill"], found["limit"]) == ("passed", "ErrorRateAboveStable")


@running
async def test_a_drill_pauses_and_alarms_nobody(start):
    limits = (ERRORS, replace(SLOW, action="pause", window_s=1.0), Limit("availability", min=0.9, action="alert"))
    world = await start((replace(SERVICE, limits=limits),))
    await world.controller.rollouts.start("web", None, ANN)
    await flow(world, 5)
    assert (await drilled(world))["drill"] == "passed"
    await flow(world, 3)
    assert world.state().phase == PROGRESSING
    kinds = [event.type for event in world.controller._journal._tail]
    assert kinds[-2:] == ["DrillShut", "DrillOver"]


@running
async def test_a_real_breach_during_a_drill_is_none_of_it(start):
    late = Limit("error_rate", max=0.02, window_s=60.0, for_s=60.0)
    world = await start((replace(SERVICE, limits=(late,), rollouts=()),))
    await world.controller.weights.set_weights("web", 1000, ANN)
    await flow(world, 2)
    drill = await drilling(world)
    while not drill.done():
        world.fail_connections(NEW)
        await passing(world)
    found = await drill
    assert (found["drill"], found["why"]) == ("failed", "something else was decided meanwhile: that stands")
    assert (world.state().phase, world.state().reason, world.word()) == (ROLLED_BACK, "NoHealthyEndpoint", 0)


@running
async def test_a_drill_ends_when_stable_cannot_be_reached_and_nothing_is_decided_or_told(start):
    late = Limit("error_rate", max=0.02, window_s=60.0, for_s=10.0)
    world = await start((replace(SERVICE, limits=(late,), rollouts=()),))
    await world.controller.weights.set_weights("web", 1000, ANN)
    await flow(world, 2)
    before, told = world.state(), world.controller._journal._tail[-1]
    drill = await drilling(world)
    while not drill.done():
        world.good(10)
        world.fail_connections(STABLE)
        await passing(world)
    assert await drill == {
        "drill": "failed",
        "why": "stable could not be reached any more, and users of new would have been sent to it",
        "restored": True,
    }
    await flow(world, 1, stable=0)
    assert (world.state(), world.controller._journal._tail[-1]) == (before, told)


@running
async def test_of_two_drills_at_once_one_is_refused_and_the_other_passes(start):
    world = await start(PLANS)
    await world.controller.rollouts.start("web", None, ANN)
    await flow(world, 12)
    with world.slow_store():
        both = [asyncio.create_task(world.controller.drills.drill("web", ANN)) for _ in range(2)]
        await asyncio.sleep(0)
    world.store._thread.submit(lambda: None).result()  # both have the store's answer in the same step
    while not all(drill.done() for drill in both):
        world.good(10)
        await passing(world)
    passed, refused = sorted(
        await asyncio.gather(*both, return_exceptions=True), key=lambda one: isinstance(one, Refused)
    )
    assert (refused.status, refused.title) == (409, "Busy")
    assert passed["drill"] == "passed"


@running
async def test_a_reload_that_counts_more_latencies_does_not_keep_a_drill_from_being_decided(start):
    late = Limit("error_rate", max=0.02, window_s=60.0, for_s=10.0)
    plan = replace(SERVICE, limits=(late, SLOW), rollouts=())
    world = await start((replace(plan, limits=(late,)),), table(service(thresholds=())))
    await world.controller.weights.set_weights("web", 1000, ANN)
    await flow(world, 2)
    drill = await drilling(world)
    await world.tick(times=4)
    await world.controller.reloads.reload((plan,), table(service()), ANN)
    while not drill.done():
        world.good(10)
        await passing(world)
    assert (await drill)["drill"] == "passed"


@running
async def test_no_drill_shuts_what_could_not_be_opened_again(start):
    world = await start(PLANS)
    await world.controller.weights.set_weights("web", 1000, ANN)
    await flow(world, 1)
    world.break_store()
    found = await refused(world)
    assert (found.status, found.title, world.word()) == (503, "NotStored", 1000)


@running
async def test_the_limits_of_a_registered_version_know_nothing_of_the_one_before(start):
    """Not even where it has the same label and address: a deploy script registers what it has mended."""
    world = await start(PLANS)
    await world.controller.weights.set_weights("web", 5000, ANN)
    await flow(world, 5, new=0, bad=10)
    assert world.controller.status.service_status("web")["limits"][0]["verdict"] == "FAIL"
    new = world.controller.services.service("web").new
    answer = await world.controller.versions.put_new("web", new.label, [one.url for one in new.endpoints], ANN)
    for shown in (answer, world.controller.status.service_status("web")):
        assert [(one["verdict"], one["samples"]) for one in shown["limits"]] == [("INCONCLUSIVE", 0)] * 2
    await flow(world, 1)
    shown = world.controller.status.service_status("web")
    assert [(one["verdict"], one["samples"]) for one in shown["limits"]] == [("INCONCLUSIVE", 0)] * 2


@running
async def test_progress_is_reported_as_often_as_the_plan_says(start):
    world = await start(planned(progress_report_s=3.0))
    await world.controller.rollouts.start("web", None, ANN)
    await flow(world, 9.5)
    assert len(reasons(world, "ProgressReport")) == 3
    assert last(world, "ProgressReport")["evidence"]["stage"]["requests"] > 0


@running
async def test_a_lost_worker_is_told_and_changes_nothing(start):
    world = await start(PLANS)
    await world.controller.rollouts.start("web", None, ANN)
    world.controller.worker_lost(1, "was ended by signal 9")
    await world.settle()
    assert last(world, "WorkerLost")["evidence"] == {"slot": 1}
    assert world.state().phase == PROGRESSING


@running
async def test_a_rollback_while_a_finish_is_being_stored_stands_and_stable_stays_what_it_was(start):
    world = await start(PLANS)
    await world.controller.rollouts.start("web", None, ANN)
    await flow(world, 60)
    finish = asyncio.create_task(world.controller.rollouts.finish("web", ANN))
    await until(lambda: world.controller.services.entry("web").pending is not None or finish.done())
    await world.controller.weights.rollback("web", ANN)
    with pytest.raises(Refused) as refused:
        await finish
    assert refused.value.title == "Overtaken"
    await world.settle()
    state = world.state()
    assert (state.phase, state.weight_bp, state.has_new, world.word()) == (ROLLED_BACK, 0, True, 0)
    only = world.controller.services.table.services[0]
    assert (only.stable.label, only.new.label) == ("1", "2")
    world.close()
    again = await start(PLANS)
    only = again.controller.services.table.services[0]
    assert (only.stable.label, only.new.label, again.state().phase) == ("1", "2", ROLLED_BACK)
