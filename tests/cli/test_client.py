import socket

import pytest

from proxy.config.compile import Token
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


@pytest.mark.parametrize("url", ["ftp://x", "http://", "http://h:port", "unix:relative", "http://u:p@h", "http://h/x"])
def test_a_bad_address_is_a_usage_error(url):
    result = tidegate("status", "--admin", url)
    assert result.exit_code == 2
    assert "http://HOST:PORT" in result.output
    assert "u:p" not in result.output


def test_something_else_that_listens_is_no_traceback():
    with socket.create_server(("127.0.0.1", 0)) as other:
        url = f"http://127.0.0.1:{other.getsockname()[1]}"
        import threading

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


def test_several_services_need_one_named():
    with admin_server(names=("web", "api")) as admin:
        result = tidegate("weights", "--admin", admin.url)
        assert result.exit_code == 2
        assert result.output == "tidegate: there are 2 services: web, api (name one with --service)\n"
        assert tidegate("weights", "--admin", admin.url, "--service", "api").exit_code == 0
        result = tidegate("rollback", "--admin", admin.url, "--service", "nope")
        assert result.exit_code == 2
        assert "there is no service 'nope'" in result.output
