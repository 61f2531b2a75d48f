"""Hooks: telling or asking something outside at the turns of a rollout.

A hook is a `url`, which gets a POST with a JSON object, or a command (`run`), which gets the same object as its
standard input. 2xx, or exit code 0, within the hook's time-out means go; everything else, silence too, is a failure,
and what was answered is shown to people. A redirect is not followed: it is a failure, because a page to log in at
would say 200. A command that does not end in time, or that says more than 1 MiB, is ended with all that it started.
What one that has ended leaves in the background goes on; what that says later than a second leads nowhere. Nothing here
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
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson

from proxy.controlplane.checks import reason
from proxy.rollout.plan import Hook

HEADERS = {"Content-Type": "application/json"}
SHOWN_BYTES = 4000  # of what a hook says
MOST_BYTES = 1024 * 1024  # of what a command may say
REST_S = 1.0  # what is left to the output of a command that has ended, and to the end of one that was killed
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


class _Output(asyncio.Protocol):
    """What a command says: `said`, up to a little more than what it may say; `much` when it said more; `ended`."""

    def __init__(self) -> None:
        self.said = bytearray()
        self.much = asyncio.Event()
        self.ended = asyncio.Event()

    def data_received(self, data: bytes) -> None:
        """Take what was said."""
        if not self.much.is_set():
            self.said += data
        if len(self.said) > MOST_BYTES:
            self.much.set()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """Take note that nobody can say anything any more."""
        self.ended.set()


async def _run(hook: Hook, told: dict[str, Any]) -> Answer:
    said: dict[str, Any] = {"run": list(hook.run)}
    output = _Output()
    try:
        process, pipe = await _begun(hook, told, output)
    except (OSError, ValueError) as error:
        return Answer(ok=False, said={**said, "why": f"cannot be started: {error}"})
    try:
        if not await _first(process.wait(), output.much.wait(), timeout_s=hook.timeout_s):
            said["why"] = f"did not end within {hook.timeout_s:g} s"
        elif not output.much.is_set():
            # What it left in the background may hold its output open for ever.
            await _first(output.ended.wait(), output.much.wait(), timeout_s=REST_S)
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await _first(process.wait(), timeout_s=REST_S)
            await _first(output.ended.wait(), output.much.wait(), timeout_s=REST_S)
        pipe.close()
    if output.much.is_set():
        said["why"] = f"said more than {MOST_BYTES} bytes"
    if "why" not in said:
        said["exit"] = process.returncode
    return Answer(said.get("exit") == 0, {**said, "output": _without_secrets(bytes(output.said[-SHOWN_BYTES:]))})


async def _begun(
    hook: Hook, told: dict[str, Any], output: _Output
) -> tuple[asyncio.subprocess.Process, asyncio.ReadTransport]:
    """Start a command; raise `OSError` or `ValueError` when it cannot be.

    Its input is a file, which nobody has to write while it reads; its output a pipe of ours, because the loop's own
    would let nobody know that the command has ended before all that it left behind have closed it.
    """
    reading, writing = (os.fdopen(end, mode) for end, mode in zip(os.pipe(), ("rb", "wb"), strict=True))
    with os.fdopen(os.memfd_create("tidegate-hook", os.MFD_CLOEXEC), "wb+") as about, writing:
        about.write(orjson.dumps(told))
        about.seek(0)
        pipe, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: output, reading)
        try:
            # Nothing is waited for behind it: whoever is cancelled in here leaves no command running.
            process = await asyncio.create_subprocess_exec(
                *hook.run,
                stdin=about,
                stdout=writing,
                stderr=asyncio.subprocess.STDOUT,
                cwd=hook.cwd,
                start_new_session=True,  # so that all that it starts can be ended with it
            )
        except BaseException:
            pipe.close()
            raise
    return process, pipe


async def _first(*waits: Coroutine[Any, Any, object], timeout_s: float) -> bool:
    """Wait for the first of some conditions; return False when none came true in time."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        done, _ = await asyncio.wait(tasks, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
    return bool(done)


def _without_secrets(said: bytes) -> str:
    text = said.decode(errors="replace")
    for name, value in os.environ.items():
        if len(value) >= LEAST_SECRET and SECRET.search(name):
            text = text.replace(value, "***")
    return text
