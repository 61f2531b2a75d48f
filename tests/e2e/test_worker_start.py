"""What a worker needs at its start: files that are gone since the config was read harm nobody."""

import os
import shutil
import signal
import socket
import subprocess
import sys

import pytest

from tests.certificates import ca_file, issue
from tests.controlplane.waiting import until_now
from tests.e2e.product import CONFIG, HUNG, ROOT

pytestmark = pytest.mark.e2e

LOGGED = CONFIG.replace("drain:", "access_log: {{path: logs/access.log}}\ndrain:")
SECURE = LOGGED.replace('"http://127.0.0.1:{new}"', '"https://127.0.0.1:{new}"')
TRUST = "endpoint_tls: {ca: ca.pem, cert: cert.pem, key: key.pem}"


def replaced(product, slot):
    """Kill the worker of a slot and wait until another one listens there."""
    pid = product.workers[slot]
    os.kill(pid, signal.SIGKILL)

    def listens():
        row = product.call("GET", "/api/v1/status")[1]["workers"][slot]
        return row["pid"] not in (None, pid) and row["state"] == "listening"

    until_now(listens)


def test_a_worker_is_replaced_whatever_became_of_the_files(product, tmp_path, authority):
    logs = tmp_path / "logs"
    logs.mkdir()
    ca_file(authority, tmp_path)
    files = issue(authority, tmp_path, "proxy.test")
    one = product(TRUST, config=SECURE).start()
    shutil.rmtree(logs)
    for path in (tmp_path / "ca.pem", files.cert, files.key):
        path.unlink()
    replaced(one, 0)
    replaced(one, 1)
    assert {one.ask()[0] for _ in range(8)} == {200}
    until_now(lambda: f"worker 0: the access log {logs}/access.log cannot be opened" in one.log.read_text())
    logs.mkdir()
    until_now(lambda: one.log.read_text().count("access.log is open") == 2)
    assert one.ask()[0] == 200
    until_now((logs / "access.log").read_text)
    assert "PRIVATE KEY" not in one.log.read_text()
    assert one.end() == 0


def test_run_says_what_check_says_before_anything_starts(product, tmp_path):
    one = product(config=LOGGED)
    said = []
    for verb in (["run", "--config"], ["check"]):
        command = [sys.executable, "-m", "proxy", *verb, str(one.config)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 2
        said.append(done.stdout + done.stderr)
    one.log.touch()
    why = f"access_log.path: cannot be opened, there is no directory {tmp_path}/logs: create it, or give another path"
    assert all(why in text for text in said)


def test_a_worker_that_is_told_to_end_leaves_its_queue_to_the_others(product, backends):
    one = product(config=CONFIG.replace("timeout: 5s", "timeout: 90s")).start()
    backends.new.fail(HUNG)
    one.set_weight(100)
    busy = [socket.create_connection(("127.0.0.1", one.port), timeout=30) for _ in range(24)]
    for sock in busy:
        sock.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
    until_now(lambda: backends.new.requests == len(busy))
    one.set_weight(0)
    pid = one.workers[0]
    os.kill(pid, signal.SIGTERM)
    assert {one.ask()[0] for _ in range(20)} == {200}
    assert one.workers[0] == pid  # it has requests to finish, and accepts nobody meanwhile
    for sock in busy:
        sock.close()
    assert one.end() == 0
