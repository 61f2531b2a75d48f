"""Raw sockets on both sides of a worker: a client that sees every byte, and a backend that a test scripts.

*Stream*: a blocking socket with a buffer, which reads heads and bodies of either side and says how it ended. The
reading is deliberately naive and independent of the product's own parser.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from proxy.routing.table import Endpoint

DEADLINE_S = 30.0
LINGER_ZERO = struct.pack("ii", 1, 0)


class Ended(Exception):
    """The stream ended before what was read for was there; `how`: eof | reset | cut (TLS without its own end)."""

    def __init__(self, how: str) -> None:
        super().__init__(how)
        self.how = how


@dataclass
class Message:
    """A request or a response as it came over the wire; names of fields as sent."""

    head: bytes
    line: str
    fields: list[tuple[str, str]]
    body: bytes = b""
    trailers: list[tuple[str, str]] = field(default_factory=list)
    framing: str = "none"  # none | length | chunked | close
    interims: list[Message] = field(default_factory=list)
    at_ns: int = 0

    @property
    def status(self) -> int:
        return int(self.line.split(" ")[1])

    @property
    def method(self) -> str:
        return self.line.split(" ")[0]

    @property
    def target(self) -> str:
        return self.line.split(" ")[1]

    def all(self, name: str) -> list[str]:
        return [value for one, value in self.fields if one.lower() == name.lower()]

    def get(self, name: str) -> str | None:
        values = self.all(name)
        assert len(values) < 2, f"{name} came more than once: {values}"
        return values[0] if values else None


def parse_head(head: bytes) -> Message:
    lines = head.decode("latin-1").split("\r\n")
    return Message(head, lines[0], [split_field(line) for line in lines[1:] if line], at_ns=time.monotonic_ns())


def split_field(line: str) -> tuple[str, str]:
    name, _, value = line.partition(":")
    return name, value.strip()


class Stream:
    """See the module's text."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.buffer = b""
        sock.settimeout(DEADLINE_S)
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, *data: bytes) -> None:
        for part in data:
            self.sock.sendall(part)

    def more(self) -> None:
        try:
            data = self.sock.recv(262_144)
        except ConnectionError:
            raise Ended("reset") from None
        except ssl.SSLEOFError:
            raise Ended("cut") from None
        if not data:
            raise Ended("eof")
        self.buffer += data

    def until(self, mark: bytes) -> bytes:
        """Return everything up to and with `mark`."""
        while mark not in self.buffer:
            self.more()
        at = self.buffer.index(mark) + len(mark)
        taken, self.buffer = self.buffer[:at], self.buffer[at:]
        return taken

    def exactly(self, size: int) -> bytes:
        parts = [self.buffer]
        have = len(self.buffer)
        self.buffer = b""
        while have < size:
            self.more()
            parts.append(self.buffer)
            have += len(self.buffer)
            self.buffer = b""
        whole = b"".join(parts)
        self.buffer = whole[size:]
        return whole[:size]

    def rest(self) -> bytes:
        """Return everything up to the end, which must be a clean one."""
        parts = [self.buffer]
        self.buffer = b""
        while True:
            try:
                self.more()
            except Ended as end:
                if end.how != "eof":
                    raise
                return b"".join(parts)
            parts.append(self.buffer)
            self.buffer = b""

    def end(self) -> str:
        """Wait for the end of the stream and return how it came; nothing may come before."""
        try:
            while True:
                assert not self.buffer, self.buffer
                self.more()
        except Ended as end:
            return end.how

    def drain(self) -> str:
        """Read and forget until the end; return how it came."""
        try:
            while True:
                self.buffer = b""
                self.more()
        except Ended as end:
            return end.how

    def chunked(self, message: Message) -> None:
        message.framing = "chunked"
        parts = []
        while size := int(self.until(b"\r\n").split(b";")[0], 16):
            parts.append(self.exactly(size))
            assert self.exactly(2) == b"\r\n"
        message.body = b"".join(parts)
        while (line := self.until(b"\r\n")) != b"\r\n":
            message.trailers.append(split_field(line[:-2].decode("latin-1")))

    def finish(self) -> None:
        """Send FIN."""
        self.sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close, with FIN if everything that came was read."""
        self.sock.close()

    def reset(self) -> None:
        """Close with RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_ZERO)
        self.sock.close()


