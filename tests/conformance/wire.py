"""Both ends of a proxy under test, on raw sockets: a backend that writes down every byte, and a client that sends any.

*Recorder*: the backend. It reads requests by the letter of RFC 9112 and nothing else: what it cannot read so is
*garbage*, which is always a failure of the proxy. It answers what the case says. *Seen*: one request as it arrived.
*Talk*: what happened in a case, at both ends.
"""

from __future__ import annotations

import contextlib
import re
import socket
import struct
import threading
import time
from dataclasses import dataclass, field

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
# Requests of the suite itself, which are not part of a case's record.
PROBE = b"/--probe--"
PATIENCE = 30.0

BODY, CLOSE, RESET, FIN, HELD = "body", "close", "reset", "fin", "held"
_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+\Z")
_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*\Z")


class Unreadable(Exception):
    """The bytes are no message as RFC 9112 writes it."""


@dataclass
class Seen:
    """One message as it arrived: start line, field lines, body without framing, trailer lines."""

    start: bytes
    lines: list[bytes]
    body: bytes = b""
    trailers: list[bytes] = field(default_factory=list)
    whole: bool = False

    def values(self, name: bytes) -> list[bytes]:
        """Return the values of a field, in order."""
        return [
            value.strip(b" \t")
            for key, _, value in (line.partition(b":") for line in self.lines)
            if key.lower() == name.lower()
        ]


