import threading

import pytest
from hdrh.histogram import HdrHistogram

from proxy.admin import observe
from tests.admin.serving import running, served

HISTOGRAM = "/api/v1/services/web/histograms/new"


@running
async def test_status_is_the_operations_object():
    async with served(names=("web", "api")) as api:
        value, _ = await api.ask("GET", "/api/v1/status")
        assert value == api.operations.status()
        value, _ = await api.ask("GET", "/api/v1/services/api")
        assert value == api.operations.service("api")
        await api.ask("HEAD", "/api/v1/status")
        await api.ask("GET", "/api/v1/status?verbose=true", status=400)


@running
async def test_explain_passes_cookies_headers_and_address():
    async with served() as api:
        query = "?cookie=session=a%3Db&cookie=x=&header=X-User=42&client_ip=2001:DB8::1&service=web"
        value, _ = await api.ask("GET", "/api/v1/explain" + query)
        assert value["bucket"] == 4711
        assert api.operations.explained == ({"session": "a=b", "x": ""}, {"x-user": "42"}, "2001:db8::1")
        for bad, key in (
            ("cookie=session", "cookie"),
            ("cookie=a=1&cookie=a=2", "cookie"),
            ("header=X-A=1&header=x-a=2", "header"),
            ("client_ip=example.com", "client_ip"),
            ("service=", "service"),
            ("cookies=a=b", "cookies"),
        ):
            value, _ = await api.ask("GET", "/api/v1/explain?" + bad, status=400)
            assert [error["key"] for error in value["errors"]] == [key]


@running
async def test_histogram_is_read_by_the_library():
    async with served() as api:
        value, _ = await api.ask("GET", HISTOGRAM + "?window=2m&phase=ttfb")
        assert api.operations.histogram_asked == ("web", 1, 120.0, "ttfb")
        assert value["encoding"] == "V2"
        assert value["seconds"] == 59.75
        assert HdrHistogram.decode(value["payload"]).get_total_count() == 100
        await api.ask("GET", HISTOGRAM)
        assert api.operations.histogram_asked == ("web", 1, 60.0, "total")
        text, answer = await api.ask("GET", HISTOGRAM, headers={"Accept": "text/plain"})
        assert answer.content_type == "text/plain"
        assert "Percentile" in text


@pytest.mark.parametrize("query", ["window=60", "window=0s", "window=-1s", "phase=first", "window=60s&window=1s"])
@running
async def test_bad_histogram_queries_are_400(query):
    async with served() as api:
        await api.ask("GET", f"{HISTOGRAM}?{query}", status=400)


@running
async def test_metrics_are_rendered_in_another_thread(monkeypatch):
    seen = []

    def render(snapshot):
        seen.append((snapshot, threading.current_thread()))
        return b"tidegate_build_info 1\n"

    monkeypatch.setattr(observe.expose, "render", render)
    async with served() as api:
        text, answer = await api.ask("GET", "/metrics")
        assert text == "tidegate_build_info 1\n"
        assert answer.content_type == "text/plain"
        assert seen[0][1] is not threading.main_thread()


@running
async def test_probes_say_only_yes_or_no():
    async with served() as api:
        assert (await api.ask("GET", "/readyz"))[0] == "ok\n"
        api.operations.is_ready = (False, "draining since 12:00, worker 1 of 2 is gone")
        value, answer = await api.ask("GET", "/readyz", status=503)
        assert "worker" not in str(value)
        assert answer.headers["Retry-After"] == "1"
        assert (await api.ask("GET", "/livez"))[0] == "ok\n"


@running
async def test_config_in_force_is_the_redacted_one():
    async with served() as api:
        value, _ = await api.ask("GET", "/api/v1/config")
        assert value == api.operations.config()
