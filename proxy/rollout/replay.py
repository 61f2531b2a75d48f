"""Judging recorded blocks again, by other limits: "at this limit it would have rolled back at 12:03:07".

The limits are judged as those of a service whose weight a person has set: armed from the first block on, by evidence
unless they have a window. The first rollback ends the judging, because what comes after it is no longer what would
have been. The traffic that the journal holds is taken as it was: a rollback that did happen shows as blocks in which
`new` got nothing, and these decide nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from proxy.metrics import hdr
from proxy.rollout.analysis import Verdict
from proxy.rollout.effect import Note
from proxy.rollout.plan import Limit, ServicePlan
from proxy.rollout.recording import Block, Reader, Recording
from proxy.rollout.state import ROLLED_BACK, ServiceState
from proxy.rollout.trial import Trial
from proxy.routing.table import FULL

FALSE_ALARMS = 0.01
# So many blocks are looked through for the percentile that a decision is shown with.
SHOWN_BLOCKS = 4096


@dataclass(frozen=True, slots=True)
class Decision:
    """What would have been done at `t`: rollback, or alert (said, nothing moved)."""

    t: float
    action: str
    reason: str
    evidence: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Replay:
    """What became of it. `blocks`: in the journal; `requests` and `bad` of `new` in all of them."""

    blocks: int
    requests: int
    bad: int
    decisions: tuple[Decision, ...]
    verdicts: tuple[Verdict, ...]

    @property
    def rollback(self) -> Decision | None:
        """The decision to roll back, `None` if there was none."""
        return next((decision for decision in self.decisions if decision.action == "rollback"), None)

    def plain(self) -> dict[str, Any]:
        """Return the object of INTERFACE §3."""
        rollback = self.rollback
        return {
            "rolled_back_at": None if rollback is None else rollback.t,
            "reason": None if rollback is None else rollback.reason,
            "blocks": self.blocks,
            "decisions": [
                {"t": one.t, "action": one.action, "reason": one.reason, "evidence": one.evidence}
                for one in self.decisions
            ],
        }


def replay(recording: Recording, limits: Sequence[Limit], *, false_alarms: float = FALSE_ALARMS) -> Replay:
    """Judge a journal by `limits`; raise `ConfigError` when it does not hold what they need."""
    reader = Reader(recording, limits)
    began = recording.blocks[0].t - recording.block_s
    plan = ServicePlan(recording.name, tuple(limits), block_s=recording.block_s, false_alarms=false_alarms)
    # The weight is not in the journal: any that is neither 0 nor all.
    state = ServiceState(weight_bp=FULL // 10, has_new=True, live_since=began)
    seen: deque[Block] = deque(maxlen=SHOWN_BLOCKS)
    trial = Trial(plan, state, reader.columns, began, measure=lambda verdict: _percentile_ms(verdict, seen))
    decisions: list[Decision] = []
    requests = bad = 0
    for block, stable, new in reader:
        requests, bad = requests + new.requests, bad + new.bad
        if trial.state.phase == ROLLED_BACK:
            continue
        seen.append(block)
        decisions += [_decision(block.t, note) for note in trial.block(block.t, stable, new)]
    return Replay(len(recording.blocks), requests, bad, tuple(decisions), trial.verdicts)


def _decision(t: float, note: Note) -> Decision:
    action = "rollback" if note.type == "RolledBack" else "alert"
    return Decision(t, action, note.reason, dict(note.evidence))


def _percentile_ms(verdict: Verdict, seen: Sequence[Block]) -> float | None:
    quantile = verdict.limit.quantile
    if quantile is None or verdict.limit.first_byte:
        return None
    many = max(1, verdict.blocks[1] - verdict.blocks[0] + 1)
    hists = [block.new.hist for block in list(seen)[-many:] if block.new.hist]
    us = hdr.percentile(hdr.merge(hists), quantile)
    return None if us is None else us / 1000
