import json
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest

from proxy.cli import status as verb
from proxy.cli import text
from proxy.cli.client import Unreachable
from tests.cli.conftest import admin_server, command, tidegate


def test_status_shows_weights_versions_limits_and_the_last_event(admin):
    tidegate("weights", "set", "25%", "--reason", "ramp", "--admin", admin.url)
    result = tidegate("status", "--admin", admin.url)
    assert result.exit_code == 0
    text = result.output
    assert "tidegate 0.1.0, up 1h 2m, workers: 1 serving" in text
    assert "web: idle, revision 2; rates and times of the last 10s" in text
    assert "PASS  error_rate of new <= 1%  is 0.2%  over 1,000 requests" in text
    assert "WeightsSet by local" in text
    assert "WeightsSet by local: was set from 0 % to 25 %: ramp (revision 2)" in text
    assert "\x1b" not in text
    rows = [line.split() for line in text.splitlines()]
    row = ["new", "2.3.0", "25%", "12,345", "7", "3", "100", "0.2%", "4.2ms", "31.5ms"]
    assert row in rows


def test_json_is_the_apis_object():
    with admin_server(names=("web", "api")) as admin:
        result = tidegate("status", "-o", "json", "--admin", admin.url)
        assert json.loads(result.output) == admin.operations.status()
        result = tidegate("status", "-o", "json", "--service", "api", "--admin", admin.url)
        assert json.loads(result.output) == admin.operations.service("api")
        result = tidegate("status", "--service", "nope", "--admin", admin.url)
        assert result.exit_code == 2
        assert "there are: web, api" in result.output


def test_a_rollback_is_shown_with_its_numbers():
    event = {"seq": 5, "time": 1700000000.25, "service": "web", "type": "RolledBack", "actor": "controller"}
    event |= {"reason": "ErrorRateAboveLimit", "before": {"new": 50}, "after": {"new": 0, "revision": 8}}
    event["evidence"] = {"metric": "error_rate", "version": "new", "unit": "ratio", "value": 1.0, "limit": 0.01}
    event["evidence"] |= {"bad": 24, "n": 24, "window_s": 0.747, "blocks": [165, 167]}
    assert verb.line(event) == (
        "2023-11-14 22:13:20.250Z web RolledBack by controller: was rolled back from 50 %: ErrorRateAboveLimit; "
        "error_rate of new was 100 % (limit 1 %): 24 of 24 requests bad in 0.747 s (revision 8)"
    )


def test_nothing_measured_yet_is_shown_as_nothing():
    with admin_server() as admin:
        status = json.loads(json.dumps(admin.operations.status()))
    service = status["services"]["web"]
    service["versions"]["new"] = {"label": "", "requests": 0, "bad": 0, "in_flight": 0, "window": None, "endpoints": []}
    service["limits"] = [{"metric": "p99", "version": "new", "max": 200.0, "value": None, "unit": "ms"}]
    service["limits"][0] |= {"verdict": "INCONCLUSIVE", "samples": 0, "needed": 20, "action": "rollback"}
    service["stage"] = {"index": 0, "of": 3, "name": "canary", "weight": 1, "elapsed_s": 61, "hold_s": 7200}
    text = "\n".join(verb.render(status))
    assert "INCONCLUSIVE  p99 of new <= 200ms  is -  over 0 requests  needs 20 more" in text
    assert "stage 1 of 3: canary, 1%, 1m 1s of 2h" in text


@pytest.mark.parametrize("phase, code", [("idle", 0), ("completed", 0), ("rolled_back", 3)])
def test_wait_ends_with_the_phase(admin, phase, code):
    admin.operations.phase["web"] = phase
    assert tidegate("status", "--wait", "--admin", admin.url).exit_code == code


def test_wait_times_out_while_a_rollout_goes_on(admin):
    admin.operations.phase["web"] = "progressing"
    result = tidegate("status", "--wait", "--timeout", "10ms", "--admin", admin.url)
    assert result.exit_code == 4
    assert "waiting for web (progressing)" in result.output
    assert tidegate("status", "--wait", "--timeout", "10", "--admin", admin.url).exit_code == 2


def test_wait_says_that_a_paused_rollout_waits_for_a_person(admin, monkeypatch):
    monkeypatch.setattr(verb, "POLL_S", 0.01)
    admin.operations.phase["web"] = "paused"
    result = tidegate("status", "--wait", "--timeout", "50ms", "--admin", admin.url)
    assert result.exit_code == 4
    assert result.output.count("web is paused and waits for a person (tidegate rollout resume") == 1


def test_wait_times_out_while_nobody_answers(tmp_path):
    result = tidegate("status", "--wait", "--timeout", "10ms", "--admin", f"unix:{tmp_path}/none.sock")
    assert result.exit_code == 4


def test_wait_goes_on_until_the_phase_changes(admin, monkeypatch):
    monkeypatch.setattr(verb, "POLL_S", 0.01)
    admin.operations.phase["web"] = "progressing"
    asked = threading.Event()
    original = admin.operations.status

    def status():
        asked.set()
        return original()

    admin.operations.status = status
    results = []
    waiting = threading.Thread(target=lambda: results.append(tidegate("status", "--wait", "--admin", admin.url)))
    waiting.start()
    assert asked.wait(30)
    admin.operations.phase["web"] = "rolled_back"
    waiting.join(30)
    assert results[0].exit_code == 3


