"""What is promised for a service: its limits, the plans of its rollouts, and what they are measured by.

Nouns: a *limit* is one rule on a metric of one version; a *stage* is a weight, how long it is held and what must hold
meanwhile (`limits`) and at its end (`require`); a *plan* is the stages of a rollout in order, with its *hooks*; a
*signal* is a metric from a response header, a *check* one that is read from elsewhere. The compiler (`proxy.config`)
makes these; the judge (`proxy.rollout.analysis`), the machine (`proxy.rollout.machine`) and the timetable
(`proxy.rollout.timetable`) read them. They hold only what JSON can, so that a rollout's plan can be stored with it
(`to_plain`, `from_plain` of `proxy.routing.table`).

Units: shares 0…1, latencies in milliseconds, readings of checks in their own unit, durations in seconds, weights in
1/10,000.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from proxy.routing.health import Health
from proxy.routing.outlier import Eject
from proxy.routing.table import NEW, Signal

QUANTILES: dict[str, float] = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99, "p999": 0.999}
FIRST_BYTE: dict[str, float] = {f"ttfb_{name}": quantile for name, quantile in QUANTILES.items()}
LATENCIES = QUANTILES | FIRST_BYTE
# A latency is compared with stable's percentile over so long, of at least so many.
TRAILING_S = 600.0
LEAST_SAMPLES = 1000
SHARES = ("error_rate", "availability", "client_error_rate")
METRICS = (*SHARES, *LATENCIES)  # those that every service has

# Where a metric comes from.
COUNTED, SIGNAL, CHECK = "counted", "signal", "check"
# What a breach does; `HOLD` is that of a requirement which is not met: the stage stays.
ROLLBACK, PAUSE, ALERT, HOLD = "rollback", "pause", "alert", "hold"
# How a limit is judged: block by block, by its value over a window, by a check's last reading, or over a whole stage.
EVIDENCE, WINDOW, READING, STAGE = "evidence", "window", "reading", "stage"
# What lets a stage go on: hold over and all limits PASS, earlier when that is proven, or a person.
AUTO, PROVEN, MANUAL = "auto", "evidence", "manual"


@dataclass(frozen=True, slots=True)
class Limit:
    """One rule. Exactly one of `max`, `min` and `max_ratio` is set.

    `for_s`: the breach must last this long without a break. `after_s`: shown but not acted on until the weight
    has been above 0 (in a stage: the stage has run) for this long; of a requirement: what came before it is left out.
    `action`: rollback | pause | alert | hold. `window_s`: it is judged by its value over this sliding window; `None` =
    by evidence, block by block (`sliding_s`).
    `max_ratio`: at most so many times the value of stable, and no breach while the value is within `floor`.
    `source`: counted | signal | check.
    """

    metric: str
    max: float | None = None
    min: float | None = None
    window_s: float | None = None
    for_s: float = 0.0
    after_s: float = 0.0
    min_requests: int = 20
    version: int = NEW
    action: str = ROLLBACK
    dry_run: bool = False
    max_ratio: float | None = None
    floor: float = 0.0
    source: str = COUNTED

    @property
    def quantile(self) -> float | None:
        """The share of requests that must be faster, or `None` when the metric is no latency."""
        return LATENCIES.get(self.metric) if self.source == COUNTED else None

    @property
    def threshold_us(self) -> int | None:
        """The latency limit in µs, or `None` when the metric is no latency (or relative to stable)."""
        return None if self.quantile is None or self.max is None else round(self.max * 1000)

    @property
    def first_byte(self) -> bool:
        """Whether the latency is that of the first byte."""
        return self.source == COUNTED and self.metric in FIRST_BYTE

    @property
    def judge(self) -> str:
        """How it is judged: evidence | window | reading | stage."""
        if self.action == HOLD:
            return STAGE
        if self.source == CHECK:
            return READING
        return EVIDENCE if self.sliding_s is None else WINDOW

    @property
    def sliding_s(self) -> float | None:
        """The sliding window over which its value is judged, `None` = by evidence.

        A percentile that is compared with stable's is one of a window also where none was given.
        """
        if self.compares_percentiles:
            return self.window_s or TRAILING_S
        return self.window_s

    @property
    def compares_percentiles(self) -> bool:
        """Whether it compares a percentile of `new` with that of stable, as histograms tell them."""
        return self.max_ratio is not None and self.quantile is not None

    @property
    def acts(self) -> bool:
        """Whether a breach changes anything by itself."""
        return self.action in (ROLLBACK, PAUSE) and not self.dry_run


@dataclass(frozen=True, slots=True)
class Check:
    """A metric that is read from elsewhere: a number in the JSON of a `url` or a `file` (absolute), every `every_s`.

    `path`: keys and indexes from the root to the number; empty = the document is the number.
    """

    name: str
    url: str | None = field(default=None, repr=False)  # may hold a secret, as what a hook runs may
    file: str | None = None
    path: tuple[str | int, ...] = ()
    every_s: float = 10.0
    timeout_s: float = 5.0


@dataclass(frozen=True, slots=True)
class Hook:
    """Something outside that is told or asked: a `url` that gets a POST, or a command (`run`: argv) in `cwd`."""

    url: str | None = field(default=None, repr=False)
    run: tuple[str, ...] = field(default=(), repr=False)
    cwd: str | None = None
    timeout_s: float = 10.0


@dataclass(frozen=True, slots=True)
class Hooks:
    """The hooks of a plan by the moment they run. Those before a move can stop it."""

    before_start: Hook | None = None
    before_stage: Hook | None = None
    after_rollback: Hook | None = None
    after_complete: Hook | None = None


@dataclass(frozen=True, slots=True)
class Stage:
    """One step of a rollout. `limits` are armed beside the service's own; `require` is judged at its end.

    `advance`: auto | evidence | manual; the plan's, where the stage has none of its own.
    """

    name: str
    weight_bp: int
    hold_s: float
    min_requests: int = 20
    limits: tuple[Limit, ...] = ()
    require: tuple[Limit, ...] = ()
    advance: str = AUTO


@dataclass(frozen=True, slots=True)
class Plan:
    """The stages of a rollout in order; weights never fall. The hold of the last one is the bake.

    `max_hold_s` is counted from the end of a stage's hold; `None` = it waits for as long as it takes.
    `on_max_hold`: pause | rollback. `signals` and `checks` are those that the plan itself defines; one that runs also
    has the checks of the service that its limits name.
    """

    name: str
    stages: tuple[Stage, ...]
    advance: str = AUTO
    max_hold_s: float | None = None
    on_max_hold: str = PAUSE
    progress_report_s: float | None = None
    hooks: Hooks = Hooks()
    signals: tuple[Signal, ...] = ()
    checks: tuple[Check, ...] = ()

    def every_limit(self) -> Iterator[Limit]:
        """Yield the limits and requirements of all stages."""
        for stage in self.stages:
            yield from stage.limits
            yield from stage.require


@dataclass(frozen=True, slots=True)
class ServicePlan:
    """What the controller needs to know of a service beside its routing.

    `signals` and `checks` are all that any limit of the service or of its `rollouts` may name.
    `false_alarms`: how likely one rollout of a healthy version may be rolled back, at most. `health` and `eject`: what
    takes endpoints out; `slow_start_s`: over which time they get their share back.
    """

    name: str
    limits: tuple[Limit, ...] = ()
    block_s: float = 0.25
    initial_weight: int = 0
    salt: str = "rollout"  # "rollout" = a fresh random one per rollout; anything else is used as it is
    watchdog_s: float = 2.0
    rollouts: tuple[Plan, ...] = ()
    false_alarms: float = 0.01
    signals: tuple[Signal, ...] = ()
    checks: tuple[Check, ...] = ()
    health: Health | None = None
    eject: Eject | None = None
    slow_start_s: float = 0.0

    def rollout(self, name: str = "") -> Plan | None:
        """Return the plan of that name; without a name the one called default, or the only one there is."""
        if not name and len(self.rollouts) == 1:
            return self.rollouts[0]
        return next((plan for plan in self.rollouts if plan.name == (name or "default")), None)

    def every_limit(self) -> Iterator[Limit]:
        """Yield the limits of the service and those of its rollouts."""
        yield from self.limits
        for plan in self.rollouts:
            yield from plan.every_limit()


def thresholds_us(limits: Iterable[Limit], *, first_byte: bool = False) -> tuple[int, ...]:
    """Return the latencies (µs, ascending) of whole responses, or of first bytes, to be counted for these limits."""
    edges = {limit.threshold_us for limit in limits if limit.first_byte == first_byte}
    return tuple(sorted(edge for edge in edges if edge is not None))
