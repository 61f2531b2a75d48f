"""What can be seen of the workers from outside: their rows on the board, and whose connection is whose."""

from __future__ import annotations

import contextlib
import mmap
import os
from dataclasses import dataclass
from pathlib import Path

from proxy.ipc.layout import BOARD_ROWS, ROW_CONNECTIONS, ROW_GENERATION, ROW_PID, ROW_WORDS, WORD

ESTABLISHED = "01"


@dataclass(frozen=True, slots=True)
class Row:
    """A worker's row: its pid, the generation in force there, and its open client connections."""

    pid: int
    generation: int
    connections: int


def rows(supervisor: int) -> list[Row]:
    """Read the board of a supervisor: a row per worker that has begun."""
    board = next(path for path in Path(f"/proc/{supervisor}/fd").iterdir() if "tidegate-board" in str(path.readlink()))
    with board.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        words = memoryview(mapped).cast("B")[: len(mapped) // WORD * WORD].cast("Q")
        values = words.tolist()
        words.release()
    starts = range(BOARD_ROWS, len(values) - ROW_WORDS + 1, ROW_WORDS)
    found = [Row(values[at + ROW_PID], values[at + ROW_GENERATION], values[at + ROW_CONNECTIONS]) for at in starts]
    return [row for row in found if row.pid]


def clients_of(pid: int, port: int) -> set[int]:
    """Return the clients' ports of the connections to 127.0.0.1:`port` that a process holds. It should stand still."""
    inodes = set()
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            inodes.add(os.readlink(path).removeprefix("socket:[").removesuffix("]"))  # noqa: PTH115 - the text
    found = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if int(fields[1][9:], 16) == port and fields[9] in inodes and fields[3] != "0A":
            found.add(int(fields[2][9:], 16))
    return found
