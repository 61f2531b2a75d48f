"""Wrong plans and exactly what is said about them, alone, in a service, and in the body of a request."""

from textwrap import dedent

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.config.compile import compile_file, compile_text
from proxy.config.plans import compile_plan_body, compile_plan_file, compile_plan_text
from proxy.errors import ConfigError
from proxy.rollout.plan import Check, Limit, ServicePlan
from proxy.routing.table import Service, Signal, Timeouts, Version
from tests.config.test_mistakes import JUNK, places, replaced, told

AT_MOST = "at most 16, so use a bound again that stands elsewhere"
HEAD = "stages:\n  - name: canary\n    weight: 1%\n    hold: 2h\n"
NAMES = "signals: {hits: {header: x-cache, matches: ^HIT}}\nchecks: {rss: {file: rss.json}}\n"


def mistakes(text, **environ):
    try:
        compile_plan_text(text, environ, name="f")
    except ConfigError as error:
        return [str(problem) for problem in error.problems]
    return []


def warnings(text):
    return [note for note in compile_plan_text(text, {}, name="f").notes if note.startswith("warning: ")]


def plan(text):
    return dedent(text).lstrip("\n")


def test_the_smallest_plan_is_right():
    assert mistakes(HEAD) == []


@pytest.mark.parametrize("line,expected", told("mistakes_plan.txt"))
def test_a_mistake_in_a_stage(line, expected):
    assert mistakes(f"{HEAD}    {line}\n{NAMES}") == expected


@pytest.mark.parametrize("line,expected", told("mistakes_plan_top.txt"))
def test_a_mistake_beside_the_stages(line, expected):
    alone = line.startswith(("stages", "plans", "services"))
    assert mistakes(line if alone else f"{line}\n{HEAD}") == expected


def test_an_empty_plan():
    assert mistakes("") == ["f:1:1: is not a rollout plan: it needs stages, or plans by name"]


def test_weights_never_fall_and_names_are_their_own():
    text = plan("""
        stages:
          - {name: a, weight: 25%, hold: 1h}
          - {name: b, weight: 10%, hold: 1h}
          - {name: a, weight: 12.5%, hold: 1h}
          - {name: c, weight: 25%, hold: 1h}
        """)
    assert mistakes(text) == [
        "f:3:23: stages[1].weight: 10% is below 25% of a stage before: weights never fall in a rollout",
        "f:4:12: stages[2].name: is the name of another stage already: give it its own",
        "f:4:23: stages[2].weight: 12.5% is below 25% of a stage before: weights never fall in a rollout",
    ]


def test_all_mistakes_of_a_plan_are_told_at_once():
    text = plan("""
        stages:
          - {name: a, weight: 25%, hold: 1h}
          - {name: b, weight: 10%, limits: {p98: 1s}}
          - {name: c, weight: 100%, hold: 1}
        """)
    assert [line.split(" (known")[0] for line in mistakes(text)] == [
        "f:3:5: stages[1].hold: is missing: how long it lasts at least (evidence: at most)",
        "f:3:23: stages[1].weight: 10% is below 25% of a stage before: weights never fall in a rollout",
        'f:3:37: stages[1].limits.p98: "p98" is not a metric: did you mean p99?',
        'f:4:35: stages[2].hold: "1" needs a unit (ms, s, m, h or d): write 1s',
    ]


def test_at_most_16_different_latency_limits_over_all_stages():
    stages = [
        f"  - {{name: s{n}, weight: 1%, hold: 1h, limits: {{p99: {n + 1}s, ttfb_p99: {n + 1}s}}}}" for n in range(9)
    ]
    assert mistakes("\n".join(["stages:", *stages])) == [
        f"f:10:{column}: stages[8].limits.{metric}: is the 17th different latency limit of this plan: {AT_MOST}"
        for metric, column in (("p99", 52), ("ttfb_p99", 66))
    ]


