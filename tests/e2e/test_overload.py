"""A rollback that would drown `stable`: it answers what it can, as fast as before; the rest is to come again."""

import asyncio

import pytest

from proxy.cli.demo.backend import Backend, BackendConnection
from tests.controlplane.waiting import until_now
from tests.e2e.product import Backends

pytestmark = pytest.mark.e2e

AT_ONCE = 8  # what stable can work on
SERVICE_S = 0.1
RATE = 104  # per second; stable can take 80, and gets 52 before the rollback
SHED = 'tidegate_local_replies_total{code="503",reason="overload"}'
LIMITS = f"in_flight: {{version: {AT_ONCE}, queue: 16, wait: 500ms}}"


class Narrow(Backend):
    """Becomes slower for everybody with the square of what is above `AT_ONCE`, as what has too little memory does."""

    def __init__(self, name):
        super().__init__(name)
        self.now = 0
        self.most = 0

    def answer(self, head):
        response, _ = super().answer(head)
        self.now += 1
        self.most = max(self.most, self.now)
        wait_s = SERVICE_S * max(1.0, self.now / AT_ONCE) ** 2
        asyncio.get_running_loop().call_later(wait_s, self._done)
        return response, wait_s

    def _done(self):
        self.now -= 1


@pytest.fixture
def backends():
    running = Backends()
    running.stable = Narrow("stable")
    running._connection = lambda backend: _kept(running, backend)
    with running:
        yield running


def _kept(running, backend):
    running._connections.append(BackendConnection(backend))
    return running._connections[-1]


def went_well(load):
    """Tell whether of the next requests nearly all were answered: both versions have room for their half."""
    answered, errors = load.answered, load.errors
    until_now(lambda: load.answered > answered + RATE)
    return load.errors - errors < RATE / 20  # each worker has half of the room, perhaps not half of the connections


def test_a_rollback_that_would_drown_stable_queues_and_sheds(product, backends):
    running = product(more=LIMITS).start()
    running.set_weight(50)
    with backends.load(running.port, RATE) as load:
        until_now(lambda: went_well(load))
        backends.new.fail("errors")
        until_now(lambda: running.web()["phase"] == "rolled_back")
        # It goes on (one that drowns answers next to nobody), the others are turned away, and those it takes are
        # answered as fast as ever.
        answered = load.answered
        until_now(lambda: load.answered > answered + RATE)
        until_now(lambda: running.metric(SHED) > 50)
        until_now(lambda: running.web()["versions"]["stable"]["window"]["p99_ms"] < 10 * SERVICE_S * 1000)
        stable = running.web()["versions"]["stable"]
    # As fast as ever, because it never had more to do than it can.
    assert backends.stable.most <= AT_ONCE
    assert stable["bad"] == 0
    until_now(lambda: running.web()["versions"]["stable"]["queued"] == 0)
    status, version = running.ask()
    assert (status, version) == (200, "stable")
