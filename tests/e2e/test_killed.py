"""A few rounds of the kill game, and a hung `new`; the long runs are `python -m loadtests.kills` and `.reach hung`."""

import pytest

from loadtests.kills.game import Game
from loadtests.kills.traffic import Traffic
from loadtests.reach import hung

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize(
    "kinds", [("shutting", "running", "starting", "raising"), ("completed", "order", "hook", "shutting")]
)
def test_nothing_that_may_never_be_when_the_supervisor_is_killed(tmp_path, kinds):
    with Traffic() as traffic:
        game = Game(tmp_path, traffic, 2, rate=60.0)
        game.play(kinds)
    assert game.violations == []
    assert [one.failures for one in game.rounds if not one.everybody and one.failures] == []
    assert game.watch.transitions > 0


def test_a_new_that_hangs_is_out_long_before_its_time_out():
    (delay_s,) = hung.delays(1, limit_s=2.0)
    assert delay_s < 30.0
