import json

import pytest

from proxy.cli import status as view
from proxy.errors import Refused
from tests.cli.conftest import tidegate

STAGE = {"index": 1, "of": 3, "name": "ramp", "weight": 10, "elapsed_s": 3600.0, "hold_s": 14400.0, "requests": 812}
STAGE |= {"min_requests": 5000, "needed": 4188, "advance": "auto", "open": ["p99 INCONCLUSIVE"], "plan": "default"}
STAGE |= {"max_hold_s": None}
STAGE["stages"] = [
    {"name": "canary", "weight": 1, "hold_s": 7200.0, "ran_s": 7200.2, "left_by": "controller", "left_for": "HoldOver"},
    {"name": "ramp", "weight": 10, "hold_s": 14400.0},
    {"name": "full", "weight": 100, "hold_s": 172800.0},
]


FAILED = {"hook": "before_start", "exit": 3, "output": "not on\x1b[31m fridays\nask ann\n"}


def failing(admin, said):
    """Let the API refuse a start as it does when a hook has said no."""

    async def start_rollout(_name, _plan, _order):
        raise Refused(409, "HookFailed", "the hook before_start did not say go", cure="look at it", extra=said)

    admin.operations.start_rollout = start_rollout


@pytest.mark.parametrize(
    "said, lines",
    [
        (FAILED, ["it ended with exit code 3", "not on\\x1b[31m fridays", "ask ann"]),
        ({"answered": 503, "body": "frozen"}, ["it answered 503", "frozen"]),
        ({"why": "no answer within 10 s"}, ["no answer within 10 s"]),
    ],
)
def test_a_hook_that_fails_is_shown_with_what_it_said(admin, said, lines):
    failing(admin, said)
    result = tidegate("rollout", "start", "--admin", admin.url)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.splitlines() == [
        "tidegate: the hook before_start did not say go (look at it)",
        *[f"  {line}" for line in lines],
    ]


def test_a_refusal_is_an_object_too(admin):
    failing(admin, FAILED)
    result = tidegate("rollout", "start", "-o", "json", "--admin", admin.url)
    found = json.loads(result.stdout)
    assert (result.exit_code, found["title"], found["status"], found["exit"]) == (1, "HookFailed", 409, 3)
    assert result.stderr.startswith("tidegate: the hook before_start did not say go")
    missing = tidegate("weights", "--service", "none", "-o", "json", "--admin", admin.url)
    assert (missing.exit_code, json.loads(missing.stdout)["title"]) == (2, "NoSuchService")


def test_a_start_prints_what_the_pre_flight_would_have_called_no_go(admin):
    found = {"check": "new endpoints", "finding": "no-go", "what": "none of 1 endpoints of new is ready"}
    admin.operations.warnings = [found | {"cure": "tidegate undrain http://b:1"}, found | {"what": "a\x1b[31m b"}]
    result = tidegate("rollout", "start", "--admin", admin.url)
    assert result.exit_code == 0
    assert result.stderr.splitlines() == [
        "warning: none of 1 endpoints of new is ready (tidegate undrain http://b:1)",
        "warning: a\\x1b[31m b",
    ]


def test_the_verbs_of_a_rollout(admin):
    def phase():
        return admin.operations.phase["web"]

    result = tidegate("rollout", "start", "--reason", "2.3.0", "--admin", admin.url)
    assert result.exit_code == 0
    assert result.output.startswith("web: progressing, revision 2;")
    assert (admin.operations.plan, admin.operations.orders[-1].reason) == (None, "2.3.0")
    for verb, found in (("pause", "paused"), ("resume", "progressing"), ("promote", "progressing")):
        assert tidegate("rollout", verb, "--admin", admin.url).exit_code == 0
        assert phase() == found
    assert tidegate("rollout", "promote", "--full", "--admin", admin.url).exit_code == 0
    assert admin.operations.full is True
    admin.operations.phase["web"] = "completed"
    assert tidegate("rollout", "finish", "--admin", admin.url).exit_code == 0
    assert phase() == "idle"


def test_json_is_the_apis_object(admin):
    result = tidegate("rollout", "start", "careful", "-o", "json", "--admin", admin.url)
    assert json.loads(result.output) == admin.operations.service("web")
    assert admin.operations.plan == "careful"
    result = tidegate("rollout", "status", "-o", "json", "--admin", admin.url)
    assert json.loads(result.output) == admin.operations.service("web")


