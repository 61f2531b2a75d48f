"""What a right plan becomes, and what the shipped ones say."""

import json

import pytest

from proxy.config import reference
from proxy.config.compile import compile_text
from proxy.config.plans import compile_plan_file, compile_plan_text, is_plan_file
from proxy.rollout.plan import Check, Hook, Hooks, Limit, Plan, ServicePlan, Stage
from proxy.routing.table import STABLE, Signal, from_plain, to_plain

ROLLOUTS = reference.ROOT / "config/rollouts"
SEEDS = sorted(ROLLOUTS.glob("*.yaml"))
WHOLE = """
advance: evidence
max_hold: 24h
on_max_hold: rollback
progress_report: 5m
hooks:
  before_start: {url: "https://h.example/go?key=secret"}
  after_rollback: {run: [./restore, "--all"], timeout: 5s}
  after_complete: {run: [go], cwd: /srv}
signals: {hits: {header: X-Cache, matches: "^HIT"}}
checks:
  rss: {url: http://127.0.0.1:1/m.json, json: "$.memory[0]['resident set']", every: 30s, timeout: 1s}
  queue: {file: run/queue.json}
stages:
  - name: canary
    weight: 0.25%
    hold: 2h
    min_requests: 1000
    limits:
      - {metric: error_rate, max_ratio: 1.5, floor: 0.1%}
      - {metric: ttfb_p99, max_ratio: 2, floor: 5ms}
      - {metric: p99, max: 200ms, window: 30s, for: 5s, after: 1m}
      - {metric: hits, min: 60%, dry_run: true}
      - {metric: rss, max: 1.5GiB, for: 1m, action: pause}
      - {metric: queue, min: -1.5, max: 5}
      - {metric: p95, max: 1s, version: stable, action: alert}
    require: {p50: 40ms, availability: 99.9%}
    advance: manual
  - {name: full, weight: 100%, hold: 1d, require: [{metric: hits, min: 60%, after: 12h, min_requests: 5}]}
""".replace("min: -1.5, max: 5", "max: -1.5")


def whole(tmp_path):
    (plan,) = compile_plan_text(WHOLE, {}, name="some/My Plan.yaml", base=tmp_path).plans
    return plan


def test_a_plan(tmp_path):
    assert whole(tmp_path) == Plan(
        name="my-plan",
        advance="evidence",
        max_hold_s=86_400.0,
        on_max_hold="rollback",
        progress_report_s=300.0,
        hooks=Hooks(
            before_start=Hook(url="https://h.example/go?key=secret"),
            after_rollback=Hook(run=("./restore", "--all"), cwd=str(tmp_path), timeout_s=5.0),
            after_complete=Hook(run=("go",), cwd="/srv"),
        ),
        signals=(Signal("hits", "x-cache", "^HIT"),),
        checks=(
            Check(
                "rss", url="http://127.0.0.1:1/m.json", path=("memory", 0, "resident set"), every_s=30.0, timeout_s=1.0
            ),
            Check("queue", file=str(tmp_path / "run/queue.json")),
        ),
        stages=(
            Stage(
                name="canary",
                weight_bp=25,
                hold_s=7200.0,
                min_requests=1000,
                limits=(
                    Limit("error_rate", max_ratio=1.5, floor=0.001),
                    Limit("ttfb_p99", max_ratio=2.0, floor=5.0),
                    Limit("p99", max=200.0, window_s=30.0, for_s=5.0, after_s=60.0),
                    Limit("hits", min=0.6, dry_run=True, source="signal"),
                    Limit("rss", max=1.5 * 1024**3, for_s=60.0, action="pause", source="check"),
                    Limit("queue", max=-1.5, source="check"),
                    Limit("p95", max=1000.0, version=STABLE, action="alert"),
                ),
                require=(
                    Limit("p50", max=40.0, action="hold"),
                    Limit("availability", min=0.999, action="hold"),
                ),
                advance="manual",
            ),
            Stage(
                name="full",
                weight_bp=10_000,
                hold_s=86_400.0,
                require=(Limit("hits", min=0.6, after_s=43_200.0, min_requests=5, action="hold", source="signal"),),
                advance="evidence",
            ),
        ),
    )


def test_how_each_limit_is_judged(tmp_path):
    stage = whole(tmp_path).stages[0]
    assert [limit.judge for limit in stage.limits] == [
        "evidence",
        "window",
        "window",
        "evidence",
        "reading",
        "reading",
        "evidence",
    ]
    assert {limit.judge for limit in stage.require} == {"stage"}
    assert [limit.acts for limit in stage.limits] == [True, True, True, False, True, True, False]
    assert [limit.first_byte for limit in stage.limits] == [False, True, False, False, False, False, False]


