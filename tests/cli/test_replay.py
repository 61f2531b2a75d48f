import gzip
import json

import pytest

from proxy.controlplane.blocks import Blocks, Rules
from proxy.controlplane.history import History
from proxy.metrics.snapshot import Columns, Judged, ServiceCounts, VersionCounts
from proxy.rollout.judges import Court, budget
from proxy.rollout.plan import Limit, ServicePlan
from tests.cli.conftest import tidegate


def write(path, bad_from=1500, blocks=1510, header=None):
    lines = [json.dumps({"header": header})] if header else []
    for number in range(blocks):
        new = {"requests": 20, "bad": 20 * (number >= bad_from), "over": {"p99": 0}}
        lines.append(json.dumps({"t": 1_700_000_000 + number / 4, "stable": {"requests": 180, "bad": 0}, "new": new}))
    path.write_text("\n".join(lines))
    return path


def test_it_says_when_it_would_have_been_and_by_which_numbers(tmp_path):
    result = tidegate("replay", write(tmp_path / "j.jsonl"), "--limits", "error_rate=1%,p99=200ms")
    assert result.exit_code == 0
    assert result.output.splitlines() == [
        "rolled back at 2023-11-14 22:19:35.750Z: ErrorRateAboveLimit (by error_rate > 1%, p99 > 200ms)",
        "  80 of 30,080 requests bad; the evidence is 80 of the last 80, in 4 blocks",
        "  1,510 blocks, 30,200 requests to new, 200 of them bad",
    ]


def test_json_is_the_object_of_the_contract(tmp_path):
    journal = write(tmp_path / "j.jsonl")
    found = json.loads(tidegate("replay", journal, "--limits", "error_rate=1%,p99=200ms", "-o", "json").output)
    assert list(found) == ["rolled_back_at", "reason", "blocks", "decisions"]
    assert found["rolled_back_at"] == 1_700_000_375.75
    assert (found["reason"], found["blocks"]) == ("ErrorRateAboveLimit", 1510)
    assert found["decisions"][0]["evidence"]["bad"] == 80


def test_a_limit_that_holds_is_shown_with_its_numbers(tmp_path):
    result = tidegate(
        "replay", write(tmp_path / "j.jsonl", bad_from=9999), "--limits", "error_rate=1%,availability=99%"
    )
    assert result.output.splitlines() == [
        "not rolled back by error_rate > 1%, availability < 99%: 1,510 blocks, 30,200 requests to new, 0 of them bad",
        "  PASS error_rate > 1%: 0 of 30,200 bad",
        "  PASS availability < 99%: 30,200 of 30,200 good",
    ]


def test_several_files_are_one_journal_and_their_limits_are_taken_when_none_are_given(tmp_path):
    first = write(tmp_path / "a.jsonl", header={"block_s": 0.25, "limits": {"error_rate": 0.01}})
    second = tmp_path / "b.jsonl"
    second.write_text(json.dumps({"t": 1_800_000_000, "new": {"requests": 1, "bad": 0}}))
    result = tidegate("replay", first, second, "-o", "json")
    assert json.loads(result.output)["blocks"] == 1511
    assert json.loads(result.output)["reason"] == "ErrorRateAboveLimit"
    packed = tmp_path / "a.1.jsonl.gz"
    packed.write_bytes(gzip.compress(first.read_bytes()))
    assert tidegate("replay", packed, second, "-o", "json").output == result.output
    packed.write_bytes(b"no gzip")
    assert "cannot be read: not a gzipped file" in tidegate("replay", packed).output
    second.write_text(second.read_text() + "\n{")
    assert f"{second}:2:1: is not JSON" in tidegate("replay", first, second).output
    second.write_text(second.read_text()[:-2])
    result = tidegate("replay", second)
    assert result.exit_code == 2
    assert "the journal names no limits (give some with --limits" in result.output


def test_a_latency_limit_that_was_not_recorded_is_refused_with_the_one_that_was(tmp_path):
    journal = write(tmp_path / "j.jsonl", header={"limits": {"p99": 200}})
    assert tidegate("replay", journal, "--limits", "p99=200ms").exit_code == 0
    result = tidegate("replay", journal, "--limits", "p99=150ms")
    assert result.exit_code == 2
    assert "no histograms" in result.output
    assert "recorded: p99=200ms" in result.output


