"""Active checks: asks every endpoint whether it is well, whatever requests meet there.

Nouns: a *check* is one `GET` of the service's `health.path` on a connection of its own; it passes with 2xx or 3xx
within `timeout`. What follows from checks in a row is `proxy.routing.health`'s.

Rules:

* One task per endpoint, never two checks of it at once, `AT_ONCE` checks in all. The first comes at a random instant
  within the interval and the others a tenth earlier or later, so that no endpoint is asked by all supervisors at once.
* Nobody waits for a check: `down` says what is known now.
* After a reload an endpoint that is checked as before goes on; one that is checked otherwise keeps what is known.
* Names are looked up in threads of their own: a resolver that hangs holds up checks and nothing else.
"""

from __future__ import annotations

import asyncio
import os
import random
import socket
import ssl
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import ip_address

from proxy.http1.head import Refusal
from proxy.http1.response import ResponseParser
from proxy.rollout.plan import ServicePlan
from proxy.routing import health
from proxy.routing.health import Health, Pulse
from proxy.routing.table import Endpoint, EndpointTls, RoutingTable, Service, authority, server_name
from proxy.tls import endpoint_context

AT_ONCE = 64  # checks
RESTARTED = "was down before the restart"
_READ = 64 * 1024
_SWITCHING = 101
_LOOKUPS = 4  # threads

Key = tuple[str, int, str]  # service, version, url


@dataclass(frozen=True, slots=True)
class Target:
    """An endpoint and how it is checked. `server_name` is for TLS."""

    endpoint: Endpoint
    rule: Health
    host: str
    tls: EndpointTls
    server_name: str


class _NoAnswerError(Exception):
    """Why a check got no status, in words."""


