"""Shared memory between real processes: whole words, forwards only, and nothing left behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from proxy.errors import SegmentMismatch
from proxy.ipc import layout
from proxy.ipc.segment import Segment

HALF = 0xFFFF_FFFF
ROUNDS = 100_000
WORDS = layout.VERSION_TOTAL_HDR - layout.VERSION_BAD  # as many as the collector reads at once


@pytest.mark.slow
def test_a_second_process_is_never_seen_torn_or_going_back() -> None:
    segment = Segment.create("test", layout.HEADER_WORDS + WORDS, 1)
    first = layout.HEADER_WORDS
    arguments = [str(number) for number in (segment.fd, first, WORDS, ROUNDS)]
    writer = subprocess.Popen(
        [sys.executable, "-S", "-E", str(Path(__file__).with_name("writer.py")), *arguments], pass_fds=[segment.fd]
    )
    before = [0] * WORDS
    reads = changes = 0
    ended = False
    try:
        while not ended:
            ended = reads % 256 == 0 and writer.poll() is not None  # looked at before the last read
            now = segment.words[first : first + WORDS].tolist()
            reads += 1
            changes += now != before
            assert [word for word in now if word & HALF != word >> 32] == []
            assert [pair for pair in zip(before, now, strict=True) if pair[1] < pair[0]] == []
            before = now
    finally:
        writer.kill()
        writer.wait()
    assert before == [ROUNDS << 32 | ROUNDS] * WORDS
    assert changes > 1  # the reader did look while the writer wrote
    segment.close()


def test_a_segment_begins_with_its_header_and_zeros() -> None:
    segment = Segment.create("test", 20, 42, slot=3, generation=7)
    words = segment.words.tolist()
    assert words[layout.HEADER_MAGIC] == layout.MAGIC
    assert words[layout.HEADER_HASH] == 42
    assert words[layout.HEADER_SLOT] == 3
    assert words[layout.HEADER_GENERATION] == 7
    assert words[layout.HEADER_WORDS_TOTAL] == 20
    assert not any(words[layout.HEADER_WORDS :])
    segment.close()


def test_both_mappings_are_the_same_memory() -> None:
    one = Segment.create("test", 20, 42)
    two = Segment.attach(os.dup(one.fd), 42)
    two.words[10] += 5
    assert one.words[10] == 5
    one.close()
    assert two.words[10] == 5  # it lives as long as somebody holds it
    two.close()


@pytest.mark.parametrize("words", [0, 1, layout.HEADER_WORDS_TOTAL, 20])
def test_another_layout_is_refused_and_closed(words: int) -> None:
    fd = os.memfd_create("test")
    os.ftruncate(fd, words * layout.WORD)
    with pytest.raises(SegmentMismatch):
        Segment.attach(fd, 42)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_a_hash_of_another_shape_is_refused() -> None:
    segment = Segment.create("test", 20, 42)
    with pytest.raises(SegmentMismatch, match="another layout"):
        Segment.attach(os.dup(segment.fd), 43)
    segment.close()


def test_a_segment_is_not_inherited_by_accident() -> None:
    segment = Segment.create("test", 20, 42)
    assert not os.get_inheritable(segment.fd)
    segment.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(segment.fd)
