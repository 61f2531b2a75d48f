"""Checks: numbers that are read from elsewhere, while nobody waits for them.

The problem: a limit on memory, queue length or anything else that does not pass through the proxy needs a number from
an exporter's URL or a file, and whatever that place does (hangs, answers a page of HTML, sends without end) must not
hold up the controller's tick, nor count as good or as bad.

Nouns: a *check* says where a number is (`proxy.rollout.plan.Check`); a *reading* is what it gave last: a value, or an
error. Every check has a task of its own in the supervisor's loop: it reads at once, then at the multiples of `every`.

Rules: a reading never raises, takes `timeout` at most, and holds at most `BODY_MAX` bytes. Only the status 200 is an
answer; redirects are not followed. Booleans and texts are no numbers. Files are read in a thread of their own, which
does not keep the process from ending when the file system hangs; until it comes back the check starts no other.
What an error says names host and port, or the file: not the path or query of a URL and not its user, because these
may be secrets, and nothing of what was read.
"""

from __future__ import annotations

import asyncio
import os
import stat
import threading
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urlsplit

import aiohttp
import orjson

from proxy.aio import every
from proxy.clock import Clock
from proxy.rollout import analysis
from proxy.rollout.plan import Check, ServicePlan

BODY_MAX = 64 * 1024  # bytes
_HEADERS = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "tidegate"}

_REASONS: tuple[tuple[tuple[type[Exception], ...], str], ...] = (
    ((aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError), "the URL is not one of http or https"),
    ((aiohttp.ClientSSLError,), "TLS failed"),
    (
        (aiohttp.ServerDisconnectedError, aiohttp.ClientPayloadError),
        "the connection was closed before the answer was complete",
    ),
    ((aiohttp.ClientResponseError,), "what it answers is not valid HTTP"),
)


@dataclass(frozen=True, slots=True)
class Reading(analysis.Reading):
    """`at`: when it was made (monotonic seconds); `failures_in_a_row`: 0 with a value. Number 0: none was made yet."""

    at: float = 0.0
    failures_in_a_row: int = 0


_NONE_YET = Reading(0)


class _NoNumberError(Exception):
    """Why a place gave no number; the text is for people, and without secrets."""


