"""The demo as its users meet it, and the JSON that others rely on."""

import json
import subprocess
import sys

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
                evidence={"decided_ns": 1, "value": 0.02},
            )
        )
    )
    for part in ("8.00 s", "8.25 s", "0.25 s later", "ErrorRate", "value 0.02", "4,000", "12"):
        assert part in told
    assert "decided_ns" not in told


def test_books_that_differ_are_shown_to_differ():
    assert "≠" in text_of(view.books(Books({"new": 3}, {"new": 4})))
    assert Books({"new": 3}, {"new": 3}).agree


@pytest.mark.e2e
def test_headless_rolls_back_and_says_so():
    done = subprocess.run(
        [sys.executable, "-m", "proxy", "demo", "--headless", "--seconds", "6"],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 3, done.stderr
    result = json.loads(done.stdout)
    assert result["rolled_back"] is True
    assert result["reason"]
    assert 0 < result["first_bad_s"] <= result["decided_s"] < 6
    assert result["requests_to_new_after"] == 0


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
