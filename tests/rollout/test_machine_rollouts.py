"""Whole rollouts in the machine: stages, holds, hooks, refusals, and the laws under any order of events."""

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.errors import Refused
from proxy.rollout.effect import Announce, CallHook, ClearLatch, Persist, Shut, StoreSalt, StoreWeight
from proxy.rollout.event import (
    CONTROLLER,
    Breach,
    Finish,
    HookAnswered,
    NewChanged,
    NewRemoved,
    Pause,
    PlanChanged,
    Promote,
    Restarted,
    Restored,
    Resume,
    Rollback,
    SetWeight,
    Standing,
    Start,
    Tick,
    WorkerLost,
)
from proxy.rollout.machine import TABLE, VERBS, allowed, step
from proxy.rollout.plan import Hook, Hooks, Plan, ServicePlan, Stage
from proxy.rollout.state import COMPLETED, IDLE, PAUSED, PHASES, PROGRESSING, ROLLED_BACK, Passed, ServiceState

SERVICE = ServicePlan("web")
PLAN = Plan(
    "default",
    (Stage("canary", 100, 60.0, 100), Stage("half", 5000, 120.0, 1000), Stage("full", 10_000, 600.0, 1000)),
)
HOOK = Hook(run=("true",))
HOOKED = replace(PLAN, hooks=Hooks(None, HOOK, HOOK, HOOK))
AT_0 = ServiceState(revision=3, salt="old", has_new=True)
GOOD = Standing(requests=100_000, passed=True, required=True)
PROVEN = replace(GOOD, proven=True)


def kinds(effects):
    return [type(effect) for effect in effects]


def started(plan=PLAN, now=0.0, state=AT_0):
    return step(SERVICE, state, Start(plan, "fresh", "ann"), now)[0]


def tick(state, now, standing=GOOD, **more):
    return step(SERVICE, state, Tick(standing=standing, **more), now)


def at_full(now=1000.0, plan=PLAN):
    return step(SERVICE, started(plan), Promote("ann", full=True), now)[0]


def completed(now=1000.0, plan=PLAN):
    return tick(at_full(now, plan), now + 600)[0]


def refused(state, event, now=5.0):
    with pytest.raises(Refused) as caught:
        step(SERVICE, state, event, now)
    return caught.value


def test_a_start_is_stored_first_and_deals_the_users_anew():
    state, effects = step(SERVICE, AT_0, Start(PLAN, "fresh", "ann"), 5.0)
    assert (state.phase, state.weight_bp, state.salt, state.live_since) == (PROGRESSING, 100, "fresh", 5.0)
    assert kinds(effects) == [Persist, ClearLatch, StoreSalt, StoreWeight, Announce]
    assert effects[-1].note.after == {
        "new": 1,
        "phase": "progressing",
        "revision": 4,
        "plan": "default",
        "stage": "canary",
    }


def test_a_start_needs_a_new_version_at_weight_0_and_the_right_phase():
    assert refused(ServiceState(), Start(PLAN, "s", "ann")).title == "NoNewVersion"
    assert refused(replace(AT_0, weight_bp=10, live_since=0.0), Start(PLAN, "s", "ann")).title == "WeightNotZero"
    again = refused(started(), Start(PLAN, "s", "ann"))
    assert (again.status, again.extra["phase"]) == (409, "progressing")
    assert again.extra["allowed"] == ["pause", "promote", "weights", "rollback", "versions/new", "drill"]
    assert refused(completed(), Start(PLAN, "s", "ann")).extra["allowed"] == [
        "finish",
        "weights",
        "rollback",
        "versions/new",
    ]


def test_after_a_rollback_a_start_opens_with_another_salt():
    shut, _ = step(SERVICE, started(), Rollback("ann"), 5.0)
    again, effects = step(SERVICE, shut, Start(PLAN, "third", "ann"), 9.0)
    assert (again.phase, again.salt, again.reason) == (PROGRESSING, "third", "")
    assert kinds(effects)[:2] == [Persist, ClearLatch]


def test_a_stage_goes_on_when_the_hold_is_over_and_everything_is_shown():
    state = started()
    assert tick(state, 59.9)[0] == state
    for lacking in (
        replace(GOOD, requests=99),
        replace(GOOD, passed=False),
        replace(GOOD, required=False),
        Standing(),
        None,
    ):
        assert tick(state, 1e6, lacking)[0] == state
    after, effects = tick(state, 60.0)
    assert (after.weight_bp, after.rollout.stage, after.rollout.entered) == (5000, 1, 60.0)
    assert kinds(effects) == [Persist, StoreWeight, Announce]
    assert effects[-1].note.type == "StageEntered"


