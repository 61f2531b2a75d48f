"""Streams that should and should not stop a rollout, through the very `step` and judges of the controller."""

import random
from itertools import cycle, repeat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.metrics.snapshot import Columns, Judged, SignalKey
from proxy.rollout.event import Start
from proxy.rollout.plan import AUTO, PROVEN, SIGNAL, Limit, Plan, ServicePlan, Stage
from proxy.rollout.state import PAUSED, PROGRESSING, ROLLED_BACK, SHARED_FAULT, ServiceState
from proxy.rollout.trial import Trial
from proxy.routing.table import FULL

BLOCK = 0.25
MINUTE, HOUR = 240, 14_400  # in blocks
ERRORS = Limit("error_rate", max=0.01)
P99 = Limit("p99", max=200.0)
BOTH = (ERRORS, P99)
COLUMNS = Columns((200_000,), signals=(SignalKey("hits", "x-cache", "^HIT"),))


class Rollout:
    """A rollout of a day in its first stage; `weight` is of 10,000."""

    def __init__(self, limits=BOTH, *, advance=AUTO, hold_s=86_400.0, min_requests=20, weight=1000):
        stages = (Stage("first", weight, hold_s, min_requests, limits, advance=advance), Stage("all", FULL, 60.0))
        plan = Plan("day", stages)
        around = ServicePlan("web", rollouts=(plan,))
        self.trial = Trial(around, ServiceState(has_new=True), COLUMNS, 0.0)
        self.trial.give(Start(plan, "s", "ann"), 0.0)
        self.blocks = 0
        self.notes = []

    def block(self, n=0, bad=0, stable_n=0, stable_bad=0, slow=0, hung=0, hits=None):
        """One block: `slow` of the `n` that ended were slow; `hung` have passed the limit and not ended."""
        self.blocks += 1
        stable = Judged(stable_n, stable_bad, slow=(0,), fast=(stable_n,), signals=((0, 0),))
        seen = ((0, 0) if hits is None else (n, hits),)
        new = Judged(n, bad, slow=(slow + hung,), fast=(n - slow,), signals=seen)
        self.notes += self.trial.block(self.blocks * BLOCK, stable, new)

    def until_rolled_back(self, stream, most):
        """Return after how many blocks of the stream it was rolled back, `None` if it was not in `most`."""
        for number, counts in zip(range(1, most + 1), stream, strict=False):
            self.block(*counts)
            if self.phase == ROLLED_BACK:
                return number
        return None

    @property
    def phase(self):
        return self.trial.state.phase

    @property
    def stage(self):
        return self.trial.state.rollout.stage

    @property
    def words(self):
        return [verdict.word for verdict in self.trial.verdicts]


def drawn(chance, rate, share, stable=(0.0, 0.0)):
    """Yield blocks with so many requests per second on new, of which `share` are bad; the same for stable."""

    def poisson(mean):
        if mean > 50:
            return max(0, round(chance.gauss(mean, mean**0.5)))
        count, left = 0, chance.expovariate(1.0)
        while left < mean:
            count, left = count + 1, left + chance.expovariate(1.0)
        return count

    def bad(n, part):
        if n * part > 20 and n * (1 - part) > 20:
            return min(n, max(0, round(chance.gauss(n * part, (n * part * (1 - part)) ** 0.5))))
        return sum(chance.random() < part for _ in range(n)) if part else 0

    while True:
        n, stable_n = poisson(rate * BLOCK), poisson(stable[0] * BLOCK)
        yield n, bad(n, share), stable_n, bad(stable_n, stable[1])


# --- no traffic, little traffic --------------------------------------------------------------------------------------


