"""The life of a service: the table by example, and its laws under any order of events."""

from dataclasses import replace
from itertools import pairwise
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import Refused
from proxy.rollout.effect import Announce, ClearLatch, Persist, Shut, StoreWeight
from proxy.rollout.event import Breach, NewChanged, NewRemoved, Restarted, Rollback, SetWeight, Tick
from proxy.rollout.machine import TABLE, allowed, step
from proxy.rollout.plan import ServicePlan
from proxy.rollout.state import IDLE, ROLLED_BACK, Expiry, ServiceState, percent

PLAN = ServicePlan("web")
AT_10 = ServiceState(weight_bp=1000, revision=7, salt="s", has_new=True, live_since=0.0)
AT_0 = ServiceState(revision=3, salt="s", has_new=True)
SHUT = ServiceState(phase=ROLLED_BACK, revision=8, reason="ErrorRateAboveLimit", salt="s", has_new=True)


def kinds(effects):
    return [type(effect) for effect in effects]


def test_a_breach_shuts_before_it_is_stored_and_is_said_last():
    after, effects = step(PLAN, AT_10, Breach("ErrorRateAboveLimit", {"n": 50}), 5.0)
    assert (after.phase, after.weight_bp, after.revision, after.reason) == (ROLLED_BACK, 0, 8, "ErrorRateAboveLimit")
    assert kinds(effects) == [Shut, Persist, Announce]
    note = effects[-1].note
    assert (note.type, note.actor, note.evidence) == ("RolledBack", "controller", {"n": 50})
    assert note.before == {"new": 10, "phase": "idle", "revision": 7}
    assert note.after == {"new": 0, "phase": "rolled_back", "revision": 8}


def test_a_breach_without_a_ready_stable_leaves_the_weight_and_says_so_once():
    held, effects = step(PLAN, AT_10, Breach("P99AboveLimit", stable_ready=False), 5.0)
    assert (held.weight_bp, held.revision, held.no_stable) == (1000, 7, True)
    assert effects[-1].note.type == "NoStable"
    assert step(PLAN, held, Breach("P99AboveLimit", stable_ready=False), 6.0) == (held, ())
    cleared, effects = step(PLAN, held, Tick(stable_ready=True), 7.0)
    assert not cleared.no_stable
    assert effects[-1].note.type == "StableReady"
    assert step(PLAN, cleared, Breach("P99AboveLimit"), 8.0)[0].phase == ROLLED_BACK


def test_a_persons_rollback_is_obeyed_without_a_ready_stable_and_warned_about():
    after, effects = step(PLAN, AT_10, Rollback("ann", stable_ready=False), 5.0)
    assert (after.phase, after.reason) == (ROLLED_BACK, "OperatorRollback")
    assert "warning" in effects[-1].note.evidence


def test_a_repeated_rollback_changes_nothing_but_is_stored_again():
    after, effects = step(PLAN, SHUT, Rollback("ann"), 5.0)
    assert after == SHUT
    assert effects == (Shut("ErrorRateAboveLimit"), Persist())


def test_raising_is_stored_before_the_latch_opens_and_before_the_word():
    after, effects = step(PLAN, SHUT, SetWeight(500, "ann", "fixed"), 5.0)
    assert (after.phase, after.weight_bp, after.reason, after.live_since) == (IDLE, 500, "", 5.0)
    assert kinds(effects) == [Persist, ClearLatch, StoreWeight, Announce]


def test_raising_needs_a_new_version_and_a_revision_that_is_not_stale():
    with pytest.raises(Refused) as stale:
        step(PLAN, AT_10, SetWeight(2000, "ann", if_match=6), 5.0)
    assert (stale.value.status, stale.value.extra) == (412, {"revision": 7})
    with pytest.raises(Refused) as absent:
        step(PLAN, ServiceState(), SetWeight(2000, "ann"), 5.0)
    assert (absent.value.status, absent.value.title) == (409, "NoNewVersion")
    assert absent.value.extra == {"phase": "idle", "allowed": ["rollback", "versions/new"]}


def test_lowering_acts_first_and_cares_for_no_revision():
    after, effects = step(PLAN, AT_10, SetWeight(500, "ann", if_match=1), 5.0)
    assert (after.weight_bp, after.phase) == (500, IDLE)
    assert kinds(effects) == [StoreWeight, Persist, Announce]