def test_it_says_of_which_requests_a_journal_cannot_tell(tmp_path):
    journal = tmp_path / "j.jsonl"
    hung = {"t": 1, "new": {"requests": 0, "bad": 0, "over": {"p99": 9}, "hist": {}}}
    journal.write_text("\n".join(map(json.dumps, ({"header": {"limits": {"p99": 200}}}, hung))))
    said = tidegate("replay", journal, "--limits", "p99=300ms").output.splitlines()
    hung_on = "9 requests to new were slower than 200ms and hung on; whether for 300ms, the journal does not tell"
    assert said[1] == f"  not known: {hung_on}"


@pytest.mark.parametrize(
    "limits, said",
    [
        ("error_rat=1%", "did you mean error_rate"),
        ("error_rate", "is not METRIC=LIMIT"),
        ("error_rate=1", "write 1%"),
        ("p99=200", "write 200ms"),
        ("p99=200%", "unit"),
        ("p99=200ms,p99=1s", "has p99 twice"),
        ("", "is not METRIC=LIMIT"),
        ("error_rate=1%/5m", "not a share"),
        ("error_rate=1% for 2m", "write the window too, such as error_rate=1% over 1m for 2m"),
        ("error_rate=1% over 5", "write 5s"),
        ("error_rate=1% over 5m for ever", "not a duration"),
    ],
)
def test_limits_that_cannot_be_meant_are_a_usage_error(tmp_path, limits, said):
    result = tidegate("replay", write(tmp_path / "j.jsonl"), "--limits", limits)
    assert result.exit_code == 2
    assert said in " ".join(result.output.split())


def test_a_journal_that_is_not_there_is_a_usage_error(tmp_path):
    result = tidegate("replay", tmp_path / "none.jsonl", "--limits", "error_rate=1%")
    assert result.exit_code == 2
    assert "cannot be read: no such file or directory" in result.output


def test_what_the_controller_writes_can_be_replayed(tmp_path):
    def counts(stable, new):
        versions = (
            VersionCounts("stable", "1", 1, stable),
            VersionCounts("new", "2", 1, new),
        )
        return ServiceCounts("web", (200_000,), versions)

    blocks = Blocks(tmp_path)
    limits = (Limit("error_rate", max=0.01), Limit("p99", max=200.0))
    plan = ServicePlan("web", limits)
    court = Court(plan, Columns((200_000,)), 0.0, budget(plan, None))
    for number in range(41):
        bad = max(0, number - 30) * 20
        stable = Judged(ended=180 * number, slow=(0,), fast=(180 * number,))
        new = Judged(ended=20 * number, bad=bad, slow=(0,), fast=(20 * number,))
        blocks.add(
            counts(stable, new), History(), Rules(court, limits, "", 1000), number / 4, 1_700_000_000 + number / 4
        )
    blocks.close()
    found = json.loads(tidegate("replay", blocks.path("web"), "-o", "json").output)
    assert (found["reason"], found["blocks"]) == ("ErrorRateAboveLimit", 40)
    assert found["rolled_back_at"] == 1_700_000_000 + 34 / 4


def test_a_window_and_how_long_it_must_last_can_be_said(tmp_path):
    journal = write(tmp_path / "j.jsonl")
    limits = "error_rate=50% over 1s for 1s, error_rate=1% over 1h"
    result = tidegate("replay", journal, "--limits", limits, "-o", "json")
    found = json.loads(result.output)
    # Three of four blocks are bad at 375.5 s, and for a second at 376.5 s.
    assert found["rolled_back_at"] == 1_700_000_376.5
    assert found["decisions"][0]["evidence"]["held_s"] == 1.0
    assert "error_rate > 50% over 1s for 1s" in tidegate("replay", journal, "--limits", limits).output


def test_limits_come_from_a_file_as_a_config_has_them(tmp_path):
    journal = write(tmp_path / "j.jsonl")
    limits = tmp_path / "limits.yaml"
    limits.write_text("# mine\nlimits:\n  - {metric: error_rate, max: 50%, window: 1s, for: 1s, action: pause}\n")
    found = json.loads(tidegate("replay", journal, "--limits", f"@{limits}", "-o", "json").output)
    assert found["rolled_back_at"] is None
    assert [(one["t"], one["action"]) for one in found["decisions"]] == [(1_700_000_376.5, "pause")]
    limits.write_text("limits: {error_rate: 1%, p99: 200ms}\n")
    assert "by error_rate > 1%, p99 > 200ms" in tidegate("replay", journal, "--limits", f"@{limits}").output
    limits.write_text("limits:\n  - {metric: error_rat, max: 50%}\n")
    result = tidegate("replay", journal, "--limits", f"@{limits}")
    assert result.exit_code == 2
    assert f"{limits}:2:" in result.output
    assert ": limits[0].metric" in result.output
    assert "did you mean" in result.output
    assert tidegate("replay", journal, "--limits", f"@{tmp_path}/none.yaml").exit_code == 2