def test_a_plan_can_be_stored_as_json(tmp_path):
    plan = whole(tmp_path)
    assert from_plain(json.loads(json.dumps(to_plain(plan))), Plan) == plan


def test_notes_say_how_every_limit_is_judged():
    assert compile_plan_text(WHOLE, {}, name="p").notes == (
        "p: stage canary: error_rate max_ratio 1.5 is judged by evidence, with at least 20 requests",
        "p: stage canary: ttfb_p99 max_ratio 2 is judged over window 10m with at least 20 requests",
        (
            "p: stage canary: p99 max 200ms is judged over window 30s with at least 20 requests, in breach for 5s, "
            "after 1m"
        ),
        "p: stage canary: hits min 60% is judged by evidence, with at least 20 requests, reported only (dry_run)",
        "p: stage canary: rss max 1610612736 is judged by every reading, in breach for 1m, then pause",
        "p: stage canary: queue max -1.5 is judged by every reading",
        "p: stage canary: p95 of stable max 1s is judged by evidence, with at least 20 requests, then alert",
        "p: stage canary: p50 max 40ms is required over the whole stage",
        "p: stage canary: availability min 99.9% is required over the whole stage",
        "p: stage full: hits min 60% is required over the whole stage, without its first 12h",
    )


def test_a_plan_in_which_nothing_rolls_back_says_so():
    text = "stages: [{name: a, weight: 100%, hold: 1h, limits: [{metric: p99, max: 1s, action: pause}]}]"
    assert compile_plan_text(text, {}, name="p").notes[-1] == (
        "p: no limit of this plan rolls back: only those of the service do"
    )


def test_the_plan_of_a_name_or_the_default_one():
    one, two = Plan("one", ()), Plan("default", ())
    assert ServicePlan("web").rollout() is None
    assert ServicePlan("web", rollouts=(one,)).rollout() is one
    assert ServicePlan("web", rollouts=(one, two)).rollout() is two
    assert ServicePlan("web", rollouts=(one, two)).rollout("one") is one
    assert ServicePlan("web", rollouts=(one,)).rollout("two") is None


def test_secrets_of_hooks_and_checks_are_not_shown(tmp_path):
    (tmp_path / "plan.yaml").write_text(
        "stages: [{name: a, weight: 1%, hold: 1h}]\n"
        "hooks: {before_start: {url: 'http://h/services/T0literal?k=literal'}, after_rollback: {run: [go, '${S}']}}\n"
        "checks: {rss: {url: 'http://h/${S}'}}\n"
    )
    text = "services: [{name: web, stable: {endpoints: [http://s]}, rollouts: {a: plan.yaml}}]"
    compiled = compile_text(text, {"S": "hunter-2"}, base=tmp_path)
    hooks = compiled.plans[0].rollouts[0].hooks
    assert (hooks.before_start.url, hooks.after_rollback.run) == (
        "http://h/services/T0literal?k=literal",
        ("go", "hunter-2"),
    )
    assert compiled.plans[0].checks[0].url == "http://h/hunter-2"
    shown = compiled.redacted["services"][0]["rollouts"]["a"]
    assert shown["hooks"]["before_start"]["url"] == "http://h/***"
    assert shown["hooks"]["after_rollback"]["run"] == ["go", "***"]
    assert "hunter" not in json.dumps(compiled.redacted) + repr(compiled)


def test_workers_are_told_what_any_plan_of_a_service_judges(tmp_path):
    (tmp_path / "plan.yaml").write_text(
        "stages:\n"
        "  - {name: a, weight: 1%, hold: 1h, limits: {p99: 200ms, ttfb_p99: 90ms}}\n"
        "  - {name: b, weight: 9%, hold: 1h, require: [{metric: ttfb_p50, max: 20ms}, {metric: p50, max_ratio: 2}]}\n"
        "signals: {hits: {header: X-CACHE, matches: ^HIT}}\n"
    )
    text = """
    services:
      - name: web
        stable: {endpoints: [http://s]}
        signals: {fresh: {header: age, matches: '^0$'}, hits: {header: X-CACHE, matches: ^HIT}}
        limits: {p95: 100ms, ttfb_p99: 90ms}
        rollouts: {a: plan.yaml}
    """
    (service,) = compile_text(text, {}, base=tmp_path).table.services
    assert service.thresholds_us == (100_000, 200_000)
    assert service.ttfb_thresholds_us == (20_000, 90_000)
    assert service.signals == (Signal("fresh", "age", "^0$"), Signal("hits", "x-cache", "^HIT"))


