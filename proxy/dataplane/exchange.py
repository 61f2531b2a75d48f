"""One request and its response.

*Exchange*: a request from its head to the last byte of its answer. *Attempt*: one try to have an endpoint answer
it; a request that `stable` rescues is one attempt on each version. An exchange is owned by its downstream
connection, is known to at most one upstream connection, and is told what happens by these two and by the timer
wheel, always through plain calls: no task, no event object, no future per request.

Where it ends, once: `_complete` (answered), `_reply` (answered by the proxy itself), `abandon` (the client left),
`_cut` (it broke after the head had been passed on). Failures are values: `_attempt_failed` decides between another
attempt and an end. What is charged to a version, and when, is DESIGN §6; `proxy.dataplane.record` writes it down.

Cost of a small exchange without failures: see `make bench`; nothing here is called more than once per message.
"""

from __future__ import annotations

import ssl
from time import monotonic_ns
from typing import TYPE_CHECKING

from xxhash import xxh3_64_intdigest

from proxy.dataplane import record
from proxy.dataplane.deadline import TICK_NS
from proxy.dataplane.tunnel import Tunnel
from proxy.dataplane.upstream import OUR_OWN
from proxy.http1.body import LAST_CHUNK, ChunkedBody, chunk
from proxy.http1.head import CHUNKED, REMEMBERED_HEAD, UNTIL_CLOSE, Refusal, RequestHead, ResponseHead
from proxy.http1.reply import local_reply
from proxy.ipc import layout
from proxy.routing.balance import level, two_choices
from proxy.routing.retry import IDEMPOTENT, NEVER_FAILED_OVER, within_budget
from proxy.routing.split import cookie_value
from proxy.routing.table import FULL, NEW, STABLE

if TYPE_CHECKING:
    from proxy.dataplane.downstream import Downstream
    from proxy.dataplane.live import LiveEndpoint, LiveService, LiveVersion
    from proxy.dataplane.upstream import Upstream
    from proxy.dataplane.worker import Worker

# Phases.
CONNECTING, WAITING, ANSWERING, OVER = range(4)

# A request body up to this size is kept, so that the request can be made again (DESIGN §6).
KEPT_BODY = 64 * 1024
# While a connection is being made, reading from the client stops when this much of the body waits.
SMALL_WRITE = 16 * 1024

# What the interim responses of an exchange may add up to, and for how much each counts at least: a flood of them would
# hold up everybody else's requests.
_INTERIMS_MAX = 64 * 1024
_INTERIM_LEAST = 512

BAD_STATUS, BAD_CONNECT, BAD_RESET, BAD_TIMEOUT, BAD_PROTOCOL, BAD_DIVERTED = range(6)
_CAUSE = ("5xx", "connect", "reset", "timeout", "protocol", "diverted")
BY_HASH, BY_MINT, AT_RANDOM, BY_OVERRIDE, BY_FAILOVER, DIVERTED = range(6)

_WEIGHT_MASK = layout.WEIGHT_MASK
_ASSIGNED = layout.VERSION_ASSIGNED
_ENDED = layout.VERSION_ENDED
_SECOND_TICKS = 20
_SUSPECT_TICKS = 40  # 2 s: after a failed connect, other endpoints of the version are preferred


