"""Judging recorded blocks again: as they were judged, or by other limits ("it would have rolled back at 12:03:07").

Other limits are judged as those of a service whose weight a person has set: armed from the first block on, by evidence
unless they have a window. Without other limits every part of the journal (from one header to the next) is judged by the
limits, the alarm and from the instant that its header says, so that what was decided is decided again.

The first rollback ends the judging, because what comes after it is no longer what would have been. The traffic that the
journal holds is taken as it was: a rollback that did happen shows as blocks that are missing, and these decide nothing.

Not judged again, and named (`left_out`): checks, latencies compared with stable, and what was compared with a record.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from proxy.metrics import hdr
from proxy.rollout.analysis import Verdict
from proxy.rollout.effect import Note
from proxy.rollout.judges import LATE_BLOCKS
from proxy.rollout.plan import ALERT, CHECK, PAUSE, ROLLBACK, Limit, ServicePlan
from proxy.rollout.recording import Block, Header, Reader, Recording, Untold, metric_of
from proxy.rollout.state import ROLLED_BACK, ServiceState
from proxy.rollout.trial import Trial
from proxy.routing.table import FULL

FALSE_ALARMS = 0.01
# So many blocks are looked through for the percentile that a decision is shown with.
SHOWN_BLOCKS = 4096


@dataclass(frozen=True, slots=True)
class Decision:
    """What would have been done at `t`: rollback, pause (of a progressing rollout), or alert (said, nothing moved)."""

    t: float
    action: str
    reason: str
    evidence: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Replay:
    """What became of it. `blocks`: in the journal; `requests` and `bad` of `new` in all of them.

    `verdicts`: in the last block that was judged; `left_out`: recorded limits that a journal cannot answer;
    `untold`: other limits for which it cannot tell whether requests that hung broke them.
    """

    blocks: int
    requests: int
    bad: int
    decisions: tuple[Decision, ...]
    verdicts: tuple[Verdict, ...]
    left_out: tuple[Limit, ...] = ()
    untold: tuple[Untold, ...] = ()

    @property
    def rollback(self) -> Decision | None:
        """The decision to roll back, `None` if there was none."""
        return next((decision for decision in self.decisions if decision.action == ROLLBACK), None)

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


@dataclass(frozen=True, slots=True)
class Part:
    """Blocks that are judged by one bench: these limits, since an instant, with an alarm (`None`: of this plan)."""

    recording: Recording
    limits: tuple[Limit, ...]
    since: float
    weight_bp: int
    alarm_at: float | None = None


def replay(
    recording: Recording, limits: Sequence[Limit] | None = None, *, false_alarms: float = FALSE_ALARMS
) -> Replay:
    """Judge a journal by `limits`, or as it was judged; raise `ConfigError` when it does not hold what they need."""
    left_out: list[Limit] = []
    if limits is None:
        parts = list(_recorded(recording, left_out))
    else:
        began = recording.blocks[0].t - recording.block_s
        # The weight is not in every journal: any that is neither 0 nor all.
        parts = [Part(recording, tuple(limits), began, FULL // 10)]
    decisions: list[Decision] = []
    verdicts: tuple[Verdict, ...] = ()
    for part in parts:
        found, verdicts = _judged(part, false_alarms)
        decisions += found
        if any(one.action == ROLLBACK for one in found):
            break
    new = [block.new for block in recording.blocks]
    counts = sum(one.requests for one in new), sum(one.bad for one in new)
    untold = () if limits is None else tuple(Reader(recording, limits).untold(limits))
    return Replay(len(new), *counts, tuple(decisions), verdicts, tuple(dict.fromkeys(left_out)), untold)


def _recorded(recording: Recording, left_out: list[Limit]) -> Iterator[Part]:
    """Yield the parts of a journal as their headers say."""
    for _, group in groupby(recording.blocks, key=lambda block: _bench(block.header)):
        blocks = tuple(group)
        header = blocks[0].header
        block_s = header.block_s or recording.block_s
        part = Recording(recording.name, blocks, block_s)
        judged = header.judged
        if judged is None:
            limits = tuple(limit_of(metric_of(called), bound) for called, bound in header.limits.items())
            yield Part(part, limits, blocks[0].t - block_s, FULL // 10)
            continue
        left_out += [limit for limit in judged.rules if not _again(limit, judged.weight_bp)]
        rules = tuple(limit for limit in judged.rules if _again(limit, judged.weight_bp))
        # What was judged before the first block (of a file that is gone) is not known.
        since = judged.since if blocks[0].t - judged.since <= LATE_BLOCKS * block_s else blocks[0].t - block_s
        yield Part(part, rules, since, judged.weight_bp, judged.alarm_at)


def _bench(header: Header) -> object:
    """Return what differs where judges were made anew; that only the weight changed is no reason."""
    judged = header.judged
    if judged is None:
        return header
    return header.block_s, judged.since, judged.alarm_at, judged.stage, judged.rules


def limit_of(metric: str, bound: float) -> Limit:
    """Return the plainest limit on `new` of this metric: availability is a minimum."""
    return Limit(metric, min=bound) if metric == "availability" else Limit(metric, max=bound)


def _again(limit: Limit, weight_bp: int) -> bool:
    compared = limit.max_ratio is not None and (limit.quantile is not None or weight_bp == FULL)
    return limit.source != CHECK and not compared


def _judged(part: Part, false_alarms: float) -> tuple[list[Decision], tuple[Verdict, ...]]:
    recording = part.recording
    reader = Reader(recording, part.limits)
    plan = ServicePlan(recording.name, part.limits, block_s=recording.block_s, false_alarms=false_alarms)
    state = ServiceState(weight_bp=part.weight_bp, has_new=True, live_since=part.since)
    seen: deque[Block] = deque(maxlen=SHOWN_BLOCKS)
    trial = Trial(
        plan,
        state,
        reader.columns,
        part.since,
        measure=lambda verdict: _percentile_ms(verdict, seen),
        alarm_at=part.alarm_at,
    )
    decisions: list[Decision] = []
    for block, stable, new in reader:
        seen.append(block)
        decisions += [_decision(block.t, note) for note in trial.block(block.t, stable, new)]
        if trial.state.phase == ROLLED_BACK:
            break
    return decisions, trial.verdicts


def _decision(t: float, note: Note) -> Decision:
    pauses = note.evidence.get("action") == PAUSE and not note.evidence.get("dry_run")
    action = ROLLBACK if note.type == "RolledBack" else PAUSE if pauses else ALERT
    return Decision(t, action, note.reason, dict(note.evidence))


def _percentile_ms(verdict: Verdict, seen: Sequence[Block]) -> float | None:
    quantile = verdict.limit.quantile
    if quantile is None or verdict.limit.first_byte:
        return None
    many = max(1, verdict.blocks[1] - verdict.blocks[0] + 1)
    hists = [block.new.hist for block in list(seen)[-many:] if block.new.hist]
    if not hists:
        # Histograms come by the second: the last one that there is.
        hists = [hist for block in reversed(seen) if (hist := block.new.hist)][:1]
    us = hdr.percentile(hdr.merge(hists), quantile)
    return None if us is None else us / 1000
