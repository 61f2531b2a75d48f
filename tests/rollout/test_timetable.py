"""A plan in time: stages, reactions, requests, and the laws that hold for all of them."""

from dataclasses import replace
from math import comb, log
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.rollout.betting import TOTAL_BLOCKS, Detector, outlook
from proxy.rollout.judges import budget
from proxy.rollout.plan import Check, Limit, Plan, ServicePlan, Stage
from proxy.rollout.timetable import timetable
from proxy.routing.table import STABLE

ERRORS = Limit("error_rate", max=0.01)
WINDOW = Limit("error_rate", max=0.02, window_s=60.0, for_s=300.0)


def one(*limits, weight=1000, hold=3600.0, advance="auto", min_requests=20, require=()):
    return Plan("p", (Stage("s", weight, hold, min_requests, limits, require, advance),))


def reaction(limit, rate=None, weight=1000, **more):
    (found,) = timetable(one(limit, weight=weight), rate=rate, service=ServicePlan("web", **more)).reactions
    return found.total_s, found.worst_s


def stage(plan, rate=None):
    """Return the time of the first stage, which is not the last: that one is held to its end."""
    return timetable(replace(plan, stages=(*plan.stages, Stage("bake", 10_000, 1.0))), rate=rate).stages[0]


def test_stages_follow_one_another():
    plan = Plan("p", (Stage("a", 100, 7200.0), Stage("b", 1000, 14_400.0), Stage("c", 10_000, 172_800.0)))
    table = timetable(plan)
    assert [time.from_s for time in table.stages] == [0, 7200, 21_600]
    assert (table.last_s, table.least_s) == (21_600, 194_400)
    assert table.warnings == ()


def test_a_stage_lasts_until_it_has_its_requests():
    plan = one(weight=100, min_requests=1000)
    assert (stage(plan, 100).least_s, stage(plan, 100).expected, stage(plan, 100).enough) == (3600, 3600, True)
    assert (stage(plan, 10).least_s, stage(plan, 10).expected, stage(plan, 10).enough) == (10_000, 360, False)
    assert timetable(plan, rate=10).warnings == (
        "stage s: the hold gives 360 of the 1,000 requests that it needs at 0.1/s on new: it lasts 2.8 times its hold",
    )
    assert (stage(plan).least_s, stage(plan).expected, stage(plan).enough) == (3600, None, None)


def test_max_hold_may_come_first():
    plan = Plan("p", one(weight=100, min_requests=1000).stages, max_hold_s=60.0, on_max_hold="rollback")
    assert timetable(plan, rate=10).warnings[1] == "stage s: before it has them, max_hold is over: rollback"


def test_what_a_stage_needs_is_the_most_that_anything_in_it_asks_for():
    asking = Limit("p99", max=100.0, min_requests=500)
    assert stage(one(asking)).needed == 500
    assert stage(one(require=(Limit("p95", max=1.0, min_requests=700, action="hold"),))).needed == 700
    assert stage(one(min_requests=900)).needed == 900
    for shown in ({"action": "alert"}, {"dry_run": True}, {"version": STABLE, "action": "pause"}):
        assert stage(one(Limit("p99", max=100.0, min_requests=500, **shown))).needed == 20


def test_evidence_ends_a_stage_when_the_proof_is_complete():
    early = one(ERRORS, advance="evidence")
    assert stage(early).least_s == 375 * 0.25  # as the module of the judge says: 375 blocks for 1 %
    assert stage(early, rate=10).least_s == 375  # one response per second: a block with one is one block
    assert stage(one(ERRORS, advance="evidence", min_requests=3000), rate=10).least_s == 3000
    assert stage(one(ERRORS, advance="evidence", hold=60.0)).least_s == 60
    assert stage(one(ERRORS, advance="auto")).least_s == 3600


def test_the_bake_is_held_to_its_end():
    first, bake = timetable(Plan("p", one(ERRORS, advance="evidence").stages * 2)).stages
    assert first.least_s < bake.least_s == 3600


