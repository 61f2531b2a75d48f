"""The plans that we ship, each run from end to end in a real controller whose time is 600 times faster.

Durations are divided by `FASTER`, requests are not: a stage that asks for 50,000 requests gets them.
"""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from proxy.config.compile import compile_text
from proxy.ipc import layout
from proxy.rollout.analysis import Reading
from proxy.rollout.plan import Hook
from proxy.rollout.state import COMPLETED, PAUSED, PROGRESSING, ROLLED_BACK
from proxy.routing.table import FULL, NEW, STABLE
from tests.controlplane.ruled import ANN
from tests.controlplane.test_controller import running
from tests.controlplane.test_rollouts import FakeChecks, last, reasons

SEEDS = Path(__file__).parents[2] / "config" / "rollouts"
FASTER = 600
BLOCK_S = 0.25
RATE = 1000  # requests per block, of both versions together


def config(plan):
    return f"""
services:
  - name: web
    stable: {{label: "1", endpoints: [http://127.0.0.1:9001]}}
    new: {{label: "2", endpoints: [http://127.0.0.1:9002]}}
    timeouts: {{first_byte: 60s}}
    rollouts: {{default: {SEEDS / plan}}}
"""


def faster(plan):
    """Return a plan whose time is `FASTER` times faster, and whose hooks touch nothing."""

    def limit(one):
        window_s = None if one.window_s is None else max(BLOCK_S, one.window_s / FASTER)
        return replace(one, window_s=window_s, for_s=one.for_s / FASTER, after_s=one.after_s / FASTER)

    stages = tuple(
        replace(
            stage,
            hold_s=stage.hold_s / FASTER,
            limits=tuple(map(limit, stage.limits)),
            require=tuple(map(limit, stage.require)),
        )
        for stage in plan.stages
    )
    hooks = plan.hooks
    if hooks.after_rollback:
        hooks = replace(hooks, after_rollback=Hook(run=("cat",)))
    most_s = None if plan.max_hold_s is None else plan.max_hold_s / FASTER
    report_s = None if plan.progress_report_s is None else plan.progress_report_s / FASTER
    return replace(plan, stages=stages, hooks=hooks, max_hold_s=most_s, progress_report_s=report_s)


class Course:
    """A rollout by a seed plan, and how its traffic does: shares 0…1 and milliseconds, of [stable, new]."""

    def __init__(self, world, checks):
        self.world = world
        self.checks = checks
        self.errors = [0.001, 0.0005]
        self.ms = [150.0, 60.0]
        self.hits = [0.5, 0.95]
        self.memory = 5e8
        self._owed = [0.0] * 8
        self._reading = 0
        self.weights = []

    def whole(self, index, amount):
        self._owed[index] += amount
        whole = math.floor(self._owed[index])
        self._owed[index] -= whole
        return whole

    async def block(self):
        world = self.world
        weight = world.word() / FULL
        for version, share in ((STABLE, 1 - weight), (NEW, weight)):
            n = self.whole(version, RATE * share)
            bad = min(n, self.whole(2 + version, n * self.errors[version]))
            us = round(self.ms[version] * 1000)
            world.hand.end(version, us, times=n - bad)
            world.hand.end(version, us, status=500, kind="status", times=bad)
            if world.controller.services.table.services[0].signals:
                at = world.hand.version_at(version) + layout.VERSION_SIGNALS
                world.hand.add(at, n)
                world.hand.add(at + layout.SIGNAL_MATCHED, min(n, self.whole(4 + version, n * self.hits[version])))
        self._reading += 1
        self.checks.last = {"memory_bytes": Reading(self._reading, self.memory)}
        world.clock.pass_s(BLOCK_S)
        await world.controller.tick()
        await world.settle()
        self.weights.append(world.word())

    async def until(self, done, most=6000):
        for _ in range(most):
            if done():
                return
            await self.block()
        raise AssertionError(
            f"{self.world.state()} {self.world.controller.status.service_status('web')['stage']['open']}"
        )

    async def stage(self, name):
        await self.until(lambda: self.world.state().rollout.now_at.name == name or self.phase != PROGRESSING)
        assert self.world.state().rollout.now_at.name == name

    async def ended(self):
        await self.until(lambda: self.phase != PROGRESSING)
        if self.phase == ROLLED_BACK:
            # The very block that decides: every generation's word is 0 (asked for are 10 s and 30 s).
            assert [generation.weight(0) for generation in self.world.generations.live] == [0] * len(
                self.world.generations.live
            )
        return self.phase, self.world.state().reason

    async def held(self, hours, what):
        """Let a stage go on for so long, and see that it is held by this and nothing else."""
        await self.blocks(hours)
        assert self.phase == PROGRESSING
        assert self.world.controller.status.service_status("web")["stage"]["open"] == [what]

    async def blocks(self, hours):
        for _ in range(round(hours * 3600 / FASTER / BLOCK_S)):
            await self.block()

    @property
    def phase(self):
        return self.world.state().phase

    @property
    def path(self):
        return [weight / 100 for weight in dict.fromkeys(self.weights)]


