"""Made-up traffic has the shares that it should have, and rollouts in it go as the rule says."""

import random
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.metrics.snapshot import Columns, Judged
from proxy.rollout.event import Start
from proxy.rollout.plan import HOLD, MANUAL, PROVEN, ROLLBACK, Hook, Hooks, Limit, Plan, ServicePlan, Stage
from proxy.rollout.simulate import (
    Part,
    Source,
    World,
    blocks_at_most,
    geometric,
    poisson,
    prepared,
    run,
    spread,
    summary,
)
from proxy.rollout.state import ServiceState
from proxy.rollout.trial import Trial

ERRORS = Limit("error_rate", max=0.01)
P99 = Limit("p99", max=200.0)
PLAN = Plan(
    "short",
    (Stage("one", 1000, 10.0, 50, (ERRORS, P99)), Stage("two", 5000, 10.0, 50, (ERRORS,)), Stage("all", 10_000, 10.0)),
)
AROUND = ServicePlan("web", rollouts=(PLAN,))


def play(world, plan=PLAN, around=AROUND, seed=1):
    kept, around, _ = prepared(plan, around)
    return run(kept, around, world, random.Random(seed).random)


# --- chance --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mean", [0.3, 4.0, 49.0, 200.0])
def test_arrivals_have_their_mean_and_spread(mean):
    chance = random.Random(5).random
    numbers = [poisson(mean, chance) for _ in range(4000)]
    middle = sum(numbers) / 4000
    assert abs(middle - mean) < 5 * (mean / 4000) ** 0.5
    assert 0.85 < sum((number - middle) ** 2 for number in numbers) / 4000 / mean < 1.15
    assert poisson(0, chance) == 0


def test_geometric_numbers_begin_at_one_and_have_their_mean():
    chance = random.Random(5).random
    numbers = [geometric(0.2, chance) for _ in range(4000)]
    assert min(numbers) == 1
    assert 4.6 < sum(numbers) / 4000 < 5.4
    assert geometric(1.0, chance) == 1


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.002, 0.05, 0.5])
@pytest.mark.parametrize("burst", [1.0, 5.0])
def test_bad_ones_have_their_share_however_long_their_bursts_are(share, burst):
    source = Source(share, 0.01, burst, random.Random(3).random)
    blocks = [source.block(40.0, (1, 0)) for _ in range(10_000)]
    n, bad, slow = (sum(column) for column in zip(*((one.ended, one.bad, one.slow[0]) for one in blocks), strict=True))
    # In bursts the spread is larger, by about twice their mean length.
    assert abs(bad - share * n) < 5 * (2 * burst * share * n) ** 0.5
    assert abs(slow - 0.01 * n) < 5 * (0.01 * n) ** 0.5
    assert all(block.slow[0] + block.fast[0] == block.ended >= block.bad for block in blocks)


def test_all_and_nothing_are_exact():
    chance = random.Random(3).random
    everything, nothing = Source(1.0, 1.0, 5.0, chance), Source(0.0, 0.0, 5.0, chance)
    for _ in range(100):
        block = everything.block(3.0, (1, 1))
        assert (block.bad, block.slow, block.ttfb_fast) == (block.ended, (block.ended,), (0,))
        assert (nothing.block(3.0, (1, 1)).bad, nothing.block(3.0, (1, 1)).slow) == (0, (0,))


# --- rollouts ------------------------------------------------------------------------------------------------------


def test_a_good_version_goes_through_all_stages_and_takes_as_long_as_their_holds():
    found = play(World(400.0))
    assert (found.phase, found.stage) == ("completed", "all")
    assert 30.0 <= found.seconds < 32.0


def test_a_failing_one_is_rolled_back_in_the_first_stage():
    found = play(World(800.0, new_error_rate=1.0))
    assert (found.phase, found.reason, found.stage) == ("rolled_back", "ErrorRateAboveLimit", "one")
    assert found.seconds <= 1.5
    assert found.bad == found.requests


def test_a_slow_one_is_rolled_back_and_a_fault_that_comes_later_is_timed_from_its_beginning():
    world = World(800.0, new_slow_rate=1.0, fault_s=5.0)
    found = play(world)
    assert found.reason == "P99AboveLimit"
    assert 5.0 < found.seconds <= 6.5
    assert summary([found], world)["detect_s"]["max"] == found.seconds - 5.0


def test_a_fault_of_both_freezes_the_ramp():
    found = play(World(2000.0, new_error_rate=0.5, stable_error_rate=0.5))
    assert (found.phase, found.reason) == ("paused", "SharedFault")


def test_without_traffic_nothing_ever_moves():
    found = play(World(0.0))
    assert (found.phase, found.stage, found.seconds) == ("progressing", "one", 60.0)


def test_too_little_traffic_waits_until_max_hold_and_then_does_what_the_plan_says():
    plan = replace(PLAN, max_hold_s=5.0, on_max_hold=ROLLBACK)
    found = play(World(1.0), plan, replace(AROUND, rollouts=(plan,)))
    assert (found.phase, found.reason, found.seconds) == ("rolled_back", "MaxHoldOver", 15.0)