@pytest.mark.parametrize("limit", [WINDOW, Limit("p99", max_ratio=2.0)])
def test_what_proves_nothing_keeps_the_stage_for_its_hold(limit):
    assert stage(one(ERRORS, limit, advance="evidence")).least_s == 3600


def test_a_check_is_proven_by_its_reading_and_a_limit_on_stable_is_not_asked():
    rss = Limit("rss", max=5.0, source="check")
    stable = Limit("p95", max=500.0, window_s=60.0, version=STABLE, action="pause")
    assert stage(one(ERRORS, rss, stable, advance="evidence")).least_s == stage(one(ERRORS, advance="evidence")).least_s


def test_a_requirement_counts_from_its_after_on():
    late = Limit("hits", min=0.5, source="signal", action="hold", after_s=7200.0, min_requests=100)
    assert stage(one(require=(late,))).least_s == 7200
    assert stage(one(require=(late,)), rate=10).least_s == 7300  # one per second on new


def test_a_percentile_that_is_compared_is_one_of_ten_minutes():
    slower = Limit("p95", max_ratio=1.5)
    assert reaction(slower) == (pytest.approx(0.05 * 600 + 1), 601)
    assert reaction(replace(slower, window_s=60.0, for_s=30.0)) == (pytest.approx(34), 91)
    table = timetable(one(slower), rate=1.8)
    assert table.least_s is None
    (warning,) = table.warnings
    assert "stable has 972.0 of the 1,000 requests in ten minutes that it needs, and the stage never ends" in warning
    assert timetable(one(slower), rate=1.9).least_s == 3600


def test_the_alarm_is_that_of_the_judges():
    """What is only reported, on stable or over a window bets nothing, and each stage has limits of its own."""
    shown = (
        replace(ERRORS, dry_run=True),
        replace(ERRORS, action="alert"),
        replace(ERRORS, version=STABLE, action="pause"),
    )
    service = ServicePlan("web", limits=(WINDOW, *shown), false_alarms=0.03)
    plan = Plan("p", (*one(ERRORS, Limit("p99", max=5.0)).stages, *one(ERRORS, Limit("p99", max_ratio=2.0)).stages))
    level = budget(service, plan)
    assert level == pytest.approx(log(3 * 4 * 3600 / 0.03))
    bets = Detector(level).bets(1.0, 0.01, 100)
    found = [one for one in timetable(plan, service=service).reactions if one.limit == ERRORS]
    assert [one.total_s for one in found] == [(bets + 1) * 0.25] * 2


def test_the_floor_of_a_ratio_can_be_proven():
    assert stage(one(Limit("error_rate", max_ratio=2.0, floor=0.01), advance="evidence")).least_s < 150


def test_a_person_ends_a_manual_stage():
    assert stage(one(ERRORS, advance="manual")).by_person
    assert stage(one(ERRORS, advance="manual")).least_s == 3600


def test_a_window_is_filled_before_it_is_judged():
    assert reaction(WINDOW) == (pytest.approx(0.02 * 60 + 300.25), pytest.approx(360.25))
    assert reaction(WINDOW, block_s=1.0)[1] == pytest.approx(361)
    slow = Limit("p95", max=2000.0, window_s=60.0)
    assert reaction(slow) == (pytest.approx(0.05 * 60 + 2.25), pytest.approx(62.25))
    hits = Limit("hits", min=0.4, window_s=60.0, source="signal")
    assert reaction(hits) == (pytest.approx(36.25), pytest.approx(60.25))


def test_a_window_that_never_holds_enough_never_acts():
    table = timetable(one(WINDOW), rate=3)
    assert [(found.total_s, found.worst_s) for found in table.reactions] == [(None, None)]
    assert (table.least_s, table.stages[0].least_s) == (None, None)
    assert table.warnings == (
        (
            "stage s: error_rate is never judged: its window gets 18.0 of the 20 requests that it needs, "
            "and the stage never ends"
        ),
    )
    shown = timetable(one(Limit("error_rate", max=0.1, window_s=10.0, action="alert")), rate=3)
    assert shown.least_s == 3600
    assert shown.warnings[0].endswith("of the 20 requests that it needs")


