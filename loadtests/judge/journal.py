"""What the block journal costs: CPU time and bytes per block and service (`python -m loadtests.judge.journal`).

A service with two latency limits and an error limit; every fourth block ends a second and carries the histograms of
both versions, with so many different latencies.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from pathlib import Path

from proxy.controlplane.blocks import Blocks, Rules
from proxy.controlplane.history import History
from proxy.controlplane.scales import TOTAL, Delta, Scale
from proxy.metrics.snapshot import Columns, Judged, ServiceCounts, Snapshot, VersionCounts
from proxy.rollout.judges import Court
from proxy.rollout.plan import Limit, ServicePlan
from proxy.routing.table import NEW, STABLE

EDGES = (150_000, 200_000)
LIMITS = (Limit("error_rate", max=0.01), Limit("p99", max=200.0), Limit("p95", max=150.0))
BLOCKS = 20_000


def counts(number: int) -> ServiceCounts:
    """Return the totals after so many blocks."""
    judged = Judged(25 * number, number, 0, number, (number, number), (24 * number, 24 * number))
    return ServiceCounts("web", EDGES, (VersionCounts("stable", "", 1, judged), VersionCounts("new", "", 1, judged)))


def measure(latencies: int) -> tuple[float, float, float]:
    """Return µs of an ordinary block, µs of one that ends a second, and bytes per second of traffic."""
    chance = random.Random(1)
    history = History()
    history.add(Snapshot(0.0, {"web": counts(0)}))
    history.slice_due(0.0)
    spent = [0, 0]
    with tempfile.TemporaryDirectory() as folder:
        blocks = Blocks(Path(folder))
        blocks.begin(counts(0), history)
        rules = Rules(Court(ServicePlan("web"), Columns(EDGES), 0.0, 14.0, 1000), LIMITS, "canary", 1000)
        for number in range(1, BLOCKS + 1):
            now, found, ends = number / 4, counts(number), number % 4 == 0
            if ends:
                grown = {index: 1 + chance.randrange(9) for index in chance.sample(range(2560), latencies)}
                history.add_slice(
                    now, [Delta(Scale(TOTAL, "web", version), 1, dict(grown)) for version in (STABLE, NEW)]
                )
            begun = time.thread_time_ns()
            blocks.add(found, history, rules, now, 1_700_000_000 + now)
            blocks.flush(now)
            spent[ends] += time.thread_time_ns() - begun
            if ends and (writing := blocks.write()) is not None:
                writing.result()  # time that is played does not overtake the disk
        blocks.close()
        size = blocks.path("web").stat().st_size
    return spent[0] / (BLOCKS * 750), spent[1] / (BLOCKS * 250), 4 * size / BLOCKS


def main() -> None:
    """Print the table."""
    print("latencies  µs/block  µs/block with histograms  bytes/s")
    for latencies in (10, 50, 150, 400):
        ordinary, ending, size = measure(latencies)
        print(f"{latencies:9}  {ordinary:8.1f}  {ending:24.1f}  {size:7.0f}")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