def test_a_stage_on_evidence_goes_on_when_it_is_proven_but_the_bake_is_held():
    plan = replace(PLAN, stages=tuple(replace(stage, advance="evidence") for stage in PLAN.stages))
    state = started(plan)
    assert tick(state, 1.0)[0] == state
    second, effects = tick(state, 1.0, PROVEN)
    assert (second.rollout.stage, effects[-1].note.reason) == (1, "Proven")
    last, _ = tick(second, 2.0, PROVEN)
    assert tick(last, 3.0, PROVEN)[0] == last
    assert tick(last, 602.0, PROVEN)[0].phase == COMPLETED


def test_a_manual_stage_waits_for_a_person():
    state = started(replace(PLAN, stages=tuple(replace(stage, advance="manual") for stage in PLAN.stages)))
    assert tick(state, 1e6, PROVEN)[0] == state
    second, _ = step(SERVICE, state, Promote("ann"), 1e6)
    last, _ = step(SERVICE, second, Promote("ann"), 1e6)
    done, _ = step(SERVICE, last, Promote("ann"), 1e6)
    assert (second.weight_bp, last.weight_bp, done.phase) == (5000, 10_000, COMPLETED)


def test_a_pause_stops_the_hold_clock_and_keeps_the_gate_armed():
    paused, effects = step(SERVICE, started(), Pause("ann", "lunch"), 30.0)
    assert (paused.phase, paused.weight_bp, paused.rollout.elapsed_s(1e6)) == (PAUSED, 100, 30.0)
    assert kinds(effects) == [Persist, Announce]
    assert tick(paused, 1e6)[0] == paused
    assert step(SERVICE, paused, Breach("P99AboveLimit"), 40.0)[0].phase == ROLLED_BACK
    resumed, _ = step(SERVICE, paused, Resume("ann"), 1000.0)
    assert tick(resumed, 1029.9)[0] == resumed
    assert tick(resumed, 1030.0)[0].rollout.stage == 1
    assert refused(paused, Pause("ann")).extra["allowed"] == [
        "resume",
        "promote",
        "weights",
        "rollback",
        "versions/new",
        "drill",
    ]


def test_a_breach_that_pauses_does_so_once_and_rolls_nobody_back():
    paused, effects = step(SERVICE, started(), Breach("SharedFault", {"n": 5}, action="pause"), 5.0)
    assert (paused.phase, paused.reason, paused.weight_bp) == (PAUSED, "SharedFault", 100)
    assert effects[-1].note.evidence == {"n": 5}
    assert step(SERVICE, paused, Breach("SharedFault", action="pause"), 6.0) == (paused, ())
    by_hand = replace(AT_0, weight_bp=10, live_since=0.0)
    assert step(SERVICE, by_hand, Breach("SharedFault", action="pause"), 6.0) == (by_hand, ())


def test_who_waits_longer_than_max_hold_is_paused_or_rolled_back():
    state = started(replace(PLAN, max_hold_s=100.0))
    poor = replace(GOOD, requests=5, open=("error_rate INCONCLUSIVE",))
    assert tick(state, 159.9, poor)[0] == state
    paused, effects = tick(state, 160.0, poor)
    assert (paused.phase, paused.reason) == (PAUSED, "MaxHoldOver")
    assert effects[-1].note.evidence["open"] == ["error_rate INCONCLUSIVE"]
    resumed, _ = step(SERVICE, paused, Resume("ann"), 500.0)
    assert tick(resumed, 599.0, poor)[0] == resumed
    assert tick(resumed, 600.0, poor)[0].phase == PAUSED
    strict = started(replace(PLAN, max_hold_s=100.0, on_max_hold="rollback"))
    back, effects = tick(strict, 160.0, poor)
    assert (back.phase, back.reason) == (ROLLED_BACK, "MaxHoldOver")
    assert isinstance(effects[0], Shut)