def read_head(data: bytes) -> tuple[Seen, int] | None:
    """Return a head and its size, `None` when it is not whole; strict."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return None
    start, *lines = data[:end].split(b"\r\n")
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon or not _TOKEN.match(name) or not _VALUE.match(value):
            raise Unreadable(f"field line {line!r}")
    if not _VALUE.match(start):
        raise Unreadable(f"start line {start!r}")
    return Seen(start, lines), end + 4


def framing(seen: Seen) -> int | None:
    """Return the length of the body; `None` when it is chunked, -1 when nothing is said."""
    lengths, codings = seen.values(b"content-length"), seen.values(b"transfer-encoding")
    if len(lengths) + len(codings) > 1:
        raise Unreadable(f"framed twice: {lengths} {codings}")
    if codings:
        if codings[0].lower() != b"chunked":
            raise Unreadable(f"coding {codings[0]!r}")
        return None
    if not lengths:
        return -1
    if not re.fullmatch(rb"[0-9]{1,19}", lengths[0]):
        raise Unreadable(f"length {lengths[0]!r}")
    return int(lengths[0])


def read_chunks(data: bytes, seen: Seen) -> int:
    """Read a chunked body from the start of `data` into `seen`; return the bytes used, -1 when it is not whole."""
    at = 0
    body = b""
    while True:
        end = data.find(b"\r\n", at)
        if end < 0:
            if not re.fullmatch(rb"[0-9A-Fa-f]{0,16}\r?", data[at:]):
                raise Unreadable(f"chunk {data[at : at + 40]!r}")
            break
        if not re.fullmatch(rb"[0-9A-Fa-f]{1,16}", data[at:end]):
            raise Unreadable(f"chunk {data[at : at + 40]!r}")
        size = int(data[at:end], 16)
        at = end + 2
        if size == 0:
            while (end := data.find(b"\r\n", at)) > at:
                name, colon, _ = data[at:end].partition(b":")
                if not colon or not _TOKEN.match(name):
                    raise Unreadable(f"trailer {data[at:end]!r}")
                seen.trailers.append(data[at:end])
                at = end + 2
            if end < 0:
                break
            seen.body, seen.whole = body, True
            return end + 2
        body += data[at : at + size]
        if len(data) < at + size + 2:
            break
        if data[at + size : at + size + 2] != b"\r\n":
            raise Unreadable("no CRLF after a chunk")
        at += size + 2
    seen.body = body
    seen.trailers = []
    return -1


def check_request(seen: Seen) -> None:
    """Refuse what no intermediary may send."""
    if not re.fullmatch(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+ [\x21-\x7e\x80-\xff]+ HTTP/1\.[01]", seen.start):
        raise Unreadable(f"request line {seen.start!r}")
    if len(seen.values(b"host")) != 1:
        raise Unreadable(f"hosts {seen.values(b'host')}")


class Recorder:
    """The backend; `answers` and `moment` are those of the case in progress."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port = self.listener.getsockname()[1]
        self.lock = threading.Condition()
        self.connections: set[socket.socket] = set()
        self.closed = False
        self.begin(None, early=False)
        threading.Thread(target=self._accept, daemon=True).start()

    def begin(self, answers: list[object] | None, *, early: bool) -> None:
        """Forget what was seen; answer the requests from now on with `answers`, the last one again and again."""
        with self.lock:
            self.answers = answers or [OK]
            self.early = early
            self.seen: list[Seen] = []
            self.garbage: list[str] = []
            self.raw = b""
            self.tunnelled = b""
            self.aborted = 0

    def close(self) -> None:
        """End."""
        self.closed = True
        self.listener.close()
        for sock in list(self.connections):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def wait(self, condition) -> bool:
        """Wait until `condition()` holds, for a moment at most."""
        with self.lock:
            return self.lock.wait_for(condition, PATIENCE)

    def _accept(self) -> None:
        while not self.closed:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            self.connections.add(sock)
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            self._talk(sock)
        except OSError:
            with self.lock:
                self.aborted += 1
                self.lock.notify_all()
        except Unreadable as error:
            with self.lock:
                self.garbage.append(str(error))
                self.lock.notify_all()
            with contextlib.suppress(OSError):
                sock.sendall(b"HTTP/1.1 599 Garbage\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        finally:
            self.connections.discard(sock)
            sock.close()

    def _more(self, sock: socket.socket, data: bytes) -> bytes | None:
        piece = sock.recv(65536)
        with self.lock:
            if PROBE not in piece:
                self.raw += piece
        return data + piece if piece else None

    def _talk(self, sock: socket.socket) -> None:
        data = b""
        while True:
            while (head := read_head(data)) is None:
                if (more := self._more(sock, data)) is None:
                    if data:
                        raise Unreadable(f"half a head: {data[:60]!r}")
                    return
                data = more
            seen, size = head
            data = data[size:]
            if PROBE in seen.start:
                sock.sendall(OK)
                continue
            check_request(seen)
            length = framing(seen)
            with self.lock:
                number = len(self.seen)
                self.seen.append(seen)
                answer = self.answers[min(number, len(self.answers) - 1)]
                early = self.early
                self.lock.notify_all()
            if isinstance(answer, list) and BODY in answer:
                at = answer.index(BODY)
                self._answer(sock, answer[:at])
                answer = answer[at + 1 :]
            if early and not self._answer(sock, answer):
                return
            while not seen.whole:
                if length is None:
                    used = read_chunks(data, seen)
                else:
                    size = max(length, 0)
                    seen.body = data[:size]
                    seen.whole = len(data) >= size
                    used = size if seen.whole else -1
                if seen.whole:
                    data = data[used:]
                    break
                if (more := self._more(sock, data)) is None:
                    with self.lock:
                        self.aborted += 1
                        self.lock.notify_all()
                    return
                data = more
            with self.lock:
                self.lock.notify_all()
            if not early and not self._answer(sock, answer):
                return
            if seen.values(b"upgrade") and isinstance(answer, bytes) and answer.startswith(b"HTTP/1.1 101"):
                while True:
                    with self.lock:
                        self.tunnelled += data
                        self.lock.notify_all()
                    sock.sendall(data)
                    data = sock.recv(65536)
                    if not data:
                        return

    def _answer(self, sock: socket.socket, answer: object) -> bool:
        """Send an answer; tell whether the connection goes on."""
        for step in answer if isinstance(answer, list | tuple) else [answer]:
            if isinstance(step, bytes):
                sock.sendall(step)
            elif step == CLOSE:
                return False
            elif step == FIN:
                sock.shutdown(socket.SHUT_WR)
            elif step == RESET:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return False
            elif step == HELD:
                while sock.recv(65536):
                    pass
                with self.lock:
                    self.aborted += 1
                    self.lock.notify_all()
                return False
            else:
                time.sleep(float(step))
        return True


@dataclass
class Talk:
    """What a case came to. `ended`: "open", "fin" or "reset"; `cut`: the last answer is not whole."""

    seen: list[Seen]
    garbage: list[str]
    interims: list[Seen]
    answers: list[Seen]
    ended: str
    cut: bool
    received: bytes
    reused: bool | None = None
    tunnelled: bytes = b""

    @property
    def statuses(self) -> tuple[int, ...]:
        """Return the statuses of the final answers."""
        return tuple(status_of(answer) for answer in self.answers)


def status_of(answer: Seen) -> int:
    """Return the status of an answer."""
    if not re.match(rb"HTTP/1\.[01] [0-9]{3} ", answer.start + b" "):
        raise Unreadable(f"status line {answer.start!r}")
    return int(answer.start[9:12])


def read_answers(data: bytes, methods: list[bytes], *, ended: bool) -> tuple[list[Seen], list[Seen], bytes]:
    """Read interim and final answers; return them and what is left. The last final one may be not whole."""
    interims: list[Seen] = []
    answers: list[Seen] = []
    while data:
        head = read_head(data)
        if head is None:
            break
        seen, size = head
        status = status_of(seen)
        if status < 200 and status != 101:
            interims.append(seen)
            data = data[size:]
            continue
        method = methods[min(len(answers), len(methods) - 1)]
        data = data[size:]
        answers.append(seen)
        if status == 101:
            seen.body, seen.whole, data = data, True, b""
            break
        length = framing(seen)
        if method == b"HEAD" or status in {204, 304}:
            seen.whole = True
            continue
        if length is None:
            used = read_chunks(data, seen)
        elif length < 0:
            seen.body, seen.whole, used = data, ended, len(data) if ended else -1
        else:
            seen.body, seen.whole = data[:length], len(data) >= length
            used = length if seen.whole else -1
        if used < 0:
            break
        data = data[used:]
    return interims, answers, data


class Client:
    """One connection to the proxy."""

    def __init__(self, port: int, methods: list[bytes]) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), 5)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.methods = methods
        self.received = b""
        self.ended = "open"

    def send(self, data: bytes) -> None:
        """Send; a proxy that has closed already is no error."""
        self.sock.settimeout(PATIENCE)
        try:
            self.sock.sendall(data)
        except OSError:
            self.ended = self.ended if self.ended != "open" else "open"

    def finals(self) -> int:
        """Return how many whole final answers have come."""
        try:
            return sum(answer.whole for answer in read_answers(self.received, self.methods, ended=False)[1])
        except Unreadable:
            return 99

    def read(self, patience: float) -> bool:
        """Take what comes within `patience` seconds; tell whether something did."""
        self.sock.settimeout(patience)
        try:
            data = self.sock.recv(65536)
        except TimeoutError:
            return False
        except ConnectionError:
            self.ended = "reset"
            return False
        if not data:
            self.ended = "fin"
            return False
        self.received += data
        return True

    def read_until(self, condition, patience: float = PATIENCE) -> bool:
        """Read until `condition()` holds or the connection ends."""
        limit = time.monotonic() + patience
        while not condition():
            left = limit - time.monotonic()
            if left <= 0 or self.ended != "open":
                return condition()
            self.read(left)
        return True

    def read_to_the_end(self, patience: float) -> None:
        """Read until the connection ends, or nothing came for `patience` seconds."""
        while self.ended == "open" and self.read(patience):
            pass

    def close(self) -> None:
        """Close."""
        self.sock.close()