RATIO = Limit("error_rate", max_ratio=2.0, window_s=20.0, for_s=5.0)


def test_a_share_over_a_window_needs_its_requests_of_stable_too():
    never = "stage s: error_rate is never judged: stable has 18.0 of the 20 requests in its window that it needs"
    table = timetable(one(RATIO, weight=9_910), rate=100)
    assert (table.least_s, table.warnings) == (None, (f"{never}, and the stage never ends",))
    assert (table.reactions[0].total_s, table.reactions[0].worst_s) == (None, None)
    shown = timetable(one(replace(RATIO, action="alert"), weight=9_910), rate=100)
    assert (shown.least_s, shown.warnings) == (3600, (never,))
    assert timetable(one(RATIO, weight=9_900), rate=100).warnings == ()
    assert timetable(one(RATIO, weight=10_000), rate=100).least_s == 3600  # by stable's record


def test_a_share_over_a_window_is_in_breach_when_new_has_so_many_times_the_bad_that_stable_may_have():
    late = 5.25  # `for` and a block
    assert reaction(RATIO) == (pytest.approx(late), pytest.approx(20 + late))
    assert reaction(replace(RATIO, floor=0.1)) == (pytest.approx(2 + late), pytest.approx(20 + late))
    # Both are taken to have one bad at least: that is 1 of 20 of stable's, twice that 2 of 20 of the window.
    assert reaction(RATIO, rate=100, weight=9_900) == (pytest.approx(2 + late), pytest.approx(20 + late))
    assert reaction(RATIO, rate=10, weight=1_000)[0] == pytest.approx(2 + late)
    many = replace(RATIO, max_ratio=30.0)
    assert reaction(many, rate=100, weight=9_900) == (None, None)  # of 20 not even all are 30 times as many
    assert reaction(RATIO, weight=10_000) == (None, None)  # by stable's record, which the plan does not know


def test_evidence_of_total_failure_takes_five_blocks():
    total, double = reaction(ERRORS)
    assert total == 5 * 0.25
    assert TOTAL_BLOCKS < 4  # and the one in which it begins
    assert 20 * total > double > 5 * total
    assert reaction(Limit("p99", max=500.0)) == (pytest.approx(total + 0.5), pytest.approx(double + 0.5))


def test_evidence_needs_responses():
    assert reaction(ERRORS, rate=1000)[0] == 1.25
    assert reaction(ERRORS, rate=20)[0] == 10.25  # 2 per second on new: 2.5 s for a bet of five
    assert timetable(one(ERRORS), rate=20).least_s == 3600


def test_a_ratio_takes_longer_the_more_traffic_new_has():
    ratio = Limit("error_rate", max_ratio=1.0)
    few, half = reaction(ratio, weight=100)[0], reaction(ratio, weight=5000)[0]
    assert few < half
    assert reaction(ratio, weight=10_000) == (None, None)  # by stable's record, which the plan does not know


def test_a_check_is_as_fast_as_it_is_read():
    rss = Limit("rss", max=5.0, for_s=60.0, source="check")
    assert reaction(rss) == (70.25, 70.25)
    assert reaction(rss, checks=(Check("rss", every_s=30.0),)) == (90.25, 90.25)


def test_the_limits_of_the_service_are_armed_too():
    service = ServicePlan("web", limits=(WINDOW,))
    assert [found.limit for found in timetable(one(ERRORS), service=service).reactions] == [WINDOW, ERRORS]
    assert timetable(one(ERRORS), service=service, rate=1).least_s is None


