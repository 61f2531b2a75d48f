import json
import re

from tests.cli.conftest import command, tidegate

PLAN = """\
stages:
  - name: canary
    weight: 1%
    hold: 2h
    min_requests: 1000
    limits:
      - {metric: error_rate, max: 1%}
      - {metric: p99, max: 200ms, window: 10s, for: 30s, after: 1m}
  - name: full
    weight: 100%
    hold: 48h
    advance: manual
    limits: [{metric: error_rate, max_ratio: 1.5}, {metric: rss, max: 1.0e9, action: alert}]
checks: {rss: {file: rss.json}}
"""


def write(tmp_path, text=PLAN):
    file = tmp_path / "canary.yaml"
    file.write_text(text)
    return file


def test_a_plan_is_a_timetable(tmp_path):
    result = tidegate("plan", write(tmp_path), "--rate", "200")
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert lines[:6] == [
        "canary: 2 stages, 100% after 2h, all of it in 2d 2h, and a person",
        "",
        "  stage   weight  from  hold  at least  advance  requests to new",
        "  canary      1%    0s    2h  2h        auto     1,000 of 14,400 in the hold (2/s)",
        "  full      100%    2h    2d  2d        manual   20 of 34,560,000 in the hold (200/s)",
        "",
    ]
    spaced = [" ".join(line.split()) for line in lines[6:]]
    assert spaced[:2] == [
        "From the fault to the action, which takes no time itself:",
        "stage limit judged all fails at worst then",
    ]
    assert re.fullmatch(r"canary error_rate > 1% evidence \S+ ~.+ rollback", spaced[2])
    assert spaced[3:] == [
        "canary p99 > 200ms window 10s for 30s after 1m 30.6s 40.5s rollback",
        "full error_rate > 1.5 × stable evidence by record rollback",
        "full rss > 1,000,000,000 reading 10.2s 10.2s alert",
        "~ evidence: at twice the limit, in 19 of 20 cases; nearer to it takes longer: see tidegate simulate",
    ]


def test_a_rate_that_is_too_low_is_a_warning(tmp_path):
    result = tidegate("plan", write(tmp_path), "--rate", "10")
    assert result.exit_code == 0
    assert "warning: stage canary: the hold gives 720 of the 1,000 requests" in result.output
    assert "warning: stage canary: p99 is never judged" in result.output
    assert "canary: 2 stages, 100% never, all of it never" in result.output


def test_a_plan_as_json(tmp_path):
    document = json.loads(tidegate("plan", write(tmp_path), "--rate", "200", "-o", "json").output)
    (plan,) = document["plans"]
    assert (plan["plan"], plan["rate"], plan["least_s"], plan["last_stage_s"]) == ("canary", 200.0, 180_000.0, 7200.0)
    assert plan["stages"][0] == {
        "name": "canary",
        "weight": 1.0,
        "advance": "auto",
        "from_s": 0.0,
        "hold_s": 7200.0,
        "least_s": 7200.0,
        "min_requests": 1000,
        "rate_new": 2.0,
        "expected": 14_400,
        "enough": True,
    }
    assert [limit["limit"] for limit in plan["limits"]] == [
        "error_rate > 1%",
        "p99 > 200ms",
        "error_rate > 1.5 × stable",
        "rss > 1,000,000,000",
    ]
    assert plan["warnings"] == []
    assert document["notes"][0].startswith("canary: stage canary: error_rate max 1% is judged by evidence")


def test_several_plans_are_several_tables(tmp_path):
    stage = "{name: a, weight: 100%, hold: 1h}"
    file = write(tmp_path, f"plans: {{one: {{stages: [{stage}]}}, two: {{stages: [{stage}]}}}}")
    result = tidegate("plan", file)
    assert "one: 1 stage, 100% at once, all of it in 1h" in result.output
    assert "two: 1 stage, 100% at once, all of it in 1h" in result.output
    assert "--rate says which requests the holds give" in result.output
    assert "No limit is known here" in result.output
    assert "at worst" not in result.output


def test_a_wrong_plan_is_told_with_every_place(tmp_path):
    file = write(tmp_path, "stages: [{name: a, weight: 5, hold: 5}]")
    result = tidegate("plan", file)
    assert result.exit_code == 2
    assert f"{file}:1:28: stages[0].weight" in result.stderr
    assert f"{file}:1:37: stages[0].hold" in result.stderr
    assert tidegate("plan", file, "--rate", "0").exit_code == 2


CONFIG = """\
services:
  - name: web
    stable: {endpoints: [http://s]}
    limits: [{metric: availability, min: 99%}]
    rollouts:
      slow: canary.yaml
      fast: {stages: [{name: all, weight: 100%, hold: 1h}]}
  - name: api
    match: {path: /api}
    stable: {endpoints: [http://s]}
    rollouts: {fast: {stages: [{name: all, weight: 100%, hold: 2h}]}}
"""


def test_the_rollouts_of_a_config_are_timetables_beside_the_limits_of_their_service(tmp_path):
    write(tmp_path)
    file = tmp_path / "tidegate.yaml"
    file.write_text(CONFIG)
    heads = [line for line in tidegate("plan", file).output.splitlines() if " in " in line and "stage" in line]
    assert heads == [
        "web: slow: 2 stages, 100% after 2h, all of it in 2d 2h, and a person",
        "web: fast: 1 stage, 100% at once, all of it in 1h",
        "api: fast: 1 stage, 100% at once, all of it in 2h",
    ]
    (plan,) = json.loads(tidegate("plan", file, "--service", "web", "--plan", "fast", "-o", "json").output)["plans"]
    assert (plan["service"], plan["plan"]) == ("web", "fast")
    assert [limit["limit"] for limit in plan["limits"]] == ["availability < 99%"]
    refused = command("plan", file, "--service", "api", "--plan", "slow")
    assert refused.returncode == 2
    assert "there is no service api and plan slow" in refused.stderr
    cure = "there are the plans: slow of service web, fast of service web, fast of service api"
    assert cure in " ".join(refused.stderr.split())


def test_a_config_without_rollouts_has_no_timetable(tmp_path):
    refused = command("plan", write(tmp_path, "services: [{name: web, stable: {endpoints: [http://s]}}]"))
    assert refused.returncode == 2
    assert "no service of this config has rollouts" in refused.stderr
    assert "give the file of a plan" in refused.stderr


def test_check_knows_a_plan_by_its_stages(tmp_path):
    file = write(tmp_path)
    result = tidegate("check", file)
    assert result.exit_code == 0
    assert result.output.splitlines()[:2] == [
        "ok",
        "  canary: stage canary: error_rate max 1% is judged by evidence, with at least 20 requests",
    ]
    wrong = write(tmp_path, "stages: [{name: a, weight: 5, hold: 1h}]")
    result = tidegate("check", wrong, "-o", "json")
    assert result.exit_code == 2
    assert [error["key"] for error in json.loads(result.output)["errors"]] == ["stages[0].weight"]


def test_run_does_not_take_a_plan_for_a_config(tmp_path):
    done = command("run", "--config", write(tmp_path))
    assert done.returncode == 2
    assert "is a rollout plan, not a config" in done.stderr
