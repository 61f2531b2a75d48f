import asyncio

import pytest

from proxy.config.compile import AdminSettings, Token
from tests.admin.serving import running, served

STATUS = "/api/v1/status"
ROLLBACK = "/api/v1/services/web/rollback"
SECRET, READER = "s3cret-operator", "s3cret-reader"
TOKENS = (
    Token(name="ops", role="operator", token=SECRET, token_file=None),
    Token(name="grafana", role="read", token=READER, token_file=None),
)
WITH_TOKENS = AdminSettings(listen="0.0.0.0:9900", tokens=TOKENS)


def bearer(token):
    return {"Authorization": f"Bearer {token}"}


@running
async def test_operator_may_change_and_is_named():
    async with served(WITH_TOKENS) as api:
        await api.ask("POST", ROLLBACK, headers=bearer(SECRET))
        assert api.operations.orders[0].actor == "ops"
        await api.ask("GET", STATUS, headers={"Authorization": f"bearer  {SECRET} "})


@running
async def test_reader_may_only_look():
    async with served(WITH_TOKENS) as api:
        await api.ask("GET", STATUS, headers=bearer(READER))
        value, _ = await api.ask("POST", ROLLBACK, status=403, headers=bearer(READER))
        assert "'grafana' may only read" in value["detail"]
        for method, path in (
            ("PUT", "/api/v1/services/web/weights?dry_run=true"),
            ("DELETE", "/api/v1/services/web/versions/new"),
            ("POST", "/api/v1/config/reload"),
            ("POST", "/api/v1/config/validate"),
        ):
            await api.ask(method, path, status=403, headers=bearer(READER))
        assert api.operations.orders == []


@pytest.mark.parametrize(
    "value", [None, "", "Bearer", "Bearer ", "Basic b3BzOnMzY3JldA==", "Bearer wrong", f"Bearer {SECRET}x", SECRET]
)
@running
async def test_without_a_good_token_it_is_401(value):
    async with served(WITH_TOKENS) as api:
        headers = {} if value is None else {"Authorization": value}
        problem, answer = await api.ask("GET", STATUS, status=401, headers=headers)
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")
        assert SECRET not in str(problem)
        await api.ask("POST", ROLLBACK, status=401, headers=headers)
        assert api.operations.orders == []


@running
async def test_401_comes_before_the_body_is_read():
    async with served(WITH_TOKENS) as api:
        await api.ask("PUT", "/api/v1/services/web/weights", status=401, data=b"{not json")


@running
async def test_probes_are_open_and_metrics_only_if_public(monkeypatch):
    monkeypatch.setattr("proxy.metrics.expose.render", lambda snapshot: b"metric 1\n")
    async with served(WITH_TOKENS) as api:
        for probe in ("/livez", "/readyz"):
            text, _ = await api.ask("GET", probe, headers={"Host": "10.0.0.7:9900"})
            assert text == "ok\n"
        await api.ask("GET", "/metrics", status=401)
        await api.ask("GET", "/metrics", headers=bearer(READER))
        await api.ask("GET", "/openapi.json", status=401)
    public = AdminSettings(listen="0.0.0.0:9900", tokens=TOKENS, public_metrics=True)
    async with served(public) as api:
        await api.ask("GET", "/metrics")
        await api.ask("GET", STATUS, status=401)


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:9900", "127.0.0.1", "127.9.9.9:1", "[::1]:9900", "gate.example.com:9900"]
)
@running
async def test_without_tokens_loopback_and_configured_hosts_are_answered(host):
    settings = AdminSettings(listen="127.0.0.1:9900", tokens=(), hosts=("gate.example.com",))
    async with served(settings) as api:
        await api.ask("GET", STATUS, headers={"Host": host})


