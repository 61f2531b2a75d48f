"""Hooks: telling or asking something outside at the turns of a rollout.

A hook is a `url`, which gets a POST with a JSON object, or a command (`run`), which gets the same object as its
standard input. 2xx, or exit code 0, within the hook's time-out means go; everything else, silence too, is a failure,
and what was answered is shown to people. A redirect is not followed: it is a failure, because a page to log in at
would say 200. A command that does not end in time, or that says more than 1 MiB, is ended with all that it started.
What an ended one leaves in the background goes on, and what it says after the first second leads nowhere. Nothing here
raises: a failing hook is an answer. One that is cancelled ends its command.

What a command says is shown to everybody who may read. So values of environment variables that are secrets by their
name are taken out of it: a script that prints its environment must not give the operator's token away.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson

from proxy.controlplane.checks import reason
from proxy.rollout.plan import Hook

HEADERS = {"Content-Type": "application/json"}
SHOWN_BYTES = 4000  # of what a hook says
MOST_BYTES = 1024 * 1024  # of what a command may say
READ_BYTES = 64 * 1024
END_S = 1.0  # what is left to the pipes of a command that was ended
SECRET = re.compile(r"TOKEN|SECRET|PASS|KEY|CREDENTIAL|AUTH", re.IGNORECASE)
LEAST_SECRET = 6  # characters; what is shorter would blank out anything


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
            session.post(where, data=orjson.dumps(told), headers=HEADERS, allow_redirects=False) as response,
        ):
            body = await response.content.read(SHOWN_BYTES)
            said = {"url": where, "status": response.status, "body": _without_secrets(body)}
            if 300 <= response.status < 400:
                said["why"] = f"answered {response.status}: a redirect is not followed"
            return Answer(200 <= response.status < 300, said)
    except TimeoutError:
        return Answer(ok=False, said={"url": where, "why": f"no answer within {hook.timeout_s:g} s"})
    except (aiohttp.ClientError, OSError, ValueError) as error:
        return Answer(ok=False, said={"url": where, "why": f"cannot be reached: {reason(error)}"})


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
    output = bytearray()
    talk = asyncio.create_task(_talk(process, orjson.dumps(told), output))
    try:
        if await asyncio.wait_for(asyncio.shield(talk), hook.timeout_s):
            said["exit"] = process.returncode
        else:
            said["why"] = f"said more than {MOST_BYTES} bytes"
    except TimeoutError:
        said["why"] = f"did not end within {hook.timeout_s:g} s"
    if "why" in said:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(_rest(process, talk), END_S)
    return Answer(said.get("exit") == 0, {**said, "output": _without_secrets(bytes(output[-SHOWN_BYTES:]))})


async def _talk(process: asyncio.subprocess.Process, told: bytes, output: bytearray) -> bool:
    """Tell a command what it is about and take what it says, to its end; return False when that is too much."""
    if process.stdin is not None and process.stdout is not None:
        process.stdin.write(told)
        process.stdin.close()
        while chunk := await process.stdout.read(READ_BYTES):
            output += chunk
            if len(output) > MOST_BYTES:
                return False
    await process.wait()
    return True


async def _rest(process: asyncio.subprocess.Process, talk: asyncio.Task[bool]) -> None:
    """Wait for the end of a command that was killed."""
    await talk
    while process.stdout is not None and await process.stdout.read(READ_BYTES):
        pass
    await process.wait()


def _without_secrets(said: bytes) -> str:
    text = said.decode(errors="replace")
    for name, value in os.environ.items():
        if len(value) >= LEAST_SECRET and SECRET.search(name):
            text = text.replace(value, "***")
    return text
