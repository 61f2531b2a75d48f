"""History: windows per incarnation and threshold, histograms as slices that cover what they say."""

from __future__ import annotations

import random

import pytest

from proxy.controlplane.history import FINE_PER_COARSE, History
from proxy.controlplane.scales import CODES, TOTAL, TTFB, Delta, Scale
from proxy.metrics import hdr
from proxy.metrics.snapshot import Judged, ServiceCounts, Snapshot, VersionCounts, nothing
from proxy.routing.table import NEW, STABLE


def snapshot(
    time_s: float,
    ended: int = 0,
    *,
    incarnation: int = 1,
    thresholds: tuple[int, ...] = (),
) -> Snapshot:
    judged = Judged(ended, slow=(0,) * len(thresholds), fast=(ended,) * len(thresholds))
    stable = VersionCounts("stable", "1", 1, nothing(len(thresholds)), by_split=3 * ended)
    new = VersionCounts("new", "2", incarnation, judged, by_split=ended)
    return Snapshot(time_s, {"web": ServiceCounts("web", thresholds, (stable, new))})


def delta(at: int, count: int = 1, kind: str = TOTAL, incarnation: int = 1) -> Delta:
    return Delta(Scale(kind, "web", NEW), incarnation, {at: count})


def sliced(seconds: int, history: History | None = None) -> History:
    """A history with one latency a second; the one of second n stands at index n."""
    history = history or History()
    history.add(snapshot(0.0))
    assert not history.slice_due(0.0)
    for second in range(1, seconds + 1):
        assert history.slice_due(float(second))
        history.add_slice(float(second), [delta(second)])
    return history


def test_a_window_is_of_one_version() -> None:
    history = History()
    for block in range(9):
        history.add(snapshot(block / 4, block))
    assert history.over("web", NEW, 1.0) == (Judged(4), 1.0)
    assert history.over("web", STABLE, 1.0) == (Judged(), 1.0)
    assert history.over("shop", NEW, 1.0) == (Judged(), 0.0)


def test_another_incarnation_begins_with_nothing() -> None:
    history = sliced(20)
    history.add(snapshot(20.0, 100))
    history.add(snapshot(21.0, 200))
    history.add(snapshot(22.0, 5, incarnation=2))  # its totals begin anew, too
    history.add(snapshot(23.0, 7, incarnation=2))
    assert history.over("web", NEW, 10.0) == (Judged(2), 1.0)
    assert history.histogram("web", NEW, "total", 600.0) == ({}, 0.0)
    # What the predecessor still had in flight is not added to it.
    history.add_slice(24.0, [delta(1, incarnation=1), delta(2, incarnation=2)])
    assert history.histogram("web", NEW, "total", 600.0) == ({2: 1}, 2.0)


def test_a_reload_with_other_thresholds_keeps_the_window() -> None:
    history = History()
    history.add(snapshot(0.0, 10, thresholds=(100, 200)))
    history.add(snapshot(1.0, 30, thresholds=(200, 300)))
    judged, _ = history.over("web", NEW, 10.0)
    assert judged.ended == 20
    assert judged.fast == (20, 30)  # the one that is new counts from 0


def test_a_service_that_is_gone_is_forgotten_and_may_come_back() -> None:
    history = History()
    history.add(snapshot(0.0, 10))
    history.add(Snapshot(1.0, {}))
    assert history.over("web", NEW, 10.0) == (Judged(), 0.0)
    assert history.share_of_new("web", 10.0) is None
    history.add(snapshot(2.0, 50, incarnation=9))
    history.add(snapshot(3.0, 51, incarnation=9))
    assert history.over("web", NEW, 10.0) == (Judged(1), 1.0)


def test_the_share_of_new_is_what_the_split_dealt() -> None:
    history = History()
    history.add(snapshot(0.0, 0))
    history.add(snapshot(1.0, 0))
    assert history.share_of_new("web", 10.0) is None  # no traffic has no share
    history.add(snapshot(2.0, 100))
    assert history.share_of_new("web", 10.0) == 0.25


@pytest.mark.parametrize(
    "seconds, covered",
    [(1, 1.0), (2.5, 3.0), (10, 10.0), (60, 60.0), (61, 65.0), (75, 75.0), (600, 605.0), (9999, 605.0)],
)
def test_a_histogram_covers_what_it_says(seconds: float, covered: float) -> None:
    """After 705 s: slices of a second for the last minute, of ten seconds (to 700 s) before that."""
    counts, said = sliced(705).histogram("web", NEW, "total", float(seconds))
    assert said == covered
    assert counts == dict.fromkeys(range(706 - int(covered), 706), 1)