class Checked:
    """Checks endpoints until it is closed. Use within a running loop; `draw` gives random numbers from 0 to 1."""

    def __init__(self, draw: Callable[[], float] = random.random) -> None:
        self._draw = draw
        self._targets: dict[Key, Target] = {}
        self._tasks: dict[Key, asyncio.Task[None]] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._pulses: dict[Key, Pulse] = {}
        self._room = asyncio.Semaphore(AT_ONCE)
        self._parser = ResponseParser()
        self._contexts: dict[EndpointTls, ssl.SSLContext] = {}
        self._lookups = ThreadPoolExecutor(_LOOKUPS, "health-dns")  # no thread before the first name

    def watch(self, plans: Iterable[ServicePlan], table: RoutingTable, down: Collection[Key] = ()) -> None:
        """Check the endpoints of these services from now on, and no others; `down`: those that were found so before."""
        wanted = targets(plans, table)
        self._contexts.clear()  # others may be asked for now
        for key, target in self._targets.items():
            if wanted.get(key) != target:
                self._end(key)
        before = self._pulses
        self._pulses = {key: pulse for key, pulse in before.items() if key in wanted}
        for key, target in wanted.items():
            if key not in self._tasks:
                pulse = self._pulses.setdefault(key, Pulse(RESTARTED if key in down else self._elsewhere(key, before)))
                self._tasks[key] = asyncio.create_task(self._go_on(target, pulse), name=f"health {key[0]} {key[2]}")
        self._targets = wanted

    @property
    def down(self) -> Mapping[Key, str]:
        """The endpoints that are down, with why."""
        return {key: pulse.why for key, pulse in self._pulses.items() if pulse.why}

    async def close(self) -> None:
        """Stop checking."""
        for key in list(self._tasks):
            self._end(key)
        await asyncio.gather(*self._ending, return_exceptions=True)
        self._lookups.shutdown(wait=False, cancel_futures=True)

    @staticmethod
    def _elsewhere(key: Key, before: Mapping[Key, Pulse]) -> str:
        """Return why an endpoint is down that was one of the other version: `finish` makes `new` the stable one."""
        service, version, url = key
        pulse = before.get((service, 1 - version, url))
        return "" if pulse is None else pulse.why

    def _end(self, key: Key) -> None:
        task = self._tasks.pop(key)
        task.cancel()
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def _go_on(self, target: Target, pulse: Pulse) -> None:
        interval_s = target.rule.interval_s
        # One that was down gets nothing until it has passed: it is asked at once.
        wait_s = 0.0 if pulse.why else interval_s * self._draw()
        while True:
            await asyncio.sleep(wait_s)
            async with self._room:
                pulse.note(await self._check(target), target.rule)
            wait_s = interval_s * (0.9 + 0.2 * self._draw())

    async def _check(self, target: Target) -> str:
        """Make a check; return what failed, "" if it passed."""
        timeout_s = target.rule.timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                status = await self._ask(target)
        except _NoAnswerError as why:
            return str(why)
        except TimeoutError:
            return f"no answer within {timeout_s:g} s"
        except ssl.SSLError as error:
            return f"TLS: {(error.reason or 'failed').lower().replace('_', ' ')}"
        except OSError as error:
            return os.strerror(error.errno).lower() if error.errno and error.errno > 0 else "the name is not known"
        except Exception as error:  # noqa: BLE001 - a check that fails in whatever way has failed, no more
            return type(error).__name__
        return "" if health.well(status) else str(status)

    async def _ask(self, target: Target) -> int:
        """Return the status of the answer."""
        reader, writer = await self._connect(target)
        try:
            writer.write(
                f"GET {target.rule.path} HTTP/1.1\r\nHost: {target.host}\r\nUser-Agent: tidegate-health\r\n"
                "Accept: */*\r\nConnection: close\r\n\r\n".encode()
            )
            received, start = b"", 0
            while True:
                head = self._parser.parse(received, start, b"GET")
                if isinstance(head, Refusal):
                    raise _NoAnswerError(f"malformed answer: {head.detail}")
                if head is not None and (head.status >= 200 or head.status == _SWITCHING):
                    return head.status
                if head is not None:
                    start = head.end  # an interim response: the real one follows
                    continue
                data = await reader.read(_READ)
                if not data:
                    raise _NoAnswerError("the connection was closed without an answer")
                received, start = received[start:] + data, 0
        finally:
            writer.transport.abort()

    async def _connect(self, target: Target) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        endpoint = target.endpoint
        if endpoint.unix is not None:
            return await asyncio.open_unix_connection(endpoint.unix)
        address = await self._address(endpoint)
        if not endpoint.tls:
            return await asyncio.open_connection(address, endpoint.port)
        context = await self._context(target.tls)
        return await asyncio.open_connection(address, endpoint.port, ssl=context, server_hostname=target.server_name)

    async def _address(self, endpoint: Endpoint) -> str:
        try:
            return str(ip_address(endpoint.host))
        except ValueError:
            loop = asyncio.get_running_loop()
            found = await loop.run_in_executor(
                self._lookups, lambda: socket.getaddrinfo(endpoint.host, None, type=socket.SOCK_STREAM)
            )
            return str(found[0][4][0])

    async def _context(self, spec: EndpointTls) -> ssl.SSLContext:
        context = self._contexts.get(spec)
        if context is None:
            made = asyncio.to_thread(endpoint_context, ca=spec.ca, verify=spec.verify, pair=spec.pair)
            context = self._contexts[spec] = await made
        return context


def targets(plans: Iterable[ServicePlan], table: RoutingTable) -> dict[Key, Target]:
    """Return what is checked, and how."""
    rules = {plan.name: plan.health for plan in plans}
    found: dict[Key, Target] = {}
    for at, version, _, endpoint in table.endpoints():
        service = table.services[at]
        rule = rules.get(service.name)
        if rule is not None:
            key = (service.name, version, endpoint.url)
            found[key] = Target(
                endpoint, rule, _host(service, endpoint), service.endpoint_tls, server_name(service, endpoint)
            )
    return found


def _host(service: Service, endpoint: Endpoint) -> str:
    """Return the Host of a check: the one that requests come with, as far as it is known."""
    if service.host not in {"preserve", "endpoint"}:
        return service.host
    if service.host == "preserve" and service.match.host and not service.match.host.startswith("*"):
        return service.match.host
    return authority(endpoint)
