"""The demo as its users meet it, and the JSON that others rely on."""

import json
import os
import subprocess
import sys
import time

import psutil
import pytest
from rich.console import Console

from proxy.cli.demo import view
from proxy.cli.demo.facts import Books, Round


def text_of(renderable) -> str:
    console = Console(width=120, no_color=True)
    with console.capture() as capture:
        console.print(renderable)
    return capture.get()


def test_the_json_has_the_agreed_keys():
    assert list(Round("errors").to_plain()) == [
        "rolled_back",
        "reason",
        "first_bad_s",
        "decided_s",
        "requests_to_new_after",
        "client_errors",
    ]


def test_the_story_says_that_the_gate_did_not_shut():
    assert "did not shut" in text_of(view.story(Round("errors", first_bad_s=3.0)))


def test_the_story_has_the_numbers():
    told = text_of(
        view.story(
            Round(
                "errors",
                rolled_back=True,
                reason="ErrorRate",
                first_bad_s=8.0,
                decided_s=8.25,
                client_requests=4000,
                rescued=12,
                evidence={"bad": 8, "n": 400, "limit": 0.01, "since_breach": {"bad": 8, "n": 12, "blocks": 4}},
            )
        )
    )
    for part in ("8.00 s", "8.25 s", "0.25 s later", "ErrorRate", "4,000", "12"):
        assert part in told
    assert "8 of the last 12 attempts, in 4 blocks, were bad; 1 % is allowed" in told


def test_books_that_differ_are_shown_to_differ():
    assert "≠" in text_of(view.books(Books({"new": 3}, {"new": 4})))
    assert Books({"new": 3}, {"new": 3}).agree


@pytest.mark.e2e
def test_headless_rolls_back_and_says_so():
    done = subprocess.run(
        [sys.executable, "-m", "proxy", "demo", "--headless", "--seconds", "12"],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 3, done.stderr
    result = json.loads(done.stdout)
    assert result["rolled_back"] is True
    assert result["reason"]
    assert 0 < result["first_bad_s"] <= result["decided_s"] < 12
    assert result["requests_to_new_after"] == 0


@pytest.mark.e2e
def test_a_killed_demo_leaves_no_process_behind(tmp_path):
    demo = subprocess.Popen(
        [sys.executable, "-m", "proxy", "demo", "--headless", "--seconds", "60"],
        stdout=subprocess.DEVNULL,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    parts: set[psutil.Process] = set()
    try:
        # Traffic, supervisor, two workers.
        wait_for(lambda: parts.update(psutil.Process(demo.pid).children(recursive=True)) or len(parts) >= 4)
        wait_for(lambda: any(ready(part) for part in parts))
    finally:
        demo.kill()
        demo.wait()
        gone, alive = psutil.wait_procs(parts, timeout=30)
        for part in alive:
            part.kill()
    assert not alive
    assert len(gone) == len(parts)


def ready(part: psutil.Process) -> bool:
    """Say whether the load has begun: some part is connected to the listener."""
    return any(connection.status == psutil.CONN_ESTABLISHED for connection in part.net_connections("tcp4"))


def wait_for(condition) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.e2e
@pytest.mark.slow
def test_both_rounds_shut_the_gate_and_the_books_agree():
    done = subprocess.run(
        [sys.executable, "-m", "proxy", "demo", "--seconds", "12"],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("the gate shut") == 2
    assert "≠" not in done.stdout