def test_a_limit_on_stable_rests_where_stable_has_no_traffic():
    stable = Limit("p95", max=500.0, window_s=60.0, version=STABLE, action="pause")
    assert timetable(one(stable, weight=10_000), rate=1).least_s == 3600
    assert timetable(one(stable, weight=10_000), rate=1).reactions == ()
    # Elsewhere it is only what it does itself that holds anybody up.
    table = timetable(one(stable, weight=9_900), rate=1)
    assert (table.least_s, len(table.reactions)) == (3600, 1)
    assert table.warnings == ("stage s: p95 is never judged: its window gets 0.6 of the 20 requests that it needs",)


LIMITS = st.builds(
    Limit,
    metric=st.just("error_rate"),
    max=st.sampled_from([0.001, 0.01, 0.3]),
    window_s=st.sampled_from([None, 1.0, 10.0, 300.0]),
    for_s=st.sampled_from([0.0, 30.0]),
    min_requests=st.integers(1, 1000),
    action=st.sampled_from(["rollback", "pause", "alert"]),
)
STAGES = st.builds(
    Stage,
    name=st.just("s"),
    weight_bp=st.integers(1, 10_000),
    hold_s=st.floats(1.0, 1e5),
    min_requests=st.integers(1, 100_000),
    limits=st.lists(LIMITS, max_size=3).map(tuple),
    advance=st.sampled_from(["auto", "evidence", "manual"]),
)
PLANS = st.lists(STAGES, min_size=1, max_size=3).map(lambda stages: Plan("p", tuple(stages)))
NEVER = float("inf")


def number(seconds):
    return NEVER if seconds is None else seconds


@settings(max_examples=60)
@given(PLANS, st.floats(0.01, 1e4), st.floats(1.0, 1e3))
def test_more_traffic_never_makes_anything_later(plan, rate, factor):
    slow, fast = timetable(plan, rate=rate), timetable(plan, rate=rate * factor)
    assert number(fast.least_s) <= number(slow.least_s) * (1 + 1e-9)
    for one_fast, one_slow in zip(fast.reactions, slow.reactions, strict=True):
        assert number(one_fast.total_s) <= number(one_slow.total_s) * (1 + 1e-9)
        assert number(one_fast.worst_s) <= number(one_slow.worst_s) * (1 + 1e-9)


@settings(max_examples=60)
@given(PLANS, st.none() | st.floats(0.01, 1e4))
def test_times_add_up_and_the_worst_is_never_the_best(plan, rate):
    table = timetable(plan, rate=rate)
    assert number(table.least_s) == pytest.approx(sum(number(time.least_s) for time in table.stages))
    for time in table.stages:
        if time.stage.advance != "evidence":
            assert number(time.least_s) >= time.stage.hold_s
        if rate is not None and time.enough is False:
            assert number(time.least_s) > time.stage.hold_s
    for found in table.reactions:
        assert number(found.worst_s) >= number(found.total_s)


def test_nearly_all_breaches_are_found_within_the_time_that_is_given():
    """At twice the limit, with four responses per block: the luck of the draw is most of it."""
    draw, n, share, allowed, level = Random(7), 4, 0.1, 0.05, 14.0
    shares = [(bad / n, comb(n, bad) * share**bad * (1 - share) ** (n - bad)) for bad in range(n + 1)]
    within = outlook(Detector(level), shares, allowed, 1.645)

    def takes():
        detector, bets = Detector(level), 0
        while not detector.alarm:
            detector.bet(sum(draw.random() < share for _ in range(n)) / n, allowed)
            bets += 1
        return bets

    found = sorted(takes() for _ in range(100))
    assert found[90] <= within <= 2 * found[95]
    assert outlook(Detector(level), [(allowed, 1.0)], allowed, 1.645) is None


def test_low_traffic_takes_longer_than_the_mean_share_says():
    thin, dense = (timetable(one(ERRORS, weight=100), rate=rate).reactions[0].worst_s for rate in (200, 20_000))
    assert thin > 20 * dense