class Exchange:
    """See the module's text. Times are CLOCK_MONOTONIC in ns; 0 means "not yet"."""

    __slots__ = (
        "_body_decoder",
        "_body_kept",
        "_body_size",
        "_bucket",
        "_early",
        "_failing_over",
        "_holds_back",
        "_kept_size",
        "_rechunk",
        "_response_decoder",
        "_response_left",
        "_retried",
        "_tried_other",
        "_until_close",
        "active_tick",
        "arrived_ns",
        "asked",
        "body_left",
        "downstream",
        "endpoint",
        "event_stream",
        "first_byte_ns",
        "first_slow",
        "head",
        "held_ns",
        "held_since",
        "judged",
        "keep",
        "minted",
        "opening",
        "phase",
        "request_id",
        "rescued",
        "response_size",
        "sampled_ns",
        "service",
        "slow",
        "started_ns",
        "status",
        "upstream",
        "version",
        "worker",
    )

    def __init__(
        self, worker: Worker, downstream: Downstream, service: LiveService, head: RequestHead, now: int
    ) -> None:
        self.worker = worker
        self.downstream: Downstream = downstream
        self.service = service
        self.head = head
        self.arrived_ns = now
        self.keep = head.keep_alive
        self.body_left = head.length
        self.request_id = head.request_id
        self.version: LiveVersion = service.stable
        self.endpoint: LiveEndpoint | None = None
        self.asked: LiveEndpoint | None = None  # the last that `endpoint` was
        self.rescued = False
        self.upstream: Upstream | None = None
        self.judged = True
        self.minted = b""
        self.opening = 0  # of the gate, when `new` got the attempt
        self.phase = CONNECTING
        self.status = 0
        self.started_ns = 0
        self.first_byte_ns = 0
        self.held_ns = 0
        self.held_since = 0
        self.slow = 0
        self.first_slow = 0  # thresholds of the first byte that were passed; -1 once it is counted
        self.sampled_ns = 0
        self.event_stream = False
        self.response_size = 0
        self._bucket = -1
        self._early = b""  # what came of the answer and waits: a part of its head, or of a body for its turn
        self._retried = False
        self._tried_other = False
        self._failing_over = False
        self._rechunk = False
        self._until_close = False
        self._response_left = 0
        if head.length:
            self.active_tick = worker.wheel.tick
            self._body_decoder = ChunkedBody() if head.length == CHUNKED else None
            self._body_kept: list[bytes] | None = []
            self._kept_size = 0
            self._body_size = 0
            self._holds_back = head.expect  # the client sends nothing of the body until it is told `100 Continue`
        else:
            self._body_kept = None

    # ---------------------------------------------------------------- choosing

    def begin(self) -> None:
        """Assign a version and make the first attempt."""
        service = self.service
        if not service.has_new:
            self._attempt(service.stable, self._pick(service.stable))
            return
        reason = self._assign()
        version = self.version
        endpoint = self._pick(version)
        if version.index:
            if endpoint is None:
                self._divert()
                return
            version.last_dispatch_ns = self.arrived_ns
        service.plane.counts[version.counters_at + _ASSIGNED + reason] += 1
        self._attempt(version, endpoint)

    def _assign(self) -> int:
        """Set `version` by override, key or chance; return why (index in ASSIGNMENT_REASONS)."""
        service = self.service
        head = self.head
        weights = service.weights
        if service.override_header and head.found:
            chosen = head.found.get(service.override_header)
            if chosen in (b"new", b"stable") and self._may_override():
                self.version = service.new if chosen == b"new" else service.stable
                self.judged = False
                return BY_OVERRIDE
        key = b""
        if service.sticky_by == "cookie":
            key = head.minted
            if not key and service.cookie_needle and head.cookie:
                key = cookie_value(head.cookie, service.cookie_needle)
        elif service.sticky_by == "header":
            key = head.minted or (head.found.get(service.header_name, b"") if head.found else b"")
        elif service.sticky_by == "client_ip":
            key = self.downstream.client_ip(head)
        reason = BY_HASH
        if not key:
            if service.mint:
                key = self.minted = self.worker.mint()
                reason = BY_MINT
            else:
                reason = AT_RANDOM
        if reason == AT_RANDOM:
            self._bucket = bucket = (self.worker.random64() * FULL) >> 64
        else:
            # The same arithmetic as routing.split.bucket, without the call.
            self._bucket = bucket = (xxh3_64_intdigest(key, weights[service.seed_at]) * FULL) >> 64
        if bucket < weights[service.weight_at] & _WEIGHT_MASK:
            self.version = service.new
        return reason

    def _may_override(self) -> bool:
        address = self.downstream.client_address(self.head)
        return address is not None and any(address in network for network in self.service.override_networks)

    def _pick(self, version: LiveVersion) -> LiveEndpoint | None:
        """Return an endpoint that may get a request, preferring those that were not refusing just now."""
        states = self.service.plane.control.words
        only = version.only
        if only is not None:
            return None if states[only.state_at] else only
        ready = [endpoint for endpoint in version.endpoints if not states[endpoint.state_at]]
        if len(ready) < len(version.endpoints):
            ready = self._with_returning(ready, version.endpoints)
        if not ready:
            return None
        tick = self.worker.wheel.tick
        sound = [endpoint for endpoint in ready if endpoint.suspect_until <= tick]
        return two_choices(sound or ready, self.worker.random64() & 0xFFFF_FFFF)

    def _with_returning(self, ready: list[LiveEndpoint], endpoints: list[LiveEndpoint]) -> list[LiveEndpoint]:
        """Return those with their full share, and whom this draw leaves of those that are in their slow start."""
        states = self.service.plane.control.words
        returning = [endpoint for endpoint in endpoints if states[endpoint.state_at] > layout.ENDPOINT_STATE_MASK]
        if not returning:
            return ready
        shares = [FULL - (states[endpoint.state_at] >> layout.ENDPOINT_LACKS_SHIFT) for endpoint in returning]
        least = level(FULL if ready else max(shares), self.worker.random64() & 0xFFFF_FFFF)
        return ready + [endpoint for endpoint, share in zip(returning, shares, strict=True) if share >= least]

    def _divert(self) -> None:
        """Let `stable` answer what `new` has no ready endpoint for, and charge `new` with it."""
        service = self.service
        counts = service.plane.counts
        if self.judged:
            counts[service.new.counters_at + layout.VERSION_BAD + BAD_DIVERTED] += 1
            counts[service.new.counters_at + _ASSIGNED + DIVERTED] += 1
        self._bucket = -1
        self._attempt(service.stable, self._pick(service.stable))

    # ---------------------------------------------------------------- dispatching

    def _attempt(self, version: LiveVersion, endpoint: LiveEndpoint | None, *, fresh: bool = False) -> None:
        """Send the request to `endpoint` of `version`, over a pooled connection or, if `fresh`, a new one."""
        self.version = version
        if endpoint is None:
            self._nowhere()
            return
        self.endpoint = self.asked = endpoint
        if version.index:
            self.opening = self.service.plane.control.words[self.service.opened_at]
        version.in_flight += 1
        endpoint.in_flight += 1
        if not self.started_ns and not self.body_left:
            self.started_ns = self.arrived_ns
        pool = endpoint.pool
        pool.active += 1
        idle = pool.idle
        if pool.unasked:
            pool.drop_speaking()
        if idle and not fresh:
            upstream = idle.pop()
            upstream.due = 0
            upstream.exchange = self
            self.upstream = upstream
            self._send()
            return
        self.phase = CONNECTING
        self.upstream = self.worker.connect(pool, self)
        self.worker.wheel.arm(self.downstream, min(self.service.patience, self.worker.connect_ticks(pool)))

    def _nowhere(self) -> None:
        """Answer a request for which its version has no ready endpoint."""
        service = self.service
        if self.version.index == STABLE and service.fallback_to_new:
            endpoint = self._pick(service.new)
            if endpoint is not None:
                self._bucket = -1
                self._attempt(service.new, endpoint)
                return
        self._reply(503, "no_endpoint", f"No endpoint of {service.name} can take the request.")

    def connected(self) -> None:
        """Go on with a fresh upstream connection: dispatched late, so the weight is read again (DESIGN §1)."""
        service = self.service
        endpoint = self.endpoint
        assert endpoint is not None
        service.plane.counts[endpoint.counters_at + layout.ENDPOINT_CONNECTED] += 1
        endpoint.suspect_until = 0
        if self._bucket >= 0 and self.version.index == NEW:
            now = monotonic_ns()
            if self._bucket >= service.weights[service.weight_at] & _WEIGHT_MASK:
                self._detach(reuse=True)
                self.started_ns = 0 if self.body_left else now
                self._attempt(service.stable, self._pick(service.stable))
                self._take_over_limits()
                return
            self.version.last_dispatch_ns = now
        self._send()
        self._take_over_limits()

    def _send(self) -> None:
        """Write the head, and what has arrived of the body, to the upstream connection."""
        self.phase = WAITING
        worker = self.worker
        head = self.head
        downstream = self.downstream
        worker.serial += 1
        request_id = self.request_id
        if not request_id:
            request_id = self.request_id = b"%b%012x" % (worker.id_prefix, worker.serial)
        block = head.block
        host_line = self.service.host_line
        if host_line is not None or not head.host_line:
            block = self._with_host(block, host_line)
        expect = b"\r\nExpect: 100-continue\r\n\r\n" if head.expect and self.body_left else b"\r\n\r\n"
        message = block + downstream.forwarded(head) + request_id + expect
        upstream = self.upstream
        assert upstream is not None
        if self._body_kept:
            upstream.transport.writelines([message, *self._body_kept])
            if self._kept_size > KEPT_BODY:
                self._body_kept = None
        else:
            upstream.transport.write(message)
        if self.body_left:
            if self._holds_back:
                self.active_tick = worker.wheel.tick
            worker.wheel.arm(downstream, min(self.service.patience, _SECOND_TICKS))
            if downstream.reading_paused and not upstream.writing_paused:
                downstream.resume_reading()
        else:
            # worker.wheel.arm, without the call: usually one store.
            wheel = worker.wheel
            downstream.due = due = wheel.tick + self.service.patience
            if due < downstream.filed or not downstream.filed:
                wheel.arm(downstream, self.service.patience)
        if worker.serial & 15 == 0:
            self.sampled_ns = monotonic_ns() - self.arrived_ns

    def _with_host(self, block: bytes, host_line: bytes | None) -> bytes:
        """Return `block` with the Host that `host:` asks for, or with any where an HTTP/1.0 client sent none."""
        assert self.endpoint is not None
        line = host_line or b"Host: " + self.endpoint.authority + b"\r\n"
        if not self.head.host_line:
            first = block.index(b"\r\n") + 2
            return block[:first] + line + block[first:]
        # With the CRLF before it: the name of another field may end in "Host".
        return block.replace(b"\r\n" + self.head.host_line, b"\r\n" + line, 1)

    # ---------------------------------------------------------------- request body

    def request_received(self, data: bytes) -> None:
        """Take bytes of the request body; what lies behind it goes back to the downstream connection."""
        left = self.body_left
        downstream = self.downstream
        self._holds_back = False
        if left > 0:
            size = len(data)
            if size > left:
                downstream.line_up(data[left:])
                data = data[:left]
                size = left
            self.body_left = left - size
            self._body_size += size
            self._pass_body(data)
        elif left:
            decoder = self._body_decoder
            assert decoder is not None
            if downstream.buffer:
                data = downstream.buffer + data
                downstream.buffer = b""
            payload, end = decoder.feed(data)
            if decoder.refusal is not None:
                self.keep = False
                self._refuse_body(decoder.refusal.status, decoder.refusal.reason, decoder.refusal.detail)
                return
            self._body_size += len(payload)
            limit = self.service.body_limit
            if limit is not None and self._body_size > limit:
                self.keep = False
                self._refuse_body(413, "body_too_large", f"The request body is larger than {limit} bytes.")
                return
            out = chunk(payload) if payload else b""
            if decoder.done:
                self.body_left = 0
                downstream.line_up(data[end:])
                out += b"0\r\n" + decoder.trailers + b"\r\n" if decoder.trailers else LAST_CHUNK
            elif end < len(data):
                # It is in very many chunks.
                downstream.pause_reading()
                downstream.buffer = data[end:]
                self.worker.turns.add(downstream)
            if out:
                self._pass_body(out)
        else:
            downstream.line_up(downstream.buffer + data)
        if not self.body_left and left and not self.started_ns and self.phase < ANSWERING:
            self.started_ns = monotonic_ns()
            if self.phase == WAITING:
                self.worker.wheel.arm(downstream, self.service.patience)

    def read_on(self) -> bool:
        """Take more of a request body of which a part waits its turn; return whether a part waits still."""
        downstream = self.downstream
        if self.body_left and downstream.buffer:
            self.request_received(b"")
        if downstream.exchange is not self:
            return False
        if self.body_left and downstream.buffer:
            return True
        if self._takes_more():
            downstream.resume_reading()
        return False

    def _takes_more(self) -> bool:
        """Whether there is room for more of what the client sends."""
        if self.body_left == 0:
            return not self.downstream.waits_full()
        if self.phase == CONNECTING:
            return self._kept_size <= KEPT_BODY
        return self.upstream is not None and not self.upstream.writing_paused

    def _pass_body(self, data: bytes) -> None:
        self.active_tick = self.worker.wheel.tick
        kept = self._body_kept
        if kept is not None:
            kept.append(data)
            self._kept_size += len(data)
        if self.phase == CONNECTING:
            if self._kept_size > KEPT_BODY and not self.downstream.reading_paused:
                self.downstream.pause_reading()
            return
        if self._kept_size > KEPT_BODY:
            self._body_kept = None
        if self.upstream is not None:
            self.upstream.transport.write(data)

    def _refuse_body(self, status: int, reason: str, detail: str) -> None:
        """End an exchange whose request body is at fault: nothing is charged to the version."""
        if self.phase >= ANSWERING:
            record.uncharged(self, self.status)
            self._cut()
            return
        self._detach(reuse=False)
        self._reply(status, reason, detail)

    # ---------------------------------------------------------------- response

    def response_received(self, data: bytes) -> None:
        """Take bytes from the endpoint."""
        if self._early:
            data = self._early + data
            self._early = b""
        if self.phase == ANSWERING:
            self._response_body(data, 0)
            return
        start = 0
        parser = self.service.response_parser
        upstream = self.upstream
        assert upstream is not None
        head = parser.parse(data, 0, self.head.method, upstream.last)
        while head is not None and not isinstance(head, Refusal) and head.status < 200:
            if head.status == 101:
                self._switch_protocols(head, data)
                return
            if self._pass_interim(head, head.end - start) > _INTERIMS_MAX:
                self._attempt_failed(BAD_PROTOCOL, 502, "protocol", "The endpoint sends too many interim responses.")
                return
            start = head.end
            head = parser.parse(data, start, self.head.method) if start < len(data) else None
        if head is None:
            self._early = data[start:] if start else data
            return
        if isinstance(head, Refusal):
            self._attempt_failed(BAD_PROTOCOL, 502, "protocol", f"The endpoint's answer is malformed: {head.detail}")
            return
        upstream.last = head if head.end <= REMEMBERED_HEAD else None
        now = monotonic_ns()
        status = head.status
        if head.found is not None and self.judged and not record.outlived(self):
            record.signals(self, head.found)
        if status >= 500 and self.version.index and self._may_fail_over(BAD_STATUS, status):
            self.status = status
            self.first_byte_ns = now
            self._fail_over(BAD_STATUS, now)
            return
        self._pass_head(head, data, now)

    def _pass_interim(self, head: ResponseHead, size: int) -> int:
        """Pass an interim response on (RFC 9110 §15.2: not to HTTP/1.0 clients); return the size of all so far."""
        upstream = self.upstream
        assert upstream is not None
        if upstream.reused:
            upstream.reused = False  # the request has arrived: an end from here on is no keep-alive race
            upstream.interims_size = 0
        upstream.interims_size += max(size, _INTERIM_LEAST)
        if head.status == 100 and self.body_left:
            self._holds_back = False
            self.active_tick = self.worker.wheel.tick
        if not head.keep_alive:
            upstream.reusable = False
        if not self.head.http10:
            self.downstream.transport.write(head.block + b"\r\n")
        return upstream.interims_size

    def _switch_protocols(self, head: ResponseHead, data: bytes) -> None:
        if not self.head.upgrade or self.body_left:
            self._attempt_failed(BAD_PROTOCOL, 502, "protocol", "The endpoint switched protocols unasked.")
            return
        upstream = self.upstream
        downstream = self.downstream
        assert upstream is not None
        self.status = 101
        self.phase = OVER
        now = monotonic_ns()
        if not self.started_ns:
            self.started_ns = self.arrived_ns
        self.first_byte_ns = now
        record.switched(self, now)
        self._count_again(well=True)
        fields = self.version.exposed
        if self.minted:
            fields += self.worker.set_cookie(self.minted, downstream.secure)
        tunnel = Tunnel(self, downstream, upstream)
        downstream.exchange = upstream.exchange = tunnel
        downstream.transport.write(head.block + fields + b"\r\n" + data[head.end :])
        tunnel.begin()
        self._lasts()

    def _lasts(self) -> None:
        """Have this tunnel or event stream closed when `new`, to which the split sent it, is rolled back."""
        lasting = self.service.lasting
        if lasting is None or not self.version.index or self._bucket < 0:
            return
        weight = self.service.plane.control.words[self.service.weight_at] & _WEIGHT_MASK
        # The rollback may have come while the answer was waited for.
        lasting.add(self, shut=not weight or record.outlived(self))

    def leave(self) -> None:
        """End an event stream in good order, so that its client comes again.

        > HTML §9.2.3: When the end of the file is reached, any pending data must be discarded: an event of which only
        a part has come is sent once more to whoever comes again.
        """
        now = monotonic_ns()
        assert self.upstream is not None
        if self._response_left >= 0:
            # With a length there is no good order.
            record.ended(self, now, -1)
            self._cut()
            return
        self.upstream.reusable = False
        if self._rechunk:
            self.downstream.transport.write(LAST_CHUNK)
        self._complete(now)

    def _pass_head(self, head: ResponseHead, data: bytes, now: int) -> None:
        """Write the response head, with what has arrived of the body, to the client."""
        self.status = head.status
        self.phase = ANSWERING
        if not self.started_ns:
            # The endpoint answers before the request body ended: measured from dispatch (DESIGN §6).
            self.started_ns = self.arrived_ns
        self.first_byte_ns = now
        upstream = self.upstream
        assert upstream is not None
        if not head.keep_alive:
            upstream.reusable = False
        worker = self.worker
        fields = self.version.exposed
        if not head.dated:
            # > RFC 9110 §6.6.1: A recipient with a clock that receives a response message without a Date header field
            # > MUST record the time it was received and append a corresponding Date header field […] if it is cached
            # > or forwarded downstream.
            fields += b"Date: " + worker.date + b"\r\n"
        if self.minted and not head.shared:
            fields += worker.set_cookie(self.minted, self.downstream.secure)
        request = self.head
        downstream = self.downstream
        if worker.draining or self.body_left or (downstream.ended and not downstream.buffer):
            # The rest of a body that is answered already cannot be told from the next request in time.
            self.keep = False
        length = head.length
        size = len(data)
        if length >= 0:
            if not self.keep:
                fields += b"Connection: close\r\n"
            elif request.http10:
                fields += b"Connection: keep-alive\r\n"
            have = size - head.end
            if have == length and have < SMALL_WRITE:
                # The whole small response in one write: the common case.
                if have:
                    self.downstream.transport.write(b"%b%b\r\n%b" % (head.block, fields, data[head.end :]))
                else:
                    self.downstream.transport.write(b"%b%b\r\n" % (head.block, fields))
                self.response_size = have
                self._complete(now)
                return
            self._response_left = length
        else:
            if length == UNTIL_CLOSE:
                self._until_close = True
            if request.http10:
                self.keep = False
                fields += b"Connection: close\r\n"
            else:
                self._rechunk = True
                fields += (
                    b"Transfer-Encoding: chunked\r\n"
                    if self.keep
                    else b"Transfer-Encoding: chunked\r\nConnection: close\r\n"
                )
            self._response_left = length
            self._response_decoder = ChunkedBody() if length == CHUNKED else None
        if head.event_stream:
            self.event_stream = True
            worker.event_streams += 1
            self._count_again(well=head.status < 500)
            self._lasts()
        elif self.judged and not record.outlived(self):
            record.first_byte(self, self.waited_ns(now))
        self.active_tick = worker.wheel.tick
        block = b"%b%b\r\n" % (head.block, fields)
        if size == head.end:
            self.downstream.transport.write(block)
            if length == 0:
                self._complete(now)
        else:
            self._response_body(data, head.end, block)

    def _response_body(self, data: bytes, start: int, block: bytes = b"") -> None:
        """Pass bytes of the response body on, behind `block` if that was not written yet."""
        left = self._response_left
        transport = self.downstream.transport
        self.active_tick = self.worker.wheel.tick
        if left >= 0:
            size = len(data) - start
            if size > left:
                # Bytes that nobody asked for: the connection is never used again (RFC 9112 §6.3).
                assert self.upstream is not None
                self.upstream.reusable = False
                self.upstream.pool.unasked = True
                data = data[start : start + left]
                size = left
                start = 0
            self._response_left = left = left - size
            self.response_size += size
            piece = memoryview(data)[start:] if start else data
            if block:
                transport.writelines([block, piece])
            elif size:
                transport.write(piece)
            if not left:
                self._complete(monotonic_ns())
            return
        done = False
        tail = b""
        if left == CHUNKED:
            decoder = self._response_decoder
            assert decoder is not None
            payload, end = decoder.feed(data, start)
            if decoder.refusal is not None:
                if block:
                    transport.write(block)
                self._attempt_failed(BAD_PROTOCOL, 502, "protocol", decoder.refusal.detail)
                return
            if decoder.done:
                done = True
                tail = b"0\r\n" + decoder.trailers + b"\r\n" if decoder.trailers else LAST_CHUNK
                if end != len(data):
                    assert self.upstream is not None
                    self.upstream.reusable = False
                    self.upstream.pool.unasked = True
            elif end < len(data):
                # It is in very many chunks.
                assert self.upstream is not None
                self.upstream.pause_reading()
                self._early = data[end:]
                self.worker.turns.add(self.upstream)
        else:
            payload = data[start:] if start else data
        self.response_size += len(payload)
        if self._rechunk:
            out = block + b"%x\r\n" % len(payload) if payload else block
            if payload:
                if len(payload) < SMALL_WRITE:
                    transport.write(out + payload + b"\r\n" + tail)
                else:
                    transport.writelines([out, payload, b"\r\n" + tail])
            elif out or tail:
                transport.write(out + tail)
        elif block or payload:
            transport.write(block + payload)
        if done:
            self._complete(monotonic_ns())

    def answer_on(self) -> bool:
        """Pass on more of an answer of which a part waits its turn; return whether a part waits still."""
        if self._early:
            self.response_received(b"")
        if self.phase != ANSWERING:
            return False
        if self._early:
            return True
        assert self.upstream is not None
        if not self.downstream.writing_paused:
            self.upstream.resume_reading()
        return False

    def upstream_ended(self, error: Exception | None) -> None:
        """Take the end of the upstream connection: of the response if that lasts until close, else a failure."""
        if self.phase == ANSWERING and self._early:
            assert self.upstream is not None
            self.upstream.reusable = False
            while self._early and self.phase == ANSWERING:
                self.response_received(b"")
            if self.phase == OVER:
                return
        if self.phase == ANSWERING and self._until_close and error is None:
            assert self.upstream is not None
            self.upstream.reusable = False
            if self._rechunk:
                self.downstream.transport.write(LAST_CHUNK)
            self._complete(monotonic_ns())
        elif self.phase == CONNECTING:
            assert self.endpoint is not None
            if isinstance(error, OSError) and error.errno in OUR_OWN:
                record.uncharged(self, 503)
                self._detach(reuse=False)
                self._reply(503, "overload", f"The proxy cannot make another connection: {_why(error)}.")
                return
            self._attempt_failed(BAD_CONNECT, 502, "connect", f"Connecting to the endpoint failed: {_why(error)}.")
        elif self._early:
            self._attempt_failed(BAD_PROTOCOL, 502, "protocol", "The endpoint closed within the response head.")
        else:
            self._attempt_failed(
                BAD_RESET, 502, "reset", "The endpoint closed the connection before its answer was complete."
            )

    # ---------------------------------------------------------------- failing

    def _attempt_failed(self, kind: int, status: int, reason: str, detail: str) -> None:
        """Charge a failed attempt, and make another one where that is safe; else end the exchange."""
        now = monotonic_ns()
        upstream = self.upstream
        endpoint = self.endpoint
        assert endpoint is not None
        if self.phase == ANSWERING:
            record.ended(self, now, kind)
            self._detach(reuse=False)
            self._cut()
            return
        counts = self.service.plane.counts
        if kind == BAD_RESET and upstream is not None and upstream.reused and not self._early:
            # The keep-alive race: the endpoint closed an idle connection just as it was used. Not charged.
            version = self.version
            self._detach(reuse=False)
            if not self._retried and self.head.method in IDEMPOTENT and self._replayable():
                self._retried = True
                self._attempt(version, endpoint, fresh=True)
                return
            record.uncharged(self, 502)
            self._reply(502, "reset", "The endpoint closed an idle connection; the method does not allow another try.")
            return
        if kind == BAD_CONNECT:
            counts[endpoint.counters_at + layout.ENDPOINT_CONNECT_FAILED] += 1
            endpoint.suspect_until = self.worker.wheel.tick + _SUSPECT_TICKS
        self.status = status
        if self.version.index and self._may_fail_over(kind, status):
            self._fail_over(kind, now)
            return
        record.ended(self, now, kind)
        version = self.version
        if kind == BAD_CONNECT and not self._tried_other and self._replayable():
            # Nothing was sent: another endpoint of the same version may get it, whatever the method. The connect took
            # its time, so the weight is read again.
            if self._bucket >= 0 and version.index == NEW:
                service = self.service
                if self._bucket >= service.weights[service.weight_at] & _WEIGHT_MASK:
                    version = service.stable
                else:
                    version.last_dispatch_ns = now
            other = self._pick(version)
            if other is not None and other is not endpoint:
                self._tried_other = True
                self._detach(reuse=False)
                self._start_again(now)
                self._attempt(version, other)
                self._take_over_limits()
                return
        self._detach(reuse=False)
        self._reply(status, reason, detail)

    def _replayable(self) -> bool:
        """Whether everything that was received of the request is still held."""
        return self.head.length == 0 or self._body_kept is not None

    def _may_fail_over(self, kind: int, status: int) -> bool:
        service = self.service
        return (
            self.judged
            and not self._failing_over
            and _CAUSE[kind] in service.causes
            and status not in NEVER_FAILED_OVER
            and self.head.method in service.failover_methods
            and (self.head.length == 0 or (not self.body_left and self._body_kept is not None))
            and self._pick(service.stable) is not None
            and (not service.total_ns or monotonic_ns() - self.arrived_ns < service.total_ns)
            and self._within_budget()
        )

    def _within_budget(self) -> bool:
        worker = self.worker
        service = self.service
        if within_budget(worker.failing_over, worker.in_flight(), service.failover_budget):
            return True
        service.plane.counts[service.counters_at + layout.SERVICE_FAILOVERS + 2] += 1
        return False

    def _fail_over(self, kind: int, now: int) -> None:
        """Charge `new`, and let `stable` answer."""
        service = self.service
        counts = service.plane.counts
        record.ended(self, now, kind)
        counts[service.new.counters_at + layout.VERSION_RESCUED] += 1
        self._count_again(well=False)
        self._detach(reuse=False)
        self._failing_over = True
        self.worker.failing_over += 1
        self._bucket = -1
        self._start_again(now)
        counts[service.stable.counters_at + _ASSIGNED + BY_FAILOVER] += 1
        self._attempt(service.stable, self._pick(service.stable))
        self._take_over_limits()

    def _take_over_limits(self) -> None:
        """Put what bounds the whole exchange on an attempt that was dispatched late."""
        if self.phase != WAITING:
            return
        if self.downstream.writing_paused:
            # The client has not taken the interim responses of the attempt before. Not at once: uvloop begins to read
            # from a connection after it was made, whatever was said within that.
            self.worker.loop.call_soon(self._hold_on)
        if self.service.total_ns:
            left = self.total_left()
            if self.downstream.due > self.worker.wheel.tick + left:
                self.worker.wheel.arm(self.downstream, left)

    def _hold_on(self) -> None:
        if self.downstream.writing_paused and self.phase != OVER:
            self.hold()

    def total_left(self) -> int:
        """Return for how many ticks more the exchange may go on (`timeouts.total`, which must be set), at least 1."""
        left = self.service.total_ns - (monotonic_ns() - self.arrived_ns)
        return max(1, -(-left // TICK_NS))

    def _start_again(self, now: int) -> None:
        """Begin the measurement of the next attempt."""
        self.started_ns = 0 if self.body_left else now
        self.first_byte_ns = 0
        self.first_slow = 0
        self.slow = 0
        self.held_ns = 0
        if self.held_since:
            self.held_since = now
        self._early = b""
        self.status = 0

    # ---------------------------------------------------------------- ending

    def _detach(self, *, reuse: bool) -> None:
        """Part from the upstream connection, and count the attempt out."""
        upstream = self.upstream
        endpoint = self.endpoint
        if endpoint is None:
            return
        self.version.in_flight -= 1
        endpoint.in_flight -= 1
        endpoint.pool.active -= 1
        if self.event_stream:
            self.worker.event_streams -= 1
        self.endpoint = None
        if upstream is not None:
            self.upstream = None
            upstream.exchange = None
            if reuse and upstream.reusable:
                upstream.rest()
            else:
                upstream.close()

    def counted_out(self) -> None:
        """Take note that the attempt is in flight no more."""

    def _complete(self, now: int) -> None:
        """End an exchange whose response is with the client."""
        record.ended(self, now, BAD_STATUS if self.status >= 500 else -1, last=True)
        upstream = self.upstream
        endpoint = self.endpoint
        assert upstream is not None
        assert endpoint is not None
        # _detach, without the call.
        self.version.in_flight -= 1
        endpoint.in_flight -= 1
        pool = endpoint.pool
        pool.active -= 1
        self.endpoint = None
        self.upstream = None
        upstream.exchange = None
        self.phase = OVER
        if upstream.reusable and not self.body_left and not upstream.writing_paused:
            upstream.rest()
        else:
            upstream.close()
        if self.event_stream:
            self.worker.event_streams -= 1
        elif self._retried or self._failing_over:
            self._count_again(well=self.status < 500)
        self.downstream.exchange_over(self)

    def _count_again(self, *, well: bool) -> None:
        """Count how a request came out that was made again, where this one was: to the same version, to `stable`."""
        outcome = 0 if well else 1
        service = self.service
        counts = service.plane.counts
        if self._retried:
            self._retried = False
            counts[self.version.counters_at + layout.VERSION_RETRIES + outcome] += 1
        if self._failing_over:
            self._failing_over = False
            self.rescued = well
            self.worker.failing_over -= 1
            counts[service.counters_at + layout.SERVICE_FAILOVERS + outcome] += 1

    def _reply(self, status: int, reason: str, detail: str) -> None:
        """End the exchange with the proxy's own answer."""
        self.phase = OVER
        self.status = status
        self._count_again(well=False)
        self.downstream.reply(self, status, reason, detail)

    def _cut(self) -> None:
        """End an exchange that broke after its head was passed on: the client must see that it is incomplete."""
        self._detach(reuse=False)
        self.phase = OVER
        self._count_again(well=False)
        self.downstream.cut(framed=self._rechunk or self._response_left >= 0)

    def abandon(self) -> None:
        """End an exchange whose client left: the upstream request is aborted in the same tick."""
        if self.phase == OVER:
            return
        record.aborted(self, monotonic_ns())
        self._count_again(well=False)
        self._detach(reuse=False)
        self.phase = OVER

    # ---------------------------------------------------------------- flow

    def hold(self) -> None:
        """Stop reading from the endpoint: the client does not take more. Its time is not the endpoint's."""
        if not self.held_since:
            self.held_since = monotonic_ns()
        if self.upstream is not None:
            self.upstream.pause_reading()

    def unhold(self) -> None:
        """Go on reading from the endpoint."""
        if self.held_since:
            self.held_ns += monotonic_ns() - self.held_since
            self.held_since = 0
            self.active_tick = self.worker.wheel.tick
        if self.upstream is not None and not (self.phase == ANSWERING and self._early):
            self.upstream.resume_reading()

    # ---------------------------------------------------------------- deadlines

    def waited_ns(self, now: int) -> int:
        """Return how long the endpoint has had the request, without the time that the client held the flow."""
        if not self.started_ns:
            return 0
        return (self.held_since or now) - self.started_ns - self.held_ns

    def expire(self, now: int) -> None:
        """Act on deadlines that are over, count latency thresholds that are passed, and arm the next look."""
        service = self.service
        waited = self.waited_ns(now)
        measured = self.judged and not self.event_stream and not record.outlived(self)
        if measured:
            record.pass_thresholds(self, waited)
        remaining = 1_000_000_000
        idle_ns = (
            (self.worker.wheel.tick - self.active_tick) * TICK_NS if self.phase == ANSWERING or self.body_left else 0
        )
        if self.phase == WAITING and self.body_left and self._holds_back:
            waited = idle_ns  # since dispatch: the client waits for the endpoint, too
        if service.total_ns:
            left = service.total_ns - (now - self.arrived_ns)
            if left <= 0:
                # A version is charged with what it was given most of the time for; else our queue, the client or the
                # attempt before has taken it.
                self._timed_out("total", charged=not self.held_since and 2 * waited > service.total_ns)
                return
            remaining = min(remaining, left)
        if self.phase == CONNECTING:
            assert self.endpoint is not None
            began = self.upstream.began_ns if self.upstream is not None else now
            left = round(self.endpoint.pool.connect_s * 1e9) - (now - began)
            if left <= 0:
                self._attempt_failed(BAD_CONNECT, 504, "timeout", "Connecting to the endpoint took too long.")
                return
            remaining = min(remaining, left)
        elif self.held_since:
            if self.downstream.stalled_ticks() * TICK_NS >= service.idle_ns:
                # The client does not read: it is let go, and the version is not charged.
                self.downstream.abort()
                return
        elif self.phase == WAITING:
            if self.started_ns or self._holds_back:
                left = service.first_byte_ns - waited
                if left <= 0:
                    self._attempt_failed(BAD_TIMEOUT, 504, "timeout", "The endpoint did not answer in time.")
                    return
                remaining = min(remaining, left)
            else:
                left = self._body_patience_ns() - idle_ns
                if left <= 0:
                    self._body_stalled()
                    return
                remaining = min(remaining, left)
        elif self.body_left:
            # The endpoint may be waiting for the rest of the body.
            left = self._body_patience_ns() - idle_ns
            if left <= 0:
                self._body_stalled()
                return
            remaining = min(remaining, left)
        else:
            left = service.idle_ns - idle_ns
            if left <= 0:
                self._attempt_failed(BAD_TIMEOUT, 504, "timeout", "The endpoint stopped in the middle of its answer.")
                return
            remaining = min(remaining, left)
        if measured and self.started_ns:
            slow = self.slow
            if slow < len(service.thresholds_ns):
                remaining = min(remaining, service.thresholds_ns[slow] - waited)
            slow = self.first_slow
            if 0 <= slow < len(service.ttfb_thresholds_ns):
                remaining = min(remaining, service.ttfb_thresholds_ns[slow] - waited)
        self.worker.wheel.arm(self.downstream, max(1, -(-remaining // TICK_NS)))

    def _endpoint_stalls(self) -> bool:
        """Whether a request body stands still because the endpoint does not take more of it."""
        return self.upstream is not None and self.upstream.writing_paused

    def _body_patience_ns(self) -> int:
        """Return for how long a request body may stand still: that depends on who is to move."""
        return self.service.idle_ns if self._endpoint_stalls() else self.worker.body_idle_ns

    def _body_stalled(self) -> None:
        """End an exchange whose request body stands still; whose fault it is says the flow."""
        if self._endpoint_stalls():
            self._attempt_failed(BAD_TIMEOUT, 504, "timeout", "The endpoint stopped reading the request body.")
        else:
            self.keep = False
            self._refuse_body(408, "body_timeout", "The request body did not arrive in time.")

    def _timed_out(self, what: str, *, charged: bool) -> None:
        detail = f"The exchange took longer than its {what} time."
        if charged:
            self._attempt_failed(BAD_TIMEOUT, 504, "timeout", detail)
        elif self.phase == ANSWERING:
            self.downstream.abort()
        else:
            record.uncharged(self, 504)
            self._detach(reuse=False)
            self._reply(504, "timeout", detail)


def local_message(exchange: Exchange, status: int, reason: str, detail: str, date: bytes, *, close: bool) -> bytes:
    """Return the proxy's own answer to an exchange's request."""
    fields = b"Retry-After: 1\r\n" if status == 503 else b""
    return local_reply(
        status,
        reason,
        detail,
        exchange.request_id,
        head_only=exchange.head.method == b"HEAD",
        close=close,
        date=date,
        fields=fields,
    )


def _why(error: Exception | None) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    if isinstance(error, ssl.SSLError | ValueError):
        return "TLS with it failed"  # why is in the log: it is no business of clients
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return "the connection was closed" if error is None else type(error).__name__