@pytest.mark.parametrize(
    "host",
    ["evil.example.com", "127.0.0.1.evil.example.com", "localhost.evil.example.com", "10.0.0.1", "a@localhost", "[::1"],
)
@running
async def test_without_tokens_a_rebound_name_is_refused(host):
    async with served() as api:
        for method, path in (("GET", STATUS), ("POST", ROLLBACK), ("GET", "/metrics")):
            value, _ = await api.ask(method, path, status=403, headers={"Host": host})
            assert value["title"] == "HostNotAllowed"
        assert api.operations.orders == []


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example.com"},
        {"Origin": "null"},
        {"Origin": ""},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "none", "Origin": "https://evil.example.com"},
    ],
)
@running
async def test_another_origin_may_not_change_anything(headers):
    async with served(WITH_TOKENS) as with_tokens, served() as without:
        for api in (with_tokens, without):
            both = headers | bearer(SECRET)
            value, _ = await api.ask("POST", ROLLBACK, status=403, headers=both)
            assert value["title"] == "OriginNotAllowed"
            await api.ask("DELETE", "/api/v1/services/web/versions/new", status=403, headers=both)
            assert api.operations.orders == []
            await api.ask("GET", STATUS, headers=both)


@running
async def test_the_own_origin_may():
    async with served() as api:
        own = {"Host": "localhost:9900", "Origin": "http://localhost:9900", "Sec-Fetch-Site": "same-origin"}
        await api.ask("POST", ROLLBACK, headers=own)
        await api.ask("POST", ROLLBACK, headers={"Sec-Fetch-Site": "none"})


@running
async def test_token_file_is_read_again_when_it_changes(tmp_path, caplog):
    file = tmp_path / "token"
    file.write_text("first\n")
    token = Token(name="ops", role="operator", token="first", token_file=file)
    async with served(AdminSettings(listen="0.0.0.0:9900", tokens=(token,))) as api:
        await api.ask("GET", STATUS, headers=bearer("first"))
        replacement = tmp_path / "next"
        replacement.write_text("second\n")
        replacement.replace(file)
        await api.ask("GET", STATUS, headers=bearer("second"))
        await api.ask("GET", STATUS, status=401, headers=bearer("first"))
        file.write_text("\n  \n")
        await api.ask("GET", STATUS, headers=bearer("second"))
        file.unlink()
        await api.ask("GET", STATUS, headers=bearer("second"))
        await api.ask("GET", STATUS, status=401, headers=bearer(""))
    assert "second" not in caplog.text
    assert "'ops'" in caplog.text


@running
async def test_an_unset_token_lets_nobody_in_beside_the_others():
    tokens = (Token(name="unset", role="operator", token="", token_file=None), *TOKENS)
    async with served(AdminSettings(listen="0.0.0.0:9900", tokens=tokens)) as api:
        await api.ask("GET", STATUS, status=401, headers=bearer(""))
        await api.ask("POST", ROLLBACK, headers=bearer(SECRET))
        assert api.operations.orders[0].actor == "ops"


@running
async def test_two_hosts_and_two_tokens_are_refused():
    async with served() as api:
        assert b" 4" in await raw(api.port, b"GET /api/v1/status HTTP/1.1\r\nHost: localhost\r\nHost: evil\r\n\r\n")
    async with served(WITH_TOKENS) as api:
        lines = b"Authorization: Bearer x\r\nAuthorization: Bearer " + SECRET.encode() + b"\r\n"
        answer = await raw(api.port, b"GET /api/v1/status HTTP/1.1\r\nHost: localhost\r\n" + lines + b"\r\n")
        assert answer.startswith((b"HTTP/1.1 401", b"HTTP/1.1 400"))
        assert SECRET.encode() not in answer


@running
async def test_no_secret_in_the_log_of_malformed_requests(caplog):
    async with served(WITH_TOKENS) as api:
        await raw(api.port, f"GET / HTTP/1.1\r\nHost: a\r\nAuthorization : Bearer {SECRET}\r\n\r\n".encode())
    assert SECRET not in caplog.text


async def raw(port, request):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        return await asyncio.wait_for(reader.read(4096), 30)
    finally:
        writer.close()
        await writer.wait_closed()
