"""Windows: differences of rows, by their times."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import CounterWentBack
from proxy.metrics.snapshot import Columns, Judged, SignalKey, nothing
from proxy.metrics.window import Ring, Window

HITS, FRESH = SignalKey("hits", "x-cache", "^HIT"), SignalKey("fresh", "age", "^0$")


def filled(count: int, *, block: float = 0.25) -> Ring:
    """A ring whose only column is the number of its row."""
    ring = Ring(1)
    for number in range(count):
        ring.append(number * block, [number])
    return ring


def test_a_window_is_the_difference_to_the_row_that_is_old_enough() -> None:
    assert filled(100).over(10.0) == ([40], 10.0)
    assert filled(100).over(10.1) == ([41], 10.25)
    assert filled(100).over(0.25) == ([1], 0.25)
    assert filled(100).over(0) == ([0], 0.0)


def test_a_young_window_says_what_it_covers() -> None:
    assert filled(5).over(10.0) == ([4], 1.0)
    assert filled(1).over(10.0) == ([0], 0.0)
    assert filled(0).over(10.0) == ([0], 0.0)


def test_a_ring_keeps_what_is_asked_for_and_not_much_more() -> None:
    ring = Ring(1)
    for number in range(5000):
        ring.append(number * 0.25, [number])
        if number > 40:
            assert ring.over(10.0) == ([40], 10.0)
    assert len(ring._times) < (10 + 60) * 4 + 300


def test_a_window_that_grows_with_every_block_finds_its_beginning() -> None:
    ring = filled(2000)
    for number in range(2000, 6000):
        ring.append(number * 0.25, [number])
        grown = number - 2000
        assert ring.over(grown * 0.25) == ([grown], grown * 0.25)


@given(
    st.lists(st.tuples(st.floats(0.001, 5.0), st.integers(0, 1000)), min_size=2, max_size=400),
    st.floats(0.0, 30.0),
)
def test_a_window_is_never_shorter_than_asked_and_at_most_a_block_longer(
    steps: list[tuple[float, int]], seconds: float
) -> None:
    ring = Ring(1)
    ring.over(30.0)
    times, totals = [0.0], [0]
    ring.append(0.0, [0])
    for step, grown in steps:
        times.append(times[-1] + step)
        totals.append(totals[-1] + grown)
        ring.append(times[-1], [totals[-1]])
    [added], covered = ring.over(seconds)
    old_enough = [index for index, time in enumerate(times) if time <= times[-1] - seconds]
    first = old_enough[-1] if old_enough else 0
    assert covered == times[-1] - times[first]
    assert added == totals[-1] - totals[first]


def test_a_row_that_shrank_is_a_bug() -> None:
    ring = Ring(2)
    ring.append(0.0, [5, 5])
    ring.append(1.0, [6, 4])
    with pytest.raises(CounterWentBack):
        ring.over(10.0)


def test_a_window_gives_judged_integers() -> None:
    window = Window(Columns((100, 200)))
    window.append(0.0, Judged(10, 1, 0, 0, (3, 2), (7, 8)))
    window.append(1.0, Judged(30, 2, 1, 4, (5, 3), (25, 27)))
    assert window.over(10.0) == (Judged(20, 1, 1, 4, (2, 1), (18, 19)), 1.0)


def test_a_window_has_first_bytes_and_signals_too() -> None:
    window = Window(Columns((100,), (50, 60), (HITS, FRESH)))
    window.append(0.0, Judged(9, 1, 0, 0, (3,), (7,), (4, 1), (5, 8), ((6, 2), (1, 1))))
    window.append(1.0, Judged(19, 2, 1, 4, (4,), (9,), (7, 5), (10, 14), ((13, 10), (9, 10))))
    added = Judged(10, 1, 1, 4, (1,), (2,), (3, 4), (5, 6), ((7, 8), (8, 9)))
    assert window.over(10.0) == (added, 1.0)


def test_first_bytes_and_signals_keep_what_they_have_in_common() -> None:
    """A signal that is read in another way is another signal."""
    window = Window(Columns((), (50, 60), (HITS, FRESH)))
    window.append(0.0, nothing(0, 2, 2) + Judged(0, 0, 0, 0, (), (), (1, 2), (3, 4), ((5, 6), (7, 8))))
    other = window.with_columns(Columns((60,), (60,), (FRESH, HITS._replace(matches="HIT"))))
    other.append(1.0, Judged(0, 0, 0, 0, (1,), (1,), (3,), (6,), ((10, 12), (2, 1))))
    assert other.over(10.0) == (Judged(0, 0, 0, 0, (1,), (1,), (1,), (2,), ((3, 4), (2, 1))), 1.0)


def test_other_thresholds_keep_what_they_have_in_common() -> None:
    window = Window(Columns((100, 200)))
    window.append(0.0, Judged(10, 1, 0, 0, (3, 2), (7, 8)))
    other = window.with_columns(Columns((200, 300)))
    other.append(1.0, Judged(12, 1, 0, 0, (3, 1), (9, 1)))
    assert other.over(10.0) == (Judged(2, 0, 0, 0, (1, 1), (1, 1)), 1.0)
    assert window.over(10.0) == (nothing(2), 0.0)
