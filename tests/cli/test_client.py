import json
import socket
import ssl
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from proxy.admin.problem import HEADERS
from proxy.config.compile import Token
from proxy.controlplane.mixed_up import Told
from proxy.errors import Refused
from tests.certificates import ca_file, issue
from tests.cli.conftest import admin_server, command, tidegate

SECRET = "s3cret-token"
TOKENS = (
    Token(name="ops", role="operator", token=SECRET, token_file=None),
    Token(name="eyes", role="read", token="eyes-only-1", token_file=None),
)


def test_over_a_unix_socket(tmp_path):
    with admin_server(unix=tmp_path / "admin.sock") as admin:
        result = tidegate("weights", "--admin", admin.url)
        assert result.exit_code == 0
        assert result.output == "web: stable 100%, new 0%, revision 1\n"


def test_the_address_may_come_from_the_environment_and_without_a_scheme(admin, monkeypatch):
    monkeypatch.setenv("TIDEGATE_ADMIN", admin.url.removeprefix("http://"))
    assert tidegate("weights").exit_code == 0


def test_token_from_a_file_or_the_environment(tmp_path, monkeypatch):
    file = tmp_path / "token"
    file.write_text(SECRET + "\n")
    with admin_server(tokens=TOKENS) as admin:
        result = tidegate("weights", "--admin", admin.url)
        assert result.exit_code == 1
        assert "a token is required (put it into TIDEGATE_ADMIN_TOKEN or name a --token-file)" in result.output
        assert tidegate("rollback", "--admin", admin.url, "--token-file", file).exit_code == 0
        assert admin.operations.orders[0].actor == "ops"
        monkeypatch.setenv("TIDEGATE_ADMIN_TOKEN", "eyes-only-1")
        result = tidegate("rollback", "--admin", admin.url)
        assert result.exit_code == 1
        assert "may only read" in result.output
        monkeypatch.setenv("TIDEGATE_ADMIN_TOKEN", "wrong-token")
        result = tidegate("weights", "--admin", admin.url)
        assert result.exit_code == 1
        assert "tidegate: TIDEGATE_ADMIN_TOKEN: the token is not known here" in result.output
        assert "wrong-token" not in result.output


@pytest.mark.parametrize("content", [b"", b" \n", b"two words", b"two\nlines"])
def test_a_bad_token_file_is_a_usage_error(tmp_path, content):
    file = tmp_path / "token"
    file.write_bytes(content)
    result = tidegate("status", "--token-file", file)
    assert result.exit_code == 2
    assert str(file) in result.output
    assert "two" not in result.output.replace(str(file), "")


def test_a_broken_token_in_the_environment_is_not_shown(monkeypatch):
    monkeypatch.setenv("TIDEGATE_ADMIN_TOKEN", "hun ter2\nx")
    result = tidegate("status")
    assert result.exit_code == 2
    assert "hun" not in result.output


def test_nobody_there_is_one_sentence_with_the_cure():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        done = command("status", env={"TIDEGATE_ADMIN": url})
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == (
        f"tidegate: {url}: the admin API cannot be reached: connection refused "
        "(is tidegate running there? say where with --admin or TIDEGATE_ADMIN)\n"
    )


def test_an_address_without_a_port_names_the_one_that_was_tried(monkeypatch):
    def refuse(*_, **__):
        raise ConnectionRefusedError(111, "Connection refused")

    monkeypatch.setattr(socket, "create_connection", refuse)
    for address, said in (("shop", "shop (port 80)"), ("https://shop", "https://shop (port 443)")):
        result = tidegate("status", "--admin", address)
        assert f"tidegate: {said}: the admin API cannot be reached: connection refused" in result.output


@pytest.mark.parametrize("url", ["ftp://x", "http://", "http://h:port", "unix:relative", "http://u:p@h", "http://h/x"])
def test_a_bad_address_is_a_usage_error(url):
    result = tidegate("status", "--admin", url)
    assert result.exit_code == 2
    assert "http://HOST:PORT" in result.output
    assert "u:p" not in result.output