def test_every_age_of_history_is_without_gaps() -> None:
    history = sliced(0)
    for age in range(1, 200):
        history.add_slice(float(age), [delta(age)])
        for seconds in (5.0, 60.0, 61.0, 120.0, 600.0):
            counts, covered = history.histogram("web", NEW, "total", seconds)
            assert covered == len(counts)
            assert min(covered, seconds) >= min(age, seconds)
            assert max(counts) == age
            assert min(counts) == age - covered + 1


def test_what_is_kept_running_is_what_the_slices_add_up_to() -> None:
    """Whoever asks for minutes, as often as they like and for whatever time, gets what adding up anew would give."""
    chance = random.Random(7)
    history = sliced(0)
    seconds_of: dict[int, dict[int, int]] = {}
    for age in range(1, 800):
        seconds_of[age] = {chance.randrange(40): chance.randrange(1, 300) for _ in range(chance.randrange(5))}
        if age == 300:
            history.add(snapshot(float(age), 1, incarnation=2))  # another version: nothing of the old one is left
            seconds_of = {age: {} for age in seconds_of}
        incarnation = 1 if age < 300 else 2
        history.add_slice(float(age), [Delta(Scale(TOTAL, "web", NEW), incarnation, seconds_of[age])])
        if chance.random() < 0.5:
            asked = float(chance.choice([61, 100, 300, 599, 600]))
            counts, covered = history.histogram("web", NEW, TOTAL, asked)
            span = range(age - int(covered) + 1, age + 1)
            assert counts == hdr.merge(seconds_of[one] for one in span if one in seconds_of)


def test_phases_are_apart_and_codes_are_no_latency() -> None:
    history = sliced(1)
    history.watch_first_bytes("web", watched=True)
    history.add_slice(2.0, [delta(7, kind=TTFB), delta(200, kind=CODES), delta(9), delta(9, 2)])
    assert history.histogram("web", NEW, "ttfb", 1.0) == ({7: 1}, 1.0)
    assert history.histogram("web", NEW, "total", 1.0) == ({9: 3}, 1.0)


def test_first_bytes_are_kept_by_ten_seconds_unless_a_limit_is_on_them() -> None:
    history = sliced(0)
    first, whole = Scale(TTFB, "web", NEW), Scale(TOTAL, "web", NEW)
    for second in range(1, FINE_PER_COARSE + 4):
        assert history.due(whole)
        assert history.due(first) == (second == FINE_PER_COARSE)
        history.add_slice(float(second), [delta(second, kind=TTFB)] if history.due(first) else [])
    # It ends where the last ten seconds end, and says so.
    assert history.histogram("web", NEW, "ttfb", 5.0) == ({FINE_PER_COARSE: 1}, 10.0)
    history.watch_first_bytes("web", watched=True)
    assert history.due(first)
    history.add_slice(14.0, [delta(14, kind=TTFB)])
    assert history.histogram("web", NEW, "ttfb", 1.0) == ({14: 1}, 1.0)
    assert history.histogram("web", NEW, "ttfb", 600.0) == ({FINE_PER_COARSE: 1, 14: 1}, 14.0)
    history.watch_first_bytes("web", watched=False)
    assert not history.due(first)
    assert history.histogram("web", NEW, "ttfb", 1.0) == ({FINE_PER_COARSE: 1}, 10.0)


@pytest.mark.parametrize("count", [255, 256, 2**32 - 1])
def test_counts_of_any_size_are_kept(count: int) -> None:
    history = sliced(1)
    history.add_slice(2.0, [Delta(Scale(TOTAL, "web", NEW), 1, {3: 1, 2000: count, 7: 2})])
    assert history.histogram("web", NEW, TOTAL, 1.0) == ({3: 1, 2000: count, 7: 2}, 1.0)


def test_a_histogram_is_the_callers_own() -> None:
    history = sliced(FINE_PER_COARSE)
    history.histogram("web", NEW, "total", 5.0)[0].clear()
    assert len(history.histogram("web", NEW, "total", 5.0)[0]) == 5


def test_nothing_measured_yet() -> None:
    assert History().histogram("web", NEW, "total", 10.0) == ({}, 0.0)
