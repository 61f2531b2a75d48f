"""What the supervisor of many services costs: the benchmark runs rollouts that are under way."""

from __future__ import annotations

import pytest

from loadtests.reach import many

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


def test_the_supervisor_of_rollouts_under_way_is_measured() -> None:
    assert 0 < many.cost(2, 10.0, 2.0, settled_s=1.0) < 1
