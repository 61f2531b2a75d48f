"""The window judge: exact limits, `for`, `after`, too few requests, and what it says of hung ones."""

from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.metrics.snapshot import Columns, Judged, nothing
from proxy.metrics.window import Window
from proxy.rollout.analysis import ERROR, FAIL, INCONCLUSIVE, PASS, Sight, evidence, reason_of
from proxy.rollout.judges import Court, judge_for
from proxy.rollout.plan import QUANTILES, Limit, ServicePlan

PLAN = ServicePlan("web")
BLOCK = 0.25
THRESHOLDS = (100_000, 200_000)


class Stream:
    """Totals of one version, block after block, and a judge that looks at each."""

    def __init__(self, limit, began=0.0):
        self.limit = replace(limit, window_s=limit.window_s or 10.0)
        self.judge = self.made(began)
        self.window = Window(Columns(THRESHOLDS))
        self.total = Judged(slow=(0, 0), fast=(0, 0))
        self.now = 0.0
        self.block = 0
        self.window.append(0.0, self.total)

    def made(self, began):
        return judge_for(Court(PLAN, Columns(THRESHOLDS), began, alarm_at=13.0), self.limit)

    def add(self, ended=0, bad=0, diverted=0, client_errors=0, slow=0, late_s=BLOCK):
        part = Judged(ended, bad, diverted, client_errors, (slow, slow), (ended - min(slow, ended),) * 2)
        self.total += part
        self.now += late_s
        self.block += 1
        self.window.append(self.now, self.total)
        sight = Sight(
            totals=(nothing(2), self.total),
            over=lambda version, seconds: self.window.over(seconds) if version else (nothing(2), seconds),
            histogram=lambda version, seconds, *, first_byte: {},
        )
        self.judge.look(sight, self.now, self.block)
        return self.judge.verdict()


def test_errors_over_the_limit_fail_and_the_evidence_says_how_many_of_how_many():
    stream = Stream(Limit("error_rate", max=0.01))
    assert stream.add(ended=50).word == PASS
    verdict = stream.add(ended=50, bad=2)
    assert (verdict.word, verdict.due, verdict.n, verdict.count) == (FAIL, True, 100, 2)
    shown = evidence(verdict)
    assert shown == {
        "metric": "error_rate",
        "version": "new",
        "verdict": "FAIL",
        "value": 0.02,
        "limit": 0.01,
        "unit": "ratio",
        "n": 100,
        "bad": 2,
        "window_s": 0.5,
        "blocks": [1, 2],
        "judge": "window",
        "held_s": 0.0,
    }


def test_exactly_the_limit_is_within_it():
    assert Stream(Limit("error_rate", max=0.29)).add(ended=100, bad=29).word == PASS
    assert Stream(Limit("error_rate", max=0.29)).add(ended=100, bad=30).word == FAIL
    assert Stream(Limit("availability", min=0.99)).add(ended=100, bad=1).word == PASS
    assert Stream(Limit("availability", min=0.99)).add(ended=100, bad=2).word == FAIL
    assert Stream(Limit("p99", max=200)).add(ended=100, slow=1).word == PASS
    assert Stream(Limit("p99", max=200)).add(ended=100, slow=2).word == FAIL


def test_too_few_requests_are_neither_good_nor_bad():
    stream = Stream(Limit("error_rate", max=0.01))
    verdict = stream.add(ended=19, bad=19)
    assert (verdict.word, verdict.needed, verdict.due) == (INCONCLUSIVE, 1, False)
    assert stream.add(ended=1, bad=0).word == FAIL


def test_no_traffic_for_any_time_is_inconclusive():
    stream = Stream(Limit("error_rate", max=0.01, min_requests=0))
    verdict = [stream.add() for _ in range(100)][-1]
    assert (verdict.word, verdict.share, evidence(verdict)["value"]) == (INCONCLUSIVE, None, None)


def test_one_failing_request_out_of_three_never_fails():
    stream = Stream(Limit("error_rate", max=0.01))
    assert stream.add(ended=3, bad=1).word == INCONCLUSIVE
    assert all(stream.add().word == INCONCLUSIVE for _ in range(100))


def test_diverted_requests_are_assigned_ones_that_were_not_answered_well():
    assert Stream(Limit("availability", min=0.99)).add(ended=20, diverted=20, bad=20).share == 0.5
    assert Stream(Limit("error_rate", max=0.01)).add(diverted=20, bad=20).word == FAIL


def test_client_errors_are_counted_of_those_that_were_answered():
    verdict = Stream(Limit("client_error_rate", max=0.1)).add(ended=40, diverted=40, bad=40, client_errors=5)
    assert (verdict.n, verdict.count, verdict.word) == (40, 5, FAIL)


