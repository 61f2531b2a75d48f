"""Hooks: telling or asking something outside at the turns of a rollout.

A hook is a `url`, which gets a POST with a JSON object, or a command (`run`), which gets the same object as its
standard input. 2xx, or exit code 0, within the hook's time-out means go; everything else, silence too, is a failure,
and what was answered is shown to people. A command that does not end in time is ended with all that it started.
Nothing here raises: a failing hook is an answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson

from proxy.rollout.plan import Hook

SHOWN_BYTES = 4000  # of what a hook says
END_S = 1.0  # what is left to the pipes of a command that was ended


@dataclass(frozen=True, slots=True)
class Answer:
    """Whether a hook says go, and what it said, for people and events."""

    ok: bool
    said: dict[str, Any]


async def call(hook: Hook, name: str, about: dict[str, Any]) -> Answer:
    """Call a hook; return its answer within its time-out."""
    told = {"hook": name, **about}
    found = await (_post(hook, told) if hook.url is not None else _run(hook, told))
    return Answer(found.ok, {"hook": name, **found.said})


async def _post(hook: Hook, told: dict[str, Any]) -> Answer:
    where = str(hook.url)
    timeout = aiohttp.ClientTimeout(total=hook.timeout_s)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.post(where, data=orjson.dumps(told), headers={"content-type": "application/json"}) as response,
        ):
            body = await response.content.read(SHOWN_BYTES)
            text = body.decode(errors="replace")
            return Answer(200 <= response.status < 300, {"url": where, "status": response.status, "body": text})
    except TimeoutError:
        return Answer(ok=False, said={"url": where, "why": f"no answer within {hook.timeout_s:g} s"})
    except (aiohttp.ClientError, OSError, ValueError) as error:
        return Answer(ok=False, said={"url": where, "why": f"cannot be reached: {error}"})


async def _run(hook: Hook, told: dict[str, Any]) -> Answer:
    said: dict[str, Any] = {"run": list(hook.run)}
    try:
        process = await asyncio.create_subprocess_exec(
            *hook.run,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            cwd=hook.cwd,
            start_new_session=True,  # so that all that it starts can be ended with it
        )
    except (OSError, ValueError) as error:
        return Answer(ok=False, said={**said, "why": f"cannot be started: {error}"})
    talk = asyncio.create_task(process.communicate(orjson.dumps(told)))
    try:
        output, _ = await asyncio.wait_for(asyncio.shield(talk), hook.timeout_s)
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        output = b""
        with contextlib.suppress(TimeoutError):
            output, _ = await asyncio.wait_for(talk, END_S)
        said["why"] = f"did not end within {hook.timeout_s:g} s"
    else:
        said["exit"] = process.returncode
    return Answer(said.get("exit") == 0, {**said, "output": output[-SHOWN_BYTES:].decode(errors="replace")})
