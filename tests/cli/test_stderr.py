"""The log of a running proxy waits for nobody who reads it."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import select
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from proxy.cli.stderr import Lines
from proxy.dataplane.sink import Sink
from tests.controlplane.waiting import until_now

ROOT = Path(__file__).parents[2]


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


def test_the_last_line_and_what_was_lost_come_without_another_record(log):
    logger, reading = log
    os.set_blocking(reading, False)
    for number in range(3000):
        logger.warning("%d %s", number, "x" * 1000)
    got = read(reading)
    for _ in range(10):
        logger.handlers[0].flush()
        got += read(reading)
    *whole, told = got.splitlines()
    assert whole == [b"%d %s" % (number, b"x" * 1000) for number in range(len(whole))]
    assert told == b"%d lines of this log were lost: its reader does not keep up" % (3000 - len(whole))


def test_all_that_waits_is_lost_with_its_reader_and_counted(tmp_path):
    path = tmp_path / "fifo"
    os.mkfifo(path)
    reading = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    sink = Sink(str(path))
    lines = Lines(sink)
    for number in range(1800):
        lines.handle(logging.makeLogRecord({"msg": f"{number} {'x' * 1000}"}))
    taken = read(reading).count(b"\n")
    os.close(reading)
    lines.flush()
    lines.handle(logging.makeLogRecord({"msg": "nobody reads this"}))
    lines.flush()
    reading = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    lines.flush()
    assert read(reading) == b"%d lines of this log were lost: broken pipe\n" % (1801 - taken)
    os.close(reading)
    sink.close()


@pytest.mark.slow
def test_a_running_proxy_writes_its_last_line_as_soon_as_its_reader_reads_on():
    reading, writing = os.pipe()
    flags = ["--stable", "http://127.0.0.1:1", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]
    command = [sys.executable, "-m", "proxy", "run", *flags]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=writing, text=True) as process:
        try:
            admin = next(found[1] for line in process.stdout if (found := re.search("admin API on (.+)", line)))
            full = os.open(f"/proc/self/fd/{writing}", os.O_WRONLY | os.O_NONBLOCK)
            for size in (select.PIPE_BUF, 1):
                with contextlib.suppress(BlockingIOError):
                    while True:
                        os.write(full, b"-" * size)
            os.close(full)
            process.send_signal(signal.SIGHUP)
            until_now(lambda: b"NoConfigFile" in urllib.request.urlopen(f"{admin}/api/v1/events?since=0").read())
            os.set_blocking(reading, False)
            got = bytearray()

            def said():
                got.extend(read(reading))
                return b"the config was not reloaded" in got

            until_now(said)
        finally:
            process.terminate()
            assert process.wait(60) == 0
            os.close(reading)
            os.close(writing)


def read(reading):
    """Return all that can be read now."""
    got = b""
    try:
        while piece := os.read(reading, 1 << 20):
            got += piece
    except BlockingIOError:
        pass
    return got