def test_weights_by_hand_take_over_a_progressing_rollout():
    state = step(SERVICE, started(), Promote("ann"), 1.0)[0]
    assert refused(state, SetWeight(6000, "ann")).title == "RolloutProgressing"
    taken, effects = step(SERVICE, state, SetWeight(6000, "ann", take_over=True), 5.0)
    assert (taken.phase, taken.reason, taken.weight_bp) == (PAUSED, "TakenOver", 6000)
    assert kinds(effects)[0] is Persist
    back, effects = step(SERVICE, taken, Resume("ann"), 9.0)
    assert (back.phase, back.weight_bp, kinds(effects)[0]) == (PROGRESSING, 5000, StoreWeight)
    lowered, effects = step(SERVICE, state, SetWeight(10, "ann", if_match=1), 5.0)
    assert (lowered.phase, lowered.weight_bp, kinds(effects)[0]) == (PAUSED, 10, StoreWeight)
    assert step(SERVICE, state, SetWeight(0, "ann"), 5.0)[0].phase == ROLLED_BACK
    assert step(SERVICE, state, SetWeight(5000, "ann"), 5.0) == (state, ())


def test_completed_is_100_percent_that_nothing_automatic_takes_back():
    done = completed()
    assert (done.phase, done.weight_bp, done.watchdog_off) == (COMPLETED, 10_000, True)
    assert step(SERVICE, done, Breach("P99AboveLimit"), 5000.0) == (done, ())
    assert step(SERVICE, done, Rollback("ann"), 5000.0)[0].phase == ROLLED_BACK
    word = next(effect for effect in tick(at_full(), 1600.0)[1] if isinstance(effect, StoreWeight))
    assert word == StoreWeight(10_000, watchdog_off=True)


def test_a_plan_that_ends_below_100_percent_stays_armed_and_cannot_be_finished():
    half = completed(plan=replace(PLAN, stages=PLAN.stages[:2]))
    assert (half.phase, half.weight_bp, half.watchdog_off) == (COMPLETED, 5000, False)
    assert refused(half, Finish("2", "s", "ann")).title == "NotFull"
    assert step(SERVICE, half, Breach("P99AboveLimit"), 5000.0)[0].phase == ROLLED_BACK
    full, _ = step(SERVICE, half, SetWeight(10_000, "ann"), 5000.0)
    assert (full.phase, full.watchdog_off) == (COMPLETED, True)
    assert step(SERVICE, full, Finish("2", "s", "ann"), 5001.0)[0].phase == IDLE


def test_finish_leaves_the_words_of_the_present_generation_alone():
    after, effects = step(SERVICE, completed(), Finish("2.0", "next", "ann"), 5000.0)
    assert (after.phase, after.weight_bp, after.salt, after.has_new, after.rollout) == (IDLE, 0, "next", False, None)
    assert kinds(effects) == [Persist, Announce]
    assert refused(started(), Finish("2.0", "next", "ann")).title == "WrongPhase"


def test_a_hook_before_a_stage_is_asked_and_its_no_pauses():
    state = started(HOOKED)
    asked, effects = tick(state, 60.0)
    assert (asked.weight_bp, asked.rollout.asking, effects) == (100, True, (CallHook("before_stage", 1),))
    assert tick(asked, 61.0) == (asked, ())
    number = asked.revision
    go, effects = step(SERVICE, asked, HookAnswered(number, ok=True, said={"body": "go"}), 62.0)
    assert (go.weight_bp, go.rollout.stage, go.rollout.asking, effects) == (100, 0, False, ())
    on, effects = tick(go, 62.25)
    assert (on.weight_bp, on.rollout.stage, on.rollout.asking, on.rollout.go) == (5000, 1, False, None)
    assert effects[-1].note.evidence["hook"] == {"body": "go"}
    held, effects = step(SERVICE, asked, HookAnswered(number, ok=False, said={"body": "not now"}), 62.0)
    assert (held.phase, held.reason, held.weight_bp) == (PAUSED, "HookFailed", 100)
    assert effects[-1].note.evidence == {"body": "not now", "stage": "half"}
    # An answer that comes when nobody waits for it changes nothing.
    assert step(SERVICE, held, HookAnswered(number, ok=True), 63.0) == (held, ())
    assert step(SERVICE, on, HookAnswered(number, ok=True), 63.0) == (on, ())


def test_what_a_hook_said_moves_only_a_stage_that_still_shows_enough():
    asked, _ = tick(started(HOOKED), 60.0)
    go, _ = step(SERVICE, asked, HookAnswered(asked.revision, ok=True), 62.0)
    failing = replace(GOOD, passed=False)
    assert tick(go, 63.0, failing) == (go, ())
    assert tick(go, 64.0)[0].rollout.stage == 1
    # After a pause it is asked anew.
    paused, _ = step(SERVICE, go, Pause("ann"), 65.0)
    resumed, _ = step(SERVICE, paused, Resume("ann"), 66.0)
    assert tick(resumed, 67.0)[0].rollout.asking


