"""Whether a version can be reached: only failures without any success count, and silence proves nothing."""

from proxy.metrics.snapshot import EndpointCounts
from proxy.rollout.reach import Reach

READY, DRAIN = "ready", "drain"


class Version:
    """Two endpoints, their totals, and the watch over them."""

    def __init__(self):
        self.reach = Reach()
        self.now = 0.0
        self.totals = {url: {"connect_failed": 0, "connected": 0, "ended": 0, "bad": 0, "state": READY} for url in "ab"}
        self.diverted = 0
        self.look(0)

    def look(self, seconds=1.0):
        self.now += seconds
        counts = [EndpointCounts(url, **totals) for url, totals in self.totals.items()]
        self.reach.look(counts, self.diverted, self.now)

    def fail(self, *urls, seconds=1.0):
        for url in urls:
            for name in ("connect_failed", "ended", "bad"):
                self.totals[url][name] += 1
        self.look(seconds)


def test_failures_on_every_endpoint_for_ten_seconds():
    version = Version()
    for _ in range(10):
        version.fail("a", "b")
        assert version.reach.unreachable_s < 10
    version.fail("a", "b")
    assert version.reach.unreachable_s == 10
    assert version.reach.failures == 22
    assert version.reach.failures_of("a") == 11
    assert not version.reach.ready(version.now)


def test_one_endpoint_that_answers_is_enough():
    version = Version()
    for _ in range(30):
        version.totals["b"]["ended"] += 1
        version.fail("a")
    assert version.reach.unreachable_s == 0
    assert version.reach.ready(version.now)


def test_an_endpoint_that_nobody_tried_may_be_well():
    version = Version()
    for _ in range(30):
        version.fail("a")
    assert version.reach.unreachable_s == 0
    assert version.reach.ready(version.now)


def test_one_connection_begins_the_time_anew():
    version = Version()
    for _ in range(9):
        version.fail("a", "b")
    version.totals["a"]["connected"] += 1
    version.look()
    for _ in range(9):
        version.fail("a", "b")
        assert version.reach.unreachable_s < 10


def test_silence_after_a_failure_proves_nothing():
    version = Version()
    version.fail("a", "b")
    for _ in range(100):
        version.look()
    assert version.reach.unreachable_s == 0
    assert version.reach.ready(version.now)


def test_requests_that_are_diverted_for_ten_seconds():
    version = Version()
    for totals in version.totals.values():
        totals["state"] = DRAIN
    version.look()
    assert not version.reach.ready(version.now)
    for _ in range(11):
        version.diverted += 1
        version.look()
    assert version.reach.unreachable_s == 10


def test_a_bad_answer_on_an_open_connection_is_no_failure_to_connect():
    version = Version()
    for _ in range(30):
        for url in "ab":
            version.totals[url]["ended"] += 1
            version.totals[url]["bad"] += 1
        version.look()
    assert version.reach.unreachable_s == 0
    assert version.reach.ready(version.now)


def test_old_failures_of_stable_are_no_evidence():
    version = Version()
    for _ in range(5):
        version.fail("a", "b")
    assert not version.reach.ready(version.now)
    version.look(11)
    assert version.reach.ready(version.now)


def test_endpoints_that_are_gone_do_not_count():
    version = Version()
    for _ in range(5):
        version.fail("a")
    version.reach.look([EndpointCounts("a", READY, 5, 5, 5)], 0, version.now)
    assert not version.reach.ready(version.now)
    version.reach.look([], 0, version.now)
    assert not version.reach.ready(version.now)
