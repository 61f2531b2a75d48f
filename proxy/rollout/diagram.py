"""The state diagram of rollouts, made from the transition table: docs/rollouts.md shows it, a test compares.

An arrow stands for every pair of the table that can lead from one phase to another; the table below it has them all.
"""

from __future__ import annotations

from proxy.rollout.event import Breach, HookAnswered, NewRemoved, PlanChanged, Restarted, Restored, Tick, WorkerLost
from proxy.rollout.machine import TABLE, VERBS
from proxy.rollout.state import IDLE, PHASES

NAMES = {
    **VERBS,
    Breach: "breach",
    Tick: "tick",
    HookAnswered: "hook answered",
    WorkerLost: "worker lost",
    PlanChanged: "plan changed",
    Restored: "drill over",
    NewRemoved: "new removed",
    Restarted: "restart, latched",
}


def mermaid() -> str:
    """Return the diagram in mermaid's notation."""
    arrows: dict[tuple[str, str], list[str]] = {}
    for (phase, kind), row in TABLE.items():
        for target in row.to:
            if target != phase:
                arrows.setdefault((phase, target), []).append(NAMES[kind])
    lines = ["stateDiagram-v2", f"    [*] --> {IDLE}"]
    for (phase, target), names in sorted(
        arrows.items(), key=lambda arrow: (PHASES.index(arrow[0][0]), PHASES.index(arrow[0][1]))
    ):
        lines.append(f"    {phase} --> {target}: {' · '.join(names)}")
    return "\n".join(lines) + "\n"


def table() -> str:
    """Return the table in Markdown: for each phase and event, the phases that it can lead to."""
    kinds = list(dict.fromkeys(kind for _, kind in TABLE))
    lines = [
        "| event | " + " | ".join(PHASES) + " |",
        "|---" * (len(PHASES) + 1) + "|",
    ]
    for kind in kinds:
        cells = []
        for phase in PHASES:
            row = TABLE.get((phase, kind))
            cells.append("refused" if row is None else ", ".join(row.to))
        lines.append(f"| {NAMES[kind]} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
