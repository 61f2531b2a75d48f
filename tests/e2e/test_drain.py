"""A drain under load: whoever watches readiness, as a load balancer does, sees no failed request."""

import contextlib
import http.client
import threading

import pytest

from tests.controlplane.waiting import until_now
from tests.e2e.product import CONFIG

pytestmark = pytest.mark.e2e

DRAINING = CONFIG.replace("delay: 0s", "delay: 10s")
PACE_S = 0.02


class Client(threading.Thread):
    """Asks again and again, on one connection or a new one each time, until it is over or an answer says so."""

    def __init__(self, port, over, *, keep):
        super().__init__()
        self.port = port
        self.over = over
        self.keep = keep
        self.answers = 0
        self.closed = False
        self.failures = []

    def run(self):
        while not (self.over.is_set() or self.closed):
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
            try:
                self._ask(connection)
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(repr(error))
            finally:
                connection.close()

    def _ask(self, connection):
        while not self.over.wait(PACE_S):
            connection.request("GET", "/")
            answer = connection.getresponse()
            answer.read()
            if answer.status != 200:
                self.failures.append(answer.status)
            self.answers += 1
            if answer.getheader("Connection") == "close":
                self.closed = True
                return
            if not self.keep:
                return


def test_a_drain_fails_no_request(product):
    """New connections stop when readiness says so; those that are kept go on until an answer closes them."""
    one = product(config=DRAINING).start()
    no_new, no_more = threading.Event(), threading.Event()
    fresh = [Client(one.port, no_new, keep=False) for _ in range(4)]
    kept = [Client(one.port, no_more, keep=True) for _ in range(8)]
    for client in (*fresh, *kept):
        client.start()
    try:
        until_now(lambda: all(client.answers > 20 for client in (*fresh, *kept)))
        one.process.terminate()
        until_now(lambda: one.call("GET", "/readyz")[0] == 503)
        at = [client.answers for client in fresh]
        # Who did not look yet still gets in.
        until_now(lambda: all(client.answers > before for client, before in zip(fresh, at, strict=True)))
        no_new.set()
        # Those that are kept go on until they are told.
        until_now(lambda: all(client.closed for client in kept))
    finally:
        no_new.set()
        no_more.set()
        for client in (*fresh, *kept):
            client.join()
    assert [client.failures for client in (*fresh, *kept)] == [[]] * 12
    assert one.process.wait(30) == 0


def test_a_connection_that_is_kept_idle_does_not_hold_up_a_drain(product):
    one = product(config=CONFIG.replace("timeout: 5s", "timeout: 60s")).start()
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", one.port, timeout=30)) as connection:
        connection.request("GET", "/")
        assert connection.getresponse().read() is not None
        one.process.terminate()
        assert one.process.wait(30) == 0