def test_hung_requests_fail_a_latency_limit_before_they_end():
    stream = Stream(Limit("p99", max=200))
    stream.add(ended=100)
    verdict = stream.add(slow=20)  # none of them has ended
    assert (verdict.word, verdict.n, verdict.count) == (FAIL, 120, 20)
    shown = evidence(verdict, value_ms=12.0)
    assert (shown["value"], shown["limit"], shown["unit"]) == (200, 200, "ms")
    assert (shown["slower"], shown["slower_allowed"]) == (20, 0.01)


def test_a_shown_percentile_is_never_on_the_other_side_of_the_limit():
    within = Stream(Limit("p99", max=200)).add(ended=1000, slow=10)
    assert evidence(within, value_ms=201.0)["value"] == 200
    assert evidence(within, value_ms=150.0)["value"] == 150.0
    over = Stream(Limit("p99", max=200)).add(ended=1000, slow=11)
    assert evidence(over, value_ms=198.0)["value"] == 200
    assert evidence(over, value_ms=950.0)["value"] == 950.0


def test_the_window_slides_and_forgets():
    stream = Stream(Limit("error_rate", max=0.01, window_s=1.0))
    assert stream.add(ended=100, bad=100).word == FAIL
    words = [stream.add(ended=10).word for _ in range(8)]
    assert words[-1] == PASS
    assert words[0] == FAIL


def test_a_breach_has_to_last_and_is_inconclusive_until_it_did():
    stream = Stream(Limit("error_rate", max=0.01, window_s=0.25, for_s=1.0))
    words = [stream.add(ended=100, bad=50).word for _ in range(5)]
    assert words == [INCONCLUSIVE] * 4 + [FAIL]


def test_a_good_block_breaks_for():
    stream = Stream(Limit("error_rate", max=0.01, window_s=0.25, for_s=0.5))
    for _ in range(20):
        assert stream.add(ended=100, bad=50).word == INCONCLUSIVE
        assert stream.add(ended=100, bad=50).word == INCONCLUSIVE
        assert stream.add(ended=100).word == PASS


def test_too_few_requests_neither_continue_nor_break_for():
    stream = Stream(Limit("error_rate", max=0.01, window_s=0.25, for_s=0.5))
    words = []
    for _ in range(3):
        words.append(stream.add(ended=100, bad=50).word)
        words += [stream.add(ended=1).word for _ in range(50)]
    assert words.count(FAIL) == 1
    assert words.index(FAIL) == 102  # the third breached block, whatever lies between


def test_a_controller_that_slept_does_not_charge_its_sleep():
    stream = Stream(Limit("error_rate", max=0.01, window_s=0.25, for_s=2.0))
    stream.add(ended=100, bad=50)
    verdict = stream.add(ended=100, bad=50, late_s=60.0)
    assert (verdict.word, verdict.held_s) == (INCONCLUSIVE, 0.5)


def test_a_warm_up_is_shown_and_not_acted_on():
    stream = Stream(Limit("error_rate", max=0.01, after_s=1.0))
    found = [stream.add(ended=100, bad=50) for _ in range(4)]
    assert [verdict.word for verdict in found] == [FAIL] * 4
    assert [verdict.due for verdict in found] == [False, False, False, True]


def test_windows_begin_when_the_weight_comes_above_0():
    stream = Stream(Limit("error_rate", max=0.01))
    stream.add(ended=100, bad=100)
    stream.judge = stream.made(stream.now)
    verdict = stream.add(ended=30)
    assert (verdict.word, verdict.n) == (PASS, 30)


def test_a_latency_that_nobody_counts_cannot_be_judged():
    verdict = Stream(Limit("p99", max=150)).add(ended=1000, slow=1000)
    assert (verdict.word, verdict.due) == (ERROR, False)


def test_reasons_are_one_word():
    assert reason_of(Limit("error_rate", max=0.01)) == "ErrorRateAboveLimit"
    assert reason_of(Limit("availability", min=0.99)) == "AvailabilityBelowLimit"
    assert reason_of(Limit("p999", max=200)) == "P999AboveLimit"


@pytest.mark.parametrize("metric", sorted(QUANTILES))
@given(n=st.integers(20, 5000), slow=st.integers(0, 5000))
def test_a_percentile_over_the_limit_is_the_same_as_too_many_slower(metric, n, slow):
    slow = min(slow, n)
    # By the book: the smallest value that at least the quantile's share of all values does not exceed.
    values = [1] * (n - slow) + [9] * slow
    share = Fraction(repr(QUANTILES[metric]))
    rank = -(-share.numerator * n // share.denominator)
    over = values[rank - 1] == 9
    assert (Stream(Limit(metric, max=200)).add(ended=n, slow=slow).word == FAIL) == over