class Client(Stream):
    """A client's connection."""

    def unread(self) -> int:
        """Return how many bytes of what was sent wait in the worker's kernel buffer."""
        ours, theirs = self.sock.getsockname()[1], self.sock.getpeername()[1]
        # Searched as bytes: with many connections in TIME_WAIT the table has tens of thousands of lines.
        table = Path("/proc/net/tcp").read_bytes()
        at = table.find(b":%04X 0100007F:%04X " % (theirs, ours))
        if at < 0:
            return 0
        _, _, _, queues = table[at : at + 64].split(maxsplit=4)[:4]
        return int(queues.split(b":")[1], 16)

    def head(self) -> Message:
        """Read a response head; interim ones go into `interims`."""
        interims: list[Message] = []
        while True:
            message = parse_head(self.until(b"\r\n\r\n"))
            if message.status >= 200 or message.status == 101:
                message.interims = interims
                return message
            interims.append(message)

    def response(self, method: str = "GET") -> Message:
        """Read a whole response."""
        message = self.head()
        coding, length = message.get("Transfer-Encoding"), message.get("Content-Length")
        if method == "HEAD" or message.status in {101, 204, 304}:
            return message
        if coding:
            assert coding == "chunked"
            assert length is None
            self.chunked(message)
        elif length is not None:
            message.framing = "length"
            message.body = self.exactly(int(length))
        else:
            message.framing = "close"
            message.body = self.rest()
        return message

    def request(self, method: str = "GET", target: str = "/", *lines: str, body: bytes = b"") -> Message:
        """Send a request in HTTP/1.1 and read its response."""
        self.send(request(method, target, *lines, body=body))
        return self.response(method)


def request(method: str = "GET", target: str = "/", *lines: str, body: bytes = b"", version: str = "1.1") -> bytes:
    """Return the bytes of a request with `Host: shop.test`."""
    head = [f"{method} {target} HTTP/{version}", "Host: shop.test", *lines]
    if body:
        head.append(f"Content-Length: {len(body)}")
    return "\r\n".join(head).encode("latin-1") + b"\r\n\r\n" + body


def response(status: int = 200, *lines: str, body: bytes = b"ok", version: str = "1.1") -> bytes:
    """Return the bytes of a response with a length."""
    head = [f"HTTP/{version} {status} Reason", *lines, f"Content-Length: {len(body)}"]
    return "\r\n".join(head).encode("latin-1") + b"\r\n\r\n" + body


class Peer(Stream):
    """One connection that a backend has accepted."""

    def __init__(self, sock: socket.socket, backend: Backend, number: int) -> None:
        super().__init__(sock)
        self.backend = backend
        self.number = number
        self.ended: str | None = None
        self.ended_ns = 0

    def more(self) -> None:
        try:
            super().more()
        except Ended as end:
            self.ended = end.how
            self.ended_ns = time.monotonic_ns()
            raise
        except OSError:
            # The test is over and closed the socket under this thread.
            raise Ended("closed") from None

    def head(self) -> Message:
        """Read a request's head."""
        message = parse_head(self.until(b"\r\n\r\n"))
        self.backend.requests.append(message)
        return message

    def request(self) -> Message:
        """Read a whole request."""
        message = self.head()
        self.body(message)
        return message

    def body(self, message: Message) -> None:
        length = message.get("Content-Length")
        if message.get("Transfer-Encoding"):
            assert message.get("Transfer-Encoding") == "chunked"
            assert length is None
            self.chunked(message)
        elif length is not None:
            message.framing = "length"
            message.body = self.exactly(int(length))


Script = Callable[[Peer], Any]


def ok(peer: Peer) -> None:
    """Answer every request with 200 and the backend's name."""
    while True:
        peer.request()
        peer.send(response(body=peer.backend.name.encode()))