def test_lowering_to_0_is_a_rollback():
    after, effects = step(PLAN, AT_10, SetWeight(0, "ann", "smells", if_match=1), 5.0)
    assert (after.phase, after.reason) == (ROLLED_BACK, "OperatorRollback")
    assert kinds(effects) == [Shut, Persist, Announce]
    assert effects[-1].note.reason == "smells"


def test_0_at_0_changes_nothing():
    assert step(PLAN, AT_0, SetWeight(0, "ann", if_match=1), 5.0) == (AT_0, ())


def test_the_time_is_over_back_to_the_weight_before():
    raised, _ = step(PLAN, AT_10, SetWeight(5000, "ann", ttl_s=60), 100.0)
    assert raised.expiry == Expiry(160.0, 1000, 8)
    assert step(PLAN, raised, Tick(), 159.9) == (raised, ())
    after, effects = step(PLAN, raised, Tick(), 160.0)
    assert (after.weight_bp, after.revision, after.expiry, after.live_since) == (1000, 9, None, 0.0)
    assert kinds(effects) == [StoreWeight, Persist, Announce]


def test_the_time_is_over_and_the_weight_before_was_higher_or_the_revision_moved():
    lowered, _ = step(PLAN, AT_10, SetWeight(500, "ann", ttl_s=60), 100.0)
    assert step(PLAN, lowered, Tick(), 160.0)[0].weight_bp == 0
    raised, _ = step(PLAN, AT_10, SetWeight(5000, "ann", ttl_s=60), 100.0)
    moved, _ = step(PLAN, raised, SetWeight(6000, "bob"), 110.0)
    after, _ = step(PLAN, moved, Tick(), 160.0)
    assert (after.weight_bp, after.phase, after.live_since) == (0, IDLE, None)


def test_a_weight_that_was_given_for_a_time_is_nothing_to_go_back_to():
    raised, _ = step(PLAN, AT_10, SetWeight(5000, "ann", ttl_s=60), 100.0)
    again, _ = step(PLAN, raised, SetWeight(6000, "ann", ttl_s=60), 110.0)
    assert step(PLAN, again, Tick(), 170.0)[0].weight_bp == 1000


def test_an_endless_ttl_takes_the_expiry_away():
    raised, _ = step(PLAN, AT_10, SetWeight(5000, "ann", ttl_s=60), 100.0)
    kept, _ = step(PLAN, raised, SetWeight(5000, "ann", ttl_s=inf), 110.0)
    assert (kept.expiry, kept.weight_bp, kept.revision) == (None, 5000, 9)


def test_an_endless_ttl_where_none_runs_changes_nothing():
    assert step(PLAN, AT_10, SetWeight(1000, "ann", ttl_s=inf, if_match=1), 5.0) == (AT_10, ())


def test_another_ttl_for_the_same_weight_needs_a_revision_that_is_not_stale():
    with pytest.raises(Refused) as stale:
        step(PLAN, AT_10, SetWeight(1000, "ann", ttl_s=60, if_match=6), 5.0)
    assert stale.value.status == 412


def test_the_time_is_over_but_stable_cannot_serve():
    raised, _ = step(PLAN, AT_10, SetWeight(5000, "ann", ttl_s=60), 100.0)
    held, effects = step(PLAN, raised, Tick(stable_ready=False), 170.0)
    assert (held.weight_bp, effects[-1].note.type) == (5000, "NoStable")
    assert step(PLAN, held, Tick(), 171.0)[0].weight_bp == 1000


def test_a_new_version_begins_at_0_with_a_fresh_salt_when_it_is_registered():
    after, effects = step(PLAN, AT_10, NewChanged("1", "2", "fresh", True, "ann"), 5.0)
    assert (after.weight_bp, after.salt, after.phase, after.has_new) == (0, "fresh", IDLE, True)
    assert kinds(effects) == [StoreWeight, Persist, Announce]


def test_another_version_in_the_config_gets_a_fresh_salt_only_after_a_rollback():
    assert step(PLAN, AT_10, NewChanged("1", "2", "fresh", False, "ann"), 5.0)[0].salt == "s"
    after, effects = step(PLAN, SHUT, NewChanged("1", "2", "fresh", False, "ann"), 5.0)
    assert (after.salt, after.phase, after.reason) == ("fresh", IDLE, "")
    assert kinds(effects) == [Persist, ClearLatch, Announce]


def test_removing_new_sends_everything_to_stable():
    after, effects = step(PLAN, AT_10, NewRemoved("1", "ann"), 5.0)
    assert (after.weight_bp, after.has_new) == (0, False)
    assert kinds(effects) == [StoreWeight, Persist, Announce]


