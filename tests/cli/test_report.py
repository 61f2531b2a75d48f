import json

from tests.cli.conftest import tidegate


def start(admin):
    assert tidegate("rollout", "start", "--reason", "2.3.0", "--admin", admin.url).exit_code == 0


def test_the_report_is_markdown_json_or_a_page(admin, tmp_path):
    start(admin)
    result = tidegate("report", "--admin", admin.url)
    assert result.exit_code == 0
    assert "## Decisions" in result.output
    found = json.loads(tidegate("report", "-o", "json", "--admin", admin.url).output)
    assert found["decisions"][0]["type"] == "RolloutStarted"
    path = tmp_path / "report.html"
    result = tidegate("report", "--html", path, "--admin", admin.url)
    assert result.output == f"{path}: {path.stat().st_size:,} bytes\n"
    assert path.read_text().startswith("<!doctype html>")


def test_a_file_that_cannot_be_written_is_a_usage_error(admin, tmp_path):
    result = tidegate("report", "--html", tmp_path / "none" / "report.html", "--admin", admin.url)
    assert result.exit_code == 2
    assert "the report cannot be written: no such file or directory" in result.output
    assert tidegate("report", "--html", tmp_path / "x", "-o", "json", "--admin", admin.url).exit_code == 2


def test_why_says_the_last_move_and_what_came_of_it(admin):
    result = tidegate("why", "--admin", admin.url)
    assert result.output == "web: nothing was decided yet\n"
    tidegate("weights", "set", "25%", "--reason", "ramp", "--admin", admin.url)
    move = admin.operations.journal[-1]
    result = tidegate("why", "--admin", admin.url)
    assert result.output == "web was set from 0 % to 25 % at 2023-11-14 22:13:21Z by local: ramp\n"
    later = {"seq": 2, "type": "RollbackVerified", "before": {}, "after": {}, "actor": "controller", "evidence": {}}
    admin.operations.journal.append(move | later)
    admin.operations.journal.append(move | later | {"seq": 3, "type": "ProgressReport"})
    assert len(tidegate("why", "--admin", admin.url).output.splitlines()) == 2
    found = json.loads(tidegate("why", "-o", "json", "--admin", admin.url).output)
    assert found["event"] == move
    assert found["sentence"].startswith("web was set")
    assert [event["seq"] for event in found["since"]] == [2]


def test_why_finds_a_move_far_behind(admin):
    tidegate("weights", "set", "25%", "--admin", admin.url)
    move = admin.operations.journal[-1]
    for seq in range(2, 2300):
        admin.operations.journal.append(move | {"seq": seq, "type": "ProgressReport", "before": {}, "after": {}})
    assert "from 0 % to 25 %" in tidegate("why", "--admin", admin.url).output
