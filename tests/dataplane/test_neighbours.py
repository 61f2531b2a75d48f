"""Whose turn it is to accept on whose socket."""

import pytest

from proxy.dataplane.neighbours import ABSENT, LOOKS, Neighbours
from proxy.ipc.layout import (
    ACCEPTING,
    ACCEPTING_NOT,
    ACCEPTING_OWN,
    ROW_ACCEPTING,
    ROW_BEAT,
    ROW_CONNECTIONS,
    board_words,
    row,
)

SLOTS = 4


class Board:
    """A board on which all beat, unless told otherwise."""

    def __init__(self):
        self.words = [0] * board_words(SLOTS)
        self.all = [Neighbours(slot, SLOTS) for slot in range(SLOTS)]
        for slot in range(SLOTS):
            self.words[row(slot) + ROW_ACCEPTING] = ACCEPTING

    def hold(self, *connections):
        for slot, count in enumerate(connections):
            self.words[row(slot) + ROW_CONNECTIONS] = count

    def look(self, times=1, *, still=()):
        for _ in range(times):
            for slot in set(range(SLOTS)) - set(still):
                self.words[row(slot) + ROW_BEAT] += 1
            for one in self.all:
                one.look(self.words)

    def who_accepts(self, slot):
        return {other for other in range(SLOTS) if self.all[other].turn(slot)}


@pytest.fixture
def board():
    return Board()


def test_everybody_accepts_on_their_own_and_on_what_is_shared(board):
    board.hold(250, 260, 240, 250)
    board.look(5)
    assert [board.who_accepts(slot) for slot in range(SLOTS)] == [{0}, {1}, {2}, {3}]
    assert board.who_accepts(None) == {0, 1, 2, 3}


def test_a_handful_of_connections_makes_nobody_crowded(board):
    board.hold(4, 0, 0, 0)
    board.look(5)
    assert board.who_accepts(0) == {0}


def test_those_with_room_accept_for_the_crowded_who_then_rests(board):
    board.hold(330, 250, 200, 220)
    board.look()  # at the first look they may all have come in a rush
    assert board.who_accepts(0) == {0}
    board.look(2)
    assert board.who_accepts(0) == {0, 1, 2, 3}  # nobody rests before others have begun
    board.look(LOOKS)
    assert board.who_accepts(0) == {1, 2, 3}
    assert board.who_accepts(None) == {1, 2, 3}
    board.hold(255, 250, 245, 250)
    board.look()
    assert board.who_accepts(0) == {0}


def test_a_crowded_worker_accepts_when_nobody_else_does(board):
    board.hold(900, 0, 0, 0)
    for slot in (1, 2, 3):
        board.words[row(slot) + ROW_ACCEPTING] = ACCEPTING_OWN
    board.look(5)
    assert 0 in board.who_accepts(0)


def test_a_crowded_worker_accepts_again_as_soon_as_who_had_room_stands_still(board):
    board.hold(900, 880, 870, 0)
    board.look(5)
    assert board.who_accepts(0) == {3}
    board.look(3, still={3})
    assert 0 in board.who_accepts(0)


def test_a_silent_neighbours_queue_is_adopted_until_it_beats(board):
    board.look(ABSENT + 1, still={2})
    assert board.who_accepts(2) >= {0, 1, 3}
    board.look()
    assert board.who_accepts(2) == {2}


def test_the_queue_of_who_does_not_come_to_accept_is_adopted_until_it_does(board):
    board.words[row(2) + ROW_ACCEPTING] = ACCEPTING_NOT
    board.look(ABSENT - 1)
    assert board.who_accepts(2) == {2}
    board.look()
    assert board.who_accepts(2) >= {0, 1, 3}
    board.words[row(2) + ROW_ACCEPTING] = ACCEPTING
    board.look()
    assert board.who_accepts(2) == {2}


def test_the_queue_of_who_is_about_to_drain_or_lets_clients_wait_is_left_alone(board):
    board.words[row(2) + ROW_ACCEPTING] = ACCEPTING_OWN
    board.look(2 * ABSENT)
    assert board.who_accepts(2) == {2}


def test_connections_of_the_silent_count_for_the_limit_but_not_for_the_mean(board):
    board.hold(300, 300, 300, 900)
    board.look(ABSENT + 1, still={3})
    assert board.all[0].elsewhere == 1500
    assert board.who_accepts(0) == {0}


def test_somebody_accepts_on_every_socket_at_any_time(board):
    """Whatever the numbers are, and however stale what one of them has seen."""
    for numbers in ((900, 0, 0, 0), (10, 10, 10, 10), (500, 500, 0, 0), (300, 290, 280, 0), (0, 0, 0, 1)):
        board.hold(*numbers)
        for _ in range(2 * LOOKS):
            board.look()
            assert all(board.who_accepts(slot) for slot in range(SLOTS))


def test_who_came_in_a_rush_makes_nobody_crowded(board):
    board.look(3)
    board.hold(120, 0, 40, 0)  # the others have not told yet
    board.look()
    board.hold(120, 118, 126, 117)
    board.look(3)
    assert [board.who_accepts(slot) for slot in range(SLOTS)] == [{0}, {1}, {2}, {3}]