def test_the_wrong_phase_fails_and_says_why(admin):
    result = tidegate("rollout", "resume", "--admin", admin.url)
    assert result.exit_code == 1
    assert "is not possible in phase idle" in result.output
    assert tidegate("rollout", "start", "--if-match", "7", "--admin", admin.url).exit_code == 1
    assert admin.operations.phase["web"] == "idle"


def test_a_file_is_sent_as_an_inline_plan(admin, tmp_path):
    path = tmp_path / "plan.yaml"
    path.write_text("stages: [{name: all, weight: 100%, hold: 1h, limits: [{metric: memory, max: 1.0e9}]}]\n")
    assert tidegate("rollout", "start", path, "--admin", admin.url).exit_code == 0
    limits = [{"metric": "memory", "max": 1e9}]
    assert admin.operations.plan == {"stages": [{"name": "all", "weight": "100%", "hold": "1h", "limits": limits}]}


@pytest.mark.parametrize(
    "text, said", [("a: [", "plan.yaml:1:"), ("plans: {}", "is not one plan"), ("5", "is not one")]
)
def test_a_file_that_is_no_plan_is_a_usage_error(admin, tmp_path, text, said):
    path = tmp_path / "plan.yaml"
    path.write_text(text)
    result = tidegate("rollout", "start", path, "--admin", admin.url)
    assert result.exit_code == 2
    assert said in result.output
    assert tidegate("rollout", "start", tmp_path / "none.yaml", "--admin", admin.url).exit_code == 2
    assert admin.operations.orders == []


def test_a_dry_run_says_go_or_fails_with_no_go(admin):
    result = tidegate("rollout", "start", "--dry-run", "--admin", admin.url)
    assert result.exit_code == 0
    assert result.output.splitlines() == ["go: default", "  ok  state  can be written"]
    admin.operations.go = False
    result = tidegate("rollout", "start", "--dry-run", "--admin", admin.url)
    assert result.exit_code == 1
    assert result.output.splitlines()[0] == "no-go: default"
    assert (
        json.loads(tidegate("rollout", "start", "--dry-run", "-o", "json", "--admin", admin.url).output)["go"] is False
    )


def test_a_drill_says_what_it_took_and_fails_when_it_failed(admin):
    result = tidegate("rollout", "drill", "--admin", admin.url)
    assert result.exit_code == 0
    assert result.output.splitlines() == [
        "P99AboveLimit decides about 1.5 s after the first failure, 31.5 s at most",
        "drill passed",
        "  decided 750 ms after the first failure, by P99AboveLimit",
        "  weight 0 in every worker 12 ms after that",
        "  latch: shut",
        "  everything is as before: same users, same stage, same hold clock",
        "  the stage's evidence and min_requests are gathered anew",
    ]
    admin.operations.drilled |= {"decided_s": 35.2652}
    assert "decided 35.3 s after" in tidegate("rollout", "drill", "--admin", admin.url).output
    admin.operations.drilled = {"drill": "failed", "why": "something else was decided", "restored": False}
    result = tidegate("rollout", "drill", "--admin", admin.url)
    assert result.exit_code == 1
    assert result.output.splitlines()[1:] == [
        "drill failed: something else was decided",
        "  everything is NOT as before: see `tidegate status`",
    ]
    assert json.loads(tidegate("rollout", "drill", "-o", "json", "--admin", admin.url).output)["drill"] == "failed"


def test_a_dry_drill_only_says_how_long_one_takes(admin):
    result = tidegate("rollout", "drill", "--dry-run", "--admin", admin.url)
    assert result.output.splitlines() == [
        "P99AboveLimit decides about 1.5 s after the first failure, 31.5 s at most",
        "then everything is as before: same users, same stage, same hold clock",
        "the stage's evidence and min_requests are gathered anew",
    ]
    assert json.loads(tidegate("rollout", "drill", "--dry-run", "-o", "json", "--admin", admin.url).output) == {
        "limit": "P99AboveLimit",
        "limits": ["P99AboveLimit"],
        "expected_s": 1.5,
        "most_s": 31.5,
    }
    assert [order.dry_run for order in admin.operations.orders] == [True, True]
    admin.operations.deciding = ["P99AboveLimit", "ErrorRateAboveLimit"]
    result = tidegate("rollout", "drill", "--dry-run", "--admin", admin.url)
    assert result.output.startswith("P99AboveLimit or ErrorRateAboveLimit decides about 1.5 s after the first failure")


