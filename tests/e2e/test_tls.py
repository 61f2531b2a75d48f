"""TLS and the PROXY protocol in the whole product: certificates that change, and processes that die."""

import http.client
import os
import signal
import socket
import ssl
import subprocess
import sys

import pytest

from tests.certificates import ca_file, issue
from tests.controlplane.waiting import until_now
from tests.e2e.product import CONFIG, ROOT, Product

TLS = CONFIG.replace(
    "listen: 127.0.0.1:{port}",
    'listen: {{address: "127.0.0.1:{port}", tls: {{cert: cert.pem, key: key.pem}}}}',
)


@pytest.fixture
def product(backends, tmp_path, authority):
    issue(authority, tmp_path, "one.test")
    product = Product(tmp_path, backends, config=TLS)
    yield product
    product.sweep_up()


@pytest.fixture
def trust(authority):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(context)
    context.check_hostname = False
    return context


class Visitor:
    """A client that keeps its connection."""

    def __init__(self, port, trust, header=b"", server_name="one.test"):
        plain = socket.create_connection(("127.0.0.1", port), timeout=30)
        plain.sendall(header)
        self.sock = trust.wrap_socket(plain, server_hostname=server_name)
        self.connection = http.client.HTTPConnection("one.test")
        self.connection.sock = self.sock

    @property
    def name(self):
        """The name in the certificate."""
        return self.sock.getpeercert()["subjectAltName"][0][1]

    def ask(self):
        self.connection.request("GET", "/")
        answer = self.connection.getresponse()
        answer.read()
        return answer.status

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.sock.close()


def shown(product, trust):
    with Visitor(product.port, trust) as visitor:
        name = visitor.name
        assert visitor.ask() == 200
        return name


def test_certificates_follow_their_files_and_nobody_is_dropped(product, trust, authority):
    product.start()
    with Visitor(product.port, trust) as visitor:
        assert (visitor.ask(), visitor.name) == (200, "one.test")
        issue(authority, product.folder, "two.test")
        until_now(lambda: shown(product, trust) == "two.test")
        until_now(lambda: product.events("CertificatesRenewed"))
        (product.folder / "key.pem").write_text("nothing")
        until_now(lambda: product.events("CertificateProblem"))
        # A worker that starts now does not need the files.
        pid = product.workers[0]
        os.kill(pid, signal.SIGKILL)
        until_now(lambda: product.workers.get(0, pid) != pid)
        until_now(
            lambda: all(row["state"] == "listening" for row in product.call("GET", "/api/v1/status")[1]["workers"])
        )
        assert {shown(product, trust) for _ in range(20)} == {"two.test"}
    (problem,) = product.events("CertificateProblem")
    assert problem["reason"] == "CertificateUnusable"
    assert "holds no private key" in problem["evidence"]["why"]
    assert "nothing" not in product.log.read_text()
    assert product.end() == 0


def test_more_certificates_than_descriptors_go_with_one_message(backends, tmp_path, trust, authority):
    names = [f"site{number}.test" for number in range(300)]
    pairs = [issue(authority, tmp_path, name, name=f"{name}-") for name in names]
    listed = ", ".join(f"{{{{cert: {pair.cert.name}, key: {pair.key.name}}}}}" for pair in pairs)
    one = Product(tmp_path, backends, config=TLS.replace("{{cert: cert.pem, key: key.pem}}", f"[{listed}]"))
    try:
        one.start()
        for name in (names[0], names[150], names[-1]):
            with Visitor(one.port, trust, server_name=name) as visitor:
                assert (visitor.ask(), visitor.name) == (200, name)
        renewed = issue(authority, tmp_path, names[-1], "renewed.test", name=f"{names[-1]}-")
        assert renewed == pairs[-1]
        until_now(lambda: one.events("CertificatesRenewed"))

        def shown():
            with Visitor(one.port, trust, server_name="renewed.test") as visitor:
                return visitor.name

        until_now(lambda: {shown() for _ in range(8)} == {names[-1]})
        assert one.end() == 0
    finally:
        one.sweep_up()


def test_tls_survives_the_supervisor_and_a_takeover(product, trust, authority):
    product.start()
    with Visitor(product.port, trust) as visitor:
        assert visitor.ask() == 200
        product.process.kill()
        product.process.wait()
        issue(authority, product.folder, "two.test")
        assert shown(product, trust) == "one.test"  # by the workers that were left alone
        assert visitor.ask() == 200
        product.start()
        until_now(lambda: {shown(product, trust) for _ in range(10)} == {"two.test"})  # the orphans have retired
    assert product.end() == 0


