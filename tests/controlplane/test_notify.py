"""What a service manager hears, on a real datagram socket; and the sockets that it passes."""

import contextlib
import http.client
import os
import signal
import socket
import ssl
import subprocess
import sys
from pathlib import Path

import pytest

from proxy.controlplane.listeners import shown
from proxy.controlplane.notify import Notify
from proxy.controlplane.roster import read
from tests.certificates import issue
from tests.controlplane.waiting import until_now

HERE = Path(__file__).parent
CONFIG = """
listen: [{listen}]
workers: 1
state: {folder}/tidegate.db
admin: {{listen: "{admin}"}}
services: [{{name: web, stable: {{endpoints: ["http://127.0.0.1:9"]}}}}]
drain: {{delay: 0s, timeout: 2s}}
"""


class Clock:
    def __init__(self):
        self.ns = 0

    def monotonic_ns(self):
        return self.ns

    def wall(self):
        return 0.0


class Manager:
    """A socket as a service manager opens one."""

    def __init__(self, address):
        self.name = address
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind("\0" + address[1:] if address.startswith("@") else address)
        self.sock.settimeout(60)

    def hear(self):
        return dict(line.split("=", 1) for line in self.sock.recv(4096).decode().split("\n"))

    def until(self, name):
        """Return the next message that says something of this name."""
        while name not in (heard := self.hear()):
            pass
        return heard

    def silent(self):
        self.sock.setblocking(False)
        try:
            return not self.sock.recv(4096)
        except BlockingIOError:
            return True
        finally:
            self.sock.settimeout(60)


@pytest.fixture(params=["path", "abstract"])
def manager(request, tmp_path):
    name = str(tmp_path / "notify") if request.param == "path" else f"@tidegate-test-{os.getpid()}"
    one = Manager(name)
    yield one
    one.sock.close()


def test_it_tells_what_goes_on(manager):
    clock = Clock()
    environ = {"NOTIFY_SOCKET": manager.name, "OTHER": "1"}
    notify = Notify(environ, clock)
    assert environ == {"OTHER": "1"}
    notify.ready("serving on a, b")
    assert manager.hear() == {"READY": "1", "STATUS": "serving on a, b"}
    clock.ns = 12_345_678
    notify.reloading()
    assert manager.hear() == {"RELOADING": "1", "MONOTONIC_USEC": "12345", "STATUS": "reloading the config"}
    notify.stopping("draining")
    assert manager.hear() == {"STOPPING": "1", "STATUS": "draining"}
    notify.alive()
    assert manager.silent()  # nobody asked for it
    notify.close()


def test_it_is_alive_as_often_as_it_is_asked_for(manager):
    clock = Clock()
    clock.ns = 10**12
    notify = Notify({"NOTIFY_SOCKET": manager.name, "WATCHDOG_USEC": "4000000"}, clock)
    for _ in range(3):
        notify.alive()
        assert manager.hear() == {"WATCHDOG": "1"}
        notify.alive()
        assert manager.silent()
        clock.ns += 10**9
    notify.close()


def test_a_watchdog_for_another_process_is_none_of_ours(manager):
    notify = Notify({"NOTIFY_SOCKET": manager.name, "WATCHDOG_USEC": "1", "WATCHDOG_PID": "1"}, Clock())
    notify.alive()
    assert manager.silent()
    notify.close()


@pytest.mark.parametrize("address", ["", "/nobody/is/here", "@nobody-is-here", "vsock:2:1"])
def test_nobody_who_listens_is_no_mistake(address):
    notify = Notify({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "1000"}, Clock())
    notify.ready("serving")
    notify.alive()
    notify.close()


# ---------------------------------------------------------------- a whole supervisor


# As a service manager starts it: descriptors from 3 on, and variables that name its pid.
LAUNCH = """
import os, sys
for number, descriptor in enumerate(map(int, sys.argv[1].split(",") if sys.argv[1] else []), 3):
    os.dup2(descriptor, number)
os.environ["LISTEN_PID"] = os.environ["WATCHDOG_PID"] = str(os.getpid())
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""
# Ticks fail from the moment at which a file says so.
FAILING = """
import sys
from pathlib import Path
from proxy.controlplane.controller import Controller
from tests.controlplane import run_supervisor
tick = Controller.tick
async def failing(self):
    if Path(sys.argv[1]).with_name("fail").exists():
        raise RuntimeError("a tick that fails")
    await tick(self)