def test_watch_shows_it_again_and_again(admin, monkeypatch):
    times = iter(range(3))

    def sleep(_):
        if next(times) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(verb.time, "sleep", sleep)
    result = tidegate("status", "--watch", "--admin", admin.url)
    assert result.exit_code == 130
    assert result.output.count("web: idle") == 3
    assert tidegate("status", "--watch", "--wait", "--admin", admin.url).exit_code == 2


def test_watch_goes_on_when_the_supervisor_comes_back(admin, monkeypatch):
    asked = verb._get
    gone = [False, True, False]

    def get(client, service):
        if gone.pop(0):
            raise Unreachable(f"{admin.url} does not answer")
        return asked(client, service)

    def sleep(_):
        if not gone:
            raise KeyboardInterrupt

    monkeypatch.setattr(verb, "_get", get)
    monkeypatch.setattr(verb.time, "sleep", sleep)
    result = tidegate("status", "--watch", "--admin", admin.url)
    assert result.output.count("web: idle") == 2
    assert "does not answer; trying again" in result.output


@pytest.mark.parametrize(
    "more, said",
    [
        ({"needed": 7}, "needs 7 more"),
        ({"evidence": 3.21, "alarm_at": 14.06}, "over the limit, evidence 3.2 of 14.1"),
        ({"for_s": 120.0, "held_s": 65.0}, "over the limit for 1m 5s of 2m"),
        ({"why": "stable has 7 of 1000 samples"}, "stable has 7 of 1000 samples"),
    ],
)
def test_a_limit_that_says_nothing_yet_says_what_it_waits_for(admin, more, said):
    item = admin.operations.service("web")
    limit = {**item["limits"][0], "verdict": "INCONCLUSIVE", "scope": "stage", **more}
    (line,) = verb._limits({"limits": [limit]})
    assert line.startswith("  INCONCLUSIVE  error_rate of new <= 1% in this stage")
    assert said in line


def test_a_service_that_came_is_said_with_what_it_began_with():
    after = {"new": 0, "phase": "idle", "revision": 1}
    event = {"time": 1_700_000_000.25, "service": "web", "type": "ServiceAdded", "actor": "config", "reason": ""}
    said = verb.line(event | {"before": {}, "after": after, "evidence": {}})
    assert said.endswith("web ServiceAdded by config: came into the config, at 0 % (revision 1)")


def test_a_refused_config_is_said_with_its_first_problems():
    event = {"time": 1_700_000_000.25, "service": "", "type": "ConfigRefused", "actor": "SIGHUP"}
    evidence = {"what": "1 problem in t.yaml", "problems": ["t.yaml:3:1: stabel: unknown (did you mean stable?)"]}
    evidence["count"] = 1
    said = verb.line(event | {"reason": "ConfigInvalid", "before": {}, "after": {}, "evidence": evidence})
    why = "refused a config, and goes on by the one before: t.yaml:3:1: stabel: unknown (did you mean stable?)"
    assert said.endswith(f"- ConfigRefused by SIGHUP: {why}")


def test_a_limit_that_is_pass_waits_for_nothing_but_a_proof_that_lets_the_stage_go_on(admin):
    item = admin.operations.service("web")
    (limit,) = item["limits"]
    stage = {"index": 0, "of": 2, "name": "a", "weight": 1, "elapsed_s": 1, "hold_s": 2, "advance": "evidence"}

    def said(phase="progressing", *, at=stage, **more):
        return "\n".join(verb.of_service("web", item | {"phase": phase, "stage": at, "limits": [limit | more]}))

    assert "needs 50 more to be proven" in said(needed=50)
    assert "needs" not in said(needed=50, proven=True)
    assert "needs" not in said(needed=50, at=stage | {"advance": "auto"})
    assert "needs" not in said(needed=50, at=stage | {"index": 1})  # the bake is held to its end
    assert "needs" not in said("rolled_back", needed=50)
    assert "needs 50 more" in said("rolled_back", needed=50, verdict="INCONCLUSIVE")


def test_text_from_elsewhere_cannot_command_the_terminal(admin):
    admin.operations.labels["web"]["new"] = "\x1b[2J"
    result = tidegate("status", "--admin", admin.url)
    assert "\x1b" not in result.output


@pytest.mark.slow
def test_a_status_loads_nothing_heavy(admin):
    script = "import sys\nfrom proxy.cli.app import app\ntry:\n    app()\nexcept SystemExit:\n    pass\n"
    script += (
        "print([name for name in ('aiohttp', 'yaml', 'rich', 'asyncio', 'proxy.config.model') if name in sys.modules])"
    )
    for verbs in (["status", "--admin", admin.url], ["version"], ["weights", "--admin", admin.url]):
        done = subprocess.run(
            [sys.executable, "-c", script, *verbs], capture_output=True, text=True, timeout=60, check=True
        )
        assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.slow
def test_as_a_process(admin):
    done = command("status", "--admin", admin.url)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_line_wider_than_the_terminal_breaks_between_words(monkeypatch):
    line = "  last: " + "word " * 12
    assert text.wrapped([line]) == [line]
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(isatty=lambda: True))
    monkeypatch.setenv("COLUMNS", "40")
    lines = text.wrapped(["short", line])
    assert lines[0] == "short"
    assert len(lines) == 3
    assert all(len(part) <= 40 for part in lines)
    assert " ".join(lines).split() == ["short", *line.split()]
