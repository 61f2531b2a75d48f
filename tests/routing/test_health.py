"""Rise and fall."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proxy.routing.health import Health, Pulse, well

RULE = Health("/", rise=2, fall=3)


def noted(pulse, answers, rule=RULE):
    """Return whether the endpoint is down after each answer: "." passed, "x" failed."""
    downs = []
    for answer in answers:
        was = bool(pulse.why)
        turned = pulse.note("503" if answer == "x" else "", rule)
        assert turned == (was != bool(pulse.why))
        downs.append("x" if pulse.why else ".")
    return "".join(downs)


def test_down_after_fall_failures_in_a_row_and_up_after_rise_passes_in_a_row():
    assert noted(Pulse(), "xx.xxx.x..x") == ".....xxxx.."


def test_why_counts_what_failed():
    pulse = Pulse()
    for _ in range(5):
        pulse.note("503", RULE)
    assert pulse.why == "5 checks failed: 503"
    pulse.note("connection refused", RULE)
    assert pulse.why == "6 checks failed: connection refused"
    once = Pulse()
    once.note("503", Health("/", fall=1))
    assert once.why == "1 check failed: 503"


def test_one_that_was_down_before_has_to_pass():
    pulse = Pulse("was down before the restart")
    assert noted(pulse, "x.x..") == "xxxx."
    assert noted(Pulse("was down"), "..") == "x."


@given(st.text("x.", max_size=60), st.integers(1, 5), st.integers(1, 5))
def test_it_turns_only_with_enough_in_a_row(answers, rise, fall):
    shown = noted(Pulse(), answers, Health("/", rise=rise, fall=fall))
    before = "."
    for at, now in enumerate(shown):
        if now != before:
            needed = "x" * fall if now == "x" else "." * rise
            assert answers[: at + 1].endswith(needed)
        else:
            other = "." * rise if now == "x" else "x" * fall
            assert not answers[: at + 1].endswith(other) or other[0] == now
        before = now


def test_2xx_and_3xx_are_well():
    assert [status for status in (101, 199, 200, 204, 302, 399, 400, 404, 500, 503) if well(status)] == [
        200,
        204,
        302,
        399,
    ]
