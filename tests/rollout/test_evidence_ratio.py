"""`new` against `stable`: the conditional test, its floor, and whose fault it is when both are over a limit."""

import random
from math import log

import pytest

from proxy.rollout.evidence import ShareEvidence, alarm_at
from proxy.rollout.ratio import Attribution, RatioEvidence, likeness

DAY = 4 * 86_400
AT = alarm_at(0.01, DAY, 2)


def binomial(chance, n, share):
    return sum(chance.random() < share for _ in range(n))


def blocks_to_alarm(judge, block, most=10_000):
    return next((number for number in range(1, most + 1) if not judge.look(*block) and judge.alarm), None)


@pytest.mark.parametrize("stable_n, at_most", [(1980, 12), (180, 12), (20, 30)])
def test_total_failure_of_new_shows_against_stable(stable_n, at_most):
    judge = RatioEvidence(1.0, 0.001, AT)
    for _ in range(1000):
        judge.look(20, 0, stable_n, stable_n // 100)
    assert blocks_to_alarm(judge, (20, 20, stable_n, stable_n // 100)) <= at_most


def test_trouble_that_hits_both_is_no_evidence():
    chance = random.Random(1)
    judge = RatioEvidence(1.5, 0.001, AT)
    for number in range(5000):
        share = 0.5 if number % 100 < 10 else 0.01
        judge.look(20, binomial(chance, 20, share), 60, binomial(chance, 60, share))
        assert not judge.alarm
    assert judge.finding().ratio == pytest.approx(1, abs=0.1)


def test_changing_load_and_weight_are_no_evidence():
    chance = random.Random(2)
    judge = RatioEvidence(1.2, 0.0, AT)
    for number in range(4000):
        n, stable_n = 1 + number % 50, 1 + (number * 7) % 90
        judge.look(n, binomial(chance, n, 0.05), stable_n, binomial(chance, stable_n, 0.05))
        assert not judge.alarm


def test_three_times_as_many_errors_are_found():
    chance = random.Random(3)
    judge = RatioEvidence(1.5, 0.001, AT)
    for _ in range(4 * 300):
        judge.look(20, binomial(chance, 20, 0.03), 60, binomial(chance, 60, 0.01))
        if judge.alarm:
            break
    assert judge.alarm
    assert not judge.finding().within


def test_the_ratio_of_two_tiny_rates_does_not_count_below_the_floor():
    with_floor, without = RatioEvidence(1.5, 0.01, AT), RatioEvidence(1.5, 0.0, AT)
    for _ in range(2000):
        for judge in (with_floor, without):
            judge.look(500, 1, 500, 0)
    assert without.alarm
    assert not with_floor.alarm
    assert with_floor.finding().within
    assert not without.finding().within
    assert with_floor.finding().ratio is None


def test_within_the_floor_is_proven_without_any_bad_response():
    judge = RatioEvidence(1.5, 0.01, AT)
    said = judge.finding().needed_to_prove
    looked = 0
    while not judge.proven:
        judge.look(1, 0, 9, 0)
        looked += 1
    assert said == pytest.approx(looked, abs=2)


def test_within_the_ratio_is_proven_by_where_the_bad_ones_come_from():
    chance = random.Random(4)
    judge = RatioEvidence(1.5, 0.0, AT)
    assert judge.finding().needed_to_prove is None
    for _ in range(10):
        judge.look(50, binomial(chance, 50, 0.02), 50, binomial(chance, 50, 0.02))
    said, at = judge.finding().needed_to_prove, judge.finding().n
    assert not judge.proven
    for _ in range(4000):
        judge.look(50, binomial(chance, 50, 0.02), 50, binomial(chance, 50, 0.02))
        if judge.proven:
            break
    assert judge.proven
    assert 0.2 < said / (judge.finding().n - at) < 5


def test_of_streams_above_the_ratio_few_are_ever_proven():
    chance = random.Random(5)
    wrong = 0
    for _ in range(200):
        judge = RatioEvidence(1.5, 0.001, AT, min_requests=1)
        for _ in range(200):
            judge.look(10, binomial(chance, 10, 0.16), 30, binomial(chance, 30, 0.1))
            if judge.proven:
                wrong += 1
                break
    assert wrong <= 0.05 * 200


def test_without_stable_the_ratio_says_nothing():
    judge = RatioEvidence(1.5, 0.0, AT)
    assert blocks_to_alarm(judge, (20, 20, 0, 0), 1000) is None
    found = judge.finding()
    assert (found.ratio, found.within, found.proven, found.needed_to_prove) == (None, False, False, None)


def test_zero_traffic_and_one_failure_of_three_never_alarm_and_never_pass():
    judge = RatioEvidence(1.0, 0.001, AT, min_requests=1)
    judge.look(1, 1, 0, 0)
    judge.look(1, 0, 3, 0)
    judge.look(1, 0, 3, 0)
    for _ in range(10_000):
        judge.look(0, 0, 100, 1)
        assert not judge.alarm
        assert not judge.proven
    none = RatioEvidence(1.0, 0.001, AT)
    for _ in range(1000):
        none.look(0, 0, 0, 0)
    assert (none.enough, none.alarm, none.proven, none.finding().needed) == (False, False, False, 20)


# --- whose fault ----------------------------------------------------------------------------------------------------


class Court:
    """A limit of 1 % on `new`, and whose fault it is when it fails."""

    def __init__(self, allowed=0.01):
        self.judge, self.whose = ShareEvidence(allowed, AT), Attribution(allowed, AT)

    def look(self, *block):
        """Take in a block; tell whether there is an alarm."""
        self.judge.look(*block)
        self.whose.look(*block, self.judge.span[1:] if self.judge.alarm else None)
        return self.judge.alarm

    def random(self, chance, n, share, stable_n, stable_share):
        return self.look(n, binomial(chance, n, share), stable_n, binomial(chance, stable_n, stable_share))

    def until_alarm(self, *traffic):
        while not self.random(*traffic):
            pass
        return self.whose.shared


@pytest.mark.parametrize("share", [1.0, 0.2])
@pytest.mark.parametrize("n, stable_n", [(20, 1980), (20, 180), (50, 50), (90, 10)])
def test_a_failure_of_both_is_shared_from_the_alarm_on(share, n, stable_n):
    chance, court = random.Random(6), Court()
    for _ in range(1000):
        court.look(n, 0, stable_n, stable_n // 500)
    assert not court.whose.shared
    shared = [court.whose.shared for _ in range(40) if court.random(chance, n, share, stable_n, share)]
    assert len(shared) > 25
    assert all(shared)


@pytest.mark.parametrize("share, n, stable_n", [(0.02, 90, 10), (0.05, 90, 10), (0.05, 20, 20), (0.02, 20, 180)])
def test_a_small_failure_of_both_is_shared_at_any_weight(share, n, stable_n):
    chance = random.Random(9)
    shared = sum(Court().until_alarm(chance, n, share, stable_n, share) for _ in range(40))
    assert shared >= 36


@pytest.mark.parametrize("stable_n", [1980, 180, 20])
def test_a_failure_of_new_alone_is_never_shared(stable_n):
    chance, court = random.Random(7), Court()
    for _ in range(100):
        court.random(chance, 20, 1.0, stable_n, 0.002)
        assert not court.whose.shared


@pytest.mark.parametrize("share, stable_n", [(0.02, 180), (0.02, 20), (0.05, 20), (0.2, 20)])
def test_a_small_failure_of_new_alone_is_its_own_with_stable_near_the_limit(share, stable_n):
    chance = random.Random(10)
    shared = sum(Court().until_alarm(chance, 20, share, stable_n, 0.008) for _ in range(40))
    assert shared <= 2


def test_who_is_frozen_for_a_fault_of_new_alone_is_so_only_until_stable_has_shown_it():
    chance, court = random.Random(11), Court()
    for _ in range(10):
        court.look(90, 18, 10, 1)
    assert court.whose.shared
    blocks = 0
    while court.whose.shared:
        court.random(chance, 90, 0.2, 10, 0.002)
        blocks += 1
    assert blocks <= 8


def test_a_long_shared_fault_that_ends_for_stable_is_soon_the_fault_of_new():
    chance, court = random.Random(12), Court()
    for _ in range(4000):
        court.random(chance, 90, 0.05, 10, 0.05)
    assert court.whose.shared
    blocks = 0
    while court.whose.shared:
        court.random(chance, 90, 0.05, 10, 0.002)
        blocks += 1
    assert blocks < 200


@pytest.mark.parametrize("then", [0.3, 0.03])
def test_a_shared_fault_stays_shared_when_it_becomes_smaller(then):
    chance, court = random.Random(13), Court()
    for _ in range(40):
        court.random(chance, 60, 1.0, 60, 1.0)
    for _ in range(400):
        if court.random(chance, 60, then, 60, then):
            assert court.whose.shared


def test_when_both_are_over_but_new_is_worse_it_is_not_shared():
    chance, court = random.Random(8), Court()
    for _ in range(400):
        court.random(chance, 20, 0.05, 180, 0.05)
    assert court.whose.shared
    for _ in range(20):
        court.random(chance, 20, 0.8, 180, 0.05)
    assert (court.whose.stable_over, court.whose.new_worse, court.whose.shared) == (True, True, False)


@pytest.mark.parametrize("stable", [(0, 0), (10, 0)])
def test_without_bad_responses_of_stable_the_fault_is_of_new(stable):
    court = Court()
    for _ in range(100):
        court.look(20, 20, *stable)
    assert court.judge.alarm
    assert not court.whose.shared


def test_of_a_limit_that_allows_nothing_stable_is_over_with_one():
    court = Court(0.0)
    for _ in range(10):
        court.look(20, 5, 20, 4)
    assert court.judge.alarm
    assert court.whose.shared


def test_likeness_is_how_much_likelier_one_share_is():
    assert likeness((0, 0, 10, 1), 0.01) == likeness((10, 1, 0, 0), 0.01) == 0
    # One share of 1/2: as likely as two that are the same; within the limit: 4 of 8 bad at 10 %.
    assert likeness((8, 4, 8, 4), 0.1) == pytest.approx(log(0.5**8 / (0.1**4 * 0.9**4)))
    # All of new, none of stable: 10 of 20 bad at 1/2, against certainty.
    assert likeness((10, 10, 10, 0), 0.1) == pytest.approx(log(0.5**20))
    # One more bad than responses, as a block may hold.
    assert likeness((10, 11, 10, 11), 0.1) == pytest.approx(log(0.1**-10))
