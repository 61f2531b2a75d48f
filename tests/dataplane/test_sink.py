"""Where a log's lines go: a reader that stalls holds up nobody, and no line begins within another one."""

from __future__ import annotations

import os
import resource
import select
import socket
import threading

import pytest

from proxy.dataplane import sink
from proxy.dataplane.sink import WAITS_MOST, Sink
from tests.dataplane.harness import eventually

LINE = b"x" * 1000 + b"\n"
MANY = [b"%06d " % number + b"x" * 1000 + b"\n" for number in range(4000)]  # more than pipe and sink take together


def read_now(descriptor):
    """Return all that waits in a pipe, a terminal or a socket."""
    got = b""
    while select.select([descriptor], [], [], 0)[0]:
        piece = os.read(descriptor, 1 << 20)
        if not piece:
            break
        got += piece
    return got


def whole(got):
    """Return the lines that came whole: a terminal takes parts."""
    return [line for line in got.split(b"\n") if len(line) == len(MANY[0]) - 1]


def pipe(_path):
    return os.pipe()


def connected(_path):
    ours, theirs = socket.socketpair()
    return ours.detach(), theirs.detach()


def terminal(_path):
    controlling, its = os.openpty()
    return controlling, its


@pytest.fixture(params=[pipe, connected, terminal])
def ends(request, tmp_path):
    """Give the reading and the writing end of what a standard output may be."""
    both = request.param(tmp_path)
    yield both
    for end in both:
        os.close(end)


def test_a_reader_that_stalls_holds_up_nobody_and_gets_whole_lines_later(ends):
    reading, writing = ends
    one = Sink(writing)
    lost = one.write(MANY)
    assert 0 < lost < len(MANY)
    assert "does not keep up" in one.fault
    assert os.get_blocking(writing)  # which others share
    got = b""

    def over():  # a terminal hands on what it took when it likes
        nonlocal got, lost
        got += read_now(reading).replace(b"\r", b"")
        lost += one.write([])
        return len(whole(got)) + lost == len(MANY)

    eventually(over, "the end of all lines")
    assert whole(got) == sorted(set(whole(got)))
    assert all(part in MANY[int(part[:6])] for part in got.split(b"\n") if len(part) > 6)
    assert one.close() == 0


def test_what_waits_at_the_end_is_lost(ends):
    one = Sink(ends[1])
    lost = one.write(MANY)
    waited = one.close()
    assert 0 < waited <= WAITS_MOST // len(MANY[0])
    got = b""

    def over():
        nonlocal got
        got += read_now(ends[0])
        return len(whole(got.replace(b"\r", b""))) + lost + waited == len(MANY)

    eventually(over, "the end of what was written")


def test_an_output_of_another_user_is_asked_first(monkeypatch):
    def refused(*_):
        raise PermissionError

    reading, writing = os.pipe()
    monkeypatch.setattr(sink.os, "open", refused)
    one = Sink(writing)
    lost = one.write(MANY)
    assert lost
    got = b""
    while part := read_now(reading):
        got += part
        lost += one.write([])
    assert got == b"".join(MANY[: len(MANY) - lost])
    one.close()
    os.close(reading)
    os.close(writing)


def test_a_named_pipe_is_not_waited_for(tmp_path):
    path = tmp_path / "log"
    os.mkfifo(path)
    with pytest.raises(OSError, match="nobody reads this pipe"):
        Sink(str(path))
    reading = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    one = Sink(str(path))
    assert one.write([LINE]) == 0
    assert os.read(reading, 5000) == LINE
    os.close(reading)
    assert one.write([LINE, LINE]) == 2
    assert one.fault == "broken pipe"
    reading = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    assert one.write([LINE]) == 0
    assert os.read(reading, 5000) == LINE
    os.close(reading)
    one.close()


