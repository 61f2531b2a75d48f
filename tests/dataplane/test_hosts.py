"""Names as endpoints: when they are looked up, and which address a connection goes to."""

from __future__ import annotations

import asyncio
import socket
import time
from contextlib import ExitStack
from functools import wraps

import pytest
import uvloop

from proxy.dataplane.deadline import Wheel
from proxy.dataplane.hosts import Hosts
from proxy.dataplane.pool import Pools
from proxy.dataplane.upstream import Upstream
from proxy.routing.table import Endpoint, Timeouts
from tests.dataplane.harness import eventually, same
from tests.dataplane.wire import answers, response
from tests.ports import held_port

NAME = "app.internal"
ONE, TWO, THREE = "127.0.0.1", "127.0.0.2", "127.0.0.3"


class Resolver:
    """Answers as it is told; `hold` makes it wait."""

    def __init__(self, *answer):
        self.answer = answer
        self.asked = []
        self.at_once = 0
        self.most = 0
        self.hold = None

    async def __call__(self, name):
        self.asked.append(name)
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        try:
            if self.hold is not None:
                await self.hold.wait()
            await asyncio.sleep(0)
            if isinstance(self.answer[0] if self.answer else "", Exception):
                raise self.answer[0]
            return self.answer
        finally:
            self.at_once -= 1


class FakeWorker:
    """As much of a worker as connections to endpoints need."""

    def __init__(self):
        self.loop = asyncio.get_running_loop()
        self.wheel = Wheel()
        self.finishing = set()
        self.upstreams = set()
        self.notices = []
        self.errors = []

    def random64(self):
        return 1 << 63

    def notice(self, text):
        self.notices.append(text)

    def internal_error(self, error):
        self.errors.append(error)


class Asking:
    """What asks for a connection."""

    def __init__(self):
        self.body_left = 0
        self.outcome = asyncio.get_running_loop().create_future()

    def connected(self):
        self.outcome.set_result(True)

    def upstream_ended(self, error):
        if not self.outcome.done():
            self.outcome.set_exception(error)


