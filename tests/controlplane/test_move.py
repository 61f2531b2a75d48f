"""What a move means for a rollout."""

from dataclasses import replace

import pytest

from proxy.controlplane.move import Move
from proxy.rollout.plan import Plan, Stage
from proxy.rollout.state import COMPLETED, DRILL, IDLE, OPERATOR_ROLLBACK, PAUSED, PROGRESSING, ROLLED_BACK, Rollout
from proxy.rollout.state import ServiceState as State

ROLLOUT = Rollout(Plan("default", (Stage("canary", 1000, 10.0),)))
RUNS = State(PROGRESSING, 1000, rollout=ROLLOUT)
BACK = replace(RUNS, phase=ROLLED_BACK, weight_bp=0, reason=OPERATOR_ROLLBACK)
DRILLED = replace(BACK, reason=DRILL)
GONE = State(IDLE)


@pytest.mark.parametrize(
    "before, after, ends",
    [
        (RUNS, BACK, True),
        (RUNS, GONE, True),
        (replace(RUNS, phase=COMPLETED), GONE, True),
        (RUNS, replace(RUNS, phase=PAUSED), False),
        (RUNS, DRILLED, False),
        (DRILLED, RUNS, False),
        (DRILLED, BACK, True),  # a person's rollback while a drill has shut the gate
        (DRILLED, GONE, True),
        (BACK, BACK, False),
        (BACK, GONE, False),  # it was over before
        (GONE, replace(GONE, phase=ROLLED_BACK, reason=OPERATOR_ROLLBACK), False),
    ],
)
def test_a_rollout_is_over_once(before, after, ends):
    assert Move("web", before, after, ()).ends_rollout is ends