Controller.tick = failing
sys.exit(run_supervisor.main())
"""


@pytest.fixture
def launch(tmp_path):
    """Start supervisors with fake workers under a manager; they and their workers end with the test."""
    started = []

    def go(manager, *program, listen="127.0.0.1:0", admin="127.0.0.1:0", passed=(), names=()):
        config = tmp_path / "tidegate.yaml"
        config.write_text(CONFIG.format(listen=listen, admin=admin, folder=tmp_path))
        high = [os.dup(sock.fileno()) for sock in passed]
        environ = {
            **os.environ,
            "PYTHONPATH": str(HERE.parents[1]),
            "NOTIFY_SOCKET": manager.name,
            "WATCHDOG_USEC": "1000000",
            "LISTEN_FDS": str(len(high)),
            "LISTEN_FDNAMES": ":".join(names),
        }
        program = program or (str(HERE / "run_supervisor.py"),)
        command = [sys.executable, "-c", LAUNCH, ",".join(map(str, high)), *program, str(config)]
        with (tmp_path / "log").open("wb") as log:
            process = subprocess.Popen(command, env=environ, pass_fds=high, stdout=log, stderr=log)
        for descriptor in high:
            os.close(descriptor)
        started.append(process)
        return process

    yield go
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait()
    for roster in tmp_path.rglob("*.workers"):
        for one in read(roster).orphans:
            one.kill()


@pytest.mark.e2e
def test_a_supervisor_tells_its_manager(launch, manager, tmp_path):
    process = launch(manager)
    assert manager.until("READY")["STATUS"].startswith("serving on 127.0.0.1:")
    manager.until("WATCHDOG")
    process.send_signal(signal.SIGHUP)
    assert int(manager.until("RELOADING")["MONOTONIC_USEC"]) > 0
    assert manager.until("READY")["STATUS"].startswith("serving on 127.0.0.1:")
    (tmp_path / "tidegate.yaml").write_text("services: 1")
    process.send_signal(signal.SIGHUP)
    manager.until("RELOADING")
    assert manager.until("READY")["STATUS"].endswith("the config was not reloaded")
    process.terminate()
    assert manager.until("STOPPING")["STATUS"] == "draining: up to 2 s"
    assert process.wait(60) == 0


def reload(path):
    """Order a reload through the admin API; return its status."""
    client = http.client.HTTPConnection("localhost", timeout=60)
    client.sock = socket.socket(socket.AF_UNIX)
    client.sock.connect(str(path))
    client.request("POST", "/api/v1/config/reload")
    with contextlib.closing(client):
        return client.getresponse().status


@pytest.mark.e2e
def test_a_reload_through_the_api_is_told_too(launch, manager, tmp_path):
    process = launch(manager, admin=f"unix:{tmp_path}/admin.sock")
    manager.until("READY")
    assert reload(tmp_path / "admin.sock") == 200
    assert int(manager.until("RELOADING")["MONOTONIC_USEC"]) > 0
    assert manager.until("READY")["STATUS"].startswith("serving on 127.0.0.1:")
    (tmp_path / "tidegate.yaml").write_text("services: 1")
    assert reload(tmp_path / "admin.sock") == 400
    manager.until("RELOADING")
    assert manager.until("READY")["STATUS"].endswith("the config was not reloaded")
    process.terminate()
    assert manager.until("STOPPING")["STATUS"] == "draining: up to 2 s"
    assert process.wait(60) == 0


@pytest.mark.e2e
def test_a_supervisor_whose_ticks_fail_is_not_alive(launch, manager, tmp_path):
    launch(manager, "-c", FAILING)
    manager.until("READY")
    manager.until("WATCHDOG")
    (tmp_path / "fail").touch()
    until_now(lambda: b"a tick that fails" in (tmp_path / "log").read_bytes())
    while not manager.silent():
        pass  # what was said before
    manager.sock.settimeout(0.8)  # it is asked for every 1 s, and said every 0.25 s
    with pytest.raises(TimeoutError):
        manager.hear()
    manager.sock.settimeout(60)
    (tmp_path / "fail").unlink()
    manager.until("WATCHDOG")


@pytest.mark.e2e
def test_sockets_are_taken_by_their_address(launch, manager, tmp_path):
    """The admin API's too; and a path that the manager made is the manager's to remove."""
    with socket.create_server(("127.0.0.1", 0)) as web, socket.socket(socket.AF_UNIX) as admin:
        path = tmp_path / "admin.sock"
        admin.bind(str(path))
        admin.listen()
        process = launch(
            manager, listen=shown(web), admin=f"unix:{path}", passed=(admin, web), names=("tidegate-admin", "web")
        )
        assert manager.until("READY")["STATUS"] == f"serving on {shown(web)}"
        with socket.create_connection(web.getsockname(), timeout=60) as client:
            client.sendall(b"GET / HTTP/1.1\r\n\r\n")
            assert client.recv(100).startswith(b"HTTP/1.1 200")
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(60)
            client.connect(str(path))
            client.sendall(b"GET /livez HTTP/1.0\r\n\r\n")
            assert b" 200 " in client.recv(100)
        process.terminate()
        assert process.wait(60) == 0
        assert path.exists()
        # Whoever connects now waits for the next start: nobody is refused.
        socket.create_connection(web.getsockname(), timeout=60).close()


@pytest.mark.e2e
def test_a_socket_that_is_passed_may_be_for_tls(launch, manager, authority, tmp_path):
    issue(authority, tmp_path, "one.test")
    trust = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(trust)
    with socket.create_server(("127.0.0.1", 0)) as web:
        listen = f'{{address: "{shown(web)}", tls: {{cert: cert.pem, key: key.pem}}}}'
        process = launch(manager, "-m", "proxy", "run", "--config", listen=listen, passed=(web,), names=("web",))
        manager.until("READY")
        plain = socket.create_connection(web.getsockname(), timeout=60)
        with trust.wrap_socket(plain, server_hostname="one.test") as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: one.test\r\n\r\n")
            assert client.recv(100).startswith(b"HTTP/1.1 502")  # there is no endpoint
        process.terminate()
        assert process.wait(60) == 0


@pytest.mark.e2e
def test_a_socket_that_is_not_in_the_config_is_a_mistake(launch, manager, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as other:
        process = launch(manager, passed=(other,), names=("metrics",))
        assert process.wait(60) == 2
        assert f"a socket (metrics) for {shown(other)}, which is not in the config" in (tmp_path / "log").read_text()