def test_what_was_not_stored_is_said(admin):
    admin.operations.durable = False
    assert "not stored" in tidegate("rollout", "start", "--admin", admin.url).output


def test_the_ladder_shows_where_the_rollout_is_and_what_it_waits_for(admin):
    admin.operations.stage = STAGE
    admin.operations.phase["web"] = "progressing"
    lines = tidegate("rollout", "status", "--admin", admin.url).output.splitlines()
    assert lines[1:6] == [
        "  stage 2 of 3: ramp, 10%, 1h of 4h, 812 of at least 5,000 requests",
        "  [x]  canary  1%    ####################  2h",
        "  [>]  ramp    10%   #####...............  1h of 4h",
        "  [ ]  full    100%  ....................  2d",
        "  waits for: p99 INCONCLUSIVE",
    ]


def test_the_ladder_of_what_is_over(admin):
    def marks(phase, stage=STAGE):
        item = admin.operations.service("web") | {"phase": phase, "stage": stage}
        return [line.split("]")[0] for line in view.of_service("web", item) if line.startswith("  [")]

    full = STAGE["stages"][2] | {"ran_s": 7.0, "left_by": "ann", "left_for": "", "hold_s": 10}
    over = STAGE | {"index": 2, "stages": [*STAGE["stages"][:2], full]}
    assert marks("rolled_back") == ["  [x", "  [!", "  [ "]
    assert marks("completed", over) == ["  [x", "  [-", "  [x"]
    assert marks("paused", STAGE | {"hold_s": 0}) == ["  [x", "  [>", "  [ "]


def test_a_stage_that_a_person_promotes_says_so(admin):
    def waits(phase, **more):
        item = admin.operations.service("web") | {"phase": phase, "stage": STAGE | {"advance": "manual", **more}}
        return [line for line in view.of_service("web", item) if "waits for" in line]

    assert waits("progressing") == ["  waits for: p99 INCONCLUSIVE, tidegate rollout promote"]
    assert waits("progressing", open=[]) == ["  waits for: tidegate rollout promote"]
    assert waits("paused") == []


def test_a_stage_that_was_left_early_is_drawn_with_the_time_that_it_had(admin):
    def drawn(ran_s, by, why):
        rung = {"name": "canary", "weight": 1, "hold_s": 10, "ran_s": ran_s, "left_by": by, "left_for": why}
        item = admin.operations.service("web") | {"phase": "progressing"}
        item["stage"] = STAGE | {"stages": [rung, *STAGE["stages"][1:]]}
        return next(line.split("1%")[1].strip() for line in view.of_service("web", item) if "[x]" in line)

    assert drawn(7.3, "alice", "hurry") == "##############......  7s of 10s, promoted by alice"
    assert drawn(4.0, "controller", "Proven") == "########............  4s of 10s, proven"
    assert drawn(10.2, "controller", "HoldOver") == "####################  10s"
    assert drawn(75.0, "controller", "HoldOver") == "####################  1m 15s of 10s"
    assert drawn(10.2, "alice", "") == "####################  10s, promoted by alice"


def test_limits_are_shown_with_what_they_are_compared_with(admin):
    limit = {"metric": "error_rate", "version": "new", "max": None, "max_ratio": 2.0, "unit": "times", "value": 1.25}
    limit |= {"verdict": "PASS", "proven": True, "samples": 400, "needed": 0, "action": "rollback"}
    check = limit | {"metric": "memory", "max_ratio": None, "max": 1e9, "unit": "number", "value": 5e8, "samples": 1}
    lines = view.of_service("web", admin.operations.service("web") | {"limits": [limit, check]})
    text = " ".join(" ".join(lines).split())
    assert "PASS, proven error_rate of new <= 2 times stable's is 1.25 times over 400 requests" in text
    assert "memory of new <= 1,000,000,000 is 500,000,000" in text
