"""The promises of DESIGN §1 on the running product."""

import os
import signal
from pathlib import Path

from proxy.cli.demo.backend import ERRORS, SLOW
from tests.controlplane.waiting import until_now
from tests.e2e.product import AT_ONCE, HUNG, QUICK

RATE = 200.0
# Every safe request is rescued: how many the usual budget covers depends on how busy the machine is.
RESCUED = "failover: {budget: 100%}"


def shut(running):
    """Wait until the gate is shut and return the service's status."""
    return until_now(lambda: (web := running.web())["phase"] == "rolled_back" and web)


def test_errors_of_new_shut_the_gate_and_nobody_is_sent_there_afterwards(product, backends):
    running = product(RESCUED).start()
    running.set_weight(50)
    with backends.load(running.port, RATE) as load:
        until_now(lambda: running.web()["versions"]["new"]["requests"] > 200)
        backends.new.fail(ERRORS)
        web = shut(running)
        event = until_now(lambda: running.events("RolledBack"))[-1]
        decided = event["evidence"]["decided_ns"]
        answered = load.answered
        until_now(lambda: load.answered > answered + 200)
    assert web["weights"]["new"] == 0
    assert web["reason"] == "ErrorRateAboveLimit"
    sent_after, under_way = backends.new.after(decided)
    assert sent_after == 0
    assert under_way <= load.sent  # those sent before the decision, by the backend's own book
    # The workers' own stamps: taken before the weight word was read, so none is later than the decision.
    stamps = running.events("RolledBack")[-1]["evidence"]
    assert stamps["verdict"] == "FAIL"
    assert stamps["n"] >= 20
    # GETs are answered by stable instead: no client saw an error.
    assert load.errors == 0
    assert running.metric("tidegate_internal_errors_total") == 0


def test_slowness_of_new_shuts_the_gate(product, backends):
    running = product(RESCUED, config=QUICK).start()
    running.set_weight(50)
    with backends.load(running.port, RATE) as load:
        until_now(lambda: running.web()["versions"]["new"]["requests"] > 50)
        backends.new.fail(SLOW)
        web = shut(running)
    assert web["reason"] == "P99AboveLimit"
    assert load.errors == 0


def test_the_gate_stays_shut_through_kill_9_of_everything(product, backends):
    running = product().start()
    running.set_weight(100)
    backends.new.fail(ERRORS)
    with backends.load(running.port, RATE):
        shut(running)
    for _ in range(2):
        running.kill_everything()
        before = backends.new.requests
        running.start()
        web = running.web()
        assert (web["phase"], web["weights"]["new"]) == ("rolled_back", 0)
        for user in range(50):
            assert running.ask(f"session=user-{user}") == (200, "stable")
        assert backends.new.requests == before
    # Only a person opens it again.
    backends.new.fail("well")
    running.set_weight(100)
    assert running.ask() == (200, "new")


def test_a_stopped_supervisor_sends_everything_to_stable_until_it_goes_on(product):
    running = product().start()
    running.set_weight(100)
    until_now(lambda: running.ask() == (200, "new"))
    running.process.send_signal(signal.SIGSTOP)
    try:
        until_now(lambda: running.ask() == (200, "stable"))
    finally:
        running.process.send_signal(signal.SIGCONT)
    until_now(lambda: running.ask() == (200, "new"))
    assert running.web()["phase"] == "idle"


def test_workers_serve_on_without_a_supervisor_and_the_next_one_takes_over(product, backends):
    running = product().start()
    running.set_weight(100)
    until_now(lambda: running.ask() == (200, "new"))
    orphans = running.workers
    with backends.load(running.port, RATE) as load:
        answered = load.answered
        until_now(lambda: load.answered > answered + 100)
        running.process.kill()
        running.process.wait()
        until_now(lambda: running.ask() == (200, "stable"))
        running.start()
        until_now(lambda: running.ask() == (200, "new"))
        until_now(lambda: not any(Path(f"/proc/{pid}").exists() for pid in orphans.values()))
        answered = load.answered
        until_now(lambda: load.answered > answered + 100)
    assert load.errors == 0
    assert set(running.workers.values()).isdisjoint(orphans.values())


def test_a_killed_worker_is_replaced_and_its_counts_are_kept(product, backends):
    running = product().start()
    with backends.load(running.port, RATE) as load:
        until_now(lambda: running.web()["versions"]["stable"]["requests"] > 200)
        before = running.web()["versions"]["stable"]["requests"]
        victim = running.workers[0]
        os.kill(victim, signal.SIGKILL)
        until_now(lambda: running.workers.get(0) not in (None, victim))
        assert running.web()["versions"]["stable"]["requests"] >= before
        answered = load.answered
        until_now(lambda: load.answered > answered + 50)
        # Only what was on the killed worker's connections may have failed.
        lost, answered = load.errors, load.answered
        until_now(lambda: load.answered > answered + 200)
    assert load.errors == lost <= AT_ONCE
    assert running.web()["versions"]["stable"]["requests"] <= load.sent


def test_a_drain_finishes_what_is_open_and_ends_with_0(product, backends):
    running = product().start()
    backends.stable.fail(SLOW)
    with backends.load(running.port, 50.0) as load:
        until_now(lambda: running.web()["versions"]["stable"]["in_flight"] > 3)
        in_flight = load.sent
    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(30) == 0
    assert load.answered == load.sent >= in_flight
    assert load.errors == 0


def test_hung_requests_shut_the_gate_while_they_hang(product, backends):
    """A p99 limit judges requests that never end: they count as slower as soon as they have passed it."""
    running = product(config=QUICK).start()
    backends.new.fail(HUNG)
    running.set_weight(100)
    with backends.load(running.port, 100.0, at_once=1000, patience_s=1.0):
        web = shut(running)
    assert web["reason"] == "P99AboveLimit"
    assert web["versions"]["new"]["window"]["requests"] == 0


def test_a_version_that_nobody_answers_for_is_rolled_back(product, backends):
    running = product(more="failover: {to_stable: never}").start()
    text = running.config.read_text()
    running.end()
    lonely = text.replace(f"127.0.0.1:{backends.ports['new']}", "127.0.0.1:1")
    running.config.write_text(lonely.replace("error_rate, max: 1%", "error_rate, max: 100%"))
    running.start()
    running.set_weight(50)
    with backends.load(running.port, 100.0):
        web = shut(running)
    assert web["reason"] == "NoHealthyEndpoint"


def test_without_a_ready_stable_nothing_is_moved_there(product, backends):
    running = product().start()
    text = running.config.read_text()
    running.end()
    running.config.write_text(text.replace(f"127.0.0.1:{backends.ports['stable']}", "127.0.0.1:1"))
    running.start()
    running.set_weight(50)
    with backends.load(running.port, RATE):
        until_now(lambda: running.web()["versions"]["stable"]["bad"] > 20)
        backends.new.fail(ERRORS)
        until_now(lambda: running.events("NoStable"))
        assert running.web()["weights"]["new"] == 50
        # A person's order is obeyed, with a warning.
        status, _ = running.call("POST", "/api/v1/services/web/rollback", {"reason": "mine"})
        assert status == 200
    assert running.web()["weights"]["new"] == 0
    assert "warning" in running.events("RolledBack")[-1]["evidence"]
