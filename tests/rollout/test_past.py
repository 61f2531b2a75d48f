"""Points of a report from the lines of a block journal."""

import json
from itertools import pairwise

from proxy.metrics import hdr
from proxy.rollout.past import MOST, Past, joined

NOTHING = dict.fromkeys(("p50_ms", "p95_ms", "p99_ms"))


def line(t, requests=10, bad=1, **more):
    part = {"requests": requests, "bad": bad, **more}
    return json.dumps({"t": t, "stable": part, "new": part}).encode()


def header(weight, block_s=0.25):
    return json.dumps({"header": {"block_s": block_s, "limits": {}, "judged": {"weight": weight}}}).encode()


def points(lines, since=1000.0, until=2000.0):
    past = Past(since, until)
    past.take(lines)
    return past.points()


def test_blocks_are_put_together_and_a_stage_begins_a_point_of_its_own():
    lines = [header(1), *(line(1000 + number / 4) for number in range(1, 41)), header(50), line(1010.25)]
    first, second, last = points(lines)
    assert (first["t"], first["seconds"], first["weight"]) == (1005.0, 5.0, 1)
    assert [point["weight"] for point in (second, last)] == [1, 50]
    assert sum(point["new"]["requests"] for point in (first, second)) == 400
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
    assert points([line(1000.0), line(2000.5), b"{", b"[]", b'{"t": 1500}', b'{"header": 5}', b'{"t":1500}', b""]) == []


def test_a_row_that_is_read_bit_by_bit_stays_short_and_its_sums_exact():
    row, asked = [], 1000.0
    for until in range(1600, 60_000, 600):
        hist = {str(hdr.index(until)): 1}
        lines = [header(10, block_s=5.0), *(line(asked + number, hist=hist) for number in range(5, 605, 5))]
        row = joined([*row, *points(lines, since=asked, until=float(until))], 1000.0)
        asked = float(until)
    assert MOST / 2 < len(row) <= MOST
    assert sum(point["new"]["requests"] for point in row) == 10 * (asked - 1000) / 5
    assert sum(point["seconds"] for point in row) == asked - 1000
    assert {later["t"] - before["t"] for before, later in pairwise(row[:-1])} == {160.0}
    assert 58 < row[-1]["new"]["p99_ms"] < 61


def test_points_of_other_weights_are_not_put_together():
    row = [{"t": 1000.0 + number, "seconds": 1.0, "weight": number % 2} for number in range(MOST + 1)]
    row = [point | {name: {"requests": 1, "bad": 0} | NOTHING for name in ("stable", "new")} for point in row]
    assert joined(row, 1000.0) == row
    same = joined([point | {"weight": 5} for point in row], 1000.0)
    assert sum(point["stable"]["requests"] for point in same) == MOST + 1
    assert len(same) <= MOST
    assert same[0]["new"]["p50_ms"] is None
