"""An endpoint for very large bodies, as a program: sends or takes 2 GiB and may stand still for a while in the middle.

`python -m loadtests.reach.stream SECONDS` prints its port. `GET /…` is answered with `SIZE` bytes; of a body that is
sent to it, it takes half, then nothing for `SECONDS`, then the rest, and says how much it was.
"""

from __future__ import annotations

import contextlib
import socket
import sys
import time

SIZE = 2 * 1024**3
_PIECE = bytes(1 << 20)


def answer(connection: socket.socket, pause_s: float) -> None:
    """Serve one request on a fresh connection."""
    head = b""
    while b"\r\n\r\n" not in head:
        head += connection.recv(65536)
    if head.startswith(b"GET"):
        connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % SIZE)
        for _ in range(SIZE // len(_PIECE)):
            connection.sendall(_PIECE)
        return
    taken = len(head.partition(b"\r\n\r\n")[2])
    paused = False
    while taken < SIZE:
        if taken > SIZE // 2 and not paused:
            paused = True
            time.sleep(pause_s)
        taken += len(connection.recv(1 << 20)) or SIZE
    text = b"%d" % taken
    connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(text) + text)


if __name__ == "__main__":
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    while True:
        accepted, _ = listener.accept()
        with accepted, contextlib.suppress(OSError):
            answer(accepted, float(sys.argv[1]))
