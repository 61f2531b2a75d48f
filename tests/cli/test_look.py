import json
import os
import signal
import subprocess
import sys

import pytest

from proxy.cli import look
from proxy.controlplane.operations import Order
from tests.cli.conftest import admin_server, command, tidegate


def rollback(admin, times=1, service="web"):
    for _ in range(times):
        admin.call(admin.operations.rollback, service, Order(actor="ops", reason="drill"))


def test_explain(admin):
    options = ("--cookie", "session=a=b", "--header", "X-User=42", "--client-ip", "10.0.0.1")
    result = tidegate("explain", *options, "--admin", admin.url)
    assert result.output.splitlines() == [
        "web: goes to stable: hash",
        "  key ab12 from cookie session; new has 25%",
    ]
    assert admin.operations.explained == ({"session": "a=b"}, {"x-user": "42"}, "10.0.0.1")
    result = tidegate("explain", "-o", "json", "--admin", admin.url)
    assert json.loads(result.output)["bucket"] == 4711
    admin.operations.answer = {"version": None, "bucket": None, "reason": "it brings no key"}
    result = tidegate("explain", "--admin", admin.url)
    assert result.output.splitlines()[0] == "web: goes to either version: it brings no key"
    result = tidegate("explain", "--cookie", "session", "--admin", admin.url)
    assert result.exit_code == 2
    assert "cookie: must be NAME=VALUE" in result.output


def test_events(admin):
    rollback(admin, 3)
    result = tidegate("events", "--admin", admin.url)
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert len(lines) == 3
    assert lines[0] == "2023-11-14 22:13:21.500Z web RolledBack by ops: was rolled back from 0 %: drill (revision 2)"
    result = tidegate("events", "--since", 1, "-o", "json", "--admin", admin.url)
    assert json.loads(result.output) == {"events": admin.operations.journal[1:]}
    result = tidegate("events", "--last", 1, "--admin", admin.url)
    assert result.output.splitlines() == lines[2:]


def test_events_are_read_page_by_page(admin, monkeypatch):
    monkeypatch.setattr(look, "PAGE", 2)
    rollback(admin, 5)
    result = tidegate("events", "-o", "json", "--admin", admin.url)
    assert [event["seq"] for event in json.loads(result.output)["events"]] == [1, 2, 3, 4, 5]


def test_events_of_one_service():
    with admin_server(names=("web", "api")) as admin:
        rollback(admin, 2, "web")
        rollback(admin, 1, "api")
        result = tidegate("events", "--service", "api", "-o", "json", "--admin", admin.url)
        assert [event["seq"] for event in json.loads(result.output)["events"]] == [3]
        admin.operations.journal.append(admin.operations.journal[-1] | {"seq": 4, "service": "gone"})
        assert "gone RolledBack" in tidegate("events", "--service", "gone", "--admin", admin.url).output
        result = tidegate("events", "--service", "nope", "--admin", admin.url)
        assert (result.exit_code, result.output) == (2, "tidegate: there is no service 'nope'\n")
        result = tidegate("explain", "--admin", admin.url)
        assert (result.exit_code, result.output) == (
            2,
            "tidegate: there are 2 services: web, api (name one with --service)\n",
        )


@pytest.mark.slow
def test_followed_events_come_as_lines_until_interrupted(admin):
    rollback(admin)
    # Whoever runs the tests in the background has SIGINT ignored, and a child would inherit that.
    listening = (
        "import runpy, signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "runpy.run_module('proxy', run_name='__main__', alter_sys=True)"
    )
    argv = [sys.executable, "-c", listening, "events", "--follow", "-o", "json", "--admin", admin.url]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert json.loads(process.stdout.readline())["seq"] == 1
        rollback(admin, 2)
        assert json.loads(process.stdout.readline())["seq"] == 2
        assert json.loads(process.stdout.readline())["seq"] == 3
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
        assert process.stderr.read() == ""


@pytest.mark.slow
def test_a_reader_that_leaves_is_no_error(admin):
    rollback(admin, 30)
    read, write = os.pipe()
    os.close(read)
    argv = [sys.executable, "-m", "proxy", "events", "--admin", admin.url]
    done = subprocess.run(argv, stdout=write, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    os.close(write)
    assert "Traceback" not in done.stderr
    assert done.returncode != 0


@pytest.mark.slow
def test_healthcheck(admin):
    assert command("healthcheck", "--admin", admin.url).returncode == 0
    admin.operations.is_ready = (False, "draining")
    result = tidegate("healthcheck", "--admin", admin.url)
    assert (result.exit_code, result.output) == (1, "not ready\n")
    result = tidegate("healthcheck", "-o", "json", "--admin", admin.url)
    assert json.loads(result.output) == {"ready": False}
    assert tidegate("healthcheck", "--admin", "http://127.0.0.1:1").exit_code == 1