def test_evidence_opens_the_next_stage_earlier_and_manual_ones_are_promoted():
    proven = replace(PLAN, stages=tuple(replace(stage, hold_s=600.0, advance=PROVEN) for stage in PLAN.stages[:2]))
    proven = replace(proven, stages=(*proven.stages, replace(PLAN.stages[2], advance=MANUAL)))
    found = play(World(400.0), proven)
    assert found.phase == "completed"
    assert found.seconds < 400.0


def test_hooks_before_stages_say_go():
    plan = replace(PLAN, hooks=Hooks(before_stage=Hook(url="http://127.0.0.1:1")))
    assert play(World(400.0), plan).phase == "completed"


def test_at_100_percent_stable_is_its_record():
    ratio = Limit("error_rate", max_ratio=2.0, floor=0.001)
    plan = replace(PLAN, stages=(*PLAN.stages[:2], replace(PLAN.stages[2], limits=(ratio,))))
    assert play(World(2000.0, new_error_rate=0.002, stable_error_rate=0.002), plan).phase == "completed"
    found = play(World(2000.0, new_error_rate=0.5, stable_error_rate=0.002, fault_s=22.0), plan)
    assert (found.reason, found.stage) == ("ErrorRateAboveStable", "all")


def test_limits_that_counts_cannot_say_are_taken_as_met_and_named():
    stage = Stage(
        "one",
        1000,
        5.0,
        limits=(ERRORS, Limit("memory", max=1.0, source="check")),
        require=(Limit("p95", max_ratio=0.6, action=HOLD), Limit("error_rate", max=0.02, action=HOLD)),
    )
    plan = Plan("p", (stage,))
    around = ServicePlan("web", limits=(P99, Limit("hits", min=0.5, source="signal")))
    kept, service, left_out = prepared(plan, around)
    assert sorted(limit.metric for limit in left_out) == ["hits", "memory", "p95"]
    assert service.limits == (P99,)
    assert kept.stages[0].limits == (ERRORS,)
    assert play(World(400.0), plan, around).phase == "completed"


def test_the_same_chance_gives_the_same_run_and_no_run_is_endless():
    world = World(300.0, new_error_rate=0.03, burst=4.0)
    assert play(world, seed=7) == play(world, seed=7)
    assert len({play(world, seed=seed).seconds for seed in range(5)}) > 1
    assert blocks_at_most(PLAN, AROUND, replace(world, longest_s=4.0)) == 16
    assert play(World(400.0, longest_s=4.0)).seconds == 4.0


@settings(max_examples=40)
@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60), st.integers(0, 300), st.integers(0, 300)), max_size=200)
)
def test_no_stream_lets_a_stage_go_on_early_unless_all_is_proven(blocks):
    stages = tuple(replace(stage, hold_s=20.0, advance=PROVEN) for stage in PLAN.stages)
    plan = replace(PLAN, stages=stages)
    trial = Trial(replace(AROUND, rollouts=(plan,)), ServiceState(has_new=True), Columns((200_000,)), 0.0)
    trial.give(Start(plan, "s", "ann"), 0.0)
    weights = []
    for number, (n, bad, stable_n, stable_bad) in enumerate(blocks, 1):
        stable = Judged(stable_n, min(bad, stable_bad, stable_n), slow=(0,), fast=(stable_n,))
        notes = trial.block(number * 0.25, stable, Judged(n, min(n, bad), slow=(0,), fast=(n,)))
        for note in notes:
            if note.reason == "Proven":
                assert note.evidence["proven"]
                assert note.evidence["requests"] >= 50
        weights.append(trial.state.weight_bp)
    until = next((index for index, weight in enumerate(weights) if not weight), len(weights))
    assert all(before <= after for before, after in pairwise(weights[:until]))
    assert not any(weights[until:])


# --- the sum -------------------------------------------------------------------------------------------------------


def test_the_sum_counts_phases_with_their_intervals():
    world = World(800.0, new_error_rate=1.0)
    found = summary([play(world, seed=seed) for seed in range(4)], world)
    assert found["rolled_back"] == {"runs": 4, "share": 1.0, "low": 0.3976, "high": 1.0}
    assert found["completed"]["runs"] == found["paused"]["runs"] == found["not_over"]["runs"] == 0
    assert found["reasons"] == {"ErrorRateAboveLimit": 4}
    assert found["stages"] == {"one": 4}
    assert found["finish_s"] is None
    assert found["detect_s"]["p50"] <= found["detect_s"]["max"] <= 1.5


def test_intervals_are_those_of_clopper_and_pearson():
    low, high = Part(5, 50).interval
    assert (round(low, 4), round(high, 4)) == (0.0333, 0.2181)
    assert Part(0, 300).interval[0] == 0.0
    assert round(Part(0, 300).interval[1], 4) == 0.0122
    assert Part(4, 4).interval[1] == 1.0
    many = Part(5000, 10_000).interval
    assert (round(many[0], 4), round(many[1], 4)) == (0.4902, 0.5098)


def test_a_spread_is_made_of_values_that_there_were():
    assert spread([]) is None
    assert spread([float(number) for number in range(1, 101)]) == {"p50": 50.0, "p95": 95.0, "max": 100.0}