def test_a_plan_of_several_tells_the_name_of_the_wrong_one():
    text = plan("""
        signals: {hits: {header: x, matches: y}, bad: {}}
        plans:
          one: {stages: [{name: a, weight: 1%, hold: 1h, limits: [{metric: hits, min: 1}]}]}
          two: {stages: [{name: a, weight: 1%, hold: 1h, limits: [{metric: hitz, min: 1%}]}], signals: {own: {}}}
        """)
    assert [line.split(": ")[:3] for line in mistakes(text)] == [
        ["f:1:47", "signals.bad.header", "is missing"],
        ["f:1:47", "signals.bad.matches", "is missing"],
        ["f:3:79", "plans.one.stages[0].limits[0].min", '"1" needs a unit (%)'],
        ["f:4:68", "plans.two.stages[0].limits[0].metric", '"hitz" is not a metric'],
        ["f:4:102", "plans.two.signals.own.header", "is missing"],
        ["f:4:102", "plans.two.signals.own.matches", "is missing"],
    ]


def test_what_is_right_and_may_surprise():
    text = plan("""
        checks: {rss: {file: f}}
        stages:
          - name: a
            weight: 50%
            hold: 1m
            limits:
              - {metric: error_rate, max: 1%}
              - {metric: error_rate, max: 0.5%, action: alert}
              - {metric: availability, min: 99%, window: 10s, for: 30s, after: 30s}
              - {metric: rss, max: 1GiB, action: alert}
          - name: b
            weight: 60%
            hold: 1h
            advance: evidence
            limits:
              - {metric: error_rate, max: 2%}
              - {metric: error_rate, max: 0.4%, action: alert}
              - {metric: availability, min: 98.5%, window: 10s}
              - {metric: rss, max: 2GiB, action: alert}
        """)
    assert warnings(text) == [
        "warning: f:3:3: stages: the last stage leaves new at 60%: stable keeps the rest",
        (
            "warning: f:9:60: stages[0].limits[2].for: the hold of 1m is over before this limit can act: "
            "shorten for, or hold the stage longer"
        ),
        "warning: f:16:35: stages[1].limits[0].max: 2% is looser than 1% of stage a",
        (
            "warning: f:18:9: stages[1].limits[2]: availability is judged over a window, which proves nothing: "
            "this stage lasts its whole hold"
        ),
        "warning: f:18:37: stages[1].limits[2].min: 98.5% is looser than 99% of stage a",
    ]


def test_nothing_to_compare_with_before_everything_is_on_new():
    text = "stages: [{name: a, weight: 100%, hold: 1h, limits: [{metric: error_rate, max_ratio: 2}]}]"
    assert warnings(text) == [
        (
            "warning: f:1:85: stages[0].limits[0].max_ratio: no stage below 100% comes before it: "
            "stable leaves no record to compare with"
        )
    ]


def test_secrets_and_variables_are_never_shown():
    for line in ("max_hold: ${S}", "hooks: {before_start: {url: 'http://u:${S}@h/'}}", "progress_report: '${S}'"):
        found = mistakes(f"{HEAD}{line}\n", S="hunter-2")
        assert found
        assert "hunter" not in "".join(found)


# --- in a service ------------------------------------------------------------------------------------------------


SERVICE = """\
services:
  - name: web
    stable: {endpoints: [http://s]}
    new: {endpoints: [http://n]}
    timeouts: {first_byte: 10s}
    signals: {hits: {header: x-cache, matches: ^HIT}}
    limits: {p99: 1s}
"""


def in_service(tmp_path, rollouts, **files):
    for name, text in files.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    (tmp_path / "tidegate.yaml").write_text(f"{SERVICE}    rollouts: {rollouts}\n")
    try:
        compiled = compile_file(tmp_path / "tidegate.yaml", {})
    except ConfigError as error:
        return [str(problem).replace(f"{tmp_path}/", "") for problem in error.problems]
    return compiled


