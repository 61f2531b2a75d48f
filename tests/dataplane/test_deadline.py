"""The timer wheel, against a plain list of what is due."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.dataplane.deadline import HORIZON, Wheel, ticks


class Item:
    def __init__(self, wheel):
        self.wheel = wheel
        self.due = 0
        self.filed = 0
        self.expired = []

    def expire(self, now_ns):
        self.expired.append(self.wheel.tick)


@pytest.mark.parametrize(
    "seconds, count", [(0.001, 1), (0.05, 1), (0.051, 2), (0.1, 2), (1.0, 20), (3600.0, 72_000), (0.0, 1)]
)
def test_ticks_cover_the_time(seconds, count):
    assert ticks(seconds) == count


@given(st.integers(0, 70 * HORIZON), st.one_of(st.integers(1, 10 * HORIZON), st.integers(1, 80 * HORIZON)))
def test_an_item_expires_at_its_tick_and_once(before, after):
    wheel = Wheel()
    wheel.tick += before
    item = Item(wheel)
    due = wheel.tick + after
    wheel.arm(item, after)
    while wheel.tick < due + 2 * HORIZON:
        wheel.advance(0)
    assert item.expired == [due]


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["arm", "later", "never", "drop", "advance", "stride"]),
        st.integers(0, 2),
        st.one_of(st.integers(1, 3 * HORIZON), st.integers(1, 80 * HORIZON)),
    ),
    max_size=100,
)


@given(STEPS)
def test_the_last_arming_counts(steps):
    """Arming anew, earlier or later, by call or by a store to `due`, and disarming: as if each had one timer."""
    wheel = Wheel()
    items = [Item(wheel) for _ in range(3)]
    due = [0, 0, 0]
    wanted = [[], [], []]
    for what, which, after in steps:
        item = items[which]
        if what == "arm":
            wheel.arm(item, after)
            due[which] = wheel.tick + after
        elif what == "later" and item.filed and due[which]:
            # What the request path does without a call.
            item.due = due[which] = max(due[which], wheel.tick + after)
        elif what == "never":
            item.due = due[which] = 0
        elif what == "drop":
            wheel.drop(item)
            due[which] = 0
        else:
            for _ in range(1 if what == "advance" else after // 4):
                wheel.advance(0)
                for one in range(3):
                    if due[one] == wheel.tick:
                        wanted[one].append(wheel.tick)
                        due[one] = 0
    assert [item.expired for item in items] == wanted


def test_nothing_is_held_for_long_after_its_end():
    wheel = Wheel()
    item = Item(wheel)
    wheel.arm(item, 10_000)
    item.due = 0
    for _ in range(HORIZON):
        wheel.advance(0)
    assert item.filed == 0
    assert not any(item in slot for slot in wheel._slots)


def test_what_is_idle_for_long_is_looked_at_once_a_minute_and_not_held_after_its_end():
    wheel = Wheel()
    item = Item(wheel)
    wheel.arm(item, 10_000)
    looks = set()
    for _ in range(60 * HORIZON):
        wheel.advance(0)
        looks.add(item.filed)
    assert len(looks) <= 3
    wheel.drop(item)
    assert not any(item in slot for slot in (*wheel._slots, *wheel._far))