def test_an_answer_counts_only_for_the_question_that_was_asked():
    asked, _ = tick(started(HOOKED), 60.0)
    paused, _ = step(SERVICE, asked, Pause("ann"), 61.0)
    resumed, _ = step(SERVICE, paused, Resume("ann"), 62.0)
    again, effects = tick(resumed, 63.0)
    assert effects == (CallHook("before_stage", 1),)
    for ok in (True, False):
        assert step(SERVICE, again, HookAnswered(asked.revision, ok=ok), 64.0) == (again, ())
    assert step(SERVICE, again, HookAnswered(again.revision, ok=False), 65.0)[0].phase == PAUSED


def test_0_percent_while_a_drill_has_shut_the_gate_is_a_rollback_as_at_any_other_time():
    before = started()
    drilled, _ = step(SERVICE, before, Breach("P99AboveLimit", drill=True), 5.0)
    after, effects = step(SERVICE, drilled, SetWeight(0, "ann"), 6.0)
    assert (after.phase, after.reason, after.revision) == (ROLLED_BACK, "OperatorRollback", drilled.revision + 1)
    assert kinds(effects) == [Shut, Persist, Announce]
    assert refused(after, Restored(before, "ann")).title == "Overtaken"


def test_hooks_after_a_rollback_and_after_completion_come_last():
    _, effects = step(SERVICE, started(HOOKED), Breach("P99AboveLimit"), 5.0)
    assert kinds(effects) == [Shut, Persist, Announce, CallHook]
    _, effects = tick(at_full(plan=HOOKED), 1600.0)
    assert effects[-1] == CallHook("after_complete", 2)


def test_a_changed_plan_is_refused_unless_somebody_says_what_to_do():
    other = replace(PLAN, stages=(Stage("careful", 50, 600.0), *PLAN.stages[1:]))
    state = step(SERVICE, started(), Promote("ann"), 1.0)[0]
    assert refused(state, PlanChanged(other, "", "ann")).extra["allowed"] == ["keep", "restart"]
    kept, effects = step(SERVICE, state, PlanChanged(other, "keep", "ann"), 5.0)
    assert (kept, effects[-1].note.type) == (state, "PlanKept")
    again, effects = step(SERVICE, state, PlanChanged(other, "restart", "ann"), 5.0)
    assert (again.phase, again.weight_bp, again.rollout.now_at.name) == (PROGRESSING, 50, "careful")
    assert kinds(effects) == [StoreWeight, Persist, Announce]
    bolder = replace(PLAN, stages=(Stage("bold", 9000, 60.0),))
    more, _ = step(SERVICE, state, PlanChanged(bolder, "restart", "ann"), 5.0)
    assert (more.phase, more.weight_bp, more.reason) == (PAUSED, 5000, "PlanChanged")
    assert step(SERVICE, more, Resume("ann"), 6.0)[0].weight_bp == 9000


def test_another_version_ends_the_rollout_at_weight_0():
    for state in (started(), step(SERVICE, started(), Pause("ann"), 1.0)[0], completed()):
        after, effects = step(SERVICE, state, NewChanged("2", "3", "s", True, "ann"), 5.0)
        assert (after.phase, after.weight_bp, after.rollout) == (IDLE, 0, None)
        assert kinds(effects)[0] is StoreWeight


def test_a_drill_shuts_without_a_hook_and_restores_what_was():
    state = started(HOOKED)
    shut, effects = step(SERVICE, state, Breach("ErrorRateAboveLimit", drill=True), 30.0)
    assert (shut.phase, shut.reason, kinds(effects)) == (ROLLED_BACK, "Drill", [Shut, Persist, Announce])
    back, effects = step(SERVICE, shut, Restored(state, "ann"), 40.0)
    assert (back.phase, back.weight_bp, back.salt) == (PROGRESSING, 100, "fresh")
    assert back.rollout.elapsed_s(40.0) == 30.0
    assert kinds(effects) == [Persist, ClearLatch, StoreWeight, Announce]
    earnest, _ = step(SERVICE, shut, Rollback("ann"), 35.0)
    assert earnest.reason == "OperatorRollback"
    assert refused(earnest, Restored(state, "ann")).title == "Overtaken"


