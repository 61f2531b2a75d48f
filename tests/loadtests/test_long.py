"""A short version of `python -m loadtests.reach long`."""

import asyncio

import pytest

from loadtests.reach import long

FULL_AFTER = 1000  # blocks: by then every ring has what it ever holds


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_four_times_as_many_blocks_hold_no_more(tmp_path):
    async def main():
        async with long.life(tmp_path) as one:
            found = []
            for times in (1, 3):
                for _ in range(times * FULL_AFTER):
                    await one.block()
                await one.settle()
                found.append(one.held(0))
            assert one.controller.services.entry("web").state.weight_bp == 5000
        return found

    first, second = asyncio.run(main())
    # Ten reports of progress are kept in memory meanwhile, packed.
    assert second.objects - first.objects < 800
    assert second.resident_kib - first.resident_kib < 1024
