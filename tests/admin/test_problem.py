import asyncio

import pytest

from proxy.errors import StateError
from tests.admin.serving import running, served

WEIGHTS = "/api/v1/services/web/weights"


@running
async def test_aiohttps_own_errors_are_problems():
    async with served() as api:
        value, _ = await api.ask("GET", "/nothing/here", status=404)
        assert value["title"] == "NotFound"
        value, answer = await api.ask("PATCH", WEIGHTS, status=405)
        assert value["title"] == "MethodNotAllowed"
        assert answer.headers["Allow"] == "GET,HEAD,PUT"
        await api.ask("GET", "/api/v1/services/web/histograms/canary", status=404)
        await api.ask("GET", WEIGHTS, status=417, headers={"Expect": "miracles"})


@running
async def test_unexpected_errors_are_logged_and_say_nothing(caplog):
    async with served() as api:
        api.operations.status = lambda: 1 / 0
        value, _ = await api.ask("GET", "/api/v1/status", status=500)
        assert value["title"] == "InternalError"
        assert "ZeroDivision" not in str(value)
    assert "ZeroDivisionError" in caplog.text


@running
async def test_other_errors_of_the_tree_are_503():
    async with served() as api:

        async def fail(*_, **__):
            raise StateError("the disk is full", where="/var/tidegate.db", cure="free some space")

        api.operations.set_weights = fail
        value, _ = await api.ask("PUT", WEIGHTS, status=503, json={"new": 5})
        assert value["title"] == "StateError"
        assert value["detail"] == "/var/tidegate.db: the disk is full (free some space)"


@pytest.mark.parametrize("chunked", [True, False])
@running
async def test_bodies_above_64_kib_are_413(chunked):
    async def chunks():
        for _ in range(3):
            yield b" " * 32 * 1024

    async with served() as api:
        data = chunks() if chunked else b" " * (64 * 1024 + 1)
        value, answer = await api.ask(
            "PUT", WEIGHTS, status=413, data=data, headers={"Content-Type": "application/json"}
        )
        assert value["title"] == "BodyTooLarge"
        assert answer.headers["Connection"] == "close"
        at_most = b'{"new": 5}' + b" " * (64 * 1024 - 10)
        await api.ask("PUT", WEIGHTS, data=at_most, headers={"Content-Type": "application/json"})


@running
async def test_expect_100_continue_gets_it_before_the_body():
    async with served() as api:
        reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
        head = f"PUT {WEIGHTS} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 10\r\n"
        writer.write(head.encode() + b"Expect: 100-continue\r\nConnection: close\r\n\r\n")
        assert await asyncio.wait_for(reader.readline(), 30) == b"HTTP/1.1 100 Continue\r\n"
        writer.write(b'{"new": 5}')
        assert b"HTTP/1.1 200 OK" in await asyncio.wait_for(reader.read(), 30)
        writer.close()
        await writer.wait_closed()
        assert api.operations.weight_bp["web"] == 500


@pytest.mark.slow
@running
async def test_a_body_that_never_comes_is_408(monkeypatch):
    monkeypatch.setattr("proxy.admin.route.BODY_TIMEOUT_S", 0.05)
    async with served() as api:
        reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
        writer.write(f"PUT {WEIGHTS} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n".encode())
        assert await asyncio.wait_for(reader.readline(), 30) == b"HTTP/1.1 408 Request Timeout\r\n"
        writer.close()
        await writer.wait_closed()


REGISTERED = "/api/v1/services/web/versions/new"


@pytest.mark.parametrize(
    "method, path, body, key, sentence",
    [
        ("PUT", WEIGHTS, {"new": 5, "ttl": 30}, "ttl", 'must be a text in quotes: a duration such as "30m", or "none"'),
        ("PUT", WEIGHTS, {"new": 5, "reason": 5}, "reason", "must be a text in quotes"),
        ("PUT", WEIGHTS, {"new": 5, "reason": None}, "reason", "must be a text in quotes"),
        ("PUT", WEIGHTS, [], "", "must be a JSON object"),
        ("PUT", REGISTERED, {"endpoints": "http://a:1"}, "endpoints", "must be a list in square brackets"),
        ("PUT", REGISTERED, {"endpoints": []}, "endpoints", "must have at least 1 of them"),
        (
            "PUT",
            REGISTERED,
            {"label": "x" * 101, "endpoints": ["http://a:1"]},
            "label",
            "must have at most 100 characters",
        ),
        (
            "PATCH",
            "/api/v1/services/web/endpoints",
            {"version": "old", "url": "http://a:1", "state": "ready"},
            "version",
            "must be 'stable' or 'new'",
        ),
        (
            "POST",
            "/api/v1/services/web/rollout/promote",
            {"full": "yes"},
            "full",
            "must be true or false, without quotes",
        ),
    ],
)
@running
async def test_a_value_of_another_type_is_told_what_it_should_be(method, path, body, key, sentence):
    async with served() as api:
        value, _ = await api.ask(method, path, status=400, json=body)
        assert value["errors"] == [{"key": key, "message": sentence}]