def test_a_weight_that_was_given_for_a_time_goes_back_as_if_there_had_been_no_drill():
    low, _ = step(SERVICE, AT_0, SetWeight(500, "ann"), 0.0)
    given, _ = step(SERVICE, low, SetWeight(2000, "ann", ttl_s=60.0), 1.0)
    shut, _ = step(SERVICE, given, Breach("ErrorRateAboveLimit", drill=True), 2.0)
    back, _ = step(SERVICE, shut, Restored(given, "ann"), 3.0)
    assert step(SERVICE, back, Tick(), 60.0)[0] == back
    assert step(SERVICE, back, Tick(), 61.0)[0].weight_bp == 500


def test_a_rollout_that_was_latched_is_rolled_back_at_the_restart():
    for state in (started(), completed()):
        assert step(SERVICE, state, Restarted(None), 5.0) == (state, ())
        assert step(SERVICE, state, Restarted("P99AboveLimit"), 5.0)[0].phase == ROLLED_BACK


def test_what_is_said_to_be_allowed_is():
    """A start needs the weight at 0, a finish 100 %, a drill a gate to shut that is armed."""
    for weight_bp, extra in ((0, ["start"]), (100, ["drill"]), (10_000, ["drill"])):
        state = replace(AT_0, weight_bp=weight_bp)
        assert {"start", "drill"} & set(allowed(state)) == set(extra)
    for weight_bp, extra in ((100, ["drill"]), (10_000, ["finish"])):
        state = replace(AT_0, phase=COMPLETED, weight_bp=weight_bp)
        assert {"start", "drill", "finish"} & set(allowed(state)) == set(extra)


def test_every_phase_can_be_rolled_back_and_says_what_is_allowed():
    for phase in PHASES:
        assert (phase, Rollback) in TABLE
        state = ServiceState(phase=phase, has_new=True)
        assert {"rollback", "weights"} <= set(allowed(state)) <= set(VERBS.values())


standings = st.builds(
    Standing, st.sampled_from([0, 50, 5000]), st.booleans(), st.booleans(), st.booleans(), st.just(("p99 FAIL",))
)
plans = st.sampled_from(
    [
        PLAN,
        HOOKED,
        replace(PLAN, max_hold_s=30.0),
        replace(PLAN, max_hold_s=30.0, on_max_hold="rollback"),
        replace(PLAN, stages=PLAN.stages[:2]),
        replace(PLAN, stages=tuple(replace(stage, advance="evidence") for stage in PLAN.stages)),
    ]
)
persons = st.one_of(
    st.builds(SetWeight, st.integers(0, 10_000), st.just("ann"), take_over=st.booleans()),
    st.builds(Rollback, st.just("ann")),
    st.builds(Start, plans, st.sampled_from(["x", "y"]), st.just("ann")),
    st.builds(Promote, st.just("ann"), full=st.booleans()),
    st.builds(Resume, st.just("ann")),
)
MORE = (SetWeight, Start, Promote, Resume, Restored, Tick)
others = st.one_of(
    st.builds(
        Breach, st.just("P99AboveLimit"), stable_ready=st.booleans(), action=st.sampled_from(["rollback", "pause"])
    ),
    st.builds(Breach, st.just("P99AboveLimit"), drill=st.just(True)),
    st.builds(Tick, st.booleans(), standings | st.none()),
    st.builds(Tick, st.just(True), st.just(PROVEN)),
    st.builds(Pause, st.just("ann")),
    st.builds(HookAnswered, st.integers(3, 20), st.booleans()),
    st.builds(WorkerLost, st.just(0), st.just("killed")),
    st.builds(PlanChanged, plans | st.none(), st.sampled_from(["", "keep", "restart"]), st.just("ann")),
    st.builds(Finish, st.just("2"), st.just("z"), st.just("ann")),
    st.builds(NewChanged, st.just("1"), st.just("2"), st.just("fresh"), st.booleans(), st.just("ann")),
    st.builds(NewRemoved, st.just("1"), st.just("ann")),
    st.builds(Restarted, st.none() | st.just("Latched")),
)


