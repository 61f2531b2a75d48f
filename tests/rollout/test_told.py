"""Every event says which thing it is about, what became of it, and why."""

import re
from pathlib import Path

import pytest

import proxy
from proxy.rollout import told

AT = {"new": 10, "phase": "idle", "revision": 4}
SHOWN = {"file": "/etc/tls/shop.pem", "names": ["shop.test", "*.shop.test"], "shown_at": ["0.0.0.0:8443"]}
WENT = "went from 10 % to 10 % (stage None)"
HELD = "the hold is over and every limit is PASS"
WELL = "nobody is sent to new, and stable is within the limits"
ENDPOINT = {"version": "stable", "url": "http://a:1"}


def event(kind, reason="", before=AT, after=AT, **evidence):
    return {"seq": 1, "time": 1_700_000_000.25, "service": "web", "type": kind, "actor": "ann", "reason": reason} | {
        "before": before,
        "after": after,
        "evidence": evidence,
    }


@pytest.mark.parametrize(
    "which, said",
    [
        (
            event("CertificatesRenewed", "FilesChanged", {}, {}, **SHOWN),
            (
                "shows another certificate, /etc/tls/shop.pem for shop.test, *.shop.test at 0.0.0.0:8443: "
                "its files have changed"
            ),
        ),
        (
            event("CertificatesRenewed", "FirstOfList", {}, {}, **SHOWN),
            (
                "shows another certificate, /etc/tls/shop.pem for shop.test, *.shop.test at 0.0.0.0:8443: "
                "it is now the first of the list, for clients that ask for no other"
            ),
        ),
        (
            event("CertificatesRemoved", "ConfigReloaded", {}, {}, **SHOWN),
            (
                "shows a certificate no more, /etc/tls/shop.pem for shop.test, *.shop.test at 0.0.0.0:8443: "
                "the config names other files"
            ),
        ),
        (
            event("CertificateProblem", "CertificateUnusable", {}, {}, **SHOWN, why="is encrypted: take it off"),
            (
                "has a certificate that needs somebody, /etc/tls/shop.pem for shop.test, *.shop.test at 0.0.0.0:8443: "
                "its files have changed and cannot be used, the one before stays; is encrypted: take it off"
            ),
        ),
        (
            event("CertificateProblem", "CertificateOutOfDate", {}, {}, **SHOWN | {"names": list("abcde")}, why="old"),
            (
                "has a certificate that needs somebody, /etc/tls/shop.pem for a, b, c, and 2 more at 0.0.0.0:8443: "
                "clients will refuse it; old"
            ),
        ),
        (
            event("EndpointSet", "its disk", ENDPOINT | {"state": "ready"}, ENDPOINT | {"state": "drain"}),
            "has the endpoint http://a:1 of stable set from ready to drain: its disk",
        ),
        (
            event("EndpointDown", "ChecksFailed", **ENDPOINT, why="3 checks failed: 503"),
            "sends nothing to http://a:1 of stable: it does not pass its checks; 3 checks failed: 503",
        ),
        (
            event("EndpointEjected", "WorseThanSiblings", **ENDPOINT, out_s=30.0, bad=9, n=20, why="45 % bad"),
            "sends nothing to http://a:1 of stable for 30 s: it fails more than its siblings; 45 % bad",
        ),
        (
            event("ConfigChanged", "too noisy", changed=["limits", "judge.block"]),
            "is served by a changed config (limits, judge.block): too noisy",
        ),
        (event("WeightsSet", "", AT, AT | {"new": 20}, ttl_s=1800.0), "was set from 10 % to 20 % for 30m"),
        (event("ServiceAdded", "", {}, AT), "came into the config, at 10 %"),
        (event("ServiceRemoved", "", AT, {}), "is in the config no more, it was at 10 %"),
        (event("NewChanged", "", AT, AT | {"label": "2.3"}, endpoints=["http://b:1"]), "got 2.3 as its new version"),
        (event("NewChanged", "", AT, AT, endpoints=["http://b:1", "http://c:1"]), "got http://b:1, http://c:1 as its"),
        (event("NewRemoved", "", AT | {"label": "2.3"}, AT), "has no new version any more, it was 2.3"),
        (
            event("NewRefused", "TableRefused"),
            "goes on with the versions that it had: the workers cannot use the new table",
        ),
        (
            event("FinishUndone", "Overtaken"),
            "did not finish, and stays at 10 %: something else was decided while it was being stored",
        ),
        (event("WorkerLost", "was ended by signal 9", slot=1), "lost worker 1: was ended by signal 9"),
        (
            event("HookCalled", "after_rollback", exit=0, output="paged ann"),
            "called the hook after_rollback: it ended with exit code 0; paged ann",
        ),
        (
            event("HookFailed", "after_rollback", status=500, body="no"),
            "called the hook after_rollback in vain: it answered 500; no",
        ),
        (
            event("HookFailed", "after_complete", why="no answer within 5 s"),
            "called the hook after_complete in vain: no answer within 5 s",
        ),
        (
            event("StageEntered", "HoldOver", requests=5012, elapsed_s=20.0, judged_s=19.75),
            f"{WENT}: {HELD}; 5,012 requests to new in 20 s",
        ),
        (
            event("StageEntered", "HoldOver", requests=286, elapsed_s=20.0, judged_s=6.1),
            f"{WENT}: {HELD}; 286 requests to new in the last 6.1 s of 20 s, since judging began anew",
        ),
        (
            event("StageEntered", "HoldOver", requests=286, elapsed_s=20.0, judged_s=50.0),
            f"{WENT}: {HELD}; 286 requests to new in 50 s, of which 20 s count as hold",
        ),
        (
            event("RollbackVerified", "ErrorRateAboveLimit", stable={"requests": 7}),
            f"was seen to be back: {WELL}: after a rollback for ErrorRateAboveLimit",
        ),
        (
            event("RollbackIneffective", "OperatorRollback", why="it is asked"),
            "was rolled back without effect: after a rollback because a person wanted it; it is asked",
        ),
        (event("EventsLost", "NotStored", {}, {}, lost=1200), "has lost 1,200 events: the state could not be stored"),
    ],
)
def test_an_event_names_what_it_is_about_and_why(which, said):
    assert told.predicate(which).startswith(said)
    assert told.sentence(which).startswith("web ")
    assert " by ann" in told.sentence(which)


def test_every_event_that_is_made_has_a_sentence():
    made = re.compile(r'(?:Note|\.say|News|_found)\([^"()]*(?:"(\w+)" if \w+ else )?"([A-Z]\w+)"')
    sources = [path.read_text() for path in Path(proxy.__file__).parent.rglob("*.py")]
    kinds = {kind for source in sources for found in made.findall(source) for kind in found if kind}
    assert {"RolledBack", "EndpointDown", "CertificateProblem", "ServiceRemoved", "NewRefused"} <= kinds
    assert [kind for kind in sorted(kinds) if " says " in told.sentence(event(kind))] == []
