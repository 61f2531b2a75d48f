"""The layout: every word has one meaning, and both sides compute the same places."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.ipc import layout
from proxy.routing.table import MAX_THRESHOLDS, NEW, STABLE, Endpoint, RoutingTable, Service, Version


def table(shape: list[tuple[int, int]]) -> RoutingTable:
    def version(count: int) -> Version:
        return Version("v", tuple(Endpoint(f"http://h:{port}", "h", port) for port in range(count)))

    return RoutingTable(
        tuple(Service(f"s{index}", version(stable), version(new)) for index, (stable, new) in enumerate(shape))
    )


shapes = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=6)


@given(shapes)
def test_blocks_of_counters_follow_each_other_without_gap_or_overlap(shape: list[tuple[int, int]]) -> None:
    places = layout.counters_layout(table(shape))
    blocks = [(0, layout.HEADER_WORDS), (places.process, layout.PROCESS_WORDS)]
    for index in range(len(shape)):
        blocks.append((places.services[index], layout.SERVICE_WORDS))
        for version in (STABLE, NEW):
            blocks.append((places.versions[index][version], layout.VERSION_WORDS))
            blocks += [(at, layout.ENDPOINT_WORDS) for at in places.endpoints[index][version]]
    end = 0
    for start, words in sorted(blocks):
        assert start == end
        end = start + words
    assert end == places.words


@given(shapes)
def test_control_words_follow_each_other(shape: list[tuple[int, int]]) -> None:
    places = layout.control_layout(table(shape))
    blocks = [(at, layout.CONTROL_SERVICE_WORDS) for at in places.services]
    blocks += [(at, 1) for pair in places.endpoints for version in pair for at in version]
    end = layout.HEADER_WORDS
    for start, words in sorted(blocks):
        assert start == end
        end = start + words
    assert end == places.words


@given(shapes, shapes)
def test_another_shape_has_another_hash(one: list[tuple[int, int]], two: list[tuple[int, int]]) -> None:
    hashes = [layout.counters_layout(table(shape)).hash for shape in (one, two)]
    assert (hashes[0] == hashes[1]) == (one == two)
    assert all(0 <= number < 2**63 for number in hashes)


@pytest.mark.parametrize(
    "here, there",
    [
        ('"override", "failover"', '"failover", "override"'),
        ('    (404, "no_service"),\n', ""),
        ("ROW_WORDS = 16", "ROW_WORDS = 24"),
        ("ENDPOINT_CONNECTED = 3", "ENDPOINT_CONNECTED = 7"),
        ("EPOCH_SHIFT = 32", "EPOCH_SHIFT = 40"),
        ("# Board.", "# A comment."),
    ],
)
def test_another_release_with_other_places_has_other_hashes(
    monkeypatch: pytest.MonkeyPatch, here: str, there: str
) -> None:
    def hashes(one: Any) -> list[int]:
        shape = table([(1, 2)])
        return [one.counters_layout(shape).hash, one.control_layout(shape).hash, one.board_hash(2)]

    source = Path(layout.__file__).read_text()
    assert source.count(here) == 1
    other = ModuleType("other_layout")
    monkeypatch.setitem(sys.modules, other.__name__, other)
    exec(source.replace(here, there), vars(other))
    same = [one == two for one, two in zip(hashes(layout), hashes(other), strict=True)]
    assert same == [here == "# Board."] * 3


def test_the_parts_of_a_version_block_do_not_overlap() -> None:
    parts = [
        (layout.VERSION_CODES, layout.CODES),
        (layout.VERSION_BAD, len(layout.BAD_KINDS)),
        (layout.VERSION_ASSIGNED, len(layout.ASSIGNMENT_REASONS)),
        (layout.VERSION_RETRIES, len(layout.RETRY_OUTCOMES)),
        (layout.VERSION_ENDED, 4),
        (layout.VERSION_IN_FLIGHT, 3),
        (layout.VERSION_SLOW, MAX_THRESHOLDS),
        (layout.VERSION_ENDED_WITHIN, MAX_THRESHOLDS + 1),
        (layout.VERSION_TOTAL_HDR, layout.HDR_WORDS),
        (layout.VERSION_TTFB_HDR, layout.HDR_WORDS),
    ]
    end = 0
    for start, words in parts:
        assert start >= end
        end = start + words
    assert end == layout.VERSION_WORDS


def test_small_blocks_fit_their_places() -> None:
    assert len(layout.LOCAL_REPLIES) <= layout.LOCAL_REPLIES_WORDS
    assert layout.PROCESS_REFUSED + len(layout.REFUSED_CONNECTIONS) <= layout.PROCESS_LOCAL_REPLIES
    assert layout.SERVICE_FAILOVERS + len(layout.FAILOVER_OUTCOMES) <= layout.SERVICE_USER_HDR
    assert layout.ENDPOINT_POOL_ACTIVE < layout.ENDPOINT_WORDS
    assert layout.ROW_TUNNELS < layout.ROW_WORDS
    assert len(set(layout.LOCAL_REPLIES)) == len(layout.LOCAL_REPLIES)


def test_weight_flags_and_epoch_share_a_word_without_overlap() -> None:
    assert layout.WEIGHT_MASK & layout.FLAG_WATCHDOG_OFF == 0
    assert layout.FLAG_WATCHDOG_OFF < 1 << layout.EPOCH_SHIFT