def test_the_latch_wins_over_the_store_at_a_restart():
    after, effects = step(PLAN, AT_10, Restarted("P99AboveLimit"), 5.0)
    assert (after.phase, after.weight_bp, after.reason) == (ROLLED_BACK, 0, "P99AboveLimit")
    assert kinds(effects) == [Shut, Persist, Announce]
    assert step(PLAN, AT_10, Restarted(None), 5.0) == (AT_10, ())
    assert step(PLAN, SHUT, Restarted(None), 5.0) == (SHUT, (Shut("ErrorRateAboveLimit"),))


def test_a_pair_that_is_not_in_the_table_is_refused_with_phase_and_what_is_allowed():
    assert (ROLLED_BACK, Breach) not in TABLE
    with pytest.raises(Refused) as refused:
        step(PLAN, SHUT, Breach("P99AboveLimit"), 5.0)
    assert refused.value.status == 409
    assert refused.value.extra == {"phase": "rolled_back", "allowed": ["start", "weights", "rollback", "versions/new"]}
    assert allowed(replace(SHUT, has_new=False)) == ["rollback", "versions/new"]


def test_weights_are_percent_with_two_decimals_outside():
    assert [percent(bp) for bp in (0, 1, 1000, 1234, 10_000)] == [0, 0.01, 10, 12.34, 100]
    assert isinstance(percent(1000), int)


ready = st.booleans()
events = st.one_of(
    st.builds(Breach, st.just("ErrorRateAboveLimit"), st.just({}), ready),
    st.builds(
        SetWeight,
        st.integers(0, 10_000),
        st.just("ann"),
        st.just(""),
        st.none() | st.integers(1, 8),
        st.none() | st.floats(0.1, 20) | st.just(inf),
        ready,
    ),
    st.builds(Rollback, st.just("ann"), st.just(""), ready),
    st.builds(Tick, ready),
    st.builds(NewChanged, st.just("1"), st.just("2"), st.just("fresh"), st.booleans(), st.just("ann")),
    st.builds(NewRemoved, st.just("1"), st.just("ann")),
    st.builds(Restarted, st.none() | st.just("Latched")),
)


@given(st.lists(st.tuples(events, st.floats(0, 10)), max_size=40), st.booleans())
def test_laws_that_hold_under_any_order_of_events(history, has_new):
    state, now = ServiceState(has_new=has_new, salt="s"), 0.0
    seen = [state]
    for event, later in history:
        now += later
        before = state
        try:
            state, effects = step(PLAN, state, event, now)
        except Refused:
            lowers = isinstance(event, Rollback) or (
                isinstance(event, SetWeight) and event.weight_bp < before.weight_bp
            )
            assert not lowers, "a request that lowers new is never refused"
            continue
        seen.append(state)
        # After a rollback the weight is 0, and only a person's order makes it more.
        assert state.weight_bp == 0 or state.phase != ROLLED_BACK
        if state.weight_bp > before.weight_bp:
            assert isinstance(event, SetWeight)
            assert before.has_new
        if before.phase == ROLLED_BACK and state.weight_bp:
            assert kinds(effects) == [Persist, ClearLatch, StoreWeight, Announce]
        # Every change is counted, stored and said; what changes nothing is not.
        if replace(state, no_stable=before.no_stable) != before:
            assert state.revision == before.revision + 1
            assert any(isinstance(effect, Persist) and effect.note for effect in effects)
            assert isinstance(effects[-1], Announce)
        else:
            assert state.revision == before.revision
        # The order of effects: lowering acts before it is stored, raising is stored before it acts.
        order = kinds(effects)
        if state.weight_bp < before.weight_bp:
            assert order[0] in {Shut, StoreWeight}
            assert order.index(Persist) > 0
        elif Persist in order and StoreWeight in order:
            assert order.index(Persist) < order.index(StoreWeight)
        if state.phase == ROLLED_BACK and before.phase != ROLLED_BACK:
            assert order[0] is Shut
        # The salt changes only at weight 0, users are sticky otherwise.
        if state.salt != before.salt:
            assert state.weight_bp == 0
        assert (state.live_since is None) == (state.weight_bp == 0)
        assert state.has_new or state.weight_bp == 0
        assert state.expiry is None or state.weight_bp
    assert all(b.revision - a.revision in {0, 1} for a, b in pairwise(seen))
