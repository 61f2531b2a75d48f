"""GET …/report: the same report as JSON, Markdown or HTML; and the points for its plots."""

import asyncio

import pytest

from proxy.admin.measured import Measured
from proxy.admin.report import accepted
from proxy.errors import Refused
from tests.admin.fake import FakeOperations
from tests.admin.serving import running, served

REPORT = "/api/v1/services/web/report"


@running
async def test_it_comes_in_three_forms_of_one_report():
    async with served() as api:
        await api.ask("POST", "/api/v1/services/web/rollout", json={"reason": "2.3.0"})
        value, answer = await api.ask("GET", REPORT)
        assert answer.content_type == "application/json"
        assert answer.headers["Vary"] == "Accept"
        assert (value["service"], value["phase"], len(value["decisions"])) == ("web", "progressing", 1)
        value, answer = await api.ask("GET", REPORT, headers={"Accept": "text/markdown"})
        assert answer.headers["Content-Type"] == "text/markdown; charset=utf-8"
        assert value.startswith("# ")
        value, answer = await api.ask("GET", REPORT, headers={"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"})
        assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
        assert value.startswith("<!doctype html>")
        await api.ask("GET", REPORT, status=406, headers={"Accept": "image/png"})
        await api.ask("GET", "/api/v1/services/nope/report", status=404)


@running
async def test_events_of_other_services_and_many_pages_are_no_obstacle():
    async with served(names=("web", "api")) as api:
        await api.ask("POST", "/api/v1/services/web/rollout")
        template = api.operations.journal[0]
        for seq in range(2, 2500):
            api.operations.journal.append(template | {"seq": seq, "service": "api", "type": "WeightsSet"})
        await api.ask("POST", "/api/v1/services/web/rollout/pause")
        value, _ = await api.ask("GET", REPORT)
        assert [one["type"] for one in value["decisions"]] == ["RolloutStarted", "RolloutPaused"]


@running
async def test_reports_are_made_one_at_a_time():
    async with served() as api:
        await api.ask("POST", "/api/v1/services/web/rollout")
        api.operations.past_points = [point(5.0)]
        found = await asyncio.gather(*(api.ask("GET", REPORT) for _ in range(3)))
        assert {value["service"] for value, _ in found} == {"web"}
        # Each has begun where the one before ended.
        assert [since for _, since, _ in api.operations.past_asked[1:]] == [5.0, 5.0]


@pytest.mark.parametrize(
    "values, kind",
    [
        ([], "application/json"),
        (["*/*"], "application/json"),
        (["text/*"], "text/markdown"),
        (["text/plain"], "text/markdown"),
        (["text/html;q=0.5, text/markdown;q=0.9"], "text/markdown"),
        (["application/json;q=0", "text/html;q=0.1"], "text/html"),
        (["text/html, application/json"], "text/html"),
        (["*/*, text/html"], "text/html"),
        (["TEXT/HTML ; q=1"], "text/html"),
    ],
)
def test_accept_is_read_by_its_weights(values, kind):
    assert accepted(values) == kind


@pytest.mark.parametrize("values", [["image/png"], ["text/html;q=0"], ["text/html;q=x"]])
def test_nothing_acceptable_is_406(values):
    with pytest.raises(Refused) as caught:
        accepted(values)
    assert caught.value.status == 406


# --- points --------------------------------------------------------------------------------------------------------


def point(t, requests=10):
    part = {"requests": requests, "bad": 1, "p50_ms": 4.0, "p95_ms": None, "p99_ms": 30.0}
    return {"t": t, "seconds": 5.0, "weight": 10, "stable": part, "new": part}


@running
async def test_the_points_come_into_the_report():
    async with served() as api:
        await api.ask("POST", "/api/v1/services/web/rollout")
        started = api.operations.journal[0]["time"]
        api.operations.past_points = [point(started + 5)]
        value, _ = await api.ask("GET", REPORT)
        assert [one["t"] for one in value["points"]] == [started + 5]
        assert value["versions"]["new"] == {"requests": 10, "bad": 1, "error_rate": 0.1}
        assert api.operations.past_asked[0][:2] == ("web", started)


@running
async def test_of_a_journal_only_what_is_new_is_read():
    operations = FakeOperations()
    measured = Measured(operations)
    assert await measured.of("web", None) == []
    operations.past_points = [point(1005.0), point(1009.75)]
    assert await measured.of("web", (1000.0, 1010.0)) == operations.past_points
    operations.past_points = [point(1015.0)]
    assert [one["t"] for one in await measured.of("web", (1000.0, 1016.0))] == [1005.0, 1009.75, 1015.0]
    assert operations.past_asked == [("web", 1000.0, 1010.0), ("web", 1009.75, 1016.0)]
    # What is over is read once; another rollout begins anew.
    await measured.of("web", (1000.0, 1016.0))
    assert len(operations.past_asked) == 2
    assert await measured.of("web", (2000.0, 2016.0)) == operations.past_points
    assert operations.past_asked[2:] == [("web", 2000.0, 2016.0)]


@running
async def test_a_journal_that_could_not_be_read_is_read_again():
    operations = FakeOperations()
    measured = Measured(operations)
    assert await measured.of("web", (1000.0, 1010.0)) == []
    operations.past_points = [point(1005.0)]
    assert await measured.of("web", (1000.0, 1010.0)) == operations.past_points
