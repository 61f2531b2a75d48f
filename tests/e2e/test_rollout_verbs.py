"""A whole rollout by the command line, on the product as it runs: from the pre-flight to the report and the replay."""

import json
import time

from proxy.cli.demo.backend import ERRORS, SLOW
from tests.cli.conftest import tidegate
from tests.controlplane.waiting import until_now
from tests.e2e.product import CONFIG

PLAN = """rollouts:
      default:
        stages:
          - {name: canary, weight: 10%, hold: 12s, min_requests: 20, limits: {error_rate: 1%, p99: 5s}}
          - {name: half, weight: 50%, hold: 1h, limits: {error_rate: 1%}}
"""
CLOSE_S = 2.0  # a block is 0.25 s; a busy machine may pause between a block and its decision
UNLIMITED = CONFIG.replace(
    """    limits:
      - {{metric: error_rate, max: 1%}}
      - {{metric: p99, max: 10s}}
""",
    "",
)


def test_a_rollout_from_pre_flight_to_replay(tmp_path, product, backends):
    product = product(PLAN, config=UNLIMITED)
    url = ("--admin", f"http://127.0.0.1:{product.admin}")

    def verb(*args, code=0):
        result = tidegate(*args, *url)
        assert result.exit_code == code, result.output
        return result.output

    product.start()
    with backends.load(product.port, 100):
        until_now(lambda: product.web()["versions"]["stable"]["requests"] > 50)
        assert verb("rollout", "start", "--dry-run").startswith("go: default")
        assert verb("rollout", "start", "--reason", "2.0").startswith("web: progressing, revision ")
        assert "[>]  canary" in verb("rollout", "status")
        verb("rollout", "start", code=1)
        drill = json.loads(verb("rollout", "drill", "-o", "json"))
        assert (drill["drill"], drill["latched"], drill["restored"]) == ("passed", True, True)
        until_now(lambda: product.web()["stage"]["index"] == 1)
        assert "[>]  half" in verb("status")
        verb("rollout", "pause")
        assert verb("rollout", "resume").startswith("web: progressing")
        # A supervisor that dies takes at most the last second of the record with it.
        until_now(lambda: product.web()["stage"]["requests"] > 150)
        product.kill_everything()
        restarted = time.time()
        product.start()
        until_now(lambda: product.web()["stage"]["requests"] > 100)
        backends.new.fail(ERRORS)
        verb("status", "--wait", "--timeout", "120s", code=3)
        said = verb("why")
        assert "web was rolled back from 50 % at " in said
        assert "error_rate of new was " in said
        report = json.loads(verb("report", "-o", "json"))
        assert (report["plan"], report["phase"]) == ("default", "rolled_back")
        assert [stage["state"] for stage in report["stages"]] == ["done", "failed"]
        before = [point for point in report["points"] if point["t"] < restarted]
        assert sum(point["new"]["rate"] * point["seconds"] for point in before) > 20
        assert {point["weight"] for point in before} >= {10, 50}
        verb("report", "--html", tmp_path / "report.html")
        assert "rolled back" in (tmp_path / "report.html").read_text()
    assert product.end() == 0
    # Its journal of blocks is one that replay reads: by the recorded limits it says what was decided, and when.
    (event,) = [one for one in report["decisions"] if one["type"] == "RolledBack"]
    journal = tmp_path / "tidegate.db.blocks" / "web.jsonl"
    found = json.loads(tidegate("replay", journal, "-o", "json").output)
    assert found["reason"] == event["reason"] == "ErrorRateAboveLimit"
    assert abs(found["rolled_back_at"] - event["t"]) < CLOSE_S
    assert found["decisions"][-1]["evidence"]["bad"] == event["evidence"]["bad"]
    assert tidegate("replay", journal).output.startswith("rolled back at ")
    # 90 % bad is less than what there was, and any latency can be asked for.
    other = json.loads(tidegate("replay", journal, "--limits", "error_rate=90%,p99=4500ms", "-o", "json").output)
    assert (other["rolled_back_at"], other["decisions"]) == (None, [])
    assert other["blocks"] == found["blocks"] > 3
    # The drill and the death of the supervisor make no other rollout of it.
    assert "part" not in other
    assert report["versions"]["new"]["requests"] == requests_to_new(journal, report["started"])


SHORT = """rollouts:
      default:
        stages:
          - {name: canary, weight: 10%, hold: 1h}
          - {name: full, weight: 100%, hold: 1h}
"""


def test_a_finished_rollout_is_reported_as_it_was(tmp_path, product, backends):
    product = product(SHORT)
    url = ("--admin", f"http://127.0.0.1:{product.admin}")

    def verb(*args):
        result = tidegate(*args, *url)
        assert result.exit_code == 0, result.output
        return result.output

    product.start()
    with backends.load(product.port, 100):
        until_now(lambda: product.web()["versions"]["stable"]["requests"] > 50)
        verb("rollout", "start")
        until_now(lambda: product.web()["stage"]["requests"] > 20)
        verb("rollout", "promote")
        until_now(lambda: product.web()["stage"]["requests"] > 100)
        verb("rollout", "promote")
        labels = {version: one["label"] for version, one in product.web()["versions"].items()}
        verb("rollout", "finish")
        verb("rollback", "--reason", "nothing is left of it in the status")
        report = json.loads(verb("report", "-o", "json"))
        assert json.loads(verb("report", "-o", "json")) | {"generated": 0} == report | {"generated": 0}
    assert product.end() == 0
    assert (report["plan"], report["phase"], report["reason"]) == ("default", "completed", None)
    assert report["labels"] == labels
    assert [(one["name"], one["state"]) for one in report["stages"]] == [("canary", "done"), ("full", "done")]
    assert [one["type"] for one in report["decisions"]][-2:] == ["RolloutCompleted", "RolloutFinished"]
    assert {limit["metric"] for limit in report["limits"]} == {"error_rate", "p99"}
    journal = tmp_path / "tidegate.db.blocks" / "web.jsonl"
    assert report["versions"]["new"]["requests"] == requests_to_new(journal, report["started"]) > 120


def requests_to_new(journal, since):
    """Return how many requests to `new` a block journal has."""
    blocks = [json.loads(line) for line in journal.read_text().splitlines()]
    return sum(block["new"]["requests"] for block in blocks if block.get("t", 0) > since)


def test_a_version_that_hangs_is_found_again_by_replay_in_the_same_block(tmp_path, product, backends):
    product = product("limits: {error_rate: 50%, p99: 300ms}", config=UNLIMITED)
    url = ("--admin", f"http://127.0.0.1:{product.admin}")
    product.start()
    with backends.load(product.port, 100):
        until_now(lambda: product.web()["versions"]["stable"]["requests"] > 50)
        # The first ones that hang end before there are enough of them for a decision.
        backends.new.fail(SLOW)
        assert tidegate("weights", "set", "5%", *url).exit_code == 0
        until_now(lambda: product.web()["phase"] == "rolled_back")
        events = json.loads(tidegate("events", "-o", "json", *url).output)["events"]
    assert product.end() == 0
    (event,) = [one for one in events if one["type"] == "RolledBack"]
    found = json.loads(tidegate("replay", tmp_path / "tidegate.db.blocks" / "web.jsonl", "-o", "json").output)
    assert found["reason"] == event["reason"] == "P99AboveLimit"
    assert abs(found["rolled_back_at"] - event["time"]) < CLOSE_S
    evidence = found["decisions"][-1]["evidence"]
    for key in ("n", "slower", "evidence", "since_breach"):
        assert evidence[key] == event["evidence"][key]
