"""Three versions in a row on the product as it runs, under load: v1 → v2 → v3, and a kill -9 in between."""

import signal

from tests.controlplane.waiting import until_now
from tests.e2e.test_rollout_verbs import UNLIMITED

PLAN = """rollouts:
      default:
        stages:
          - {name: tenth, weight: 10%, hold: 2s, min_requests: 20, limits: {error_rate: 1%, p99: 5s}}
          - {name: full, weight: 100%, hold: 2s, min_requests: 20, limits: {error_rate: 1%, p99: 5s}}
"""
ROLLOUT = "/api/v1/services/web/rollout"


def order(running, verb="", body=None):
    status, answer = running.call("POST", f"{ROLLOUT}{verb}", body or {})
    assert status == 200, answer
    return answer


def test_v1_to_v2_to_v3_under_load_and_v3_gets_nobody_before_its_own_first_stage(product, backends):
    running = product(PLAN, config=UNLIMITED).start()
    with backends.load(running.port, 100) as load:
        order(running)
        until_now(lambda: running.web()["phase"] == "completed")
        assert running.call("POST", ROLLOUT, {})[0] == 409
        done = order(running, "/finish")
        assert (done["phase"], done["versions"]["stable"]["label"]) == ("idle", "2.0")
        answered = load.answered
        until_now(lambda: load.answered > answered + 100)
        # What was v1 now waits to be v3: nobody is sent there until its own rollout begins.
        silent = backends.stable.requests
        body = {"label": "3.0", "endpoints": [f"http://127.0.0.1:{backends.ports['stable']}"]}
        assert running.call("PUT", "/api/v1/services/web/versions/new", body)[0] == 200
        answered = load.answered
        until_now(lambda: load.answered > answered + 200)
        assert backends.stable.requests == silent
        order(running)
        assert running.events("RolloutStarted")[-1]["after"]["new"] == 10
        until_now(lambda: backends.stable.requests > silent + 5)
        until_now(lambda: running.web()["phase"] == "completed")
        order(running, "/finish")
        answered = load.answered
        until_now(lambda: load.answered > answered + 100)
    assert load.errors == 0
    assert running.web()["versions"]["stable"]["label"] == "3.0"
    assert running.metric("tidegate_internal_errors_total") == 0
    assert running.end() == 0


def test_killed_in_a_rollout_it_goes_on_in_its_stage_with_never_more_weight(product, backends):
    running = product(PLAN.replace("hold: 2s", "hold: 1h"), config=UNLIMITED).start()
    with backends.load(running.port, 100):
        order(running)
        until_now(lambda: (running.web()["stage"]["elapsed_s"]) > 1)
        for _ in range(3):
            running.end(signal.SIGKILL)
            running.start()
            shown = running.web()
            assert (shown["phase"], shown["weights"]["new"], shown["stage"]["name"]) == ("progressing", 10, "tenth")
        running.call("POST", "/api/v1/services/web/rollback", {})
        running.end(signal.SIGKILL)
        running.start()
        shown = running.web()
    assert (shown["phase"], shown["weights"]["new"], shown["reason"]) == ("rolled_back", 0, "OperatorRollback")
