"""The supervisor's and a worker's telephone: small JSON messages with descriptors over a stream socket pair.

A *message* is a JSON object and the descriptors that belong to it. On the wire: a 32-bit header (number of
descriptors in the top byte, length of the JSON below), the JSON, and the descriptors as SCM_RIGHTS beside the
first byte. The receiver gives every message as many of the received descriptors as its header says: bytes and
descriptors arrive in the order sent, but a read may hold several messages, or a part of one.

Rules: both ends are trusted (they are one product), but an end may be stopped, killed or of another version, so
a send never waits for ever and a read never waits at all. Received descriptors are close-on-exec; those of
a message that never became complete are closed. After any error of `send` or `feed` the channel is broken: close it.

Sources: unix(7) (SCM_RIGHTS, at most SCM_MAX_FD = 253 descriptors in one message), cmsg(3).
"""

from __future__ import annotations

import array
import contextlib
import os
import select
import socket
from collections import deque
from collections.abc import Sequence
from typing import Any

import orjson

HEADER_BYTES = 4
LONGEST = (1 << 24) - 1  # bytes of JSON in one message
MOST_FDS = 253
_READ_BYTES = 64 * 1024
_FD_BYTES = array.array("i").itemsize


def pair() -> tuple[socket.socket, socket.socket]:
    """Return the two ends of a new channel, with the largest send buffers that the kernel grants."""
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    for end in ends:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, LONGEST)
    return ends


def send(sock: socket.socket, message: dict[str, Any], fds: Sequence[int] = (), *, timeout_s: float = 0.5) -> None:
    """Send one message with its descriptors, on a blocking or non-blocking socket.

    A message that fits the socket's buffer never waits. Else this waits up to `timeout_s` for a peer that does not
    read and raises `TimeoutError`. `OSError` (BrokenPipeError, …): the peer is gone. `ValueError`: too large.
    """
    body = orjson.dumps(message)
    if len(body) > LONGEST or len(fds) > MOST_FDS:
        raise ValueError(f"a message of {len(body)} bytes and {len(fds)} descriptors is too large for the channel")
    rest = memoryview((len(fds) << 24 | len(body)).to_bytes(HEADER_BYTES, "big") + body)
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    while rest:
        try:
            sent = sock.sendmsg([rest], rights, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except BlockingIOError:
            _wait_writable(sock, timeout_s)
            continue
        rest = rest[sent:]
        rights = []  # they went with the first byte


class Receiver:
    """Puts what arrives on one channel together again."""

    __slots__ = ("_buffer", "_eof", "_fds")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._fds: deque[int] = deque()
        self._eof = False

    def feed(self, sock: socket.socket) -> list[tuple[dict[str, Any], list[int]]]:
        """Read all that is there and return the messages that are complete; the caller owns their descriptors.

        Never waits. Raises `EOFError` when the peer is gone and every complete message was returned,
        `ValueError` when what arrived is no message.
        """
        while not self._eof:
            try:
                if not self._read(sock):
                    break
            except ConnectionError:
                self._eof = True
        messages = self._complete()
        if self._eof and not messages:
            self.close()
            raise EOFError("the other end of the channel is closed")
        return messages

    def close(self) -> None:
        """Close the descriptors that came for a message which is not complete."""
        while self._fds:
            with contextlib.suppress(OSError):
                os.close(self._fds.popleft())

    def _read(self, sock: socket.socket) -> bool:
        """Read once; return False when nothing is there now."""
        try:
            data, ancillary, flags, _ = sock.recvmsg(
                _READ_BYTES,
                socket.CMSG_SPACE(MOST_FDS * _FD_BYTES),
                socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC,
            )
        except BlockingIOError:
            return False
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                whole = len(content) - len(content) % _FD_BYTES
                self._fds.extend(array.array("i", content[:whole]))
        if flags & socket.MSG_CTRUNC:
            # The process has no room for more descriptors; the message cannot be handed on without them.
            self.close()
            raise ValueError("descriptors of a message were lost: the limit of open files is reached")
        self._eof = not data
        self._buffer += data
        return True

    def _complete(self) -> list[tuple[dict[str, Any], list[int]]]:
        messages: list[tuple[dict[str, Any], list[int]]] = []
        start = 0
        while len(self._buffer) - start >= HEADER_BYTES:
            header = int.from_bytes(self._buffer[start : start + HEADER_BYTES], "big")
            end = start + HEADER_BYTES + (header & LONGEST)
            if len(self._buffer) < end:
                break
            message = orjson.loads(self._buffer[start + HEADER_BYTES : end])
            if not isinstance(message, dict) or header >> 24 > len(self._fds):
                self.close()
                raise ValueError("what arrived on the channel is no message")
            messages.append((message, [self._fds.popleft() for _ in range(header >> 24)]))
            start = end
        del self._buffer[:start]
        return messages


def _wait_writable(sock: socket.socket, timeout_s: float) -> None:
    poller = select.poll()
    poller.register(sock, select.POLLOUT)
    if not poller.poll(timeout_s * 1000):
        raise TimeoutError("the other end of the channel does not read")