@pytest.mark.parametrize("advance", [AUTO, PROVEN])
@pytest.mark.parametrize("stable_n", [0, 500])
def test_without_a_request_on_new_nothing_ever_moves(advance, stable_n):
    rollout = Rollout(advance=advance, hold_s=60.0)
    for _ in range(HOUR // 8):
        rollout.block(stable_n=stable_n, stable_bad=stable_n // 100)
    assert (rollout.phase, rollout.stage) == (PROGRESSING, 0)
    assert rollout.words == ["INCONCLUSIVE"] * 2


@pytest.mark.parametrize("position", [0, 1, 2])
@pytest.mark.parametrize("apart", [0, 3, 400])
def test_one_failing_request_out_of_three_never_rolls_back_and_never_advances(position, apart):
    rollout = Rollout(hold_s=60.0, min_requests=0)
    for number in range(3):
        rollout.block(1, number == position, stable_n=100)
        for _ in range(apart):
            rollout.block(stable_n=100)
    for _ in range(HOUR // 8):
        rollout.block(stable_n=100)
    assert (rollout.phase, rollout.stage) == (PROGRESSING, 0)


@pytest.mark.slow
@given(
    pulses=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 60)), max_size=9),
    advance=st.sampled_from([AUTO, PROVEN]),
)
def test_pulses_of_less_than_it_asks_for_move_nothing(pulses, advance):
    # At most 18 requests, some or all of them bad, with any pauses between them.
    rollout = Rollout(advance=advance, hold_s=5.0)
    for number, (n, pause) in enumerate(pulses):
        rollout.block(n, n * (number % 2), stable_n=50)
        for _ in range(pause):
            rollout.block(stable_n=50)
    assert (rollout.phase, rollout.stage) == (PROGRESSING, 0)


@pytest.mark.parametrize("rate, most_s", [(1, 35), (10, 10), (20, 1.25), (10_000, 1.25)])
def test_total_failure_is_found_at_any_rate(rate, most_s):
    rollout = Rollout()
    chance = random.Random(5)
    good = drawn(chance, rate, 0.0)
    for _ in range(5 * MINUTE):
        rollout.block(*next(good))
    found = rollout.until_rolled_back(drawn(chance, rate, 1.0), MINUTE)
    assert found * BLOCK <= most_s


# --- what is wrong must be found -------------------------------------------------------------------------------------


def test_a_failure_that_begins_in_the_night_is_found_as_fast():
    rollout = Rollout()
    chance = random.Random(6)
    for rate in (800, 400, 200, 100, 40):
        for _, counts in zip(range(MINUTE), drawn(chance, rate, 0.002), strict=False):
            rollout.block(*counts)
    assert rollout.until_rolled_back(drawn(chance, 40, 1.0), 100) <= 5


def test_a_failure_that_drives_the_clients_away_is_found():
    # 400 requests/s, then 8: too few for the bets that are usual, until what is usual has changed.
    rollout = Rollout()
    chance = random.Random(7)
    for _, counts in zip(range(MINUTE), drawn(chance, 400, 0.0), strict=False):
        rollout.block(*counts)
    assert rollout.until_rolled_back(drawn(chance, 8, 1.0), MINUTE) <= 40


def test_failures_that_recover_add_up_to_what_they_are():
    # Half a second of total failure every ten seconds are 5 % bad.
    rollout = Rollout()
    assert rollout.until_rolled_back(cycle([(20, 20)] * 2 + [(20, 0)] * 38), 20 * MINUTE) is not None


@pytest.mark.slow
def test_half_of_what_is_allowed_in_failures_of_a_block_is_allowed():
    rollout = Rollout()
    assert rollout.until_rolled_back(cycle([(20, 20)] + [(20, 0)] * 199), HOUR) is None


@pytest.mark.parametrize("times, rate, most", [(1.5, 400, 10 * MINUTE), (3.0, 80, 5 * MINUTE), (20.0, 20, MINUTE)])
def test_over_the_limit_is_found_in_the_end(times, rate, most):
    assert Rollout().until_rolled_back(drawn(random.Random(8), rate, times * 0.01), most) is not None