def test_lines_of_several_writers_do_not_mix_in_a_pipe():
    reading, writing = os.pipe()
    sinks = [Sink(writing) for _ in range(2)]

    def write(one, name):
        left = [name * 700 + b"\n"] * 2000
        while left:
            assert one.write(left[:20]) == 0
            del left[:20]
            while one.write([]) or one._waiting:
                select.select([], [writing], [], 1)

    writers = [threading.Thread(target=write, args=pair) for pair in zip(sinks, (b"a", b"b"), strict=True)]
    got = []
    reader = threading.Thread(target=lambda: [got.append(part) for part in iter(lambda: os.read(reading, 999), b"")])
    for thread in (*writers, reader):
        thread.start()
    for thread in writers:
        thread.join()
    for one in sinks:
        one.close()
    os.close(writing)
    reader.join()
    os.close(reading)
    lines = b"".join(got).splitlines()
    assert len(lines) == 4000
    assert set(lines) == {b"a" * 700, b"b" * 700}


def test_a_line_that_is_longer_than_a_piece_and_does_not_fit_is_ended():
    reading, writing = os.pipe()
    one = Sink(writing)
    long = b"y" * 30_000 + b"\n"
    lost = one.write([long] * 60)
    got = b""
    while (part := read_now(reading)) or one._waiting:
        got += part
        lost += one.write([])
    lines = got.splitlines()
    assert lines.count(long[:-1]) == 60 - lost
    assert lost
    assert one.write([LINE]) == 0
    assert read_now(reading).splitlines()[-1] == LINE[:-1]
    one.close()
    os.close(reading)
    os.close(writing)


@pytest.fixture
def room():
    """Return a function that says how large files may become."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_line_that_a_full_disk_cuts_is_ended_before_the_next(tmp_path, room):
    path = tmp_path / "log"
    one, other = Sink(str(path)), Sink(str(path))
    assert one.write([b"first\n"]) == 0
    room(16)
    assert one.write([b"second\n", b"third\n"]) == 1
    assert other.write([b"fourth\n", b"again\n"]) == 0  # it could be a write that is going on
    assert other.write([]) == 2
    assert other.fault == "file too large"
    room(1000)
    assert other.write([b"fifth\n"]) == 0
    assert one.write([b"sixth\n"]) == 0
    assert path.read_bytes() == b"first\nsecond\nthi\nfifth\nsixth\n"
    one.close()
    other.close()


def test_a_line_that_a_crash_cut_is_ended(tmp_path):
    path = tmp_path / "log"
    path.write_bytes(b'{"time": 1')
    one = Sink(str(path))
    assert one.write([b"next\n"]) == 0
    assert path.read_bytes() == b'{"time": 1\nnext\n'
    one.close()


def test_what_another_worker_is_just_writing_is_not_torn(tmp_path):
    """Its bytes come into view page by page."""
    path = tmp_path / "log"
    one, other = Sink(str(path)), Sink(str(path))
    with path.open("ab", buffering=0) as writer:
        for _ in range(2):
            writer.write(b"half")
            assert one.write([b"next\n"]) == 0
            writer.write(b" done\n")
            assert one.write([]) == 0
        writer.write(b"never")
    assert other.write([b"second\n"]) == 0
    assert one.write([b"third\n"]) == 0
    for last in (one, other):  # what waits at the end is written
        assert last.close() == 0
    assert path.read_bytes() == b"half done\nnext\n" * 2 + b"never\nthird\nsecond\n"


def test_standard_output_into_a_file_is_one_file_for_all(tmp_path, room):
    """It is not opened anew: its place in the file is shared, and O_APPEND is not said."""
    path = tmp_path / "out"
    writing = os.open(path, os.O_WRONLY | os.O_CREAT)
    os.write(writing, b"listening\n")
    one = Sink(writing)
    room(20)
    assert one.write([b"first\n", b"second\n"]) == 1
    room(1000)
    os.write(writing, b"")
    assert one.write([b"third\n"]) == 0
    assert path.read_bytes() == b"listening\nfirst\nseco\nthird\n"
    one.close()
    os.close(writing)


def test_a_folder_or_a_socket_is_refused(tmp_path):
    with pytest.raises(IsADirectoryError):
        Sink(str(tmp_path))
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(tmp_path / "s"))
    with pytest.raises(OSError, match="No such device"):
        Sink(str(tmp_path / "s"))
    server.close()


def test_the_null_device_takes_all():
    one = Sink("/dev/null")
    assert one.write(MANY * 3) == 0
    assert one.close() == 0