def answers(*replies: bytes) -> Script:
    """Return a script that gives these answers in turn, on whichever connections, and the last one for ever."""
    left = list(replies)

    def script(peer: Peer) -> None:
        while True:
            peer.request()
            peer.send(left.pop(0) if len(left) > 1 else left[0])

    return script


def holding(release: threading.Event, first: bytes = b"", then: bytes = b"") -> Script:
    """Return a script that answers `first` at once and `then` when released, to every request."""

    def script(peer: Peer) -> None:
        while True:
            peer.request()
            peer.send(first)
            assert release.wait(30)
            peer.send(then or response())

    return script


def fails(status: int = 500) -> Script:
    """Return a script that answers every request with `status`."""
    return answers(response(status, body=b"bad"))


class Backend:
    """A server whose connections each run a script in a thread of their own.

    `scripts`: for the first, second, … connection; the last one for all that follow. A script that returns leaves its
    connection open; one whose stream ends is over.
    """

    def __init__(
        self,
        *scripts: Script,
        name: str = "stable",
        host: str = "127.0.0.1",
        unix: str = "",
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.name = name
        self.scripts: Sequence[Script] = scripts or (ok,)
        self.peers: list[Peer] = []
        self.requests: list[Message] = []
        self.errors: list[BaseException] = []
        self.tls = tls
        if unix:
            self.listener = socket.socket(socket.AF_UNIX)
            self.listener.bind(unix)
            self.endpoint = Endpoint(f"unix:{unix}", "localhost", 80, unix)
        else:
            self.listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
            self.listener.bind((host, 0))
            port = self.listener.getsockname()[1]
            shown = f"[{host}]" if ":" in host else host
            scheme = "http" if tls is None else "https"
            self.endpoint = Endpoint(f"{scheme}://{shown}:{port}", host, port, tls=tls is not None)
        self.listener.listen(512)
        self._threads: list[threading.Thread] = []
        self._acceptor = threading.Thread(target=self._accept, daemon=True)
        self._acceptor.start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            self.take(sock)

    def take(self, sock: socket.socket) -> None:
        """Run a script on an accepted connection."""
        peer = Peer(sock, self, len(self.peers))
        self.peers.append(peer)
        thread = threading.Thread(target=self._run, args=(peer,), daemon=True)
        self._threads.append(thread)
        thread.start()

    def _run(self, peer: Peer) -> None:
        script = self.scripts[min(peer.number, len(self.scripts) - 1)]
        try:
            if self.tls is not None:
                peer.sock = self.tls.wrap_socket(peer.sock, server_side=True, suppress_ragged_eofs=False)
            script(peer)
        except Ended:
            return
        except OSError:
            peer.ended = peer.ended or "reset"
        except BaseException as error:  # noqa: BLE001 -- handed to the test's thread
            self.errors.append(error)

    @property
    def open(self) -> int:
        """How many connections have not ended, as far as scripts that read have seen."""
        return sum(peer.ended is None for peer in self.peers)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self._acceptor.join(DEADLINE_S)
        for peer in self.peers:
            with contextlib.suppress(OSError):
                peer.sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(DEADLINE_S)
        for peer in self.peers:
            peer.sock.close()
        if self.endpoint.unix:
            Path(self.endpoint.unix).unlink()
        if self.errors:
            raise self.errors[0]


def refused_endpoint() -> tuple[Endpoint, socket.socket]:
    """Return an endpoint that refuses connections, and the socket that keeps its port from being given away."""
    holder = socket.socket()
    holder.bind(("127.0.0.1", 0))
    port = holder.getsockname()[1]
    return Endpoint(f"http://127.0.0.1:{port}", "127.0.0.1", port), holder


def deaf_endpoint() -> tuple[Endpoint, list[socket.socket]]:
    """Return an endpoint whose connections are never made: its accept queue is full."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(0)
    address = listener.getsockname()
    fillers = []
    for _ in range(3):
        filler = socket.socket()
        filler.setblocking(False)
        filler.connect_ex(address)
        fillers.append(filler)
    return Endpoint(f"http://127.0.0.1:{address[1]}", "127.0.0.1", address[1]), [listener, *fillers]
