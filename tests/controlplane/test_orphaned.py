"""The words of orphans fall with ours, and never rise."""

import os

import pytest

from proxy.controlplane.orphaned import Orphaned
from proxy.errors import SegmentMismatch
from proxy.ipc.layout import EPOCH_SHIFT, FLAG_WATCHDOG_OFF, HEADER_WORDS, WEIGHT_MASK
from proxy.ipc.segment import Segment

HASH = 7
AT = HEADER_WORDS
FULL = 10_000


@pytest.fixture
def theirs():
    """Return what an orphan reads: 100 %, and no watchdog."""
    segment = Segment.create("theirs", HEADER_WORDS + 4, HASH)
    segment.words[AT] = FULL | FLAG_WATCHDOG_OFF
    yield segment
    segment.close()


@pytest.fixture
def orphaned():
    made = Orphaned()
    yield made
    made.close()


def adopt(orphaned, segment):
    orphaned.adopt(os.dup(segment.fd), HASH, {"web": AT})


def word(segment):
    return segment.words[AT] & WEIGHT_MASK, segment.words[AT] & FLAG_WATCHDOG_OFF


def test_a_rollback_shuts_the_gate_of_orphans_too(orphaned, theirs):
    adopt(orphaned, theirs)
    assert word(theirs) == (FULL, FLAG_WATCHDOG_OFF)
    orphaned.keep_below("other", 0)
    assert word(theirs) == (FULL, FLAG_WATCHDOG_OFF)
    orphaned.keep_below("web", 0)
    assert word(theirs) == (0, 0)
    assert theirs.words[AT] >> EPOCH_SHIFT == 1
    orphaned.keep_below("web", FULL, FLAG_WATCHDOG_OFF)
    assert word(theirs) == (0, 0)


def test_an_orphan_that_comes_late_is_lowered_to_the_least_there_was(orphaned, theirs):
    orphaned.keep_below("web", 0)
    orphaned.keep_below("web", 5000)
    adopt(orphaned, theirs)
    assert word(theirs) == (0, 0)


def test_the_same_segment_is_taken_once_and_nothing_is_left_open(theirs):
    orphaned = Orphaned()
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    for _ in range(3):
        adopt(orphaned, theirs)
    assert len(os.listdir("/proc/self/fd")) == before + 2  # the descriptor, and the mapping's  # noqa: PTH208
    orphaned.close()
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


def test_what_is_no_control_segment_is_refused_and_closed(orphaned, theirs):
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    with pytest.raises(SegmentMismatch):
        orphaned.adopt(os.dup(theirs.fd), HASH + 1, {"web": AT})
    with pytest.raises(ValueError, match="outside"):
        orphaned.adopt(os.dup(theirs.fd), HASH, {"web": 1000})
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
