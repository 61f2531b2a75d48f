"""What goes along with a message."""

import os
import socket

import pytest

from proxy.ipc import channel
from proxy.ipc.enclosure import enclose, enclosed

LONG = {"text": "x" * 20_000_000}  # longer than any message, or any socket's buffer


def test_it_is_as_long_as_it_likes_and_everybody_reads_it_from_the_beginning():
    ours, theirs = channel.pair()
    with ours, theirs:
        with enclose("test", LONG) as file:
            channel.send(ours, {"type": "test"}, [file.fd])
            assert enclosed(file.fd) == LONG
        ((message, (fd,)),) = channel.Receiver().feed(theirs)
        assert message == {"type": "test"}
        assert [enclosed(fd), enclosed(fd)] == [LONG, LONG]
        assert not os.get_inheritable(fd)
        os.close(fd)


def test_what_is_no_enclosure_is_said():
    ours, theirs = socket.socketpair()
    with ours, theirs, pytest.raises(OSError):
        enclosed(ours.fileno())
    with enclose("test", "") as file:
        os.ftruncate(file.fd, 0)
        with pytest.raises(ValueError):
            enclosed(file.fd)
