"""How soon an endpoint sees that a client has left, in every phase of a request and for both ways of leaving.

The client ends its connection with FIN (a close after everything was read) or RST; measured is the time until the
kernel of the endpoint's connection has it, asked every half millisecond (TCP_INFO): nothing that the endpoint itself
does or leaves undone is in it. Before the head is complete no endpoint is involved, and while a connection is being
made it has nothing to see; that the proxy gives up in these phases too is what tests/dataplane/test_gone.py holds.
What has to be reached: 100 ms; 1 s where back-pressure has paused reading (*stalled*: the endpoint takes no more of
the body; *pipelined*: more requests wait behind this one than the proxy keeps). There the client sends no more than the
proxy's kernel takes: a FIN behind bytes for which there is no room does not arrive, and nobody can know of it.
"""

from __future__ import annotations

import socket
import struct
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from proxy.cli.demo.parts import Proxy

PHASES = ("body", "waiting", "answer", "tunnel", "stalled", "pipelined")
PAUSED = ("stalled", "pipelined")
ENDS = ("FIN", "RST")
WAIT_S = 10.0
STILL = 20  # looks at 10 ms each in which the proxy took nothing: it does not read
_ESTABLISHED = 1
_HEAD = b"Host: a\r\n"
_GET = b"GET / HTTP/1.1\r\n" + _HEAD + b"\r\n"
_POST = b"POST / HTTP/1.1\r\n" + _HEAD + b"Content-Length: 1000000000\r\n\r\n"
_UPGRADE = b"GET / HTTP/1.1\r\n" + _HEAD + b"Connection: Upgrade\r\nUpgrade: foo\r\n\r\n"
_SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: foo\r\n\r\n"
_HALF = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf"


def delays(rounds: int, rounds_paused: int) -> Iterator[tuple[str, str, list[float]]]:
    """Yield (phase, end, seconds of each round, ascending)."""
    with socket.create_server(("127.0.0.1", 0)) as endpoint, tempfile.TemporaryDirectory(prefix="tidegate-gone-") as at:
        endpoint.settimeout(WAIT_S)
        port = endpoint.getsockname()[1]
        proxy = Proxy(Path(at), {"stable": port, "new": port}, 0)
        try:
            proxy.wait_ready()
            for phase in PHASES:
                for end in ENDS:
                    many = rounds_paused if phase in PAUSED else rounds
                    yield phase, end, sorted(_delay(endpoint, proxy.port, phase, end) for _ in range(many))
        finally:
            proxy.close()


def _delay(endpoint: socket.socket, port: int, phase: str, end: str) -> float:
    with socket.create_connection(("127.0.0.1", port), timeout=WAIT_S) as client:
        begin, answer, then = _SCRIPT[phase]
        client.sendall(begin)
        peer, _ = endpoint.accept()
        with peer:
            peer.settimeout(WAIT_S)
            peer.recv(4096)
            if answer:
                peer.sendall(answer)
                client.recv(4096)
            then(client)
            if end == "RST":
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            begun = time.perf_counter()
            client.close()
            while peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _ESTABLISHED:
                time.sleep(0.0005)
                if time.perf_counter() - begun > WAIT_S:
                    raise TimeoutError(f"{phase}, {end}: the endpoint has seen nothing for {WAIT_S:g} s")
            return time.perf_counter() - begun


def _fill(client: socket.socket) -> None:
    """Send until the proxy reads no more."""
    ours, theirs = client.getsockname()[1], client.getpeername()[1]
    mark = b":%04X 0100007F:%04X " % (theirs, ours)
    still = 0
    while still < STILL:
        table = Path("/proc/net/tcp").read_bytes()
        at = table.index(mark)
        if int(table[at : at + 64].split(maxsplit=4)[3].split(b":")[1], 16):
            still += 1
            time.sleep(0.01)
        else:
            still = 0
            client.sendall(_GET * 2000)


def _nothing(_client: socket.socket) -> None:
    """Leave it at that."""


# What the client sends, what the endpoint answers, what the client does then.
_SCRIPT: dict[str, tuple[bytes, bytes, Callable[[socket.socket], None]]] = {
    "body": (_POST + b"x" * 1000, b"", _nothing),
    "waiting": (_GET, b"", _nothing),
    "answer": (_GET, _HALF, _nothing),
    "tunnel": (_UPGRADE, _SWITCH, _nothing),
    "stalled": (_POST, b"", _fill),
    "pipelined": (_GET, b"", _fill),
}