def test_every_worker_shows_the_list_of_the_last_reload(product, trust, authority):
    issue(authority, product.folder, "two.test", name="two-")
    one, two = "{cert: cert.pem, key: key.pem}", "{cert: two-cert.pem, key: two-key.pem}"
    text = product.config.read_text()

    def listed(*certificates):
        product.config.write_text(text.replace(one, f"[{', '.join(certificates)}]"))

    def answers():
        """Return what clients see who ask for the one, the other, and somebody else, of as many workers as answer."""
        found = set()
        for _ in range(8):
            seen = []
            for server_name in ("one.test", "two.test", "else.test"):
                with Visitor(product.port, trust, server_name=server_name) as visitor:
                    seen.append(visitor.name.partition(".")[0])
            found.add(tuple(seen))
        return found

    listed(one, two)
    product.start()
    assert answers() == {("one", "two", "one")}
    for certificates, seen in [
        ((two, one), ("one", "two", "two")),
        ((one, two), ("one", "two", "one")),
        ((one,), ("one", "one", "one")),
        ((two, one), ("one", "two", "two")),
        ((two,), ("two", "two", "two")),
    ]:
        listed(*certificates)
        assert product.call("POST", "/api/v1/config/reload")[0] == 200
        until_now(lambda seen=seen: answers() == {seen})
    gone = [event["evidence"]["names"] for event in product.events("CertificatesRemoved")]
    assert gone == [["two.test"], ["one.test"]]
    pid = product.workers[0]
    os.kill(pid, signal.SIGKILL)
    until_now(lambda: product.workers.get(0, pid) != pid)
    until_now(lambda: all(row["state"] == "listening" for row in product.call("GET", "/api/v1/status")[1]["workers"]))
    assert answers() == {("two", "two", "two")}
    assert product.end() == 0


def test_a_reload_takes_other_files_and_refuses_wrong_ones(product, trust, authority):
    issue(authority, product.folder, "three.test", name="other-")
    product.start()
    text = product.config.read_text()
    product.config.write_text(text.replace("key: key.pem", "key: other-key.pem"))
    status, answer = product.call("POST", "/api/v1/config/reload")
    assert status == 400
    assert "does not belong to the certificate" in answer["errors"][0]["message"]
    assert shown(product, trust) == "one.test"
    product.config.write_text(text.replace("cert: cert.pem, key: key.pem", "cert: other-cert.pem, key: other-key.pem"))
    product.process.send_signal(signal.SIGHUP)
    until_now(lambda: shown(product, trust) == "three.test")
    assert product.end() == 0


def test_the_command_line_reaches_an_admin_api_with_tls(product, authority, tmp_path):
    issue(authority, tmp_path, "127.0.0.1", name="admin-")
    text = product.config.read_text()
    where = f'{{listen: "127.0.0.1:{product.admin}"'
    product.config.write_text(text.replace(where, f"{where}, tls: {{cert: admin-cert.pem, key: admin-key.pem}}"))
    url = f"https://127.0.0.1:{product.admin}"
    product._ready = lambda: f"admin API on {url}" in product.log.read_text()
    product.start()
    ca = str(ca_file(authority, tmp_path))

    def tidegate(*arguments, **environ):
        return subprocess.run(
            [sys.executable, "-m", "proxy", *arguments, "--admin", url],
            cwd=ROOT,
            env={**os.environ, **environ},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    assert tidegate("healthcheck", "--ca", ca).stdout == "ready\n"
    assert "web" in tidegate("status", TIDEGATE_ADMIN_CA=ca).stdout
    distrusted = tidegate("status")
    assert distrusted.returncode == 1
    assert "--ca" in distrusted.stderr
    assert tidegate("status", "--ca", str(tmp_path / "admin-key.pem")).returncode == 2
    assert product.end() == 0


def test_the_proxy_protocol_and_tls_by_config(product, trust):
    text = product.config.read_text()
    product.config.write_text(
        text.replace("key: key.pem}}", "key: key.pem}, proxy_protocol: true}\ntrusted_proxies: [127.0.0.1]")
    )
    product.start()
    with Visitor(product.port, trust, b"PROXY TCP4 192.0.2.7 192.0.2.8 1 2\r\n") as visitor:
        assert visitor.ask() == 200
    with pytest.raises((ssl.SSLError, ConnectionError)):
        Visitor(product.port, trust)
    assert product.end() == 0
