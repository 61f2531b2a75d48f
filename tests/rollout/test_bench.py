"""The bench: what follows from verdicts, whoever asks."""

from dataclasses import replace

import pytest

from proxy.metrics.snapshot import Columns, Judged
from proxy.rollout.analysis import FAIL, INCONCLUSIVE, PASS, Sight, Verdict
from proxy.rollout.bench import Bench, kind_of
from proxy.rollout.plan import ALERT, CHECK, HOLD, PAUSE, Limit, Plan, ServicePlan, Stage
from proxy.rollout.state import COMPLETED, PAUSED, PROGRESSING, Rollout, ServiceState
from proxy.routing.table import FULL, STABLE

ERRORS = Limit("error_rate", max=0.01)
PLAN = Plan("default", (Stage("canary", 100, 10.0), Stage("full", FULL, 10.0)))
GOING = ServiceState(PROGRESSING, 100, has_new=True, live_since=0.0, rollout=Rollout(PLAN, since=0.0))


def fails(limit=ERRORS, **more):
    return Verdict(FAIL, limit, "evidence", n=20, count=20, due=True, **more)


class Says:
    """A judge that has said something."""

    def __init__(self, verdict):
        self.said = verdict

    def __getattr__(self, name):
        return getattr(self.said, name)

    def verdict(self):
        return self.said


def bench(*verdicts, stable_ready=True):
    found = Bench()
    found.stable_ready = stable_ready
    say(found, *verdicts)
    return found


def say(found, *verdicts):
    found.judges = tuple(map(Says, verdicts))


@pytest.mark.parametrize(
    "limit, name",
    [
        (Limit("error_rate", max=0.05), "error_rate ≤ 5 %"),
        (Limit("error_rate", max=0.05, window_s=60.0), "error_rate ≤ 5 % over 1m"),
        (Limit("error_rate", max_ratio=1.5), "error_rate ≤ 1.5 times stable's"),
        (Limit("availability", min=0.99), "availability ≥ 99 %"),
        (Limit("p99", max=200, version=STABLE), "p99 of stable ≤ 200 ms"),
        (Limit("memory", max=1e9, source=CHECK), "memory ≤ 1,000,000,000"),
    ],
)
def test_what_a_stage_waits_for_tells_limits_on_one_metric_apart(limit, name):
    found = Bench()
    plan = ServicePlan("web", limits=(replace(limit, action=HOLD),))
    found.seat(plan, GOING, Columns(), 0.0)
    assert found.standing().open == (f"required {name} INCONCLUSIVE",)


def test_a_failing_limit_rolls_back_and_names_the_others():
    breach = bench(fails(), fails(Limit("p99", max=200.0)), fails(Limit("error_rate", max=0.005))).breach(GOING)
    assert (breach.reason, breach.action, breach.evidence["also"]) == (
        "ErrorRateAboveLimit",
        "rollback",
        ["P99AboveLimit"],
    )


@pytest.mark.parametrize(
    "verdict",
    [
        Verdict(FAIL, ERRORS, "evidence"),  # not due: the version still warms up
        Verdict(INCONCLUSIVE, ERRORS, "evidence"),
        fails(Limit("error_rate", max=0.01, dry_run=True)),
        fails(Limit("error_rate", max=0.01, action=ALERT)),
        fails(Limit("error_rate", max=0.01, action=HOLD)),
    ],
)
def test_what_is_no_breach(verdict):
    assert bench(verdict).breach(GOING) is None


def test_a_shared_fault_pauses_and_only_a_progressing_rollout():
    shared = fails(shared=True)
    assert (bench(shared).breach(GOING).reason, bench(shared).breach(GOING).action) == ("SharedFault", PAUSE)
    paused = ServiceState(PAUSED, 100, has_new=True, live_since=0.0, rollout=GOING.rollout)
    assert bench(shared).breach(paused) is None
    assert [kind_of(one) for one in bench(shared).told(paused, 1.0)] == ["SharedFault"]
    # When stable cannot be reached it fails too: then it is the rollback that is held back.
    assert bench(shared, stable_ready=False).breach(GOING).action == "rollback"


def test_limits_that_pause_and_checks_that_cannot_be_read():
    pause = Limit("error_rate", max=0.01, action=PAUSE, version=STABLE)
    assert bench(fails(pause)).breach(GOING).reason == "StableErrorRateAboveLimit"
    unreadable = Verdict("ERROR", Limit("rss", max=5, source="check"), "reading", unreadable=3)
    assert bench(unreadable).breach(GOING).reason == "CheckUnreadable"
    # Whoever resumes does not wait for the next reading to be let go on.
    resumed = bench(unreadable)
    assert resumed.breach(replace(GOING, phase=PAUSED)) is None
    assert resumed.breach(GOING) is None
    say(resumed, replace(unreadable, unreadable=6))
    assert resumed.breach(GOING).reason == "CheckUnreadable"
    resumed.breach(replace(GOING, phase=PAUSED))
    for count, reason in ((0, None), (1, None), (3, "CheckUnreadable")):
        say(resumed, replace(unreadable, unreadable=count))
        found = resumed.breach(GOING)
        assert (found and found.reason) == reason


def test_nothing_is_acted_on_at_weight_0_nor_in_completed():
    done = ServiceState(COMPLETED, FULL, has_new=True, live_since=0.0, rollout=GOING.rollout)
    assert bench(fails()).breach(ServiceState(has_new=True)) is None
    assert bench(fails()).breach(done) is None
    assert [kind_of(one) for one in bench(fails()).told(done, 1.0)] == ["LimitFailed"]


def test_a_breach_is_told_once_until_it_is_over_and_those_of_a_limit_once_a_minute():
    limit = Limit("error_rate", max=0.01, action=ALERT)
    found = bench(fails(limit))
    assert [len(found.told(GOING, 1.0)), len(found.told(GOING, 2.0))] == [1, 0]
    for now in range(3, 120):
        say(found, fails(limit) if now % 4 else Verdict(PASS, limit, "evidence"))
        # One that began within the minute is told at its end, should it last.
        assert len(found.told(GOING, now)) == (now == 61)
    say(found, Verdict(PASS, limit, "evidence"))
    assert found.told(GOING, 120.0) == []
    say(found, fails(limit))
    assert len(found.told(GOING, 121.0)) == 1


def test_judges_are_made_anew_only_when_what_they_judge_changes():
    found, plan = Bench(), ServicePlan("web", (ERRORS,))
    columns = Columns()
    assert found.seat(plan, GOING, columns, 1.0)
    assert not found.seat(plan, GOING, columns, 2.0)
    assert found.seat(plan, GOING, columns, 2.0, lives=(2, 1))
    assert not found.seat(plan, ServiceState(has_new=True, rollout=GOING.rollout), columns, 3.0, lives=(2, 1))
    assert found.seat(ServicePlan("web", (ERRORS,), block_s=1.0), GOING, columns, 3.0)


def test_requests_are_counted_from_when_the_judges_were_made():
    found = Bench()
    found.seat(ServicePlan("web", (ERRORS,)), GOING, Columns(), 0.0)

    def sight(n):
        return Sight((Judged(n), Judged(n)), lambda _version, _seconds: (Judged(10), 0.25), lambda *_, **__: {})

    found.hear(sight(110), 0.25)
    assert found.requests == found.standing().requests == 10
    found.hear(sight(150), 0.5)
    assert found.requests == 50
