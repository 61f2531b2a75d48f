"""Waiting for conditions, with a deadline instead of sleeps."""

import asyncio
import time


async def until(condition, seconds=60.0):
    """Return the first true value of `condition()`; fail after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "the condition did not come true"
        await asyncio.sleep(0.01)
    return value


def until_now(condition, seconds=60.0):
    """Do the same without a loop."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.01)
    return value
