"""What is promised for a service: its limits and how they are judged.

A *limit* is one rule on a metric of one version. The compiler (`proxy.config.compile`) makes these from the
config; the judge (`proxy.rollout.analysis`) and the machine (`proxy.rollout.machine`) read them.
Units: shares 0…1, latencies in milliseconds, durations in seconds, weights in 1/10,000.
"""

from __future__ import annotations

from dataclasses import dataclass

from proxy.routing.table import NEW

QUANTILES: dict[str, float] = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99, "p999": 0.999}
SHARES = ("error_rate", "availability", "client_error_rate")


@dataclass(frozen=True, slots=True)
class Limit:
    """One rule. Exactly one of `max` and `min` is set (`min` for availability).

    `for_s`: the breach must last this long without a break. `after_s`: shown but not acted on until the weight
    has been above 0 for this long. `action`: rollback | pause | alert. `window_given`: the config named the
    window; otherwise it is the default that `check` mentions.
    """

    metric: str
    max: float | None = None
    min: float | None = None
    window_s: float = 10.0
    for_s: float = 0.0
    after_s: float = 0.0
    min_requests: int = 20
    version: int = NEW
    action: str = "rollback"
    dry_run: bool = False
    window_given: bool = False

    @property
    def quantile(self) -> float | None:
        """The share of requests that must be faster, or `None` when the metric is no latency."""
        return QUANTILES.get(self.metric)

    @property
    def threshold_us(self) -> int | None:
        """The latency limit in µs, or `None` when the metric is no latency."""
        return None if self.quantile is None or self.max is None else round(self.max * 1000)


@dataclass(frozen=True, slots=True)
class ServicePlan:
    """What the controller needs to know of a service beside its routing."""

    name: str
    limits: tuple[Limit, ...] = ()
    block_s: float = 0.25
    initial_weight: int = 0
    salt: str = "rollout"  # "rollout" = a fresh random one per rollout; anything else is used as it is
    watchdog_s: float = 2.0
