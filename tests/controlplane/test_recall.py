"""A long past is read by another process: what it says, what fails, and that it ends with who waits."""

import asyncio
import json

import pytest

from proxy.controlplane.blocks import Blocks
from proxy.controlplane.recall import recall

HEADER = {"block_s": 0.25, "limits": {"error_rate": 0.01}, "hdr": {}, "judged": {"weight": 5}}


def written(directory, seconds=60):
    blocks = Blocks(directory)
    lines = [{"header": HEADER}]
    for number in range(1, 4 * seconds + 1):
        counts = {"requests": 10, "bad": 1, "over": {}}
        lines.append({"t": 1000 + number / 4, "stable": counts, "new": counts | {"hist": {"900": 3}}})
    blocks.path("a/web").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return blocks


@pytest.mark.slow
def test_it_says_what_the_blocks_say(tmp_path):
    blocks = written(tmp_path)
    found = asyncio.run(recall(tmp_path, "a/web", 1000.0, 1060.0))
    assert found == blocks.past("a/web", 1000.0, 1060.0)
    assert sum(point["new"]["bad"] for point in found) == 240
    assert asyncio.run(recall(tmp_path, "nobody", 1000.0, 1060.0)) == []


@pytest.mark.slow
def test_what_cannot_be_read_is_said_and_is_no_past(tmp_path, caplog):
    assert asyncio.run(recall(tmp_path, 300 * "x", 1000.0, 1060.0)) == []
    (record,) = caplog.records
    assert record.message.startswith("the block journal of xxx")
    assert "File name too long" in record.message


@pytest.mark.slow
def test_it_ends_when_nobody_waits_any_more(tmp_path, monkeypatch):
    processes = []
    start = asyncio.create_subprocess_exec

    async def remembered(*command, **more):
        processes.append(await start(*command, **more))
        return processes[-1]

    monkeypatch.setattr(asyncio, "create_subprocess_exec", remembered)

    async def main():
        reading = asyncio.create_task(recall(written(tmp_path).path("a/web").parent, "a/web", 1000.0, 1060.0))
        async with asyncio.timeout(30):
            while not processes:  # noqa: ASYNC110
                await asyncio.sleep(0)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        assert processes[0].returncode is not None

    asyncio.run(main())
