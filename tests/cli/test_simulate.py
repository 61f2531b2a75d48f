import json
from itertools import count

import pytest

from proxy.cli import simulate
from tests.cli.conftest import tidegate

PLAN = """
stages:
  - {name: one, weight: 10%, hold: 5s, min_requests: 20, limits: {error_rate: 1%}}
  - {name: all, weight: 100%, hold: 5s, min_requests: 20, limits: [{metric: p95, max_ratio: 2}]}
"""


def write(tmp_path, text=PLAN):
    path = tmp_path / "plan.yaml"
    path.write_text(text)
    return path


def test_a_failing_version_is_rolled_back_in_every_run_and_the_numbers_are_said(tmp_path):
    args = ("--rate", "800", "--new-error-rate", "100%", "--runs", "3", "--jobs", "1")
    result = tidegate("simulate", write(tmp_path), *args)
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert lines[0] == "plan: 3 runs at 800 requests/s (seed 1)"
    assert lines[2].split() == ["rolled", "back", "3", "100%", "29.24%", "to", "100%"]
    assert "  because of: ErrorRateAboveLimit 3×" in lines
    assert "  rolled back in stage: one 3×" in lines
    assert any(line.startswith("  time to detect: p50 ") for line in lines)
    assert lines[-1] == "  not simulated, taken as met: p95 > 2 × stable"


@pytest.mark.slow
def test_a_good_one_finishes_also_in_processes_of_its_own(tmp_path):
    args = ("--rate", "200", "--runs", "2", "--jobs", "2", "-o", "json")
    found = json.loads(tidegate("simulate", write(tmp_path), *args).output)
    assert found["completed"]["runs"] == 2
    assert 10.0 <= found["finish_s"]["p50"] < 12.0
    assert found["taken_as_met"] == ["p95 > 2 × stable"]
    again = json.loads(tidegate("simulate", write(tmp_path), *args[:-4], "--jobs", "1", "-o", "json").output)
    assert again == found


def test_of_several_plans_one_is_named(tmp_path):
    path = write(tmp_path, "plans:\n  a: &a\n    stages: [{name: s, weight: 100%, hold: 1s}]\n  b: *a\n")
    result = tidegate("simulate", path, "--runs", "1")
    assert result.exit_code == 2
    assert "there are 2 plans (name one with --plan: a, b)" in result.output
    assert tidegate("simulate", path, "--plan", "c").exit_code == 2
    assert "nothing can roll it back here" in tidegate("simulate", path, "--plan", "b", "--runs", "1").output
    result = tidegate("simulate", path, "--plan", "b", "--runs", "1", "-o", "json")
    assert json.loads(result.output)["plan"] == "b"


def test_mistakes_of_options_and_plans_are_usage_errors(tmp_path):
    path = write(tmp_path)
    assert tidegate("simulate", path, "--new-error-rate", "5").exit_code == 2
    assert tidegate("simulate", path, "--burst", "0").exit_code == 2
    assert tidegate("simulate", path, "--longest", "3").exit_code == 2
    result = tidegate("simulate", write(tmp_path, "stages: []"))
    assert result.exit_code == 2


def told(monkeypatch, capsys, *, at_terminal):
    """Return what is said of four runs that take 8 s each."""
    clock = count(0.0, 8.0)
    monkeypatch.setattr(simulate.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(simulate.sys.stderr, "isatty", lambda: at_terminal, raising=False)
    assert list(simulate._counted(iter("abcd"), 4)) == list("abcd")
    return capsys.readouterr().err


def test_how_far_it_is_is_said(monkeypatch, capsys):
    assert told(monkeypatch, capsys, at_terminal=False) == "2 of 4 runs, about 16s left\n4 of 4 runs\n"
    assert told(monkeypatch, capsys, at_terminal=True).split("\x1b[K") == [
        "0 of 4 runs\r1 of 4 runs, about 24s left",
        "\r2 of 4 runs, about 16s left",
        "\r3 of 4 runs, about 8s left",
        "\r4 of 4 runs",
        "\n",
    ]
