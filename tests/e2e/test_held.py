"""Load through a few moments of change; the long run is `python -m loadtests.held`."""

import pytest

from loadtests.held.play import Plan, Play

pytestmark = pytest.mark.e2e

SHORT = Plan(
    rate=100,
    connections=50,
    tunnels=20,
    reloads=4,
    worker_kills=1,
    supervisor_kills=1,
    pause_s=0.5,
    delay_s=8,
    timeout_s=5,
)


def test_nothing_is_dropped_in_the_moments_of_change(tmp_path):
    outcome = Play(tmp_path, SHORT).run()
    assert outcome.failed == []
    assert outcome.dropped == []
    assert outcome.internal_errors == 0
    assert outcome.exit_code == 0
    assert outcome.answered > SHORT.rate
    assert outcome.echoes > SHORT.tunnels
    assert outcome.drained_tunnels > 0
    ports = [one.port for one in outcome.excused]
    assert len(ports) == len(set(ports))  # each connection of the killed worker fails once
