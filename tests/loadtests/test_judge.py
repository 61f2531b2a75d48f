"""The judge's simulation is the judge's arithmetic; a short version of what it has to reach."""

import math
import random

import numpy as np
import pytest

from loadtests.judge.__main__ import main
from loadtests.judge.counts import Counted
from loadtests.judge.scenarios import (
    AT,
    NEVER,
    OTHERS,
    PRODUCT,
    Failure,
    Fault,
    blamed,
    failing,
    healthy_days,
    near,
    outage,
    settings_on_healthy_days,
)
from loadtests.judge.streams import DAY, WHOLE, Healthy, blocks, in_bursts
from loadtests.judge.vectorised import Attributions, Naive, RatioAlarms, ShareAlarms
from proxy.rollout.evidence import ShareAlarm, alarm_at
from proxy.rollout.ratio import Attribution, RatioEvidence

RUNS = 40


def chance(number=1):
    return np.random.default_rng(number)


# --- the same arithmetic ----------------------------------------------------------------------------------------


def streams(blocks_of_each):
    """Random streams that have it all: nothing, little, much; well, in trouble, one bad more than responses."""
    made = random.Random(11)
    for number in range(blocks_of_each):
        rows = []
        for run in range(RUNS):
            n = made.choice((0, 0, 1, 2)) if run % 3 == 0 else made.randrange(30)
            share = made.choice((0.0, 0.3, 1.0)) if number % 150 > 100 else 0.002
            bad = sum(made.random() < share for _ in range(n)) + (made.random() < 0.001)
            stable_n = 0 if made.random() < 0.1 else made.randrange(300)
            rows.append((n, bad, stable_n, min(stable_n, made.choice((0, 0, 1, 5)))))
        yield rows


@pytest.mark.parametrize("allowed", [0.001, 0.01, 0.05])
def test_many_fixed_limits_are_one_many_times(allowed):
    many, ones = ShareAlarms(RUNS, allowed, AT), [ShareAlarm(allowed, AT) for _ in range(RUNS)]
    alarms = 0
    for rows in streams(600):
        found = many.look(np.array([row[0] for row in rows], float), np.array([row[1] for row in rows], float))
        for one, (n, bad, _, _) in zip(ones, rows, strict=True):
            one.look(n, bad)
        exact = np.array([one.detector.evidence for one in ones])
        assert np.allclose(many.detectors.evidence, exact, rtol=1e-12, atol=1e-12)
        assert found.tolist() == [one.detector.alarm for one in ones]
        alarms += found.sum()
    assert alarms


@pytest.mark.slow
def test_many_ratios_are_one_many_times():
    many = RatioAlarms(RUNS, 1.5, 0.001, AT)
    ones = [RatioEvidence(1.5, 0.001, AT, min_requests=1) for _ in range(RUNS)]
    alarms = 0
    for rows in streams(1000):
        found = many.look(*(np.array(column, float) for column in zip(*rows, strict=True)))
        for one, row in zip(ones, rows, strict=True):
            one.look(*row)
        assert np.allclose(many.evidence, np.array([one.evidence for one in ones]), rtol=1e-12, atol=1e-12)
        assert found.tolist() == [one.alarm for one in ones]
        alarms += found.sum()
    assert alarms


