"""What a drill will meet, said before it begins: it is what the very judges do with what is made up."""

from dataclasses import replace

import pytest

from proxy.metrics.snapshot import Columns, Judged, nothing
from proxy.rollout.analysis import Sight
from proxy.rollout.drill import FAILURES, made_up, made_up_by, prospect, sees
from proxy.rollout.event import Breach
from proxy.rollout.judges import Court, budget, judge_for
from proxy.rollout.plan import CHECK, HOLD, SIGNAL, Limit, ServicePlan
from proxy.rollout.state import ROLLED_BACK, ServiceState
from proxy.rollout.trial import Trial
from proxy.routing.table import FULL, STABLE

COLUMNS = Columns((200_000,))
ERRORS = Limit("error_rate", max=0.01)
SLOW = Limit("p99", max=200.0)
COMPARED = Limit("error_rate", max_ratio=2.0)
WELL = Judged(ended=500, slow=(0,), fast=(500,))


def court(*limits, began=0.0, block_s=0.25):
    plan = ServicePlan("web", limits, block_s=block_s)
    return Court(plan, COLUMNS, began, budget(plan, None))


def met(*limits, now=0.0, **more):
    found = court(*limits, **more)
    return prospect(found, [judge_for(found, limit) for limit in limits], now)


@pytest.mark.parametrize(
    "limit, block_s",
    [
        (ERRORS, 0.25),
        (ERRORS, 2.0),
        (SLOW, 0.25),
        (replace(ERRORS, max=0.5), 0.25),
        (Limit("availability", min=0.95), 0.25),
        (Limit("client_error_rate", max=0.1), 0.25),
        (replace(ERRORS, min_requests=1_000_000), 0.25),
        (replace(ERRORS, after_s=40.0), 0.25),
        (replace(ERRORS, window_s=300.0, for_s=60.0), 0.25),
        (replace(SLOW, window_s=60.0), 0.25),
        (replace(SLOW, window_s=60.0, for_s=10.0), 2.0),
        (replace(COMPARED, window_s=60.0, for_s=10.0), 0.25),
        (replace(COMPARED, window_s=5.0), 2.0),
    ],
)
def test_the_time_that_is_said_is_what_the_judges_take(limit, block_s):
    """Ten seconds of real requests that are well, more of them in each block than most services have, come first."""
    plan = ServicePlan("web", (limit,), block_s=block_s)
    live = ServiceState(weight_bp=1000, has_new=True, live_since=0.0)
    trial = Trial(plan, live, COLUMNS, 0.0)
    for block in range(1, round(10 / block_s) + 1):
        trial.block(block * block_s, WELL, WELL)
    found = prospect(court(limit, block_s=block_s), trial._bench.judges, 10.0)
    assert found.limit is limit
    ticks = max(1, round(block_s / 0.25))
    now = 10.0
    while trial.state.phase != ROLLED_BACK:
        now += block_s
        trial.block(now, WELL, WELL + made_up(ticks * FAILURES, nothing(1, 0, 0)))
        assert now - 10.0 <= found.seconds
    assert now - 10.0 >= 0.8 * found.seconds - 2 * block_s  # a good past may hasten a large limit


def test_the_first_limit_that_acts_counts():
    late = Limit("error_rate", max=0.02, window_s=60.0, for_s=300.0)
    assert met(late).seconds == 300.5
    assert met(late, SLOW).limit is SLOW
    assert met(late, SLOW).seconds < 3


def test_limits_that_act_about_as_fast_are_all_named():
    half = replace(ERRORS, max=0.5)  # 27 bets
    late = replace(ERRORS, window_s=60.0, for_s=300.0)
    assert met(late, SLOW, ERRORS, half).limits == (SLOW, ERRORS)
    assert met(half, late).limits == (half,)
    # One may act before the time that it needs at the latest.
    assert met(replace(ERRORS, max=0.05), SLOW).limits == (SLOW, replace(ERRORS, max=0.05))
    assert met(replace(ERRORS, window_s=5.0, for_s=5.0), replace(SLOW, after_s=6.0)).limit.metric == "error_rate"


def test_a_warm_up_that_is_half_over_takes_the_other_half():
    warm = replace(ERRORS, after_s=40.0)
    assert met(warm, now=10.0).seconds == 30.0
    assert met(warm, began=5.0, now=10.0).seconds == 35.0
    assert met(warm, now=100.0).seconds < 3


@pytest.mark.parametrize(
    "limit, why",
    [
        (replace(ERRORS, action="alert"), "error_rate has action alert"),
        (replace(SLOW, action="pause"), "p99 has action pause"),
        (replace(ERRORS, dry_run=True), "error_rate is a dry run"),
        (Limit("rss", max=1e9, source=CHECK), "rss is a check, which is read elsewhere"),
        (Limit("hits", min=0.5, source=SIGNAL), "hits is what responses say in a header"),
        (COMPARED, "error_rate is relative to stable"),
        (replace(COMPARED, window_s=60.0), "error_rate has too little of stable to compare with"),
        (Limit("p99", max_ratio=2.0), "p99 is relative to stable"),
        (Limit("p95", max=77.0), "p95 is not counted by the workers"),
        (replace(ERRORS, max=1.0), "error_rate allows that all fail"),
        (replace(ERRORS, max=1.0, window_s=60.0), "error_rate allows that all fail"),
    ],
)
def test_a_limit_that_cannot_act_is_named_with_its_reason(limit, why):
    found = met(limit)
    assert (found.limit, found.blind) == (None, (why,))
    assert met(limit, SLOW).limit is SLOW


@pytest.mark.parametrize("window_s", [None, 10.0])
def test_at_100_percent_the_record_is_what_new_is_compared_with(window_s):
    limit = replace(COMPARED, window_s=window_s)
    full = replace(court(limit), weight_bp=FULL)

    def found(**record):
        judge = judge_for(full, limit)
        sight = Sight((WELL, WELL), lambda _, seconds: (WELL, seconds), lambda *_: {}, record=record)
        judge.look(sight, 0.25, 1)
        return prospect(full, [judge], 0.25)

    assert found(error_rate={"n": 1000, "count": 10}).seconds < 3
    assert found(error_rate={"n": 1000, "count": 600}).blind == ("error_rate allows that all fail",)
    assert found().blind == ("error_rate has too little of stable to compare with",)


def test_requirements_and_limits_on_stable_are_no_limits_on_new():
    assert met(replace(ERRORS, action=HOLD), replace(ERRORS, version=STABLE)) == met()


def test_what_is_not_made_up_is_a_real_breach():
    rss = Limit("rss", max=1e9, source=CHECK)
    limits = (ERRORS, rss, Limit("p99", max_ratio=2.0))
    assert [limit for limit in limits if sees(limit)] == [ERRORS]
    assert made_up_by(Breach("ErrorRateAboveLimit"), limits)
    assert made_up_by(Breach("SharedFault"), limits)
    for reason in ("RssAboveLimit", "P99AboveStable", "NoHealthyEndpoint", "CheckUnreadable", "MaxHoldOver"):
        assert not made_up_by(Breach(reason), limits)
