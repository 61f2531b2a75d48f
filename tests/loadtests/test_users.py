"""The load test passes against a healthy proxy and fails for a client's error."""

import os
import subprocess
import sys

import pytest

from proxy.cli.demo.parts import Traffic

pytestmark = pytest.mark.e2e


def locust(host: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            *(sys.executable, "-m", "locust", "-f", "loadtests/locustfile.py", "--headless", "--only-summary"),
            *("-u", "5", "-r", "5", "-t", "4s", "--host", host),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "LOADTEST_VERSIONS": ""},
    )


def test_answers_that_did_not_come_through_the_proxy_fail_the_run():
    traffic = Traffic()
    try:
        done = locust(f"http://127.0.0.1:{traffic.ports['stable']}")
    finally:
        traffic.close()
    assert done.returncode == 1, done.stdout + done.stderr
    assert "the answer has no x-tidegate-version" in done.stdout + done.stderr


def test_sticky_users_pass_the_demos_proxy():
    done = subprocess.run(
        [sys.executable, "-m", "loadtests.run", "--users", "20", "--seconds", "8"],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[stable]" in done.stdout + done.stderr
    assert "[new]" in done.stdout + done.stderr
