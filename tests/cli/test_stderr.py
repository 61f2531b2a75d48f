"""The log of a running proxy waits for nobody who reads it."""

from __future__ import annotations

import logging
import os

import pytest

from proxy.cli.stderr import Lines
from proxy.dataplane.sink import Sink


@pytest.fixture
def log():
    """Give a logger on a pipe, and the pipe's reading end."""
    reading, writing = os.pipe()
    sink = Sink(writing)
    logger, lines = logging.getLogger("tests.stderr"), Lines(sink)
    logger.propagate = False
    logger.addHandler(lines)
    yield logger, reading
    logger.removeHandler(lines)
    sink.close()
    os.close(reading)
    os.close(writing)


def test_records_are_lines(log):
    logger, reading = log
    logger.warning("one of %d", 2)
    assert os.read(reading, 1000) == b"one of 2\n"


def test_a_reader_that_stalls_is_not_waited_for_and_hears_what_it_missed(log):
    logger, reading = log
    for number in range(3000):
        logger.warning("%d %s", number, "x" * 1000)
    got = b""
    while b" lines of this log were lost: its reader does not keep up\nagain\n" not in got:
        logger.warning("again")
        got += os.read(reading, 1 << 20)
    assert got.startswith(b"0 xxx")