@pytest.mark.parametrize("allowed", [0.001, 0.01, 0.05])
def test_many_attributions_are_one_many_times(allowed):
    many = Attributions(RUNS, allowed, AT)
    ones = [(ShareAlarm(allowed, AT), Attribution(allowed, AT)) for _ in range(RUNS)]
    shared = 0
    for rows in streams(600):
        for run in range(1, RUNS, 2):  # where stable fails as often
            n, bad, stable_n, _ = rows[run]
            rows[run] = (n, bad, stable_n, -(-stable_n * min(n, bad) // max(1, n)))
        alarms, found = many.look(*(np.array(column, float) for column in zip(*rows, strict=True)))
        for (alarm, whose), row in zip(ones, rows, strict=True):
            alarm.look(*row)
            whose.look(*row, alarm.span[1:] if alarm.detector.alarm else None)
        assert alarms.tolist() == [alarm.detector.alarm for alarm, _ in ones]
        assert found.tolist() == [whose.shared for _, whose in ones]
        shared += found.sum()
    assert shared


# --- what it has to reach, in short -----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("rate", [20, 80, 400])
def test_total_failure_is_decided_within_five_blocks(rate):
    alarms, naive = failing(Failure(rate=rate, poisson=False), 200, chance())
    assert (alarms <= 5).mean() >= 0.95
    assert (naive > alarms).all()


@pytest.mark.slow
def test_total_failure_of_random_arrivals_is_decided_within_five_blocks():
    alarms, _ = failing(Failure(rate=20, blocks=300), 200, chance())
    assert (alarms <= 5).mean() >= 0.95


@pytest.mark.parametrize("rate, share, most", [(20, 1, 5), (80, 1, 5), (400, 1, 5), (80, 0.2, 10), (400, 0.2, 10)])
def test_a_failure_that_begins_at_any_instant_is_decided_as_fast(rate, share, most):
    alarms, _ = failing(Failure(rate=rate, share=share, within=True, blocks=300), 200, chance())
    assert (alarms <= most).mean() >= 0.95


def test_bets_on_the_whole_share_alone_are_late_or_forgive_less():
    late = failing(Failure(rate=80, within=True, blocks=40), 200, chance(), OTHERS[0])[0]
    assert (late <= 5).mean() < 0.8
    assert outage(0.9, 80, 200, chance(), OTHERS[-1]).hits > outage(0.9, 80, 200, chance()).hits


@pytest.mark.parametrize("poisson", [True, False])
def test_a_fifth_bad_is_decided_within_ten_blocks(poisson):
    alarms, _ = failing(Failure(rate=80, share=0.2, poisson=poisson), 200, chance())
    assert (alarms <= 10).mean() >= 0.95


@pytest.mark.parametrize("weight", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("share", [0.05, 0.2, 1.0])
def test_a_fault_of_both_freezes_the_ramp(weight, share):
    found = blamed(Fault(weight, 400, share, before=100, after=40), 100, chance())
    assert found.frozen.mean() >= 0.95
    assert (found.rolled_back == NEVER).mean() >= 0.95


@pytest.mark.parametrize("weight", [0.1, 0.5])
def test_a_fault_of_both_that_comes_in_bursts_freezes_the_ramp(weight):
    found = blamed(Fault(weight, 400, 0.2, burst=5, before=100, after=40), 100, chance())
    assert (found.rolled_back == NEVER).mean() >= 0.95


@pytest.mark.parametrize("weight, healthy", [(0.1, 0.8), (0.5, 0.8), (0.9, 0.2)])
@pytest.mark.parametrize("share, most", [(0.05, NEVER), (0.2, 10), (1.0, 5)])
def test_a_fault_of_new_alone_is_rolled_back_as_fast_as_without_stable(weight, healthy, share, most):
    fault = Fault(weight, 400, share, shared=False, healthy=healthy, before=100, after=200)
    found = blamed(fault, 100, chance())
    assert (found.rolled_back <= most).mean() >= 0.95
    assert (found.rolled_back - found.alarmed > 8).mean() <= 0.01


def test_who_is_frozen_with_little_known_of_stable_is_rolled_back_later():
    found = blamed(Fault(0.9, 80, 0.05, shared=False, healthy=0.8, before=100), 200, chance())
    assert 0.1 < found.frozen.mean() < 0.5
    assert (found.rolled_back < NEVER).mean() > 0.9


@pytest.mark.slow
def test_a_healthy_hour_is_left_alone_and_the_naive_rule_does_not():
    (days,) = healthy_days([Healthy()], 30, [chance()], hours=1)
    assert days.fixed.hits == 0
    assert days.ratio.hits == 0
    assert days.naive.hits > 15


@pytest.fixture
def short_hours(monkeypatch):
    monkeypatch.setattr("loadtests.judge.streams.HOUR", 1000)


@pytest.mark.slow
@pytest.mark.usefixtures("short_hours")
def test_services_side_by_side_are_judged_as_alone():
    services = [Healthy(errors=30.0), Healthy(burst=20, weight=0.5)]
    both = healthy_days(services, 3, [chance(1), chance(2)], hours=1)
    alone = [healthy_days([healthy], 3, [chance(number)], hours=1)[0] for number, healthy in enumerate(services, 1)]
    assert both == alone
    assert both[0].fixed.hits == 3


def test_nearer_to_the_limit_takes_longer_and_under_it_for_ever():
    half, twice = (np.median(near(0.01, times, 400, 40, 300, chance())) for times in (1.5, 2.0))
    assert twice < half < NEVER
    assert (near(0.01, 0.9, 400, 40, 300, chance()) == NEVER).all()


@pytest.mark.usefixtures("short_hours")
def test_settings_are_compared_on_the_same_days():
    found = settings_on_healthy_days((PRODUCT, PRODUCT, *OTHERS), Healthy(burst=20), 3, chance(), hours=1)
    assert found[0] == found[1]
    assert len(found) == 2 + len(OTHERS)


def test_what_is_shorter_than_three_blocks_is_forgiven_and_six_are_not():
    assert outage(0.75, 80, 200, chance()).hits == 0
    assert outage(1.5, 80, 200, chance()).hits == 200


# --- the traffic ------------------------------------------------------------------------------------------------


def test_healthy_traffic_is_what_it_says():
    healthy = Healthy(weight=0.2, swing=0.0)
    seen = [block for block, _ in zip(blocks(healthy, 20, 1, chance()), range(2000), strict=False)]
    n, bad, slow, stable_n, stable_bad = (
        sum(getattr(block, name).sum() for block in seen) for name in ("n", "bad", "slow", "stable_n", "stable_bad")
    )
    assert n / 40_000 == pytest.approx(20, rel=0.01)
    assert stable_n / n == pytest.approx(4, rel=0.01)
    assert bad / n == pytest.approx(0.002, rel=0.15)
    assert stable_bad / stable_n == pytest.approx(0.002, rel=0.1)
    assert slow / n == pytest.approx(healthy.slow, rel=0.05)
    assert healthy.slow == pytest.approx(0.0075, abs=0.0002)


def test_bursts_have_their_share_and_length():
    n = np.ones((1, 2_000_000), dtype=np.int64)
    bad = in_bursts(n, 0.002, 5, chance())[0]
    bursts = int((np.diff(bad) == 1).sum())
    assert bad.max() == 1
    assert bad.mean() == pytest.approx(0.002, rel=0.1)
    assert bad.sum() / bursts == pytest.approx(5, rel=0.1)


def test_of_the_bursts_of_the_whole_service_a_version_gets_its_share():
    healthy = Healthy(weight=0.01, per_block=0.4, swing=0.0, of=WHOLE)
    seen = [block for block, _ in zip(blocks(healthy, 50, 1, chance()), range(14_400), strict=False)]
    n, bad = sum(block.n.sum() for block in seen), sum(block.bad.sum() for block in seen)
    assert n / len(seen) / 50 == pytest.approx(0.4, rel=0.02)
    assert bad / n == pytest.approx(0.002, rel=0.2)
    assert max(block.bad.max() for block in seen) <= 3


def test_a_day_has_its_night():
    night = next(blocks(Healthy(), 100, 1, chance()))
    assert night.n.mean() == pytest.approx(14, rel=0.1)
    assert DAY == 345_600


# --- counts and report ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hits, runs", [(0, 300), (3, 300), (190, 200), (5, 5), (1, 2)])
def test_the_bounds_are_those_of_clopper_and_pearson(hits, runs):
    def at_least(k, p):
        return sum(math.comb(runs, i) * p**i * (1 - p) ** (runs - i) for i in range(k, runs + 1))

    counted = Counted(hits, runs)
    assert at_least(hits, counted.low) == pytest.approx(0.025 if hits else 1)
    assert 1 - at_least(hits + 1, counted.high) == pytest.approx(0.025 if hits < runs else 1)


def test_three_breached_windows_in_a_row():
    naive = Naive(1, 0.01)
    found = [bool(naive.look(np.array([250.0]), np.array([bad]))[0]) for bad in (3.0,) * 4 + (0.0,) * 2 + (3.0,) * 6]
    assert found.index(True) == 11


@pytest.mark.slow
def test_the_report_says_how_it_was_made_and_begins_with_what_was_asked(capsys):
    assert main(["--runs", "5", "--hours", "1", "--parts", "cost,outages", "--seed", "3"]) == 0
    said = capsys.readouterr().out
    assert "seed 3" in said
    assert said.index("## Targets") < said.index("## Cost") < said.index("## Everything fails")
    assert "| all bad for 0.75 s at 80/s: ≤ 5 % rolled back | 0 of 5 (0.0 – 52.2 %) | met |" in said
    assert alarm_at(0.01, DAY, 2) == AT


@pytest.mark.slow
@pytest.mark.slow
def test_the_report_says_whose_fault_it_is(capsys, monkeypatch):
    monkeypatch.setattr("loadtests.judge.__main__.FAULTS", (1.0, 0.2))
    monkeypatch.setattr("loadtests.judge.__main__.FAULT_RATES", (400,))
    assert main(["--runs", "4", "--parts", "shared"]) == 0
    said = capsys.readouterr().out
    assert "| a fault of both at weight 50 %: ≥ 95 % frozen, in the worst row | 4 of 4 (39.8 – 100.0 %) | met |" in said
    assert "| `new` alone, weight 10 %, stable 0.8 %: ≤ 1 % frozen for more than 8 blocks, in the worst row |" in said
    assert "| `new` alone 100 % bad, weight 10 %, stable 0.8 %: 5 blocks in ≥ 95 %, in the worst row | 4 of 4 " in said
    assert "| 20 % in bursts | 80 |" in said


def test_without_a_part_that_has_targets_there_are_none(capsys):
    assert main(["--parts", "cost"]) == 0
    assert "Targets" not in capsys.readouterr().out