def test_a_service_takes_plans_from_files_and_from_itself(tmp_path):
    several = plan("""
        signals: {own: {header: A, matches: b}}
        checks: {rss: {file: rss.json}}
        plans:
          one: {stages: [{name: a, weight: 1%, hold: 1h, limits: [{metric: own, min: 1%}]}]}
          two: {stages: [{name: b, weight: 2%, hold: 1h}], hooks: {before_start: {run: [./go]}}}
        """)
    rollouts = (
        "{default: single.yaml, one: several.yaml, other: several.yaml#two, "
        "inline: {stages: [{name: a, weight: 5%, hold: 1h, "
        "limits: [{metric: hits, min: 5%}, {metric: p99, max: 2s}]}]}}"
    )
    compiled = in_service(tmp_path, rollouts, single=HEAD, several=several)
    (service,) = compiled.plans
    assert [(plan.name, plan.stages[0].weight_bp) for plan in service.rollouts] == [
        ("default", 100),
        ("one", 100),
        ("other", 200),
        ("inline", 500),
    ]
    assert service.rollout().name == "default"
    assert service.rollout("one").stages[0].limits == (Limit("own", min=0.01, source="signal"),)
    assert service.rollout("none") is None
    assert service.signals == (Signal("hits", "x-cache", "^HIT"), Signal("own", "a", "b"))
    assert service.checks == (Check("rss", file=str(tmp_path / "rss.json")),)
    assert service.rollout("other").hooks.before_start.cwd == str(tmp_path)
    assert compiled.table.services[0].thresholds_us == (1_000_000, 2_000_000)
    again = compile_text(yaml.safe_dump(compiled.redacted, sort_keys=False), {}, base=tmp_path)
    assert again.plans == compiled.plans
    assert again.redacted == compiled.redacted


def test_a_mistake_in_a_plan_file_is_told_where_it_stands(tmp_path):
    bad = "stages:\n  - {name: a, weight: 1%, hold: 1h, limits: {p99: 11s, hits: 5%, hitz: 1%}}\n"
    assert in_service(tmp_path, "{default: bad.yaml, again: bad.yaml}", bad=bad) == [
        (
            "bad.yaml:2:51: stages[0].limits.p99: is above timeouts.first_byte (10s): "
            "an endpoint that never answers is recorded at that timeout and would count as fast enough"
        ),
        (
            "bad.yaml:2:62: stages[0].limits.hits: is limited by max or min: "
            "write the long form - {metric: hits, max: …} or min"
        ),
        (
            'bad.yaml:2:66: stages[0].limits.hitz: "hitz" is not a metric: did you mean hits? (known: error_rate, '
            "availability, client_error_rate, p50, p90, p95, p99, p999, ttfb_p50, ttfb_p90, ttfb_p95, ttfb_p99, "
            "ttfb_p999, hits); or define it under signals or checks"
        ),
    ]


@pytest.mark.parametrize(
    "rollouts,expected",
    [
        (
            "{default: none.yaml}",
            (
                "tidegate.yaml:8:25: services[0].rollouts.default: cannot be read: No such file or directory "
                "(give the path of a rollout plan): relative paths are taken from the directory of this file"
            ),
        ),
        (
            "{default: several.yaml}",
            (
                "tidegate.yaml:8:25: services[0].rollouts.default: several.yaml has no plan default (it has one, two): "
                "write several.yaml#one"
            ),
        ),
        (
            "{default: several.yaml#three}",
            (
                "tidegate.yaml:8:25: services[0].rollouts.default: several.yaml has no plan three (it has one, two): "
                "write several.yaml#one"
            ),
        ),
        (
            "{default: tidegate.yaml}",
            (
                "tidegate.yaml:8:25: services[0].rollouts.default: tidegate.yaml holds no rollout plan: "
                "it needs stages, or plans by name"
            ),
        ),
        (
            "{default: broken.yaml}",
            (
                "broken.yaml:1:10: is not YAML here: while parsing a flow node "
                "expected the node content, but found '<stream end>'"
            ),
        ),
        (
            "{default: 5}",
            (
                "tidegate.yaml:8:25: services[0].rollouts.default: "
                "must be a mapping with keys such as stages, advance, max_hold, on_max_hold"
            ),
        ),
        ("default", "tidegate.yaml:8:15: services[0].rollouts: must be a mapping of names"),
        ("{one: odd.yaml}", "odd.yaml:2:1: x: is not known here: known are plans, signals, checks"),
    ],
)
def test_a_plan_that_is_not_there(tmp_path, rollouts, expected):
    files = {
        "several": "plans: {one: {stages: []}, two: {stages: []}}",
        "broken": "stages: [",
        "odd": "plans: {one: {stages: [{name: a, weight: 1%, hold: 1h}]}}\nx: 1\n",
    }
    assert in_service(tmp_path, rollouts, **files) == [expected]


