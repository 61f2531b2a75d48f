"""Endpoints that go down, fail and come back, on the running product."""

import http.client

import pytest

from proxy.cli.demo.backend import ERRORS, WELL, Backend
from tests.controlplane.waiting import until_now
from tests.e2e.product import Backends

RATE = 100.0
HEALTH = "health: {path: /health, interval: 100ms, timeout: 10s, rise: 2, fall: 3}"
TWO = """
listen: 127.0.0.1:{port}
workers: 2
state: tidegate.db
admin: {{listen: "127.0.0.1:{admin}"}}
drain: {{delay: 0s, timeout: 5s}}
services:
  - name: web
    stable: {{label: "1.0", endpoints: ["http://127.0.0.1:{stable}", "http://127.0.0.1:{other}"]}}
    new: {{label: "2.0", endpoints: ["http://127.0.0.1:{new}"]}}
    split: {{new: 0%, sticky: {{by: cookie, name: session}}}}
    limits: {{error_rate: 1%, p99: 5s}}
    slow_start: 4s
    timeouts: {{connect: 10s}}
    {more}
"""


class Fit(Backend):
    """A backend that can be unwell (answers /health with 503) while it answers everything else."""

    well = True
    checks = 0

    def answer(self, head):
        if head.startswith(b"GET /health "):
            self.checks += 1
            if not self.well:
                return b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n", 0
            return self._good(), 0
        return super().answer(head)


class Fits(Backends):
    """Two endpoints of `stable`, one of `new`."""

    def __init__(self):
        super().__init__()
        self.stable, self.new, self.other = Fit("stable"), Fit("new"), Fit("other")
        self._many = (self.stable, self.new, self.other)

    async def _listen(self):
        for backend in self._many:
            server = await self.loop.create_server(lambda backend=backend: self._connection(backend), "127.0.0.1", 0)
            self._servers.append(server)
            self.ports[backend.name] = server.sockets[0].getsockname()[1]


@pytest.fixture
def backends():
    with Fits() as running:
        yield running


def told(running, kind):
    """Return (version, url) of the events of a type, oldest first."""
    return [(one["evidence"]["version"], one["evidence"]["url"]) for one in running.events(kind)]


def endpoint(running, version, index=0):
    """Return state and why of an endpoint."""
    shown = running.web()["versions"][version]["endpoints"][index]
    return shown["state"], shown["why"]


def more(load, count=100):
    """Wait until so many more requests are answered."""
    answered = load.answered
    until_now(lambda: load.answered > answered + count)


def gets_nothing(backend, load):
    """Tell whether none of the next hundred requests came to a backend."""
    before = backend.requests
    more(load)
    return backend.requests == before


def test_an_endpoint_that_is_not_well_gets_nothing_until_it_is(product, backends):
    running = product(HEALTH, config=TWO).start()
    url = f"http://127.0.0.1:{backends.ports['other']}"
    up = f'tidegate_endpoint_up{{endpoint="{url}",service="web",version="stable"}}'
    with backends.load(running.port, RATE) as load:
        until_now(lambda: backends.other.requests > 20)
        assert running.metric(up) == 1
        backends.other.well = False
        until_now(lambda: endpoint(running, "stable", 1)[0] == "down")
        assert endpoint(running, "stable", 1)[1].endswith(" checks failed: 503")
        until_now(lambda: running.metric(up) == 0)
        until_now(lambda: gets_nothing(backends.other, load))  # once what was on its way is there
        before = backends.other.requests
        backends.other.well = True
        until_now(lambda: endpoint(running, "stable", 1)[1].startswith("slow start: "))
        until_now(lambda: endpoint(running, "stable", 1) == ("ready", ""))
        until_now(lambda: backends.other.requests > before + 20)
    assert load.errors == 0
    assert told(running, "EndpointDown") == told(running, "EndpointUp") == [("stable", url)]
    assert running.metric("tidegate_internal_errors_total") == 0


def test_what_is_down_gets_nothing_from_the_next_supervisor_either(product, backends):
    running = product(HEALTH, config=TWO).start()
    backends.other.well = False
    until_now(lambda: endpoint(running, "stable", 1)[0] == "down")
    with backends.load(running.port, RATE) as load:
        more(load)
        before = backends.other.requests
        running.process.kill()
        running.process.wait()
        more(load)
        running.start()
        assert endpoint(running, "stable", 1)[0] == "down"
        more(load)
        checks = backends.other.checks
        until_now(lambda: backends.other.checks > checks + 3)
        assert backends.other.requests == before
        backends.other.well = True
        until_now(lambda: backends.other.requests > before)
    assert load.errors == 0


