"""The board: beats, rows, and who may write what."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from proxy.controlplane.board import Board, Row
from proxy.ipc import layout
from proxy.ipc.segment import Segment


@pytest.fixture
def board() -> Iterator[Board]:
    made = Board.create(2)
    yield made
    made.close()


@pytest.fixture
def worker(board: Board) -> Iterator[Segment]:
    """The board as a worker maps it."""
    segment = Segment.attach(os.dup(board.segment.fd), layout.board_hash(2))
    yield segment
    segment.close()


def test_beats_and_draining_reach_the_workers(board: Board, worker: Segment) -> None:
    board.beat()
    board.beat()
    assert worker.words[layout.BOARD_BEAT] == 2
    board.set_draining(True)
    assert worker.words[layout.BOARD_DRAINING] == 1
    board.set_draining(False)
    assert worker.words[layout.BOARD_DRAINING] == 0


def test_a_row_is_read_by_name(board: Board, worker: Segment) -> None:
    at = layout.row(1)
    worker.words[at + layout.ROW_BEAT] = 1
    worker.words[at + layout.ROW_PID] = 2
    worker.words[at + layout.ROW_CONNECTIONS] = 3
    worker.words[at + layout.ROW_LOOP_LAG_US] = 4
    worker.words[at + layout.ROW_RSS] = 5
    worker.words[at + layout.ROW_GENERATION] = 6
    worker.words[at + layout.ROW_STABLE_ONLY] = 7
    worker.words[at + layout.ROW_ACCEPTED] = 8
    worker.words[at + layout.ROW_ACCEPTING] = 1
    worker.words[at + layout.ROW_TUNNELS] = 9
    assert board.row(1) == Row(
        beat=1,
        pid=2,
        connections=3,
        loop_lag_us=4,
        rss=5,
        generation=6,
        stable_only=7,
        accepted=8,
        accepting=1,
        tunnels=9,
    )
    assert board.row(0) == Row(*[0] * 10)


def test_clearing_a_row_leaves_the_beat_where_it_stopped(board: Board, worker: Segment) -> None:
    for slot in (0, 1):
        for word in range(layout.ROW_TUNNELS + 1):
            worker.words[layout.row(slot) + word] = 7
    board.clear(0)
    assert board.row(0) == Row(7, *[0] * 9)
    assert board.row(1) == Row(*[7] * 10)