@settings(max_examples=3 * settings().max_examples)
@given(st.lists(st.tuples(persons | others, st.floats(0, 200)), max_size=40))
def test_laws_of_rollouts_under_any_order_of_events(history):
    state, now = AT_0, 0.0
    drilled = None
    for event, later in history:
        now += later
        before = state
        try:
            state, effects = step(SERVICE, state, event, now)
        except Refused:
            assert not (isinstance(event, SetWeight) and event.weight_bp < before.weight_bp)
            assert not isinstance(event, Rollback)
            continue
        assert state.phase in TABLE[before.phase, type(event)].to
        order = kinds(effects)
        # More weight only by a person, a stage that has shown enough, or the end of a drill.
        if state.weight_bp > before.weight_bp:
            assert isinstance(event, MORE)
            assert order.index(Persist) < order.index(StoreWeight)
            if isinstance(event, Tick):
                assert event.standing.requests
                assert event.standing.passed
                assert event.standing.required
        if state.weight_bp < before.weight_bp and not isinstance(event, Finish):
            assert order[0] in {Shut, StoreWeight}
        if before.phase == ROLLED_BACK and state.weight_bp:
            assert isinstance(event, SetWeight | Start | Restored)
        # A rollout runs at the weight of its stage, and only then its clock does.
        if state.phase == PROGRESSING:
            assert state.weight_bp == state.rollout.now_at.weight_bp
        if state.rollout is not None:
            assert (state.rollout.since is not None) == (state.phase == PROGRESSING)
        assert state.rollout is not None or state.phase in {IDLE, ROLLED_BACK}
        assert state.weight_bp == 0 or state.phase != ROLLED_BACK
        assert (state.live_since is None) == (state.weight_bp == 0)
        if state.salt != before.salt:
            assert state.weight_bp == 0 or before.weight_bp == 0
        # Weights never fall within a rollout but by a person, a changed plan or a way back.
        drilled = before if state.reason == "Drill" != before.reason else drilled
        assert state.revision - before.revision in {0, 1}
        if (state.phase, state.weight_bp, state.salt, state.reason) != (
            before.phase,
            before.weight_bp,
            before.salt,
            before.reason,
        ):
            assert state.revision == before.revision + 1
            assert Persist in order


@given(st.lists(st.floats(0, 1e6), max_size=30), st.booleans())
def test_without_traffic_no_time_at_all_moves_a_stage(steps, passed):
    state, now = started(), 0.0
    for later in steps:
        now += later
        after, effects = tick(state, now, Standing(requests=0, passed=passed, proven=passed, required=True))
        assert (after, effects) == (state, ())


def test_weights_of_stages_are_only_ever_those_of_the_plan():
    weights = [100]
    state = started()
    for now in (60.0, 180.0, 780.0):
        state, _ = tick(state, now)
        weights.append(state.weight_bp)
    assert weights == [100, 5000, 10_000, 10_000]
    assert all(before <= after for before, after in pairwise(weights))


def test_another_version_or_none_is_never_refused_for_its_revision_while_new_has_users():
    state = started()
    for event in (NewChanged("2", "3", "s", True, "ann", if_match=1), NewRemoved("2", "ann", if_match=1)):
        after, effects = step(SERVICE, state, event, 5.0)
        assert (after.weight_bp, effects[0]) == (0, StoreWeight(0))
        assert refused(AT_0, event).title == "RevisionStale"


def test_what_a_stage_really_had_and_who_let_it_go_on_is_kept():
    state = step(SERVICE, started(), Pause("bob"), 5.0)[0]
    state = step(SERVICE, state, Resume("bob"), 20.0)[0]
    state = step(SERVICE, state, Promote("ann", "in a hurry"), 22.0)[0]
    assert state.rollout.passed == (Passed(0, 7.0, "ann", "in a hurry"),)
    state = tick(state, 150.0)[0]
    state = step(SERVICE, state, Promote("ann"), 151.0)[0]
    assert state.phase == COMPLETED
    assert state.rollout.passed[1:] == (Passed(1, 128.0, CONTROLLER, "HoldOver"), Passed(2, 1.0, "ann", ""))
    skipped = at_full(9.0)
    assert [one.stage for one in skipped.rollout.passed] == [0]


def test_a_promotion_that_lowers_new_warns_when_stable_is_not_ready():
    plan = replace(PLAN, stages=(Stage("many", 5000, 60.0), Stage("few", 100, 60.0)))
    state = started(plan)
    for ready, warned in ((True, False), (False, True)):
        after, effects = step(SERVICE, state, Promote("ann", stable_ready=ready), 5.0)
        assert after.weight_bp == 100
        assert ("warning" in effects[-1].note.evidence) == warned
    up = step(SERVICE, started(), Promote("ann", stable_ready=False), 5.0)[1]
    assert "warning" not in up[-1].note.evidence