def test_when_all_of_new_is_down_stable_answers_and_ten_seconds_of_it_roll_back(product, backends):
    running = product(HEALTH, config=TWO).start()
    running.set_weight(50)
    with backends.load(running.port, RATE) as load:
        until_now(lambda: backends.new.requests > 50)
        backends.new.well = False
        until_now(lambda: endpoint(running, "new")[0] == "down")
        diverted = 'tidegate_bad_total{kind="diverted",service="web",version="new"}'
        until_now(lambda: running.metric(diverted) > 0)
        web = until_now(lambda: (web := running.web())["phase"] == "rolled_back" and web)
    # Diverted ones count as bad: whichever limit sees it first has shut the gate.
    assert web["reason"] in ("NoHealthyEndpoint", "ErrorRateAboveLimit")
    assert load.errors == 0


def test_ten_seconds_without_an_endpoint_roll_back_where_no_limit_does(product, backends):
    running = product(HEALTH, config=TWO.replace("limits: {{error_rate: 1%, p99: 5s}}", "limits: []")).start()
    running.set_weight(50)
    with backends.load(running.port, RATE) as load:
        until_now(lambda: backends.new.requests > 50)
        backends.new.well = False
        web = until_now(lambda: (web := running.web())["phase"] == "rolled_back" and web)
    assert web["reason"] == "NoHealthyEndpoint"
    assert load.errors == 0


def refused(running):
    """Return Retry-After of a 503 that a visitor of `stable` gets, `None` if it is another answer."""
    for user in range(50):
        connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=30)
        try:
            connection.request("GET", "/", headers={"Cookie": f"session=user-{user}"})
            answer = connection.getresponse()
            answer.read()
        finally:
            connection.close()
        if answer.status == 503:
            return answer.getheader("retry-after")
    return None


def test_when_all_of_stable_is_down_new_keeps_its_share_and_nothing_rolls_back(product, backends):
    running = product(HEALTH, config=TWO).start()
    running.set_weight(50)
    backends.stable.well = backends.other.well = False
    until_now(lambda: {endpoint(running, "stable", at)[0] for at in (0, 1)} == {"down"})
    assert until_now(lambda: refused(running)) == "1"
    answers = [running.ask(f"session=user-{user}") for user in range(60)]
    assert {status for status, version in answers if version != "new"} == {503}
    assert 10 < answers.count((200, "new")) < 50
    backends.new.fail(ERRORS)
    with backends.load(running.port, RATE):
        until_now(lambda: running.events("NoStable"))
    assert running.web()["weights"]["new"] == 50
    # With an endpoint of stable again, the failures that go on roll back.
    backends.stable.well = True
    until_now(lambda: endpoint(running, "stable")[0] == "ready")
    with backends.load(running.port, RATE):
        until_now(lambda: running.web()["phase"] == "rolled_back")


def test_new_answers_for_a_stable_that_is_down_where_it_may(product, backends):
    running = product(HEALTH + "\n    fallback_to_new: true", config=TWO).start()
    backends.stable.well = backends.other.well = False
    until_now(lambda: {endpoint(running, "stable", at)[0] for at in (0, 1)} == {"down"})
    until_now(lambda: running.ask() == (200, "new"))


def test_an_endpoint_that_fails_is_ejected_and_comes_back(product, backends):
    running = product("eject: {bad: 20%, window: 2s, base: 2s}", config=TWO).start()
    with backends.load(running.port, RATE) as load:
        until_now(lambda: backends.other.requests > 20)
        backends.other.fail(ERRORS)
        until_now(lambda: endpoint(running, "stable", 1)[0] == "ejected")
        assert endpoint(running, "stable", 1)[1].startswith("ejected: ")
        backends.other.fail(WELL)
        until_now(lambda: running.events("EndpointReturned"))
        before = backends.other.requests
        until_now(lambda: endpoint(running, "stable", 1) == ("ready", ""))
        until_now(lambda: backends.other.requests > before + 20)
        errors = load.errors
        more(load)
        assert load.errors == errors
    assert running.metric('tidegate_ejections_total{service="web",version="stable"}') >= 1
