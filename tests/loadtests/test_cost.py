"""What a tick costs: the benchmark measures a rollout that runs, and services that are idle."""

from __future__ import annotations

import asyncio

import pytest

from loadtests.judge.cost import PARTS, measure

pytestmark = pytest.mark.slow


def test_a_tick_of_a_running_rollout_has_all_its_parts() -> None:
    cost = asyncio.run(measure(2, 2, 8, 100.0, parts=True))
    assert set(cost.parts) == {name for _, _, name in PARTS}
    assert 0 < sum(cost.parts.values()) <= cost.tick_ms


def test_idle_services_are_measured_without_a_rollout() -> None:
    assert asyncio.run(measure(2, 2, 8, 0.0)).tick_ms > 0
