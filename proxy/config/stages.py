"""The shape of a rollout plan: its stages, what lets them go on, and the hooks."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from proxy.config.limits import CheckConfig, LimitConfig, RequireConfig, SignalConfig
from proxy.config.values import (
    Argument,
    Duration,
    File,
    HookUrl,
    MetricName,
    Name,
    Notation,
    Section,
    Wait,
    WaitOrNone,
    Weight,
)

ADVANCE = "auto = hold over and every limit PASS; evidence = earlier, when that is proven; manual = a person promotes"


class StageConfig(Section):
    """One step of a rollout: a weight, how long it is held, and what must hold meanwhile."""

    name: Name = Field(description="its name in status, journal and report", examples=["canary"])
    weight: Annotated[Weight, Field(gt=0)] = Field(
        description="weight of `new`; never below that of the stage before", examples=["1%"]
    )
    hold: Wait = Field(description="how long it lasts at least (evidence: at most)", examples=["2h"])
    min_requests: Annotated[int, Field(ge=1, le=1_000_000_000)] = Field(
        default=20, description="it does not end before `new` has answered so many"
    )
    limits: list[LimitConfig] = Field(
        default=[], description="armed in this stage, beside those of the service; short: {error_rate: 1%, p99: 200ms}"
    )
    require: list[RequireConfig] = Field(default=[], description="what must hold at its end; not met: it is held")
    advance: Literal["auto", "evidence", "manual"] | None = Field(
        default=None, description="as that of the plan, for this stage alone", examples=["auto"]
    )


class HookConfig(Section):
    """Something outside that is asked or told. 2xx or exit code 0 = go; otherwise the output is shown."""

    url: HookUrl | None = Field(
        default=None, description="gets a POST with what happens", examples=["http://127.0.0.1/go"]
    )
    run: Annotated[Annotated[list[Argument], Field(min_length=1)] | None, Notation("list of text")] = Field(
        default=None,
        description="or a command and its arguments, without a shell",
        examples=["[systemctl, start, app]"],
    )
    cwd: File | None = Field(
        default=None, description="where the command runs; absent = the directory of this file", examples=["."]
    )
    timeout: Annotated[Wait, Field(le=300)] = Field(default=10.0, description="longer is a failure")


class HooksConfig(Section):
    """What is asked before a move and told after it."""

    before_start: HookConfig | None = Field(default=None, description="failed: the rollout does not start")
    before_stage: HookConfig | None = Field(default=None, description="failed: the stage before is held")
    after_rollback: HookConfig | None = Field(default=None, description="when all weight is on stable again")
    after_complete: HookConfig | None = Field(default=None, description="when the last stage is over")


class PlanConfig(Section):
    """How a rollout goes, stage by stage. Limits of the service stay armed in every stage."""

    stages: list[StageConfig] = Field(min_length=1, description="in order; the hold of the last one is the bake")
    advance: Literal["auto", "evidence", "manual"] = Field(default="auto", description=ADVANCE)
    max_hold: WaitOrNone = Field(
        default=None, description="a stage that waits longer than this after its hold: on_max_hold", examples=["24h"]
    )
    on_max_hold: Literal["pause", "rollback"] = Field(default="pause", description="what happens then")
    progress_report: Annotated[Duration, Field(ge=1)] | None = Field(
        default=None, description="write an event with the numbers so far, this often", examples=["5m"]
    )
    hooks: HooksConfig = Field(default=HooksConfig(), description="what is asked before a move and told after it")
    signals: dict[MetricName, SignalConfig] = Field(
        default={}, description="metrics from response headers, by name; those of the service are known too"
    )
    checks: dict[MetricName, CheckConfig] = Field(
        default={}, description="metrics that are read from elsewhere, by name; those of the service are known too"
    )


class PlansConfig(Section):
    """A file of plans: several by name under `plans`, or one alone."""

    plans: Annotated[dict[Name, PlanConfig], Field(min_length=1)] = Field(description="plans by name")