def test_names_mean_one_thing_in_a_service(tmp_path):
    other = f"{HEAD}signals: {{hits: {{header: other, matches: x}}}}\n"
    check = f"{HEAD}checks: {{hits: {{file: x}}}}\n"
    same = f"{HEAD}signals: {{hits: {{header: x-cache, matches: ^HIT}}}}\n"
    assert in_service(
        tmp_path, "{a: other.yaml, b: check.yaml, c: same.yaml}", other=other, check=check, same=same
    ) == [
        "check.yaml:5:16: checks.hits: means something else in this service already: give it another name",
        "other.yaml:5:17: signals.hits: means something else in this service already: give it another name",
    ]


def test_the_latency_limits_of_all_plans_of_a_service_are_counted_together(tmp_path):
    limits = ", ".join(f"{{metric: p99, max: {n}ms}}" for n in range(1, 17))
    bad = f"stages:\n  - name: a\n    weight: 1%\n    hold: 1h\n    limits: [{limits}]\n"
    (found,) = in_service(tmp_path, "{default: bad.yaml}", bad=bad)
    assert found.endswith(f"stages[0].limits[15].max: is the 17th different latency limit of this service: {AT_MOST}")


def test_the_signals_of_a_service_and_of_all_its_plans_are_counted_together(tmp_path):
    """With the one of the service there are 16; a plan may name one of them again, and no more than that."""

    def signals(*numbers):
        return f"{HEAD}signals: {{" + ", ".join(f"s{n}: {{header: x, matches: hit}}" for n in numbers) + "}\n"

    files = {"many": signals(*range(15)), "again": signals(3, 14), "more": signals(15)}
    compiled = in_service(tmp_path, "{a: many.yaml, b: again.yaml}", **files)
    names = [signal.name for signal in compiled.table.services[0].signals]
    assert names == ["hits", *(f"s{n}" for n in range(15))]
    assert in_service(tmp_path, "{a: many.yaml, b: again.yaml, c: more.yaml}", **files) == [
        "more.yaml:5:16: signals.s15: is the 17th different signal of this service: at most 16"
    ]


def test_a_plan_is_no_config_and_a_config_no_plan(tmp_path):
    with pytest.raises(ConfigError, match="is a rollout plan, not a config: check it with `tidegate plan f`"):
        compile_text(HEAD, {}, name="f")
    (tmp_path / "c.yaml").write_text(SERVICE)
    with pytest.raises(ConfigError, match="is not a rollout plan"):
        compile_plan_file(tmp_path / "c.yaml", {})
    with pytest.raises(ConfigError, match="services: is missing"):
        compile_text("rollouts: {}", {}, name="f")


# --- in the body of a request ------------------------------------------------------------------------------------

PLAN = ServicePlan("web", limits=(Limit("p99", max=1000),), signals=(Signal("hits", "x", "y"),), checks=(Check("rss"),))
WEB = Service("web", Version(), timeouts=Timeouts(first_byte_s=10.0))


def body_mistakes(body):
    with pytest.raises(ConfigError) as caught:
        compile_plan_body(body, PLAN, WEB)
    return [str(problem) for problem in caught.value.problems]


