"""Reading a long past of the block journal in a process of its own, at a low priority.

The blocks of two days take seconds of CPU. In a thread of the supervisor they would share one interpreter with the
beat: a thread that is not scheduled while it holds the interpreter's lock holds up the controller as well, and a beat
that is late by the watchdog sends every user to stable. So another process reads the files and gives the points of a
report.

What the supervisor calls: `python -m proxy.controlplane.recall DIRECTORY SERVICE SINCE UNTIL` prints them as JSON.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE
from pathlib import Path
from typing import cast

import orjson

from proxy.controlplane.blocks import Blocks
from proxy.controlplane.operations import Json
from proxy.controlplane.platform import python_command

NICE = 10

log = logging.getLogger("tidegate.blocks")


async def recall(directory: Path, service: str, since: float, until: float) -> list[Json]:
    """Return what was written of a service from `since` to `until` (s since 1970), as points of a report.

    They are empty, and the log says so, when the journal could not be read. Cancelled, the reading ends.
    """
    command = (*python_command("proxy.controlplane.recall"), str(directory), service, repr(since), repr(until))
    # A session of its own: what a terminal sends to the supervisor is not meant for it.
    process = await asyncio.create_subprocess_exec(
        *command, stdin=DEVNULL, stdout=PIPE, stderr=PIPE, start_new_session=True
    )
    try:
        found, said = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        last = said.decode("utf-8", "replace").strip().rpartition("\n")[2]
        log.error("the block journal of %s could not be read: %s", service, last or f"exit code {process.returncode}")
        return []
    return cast("list[Json]", orjson.loads(found))


def main() -> None:
    """Print the points."""
    directory, service, since, until = sys.argv[1:]
    os.nice(NICE)
    sys.stdout.buffer.write(orjson.dumps(Blocks(Path(directory)).past(service, float(since), float(until))))


if __name__ == "__main__":
    main()