def test_a_hand_made_journal_needs_no_header_and_a_latency_that_is_not_in_it_has_a_cure(tmp_path):
    journal = write(tmp_path / "j.jsonl", header={"limits": {"p99": 200}})
    result = tidegate("replay", journal, "--limits", "p95=150ms")
    assert "give that one with --limits, such as --limits p99=200ms" in " ".join(result.output.split())
    journal.write_text(json.dumps({"t": 1, "new": {"requests": 20, "bad": 0}}))
    result = tidegate("replay", journal, "--limits", "p95=150ms")
    assert "leave it out of --limits" in " ".join(result.output.split())


def written(path, *trials):
    """A journal of trials: each of 10 s from the time given, with so many of 20 requests bad in every block."""
    rules = [{"metric": "error_rate", "max": 0.01}]
    lines = []
    for begin, bad in trials:
        judged = {"trial": begin, "since": begin, "alarm_at": 12.0, "stage": "canary", "weight": 10, "rules": rules}
        lines.append({"header": {"block_s": 0.25, "limits": {"error_rate": 0.01}, "judged": judged}})
        lines += [{"t": begin + number / 4, "new": {"requests": 20, "bad": bad}} for number in range(1, 41)]
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def test_the_last_rollout_is_judged_or_the_one_of_a_time_or_all_as_one(tmp_path):
    begins = (1_700_000_000, 1_700_001_000, 1_700_002_000)
    journal = written(tmp_path / "j.jsonl", *zip(begins, (20, 3, 0), strict=True))

    def found(*more, output="json"):
        result = tidegate("replay", journal, *more, "-o", output)
        assert result.exit_code == 0, result.output
        return json.loads(result.output) if output == "json" else result.output.splitlines()

    last = found()
    assert (last["rolled_back_at"], last["blocks"]) == (None, 40)
    assert last["part"] == {"number": 3, "of": 3, "from": begins[2], "to": begins[2] + 10}
    assert found(output="text")[-1] == (
        "  rollout 3 of 3 in the journal, from 2023-11-14 22:46:40.000Z to 2023-11-14 22:46:50.000Z; "
        "--since TIME for another one"
    )
    # Of the time that is said, as it is said, and of one that is between two.
    for since in ("2023-11-14 22:13:20.000Z", "2023-11-14T23:13:20+01:00", "2023-11-14T22:13:20", "1700000000", "0"):
        assert found("--since", since)["rolled_back_at"] == begins[0] + 1
    second = found("--since", "1700000500")
    assert (second["part"]["number"], second["blocks"]) == (2, 40)
    assert begins[1] < second["rolled_back_at"] < begins[1] + 10
    assert found("--since", "1700001005")["part"] == {"number": 2, "of": 3, "from": begins[1] + 5, "to": begins[1] + 10}
    assert found("--limits", "error_rate=50%")["rolled_back_at"] is None
    whole = found("--all", "--limits", "error_rate=50%")
    assert begins[0] < whole["rolled_back_at"] < begins[1]
    assert (whole["blocks"], whole["part"]["number"]) == (120, None)
    assert found("--all", output="text")[-1].startswith(
        "  all 3 rollouts of the journal as one, from 2023-11-14 22:13:20"
    )


@pytest.mark.parametrize(
    "more, said",
    [
        (("--since", "1700009999"), "rollouts began at 2023-11-14 22:13:20.000Z"),
        (("--since", "yesterday"), "is no time: write 2026-03-01T12:00Z, or seconds"),
        (("--since", "nan"), "is no time"),
        (("--since", "0", "--all"), "--since and --all exclude each other"),
    ],
)
def test_a_part_that_cannot_be_meant_is_a_usage_error(tmp_path, more, said):
    result = tidegate("replay", written(tmp_path / "j.jsonl", (1_700_000_000, 0)), *more)
    assert result.exit_code == 2
    assert said in " ".join(result.output.split())