def test_something_else_that_listens_is_no_traceback():
    with socket.create_server(("127.0.0.1", 0)) as other:
        url = f"http://127.0.0.1:{other.getsockname()[1]}"

        def answer():
            peer, _ = other.accept()
            with peer:
                peer.recv(4096)
                peer.sendall(b"220 mail.example.com ESMTP\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        result = tidegate("status", "--admin", url)
        thread.join(30)
    assert result.exit_code == 1
    assert "cannot be reached" in result.output


def test_http_to_an_admin_api_with_tls_and_the_other_way_round_says_so(admin, authority, tmp_path):
    files = issue(authority, tmp_path, "localhost")
    context = Told(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.cert, files.key)
    with admin_server(tls=context) as safe:
        result = tidegate("status", "--admin", safe.url.replace("https:", "http:"))
        assert (result.exit_code, result.output) == (
            2,
            (
                "tidegate: the admin API speaks TLS, and this request did not "
                "(write https:// in --admin, and name who signed its certificate with --ca)\n"
            ),
        )
        result = tidegate("status", "--admin", safe.url)
        assert "the certificate of the admin API cannot be trusted" in result.output
        named = safe.url.replace("127.0.0.1", "localhost")
        assert tidegate("weights", "--admin", named, "--ca", ca_file(authority, tmp_path)).exit_code == 0
    result = tidegate("status", "--admin", admin.url.replace("http:", "https:"))
    assert "the admin API speaks plain HTTP, and https:// does not" in result.output
    assert f"(write {admin.url}, or" in result.output


@pytest.mark.parametrize(
    "content, said",
    [
        (None, "the file of --ca cannot be read: no such file or directory (give --ca or TIDEGATE_ADMIN_CA"),
        ("nothing", "the file of --ca holds no certificate that can be read (give a PEM file with"),
    ],
)
def test_a_ca_file_that_cannot_be_used_says_why(tmp_path, content, said):
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_text(content)
    result = tidegate("status", "--admin", "https://127.0.0.1:1", "--ca", file)
    assert result.exit_code == 2
    assert f"{file}: {said}" in result.output


@pytest.mark.parametrize("status", [200, 404])
def test_what_is_not_the_admin_api_is_named(status):
    class Shop(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<html>shop</html>")

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Shop) as shop:
        thread = threading.Thread(target=shop.handle_request)
        thread.start()
        url = f"http://127.0.0.1:{shop.server_port}"
        result = tidegate("status", "--admin", url)
        thread.join(30)
    assert result.exit_code == 1
    assert f"tidegate: {url}: what answers here is not the admin API" in result.output


def test_a_refusal_is_in_the_words_of_the_command_line(admin):
    async def refuse(*_, **__):
        raise Refused(409, "RolloutProgressing", "a rollout is", cure="take_over=true", command="add --take-over")

    admin.operations.set_weights = refuse
    result = tidegate("weights", "set", "5%", "--admin", admin.url)
    assert result.output == "tidegate: a rollout is (add --take-over)\n"
    result = tidegate("weights", "set", "5%", "-o", "json", "--admin", admin.url)
    assert json.loads(result.stdout)["detail"] == "a rollout is (take_over=true)"


def test_several_services_need_one_named():
    with admin_server(names=("web", "api")) as admin:
        result = tidegate("weights", "--admin", admin.url)
        assert result.exit_code == 2
        assert result.output == "tidegate: there are 2 services: web, api (name one with --service)\n"
        assert tidegate("weights", "--admin", admin.url, "--service", "api").exit_code == 0
        result = tidegate("rollback", "--admin", admin.url, "--service", "nope")
        assert result.exit_code == 2
        assert "there is no service 'nope'" in result.output


VERBS = [
    ("status",),
    ("status", "--wait", "--timeout", "30s"),
    ("weights", "set", "5%"),
    ("rollback",),
    ("rollout", "status"),
    ("drain", "http://127.0.0.1:9001"),
    ("why",),
    ("report",),
    ("explain",),
    ("events",),
    ("events", "--follow"),
    ("healthcheck",),
]


def test_another_server_that_answers_everything_is_named_and_gets_no_token(monkeypatch):
    heads = []

    class Echo(BaseHTTPRequestHandler):
        def do_GET(self):
            heads.append(str(self.headers))
            answer = json.dumps({"path": self.path, "services": ["web"], "events": "none"}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(answer)

        def log_message(self, *_):
            pass

    for method in ("HEAD", "POST", "PUT", "PATCH"):
        setattr(Echo, f"do_{method}", Echo.do_GET)
    with HTTPServer(("127.0.0.1", 0), Echo) as echo:
        thread = threading.Thread(target=echo.serve_forever, args=(0.01,))
        thread.start()
        url = f"http://127.0.0.1:{echo.server_port}"
        try:
            for token in ("", SECRET):
                monkeypatch.setenv("TIDEGATE_ADMIN_TOKEN", token)
                for verb in VERBS:
                    result = tidegate(*verb, "--admin", url)
                    assert (result.exit_code, result.stdout) == (1, ""), verb
                    assert result.stderr == (
                        f"tidegate: {url}: what answers here is not the admin API: HTTP 200 "
                        "(say where the admin API is with --admin or TIDEGATE_ADMIN; "
                        "what clients reach is another address)\n"
                    )
        finally:
            echo.shutdown()
            thread.join(30)
    assert len(heads) >= len(VERBS)
    assert not [head for head in heads if SECRET in head]


def test_behind_a_server_that_puts_its_own_name_there_the_admin_api_is_still_known(admin, monkeypatch):
    monkeypatch.setitem(HEADERS, "Server", "nginx")
    assert tidegate("weights", "--admin", admin.url).exit_code == 0
