"""The block journal: what `replay` reads is what the judges saw, in files that do not grow for ever."""

import gzip
import json
import resource
import threading
from contextlib import contextmanager
from dataclasses import replace

from proxy.controlplane.blocks import Blocks, Rules
from proxy.controlplane.history import History
from proxy.controlplane.scales import TOTAL, Delta, Scale
from proxy.metrics.snapshot import Judged, ServiceCounts, SignalKey, Snapshot, VersionCounts
from proxy.rollout.judges import Court
from proxy.rollout.plan import HOLD, Limit, ServicePlan
from proxy.routing.table import NEW, STABLE

LIMITS = (
    Limit("p99", max=200),
    Limit("p99", max=150),
    Limit("error_rate", max=0.01),
    Limit("error_rate", max=0.05, version=STABLE),
)


def counts(n, slow=0, incarnation=1, name="web"):
    judged = Judged(n, n // 10, 0, 0, (slow, slow), (n - slow, n - slow))
    versions = tuple(VersionCounts(which, "", incarnation, judged) for which in ("stable", "new"))
    return ServiceCounts(name, (150_000, 200_000), versions)


def lines(path):
    text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return [json.loads(line) for line in text.splitlines()]


def headers(path):
    return [line["header"] for line in lines(path) if "header" in line]


def rules(limits=LIMITS, began=1000.0, stage="", weight_bp=1000):
    return Rules(Court(ServicePlan("web"), counts(0).columns, began, 12.5, weight_bp), limits, stage, weight_bp)


def add(blocks, found, now, rules=rules(), history=None):  # noqa: B008
    """Add a block of a process whose clock began 1,000,000 s after 1970."""
    blocks.add(found, history or History(), rules, now, 1_000_000.0 + now)


def flushed(blocks, now):
    """Write what was gathered: time that is played does not overtake the disk."""
    blocks.flush(now)
    if blocks._writing is not None:
        blocks._writing.result()


def test_lines_are_differences_and_the_header_names_the_limits(tmp_path):
    blocks = Blocks(tmp_path / "blocks")
    blocks.begin(counts(0), History())
    for index in range(1, 4):
        add(blocks, counts(10 * index, index), 1000.0 + index / 4)
    blocks.close()
    header, *rest = lines(blocks.path("web"))
    assert header["header"]["block_s"] == 0.25
    assert header["header"]["limits"] == {"p99": 200, "p99>150": 150, "error_rate": 0.01}
    assert header["header"]["judged"] == {
        "trial": 1_001_000.0,
        "since": 1_001_000.0,
        "alarm_at": 12.5,
        "stage": None,
        "weight": 10,
        "rules": [
            {"metric": "p99", "max": 200},
            {"metric": "p99", "max": 150},
            {"metric": "error_rate", "max": 0.01},
            {"metric": "error_rate", "max": 0.05, "version": STABLE},
        ],
    }
    assert [line["t"] for line in rest] == [1_001_000.25, 1_001_000.5, 1_001_000.75]
    assert rest[0]["new"] == {
        "requests": 10,
        "bad": 1,
        "client_errors": 0,
        "over": {"p99": 1, "p99>150": 1},
        "within": {"p99": 9, "p99>150": 9},
    }


def test_first_bytes_minima_and_signals_are_recorded_and_requirements_are_not(tmp_path):
    limits = (
        Limit("ttfb_p95", max=100.0),
        Limit("availability", min=0.99),
        Limit("hits", min=0.5, source="signal"),
        Limit("p50", max_ratio=0.5, action=HOLD),
    )

    def measured(n):
        judged = Judged(n, 0, 0, n, ttfb_slow=(n // 2,), ttfb_fast=(n - n // 2,), signals=((n, n // 5),))
        versions = tuple(VersionCounts(which, "", 1, judged) for which in ("stable", "new"))
        return ServiceCounts(
            "web", (), versions, ttfb_thresholds_us=(100_000,), signals=(SignalKey("hits", "x-cache", "^H"),)
        )

    blocks = Blocks(tmp_path)
    found = measured(0)
    blocks.begin(found, History())
    court = replace(rules().court, columns=found.columns)
    add(blocks, measured(10), 1.0, Rules(court, limits, "canary", 100))
    blocks.close()
    header, line = lines(blocks.path("web"))
    assert header["header"]["limits"] == {"ttfb_p95": 100, "availability": 0.99}
    assert (header["header"]["judged"]["stage"], header["header"]["judged"]["weight"]) == ("canary", 1)
    assert [rule["metric"] for rule in header["header"]["judged"]["rules"]] == ["ttfb_p95", "availability", "hits"]
    assert line["new"] == {
        "requests": 10,
        "bad": 0,
        "client_errors": 10,
        "over": {"ttfb_p95": 5},
        "within": {"ttfb_p95": 5},
        "signals": {"hits": [10, 2]},
    }


def test_histograms_stand_in_the_block_that_ends_a_second(tmp_path):
    history, blocks = History(), Blocks(tmp_path)
    scales = [Scale(TOTAL, "web", version) for version in (STABLE, NEW)]

    def second(now, number):
        history.add_slice(now, [Delta(scales[STABLE], 1, {7: number}), Delta(scales[NEW], 1, {9: 1, 30: number})])

    history.add(Snapshot(1000.0, {"web": counts(0)}))
    history.slice_due(1000.0)
    blocks.begin(counts(0), history)
    for number in range(1, 9):
        if number % 4 == 0:
            second(1000.0 + number / 4, number)
        add(blocks, counts(number), 1000.0 + number / 4, history=history)
    # A block that is longer than a second has all of it.
    second(1003.0, 1)
    second(1004.0, 2)
    add(blocks, counts(9), 1004.0, history=history)
    blocks.close()
    _, *rest = lines(blocks.path("web"))
    assert [line["new"].get("hist") for line in rest] == [
        *(None, None, None, {"9": 1, "30": 4}),
        *(None, None, None, {"9": 1, "30": 8}),
        {"9": 2, "30": 3},
    ]
    assert rest[-1]["stable"]["hist"] == {"7": 3}


def test_another_version_begins_a_new_series_and_so_does_a_time_without_weight(tmp_path):
    blocks = Blocks(tmp_path)
    add(blocks, counts(100), 1.0)
    add(blocks, counts(10, incarnation=2), 2.0)
    blocks.begin(counts(50, incarnation=2), History())
    add(blocks, counts(60, incarnation=2), 4.0)
    blocks.close()
    assert [line["new"]["requests"] for line in lines(blocks.path("web"))[1:]] == [10]


def test_every_block_stands_under_the_limits_that_judged_it(tmp_path):
    blocks = Blocks(tmp_path)
    blocks.begin(counts(0), History())
    stages = [rules(LIMITS[:1], 1000.0, "canary"), rules(LIMITS[1:2], 1001.0, "half", 5000)]
    for index in range(1, 9):
        add(blocks, counts(index, index), 1000.0 + index / 4, stages[index > 4])
    blocks.close()
    found = lines(blocks.path("web"))
    assert ["header" in line for line in found] == [True, *[False] * 4, True, *[False] * 4]
    assert [one["judged"]["stage"] for one in headers(blocks.path("web"))] == ["canary", "half"]
    assert [list(line["new"]["over"]) for line in found if "t" in line] == [["p99"]] * 8
    assert [one["limits"] for one in headers(blocks.path("web"))] == [{"p99": 200}, {"p99": 150}]


def test_a_weight_alone_makes_no_new_judges(tmp_path):
    blocks = Blocks(tmp_path)
    blocks.begin(counts(0), History())
    one = rules()
    add(blocks, counts(1), 1000.25, one)
    # The clocks drift apart; the judges are the same ones.
    blocks.add(counts(2), History(), replace(one, weight_bp=2500), 1000.5, 1_001_000.51)
    blocks.close()
    first, second = headers(blocks.path("web"))
    assert (first["judged"]["weight"], second["judged"]["weight"]) == (10, 25)
    assert first["judged"]["since"] == second["judged"]["since"]


def test_headers_name_the_trial_until_the_next_one_begins(tmp_path):
    blocks = Blocks(tmp_path)
    add(blocks, counts(0), 1000.0)  # a service that had weight before this supervisor
    add(blocks, counts(1), 1000.25, rules(stage="half"))
    found = [None]
    blocks.begin(counts(1), History())
    for number, stage in enumerate(("canary", "half"), 1):
        add(blocks, counts(1 + number), 1010.0 + number, rules(began=1010.0 + number, stage=stage))
        found.append(1_001_011.0)
    # A drill shuts the gate for a moment, and limits that are reloaded count other things.
    blocks.begin(counts(3), History(), goes_on=True)
    add(blocks, counts(4), 1020.0, rules(began=1019.0, stage="half"))
    other = replace(counts(5), thresholds_us=(1, 2))
    add(blocks, other, 1020.25, rules(LIMITS[2:], began=1019.0, stage="half"))
    add(blocks, other, 1020.5, rules(LIMITS[2:], began=1020.0, stage="half"))
    found += [1_001_011.0] * 2
    blocks.begin(counts(5), History())
    add(blocks, counts(6), 1030.0, rules(began=1030.0, stage="canary"))
    found.append(1_001_030.0)
    blocks.close()
    assert [header["judged"]["trial"] for header in headers(blocks.path("web"))] == found


def test_a_clock_that_is_set_back_makes_no_disorder(tmp_path):
    blocks = Blocks(tmp_path)
    blocks.begin(counts(0), History())
    for number, wall in enumerate((500.0, 400.0, 400.25, 501.0), 1):
        blocks.add(counts(number), History(), rules(), 1000.0 + number / 4, wall)
    blocks.close()
    assert [line["t"] for line in lines(blocks.path("web"))[1:]] == [500.0, 500.001, 500.002, 501.0]


def test_the_next_supervisor_goes_on_behind_the_last_whole_line(tmp_path):
    for begin in (0, 10):
        blocks = Blocks(tmp_path)
        blocks.begin(counts(begin), History())
        rounds(blocks, 2, begin=begin + 1)
        blocks.close()
        with blocks.path("web").open("ab") as file:
            file.write(b'{"t":1001')
    *whole, torn = blocks.path("web").read_text().splitlines()
    assert torn == '{"t":1001'
    assert ["header" in json.loads(line) for line in whole] == [True, False, False] * 2
    assert blocks.files("web") == [blocks.path("web")]


def rounds(blocks, count, step_s=1.0, begin=0):
    for index in range(begin, begin + count):
        add(blocks, counts(index), 1000.0 + index * step_s)
        flushed(blocks, float(2 * index))


def test_large_and_old_files_are_turned_over_and_the_oldest_go(tmp_path):
    large = Blocks(tmp_path / "large", most_bytes=900, kept=3)
    rounds(large, 40)
    large.close()
    names = [path.name for path in large.files("web")]
    assert len(names) == 3
    assert names[-1] == "web.jsonl"
    assert all("header" in lines(path)[0] for path in large.files("web"))
    every = [line["t"] for path in large.files("web") for line in lines(path) if "t" in line]
    assert every == sorted(every)
    old = Blocks(tmp_path / "old", most_age_s=100.0)
    rounds(old, 5, step_s=60.0)
    old.close()
    assert [path.name for path in old.files("web")] == ["web.1.jsonl.gz", "web.jsonl"]


def test_writing_adds_nothing_to_the_table_of_names(tmp_path, monkeypatch):
    blocks = Blocks(tmp_path)
    blocks.path("web")
    interned = []
    monkeypatch.setattr("pathlib.sys.intern", lambda name: interned.append(name) or name)
    rounds(blocks, 5)
    blocks.close()
    assert interned == []


def test_a_service_whose_name_begins_like_another_one_has_its_own_files(tmp_path):
    for name in ("web", "web.api", "web.7", "../a/b"):
        blocks = Blocks(tmp_path, most_bytes=10)
        for index in range(3):
            add(blocks, counts(index, name=name), float(index))
            flushed(blocks, 2.0 * index)
        blocks.close()
        assert blocks.path(name).parent == tmp_path
        assert len(blocks.files(name)) == 2
    assert len(blocks.files("web")) == 2


def test_a_disk_that_fails_is_said_once_and_holds_nobody_up(tmp_path, caplog):
    (tmp_path / "blocks").write_text("a file, no directory")
    blocks = Blocks(tmp_path / "blocks")
    rounds(blocks, 5)
    blocks.close()
    assert len(caplog.records) == 1


def test_the_past_of_a_rollout_is_read_from_all_its_files(tmp_path):
    blocks = Blocks(tmp_path, most_bytes=2000)
    blocks.begin(counts(0), History())
    for index in range(1, 201):
        add(blocks, counts(10 * index, index), 1000.0 + index, rules(stage="canary" if index <= 100 else "half"))
        flushed(blocks, 1000.0 + index)
    blocks.close()
    assert len(blocks.files("web")) > 2
    whole = blocks.past("web", 1_001_000.0, 1_001_200.0)
    assert sum(point["new"]["requests"] for point in whole) == 2000
    assert [point["t"] for point in whole] == sorted(point["t"] for point in whole)
    part = blocks.past("web", 1_001_100.0, 1_001_150.0)
    assert sum(point["stable"]["requests"] for point in part) == 500
    assert blocks.past("api", 0.0, 2e9) == []


@contextmanager
def largest_file(size):
    """Let no file grow beyond `size`: to write fails in the middle of it, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def written(blocks, numbers):
    """Add blocks of these numbers and wait until they are given to the disk."""
    for index in numbers:
        add(blocks, counts(10 * index, index), 1000.0 + index / 4)
    flushed(blocks, 2000.0 + numbers[-1])


def test_a_disk_that_is_full_for_a_moment_leaves_no_half_line(tmp_path, caplog):
    blocks = Blocks(tmp_path / "blocks")
    blocks.begin(counts(0), History())
    written(blocks, range(1, 5))
    size = blocks.path("web").stat().st_size
    with largest_file(size + 100):
        written(blocks, range(5, 9))
        written(blocks, range(9, 13))
    assert blocks.path("web").stat().st_size == size
    written(blocks, range(13, 17))
    blocks.close()
    found = [line["t"] for line in lines(blocks.path("web")) if "t" in line]
    assert found == [1_001_000.0 + index / 4 for index in (1, 2, 3, 4, 13, 14, 15, 16)]
    assert len(headers(blocks.path("web"))) == 2
    assert [record.message for record in caplog.records] == [
        "the block journal cannot be written: [Errno 27] File too large"
    ]


def test_a_file_of_somebody_else_beside_the_journal_is_left_alone(tmp_path):
    blocks = Blocks(tmp_path / "blocks", most_bytes=1, kept=2)
    blocks.path("web").parent.mkdir()
    theirs = [blocks.path("web").with_name(f"web.{name}.jsonl.gz") for name in ("old", "1.old", "²")]
    for path in theirs:
        path.write_bytes(b"theirs")
    blocks.begin(counts(0), History())
    for index in range(1, 5):
        written(blocks, [index])
    blocks.close()
    assert [path.name for path in blocks.files("web")] == ["web.3.jsonl.gz", "web.jsonl"]
    assert {path.read_bytes() for path in theirs} == {b"theirs"}


def test_what_fails_for_one_service_keeps_no_other_from_being_written(tmp_path, caplog):
    blocks = Blocks(tmp_path / "blocks")
    blocks.path("shop").mkdir(parents=True)
    for name in ("shop", "web"):
        blocks.begin(counts(0, name=name), History())
        add(blocks, counts(10, name=name), 1000.25)
    blocks.close()
    assert len(lines(blocks.path("web"))) == 2
    assert ["shop.jsonl" in record.message for record in caplog.records] == [True]


def test_a_disk_that_hangs_is_told_once_and_takes_no_memory_without_end(tmp_path, caplog):
    blocks = Blocks(tmp_path / "blocks")
    hangs = threading.Event()
    blocks._writing = blocks._thread.submit(hangs.wait)
    blocks.begin(counts(0), History())
    for index in range(1, 1001):
        add(blocks, counts(10 * index, index), 1000.0 + index / 4)
        blocks.flush(1000.0 + index / 4)
    assert not blocks._thread._work_queue.qsize()
    hangs.set()
    blocks._writing.result()
    blocks.flush(1300.0)
    blocks.close()
    found = [line["t"] for line in lines(blocks.path("web")) if "t" in line]
    assert (len(found), found[-1]) == (240, 1_001_250.0)
    assert [record.message for record in caplog.records] == [
        "the block journal cannot be written: the disk has not answered for 1000 s"
    ]