@pytest.mark.slow
@pytest.mark.parametrize("rate", [1, 20, 400])
def test_just_under_the_limit_is_left_alone(rate):
    assert Rollout().until_rolled_back(drawn(random.Random(9), rate, 0.009), HOUR // 2) is None


@pytest.mark.slow
def test_just_under_the_limit_in_pulses_is_left_alone():
    chance = random.Random(10)
    busy, quiet = drawn(chance, 800, 0.009), drawn(chance, 4, 0.009)
    pulses = (next(busy if number % 40 < 4 else quiet) for number in range(HOUR))
    assert Rollout().until_rolled_back(pulses, HOUR) is None


# --- every kind of limit ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "limit, blocks",
    [
        (Limit("error_rate", max=0.0001), 4),
        (Limit("error_rate", max=0.5), 26),
        (Limit("availability", min=0.99), 4),
        (Limit("availability", min=0.9), 8),
    ],
)
def test_total_failure_takes_what_the_limit_lets_a_bet_win(limit, blocks):
    rollout = Rollout((limit,))
    for _ in range(MINUTE):
        rollout.block(20)
    assert rollout.until_rolled_back(repeat((20, 20)), 100) == blocks


@pytest.mark.parametrize("metric, blocks", [("p50", 26), ("p95", 6), ("p99", 4), ("p999", 4)])
def test_those_that_hang_are_slower_than_any_limit(metric, blocks):
    rollout = Rollout((Limit(metric, max=200.0),))
    for _ in range(MINUTE):
        rollout.block(20)
    for _ in range(blocks):
        assert rollout.phase == PROGRESSING
        rollout.block(hung=20)
    assert rollout.phase == ROLLED_BACK
    assert rollout.notes[-1].evidence["slower"] == 20 * blocks


def test_a_latency_is_judged_by_the_share_that_is_slower():
    rollout = Rollout((P99,))
    for number in range(HOUR // 8):
        rollout.block(100, slow=number % 4 < 3)  # 0.75 %
    assert rollout.words == ["PASS"]
    for number in range(HOUR // 8):
        rollout.block(100, slow=2 + number % 2)  # 2.5 %
    assert rollout.phase == ROLLED_BACK


def test_a_signal_that_falls_is_found():
    rollout = Rollout((Limit("hits", min=0.6, source=SIGNAL),))
    for _ in range(MINUTE):
        rollout.block(20, hits=15)
    for _ in range(100):
        rollout.block(20, hits=4)
    assert rollout.phase == ROLLED_BACK


# --- the four words --------------------------------------------------------------------------------------------------


def test_what_each_word_says():
    rollout = Rollout((ERRORS,))
    rollout.block(19, 19)
    assert rollout.words == ["INCONCLUSIVE"]  # fewer than asked for
    rollout = Rollout((ERRORS,))
    rollout.block(200, 3)
    assert rollout.words == ["INCONCLUSIVE"]  # over the limit, without enough evidence
    rollout.block(200, 0)
    assert rollout.words == ["PASS"]  # enough, no alarm, measured within
    for _ in range(10):
        rollout.block(20, 20)
    assert rollout.words == ["FAIL"]
    rollout = Rollout((Limit("p99", max=333.0),))  # the workers do not count this one
    for _ in range(1000):
        rollout.block(20)
    assert (rollout.words, rollout.phase) == (["ERROR"], PROGRESSING)


# --- whose fault it is -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [1.0, 0.2])
@pytest.mark.parametrize("stable_rate", [8000, 720, 80])
def test_when_both_fail_together_nobody_is_rolled_back(share, stable_rate):
    chance = random.Random(11)
    rollout = Rollout()
    for _, counts in zip(range(MINUTE), drawn(chance, 80, 0.0, (stable_rate, 0.002)), strict=False):
        rollout.block(*counts)
    assert rollout.until_rolled_back(drawn(chance, 80, share, (stable_rate, share)), MINUTE) is None
    assert SHARED_FAULT in [note.reason for note in rollout.notes]
    assert rollout.stage == 0


@pytest.mark.parametrize("stable_rate, most", [(8000, 20), (720, 20), (80, 60)])
def test_new_that_fails_while_stable_is_over_the_limit_is_rolled_back(stable_rate, most):
    chance = random.Random(12)
    rollout = Rollout()
    for _, counts in zip(range(MINUTE), drawn(chance, 80, 0.05, (stable_rate, 0.05)), strict=False):
        rollout.block(*counts)
    assert rollout.phase == PAUSED
    assert rollout.until_rolled_back(drawn(chance, 80, 1.0, (stable_rate, 0.05)), MINUTE) <= most