async def course(start, file, *, plan="default", name=None):
    compiled = compile_text(config(f"{file}.yaml" + (f"#{name}" if name else "")), {})
    service = compiled.plans[0]
    service = replace(service, rollouts=tuple(map(faster, service.rollouts)))
    world = await start((service,), compiled.table, path=None)
    world.controller.services.checks = checks = FakeChecks()
    found = Course(world, checks)
    for _ in range(8):
        await found.block()
    await world.controller.rollouts.start("web", plan, ANN)
    found.weights.clear()
    return found


# --- 1. ultra-fast analyzer -------------------------------------------------------------------------------------------


@pytest.mark.slow
@running
async def test_analyzer_healthy_to_the_end(start):
    run = await course(start, "ultra-fast-analyzer")
    assert await run.ended() == (COMPLETED, "")
    assert run.path == [1, 10, 100]
    assert "ProgressReport" in [event.type for event in run.world.controller._journal._tail]


@pytest.mark.parametrize("stage, may_have", [("canary", 1.0e9), ("ramp", 1.5e9), ("full", 2.0e9)])
def test_analyzer_rolls_back_by_memory_and_brings_back_what_runs_beside_it(tmp_path, stage, may_have):
    @running
    async def test(start):
        run = await course(start, "ultra-fast-analyzer")
        await run.stage(stage)
        run.memory = may_have  # at the limit is within it
        await run.blocks(0.1)
        assert run.phase == PROGRESSING
        run.memory = may_have + 1
        assert await run.ended() == (ROLLED_BACK, "MemoryBytesAboveLimit")
        assert last(run.world, "HookCalled")["reason"] == "after_rollback"

    test(tmp_path)


def test_analyzer_stops_the_new_and_restarts_the_original_processes():
    compiled = compile_text(config("ultra-fast-analyzer.yaml"), {})
    (plan,) = compiled.plans[0].rollouts
    assert plan.progress_report_s == 300
    assert plan.hooks.after_rollback.run[2] == "systemctl stop analyzer-new && systemctl restart analyzer"


@pytest.mark.slow
@running
async def test_analyzer_rolls_back_by_errors_and_by_latency(start):
    for stage, name, value, reason in (
        ("canary", "errors", 0.05, "ErrorRateAboveLimit"),
        ("canary", "ms", 250.0, "P99AboveLimit"),
        ("ramp", "errors", 0.009, "ErrorRateAboveLimit"),
        ("ramp", "ms", 250.0, "P99AboveLimit"),
        ("full", "ms", 250.0, "P99AboveLimit"),
    ):
        run = await course(start, "ultra-fast-analyzer")
        await run.stage(stage)
        getattr(run, name)[NEW] = value
        before = len(run.weights)
        assert await run.ended() == (ROLLED_BACK, reason)
        assert len(run.weights) - before < 400  # the nearer to the limit, the more blocks


