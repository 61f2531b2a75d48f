"""Limits of what is in flight, and the queue before them.

The problem: a version that gets more requests at once than it can work on becomes slower for all of them, until
every answer comes too late for whoever waited for it. A rollback makes that of a healthy `stable`: it gets the
share of `new` from one instant to the next. So an operator who knows what a version can take says so
(`in_flight`), what is above that waits a moment, and the rest is told at once to come again (503, `Retry-After`).

*Limit*: of what is in flight on a version, or on one endpoint of it; tunnels count as long as they are open.
*Share*: this worker's part of a limit, which is for all workers together (nobody asks the others, so that one
worker may let requests wait while another still has room). *Queue*: the requests of one version that wait for
room in this worker, first come, first served.

Rules: whoever waits is in flight nowhere, and its wait is the user's time (`timeouts.total` goes on), not the
version's. Whoever is called has its version chosen again by the weight word of that instant (DESIGN §1, promise 1),
and nothing is sent for a client that has left. What is turned away is charged to nobody. A queue outlives
generations, as connections do: a reload opens no gap in the limit.

A service without limits has none of this: its exchanges are plain ones, chosen when its `Plane` is made.
Sources: HAProxy's `maxconn`, `timeout queue` and `maxqueue`; Envoy's circuit breakers (`max_requests`,
`max_pending_requests`); nginx's `max_conns`. Their waits end in 503 too.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Set as AbstractSet
from time import monotonic_ns
from typing import TYPE_CHECKING

from proxy.dataplane.deadline import ticks
from proxy.dataplane.exchange import CONNECTING, Exchange
from proxy.ipc import layout
from proxy.routing.table import NEW, InFlight

if TYPE_CHECKING:
    from proxy.dataplane.downstream import Downstream
    from proxy.dataplane.live import LiveEndpoint, LiveService, LiveVersion
    from proxy.dataplane.worker import Worker
    from proxy.http1.head import RequestHead

_WEIGHT_MASK = layout.WEIGHT_MASK
_STATE_MASK = layout.ENDPOINT_STATE_MASK


def share(limit: int, slot: int, slots: int, least: int) -> int:
    """Return what one of `slots` workers has of `limit`: the shares add up to it, unless `least` is above that."""
    return max(least, limit // slots + (slot < limit % slots))


class Queue:
    """What is in flight on one version of a service in this worker, and who waits for it."""

    __slots__ = (
        "_called",
        "_in_flight",
        "_of_endpoint",
        "_of_endpoints",
        "_of_version",
        "_places",
        "_ticks",
        "waiting",
    )

    def __init__(self) -> None:
        self.waiting: deque[LimitedExchange] = deque()
        self._in_flight = 0
        self._of_endpoints: dict[str, int] = {}
        self._of_version: int | None = None
        self._of_endpoint: int | None = None
        self._places = 0
        self._ticks = 1
        self._called = False

    def settle(self, spec: InFlight, slot: int, slots: int) -> None:
        """Take over the limits of the newest table."""
        self._of_version = None if spec.version is None else share(spec.version, slot, slots, 1)
        self._of_endpoint = None if spec.endpoint is None else share(spec.endpoint, slot, slots, 1)
        self._places = share(spec.queue, slot, slots, min(1, spec.queue))
        self._ticks = ticks(spec.wait_s)

    def choose(self, version: LiveVersion, chosen: LiveEndpoint, states: memoryview) -> LiveEndpoint | None:
        """Return `chosen`, or the least busy ready endpoint where that has no room; `None`: there is no room."""
        if self._of_version is not None and self._in_flight >= self._of_version:
            return None
        limit = self._of_endpoint
        if limit is None or self._of_endpoints.get(chosen.spec.url, 0) < limit:
            return chosen
        taken = self._of_endpoints
        roomy = [
            endpoint
            for endpoint in version.endpoints
            if taken.get(endpoint.spec.url, 0) < limit and not states[endpoint.state_at] & _STATE_MASK
        ]
        return min(roomy, key=lambda endpoint: endpoint.load, default=None)

    def enter(self, endpoint: str) -> None:
        """Count one in."""
        self._in_flight += 1
        self._of_endpoints[endpoint] = self._of_endpoints.get(endpoint, 0) + 1

    def leave(self, endpoint: str, worker: Worker) -> None:
        """Count one out, and call who waits: after what is being done now, which may take the room again."""
        self._in_flight -= 1
        left = self._of_endpoints[endpoint] - 1
        if left:
            self._of_endpoints[endpoint] = left
        else:
            del self._of_endpoints[endpoint]
        if self.waiting and not self._called:
            self._called = True
            worker.loop.call_soon(self.call)

    def wait(self, exchange: LimitedExchange) -> int:
        """Let an exchange wait; return for how many ticks at most, 0 if every place is taken."""
        if len(self.waiting) >= self._places:
            return 0
        self.waiting.append(exchange)
        return self._ticks

    def call(self) -> None:
        """Let those go on who have room now, in their order."""
        self._called = False
        while self.waiting and self.waiting[0].called():
            pass

    def look(self) -> None:
        """Let those go whom the weight sends elsewhere by now; call the others, whatever may have made room."""
        for exchange in [one for one in self.waiting if one.astray()]:
            exchange.called()
        self.call()


class Queues:
    """All queues of a worker, by service and version."""

    __slots__ = ("_queues", "slot", "slots")

    def __init__(self) -> None:
        self.slot = 0
        self.slots = 1
        self._queues: dict[tuple[str, int], Queue] = {}

    def of(self, service: str, version: int) -> Queue:
        """Return the queue of a version, as it is; a new one has no places before it is settled."""
        return self._queues.setdefault((service, version), Queue())

    def settle(self, queue: Queue, spec: InFlight) -> None:
        """Put the limits of the newest table on a queue."""
        queue.settle(spec, self.slot, self.slots)

    def look(self) -> None:
        """Look after those who wait."""
        for queue in self._queues.values():
            if queue.waiting:
                queue.look()

    def keep_only(self, services: AbstractSet[str]) -> None:
        """Forget services that no live generation has."""
        self._queues = {key: queue for key, queue in self._queues.items() if key[0] in services}


class LimitedExchange(Exchange):
    """A request to a service whose versions take only so many at once."""

    __slots__ = ("_at", "_queue", "_until", "_waits")

    def __init__(
        self, worker: Worker, downstream: Downstream, service: LiveService, head: RequestHead, now: int
    ) -> None:
        super().__init__(worker, downstream, service, head, now)
        self._queue: Queue | None = None  # where it is counted in, at the endpoint with this URL
        self._at = ""
        self._waits: Queue | None = None  # where it waits, until this tick
        self._until = 0

    # ---------------------------------------------------------------- going on or waiting

    def _attempt(self, version: LiveVersion, endpoint: LiveEndpoint | None, *, fresh: bool = False) -> None:
        if endpoint is not None:
            queue = version.queue
            assert queue is not None
            # Nobody passes those who wait but who was there already: a repeated attempt has its room still.
            free = fresh or not queue.waiting
            endpoint = queue.choose(version, endpoint, self._states()) if free else None
            if endpoint is None:
                self._wait(version, queue)
                return
            self._enter(queue, endpoint)
        super()._attempt(version, endpoint, fresh=fresh)

    def _enter(self, queue: Queue, endpoint: LiveEndpoint) -> None:
        self._queue = queue
        self._at = endpoint.spec.url
        queue.enter(self._at)

    def _states(self) -> memoryview:
        return self.service.plane.control.words

    def _wait(self, version: LiveVersion, queue: Queue) -> None:
        self.version = version
        patience = queue.wait(self)
        if not patience:
            self._reply(503, "overload", f"{self.service.name} has as many requests as it can take.")
            return
        self.phase = CONNECTING
        self._waits = queue
        version.queued += 1
        wheel = self.worker.wheel
        if self._until <= wheel.tick:  # else it comes from another queue
            self._until = wheel.tick + (min(patience, self.total_left()) if self.service.total_ns else patience)
        wheel.arm(self.downstream, self._until - wheel.tick)

    def _stop_waiting(self) -> None:
        if self._waits is not None:
            self._waits.waiting.remove(self)
            self._waits = None
            self.version.queued -= 1
            self.started_ns = 0  # it was dispatched to nobody

    def astray(self) -> bool:
        """Whether it waits for `new`, and the weight is too low for that by now."""
        if self._bucket < 0 or self.version.index != NEW:
            return False
        service = self.service
        return self._bucket >= service.weights[service.weight_at] & _WEIGHT_MASK

    def called(self) -> bool:
        """Go on if there is room; return whether this one waits no longer. Must not raise."""
        try:
            if not self._called():
                return False
            self._take_over_limits()
        except Exception as error:  # noqa: BLE001 -- no exception crosses a callback
            self.worker.internal_error(error)
            self._stop_waiting()
            self.downstream.abort()
        return True

    def _called(self) -> bool:
        queue = self._waits
        assert queue is not None
        service = self.service
        if self.downstream.transport.is_closing() or self.downstream.client_left():
            self._stop_waiting()
            self.downstream.abort()
            return True
        if self.astray():
            self._stop_waiting()
            self._start_again(monotonic_ns())
            self._attempt(service.stable, self._pick(service.stable))
            return True
        version = self.version
        endpoint = self._pick(version)
        if endpoint is None:
            self._stop_waiting()
            self._start_again(monotonic_ns())
            if version.index and (self._bucket >= 0 or not self.judged):
                self._divert()
            else:
                self._attempt(version, None)
            return True
        endpoint = queue.choose(version, endpoint, self._states())
        if endpoint is None:
            return False
        self._stop_waiting()
        self._until = 0
        now = monotonic_ns()
        self._start_again(now)
        if version.index:
            version.last_dispatch_ns = now
        self._enter(queue, endpoint)
        super()._attempt(version, endpoint)
        return True

    # ---------------------------------------------------------------- the ends

    def expire(self, now: int) -> None:
        """Turn away whoever has waited for too long."""
        if self._waits is None:
            super().expire(now)
            return
        left = self._until - self.worker.wheel.tick
        if left > 0:
            self.worker.wheel.arm(self.downstream, left)
        elif not self.called():  # a last look: the weight may send it elsewhere
            self._reply(503, "overload", f"{self.service.name} could not take the request in time.")

    def counted_out(self) -> None:
        """Make room for the next."""
        queue = self._queue
        if queue is not None:
            self._queue = None
            queue.leave(self._at, self.worker)

    def _detach(self, *, reuse: bool) -> None:
        super()._detach(reuse=reuse)
        self.counted_out()

    def _complete(self, now: int) -> None:
        super()._complete(now)
        self.counted_out()

    def _reply(self, status: int, reason: str, detail: str) -> None:
        self._stop_waiting()
        super()._reply(status, reason, detail)

    def abandon(self) -> None:
        """End an exchange whose client left, where it waits too."""
        self._stop_waiting()
        super().abandon()
