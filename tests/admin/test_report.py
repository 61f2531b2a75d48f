"""GET …/report: the same report as JSON, Markdown or HTML; and the points for its plots."""

import asyncio
import copy

import pytest

from proxy.admin.report import accepted
from proxy.admin.track import AFTER_S, APART_S, TRACKS, Track, Tracks
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
async def test_reports_are_made_one_at_a_time_and_the_past_is_read_once():
    async with served() as api:
        await api.ask("POST", "/api/v1/services/web/rollout")
        api.operations.journal[0]["time"] = 1.0  # a supervisor before this one started it
        found = await asyncio.gather(*(api.ask("GET", REPORT) for _ in range(3)))
        assert len(api.operations.past_asked) == 1
        assert {value["service"] for value, _ in found} == {"web"}


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


def seen(requests, bad=0, weight=10.0, p99=30.0, new=True):
    def version(n, bad):
        return {"requests": n, "bad": bad, "window": {"p50_ms": 4.0, "p95_ms": None, "p99_ms": p99}}

    versions = {"stable": version(9 * requests, 0)} | ({"new": version(requests, bad)} if new else {})
    return {"weights": {"stable": 100 - weight, "new": weight}, "versions": versions}


def test_a_point_is_what_was_counted_between_two_looks():
    track = Track()
    track.look(seen(100), 1000.0)
    track.look(seen(150, 3), 1005.0)
    track.look(seen(160, 3, new=False), 1010.0)
    first, second = track.points
    assert (first["t"], first["seconds"], first["weight"]) == (1005.0, 5.0, 10.0)
    assert first["new"] == {"requests": 50, "bad": 3, "p50_ms": 4.0, "p95_ms": None, "p99_ms": 30.0}
    assert first["stable"]["requests"] == 450
    assert "new" not in second


def test_another_version_begins_at_0_and_a_clock_that_goes_back_adds_nothing():
    track = Track()
    track.look(seen(1000, 50), 1000.0)
    track.look(seen(20, 1), 1005.0)
    assert track.points[0]["new"]["requests"] == 20
    track.look(seen(30, 1), 900.0)
    assert len(track.points) == 1


def test_however_long_it_runs_the_points_are_few_and_their_sums_exact():
    track = Track(most=20)
    for number in range(1000):
        track.look(seen(7 * number, number, p99=float(number)), 1000.0 + 5 * number)
    points = track.points
    assert 10 <= len(points) <= 20
    assert sum(point["new"]["requests"] for point in points) == 7 * 999
    assert sum(point["new"]["bad"] for point in points) == 999
    assert sum(point["seconds"] for point in points) == 5 * 999
    assert (points[-1]["t"], points[-1]["new"]["p99_ms"]) == (1000.0 + 5 * 999, 999.0)
    times = [point["t"] for point in points]
    assert times == sorted(times)


def test_a_track_begins_anew_with_a_rollout_and_ends_some_time_after_it():
    track = Track()

    def look(t, weight):
        track.look(seen(int(t), weight=weight), t)

    look(0.0, 0.0)
    look(5.0, 0.0)
    assert track.points == []  # nothing to report yet
    look(10.0, 10.0)
    look(15.0, 0.0)  # a drill: a short while without weight
    look(20.0, 10.0)
    assert len(track.points) == 3
    look(25.0, 0.0)
    look(20.0 + AFTER_S, 0.0)
    many = len(track.points)
    look(25.0 + AFTER_S, 0.0)
    assert len(track.points) == many == 5
    look(30.0 + AFTER_S + APART_S, 10.0)
    assert len(track.points) == 1


def test_tracks_follow_the_services_that_there_are():
    operations = FakeOperations(("web", "api"))
    operations.weight_bp["web"] = 1000
    now = iter(range(100))
    tracks = Tracks(operations, lambda: float(next(now)))
    tracks.look()
    tracks.look()
    assert len(tracks.points("web")) == 1
    assert tracks.points("api") == tracks.points("nope") == []
    del operations.weight_bp["web"]
    tracks.look()
    assert tracks.points("web") == []


@running
async def test_the_points_come_into_the_report():
    async with served() as api:
        await api.ask("POST", "/api/v1/services/web/rollout")
        started = api.operations.journal[0]["time"]
        track = api.run.app[TRACKS]._tracks["web"]
        before = copy.deepcopy(api.operations.service("web"))
        track._last = (started, before)
        track.look(api.operations.service("web"), started + 5)
        value, _ = await api.ask("GET", REPORT)
        assert [point["t"] for point in value["points"]] == [started + 5]


@running
async def test_what_was_measured_before_the_supervisor_started_is_read_once_for_a_rollout():
    operations = FakeOperations()
    operations.past_points = [{"t": 1.0, "seconds": 1.0, "weight": 10}]
    times = iter((1000.0, 1002.0, 1007.0, 1012.0))
    tracks = Tracks(operations, lambda: next(times))
    assert await tracks.past("web", None) == []
    assert await tracks.past("web", 500.0) == await tracks.past("web", 500.0) == operations.past_points
    assert operations.past_asked == [("web", 500.0, 1000.0)]
    operations.weight_bp["web"] = 1000
    for _ in range(3):
        tracks.look()
    await tracks.past("web", 500.0)
    assert operations.past_asked[1:] == [("web", 500.0, 1002.0)]
    # What this supervisor has seen from the beginning needs no past.
    assert await tracks.past("web", 1002.0) == []
    assert len(operations.past_asked) == 2