@running
async def test_analyzer_at_100_percent_errors_are_told_and_a_person_decides(start):
    run = await course(start, "ultra-fast-analyzer")
    await run.stage("full")
    run.errors[NEW] = 0.003
    await run.blocks(3)
    assert (run.phase, run.world.word()) == (PROGRESSING, FULL)
    assert reasons(run.world, "LimitFailed") == ["ErrorRateAboveLimit"]


@pytest.mark.parametrize(
    "hits, least, weights",
    [
        (0.59, 60, [1]),
        pytest.param(0.69, 70, [1, 10], marks=pytest.mark.slow),
        pytest.param(0.84, 85, [1, 10, 100], marks=pytest.mark.slow),
    ],
)
def test_analyzer_without_cache_hits_is_held_in_its_stage(tmp_path, hits, least, weights):
    @running
    async def test(start):
        run = await course(start, "ultra-fast-analyzer")
        run.hits[NEW] = hits
        await run.held({1: 24, 10: 30, 100: 64}[weights[-1]], f"required cache_hit_rate ≥ {least} % FAIL")
        assert run.path == weights

    test(tmp_path)


# --- 2. farmers' market -----------------------------------------------------------------------------------------------


@pytest.mark.slow
@running
async def test_market_healthy_to_the_end_compared_with_the_record_of_stable(start):
    run = await course(start, "farmers-market")
    assert await run.ended() == (COMPLETED, "")
    assert run.path == [10, 50, 100]
    assert run.world.state().rollout.record_of == "half"
    assert run.world.state().rollout.record["p95"]["value"] == pytest.approx(150, rel=0.02)


@running
async def test_market_goes_back_when_errors_last_and_is_held_when_they_are_only_too_many(start):
    run = await course(start, "farmers-market")
    run.errors[NEW] = 0.05
    # `for: 5m` is two blocks here: the evidence of the limit of 1 % may pause first, and the gate stays armed.
    await run.until(lambda: run.phase == ROLLED_BACK)
    assert run.world.state().reason == "ErrorRateAboveLimit"
    run = await course(start, "farmers-market")
    run.errors[NEW] = 0.015
    assert await run.ended() == (PAUSED, "ErrorRateAboveLimit")
    assert reasons(run.world, "LimitFailed")[:1] == ["ErrorRateAboveLimit"]


@running
async def test_market_goes_back_when_it_is_slow_for_long_and_only_tells_when_it_is_rather_slow(start):
    run = await course(start, "farmers-market")
    run.ms[NEW] = 600.0
    await run.blocks(2)
    assert (run.phase, reasons(run.world, "LimitFailed")) == (PROGRESSING, ["P95AboveLimit"])
    run.ms[NEW] = 2100.0
    before = len(run.weights)
    assert await run.ended() == (ROLLED_BACK, "P95AboveLimit")
    assert len(run.weights) - before >= 600 / FASTER / BLOCK_S


@pytest.mark.slow
@running
async def test_market_wants_half_of_the_errors_from_the_second_stage_on(start):
    run = await course(start, "farmers-market")
    run.errors[NEW] = 0.004
    await run.stage("half")
    run.errors[NEW] = 0.009
    assert await run.ended() == (PAUSED, "ErrorRateAboveLimit")
    assert run.world.word() == 5000