def test_a_plan_in_a_body_names_what_the_service_has():
    body = {
        "stages": [
            {
                "name": "a",
                "weight": "5%",
                "hold": "1h",
                "limits": {"p99": "2s"},
                "require": [{"metric": "hits", "min": "50%"}, {"metric": "rss", "max": 5}],
            }
        ]
    }
    before = yaml.safe_dump(body)
    made = compile_plan_body(body, PLAN, WEB, name="mine")
    assert yaml.safe_dump(body) == before
    assert made.name == "mine"
    assert [limit.source for limit in made.every_limit()] == ["counted", "signal", "check"]


def test_a_plan_in_a_body_defines_nothing_that_runs():
    stage = {"name": "a", "weight": "5%", "hold": "1h", "limits": {"p99": "11s"}}
    files = "come from files only: put the plan into a file and name it under rollouts of web"
    assert sorted(
        body_mistakes({"stages": [stage], "hooks": {"before_start": {"run": ["rm"]}}, "checks": {"x": 1}, "signals": 5})
    ) == [
        f"checks: {files}",
        f"hooks: {files}",
        f"signals: {files}",
        (
            "stages[0].limits.p99: is above timeouts.first_byte (10s): "
            "an endpoint that never answers is recorded at that timeout and would count as fast enough"
        ),
    ]


@pytest.mark.parametrize(
    "body", [None, 5, [], "x", {}, {"stages": None}, {"stages": [None]}, {"stages": [{"hold": 5}]}]
)
def test_a_body_of_any_shape_is_refused_with_words(body):
    assert all(problem.split(": ")[-1] for problem in body_mistakes(body))


def test_what_a_body_says_is_taken_as_it_is():
    (found,) = body_mistakes({"stages": [{"name": "a", "weight": "5%", "hold": "${HOME}"}]})
    assert found == 'stages[0].hold: "${HOME}" is not a duration: write a number and ms, s, m, h or d, such as 30s'


# --- anything anywhere -------------------------------------------------------------------------------------------

WHOLE = yaml.safe_load(
    """
    advance: evidence
    max_hold: 24h
    on_max_hold: rollback
    progress_report: 5m
    hooks: {before_start: {url: http://h/}, after_rollback: {run: [a, b], cwd: ., timeout: 5s}}
    signals: {hits: {header: x-cache, matches: ^HIT}}
    checks: {rss: {url: http://h/, json: $.a, every: 10s, timeout: 1s}}
    stages:
      - name: a
        weight: 1%
        hold: 1h
        min_requests: 5
        advance: manual
        limits: [{metric: p99, max: 1s, window: 1s, for: 1s, after: 1s, min_requests: 1, version: new, action: alert},
                 {metric: error_rate, max_ratio: 2, floor: 1%}, {metric: rss, max: 5}]
        require: [{metric: hits, min: 5%, after: 1m}]
      - {name: b, weight: 100%, hold: 1h, limits: {error_rate: 1%}}
    """
)


def test_the_whole_plan_is_right():
    assert mistakes(yaml.safe_dump(WHOLE)) == []


@pytest.mark.slow
@settings(max_examples=200)
@given(st.sampled_from(sorted(places(WHOLE), key=str)), JUNK)
def test_anything_anywhere_is_accepted_or_refused_with_a_place(loc, junk):
    for line in mistakes(yaml.safe_dump(replaced(WHOLE, loc, junk), allow_unicode=True)):
        name, row, column, rest = line.split(":", 3)
        assert name == "f"
        assert int(row) >= 1
        assert int(column) >= 1
        assert rest.strip()


@settings(max_examples=100)
@given(st.sampled_from(sorted(places(WHOLE), key=str)), JUNK)
def test_any_body_is_taken_or_refused(loc, junk):
    try:
        problems = [] if compile_plan_body(replaced(WHOLE, loc, junk), PLAN, WEB) else None
    except ConfigError as error:
        problems = error.problems
    assert problems is not None
    assert all(problem.message for problem in problems)