class Rig:
    """Names, one pool, and servers that listen on addresses of this machine, all on the same port."""

    def __init__(self, resolver, *, connect_s=1.0):
        self.worker = FakeWorker()
        self.resolver = resolver
        self.made = []
        self.hosts = Hosts(self.worker, resolver)
        self.pools = Pools(self.hosts)
        self.stack = ExitStack()
        self.port = self.stack.enter_context(held_port()).getsockname()[1]
        self.timeouts = Timeouts(connect_s=connect_s, pool_idle_s=60.0)
        self.endpoint = Endpoint(f"http://{NAME}:{self.port}", NAME, self.port)
        self.pool = self.pools.of(self.endpoint)
        self.pool.settle(self.timeouts, None)
        self.name = self.pool.name

    def listen(self, *addresses, deaf=False):
        for address in addresses:
            sock = self.stack.enter_context(socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((address, self.port))
            sock.listen(0 if deaf else 64)
            if deaf:
                for _ in range(3):
                    filler = self.stack.enter_context(socket.socket())
                    filler.setblocking(False)
                    filler.connect_ex((address, self.port))

    async def connect(self):
        """Make a connection and return it."""
        asking = Asking()
        upstream = Upstream(self.worker, self.pool, asking)
        self.made.append(upstream)
        await asyncio.wait_for(asking.outcome, 30)
        return upstream

    async def addresses(self, count):
        return [(await self.connect()).address for _ in range(count)]

    def turn(self, ticks):
        for _ in range(ticks):
            self.worker.wheel.advance(0)

    async def until(self, condition):
        async with asyncio.timeout(30):
            while not condition():  # noqa: ASYNC110 -- nobody is there to tell
                await asyncio.sleep(0.005)

    async def close(self):
        for upstream in self.made:
            upstream.close()
        await self.until(lambda: not self.name._connections)
        self.hosts.keep_only(set())
        self.stack.close()
        assert self.worker.errors == []


def with_rig(*answer, **fields):
    """Run a test with a rig whose resolver answers so."""

    def decorate(test):
        @wraps(test)
        def run():
            async def body():
                rig = Rig(Resolver(*answer), **fields)
                try:
                    await test(rig)
                finally:
                    await rig.close()

            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(body())

        del run.__wrapped__
        return run

    return decorate


@with_rig(ONE)
async def test_addresses_and_sockets_are_not_looked_up(rig):
    await rig.until(lambda: rig.name.addresses)
    for endpoint in (Endpoint("http://127.0.0.1:1", ONE, 1), Endpoint("unix:/x", "localhost", 80, "/x")):
        assert rig.pools.of(endpoint).name is None
    assert rig.resolver.asked == [NAME]


@with_rig(ONE, TWO, THREE)
async def test_connections_are_spread_over_all_addresses(rig):
    rig.listen(ONE, TWO, THREE)
    assert sorted(await rig.addresses(9)) == [ONE] * 3 + [TWO] * 3 + [THREE] * 3
    assert len(rig.resolver.asked) == 1


@with_rig("::1", ONE)
async def test_both_families(rig):
    rig.listen("::1", ONE)
    assert sorted(await rig.addresses(4)) == [ONE, ONE, "::1", "::1"]


@with_rig(ONE, TWO)
async def test_a_failing_address_is_avoided_and_tried_again(rig):
    rig.listen(TWO)
    assert await rig.addresses(4) == [TWO] * 4
    rig.listen(ONE)
    assert await rig.addresses(2) == [TWO] * 2
    rig.turn(41)
    assert ONE in await rig.addresses(2)


@with_rig(ONE, TWO, connect_s=1.6)
async def test_a_silent_address_leaves_time_for_the_next(rig):
    rig.listen(ONE, deaf=True)
    rig.listen(TWO)
    assert set(await rig.addresses(6)) == {TWO}


@pytest.mark.parametrize("when", ["before it is known", "as it is made"])
def test_a_connection_that_is_made_just_as_its_time_is_over_is_used_or_given_up(when):
    """A loop that is held up learns of both at once."""

    @with_rig(ONE, TWO, connect_s=1.0)
    async def run(rig):
        rig.listen(ONE, TWO)
        await rig.until(lambda: rig.name.addresses)
        loop = asyncio.get_running_loop()

        def hold_up():
            time.sleep(0.55)

        class Held(Asking):
            def connected(self):
                super().connected()
                if when == "as it is made":
                    hold_up()

        asking = Held()
        upstream = Upstream(rig.worker, rig.pool, asking)
        rig.made.append(upstream)
        if when == "before it is known":
            loop.call_soon(hold_up)
        await asyncio.wait_for(asking.outcome, 30)
        for _ in range(5):
            await asyncio.sleep(0)
        assert upstream.transport.get_extra_info("socket") is not None
        assert rig.worker.upstreams == {upstream}
        assert rig.name._connections == {upstream.address: {upstream}}

    run()


@with_rig(ONE)
async def test_a_connection_that_nobody_wants_any_more_is_not_counted(rig):
    rig.listen(ONE)
    await rig.until(lambda: rig.name.addresses)
    upstream = Upstream(rig.worker, rig.pool, Asking())
    made = upstream.connection_made

    def give_up_first(transport):
        upstream.close()
        made(transport)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Upstream, "connection_made", lambda _, transport: give_up_first(transport))
        await rig.until(lambda: not rig.worker.upstreams)
        for _ in range(5):
            await asyncio.sleep(0)
    assert rig.name._connections == {}


@with_rig(ONE, TWO)
async def test_no_address_takes_connections(rig):
    with pytest.raises(ConnectionRefusedError):
        await rig.connect()


@with_rig(ONE)
async def test_the_first_look_up_is_waited_for(rig):
    rig.listen(ONE)
    rig.resolver.hold = asyncio.Event()
    waiting = [asyncio.create_task(rig.connect()) for _ in range(5)]
    await asyncio.sleep(0)
    rig.resolver.hold.set()
    assert {upstream.address for upstream in await asyncio.gather(*waiting)} == {ONE}
    assert rig.resolver.asked == [NAME]


@with_rig(ONE, connect_s=0.2)
async def test_a_resolver_that_hangs_is_named(rig):
    rig.resolver.hold = asyncio.Event()
    with pytest.raises(socket.gaierror, match=r"app\.internal does not resolve \(the resolver does not answer\)"):
        await rig.connect()


