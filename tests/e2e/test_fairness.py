"""Whose fault it is: slow clients, slow uploaders and closing endpoints are not the version's."""

import socket
import subprocess
import sys
import threading

from tests.controlplane.waiting import until_now
from tests.e2e.product import CONFIG, ROOT

LARGE = 5_500_000  # a little more than the kernel holds for a client that does not read


class Endpoint:
    """An endpoint in a process of its own (endpoint.py), so that the test's own work never makes it slow."""

    def __init__(self, body: int, idle_s: float = 30.0) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.e2e.endpoint", str(body), str(idle_s)], cwd=ROOT, stdout=subprocess.PIPE
        )
        self.port = int(self.process.stdout.readline())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


def against(running, endpoint):
    """Point `new` at another endpoint, at 100 %."""
    status, answer = running.call(
        "PUT",
        "/api/v1/services/web/versions/new",
        {"label": "2.1", "endpoints": [f"http://127.0.0.1:{endpoint.port}"]},
    )
    assert status == 200, answer
    running.set_weight(100)


def test_clients_that_read_slowly_do_not_roll_back(product):
    # Few readers and a limit of 4 s: on a busy machine the endpoint itself needs a while for all those bytes.
    running = product(config=CONFIG.replace("max: 10s", "max: 4s, min_requests: 5")).start()
    with Endpoint(LARGE) as endpoint:
        against(running, endpoint)
        readers = []
        for _ in range(6):
            sock = socket.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
            sock.settimeout(30)
            sock.connect(("127.0.0.1", running.port))
            sock.sendall(b"GET /large HTTP/1.1\r\nHost: a\r\nConnection: close\r\nCookie: session=1\r\n\r\n")
            readers.append(sock)
        # Nobody reads on for much longer than the limit; then all of it is taken.
        for sock in readers:
            assert sock.recv(1024).startswith(b"HTTP/1.1 200")
        threading.Event().wait(6)
        for sock in readers:
            while sock.recv(1 << 20, socket.MSG_WAITALL):
                pass
            sock.close()
        until_now(lambda: running.web()["versions"]["new"]["in_flight"] == 0)
        web = running.web()
        p99 = next(limit for limit in web["limits"] if limit["metric"] == "p99")
        assert (web["phase"], web["weights"]["new"]) == ("idle", 100), str(running.events()[-1])
        assert p99["verdict"] in ("PASS", "INCONCLUSIVE"), p99


def test_clients_that_upload_slowly_do_not_roll_back(product):
    running = product(config=CONFIG.replace("max: 10s", "max: 2s")).start()
    with Endpoint(2) as endpoint:
        against(running, endpoint)
        senders = []
        for _ in range(30):
            sock = socket.create_connection(("127.0.0.1", running.port), timeout=30)
            sock.sendall(b"POST /up HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n")
            senders.append(sock)
        pause = threading.Event()
        for _ in range(10):
            pause.wait(0.3)  # in all more than the limit
            for sock in senders:
                sock.sendall(b"x")
        for sock in senders:
            assert sock.recv(4096).startswith(b"HTTP/1.1 200")
            sock.close()
        web = until_now(lambda: (now := running.web())["versions"]["new"]["requests"] >= 30 and now)
        p99 = next(limit for limit in web["limits"] if limit["metric"] == "p99")
        assert (web["phase"], p99["verdict"]) == ("idle", "PASS"), p99


def test_an_endpoint_that_closes_idle_connections_does_not_roll_back(product):
    """Its keep-alive race is retried and not charged (DESIGN §6)."""
    running = product().start()
    with Endpoint(2, idle_s=0.05) as endpoint:
        against(running, endpoint)
        pause = threading.Event()
        with socket.create_connection(("127.0.0.1", running.port), timeout=30) as sock:
            for _ in range(60):
                sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nCookie: session=1\r\n\r\n")
                assert sock.recv(65536).startswith(b"HTTP/1.1 200")
                pause.wait(0.048)
        web = running.web()
        assert web["versions"]["new"]["bad"] == 0
        assert (web["phase"], web["weights"]["new"]) == ("idle", 100), str(running.events()[-1])
