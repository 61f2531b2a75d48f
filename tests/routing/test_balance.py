"""Two random choices, retries and the budget."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.routing.balance import LEAST, level, share_after, two_choices
from proxy.routing.retry import IDEMPOTENT, SAFE, failover_methods, within_budget
from proxy.routing.table import FULL, Failover

BITS = st.integers(0, 2**32 - 1)


@dataclass
class One:
    load: int
    name: int = 0


@given(st.lists(st.integers(0, 100), min_size=1, max_size=20), BITS)
def test_the_chosen_one_is_never_the_busiest_alone(loads, bits):
    candidates = [One(load, number) for number, load in enumerate(loads)]
    chosen = two_choices(candidates, bits)
    assert chosen in candidates
    if len(loads) > 1:
        assert chosen.load <= sorted(loads)[-2]


@given(BITS)
def test_of_two_the_less_busy_one_is_taken(bits):
    assert two_choices([One(1), One(0)], bits).load == 0
    assert two_choices([One(0), One(1)], bits).load == 0


@pytest.mark.parametrize("count", [2, 3, 7])
def test_equals_get_equal_shares(count):
    draw = random.Random(1)
    candidates = [One(0, number) for number in range(count)]
    shares = Counter(two_choices(candidates, draw.getrandbits(32)).name for _ in range(20_000))
    assert all(abs(shares[number] / 20_000 - 1 / count) < 0.02 for number in range(count))


def test_the_load_stays_level():
    """What stays in flight differs by little, though nobody asks all."""
    draw = random.Random(2)
    candidates = [One(0, number) for number in range(10)]
    for _ in range(10_000):
        two_choices(candidates, draw.getrandbits(32)).load += 1
    loads = [one.load for one in candidates]
    assert max(loads) - min(loads) < 20


def test_methods():
    assert failover_methods(Failover("safe")) == SAFE == {b"GET", b"HEAD", b"OPTIONS", b"TRACE"}
    assert failover_methods(Failover("idempotent")) == IDEMPOTENT == SAFE | {b"PUT", b"DELETE"}
    assert failover_methods(Failover("never")) == frozenset()


@given(st.integers(0, 1000), st.integers(0, 5000), st.floats(0, 1))
def test_the_budget_is_a_share_and_at_least_three(failing_over, in_flight, share):
    assert within_budget(failing_over, in_flight, share) == (failing_over < max(3, in_flight * share))


@given(st.floats(0, 1000), st.floats(0, 1000), st.floats(0.001, 100))
def test_a_share_grows_with_time_and_ends_full(one, other, slow_start_s):
    early, late = sorted((one, other))
    assert LEAST <= share_after(early, slow_start_s) <= share_after(late, slow_start_s) <= FULL
    assert share_after(slow_start_s, slow_start_s) == FULL
    assert share_after(0.0, 0.0) == FULL


def test_the_share_grows_linearly():
    assert [share_after(seconds, 10.0) for seconds in (0, 1, 2.5, 5, 9.9)] == [1000, 1000, 2500, 5000, 9900]


@given(st.integers(LEAST, FULL), BITS)
def test_the_best_always_takes_part(best, bits):
    assert 1 <= level(best, bits) <= best


def test_one_takes_part_in_proportion_to_its_share():
    draw = random.Random(3)
    shares = [FULL, FULL // 4, FULL // 2]
    parts = Counter()
    for _ in range(20_000):
        least = level(max(shares), draw.getrandbits(32))
        parts.update(at for at, share in enumerate(shares) if share >= least)
    assert parts[0] == 20_000
    assert abs(parts[1] / 20_000 - 0.25) < 0.02
    assert abs(parts[2] / 20_000 - 0.5) < 0.02
