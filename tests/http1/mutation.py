"""Makes hostile messages out of the corpus."""

from __future__ import annotations

import random

PIECES = (
    [bytes([byte]) for byte in b"\r\n\t \0:;,=\"'\\/#?*%[]{}0159afAFxX+-\x0b\x7f\x80\xff"]
    + [
        b"\r\n",
        b"\n\n",
        b"\r\r\n",
        b"\r\n\r\n",
        b"\r\n ",
        b"0\r\n\r\n",
        b" HTTP/1.1",
        b"HTTP/1.0",
        b"chunked",
        b"close",
    ]
    + [b"\r\nContent-Length: 5", b"\r\nTransfer-Encoding: chunked", b"\r\nHost: a", b"\r\nConnection: upgrade, close"]
    + [b"\r\nX: y", b"\r\nUpgrade: x", b"\r\nTrailer: x", b"\r\nExpect: 100-continue", b"GET / HTTP/1.1\r\n"]
)


def mutate(data: bytes, chance: random.Random, others: list[bytes]) -> bytes:
    """Return `data` after one to four changes; `others` lend parts of themselves."""
    for _ in range(chance.choice((1, 1, 1, 2, 2, 3, 4))):
        place = chance.randrange(len(data) + 1)
        size = chance.choice((1, 1, 2, 3, 8, 20))
        match chance.randrange(6):
            case 0:
                data = data[:place] + chance.choice(PIECES) + data[place:]
            case 1:
                data = data[:place] + chance.choice(PIECES) + data[place + size :]
            case 2:
                data = data[:place] + data[place + size :]
            case 3:
                data = data[:place] + data[place : place + size] + data[place:]
            case 4:
                lines = data.split(b"\r\n")
                lines.insert(chance.randrange(len(lines) + 1), chance.choice(chance.choice(others).split(b"\r\n")))
                data = b"\r\n".join(lines)
            case 5:
                lines = data.split(b"\r\n")
                first, second = chance.randrange(len(lines)), chance.randrange(len(lines))
                lines[first], lines[second] = lines[second], lines[first]
                data = b"\r\n".join(lines)
    return data