class Checks:
    """Reads the checks of all services until it is closed. Use within a running loop.

    `session`: an HTTP client to use; without it there is one of its own.
    """

    def __init__(self, clock: Clock, session: aiohttp.ClientSession | None = None) -> None:
        self._clock = clock
        self._session = session
        self._own: aiohttp.ClientSession | None = None
        self._tasks: dict[tuple[str, Check], asyncio.Task[None]] = {}
        self._readings: dict[tuple[str, str], Reading] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._hanging: set[tuple[str, Check]] = set()  # whose thread has not come back

    def watch(self, plans: Iterable[ServicePlan]) -> None:
        """Read the checks of these services from now on, and no others.

        One that is the same as before goes on, with its last reading; a changed one begins anew.
        """
        wanted = {(plan.name, check) for plan in plans for check in plan.checks}
        for key in self._tasks.keys() - wanted:
            task = self._tasks.pop(key)
            task.cancel()
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)
            service, check = key
            self._readings.pop((service, check.name), None)
        for key in wanted - self._tasks.keys():
            self._tasks[key] = asyncio.create_task(self._go_on(*key), name=f"check {key[0]} {key[1].name}")

    def reading(self, service: str, name: str) -> Reading:
        """Return what the check gave last; number 0 when it has given nothing yet, or is not known."""
        return self._readings.get((service, name), _NONE_YET)

    def readings(self, service: str) -> dict[str, Reading]:
        """Return the last readings of a service by check; one that was not read yet is not among them."""
        return {name: reading for (of, name), reading in self._readings.items() if of == service}

    async def close(self) -> None:
        """Stop reading."""
        self.watch(())
        await asyncio.gather(*self._ending, return_exceptions=True)
        if self._own is not None:
            await self._own.close()
            self._own = None

    async def _go_on(self, service: str, check: Check) -> None:
        await self._read(service, check)
        async for _ in every(check.every_s):
            await self._read(service, check)

    async def _read(self, service: str, check: Check) -> None:
        """Make a reading, whatever comes of it."""
        value: float | None = None
        error = ""
        try:
            async with asyncio.timeout(check.timeout_s):
                document = await (self._fetch(check) if check.url is not None else self._load(service, check))
            value = _number(document, check)
        except _NoNumberError as why:
            error = str(why)
        except TimeoutError:
            error = f"{place(check)} took longer than {check.timeout_s:g} s"
        except (aiohttp.ClientError, OSError) as why:
            error = f"{place(check)}: {reason(why)}"
        except Exception as why:  # noqa: BLE001 -- a check that fails in whatever way is an error, no more
            error = f"{place(check)}: {type(why).__name__}"
        before = self.reading(service, check.name)
        self._readings[service, check.name] = Reading(
            number=before.number + 1,
            value=value,
            error=error,
            at=self._clock.monotonic_ns() / 1e9,
            failures_in_a_row=before.failures_in_a_row + 1 if error else 0,
        )

    async def _fetch(self, check: Check) -> bytes:
        """Return the body of the answer to a GET."""
        session = self._session
        if session is None:
            session = self._own = self._own or aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar())
        async with session.get(
            cast("str", check.url), headers=_HEADERS, allow_redirects=False, auto_decompress=False
        ) as answer:
            if answer.status != 200:
                raise _NoNumberError(f"{place(check)} answered {answer.status}")
            body = b""
            while piece := await answer.content.read(BODY_MAX + 1 - len(body)):
                body += piece
                if len(body) > BODY_MAX:
                    answer.close()
                    raise _too_large(check)
            return body

    async def _load(self, service: str, check: Check) -> bytes:
        """Return what is in the file. The thread may outlive the wait for it, and even the loop."""
        if (service, check) in self._hanging:
            raise _NoNumberError(f"{place(check)}: the last reading still hangs")
        loop = asyncio.get_running_loop()
        result: asyncio.Future[bytes] = loop.create_future()
        self._hanging.add((service, check))

        def settle(content: bytes, error: Exception | None) -> None:
            self._hanging.discard((service, check))
            if result.done():
                return
            if error is None:
                result.set_result(content)
            else:
                result.set_exception(error)

        def work() -> None:
            content, error = b"", None
            try:
                content = _content(check)
            except Exception as why:  # noqa: BLE001 -- it is raised where it is waited for
                error = why
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(settle, content, error)

        threading.Thread(target=work, name=f"check {check.name}", daemon=True).start()
        return await result


def place(check: Check) -> str:
    """Return where a check reads, without what may be secret: scheme, host and port of a URL, or the file."""
    if check.url is None:
        return str(check.file)
    try:
        parts = urlsplit(check.url)
    except ValueError:
        return "the URL"
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def reason(error: Exception) -> str:
    """Return why a place could not be reached, in words that never hold a URL."""
    for kinds, words in _REASONS:
        if isinstance(error, kinds):
            return words
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    if isinstance(cause, OSError) and cause.errno and cause.errno > 0:
        return os.strerror(cause.errno).lower()
    return "the name is not known" if isinstance(error, aiohttp.ClientConnectorError) else type(error).__name__


def _content(check: Check) -> bytes:
    # Not blocking: to open a FIFO would wait for its writer.
    descriptor = os.open(str(check.file), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise _NoNumberError(f"{place(check)} is not a regular file")
        content = b""
        while len(content) <= BODY_MAX and (piece := os.read(descriptor, BODY_MAX + 1 - len(content))):
            content += piece
    finally:
        os.close(descriptor)
    if len(content) > BODY_MAX:
        raise _too_large(check)
    return content


def _too_large(check: Check) -> _NoNumberError:
    return _NoNumberError(f"{place(check)} has more than {BODY_MAX // 1024} KiB")


def _number(document: bytes, check: Check) -> float:
    """Return the number at the check's path."""
    try:
        value: Any = orjson.loads(document)
    except orjson.JSONDecodeError:
        raise _NoNumberError(f"{place(check)} is not JSON") from None
    walked = "$"
    for key in check.path:
        walked += f"[{key}]" if isinstance(key, int) else f".{key}"
        fits = isinstance(value, dict) if isinstance(key, str) else isinstance(value, list)
        try:
            value = value[key] if fits else None
        except (KeyError, IndexError):
            value = None
        if value is None:
            raise _NoNumberError(f"{place(check)} has no {walked}")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _NoNumberError(f"{place(check)}: {walked} is not a number")
    return float(value)