@with_rig(socket.gaierror(-2, "Name or service not known"))
async def test_a_name_that_does_not_resolve_yet(rig):
    for _ in range(3):
        with pytest.raises(socket.gaierror, match=r"app\.internal does not resolve \(name or service"):
            await rig.connect()
    assert rig.resolver.asked == [NAME]  # not in the request's path
    rig.listen(ONE)
    rig.resolver.answer = (ONE,)
    rig.turn(20)
    await rig.until(lambda: rig.name.addresses)
    assert await rig.addresses(1) == [ONE]
    assert rig.worker.notices == [
        "the name app.internal does not resolve (name or service not known)",
        "the name app.internal resolves again",
    ]


@pytest.mark.parametrize(
    "failure", [(), (socket.gaierror(-3, "Temporary failure"),), (UnicodeError("label too long"),)]
)
def test_the_last_good_answer_is_kept(failure):
    @with_rig(ONE)
    async def run(rig):
        rig.listen(ONE)
        upstream = await rig.connect()
        rig.resolver.answer = failure
        rig.turn(200)
        await rig.until(lambda: rig.name.failure)
        assert rig.name.addresses == (ONE,)
        assert upstream.reusable
        assert await rig.addresses(1) == [ONE]
        assert rig.worker.notices[0].endswith(": its last addresses are used")

    run()


@with_rig(ONE)
async def test_looked_up_again_every_five_to_ten_seconds(rig):
    await rig.until(lambda: rig.name.addresses)
    for looked in (2, 3, 4):
        rig.turn(100)
        assert len(rig.resolver.asked) == looked - 1
        rig.turn(100)
        await rig.until(lambda looked=looked: len(rig.resolver.asked) == looked)
        await rig.until(lambda: rig.name.due)


@with_rig(ONE)
async def test_one_look_up_at_a_time(rig):
    await rig.until(lambda: rig.name.addresses)
    rig.resolver.hold = asyncio.Event()
    rig.turn(200)
    for _ in range(3):
        rig.turn(20)
        with pytest.raises(ConnectionRefusedError):
            await rig.connect()
    assert (len(rig.resolver.asked), rig.resolver.most) == (2, 1)
    rig.resolver.hold.set()


@with_rig(ONE)
async def test_a_failed_connection_makes_look_again(rig):
    rig.listen(TWO)
    await rig.until(lambda: rig.name.addresses)
    rig.turn(20)
    rig.resolver.answer = (TWO,)
    with pytest.raises(ConnectionRefusedError):
        await rig.connect()
    await rig.until(lambda: rig.name.addresses == (TWO,))
    assert await rig.addresses(2) == [TWO, TWO]


@with_rig(ONE, TWO)
async def test_connections_to_an_address_that_is_gone_are_closed(rig):
    rig.listen(ONE, TWO)
    two = [await rig.connect(), await rig.connect()]
    resting = [await rig.connect(), await rig.connect()]
    for upstream in resting:
        upstream.exchange = None
        upstream.rest()
    rig.resolver.answer = (TWO,)
    rig.turn(200)
    await rig.until(lambda: rig.name.addresses == (TWO,))
    assert [upstream.reusable for upstream in sorted(two, key=lambda one: one.address)] == [False, True]
    await rig.until(lambda: len(rig.pool.idle) == 1)
    assert rig.pool.idle[0].address == TWO


@with_rig(ONE)
async def test_a_name_that_nobody_uses_is_looked_up_no_more(rig):
    await rig.until(lambda: rig.name.due)
    rig.pools.keep_only(set())
    rig.turn(300)
    assert rig.resolver.asked == [NAME]
    assert rig.pools.of(rig.endpoint).name is not rig.name


# ---------------------------------------------------------------- with a real worker and the system's resolver


def test_localhost(gate):
    backend = gate.backend(answers(response()))
    port = backend.endpoint.port
    gate.serve(Endpoint(f"http://localhost:{port}", "localhost", port))
    client = gate.client()
    for _ in range(3):
        assert client.request().status == 200
    assert backend.requests[0].get("Host") == "shop.test"
    same(lambda: gate.judged(0), (3, {}))


def test_a_name_that_nobody_knows(gate):
    gate.serve(Endpoint("http://nobody.invalid:80", "nobody.invalid", 80))
    answer = gate.client().request()
    assert answer.status == 502
    assert b"the name nobody.invalid does not resolve" in answer.body
    same(lambda: gate.bad(0), {"connect": 1})
    eventually(lambda: any("nobody.invalid" in one.get("text", "") for one in gate.worker.hear()))
