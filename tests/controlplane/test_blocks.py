"""The block journal: what `replay` reads is what the judges saw, in files that do not grow for ever."""

import json

from proxy.controlplane.blocks import Blocks
from proxy.metrics.snapshot import Judged, ServiceCounts, VersionCounts
from proxy.rollout.plan import Limit
from proxy.routing.table import STABLE

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
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_lines_are_differences_and_the_header_names_the_limits(tmp_path):
    blocks = Blocks(tmp_path / "blocks")
    for index in range(4):
        blocks.add(counts(10 * index, index), LIMITS, 0.25, 1000.0 + index / 4)
    blocks.close()
    header, *rest = lines(blocks.path("web"))
    assert header["header"]["limits"] == {"p99": 200, "p99>150": 150, "error_rate": 0.01}
    assert [line["t"] for line in rest] == [1000.25, 1000.5, 1000.75]
    assert rest[0]["new"] == {"requests": 10, "bad": 1, "over": {"p99": 1, "p99>150": 1}}


def test_another_version_and_a_gap_begin_a_new_series(tmp_path):
    blocks = Blocks(tmp_path)
    blocks.add(counts(100), LIMITS, 0.25, 1.0)
    blocks.add(counts(10, incarnation=2), LIMITS, 0.25, 2.0)
    blocks.skip("web")
    blocks.add(counts(50, incarnation=2), LIMITS, 0.25, 3.0)
    blocks.add(counts(60, incarnation=2), LIMITS, 0.25, 4.0)
    blocks.close()
    assert [line["new"]["requests"] for line in lines(blocks.path("web"))[1:]] == [10]


def rounds(blocks, count, step_s=1.0, limits=LIMITS, begin=0):
    for index in range(begin, begin + count):
        blocks.add(counts(index), limits, 0.25, 1000.0 + index * step_s)
        blocks.flush(float(2 * index))


def test_large_old_and_otherwise_judged_files_are_turned_over_and_the_oldest_go(tmp_path):
    large = Blocks(tmp_path / "large", most_bytes=300, kept=3)
    rounds(large, 30)
    large.close()
    names = sorted(path.name for path in (tmp_path / "large").iterdir())
    assert len(names) == 3
    assert "web.jsonl" in names
    assert all("header" in lines(path)[0] for path in (tmp_path / "large").iterdir())
    old = Blocks(tmp_path / "old", most_age_s=100.0)
    rounds(old, 5, step_s=60.0)
    old.close()
    assert sorted(path.name for path in (tmp_path / "old").iterdir()) == ["web.1.jsonl", "web.jsonl"]
    other = Blocks(tmp_path / "other")
    rounds(other, 3)
    rounds(other, 3, limits=LIMITS[1:], begin=3)
    other.close()
    assert sorted(path.name for path in (tmp_path / "other").iterdir()) == ["web.1.jsonl", "web.jsonl"]


def test_a_service_with_a_name_that_is_no_file_name(tmp_path):
    blocks = Blocks(tmp_path)
    assert blocks.path("../a/b").parent == tmp_path
    blocks.close()


def test_a_disk_that_fails_is_said_once_and_holds_nobody_up(tmp_path, caplog):
    (tmp_path / "blocks").write_text("a file, no directory")
    blocks = Blocks(tmp_path / "blocks")
    rounds(blocks, 5)
    blocks.close()
    assert len(caplog.records) == 1
