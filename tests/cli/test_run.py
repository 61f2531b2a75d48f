import json

import pytest

from tests.cli.conftest import command, tidegate

GOOD = """\
services:
  - name: web
    stable: {endpoints: [http://127.0.0.1:9001]}
    limits: {error_rate: 1%}
"""
BAD = GOOD.replace("limits", "limitz").replace("services:", "lissten: x\nservices:")


@pytest.fixture
def started(monkeypatch):
    """Take what would be started instead of starting it."""
    seen = []

    def run(compiled, *, announce, admin, flush_log):
        seen.append(compiled)
        announce("listening on 127.0.0.1:8080")
        flush_log()
        return 0

    monkeypatch.setattr("proxy.controlplane.supervisor.run", run)
    return seen


def test_check_says_every_problem_with_its_place(tmp_path):
    file = tmp_path / "tidegate.yaml"
    file.write_text(BAD)
    done = command("check", file)
    assert done.returncode == 2
    first, second = done.stdout.splitlines()
    assert first.startswith(f"{file}:1:1: lissten: is not known here: did you mean listen?")
    assert second.startswith(f"{file}:5:5: services[0].limitz: is not known here: did you mean limits?")
    result = tidegate("check", file, "-o", "json")
    assert result.exit_code == 2
    value = json.loads(result.output)
    assert value["valid"] is False
    assert [error["line"] for error in value["errors"]] == [1, 5]


def test_check_says_ok_and_how_it_will_be_judged(tmp_path):
    file = tmp_path / "tidegate.yaml"
    file.write_text(GOOD)
    result = tidegate("check", file)
    assert result.exit_code == 0
    assert result.output.splitlines()[0] == "ok"
    assert "error_rate max 1% is judged by evidence" in result.output
    assert json.loads(tidegate("check", file, "-o", "json").output)["valid"] is True


def test_check_of_no_file():
    result = tidegate("check", "/nowhere/tidegate.yaml")
    assert result.exit_code == 2
    assert "/nowhere/tidegate.yaml" in result.output


def test_run_with_a_bad_config_starts_nothing(tmp_path, started):
    file = tmp_path / "tidegate.yaml"
    file.write_text(BAD)
    result = tidegate("run", "--config", file)
    assert result.exit_code == 2
    assert f"{file}:1:1: lissten" in result.stderr
    assert "tidegate: 2 problems; nothing was started" in result.stderr
    assert started == []


def test_standard_output_is_the_access_logs_alone_where_that_is_written_there(tmp_path, started):
    file = tmp_path / "tidegate.yaml"
    file.write_text(GOOD)
    said = tidegate("run", "--config", file).stdout
    assert "note: " in said
    assert "listening on 127.0.0.1:8080" in said
    file.write_text(GOOD + 'access_log: {path: "-"}\n')
    result = tidegate("run", "--config", file)
    assert (result.stdout, result.stderr) == ("", said)


def test_run_without_a_file_prints_the_equivalent_yaml(tmp_path, started):
    flags = ["--stable", "http://127.0.0.1:9001", "--new", "http://127.0.0.1:9002", "--weight", "25%"]
    flags += ["--sticky", "header:x-user", "--p99", "150ms", "--error-rate", "", "--listen", "127.0.0.1:0"]
    result = tidegate("run", *flags)
    assert result.exit_code == 0
    assert "listening on 127.0.0.1:8080" in result.output
    compiled = started[0]
    assert compiled.plans[0].initial_weight == 2500
    assert [limit.metric for limit in compiled.plans[0].limits] == ["p99"]
    assert compiled.table.services[0].sticky.by == "header"
    head, _, rest = result.output.partition("\n")
    assert head.startswith("# the same as a config file")
    file = tmp_path / "same.yaml"
    file.write_text(rest.partition("\n\n")[0])
    tidegate("run", "--config", file)
    assert started[1].table == compiled.table
    assert started[1].plans == compiled.plans


def test_run_needs_a_file_or_an_endpoint_but_not_both(tmp_path, started):
    assert tidegate("run").exit_code == 2
    assert tidegate("run", "--new", "http://127.0.0.1:9002").exit_code == 2
    result = tidegate("run", "--config", tmp_path / "x.yaml", "--weight", "5%")
    assert result.exit_code == 2
    assert "--config and --weight exclude each other" in result.output
    assert started == []


def test_a_weight_without_new_is_refused(started):
    result = tidegate("run", "--stable", "http://x", "--weight", "5%")
    assert (result.exit_code, started) == (2, [])
    assert "there is none (add --new URL" in result.stderr


def test_bad_flags_are_named_as_flags(started):
    result = tidegate("run", "--stable", "ftp://x", "--new", "http://y", "--weight", "5", "--p99", "fast")
    assert result.exit_code == 2
    assert "--stable: " in result.stderr
    assert "--p99: " in result.stderr
    assert "services[0]" not in result.stderr
    assert started == []