# --- the shipped plans -------------------------------------------------------------------------------------------


def seed(name):
    return compile_plan_file(ROLLOUTS / f"{name}.yaml", {}).plans


@pytest.mark.parametrize("path", SEEDS, ids=lambda path: path.name)
def test_every_shipped_plan_is_accepted_and_says_what_it_is_for(path):
    assert path.read_text().startswith("# ")
    assert is_plan_file(path)
    assert compile_plan_file(path, {}).plans


def steps(plan):
    return [(stage.weight_bp / 100, stage.hold_s / 3600) for stage in plan.stages]


def bounds(limits):
    return [(limit.metric, limit.max or limit.min or limit.max_ratio, limit.action) for limit in limits]


def test_the_analyzer():
    (plan,) = seed("ultra-fast-analyzer")
    assert steps(plan) == [(1, 2), (10, 4), (100, 48)]
    assert [bounds(stage.limits) for stage in plan.stages] == [
        [("error_rate", 0.01, "rollback"), ("p99", 200, "rollback"), ("memory_bytes", 1e9, "rollback")],
        [("error_rate", 0.005, "rollback"), ("p99", 200, "rollback"), ("memory_bytes", 1.5e9, "rollback")],
        [("p99", 200, "rollback"), ("memory_bytes", 2e9, "rollback"), ("error_rate", 0.001, "alert")],
    ]
    assert plan.stages[2].limits[2].window_s == 3600
    assert [stage.require[0].min for stage in plan.stages] == [0.6, 0.7, 0.85]
    assert plan.progress_report_s == 300
    assert "systemctl restart analyzer" in plan.hooks.after_rollback.run[2]


def test_the_farmers_market():
    (plan,) = seed("farmers-market")
    assert steps(plan) == [(10, 48), (50, 72), (100, 72)]
    for stage, failed in zip(plan.stages, (0.01, 0.005, 0.005), strict=True):
        errors, slow, failure, *alerts = stage.limits
        assert (errors.max, errors.for_s, errors.action) == (0.02, 300, "rollback")
        assert (slow.metric, slow.max, slow.for_s, slow.action) == ("p95", 2000, 600, "rollback")
        assert (failure.max, failure.action, failure.judge) == (failed, "pause", "evidence")
        assert bounds(alerts[:2]) == [("error_rate", 0.005, "alert"), ("p95", 500, "alert")]
        assert stage.require[2].max == 200
    assert {limit.version for limit in plan.stages[0].limits[5:]} == {STABLE}
    assert [(stage.require[0].min, stage.require[0].after_s / 3600) for stage in plan.stages] == [
        (0.3, 24),
        (0.5, 0),
        (0.6, 0),
    ]
    assert [stage.require[1].max_ratio for stage in plan.stages] == [0.6, 0.5, 0.5]
    assert plan.on_max_hold == "pause"


def test_the_recommendations():
    plans = {plan.name: plan for plan in seed("recommendations")}
    assert {name: [weight for weight, _ in steps(plan)] for name, plan in plans.items()} == {
        "development": [50],
        "staging": [100],
        "production": [10, 25, 50, 100],
    }
    for plan in plans.values():
        for stage in plan.stages:
            assert [(limit.metric, limit.max or limit.min, limit.for_s) for limit in stage.limits] == [
                ("error_rate", 0.02, 120),
                ("p95", 45_000, 60),
                ("cache_hit_rate", 0.4, 300),
                ("availability", 0.99, 30),
            ]


def test_our_own():
    (plan,) = seed("canary")
    assert plan.advance == "evidence"
    assert plan.stages[-1].weight_bp == 10_000
    assert {limit.judge for limit in plan.every_limit()} == {"evidence"}


@pytest.mark.parametrize("path", SEEDS, ids=lambda path: path.name)
def test_every_shipped_plan_fits_a_service(path):
    name = compile_plan_file(path, {}).plans[-1].name
    text = f"""
    services:
      - name: web
        stable: {{endpoints: [http://s]}}
        new: {{endpoints: [http://n]}}
        timeouts: {{first_byte: 60s}}
        rollouts: {{{name}: {path.name}}}
    """
    assert compile_text(text, {}, base=ROLLOUTS).plans[0].rollout().name == name
