"""The channel: messages arrive whole and in order with their own descriptors, whatever the reads look like."""

from __future__ import annotations

import array
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.ipc import channel
from proxy.ipc.channel import Receiver, send

Ends = tuple[socket.socket, socket.socket]


@pytest.fixture
def ends() -> Iterator[Ends]:
    one, two = channel.pair()
    with one, two:
        yield one, two


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def content(fd: int) -> bytes:
    data = os.pread(fd, 100, 0)
    os.close(fd)
    return data


def file_with(data: bytes) -> int:
    fd = os.memfd_create("test")
    os.write(fd, data)
    return fd


def test_a_message_without_descriptors(ends: Ends) -> None:
    send(ends[0], {"type": "stop"})
    assert Receiver().feed(ends[1]) == [({"type": "stop"}, [])]


def test_nothing_there_is_no_message_and_no_wait(ends: Ends) -> None:
    assert Receiver().feed(ends[1]) == []


def test_every_message_gets_its_own_descriptors(ends: Ends) -> None:
    sent = [file_with(b"a"), file_with(b"b"), file_with(b"c")]
    send(ends[0], {"n": 0})
    send(ends[0], {"n": 1}, sent[:2])
    send(ends[0], {"n": 2})
    send(ends[0], {"n": 3}, sent[2:])
    messages = Receiver().feed(ends[1])
    assert [message["n"] for message, _ in messages] == [0, 1, 2, 3]
    assert [[content(fd) for fd in fds] for _, fds in messages] == [[], [b"a", b"b"], [], [b"c"]]
    for fd in sent:
        os.close(fd)


def test_received_descriptors_are_not_inherited(ends: Ends) -> None:
    fd = file_with(b"")
    send(ends[0], {}, [fd])
    [(_, [received])] = Receiver().feed(ends[1])
    assert not os.get_inheritable(received)
    os.close(received)
    os.close(fd)


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 40_000), st.integers(0, 5)), min_size=1, max_size=8), st.data())
def test_it_does_not_matter_how_the_bytes_are_cut(plan: list[tuple[int, int]], data: st.DataObject) -> None:
    """The peer's bytes are sent again in pieces of any size, descriptors beside the first byte of their message."""
    one, two = channel.pair()
    receiver = Receiver()
    fd = file_with(b"x")
    before = descriptors()
    received: list[tuple[int, int]] = []
    with one, two:
        for length, fds in plan:
            wire = wire_of({"text": "x" * length}, fds)
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd] * fds))] if fds else []
            while wire:
                size = data.draw(st.sampled_from([1, 2, 3, 5, 100, 10_000, 100_000]))
                sent = one.sendmsg([wire[:size]], rights, socket.MSG_DONTWAIT)
                wire, rights = wire[sent:], []
                if data.draw(st.booleans()):
                    received += taken(receiver, two)
        received += taken(receiver, two)
    os.close(fd)
    assert received == plan
    assert descriptors() == before - 3  # both ends and the file


def wire_of(message: dict[str, str], fds: int) -> bytes:
    one, two = channel.pair()
    with one, two:
        null = os.open(os.devnull, os.O_RDONLY)
        send(one, message, [null] * fds)
        os.close(null)
        one.close()
        # Read as plain bytes: the kernel drops the descriptors. A read ends where descriptors were.
        return b"".join(iter(lambda: two.recv(1_000_000), b""))


def taken(receiver: Receiver, sock: socket.socket) -> list[tuple[int, int]]:
    messages = receiver.feed(sock)
    for _, fds in messages:
        for fd in fds:
            os.close(fd)
    return [(len(message["text"]), len(fds)) for message, fds in messages]


def test_the_last_messages_come_before_the_end(ends: Ends) -> None:
    send(ends[0], {"type": "listening"})
    ends[0].close()
    receiver = Receiver()
    assert receiver.feed(ends[1]) == [({"type": "listening"}, [])]
    with pytest.raises(EOFError):
        receiver.feed(ends[1])
    with pytest.raises(EOFError):
        receiver.feed(ends[1])


def test_descriptors_of_a_message_that_never_became_whole_are_closed(ends: Ends) -> None:
    before = descriptors()
    null = os.open(os.devnull, os.O_RDONLY)
    header = (1 << 24 | 100).to_bytes(4, "big")
    socket.send_fds(ends[0], [header + b'{"half'], [null])
    os.close(null)
    receiver = Receiver()
    assert receiver.feed(ends[1]) == []
    assert descriptors() == before + 1
    ends[0].close()
    with pytest.raises(EOFError):
        receiver.feed(ends[1])
    assert descriptors() == before - 1


@pytest.mark.parametrize(
    "wire",
    [
        b"\x00\x00\x00\x02[]",  # JSON, but no object
        b"\x00\x00\x00\x02{x",  # no JSON
        b"\x01\x00\x00\x02{}",  # a descriptor that did not come
        b"GET / HTTP/1.1\r\n\r\n" * 400_000,  # 4 MB and more are announced: 0x45542f
    ],
)
def test_what_is_no_message_is_refused(ends: Ends, wire: bytes) -> None:
    sender, reader = ends
    receiver = Receiver()

    def transfer() -> None:
        rest = memoryview(wire)
        while rest:
            rest = rest[sender.send(rest[:100_000], socket.MSG_DONTWAIT) :]
            receiver.feed(reader)

    with pytest.raises(ValueError, match=r".+"):
        transfer()


def test_a_peer_that_does_not_read_is_not_waited_for_ever(ends: Ends) -> None:
    message = {"text": "x" * 1_000_000}

    def fill() -> None:
        while True:
            send(ends[0], message, timeout_s=0.01)

    with pytest.raises(TimeoutError):
        fill()


def test_a_peer_that_is_gone_is_an_os_error(ends: Ends) -> None:
    ends[1].close()
    with pytest.raises(BrokenPipeError):
        send(ends[0], {})


@pytest.mark.parametrize("blocking", [True, False])
def test_a_message_larger_than_the_socket_buffer(ends: Ends, blocking: bool) -> None:
    """The reader here is a child, which reads while the sender waits."""
    sender, reader = ends
    sender.setblocking(blocking)
    size = 8_000_000
    child = os.fork()
    if child == 0:
        status = 1
        try:
            sender.close()
            receiver = Receiver()
            messages: list[tuple[dict[str, str], list[int]]] = []
            while not messages:
                reader.recv(1, socket.MSG_PEEK)  # waits
                messages = receiver.feed(reader)
            status = 0 if len(messages[0][0]["text"]) == size else 2
        finally:
            os._exit(status)
    send(sender, {"text": "x" * size}, timeout_s=30)
    assert os.waitpid(child, 0)[1] == 0


def test_what_is_too_large_is_refused_before_anything_is_sent(ends: Ends) -> None:
    with pytest.raises(ValueError, match="too large"):
        send(ends[0], {"text": "x" * channel.LONGEST})
    with pytest.raises(ValueError, match="too large"):
        send(ends[0], {}, [0] * (channel.MOST_FDS + 1))
    assert Receiver().feed(ends[1]) == []


def test_as_many_descriptors_as_unix_allows(ends: Ends) -> None:
    null = os.open(os.devnull, os.O_RDONLY)
    send(ends[0], {}, [null] * channel.MOST_FDS)
    [(_, fds)] = Receiver().feed(ends[1])
    assert len(fds) == channel.MOST_FDS
    for fd in [null, *fds]:
        os.close(fd)
