"""A worker process: one uvloop loop, the clients' and the endpoints' connections, its own counters.

Started by exec with the descriptor of its channel as the only argument (`python -m proxy.dataplane.worker FD`). The
supervisor says what to do: `start` (board, listening sockets), `table` (a generation with its segments), `drain`,
`stop`. Without a supervisor (EOF on the channel) the worker sends everything to `stable` at once, serves on, and
looks for the next supervisor at the handover socket, to which it hands its listening sockets and control segments.

The *sweep* runs every 50 ms: it turns the timer wheel, beats, publishes gauges, and watches the beats of the
controller and the neighbours. Nothing else in this process runs on a timer.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import random
import signal
import socket
import sys
import traceback
from base64 import urlsafe_b64encode
from collections.abc import Callable, Sequence
from email.utils import formatdate
from ipaddress import ip_address, ip_network
from time import monotonic_ns
from typing import Any

import uvloop

from proxy.dataplane.accesslog import AccessLog
from proxy.dataplane.deadline import TICK_NS, Wheel, ticks
from proxy.dataplane.downstream import Downstream, plain_address
from proxy.dataplane.exchange import Exchange
from proxy.dataplane.hosts import Hosts, Resolve
from proxy.dataplane.listening import Certificates, Listener, entrance, own_listeners
from proxy.dataplane.live import LiveService, Plane
from proxy.dataplane.neighbours import Neighbours
from proxy.dataplane.pool import Pool, Pools
from proxy.dataplane.queue import Queues
from proxy.dataplane.spare import Spare, allowed, has_room, opened
from proxy.dataplane.turns import Turns
from proxy.dataplane.upstream import Upstream
from proxy.dataplane.watch import Beat
from proxy.http1.request import RequestParser
from proxy.ipc import channel, files, layout
from proxy.ipc.enclosure import enclosed
from proxy.ipc.segment import Segment
from proxy.routing.table import RoutingTable, from_plain

_TICK_S = TICK_NS / 1e9
_LATER_S = 0.0015  # uvloop rounds to whole milliseconds twice: without it, one in four came before its tick
_SECOND = 20  # ticks
_HANDOVER_TICKS = 4
_DRAIN_IDLE = 2 * _SECOND  # for so long a drain waits for a request on an idle connection
_LOCAL_REPLIES = {pair: index for index, pair in enumerate(layout.LOCAL_REPLIES)}
_REFUSED = {reason: index for index, reason in enumerate(layout.REFUSED_CONNECTIONS)}
_INTERNAL = _LOCAL_REPLIES[500, "internal"]
_PAGE = os.sysconf("SC_PAGE_SIZE")
_NEARLY_ALL = 16  # descriptors, beside one for each listener: with fewer left, clients wait until there are more
_GIVEN_UP = 32  # of the connections that rest, at most so many in one sweep while clients wait
_SURPLUS = 2  # ticks: what rests for so long while clients wait is not needed
_HELD_TOLD = 10 * _SECOND  # how often the log is told that accepting is held, at most
_TOLD = 60 * _SECOND  # how often the log is told of lost lines, and of refused connections, at most
_MOST_ADDRESSES = 4096  # remembered as trusted or not


class Worker:
    """Everything of one worker process that connections share."""

    def __init__(self, loop: asyncio.AbstractEventLoop, phone: socket.socket, resolve: Resolve | None = None) -> None:
        """`resolve`: what looks up names instead of the system."""
        self.loop = loop
        self.wheel = Wheel()
        self.turns = Turns(loop, self.internal_error)
        self.hosts = Hosts(self, resolve)
        self.pools = Pools(self.hosts)
        self.queues = Queues()
        self.downstreams: set[Downstream] = set()
        self.upstreams: set[Upstream] = set()
        self.finishing: set[Upstream] = set()  # closed, once the endpoint has taken what was written
        self.connections_elsewhere = 0
        self.turned_away = 0  # of the clients' connections: those that are one too many, and are told so
        self.accepted = 0
        self.tunnels = 0
        self.event_streams = 0
        self.failing_over = 0
        self.serial = 0
        self.id_prefix = os.urandom(10).hex().encode()
        self.draining = False
        self.date = b""
        self.plane: Plane
        self.request_parser: RequestParser
        self.access_log: AccessLog | None = None
        draw = random.Random(os.urandom(16)).getrandbits  # noqa: S311 -- dealing, not secrets
        self.random64: Callable[[], int] = lambda: draw(64)
        self._old_planes: list[Plane] = []
        self._phone: socket.socket | None = phone
        self._receiver = channel.Receiver()
        self._spare = Spare()
        self.clients_most = 0  # so many connections, clients' and endpoints', from which on no client is accepted
        self._scarce_from = 0  # and so many from which on nearly all descriptors are taken
        self._own = 0  # descriptors that are no connections
        self._accepting_held = False
        self._held_told = 0
        self._told: dict[str, int] = {}  # what was told → until when it is not told again
        self._lost_lines = 0  # of the access log, that have not been told
        self._second_due = 0
        self._handover_due = 0
        self._statm = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
        self._handover_path: str | None = None
        self._handover: socket.socket | None = None
        self._handover_receiver = channel.Receiver()
        self._slot = 0
        self._slots = 1
        self._board: Segment
        self._row = 0
        self._listeners: list[Listener] = []
        self._certificates: dict[str, Certificates] = {}
        self._listening = False
        self._controller = Beat()
        self._neighbours: Neighbours
        self._orphan = False
        self._began_ns = 0
        self._drain_until = 0
        self._stop_accepting_at = 0
        self._drain_ticks = 0
        self._trusted_memo: dict[bytes, bool] = {}
        self._settle(RoutingTable(services=()))
        self._second()
        phone.settimeout(0)
        loop.add_reader(phone.fileno(), self._heard)

    # ---------------------------------------------------------------- for connections

    def mint(self) -> bytes:
        """Return a fresh value for the minted cookie: 22 characters of base64url, random."""
        return urlsafe_b64encode(os.urandom(16))[:22]

    def set_cookie(self, value: bytes, secure: bool) -> bytes:  # noqa: FBT001 -- on the request path
        """Return the Set-Cookie line of a minted cookie."""
        end = b"; Secure\r\n" if secure else b"\r\n"
        return b"Set-Cookie: tidegate=" + value + b"; Path=/; Max-Age=31536000; HttpOnly; SameSite=Lax" + end

    def request_id(self) -> bytes:
        """Return a fresh request id."""
        self.serial += 1
        return b"%b%012x" % (self.id_prefix, self.serial)

    def connect(self, pool: Pool, exchange: Exchange) -> Upstream:
        """Open a connection for `exchange`, which hears of it through `connected` or `upstream_ended`.

        Where descriptors are scarce, one that rests makes room for it.
        """
        if self.connections() >= self._scarce_from:
            self.hold_accepting()
            self.pools.give_up(1, self.wheel.tick)
        return Upstream(self, pool, exchange)

    def connections(self) -> int:
        """Return how many connections there are, to clients and to endpoints; each has, or will have, a descriptor."""
        return len(self.downstreams) + len(self.upstreams)

    def connect_ticks(self, pool: Pool) -> int:
        """Return how long a connection may take to be made, in ticks."""
        return ticks(pool.connect_s)

    def in_flight(self) -> int:
        """Return how many attempts are in flight in this worker, in all generations; not those that last."""
        return (
            sum(
                service.stable.in_flight + service.new.in_flight
                for plane in (self.plane, *self._old_planes)
                for service in plane.services
            )
            - self.tunnels
            - self.event_streams
        )

    def hold_accepting(self) -> None:
        """Accept nobody until there are descriptors again: whoever comes waits in the accept queue."""
        if self._accepting_held:
            return
        self._accepting_held = True
        for listener in self._listeners:
            listener.rest()
        if self.wheel.tick >= self._held_told:
            self._held_told = self.wheel.tick + _HELD_TOLD
            self.notice(
                f"clients wait: of {allowed()} open files {files.for_clients(allowed())} are for them: ulimit -n"
            )

    def no_descriptor(self) -> None:
        """Take note that there is none for a connection to an endpoint."""
        self.hold_accepting()
        if self._may_tell("descriptors"):
            self.notice(f"requests are refused (503): all {allowed()} open files are taken: ulimit -n")

    def _accept_again(self) -> None:
        if not hasattr(self, "plane"):
            return
        own = own_listeners(self._listeners, self._slot)
        # Each takes one to accept with, which resting gave back.
        if self.connections() + len(own) >= self.clients_most:
            self.pools.give_up(_GIVEN_UP, self.wheel.tick - _SURPLUS)
        elif has_room(len(own) + _NEARLY_ALL):
            self._accepting_held = False
            self._accept_on(own)

    def _accept_on(self, listeners: Sequence[Listener]) -> None:
        for listener in listeners:
            listener.accept(self.loop, entrance(self, listener), self.hold_accepting)

    def trusts(self, peer: bytes) -> bool:
        """Return whether an address is one of the trusted proxies."""
        known = self._trusted_memo.get(peer)
        if known is None:
            if len(self._trusted_memo) >= _MOST_ADDRESSES:
                self._trusted_memo.clear()
            address = ip_address(peer.decode())
            known = self._trusted_memo[peer] = any(address in network for network in self.trusted_networks)
        return known

    def trusts_peer(self, name: str) -> bool:
        """Return whether a connection's own address is one of the trusted proxies."""
        return bool(self.trusted_networks) and self.trusts(plain_address(name))

    def notice(self, text: str) -> None:
        """Have the supervisor log a line. It must be rare: the caller sees to that."""
        self._say({"type": "notice", "text": text})

    def _may_tell(self, what: str) -> bool:
        """Return whether it was not told for a minute."""
        if self.wheel.tick < self._told.get(what, 0):
            return False
        self._told[what] = self.wheel.tick + _TOLD
        return True

    def count_refused(self, reason: str, why: str = "") -> None:
        """Count a connection that is ended before there is a request to answer; `why` is told once a minute."""
        self.plane.counts[self.plane.layout.process + layout.PROCESS_REFUSED + _REFUSED[reason]] += 1
        if why and self._may_tell(reason):
            self.notice(f"{why} (tidegate_refused_connections_total counts the others)")

    def count_local_reply(self, plane: Plane, status: int, reason: str) -> None:
        """Count an answer that the proxy gave itself."""
        index = _LOCAL_REPLIES.get((status, reason), _INTERNAL)
        plane.counts[plane.layout.process + layout.PROCESS_LOCAL_REPLIES + index] += 1

    def log_exchange(self, exchange: object) -> None:
        """Note an exchange that is over in the access log, if there is one."""
        if self.access_log is not None and isinstance(exchange, Exchange):
            self.access_log.add(exchange)

    def internal_error(self, error: BaseException) -> None:
        """Count and show a fault of our own. It is charged to nobody."""
        plane = self.plane
        plane.counts[plane.layout.process + layout.PROCESS_INTERNAL_ERRORS] += 1
        text = "".join(traceback.format_exception(error))
        sys.stderr.write(f"worker {self._slot}: internal error\n{text}")
        sys.stderr.flush()

    # ---------------------------------------------------------------- the supervisor's words

    def _heard(self) -> None:
        phone = self._phone
        if phone is None:
            return
        self._spare.give()
        try:
            messages = self._receiver.feed(phone)
        except (EOFError, ValueError, OSError):
            self._supervisor_lost()
            messages = []
        for message, descriptors in messages:
            self._obey(message, descriptors)
        self._spare.take()

    def _obey(self, message: dict[str, Any], descriptors: list[int]) -> None:
        kind = message["type"]
        if kind == "start":
            try:
                self._start(message, descriptors)
            except Exception as error:  # noqa: BLE001 -- it cannot go on, and must not stay as if it could
                self.notice(f"cannot start: {str(error) or repr(error)}")
                self.loop.stop()
        elif kind == "table":
            try:
                self._switch(message, descriptors)
            except Exception as error:  # noqa: BLE001 -- whatever it is, the generation in force stays
                why = str(error) or repr(error)
                self._say({"type": "refused", "generation": message["generation"], "why": why})
        elif kind == "certificates":
            self._take_certificates(descriptors)
        elif kind == "drain":
            self._drain(message["delay_s"], message["timeout_s"])
        elif kind == "stop":
            self.loop.stop()

    def _say(self, message: dict[str, Any]) -> None:
        if self._phone is None:
            return
        try:
            channel.send(self._phone, message)
        except OSError:
            self._supervisor_lost()

    def _start(self, message: dict[str, Any], descriptors: list[int]) -> None:
        self._slot = message["slot"]
        self._slots = message["slots"]
        self.queues.slot, self.queues.slots = self._slot, self._slots
        self._handover_path = message.get("handover")
        self._board = Segment.attach(descriptors[0], layout.board_hash(self._slots))
        self._row = layout.row(self._slot)
        self._neighbours = Neighbours(self._slot, self._slots)
        self._listeners = [
            Listener(
                entry["address"],
                entry["slot"],
                socket.socket(fileno=descriptor),
                self._certificates[entry["tls"]] if entry.get("tls") else None,
                prefaced=entry.get("prefaced", False),
            )
            for entry, descriptor in zip(message["listeners"], descriptors[1:], strict=True)
        ]
        self._board.words[self._row + layout.ROW_PID] = os.getpid()
        self._began_ns = monotonic_ns()
        self._sweep()

    def _take_certificates(self, descriptors: list[int]) -> None:
        """Show other certificates from the next connection on."""
        try:
            for address, pairs in enclosed(descriptors[0]).items():
                if address in self._certificates:
                    self._certificates[address].show(pairs)
                else:
                    self._certificates[address] = Certificates(pairs)
        except OSError as error:
            self.notice(f"the certificates stay as they were: {error}")
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def _switch(self, message: dict[str, Any], descriptors: list[int]) -> None:
        """Bring a generation into force: table, control words and counters together."""
        generation = message["generation"]
        unused = list(descriptors)
        segments: list[Segment] = []
        try:
            table = from_plain(enclosed(unused[-1]))
            os.close(unused.pop())
            segments.append(control := Segment.attach(unused.pop(0), layout.control_layout(table).hash))
            segments.append(counters := Segment.attach(unused.pop(0), layout.counters_layout(table).hash))
            plane = Plane(generation, table, control, counters, self.pools, self.queues)
            self._settle(table)  # may be refused: another access log cannot be opened
            plane.take_over()
        except Exception:
            self._forget()
            for segment in segments:
                segment.close()
            for descriptor in unused:
                os.close(descriptor)
            raise
        first = not hasattr(self, "plane")
        if not first:
            self._old_planes.append(self.plane)
        self.plane = plane
        self._count_own()
        self._share_out()
        self._watch_controller()
        self._board.words[self._row + layout.ROW_GENERATION] = generation
        self._say({"type": "ack", "generation": generation})
        if first:
            self._accept_on(own_listeners(self._listeners, self._slot))
            self.loop.call_soon(self._check_listening)

    def _check_listening(self) -> None:
        if self._listening:
            return
        if all(listener.serving for listener in own_listeners(self._listeners, self._slot)):
            self._listening = True
            self._board.words[self._row + layout.ROW_ACCEPTING] = self._accepting()
            self._say({"type": "listening"})
        else:
            self.loop.call_later(_TICK_S, self._check_listening)

    def _settle(self, table: RoutingTable) -> None:
        """Take over what a table says about all services together, or raise and take over nothing."""
        limits = table.request_limits
        watch = {service.sticky.name.lower().encode() for service in table.services if service.sticky.by == "header"}
        watch |= {
            service.override.header.lower().encode() for service in table.services if service.override is not None
        }
        request_parser = RequestParser(limits.head, limits.target, limits.headers, frozenset(watch))
        trusted_networks = tuple(ip_network(network, strict=False) for network in table.trusted_proxies)
        access_log = self._access_log_of(table)
        # From here on nothing fails.
        if self.access_log is not None:
            self.access_log.close()
            self._count_lost(self.access_log)
        self.access_log = access_log
        self.request_parser = request_parser
        self.header_ticks = ticks(limits.header_timeout_s)
        self.keepalive_ticks = ticks(limits.keepalive_timeout_s)
        if self.draining:
            self._hurry()
        self.body_idle_ticks = ticks(limits.body_idle_timeout_s)
        self.body_idle_ns = round(limits.body_idle_timeout_s * 1e9)
        self.connection_limit = limits.connections
        self.trusted_networks = trusted_networks
        self._trusted_memo.clear()
        self.via = table.via
        self.half_close = table.half_close == "allow"

    def _access_log_of(self, table: RoutingTable) -> AccessLog | None:
        """Return the log of a table; raise where another one than before cannot be opened.

        One that was in force already, or is a new worker's first, must not keep clients from being served: what it
        would hold is lost and counted until it can be opened.
        """
        if table.access_log.path is None:
            return None
        log, before = AccessLog(table.access_log), self.access_log
        known = before if before is not None and before.path == log.path else None
        try:
            log.open()
        except OSError as error:
            fault = f"the access log {log.path} cannot be opened ({(error.strerror or 'unknown').lower()})"
            if hasattr(self, "plane") and known is None:
                raise ValueError(fault) from error
            if known is None or known.is_open:
                self.notice(f"{fault}: its lines are lost until it can be; make its directory, or mend owner and mode")
        return log

    def _open_access_log(self) -> None:
        """Try again to open a log that could not be opened."""
        log = self.access_log
        if log is None or log.is_open:
            return
        with contextlib.suppress(OSError):
            log.open()
            self._count_lost(log)
            self.notice(f"the access log {log.path} is open; {self._lost_lines} lines were lost")
            self._lost_lines = 0

    def _write_access_log(self, log: AccessLog) -> None:
        log.flush()
        if log.lost:
            self._count_lost(log)
        if self._lost_lines and log.is_open and self._may_tell("lost"):
            cure = "write fewer (sample, min_status), or elsewhere (path)"
            self.notice(f"{self._lost_lines} lines of the access log were lost: {log.fault}: {cure}")
            self._lost_lines = 0

    def _count_lost(self, log: AccessLog) -> None:
        lost, log.lost = log.lost, 0
        self._lost_lines += lost
        if hasattr(self, "plane"):
            self.plane.counts[self.plane.layout.process + layout.PROCESS_LINES_LOST] += lost

    # ---------------------------------------------------------------- the sweep

    def _sweep(self) -> None:
        now = monotonic_ns()
        wheel = self.wheel
        due = (now - self._began_ns) // TICK_NS + 1
        late_us = (now - self._began_ns - wheel.tick * TICK_NS) // 1000
        try:
            # A loop that was held up turns the wheel as far as the time went.
            while wheel.tick < due:
                wheel.advance(now)
            words = self._board.words
            row = self._row
            words[row + layout.ROW_BEAT] += 1
            words[row + layout.ROW_LOOP_LAG_US] = max(0, late_us)
            words[row + layout.ROW_CONNECTIONS] = len(self.downstreams) - self.turned_away
            words[row + layout.ROW_ACCEPTED] = self.accepted
            words[row + layout.ROW_ACCEPTING] = self._accepting()
            words[row + layout.ROW_TUNNELS] = self.tunnels
            if hasattr(self, "plane"):
                self._watch_controller()
                self.queues.look()
                self._publish(now)
                if self._old_planes:
                    self._release_planes()
            self._watch_neighbours()
            if self._accepting_held:
                self._accept_again()
            if self.access_log is not None:
                self._write_access_log(self.access_log)
            # By what is due, not by the tick's number: a loop that was held up goes over several at once.
            if wheel.tick >= self._second_due:
                self._second_due = wheel.tick + _SECOND
                self._second()
            if self._orphan and wheel.tick >= self._handover_due:
                self._handover_due = wheel.tick + _HANDOVER_TICKS
                self._look_for_successor()
            if self._drain_until:
                self._drain_on(wheel.tick)
        except Exception as error:  # noqa: BLE001 -- the sweep must go on
            self.internal_error(error)
        next_ns = self._began_ns + wheel.tick * TICK_NS
        self.loop.call_later(max(0.0, (next_ns - monotonic_ns()) / 1e9) + _LATER_S, self._sweep)

    def _accepting(self) -> int:
        if self.draining:
            return layout.ACCEPTING_NOT
        if self._stop_accepting_at or self._accepting_held:
            return layout.ACCEPTING_OWN
        return layout.ACCEPTING if self._listening else layout.ACCEPTING_NOT

    def _second(self) -> None:
        self.date = formatdate(usegmt=True).encode()
        self._spare.take()
        if self._accepting_held or 2 * self.connections() > self.clients_most:
            self._count_own()
        self._share_out()
        if hasattr(self, "_board"):
            self._board.words[self._row + layout.ROW_RSS] = int(os.pread(self._statm, 100, 0).split()[1]) * _PAGE
        self._open_access_log()

    def _count_own(self) -> None:
        """Count the descriptors that are no connections: a connection that is being made has one, or not yet."""
        connected = len(self.downstreams) + sum(upstream.made for upstream in self.upstreams)
        now = opened()
        self._own = min(max(self._own, now - self.connections()), now - connected)

    def _share_out(self) -> None:
        """See for how many connections there are descriptors."""
        may = allowed()
        self.clients_most = files.for_clients(may) - self._own
        kept = _NEARLY_ALL + len(self._listeners)
        self._scarce_from = self.clients_most if may < 0 else may - self._own - kept

    def _watch_controller(self) -> None:
        """Send everything to `stable` while nobody judges (DESIGN §1, promise 7), where stable can serve."""
        silent = self._controller.look(self._board.words[layout.BOARD_BEAT])
        stable_only = 0
        for plane in (self.plane, *self._old_planes):
            control = plane.control.words
            for service in plane.services:
                shut = (
                    (self._orphan or silent >= service.watchdog_ticks)
                    and not control[service.weight_at] & layout.FLAG_WATCHDOG_OFF
                    and self._can_serve(service)
                )
                service.weights = plane.zeros if shut else control
                if service.lasting is not None:
                    service.lasting.look(self, control[service.rollbacks_at])
                stable_only |= shut
        self._board.words[self._row + layout.ROW_STABLE_ONLY] = stable_only

    def _can_serve(self, service: LiveService) -> bool:
        """Return whether `stable` has a ready endpoint, as far as this worker knows (promise 9)."""
        states = service.plane.control.words
        tick = self.wheel.tick
        return any(
            not states[endpoint.state_at] & layout.ENDPOINT_STATE_MASK and endpoint.suspect_until <= tick
            for endpoint in service.stable.endpoints
        )

    def _publish(self, now: int) -> None:
        """Write the gauges that requests do not write themselves."""
        for plane in (self.plane, *self._old_planes):
            counts = plane.counts
            for service in plane.services:
                for version in (service.stable, service.new):
                    at = version.counters_at
                    counts[at + layout.VERSION_IN_FLIGHT] = version.in_flight
                    counts[at + layout.VERSION_TUNNELS] = version.tunnels
                    counts[at + layout.VERSION_QUEUED] = version.queued
                    counts[at + layout.VERSION_LAST_DISPATCH_NS] = version.last_dispatch_ns
                    for endpoint in version.endpoints:
                        block = endpoint.counters_at
                        counts[block + layout.ENDPOINT_IN_FLIGHT] = endpoint.in_flight
                        counts[block + layout.ENDPOINT_POOL_IDLE] = len(endpoint.pool.idle)
                        counts[block + layout.ENDPOINT_POOL_ACTIVE] = endpoint.pool.active
        oldest: dict[tuple[Plane, int], int] = {}
        # Not by the clients' connections: thousands of them may be idle.
        for upstream in self.upstreams:
            exchange = upstream.exchange
            if isinstance(exchange, Exchange) and exchange.started_ns and exchange.judged and not exchange.event_stream:
                of = exchange.service.plane, exchange.version.counters_at
                oldest[of] = max(oldest.get(of, 0), (now - exchange.started_ns) // 1000)
        for plane in (self.plane, *self._old_planes):
            for service in plane.services:
                for version in (service.stable, service.new):
                    at = version.counters_at
                    plane.counts[at + layout.VERSION_OLDEST_US] = oldest.get((plane, at), 0)

    def _release_planes(self) -> None:
        """Give back generations in which nothing is in flight any more."""
        for plane in list(self._old_planes):
            versions = [version for service in plane.services for version in (service.stable, service.new)]
            if any(version.in_flight or version.queued for version in versions):
                continue
            self._old_planes.remove(plane)
            self._say({"type": "released", "generation": plane.generation})
            plane.close()
        self._forget()

    def _forget(self) -> None:
        """Let go of pools and queues that no live generation names."""
        if not self._old_planes and hasattr(self, "plane"):
            self.queues.keep_only({service.name for service in self.plane.services})
            self.pools.keep_only(
                {
                    endpoint.pool
                    for service in self.plane.services
                    for version in (service.stable, service.new)
                    for endpoint in version.endpoints
                }
            )

    def _watch_neighbours(self) -> None:
        """Accept where it is our turn."""
        self._neighbours.look(self._board.words)
        self.connections_elsewhere = self._neighbours.elsewhere
        if not self._listening or self._accepting_held:
            return
        for listener in self._listeners:
            turn = self._neighbours.turn(listener.slot)
            if turn and not listener.accepting:
                self._accept_on([listener])
            elif not turn and listener.accepting:
                listener.rest()

    # ---------------------------------------------------------------- the ends

    def _supervisor_lost(self) -> None:
        """Serve on without a supervisor: stable only, until the next one comes."""
        phone = self._phone
        if phone is None:
            return
        self._phone = None
        self.loop.remove_reader(phone.fileno())
        phone.close()
        if not hasattr(self, "plane"):
            self.loop.stop()
            return
        self._orphan = True
        self._watch_controller()
        if self._drain_until or self._stop_accepting_at:
            self._handover_path = None

    def _look_for_successor(self) -> None:
        if self._handover is not None or self._handover_path is None:
            return
        try:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        except OSError:  # no descriptor: the next look may have one
            return
        try:
            sock.settimeout(0.05)
            sock.connect(self._handover_path)
            entries = [{"address": listener.address, "slot": listener.slot} for listener in self._listeners]
            planes = [self.plane, *self._old_planes][: channel.MOST_FDS - len(entries)]
            controls = [
                {
                    "hash": plane.control.words[layout.HEADER_HASH],
                    "weights": {service.spec.name: service.weight_at for service in plane.services},
                }
                for plane in planes
            ]
            message = {
                "type": "orphan",
                "slot": self._slot,
                "pid": os.getpid(),
                "listeners": entries,
                "controls": controls,
            }
            sockets = [listener.sock.fileno() for listener in self._listeners]
            channel.send(sock, message, [*sockets, *(plane.control.fd for plane in planes)])
            sock.settimeout(0)
        except OSError:
            sock.close()
            return
        self._handover = sock
        self._handover_receiver = channel.Receiver()
        self.loop.add_reader(sock.fileno(), self._heard_successor)

    def _heard_successor(self) -> None:
        sock = self._handover
        if sock is None:
            return
        try:
            messages = self._handover_receiver.feed(sock)
        except (EOFError, ValueError, OSError):
            self.loop.remove_reader(sock.fileno())
            sock.close()
            self._handover = None
            return
        for message, _ in messages:
            if message["type"] == "retire":
                self._retire(adopted=bool(message.get("adopted")))

    def _retire(self, *, adopted: bool) -> None:
        """Leave the field to the next supervisor's workers: they have our sockets, or the queue is emptied first."""
        self._handover_path = None
        if adopted:
            for listener in self._listeners:
                listener.close()
            self._listeners = []
        self._drain(0.0, self.plane.table.drain.timeout_s)
        self._drain_on(self.wheel.tick)  # the sooner the queue is emptied and closed, the fewer wait in vain

    def _drain(self, delay_s: float, timeout_s: float) -> None:
        """Keep accepting for `delay_s`, then finish what is open for up to `timeout_s`, then end."""
        if not hasattr(self, "plane"):
            self.loop.stop()  # who waits in our queue is a neighbour's: nobody can be served here
            return
        if self._drain_until:
            return
        tick = self.wheel.tick
        self._stop_accepting_at = tick + (ticks(delay_s) if delay_s > 0 else 0)
        self._drain_ticks = ticks(timeout_s) if timeout_s > 0 else 0
        self._drain_until = self._stop_accepting_at + self._drain_ticks
        self._accept_again()  # our queue may have been left to others, who end as well

    def _drain_on(self, tick: int) -> None:
        if tick < self._stop_accepting_at:
            return
        if not self.draining:
            self.draining = True
            self._hurry()
            for downstream in self.downstreams:
                if downstream.idle() and not downstream.buffer:
                    self.wheel.arm(downstream, _DRAIN_IDLE)
            self._stop_accepting()
            return  # what waited in the accept queue is a connection by the next sweep
        if not (self.downstreams or self.finishing) or tick >= self._drain_until:
            for downstream in list(self.downstreams):
                downstream.abort()
            # One turn of the loop more, so that what was written is flushed and ends are counted.
            self.loop.call_soon(self.loop.call_soon, self.loop.stop)

    def _hurry(self) -> None:
        # A request may be on its way on an idle connection: it gets its answer, with `Connection: close`.
        self.header_ticks = min(self.header_ticks, _DRAIN_IDLE)
        self.keepalive_ticks = min(self.keepalive_ticks, _DRAIN_IDLE)

    def _stop_accepting(self) -> None:
        """Close the listening sockets, after their accept queues are empty.

        Neighbours' too: one that is dead is not replaced any more. Only an orphan leaves them: they are a successor's.
        """
        for listener in self._listeners:
            ours = not self._orphan or listener.slot in (None, self._slot) or listener.accepting
            listener.rest()
            if ours:
                for waiting in listener.take_queue():
                    self.loop.create_task(self._adopt(listener, waiting))
            listener.close()
        self._listeners = []

    async def _adopt(self, listener: Listener, waiting: socket.socket) -> None:
        # connect_accepted_socket is a coroutine only by its form: the connection is made before it returns.
        await self.loop.connect_accepted_socket(entrance(self, listener), waiting)

    def on_signal(self) -> None:
        """TERM: finish what is open and end."""
        self._drain(0.0, self.plane.table.drain.timeout_s if hasattr(self, "plane") else 0.0)

    def finish(self) -> None:
        """Leave nothing half written."""
        if hasattr(self, "plane"):
            self._publish(monotonic_ns())
        if self.access_log is not None:
            self.access_log.close()
        if hasattr(self, "_board"):
            self._board.words[self._row + layout.ROW_CONNECTIONS] = 0


def _unraisable(told: sys.UnraisableHookArgs) -> None:
    """Show what nobody could take; but not a server name that is no ASCII, which any client can write in there."""
    if not (isinstance(told.exc_value, UnicodeDecodeError) and isinstance(told.object, bytes)):
        sys.__unraisablehook__(told)


def main(arguments: list[str]) -> int:
    """Run a worker on the channel whose descriptor is the only argument; return the exit code."""
    phone = socket.socket(fileno=int(arguments[0]))
    loop = uvloop.new_event_loop()
    worker = Worker(loop, phone)
    loop.add_signal_handler(signal.SIGTERM, worker.on_signal)
    sys.unraisablehook = _unraisable
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is for the supervisor
    # What lives from here on is short-lived and without cycles; the collector only has to look now and then.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    loop.run_forever()
    worker.finish()
    return 0


if __name__ == "__main__":
    # Straight to the kernel, which closes everything: closing the loop fails while connections to endpoints rest in
    # their pools, and an orderly end of the interpreter waits for look-ups of names that hang.
    os._exit(main(sys.argv[1:]))
