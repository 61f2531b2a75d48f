"""Points of a report from the lines of a block journal."""

import json

from proxy.metrics import hdr
from proxy.rollout.past import MOST, Past


def line(t, requests=10, bad=1, **more):
    part = {"requests": requests, "bad": bad, **more}
    return json.dumps({"t": t, "stable": part, "new": part})


def header(weight):
    return json.dumps({"header": {"block_s": 0.25, "limits": {}, "judged": {"weight": weight}}})


def points(lines, since=1000.0, until=2000.0):
    past = Past(since, until)
    past.take(lines)
    return past.points()


def test_blocks_are_put_together_and_a_stage_begins_a_point_of_its_own():
    lines = [header(1), *(line(1000 + number / 4) for number in range(1, 41)), header(50), line(1010.25)]
    first, second, third, last = points(lines)
    assert (first["t"], first["seconds"], first["weight"]) == (1004.75, 4.75, 1)
    assert [point["weight"] for point in (second, third, last)] == [1, 1, 50]
    assert sum(point["new"]["requests"] for point in (first, second, third)) == 400
    assert last["new"] == {"requests": 10, "bad": 1, "p50_ms": None, "p95_ms": None, "p99_ms": None}


def test_percentiles_come_from_the_histograms_of_a_point():
    hists = [{str(hdr.index(5000)): 99}, {str(hdr.index(90_000)): 1}]
    (point,) = points([line(1001 + number, hist=hist) for number, hist in enumerate(hists)])
    assert 4.9 < point["new"]["p50_ms"] < 5.1
    assert 4.9 < point["new"]["p99_ms"] < 5.1
    (point,) = points([line(1001 + number, hist=hist) for number, hist in enumerate([*hists, hists[1]])])
    assert 89 < point["new"]["p99_ms"] < 91


def test_points_are_few_and_a_gap_counts_as_no_time():
    many = points([line(1000 + number / 4) for number in range(1, 40_001)], until=20_000.0)
    assert len(many) <= MOST
    assert sum(point["new"]["requests"] for point in many) == 400_000
    (point,) = points([line(1001.0), line(1004.0)])
    assert point["seconds"] == 0.75


def test_what_is_outside_or_cannot_be_read_is_left_out():
    assert points([line(1000.0), line(2000.5), "{", "[]", '{"t": 1500}', '{"header": 5}', ""]) == []