@running
async def test_market_freezes_when_the_traffic_that_nobody_touched_gets_worse(start):
    for name, value, reason in (
        ("errors", 0.03, "StableErrorRateAboveLimit"),
        ("ms", 600.0, "StableP95AboveLimit"),
    ):
        run = await course(start, "farmers-market")
        await run.blocks(10)
        getattr(run, name)[STABLE] = value
        assert await run.ended() == (PAUSED, reason)
        assert run.world.word() == 1000


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, value, what, weights",
    [
        ("hits", 0.29, "required cache_hit_rate ≥ 30 % FAIL", [10]),
        ("hits", 0.49, "required cache_hit_rate ≥ 50 % FAIL", [10, 50]),
        ("hits", 0.59, "required cache_hit_rate ≥ 60 % FAIL", [10, 50, 100]),
        # 43 % faster than stable: enough for the first stage only.
        ("ms", 85.0, "required p95 ≤ 0.5 times stable's FAIL", [10, 50]),
    ],
)
def test_market_is_held_by_what_success_needs(tmp_path, name, value, what, weights):
    @running
    async def test(start):
        run = await course(start, "farmers-market")
        getattr(run, name)[NEW] = value
        await run.held({10: 60, 50: 132, 100: 204}[weights[-1]], what)
        assert run.path == weights

    test(tmp_path)


@pytest.mark.slow
@running
async def test_market_leaves_a_cold_cache_a_day_and_wants_it_faster_than_stable(start):
    run = await course(start, "farmers-market")
    run.hits[NEW] = 0.0
    await run.blocks(20)
    run.hits[NEW] = 0.35
    await run.stage("half")
    slow = await course(start, "farmers-market")
    slow.ms[NEW] = 120.0  # within every limit, and not 40 % faster
    assert await slow.ended() == (PAUSED, "MaxHoldOver")
    assert slow.path == [10]


# --- 3. recommendations -----------------------------------------------------------------------------------------------


@pytest.mark.slow
@running
async def test_recommendations_in_production_to_the_end(start):
    run = await course(start, "recommendations", name="production")
    assert await run.ended() == (COMPLETED, "")
    assert run.path == [10, 25, 50, 100]


@running
async def test_recommendations_go_back_by_each_of_their_limits(start):
    for name, value, reason in (
        ("errors", 0.04, {"ErrorRateAboveLimit", "AvailabilityBelowLimit"}),
        ("ms", 46_000.0, {"P95AboveLimit"}),
        ("hits", 0.3, {"CacheHitRateBelowLimit"}),
        ("errors", 0.015, {"AvailabilityBelowLimit"}),
    ):
        run = await course(start, "recommendations", name="production")
        await run.stage("quarter")
        getattr(run, name)[NEW] = value
        phase, why = await run.ended()
        assert phase == ROLLED_BACK
        assert why in reason


@running
async def test_recommendations_in_development_and_staging(start):
    run = await course(start, "recommendations", name="development")
    await run.blocks(1)
    assert (run.phase, run.world.word()) == (PROGRESSING, 5000)
    await run.world.controller.rollouts.promote("web", ANN)
    assert (run.phase, run.world.word()) == (COMPLETED, 5000)
    run = await course(start, "recommendations", name="staging")
    assert await run.ended() == (COMPLETED, "")
    assert run.path == [100]


# --- 4. our own default -----------------------------------------------------------------------------------------------


@running
async def test_canary_goes_on_by_evidence_and_bakes_its_whole_hold(start):
    run = await course(start, "canary")
    await run.stage("full")
    assert set(reasons(run.world, "StageEntered")) <= {"Proven", "HoldOver"}
    entered = run.world.state().rollout.entered
    assert await run.ended() == (COMPLETED, "")
    assert run.path == [1, 10, 50, 100]
    assert run.world.clock.ns / 1e9 - entered >= 24 * 3600 / FASTER


@running
async def test_canary_goes_back_by_errors_and_by_latency(start):
    for name, value, reason in (("errors", 1.0, "ErrorRateAboveLimit"), ("ms", 600.0, "P99AboveLimit")):
        run = await course(start, "canary")
        await run.block()
        getattr(run, name)[NEW] = value
        assert await run.ended() == (ROLLED_BACK, reason)


@running
async def test_canary_goes_back_when_new_is_worse_than_stable_though_within_its_limit(start):
    run = await course(start, "canary")
    await run.stage("half")
    run.errors = [0.001, 0.008]
    assert await run.ended() == (ROLLED_BACK, "ErrorRateAboveStable")
