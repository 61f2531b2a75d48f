"""The benchmark's arithmetic, and what it reads from /proc; the race itself where nginx and wrk are installed."""

import datetime as dt
import json
import os
import shutil
import subprocess
import sys
import time

import pytest

from loadtests.bench.cases import CASES, wrk_script
from loadtests.bench.contestants import Backends, Envoy, HAProxy, Nginx, Tidegate
from loadtests.bench.measure import Cpu, Load, cpu, pss_kib, tree
from loadtests.bench.race import Outcome, Sample
from loadtests.bench.report import as_json, as_markdown, per_request_us, summary
from proxy.config.compile import compile_file


def sample(name: str, round_: int, cpu_s: float, *, worker_s: float | None = None, requests: int = 1000) -> Sample:
    return Sample(
        contestant=name,
        case="small",
        round=round_,
        load=Load(requests, 0, 1.0, 1.0, 2.0, 3.0),
        cpu=Cpu(cpu_s / 2, cpu_s / 2),
        worker_cpu=None if worker_s is None else Cpu(worker_s, 0),
        backend_cpu=Cpu(),
        pss_kib=2048,
    )


def test_ratios_are_taken_round_by_round():
    # The machine is twice as slow in round 1: the ratio does not see it.
    samples = [sample("nginx", 0, 0.010), sample("nginx", 1, 0.020)]
    samples += [sample("tidegate", 0, 0.015, worker_s=0.014), sample("tidegate", 1, 0.030, worker_s=0.028)]
    rows = {row["contestant"]: row for row in summary(Outcome(samples=samples))}
    assert rows["tidegate"]["ratio"] == pytest.approx(1.5)
    assert rows["tidegate"]["ratio_min"] == pytest.approx(rows["tidegate"]["ratio_max"])
    assert rows["nginx"]["ratio"] == 1
    assert rows["nginx"]["worker_cpu_us"] is None
    assert rows["tidegate"]["worker_cpu_us"] == pytest.approx(21)


def test_cpu_is_per_request_in_microseconds():
    assert per_request_us(sample("nginx", 0, 0.5, requests=10_000)) == pytest.approx(50)


def test_without_nginx_there_is_no_ratio():
    row = summary(Outcome(samples=[sample("tidegate", 0, 0.015)]))[0]
    assert row["ratio"] is None


def test_the_report_names_who_was_skipped():
    outcome = Outcome(samples=[sample("nginx", 0, 0.01)], skipped={"envoy": "envoy is not installed\nmore"})
    outcome.versions["nginx"] = "1.2.3"
    result = as_json(outcome, "make bench", dt.datetime(2026, 1, 2, tzinfo=dt.UTC))
    assert json.loads(json.dumps(result))["date"] == "2026-01-02 00:00 UTC"
    table = as_markdown(result)
    assert "Skipped: envoy: envoy is not installed." in table
    assert "| 128 B answer | nginx | 10.0 |" in table


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_case_has_a_script(case):
    script = wrk_script(case)
    assert ("'POST'" in script) == bool(case.body)
    assert ("= 'close'" in script) == case.close


@pytest.mark.parametrize("contestant", [Nginx(), HAProxy(), Envoy(), Tidegate()], ids=lambda each: each.name)
def test_every_contestant_writes_its_config(contestant, tmp_path):
    command = contestant.command(tmp_path, 8080, Backends(9001, 9002))
    text = "".join(path.read_text() for path in tmp_path.iterdir())
    assert command.argv
    assert all(port in text for port in ("8080", "9001", "9002"))


def test_our_own_config_is_one_that_check_accepts(tmp_path):
    Tidegate().command(tmp_path, 8080, Backends(9001, 9002))
    assert compile_file(tmp_path / "tidegate.yaml", {}).settings.workers == 1


def test_a_tree_has_its_children_and_their_cost():
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'input()'])"
    parent = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE)
    deadline = time.monotonic() + 30
    while len(tree(parent.pid)) < 2 and time.monotonic() < deadline:
        os.sched_yield()
    pids = tree(parent.pid)
    assert len(pids) == 2
    assert pss_kib(pids) > 0
    assert cpu(pids).user >= 0
    parent.communicate(b"\n", timeout=30)
    assert cpu(pids) == Cpu()


@pytest.mark.e2e
@pytest.mark.skipif(not (shutil.which("nginx") and shutil.which("wrk")), reason="needs nginx and wrk")
def test_a_short_race(tmp_path):
    done = subprocess.run(
        [
            *(sys.executable, "-m", "loadtests.bench", "--rounds", "1", "--seconds", "1", "--cases", "small,post"),
            *("--only", "nginx,tidegate", "--json", str(tmp_path / "out.json"), "--markdown", str(tmp_path / "out.md")),
        ],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "out.json").read_text())
    assert result["skipped"] == {}
    assert [(row["case"], row["contestant"]) for row in result["summary"]] == [
        ("small", "tidegate"),
        ("small", "nginx"),
        ("post", "tidegate"),
        ("post", "nginx"),
    ]
    assert all(row["errors"] == 0 and row["requests_per_s"] > 0 for row in result["summary"])
    assert all(0.05 < share < 0.15 for share in result["share_to_new"].values())


def test_what_is_unknown_is_refused_by_name():
    if not (shutil.which("nginx") and shutil.which("wrk")):
        pytest.skip("needs nginx and wrk")
    done = subprocess.run(
        [sys.executable, "-m", "loadtests.bench", "--cases", "tiny"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "tiny" in done.stderr
