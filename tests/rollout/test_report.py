"""The report as an object, as Markdown and as a page: complete, escaped, and without anything from elsewhere."""

import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.rollout import told
from proxy.rollout.report import (
    LAST_BLOCK_S,
    TICKS,
    _measured,
    _scale,
    _ticks,
    _weights,
    build,
    html,
    markdown,
    span,
)

T0 = 1_790_000_000.0
EVIL = "<script>alert(1)</script>|`x`"


PROBLEMS = [f"t.yaml:{line}:1: {key}: unknown" for line, key in enumerate("abcdefghijklmnopqrst", 3)]
BAD_CONFIG = {"what": "25 problems", "problems": PROBLEMS, "count": 25}
DRILLED = {"limit": "P99AboveLimit", "decided_s": 0.75, "reached_s": 0.004, "latched": True}


def event(seq, kind, before, after, *, t=None, actor="controller", reason="", evidence=None, service="web"):
    time = T0 + seq * 100 if t is None else t
    found = {"seq": seq, "time": time, "service": service, "type": kind, "actor": actor, "reason": reason}
    return found | {"before": before, "after": after, "evidence": evidence or {}}


FAILED = {"metric": "error_rate", "version": "new", "value": 0.041, "limit": 0.01, "unit": "ratio", "n": 902, "bad": 37}
IDLE = {"new": 0, "phase": "idle", "revision": 1}
CANARY = {"new": 1, "phase": "progressing", "revision": 2, "plan": "default", "stage": "canary"}
RAMP = CANARY | {"new": 10, "revision": 3, "stage": "ramp"}
ENDPOINT = {"version": "stable", "url": "http://a:1"}
BACK = RAMP | {"new": 0, "phase": "rolled_back", "revision": 4}
EVENTS = [
    event(1, "WeightsSet", IDLE, IDLE | {"new": 5}, actor="bob", reason="before"),
    event(2, "RolloutStarted", IDLE, CANARY, actor="ann", reason="2.3.0"),
    event(3, "ProgressReport", {}, {}, reason="canary"),
    event(4, "StageEntered", CANARY, RAMP, reason="HoldOver", evidence={"requests": 5012, "elapsed_s": 7200.0}),
    event(5, "RolledBack", CANARY, BACK, service="other"),
    event(6, "RolledBack", RAMP, BACK, reason="ErrorRateAboveLimit", evidence=FAILED),
    event(7, "RollbackVerified", {}, {}, reason="ErrorRateAboveLimit"),
]
STAGES = [
    {"name": "canary", "weight": 1, "hold_s": 7200.0},
    {"name": "ramp", "weight": 10, "hold_s": 14400.0},
    {"name": "full", "weight": 100, "hold_s": 172800.0},
]
LIMITS = [
    {"metric": "error_rate", "version": "new", "max": 0.01, "value": 0.041, "unit": "ratio", "verdict": "FAIL"},
    {"metric": "p99", "version": "new", "max": 200.0, "value": 88.0, "unit": "ms", "verdict": "PASS", "proven": True},
    {"metric": "p95", "version": "new", "max": None, "max_ratio": 1.5, "value": None, "unit": "times", "needed": 900},
]
LIMITS = [{"verdict": "INCONCLUSIVE", "samples": 10, "action": "rollback", "judge": "evidence"} | one for one in LIMITS]


def item(**more):
    versions = {"stable": {"label": "2.2.0"}, "new": {"label": "2.3.0"}}
    found = {"phase": "rolled_back", "reason": "ErrorRateAboveLimit", "weights": {"stable": 100, "new": 0}}
    return found | {"versions": versions, "stage": {"index": 1, "of": 3, "stages": STAGES}, "limits": LIMITS} | more


def points(many=20, begin=T0 + 200):
    def part(requests, bad):
        return {"requests": requests, "bad": bad, "p50_ms": 4.0, "p95_ms": 20.0, "p99_ms": 80.5}

    return [
        {"t": begin + 25 * at, "seconds": 25.0, "weight": 1, "stable": part(2475, 0), "new": part(25, at // 15)}
        for at in range(many)
    ]


def made(**more):
    return build("web", item(**more), EVENTS, points(), T0 + 1000)


# --- the object ----------------------------------------------------------------------------------------------------


def test_it_is_of_the_last_rollout_of_this_service_without_progress_reports():
    found = made()
    kinds = [one["type"] for one in found["decisions"]]
    assert kinds == ["RolloutStarted", "StageEntered", "RolledBack", "RollbackVerified"]
    assert [one["number"] for one in found["decisions"]] == [1, 2, 3, 4]
    assert (found["plan"], found["started"], found["ended"]) == ("default", T0 + 200, T0 + 600)
    assert [(one["name"], one["state"], one["entered"]) for one in found["stages"]] == [
        ("canary", "done", T0 + 200),
        ("ramp", "failed", T0 + 400),
        ("full", "open", None),
    ]
    assert found["decisions"][2]["evidence"] == FAILED
    assert found["headline"] == told.sentence(EVENTS[5])


def test_points_become_rates_and_shares_and_their_sums_are_exact():
    found = made()
    assert found["points"][0]["new"] == {"rate": 1.0, "error_rate": 0.0, "p50_ms": 4.0, "p95_ms": 20.0, "p99_ms": 80.5}
    assert found["versions"]["new"] == {"requests": 500, "bad": 5, "error_rate": 0.01}


@pytest.mark.parametrize(
    "phase, states",
    [
        ("progressing", ["done", "current", "open"]),
        ("paused", ["done", "paused", "open"]),
        ("completed", ["done", "done", "skipped"]),
    ],
)
def test_stages_are_where_the_phase_says(phase, states):
    found = build("web", item(phase=phase), EVENTS[:4], points(), T0 + 1000)
    assert [one["state"] for one in found["stages"]] == states
    assert found["ended"] is None
    assert "still running" in markdown(found)


KEPT = {
    "labels": {"stable": "2.2.0", "new": "2.3.0"},
    "stage": {"index": 2, "of": 3, "stages": STAGES},
    "limits": LIMITS[:2],
}
FULL = RAMP | {"new": 100, "stage": "full", "revision": 5}
DONE = FULL | {"phase": "completed", "revision": 6}
AFTER = IDLE | {"revision": 7, "stable": "2.3.0"}
FINISHED = [
    event(2, "RolloutStarted", IDLE, CANARY, actor="ann"),
    event(3, "StageEntered", CANARY, RAMP),
    event(4, "StageEntered", RAMP, FULL),
    event(5, "RolloutCompleted", FULL, DONE),
    event(6, "RolloutFinished", DONE, AFTER, actor="ann", evidence={"rollout": KEPT}),
]
LATER = [
    event(7, "HookCalled", AFTER, AFTER),
    event(8, "EndpointDown", AFTER, AFTER),
    event(9, "RolledBack", AFTER, AFTER | {"phase": "rolled_back"}, actor="bob"),
    event(10, "RollbackVerified", AFTER, AFTER),
]


@pytest.mark.parametrize("later", range(len(LATER) + 1))
def test_a_finished_rollout_is_shown_as_it_was_whatever_came_after_it(later):
    now = item(phase="rolled_back", reason="OperatorRollback", stage=None, limits=[], versions={})
    found = build("web", now, [*FINISHED, *LATER[:later]], points(), T0 + 2000)
    assert (found["plan"], found["phase"], found["reason"]) == ("default", "completed", None)
    assert (found["started"], found["ended"]) == (T0 + 200, T0 + 600)
    assert found["labels"] == {"stable": "2.2.0", "new": "2.3.0"}
    assert found["weights"] == {"stable": 0, "new": 100}
    assert [limit["metric"] for limit in found["limits"]] == ["error_rate", "p99"]
    assert [(one["state"], one["entered"], one["left"]) for one in found["stages"]] == [
        ("done", T0 + 200, T0 + 300),
        ("done", T0 + 300, T0 + 400),
        ("done", T0 + 400, T0 + 600),
    ]
    kinds = [one["type"] for one in found["decisions"]]
    assert kinds == [one["type"] for one in FINISHED] + ["HookCalled"] * (later > 0)
    assert found["headline"].startswith("web finished: 2.3.0 is stable")


def test_a_rolled_back_rollout_is_shown_as_it_was_when_other_weights_were_set_since():
    back = event(6, "RolledBack", RAMP, BACK, reason="ErrorRateAboveLimit", evidence=FAILED | {"rollout": KEPT})
    later = [event(7, "RollbackVerified", BACK, BACK), event(8, "WeightsSet", BACK, IDLE | {"new": 5})]
    found = build("web", item(phase="idle", stage=None), [*EVENTS[:4], back, *later], points(), T0 + 2000)
    assert (found["phase"], found["reason"], found["ended"]) == ("rolled_back", "ErrorRateAboveLimit", T0 + 600)
    assert found["weights"] == {"stable": 100, "new": 0}
    assert [one["type"] for one in found["decisions"]][-2:] == ["RolledBack", "RollbackVerified"]
    assert [one["left"] for one in found["stages"]] == [T0 + 400, T0 + 600, None]


OVER = {
    "back, by the latch": [event(6, "RolledBack", RAMP, BACK), event(7, "RollbackVerified", BACK, BACK)],
    "finished by an older release": [event(6, "RolloutFinished", RAMP, AFTER)],
}


@pytest.mark.parametrize("way", OVER)
def test_of_an_end_that_kept_nothing_the_time_is_known_and_nothing_is_made_up(way):
    other = event(8, "NewChanged", BACK if "back" in way else AFTER, IDLE | {"label": "9"})
    now = item(phase="idle", stage=None, versions={"new": {"label": "9"}})
    events = [*FINISHED[:2], *OVER[way], other]
    found = build("web", now, events, points(), T0 + 2000)
    assert (found["plan"], found["started"], found["ended"]) == ("default", T0 + 200, T0 + 600)
    assert (found["labels"], found["stages"], found["limits"]) == ({"stable": "", "new": ""}, [], [])
    assert [one["type"] for one in found["decisions"]][2:] == [one["type"] for one in OVER[way]]
    assert span("web", events, T0 + 2000) == (T0 + 200, T0 + 600 + LAST_BLOCK_S)
    if "back" in way:  # until then the service's own object shows it
        still = build("web", item(), events[:-1], points(), T0 + 2000)
        assert [one["state"] for one in still["stages"]] == ["done", "failed", "open"]


def test_a_rollout_that_another_version_ended_is_no_longer_running():
    kept = KEPT | {"stage": KEPT["stage"] | {"index": 1}}
    events = [*FINISHED[:2], event(6, "NewChanged", RAMP, IDLE | {"label": "9"}, evidence={"rollout": kept})]
    found = build("web", item(phase="idle", stage=None), events, points(), T0 + 2000)
    assert (found["phase"], found["ended"], found["weights"]["new"]) == ("idle", T0 + 600, 0)
    assert [one["state"] for one in found["stages"]] == ["done", "left", "open"]


def test_a_stage_says_how_it_was_left_and_what_is_over_needs_no_more():
    stages = [
        STAGES[0] | {"ran_s": 7.0, "left_by": "ops|x", "left_for": "OperatorPromote"},
        STAGES[1] | {"ran_s": 7.0, "left_by": "controller", "left_for": "Proven"},
        STAGES[2],
    ]
    kept = KEPT | {"stage": KEPT["stage"] | {"stages": stages}, "limits": [LIMITS[0] | {"needed": 2396}]}
    back = event(6, "RolledBack", FULL, BACK, actor="bob", reason="not liked", evidence={"rollout": kept})
    found = build("web", item(), [*FINISHED[:3], back], points(), T0 + 2000)
    assert [one["state"] for one in found["stages"]] == ["done", "done", "rolled back"]
    text = markdown(found)
    assert "| done, promoted by ops\\|x |" in text
    assert "| done, proven |" in text
    assert "2,396" not in text
    assert "2,396 more" in markdown(found | {"ended": None})


def test_stages_of_a_plan_that_began_anew_and_those_that_were_skipped():
    again = event(4, "PlanRestarted", RAMP, CANARY)
    full = event(5, "StageEntered", CANARY, FULL)
    stage = {"index": 2, "of": 3, "stages": STAGES}
    found = build("web", item(phase="progressing", stage=stage), [*FINISHED[:2], again, full], [], T0 + 900)
    assert [(one["state"], one["entered"], one["left"]) for one in found["stages"]] == [
        ("done", T0 + 400, T0 + 500),
        ("skipped", None, None),
        ("current", T0 + 500, None),
    ]


@pytest.mark.parametrize("undone", ["FinishUndone", "NewRefused"])
def test_a_finish_that_was_taken_back_has_ended_nothing(undone):
    events = [*FINISHED, event(7, undone, DONE, DONE)]
    found = build("web", item(phase="completed"), events, points(), T0 + 2000)
    assert found["phase"] == "completed"
    assert [one["type"] for one in found["decisions"]][-1] == undone


def test_points_are_asked_of_the_rollout_alone():
    assert span("web", FINISHED[:3], T0 + 500) == (T0 + 200, T0 + 500)
    assert span("web", [*FINISHED, *LATER], T0 + 2000) == (T0 + 200, T0 + 600 + LAST_BLOCK_S)
    assert span("web", FINISHED, T0 + 600.25) == (T0 + 200, T0 + 600.25)
    by_hand = [event(1, "WeightsSet", IDLE, IDLE | {"new": 5}), event(2, "WeightsSet", IDLE | {"new": 5}, IDLE)]
    again = event(3, "WeightsSet", IDLE, IDLE | {"new": 7})
    assert span("web", by_hand, T0 + 900) == (T0 + 100, T0 + 900)
    assert span("web", [*by_hand, again], T0 + 900) == (T0 + 300, T0 + 900)
    assert span("web", [event(1, "ServiceAdded", {}, IDLE | {"new": 10})], T0 + 900) == (T0 + 100, T0 + 900)
    assert span("web", [event(1, "EndpointDown", {}, {})], T0 + 900) is None
    assert span("web", [], T0 + 900) is None


def test_without_a_rollout_it_is_of_what_was_done():
    found = build("web", item(phase="idle", stage=None, reason=""), EVENTS[:1], [], T0 + 1000)
    assert (found["plan"], found["started"], found["stages"], found["points"]) == (None, None, [], [])
    assert found["headline"].startswith("web was set from 0 % to 5 % at 2026-")
    assert "There are no points to plot" in html(found)
    nothing = build("web", item(phase="idle", stage=None), [], [], T0)
    assert nothing["headline"] == "web: nothing was decided yet"
    assert markdown(nothing).startswith("# web: idle\n")


# --- shown ---------------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """What a browser would see; complains about what is not closed."""

    VOID = ("meta",)

    def __init__(self, text):
        super().__init__()
        self.stack, self.tags, self.texts, self.attributes = [], [], [], []
        self.feed(text)
        assert self.stack == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attrs]
        if tag not in self.VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attrs]

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def svgs(text):
    return [
        ET.fromstring(part.partition("</svg>")[0] + "</svg>")
        for part in ("<svg" + rest for rest in text.split("<svg")[1:])
    ]


def test_the_page_is_well_formed_needs_nothing_and_runs_nothing():
    page = Page(html(made()))
    assert page.tags.count("svg") == 4
    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
    assert not [one for one in page.attributes if one[1].startswith("on") or one[1] == "src"]
    assert {one[2][0] for one in page.attributes if one[1] == "href"} == {"#"}
    assert "url(" not in html(made())
    assert "http" not in html(made()).replace("http-equiv", "")
    said = " ".join(page.texts)
    assert "Rollout default of web: rolled back" in said
    assert "37 of 902 requests bad" in said


def test_plots_show_both_versions_the_limits_and_the_decisions():
    weight, rate, errors, latency = svgs(html(made()))
    for plot, lines in ((weight, 1), (rate, 2), (errors, 2), (latency, 6)):
        assert len(plot.findall("path")) == lines
        # The rollback and its proof came after the last point.
        assert len([group for group in plot.findall("g") if group.get("class") == "mark"]) == 3
    assert [plot.find("text").text for plot in (weight, rate)] == ["Weight of new, %", "Requests per second"]
    assert [line for line in errors.findall("line") if line.get("class") == "limit"]
    assert "limit 200" in "".join(latency.itertext())
    for plot in (weight, rate, errors, latency):
        for path in plot.findall("path"):
            numbers = path.get("d").replace("M", " ").replace("L", " ").replace("h1", " ").split()
            assert all(0 <= float(x) <= 960 for x in numbers[::2])
            assert all(22 <= float(y) <= 166 for y in numbers[1::2])


def test_where_nothing_was_measured_the_line_has_a_gap():
    rows = points()
    for row in rows[5:8]:
        row["new"] = {"requests": 0, "bad": 0, "p50_ms": None, "p95_ms": None, "p99_ms": None}
    del rows[12]["new"]
    errors = svgs(html(build("web", item(), EVENTS, rows, T0)))[2]
    assert len([path for path in errors.findall("path") if "new" in path.get("class")]) == 3


def test_whatever_comes_from_elsewhere_is_escaped():
    events = [*EVENTS[:3], event(9, "RolledBack", RAMP, BACK | {"stage": EVIL}, actor=EVIL, reason=EVIL)]
    events[1] = events[1] | {"after": CANARY | {"plan": EVIL, "stage": EVIL}}
    stages = [STAGES[0] | {"name": EVIL}]
    rows = points()
    found = build(
        EVIL,
        item(stage={"index": 0, "of": 1, "stages": stages}, limits=[LIMITS[0] | {"metric": EVIL}]),
        [one | {"service": EVIL} for one in events],
        rows,
        T0 + 1000,
    )
    found["labels"]["new"] = EVIL
    page = html(found)
    assert "<script" not in page
    assert Page(page).tags.count("svg") == 4
    assert svgs(page)
    for line in markdown(found).splitlines():
        assert "<script" not in line
        if line.startswith("|"):
            assert line.replace("\\|", "").count("|") in {5, 7, 10}


def test_markdown_has_the_same_tables_as_the_page():
    text = markdown(made())
    for title in ("## Stages", "## Limits", "## Decisions"):
        assert title in text
        assert f"<h2>{title[3:]}</h2>" in html(made())
    assert "| p99 | new | ≤ 200 ms | 88 ms | PASS, proven | 10 |" in text
    assert "| p95 | new | ≤ 1.5 times stable's | - | INCONCLUSIVE | 10 |  |" in text


@given(st.floats(1e-6, 1e9))
def test_a_scale_has_a_few_round_steps_that_reach_to_the_top(highest):
    step, top = _scale(highest)
    assert top >= highest * (1 - 1e-9)
    assert 2 <= round(top / step) <= 6


# --- sentences -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "which, said",
    [
        (EVENTS[1], "web began the rollout 'default' at 1 % (stage canary) at 2026-09-21 14:16:40Z by ann: 2.3.0"),
        (
            EVENTS[3],
            (
                "web went from 1 % to 10 % (stage ramp) at 2026-09-21 14:20:00Z: "
                "the hold is over and every limit is PASS; 5,012 requests to new in 2h"
            ),
        ),
        (
            EVENTS[5],
            (
                "web was rolled back from 10 % at 2026-09-21 14:23:20Z: "
                "ErrorRateAboveLimit; error_rate of new was 4.1 % (limit 1 %): 37 of 902 requests bad"
            ),
        ),
        (
            event(1, "RolledBack", RAMP, BACK, reason="OperatorRollback", actor="ann"),
            "web was rolled back from 10 % at 2026-09-21 14:15:00Z by ann: a person wanted it",
        ),
        (
            event(1, "RolloutPaused", RAMP, RAMP, reason="HookFailed", evidence={"body": "not on Fridays"}),
            "web was paused at 10 % in stage ramp at 2026-09-21 14:15:00Z: a hook did not say go; not on Fridays",
        ),
        (
            event(
                1, "EndpointDown", {}, {}, reason="ChecksFailed", evidence={**ENDPOINT, "why": "3 checks failed: 503"}
            ),
            (
                "web sends nothing to http://a:1 of stable at 2026-09-21 14:15:00Z: it does not pass its checks; "
                "3 checks failed: 503"
            ),
        ),
        (
            event(
                1,
                "EndpointEjected",
                {},
                {},
                reason="WorseThanSiblings",
                evidence={**ENDPOINT, "bad": 50, "n": 120, "out_s": 30.0, "why": "42% bad of 120"},
            ),
            (
                "web sends nothing to http://a:1 of stable for 30 s at 2026-09-21 14:15:00Z: "
                "it fails more than its siblings; 42% bad of 120"
            ),
        ),
        (
            event(1, "EndpointReturned", {}, {}, reason="EjectionOver", evidence=ENDPOINT),
            "web sends requests to http://a:1 of stable again at 2026-09-21 14:15:00Z: its time is over",
        ),
        (
            event(1, "WeightsSet", RAMP, {**RAMP, "new": 5, "phase": "paused"}, actor="ann"),
            "web was set from 10 % to 5 %, which paused its rollout in stage ramp at 2026-09-21 14:15:00Z by ann",
        ),
        (
            event(1, "ConfigRefused", {}, {}, reason="ConfigInvalid", actor="SIGHUP", evidence=BAD_CONFIG)
            | {"service": ""},
            (
                "tidegate refused a config, and goes on by the one before at 2026-09-21 14:15:00Z by SIGHUP: "
                "t.yaml:3:1: a: unknown; t.yaml:4:1: b: unknown; t.yaml:5:1: c: unknown; and 22 more"
            ),
        ),
        (
            event(1, "ConfigRefused", {}, {}, reason="PlanChanged", evidence={"what": "another plan", "cure": "keep"})
            | {"service": ""},
            "tidegate refused a config, and goes on by the one before at 2026-09-21 14:15:00Z: another plan (keep)",
        ),
        (
            event(1, "DrillShut", RAMP, BACK, reason="ErrorRateAboveLimit", evidence=FAILED),
            (
                "web was shut from 10 % by a drill at 2026-09-21 14:15:00Z: "
                "ErrorRateAboveLimit by failures that were made up"
            ),
        ),
        (
            event(1, "DrillOver", BACK, RAMP, reason="Drill", actor="ann", evidence=DRILLED),
            (
                "web is open again after a drill, at 10 % at 2026-09-21 14:15:00Z by ann: "
                "it was decided by P99AboveLimit within 0.75 s, and every worker had it 0.004 s later"
            ),
        ),
        (
            event(1, "RollbackVerified", {}, {}, evidence={"stable": {"requests": 7, "bad": 0, "over": []}}),
            "web was seen to be back: nobody is sent to new, and stable is within the limits at 2026-09-21 14:15:00Z",
        ),
        (
            event(1, "RollbackVerified", {}, {}, evidence={"stable": {"requests": 0, "bad": 0, "over": []}}),
            "web was seen to be back: nobody is sent to new, and nobody asked stable since at 2026-09-21 14:15:00Z",
        ),
        (
            event(1, "ControllerSilent", {}, {}, reason="ControllerSilent", evidence={"silent_s": 5.0}),
            (
                "web was not judged for 5 s, longer than the watchdog allows at 2026-09-21 14:15:00Z: "
                "the ticks that judge came late or failed"
            ),
        ),
        (event(1, "SomethingElse", {}, {}), "web says SomethingElse at 2026-09-21 14:15:00Z"),
    ],
)
def test_a_sentence_says_who_what_when_and_by_which_numbers(which, said):
    assert told.sentence(which) == said


def test_numbers_of_evidence_name_what_is_new_since_the_breach():
    found = FAILED | {"since_breach": {"blocks": 5, "n": 100, "bad": 36}, "also": ["P99AboveLimit"]}
    assert told.numbers(found).endswith("36 of the last 100 requests bad, in 5 blocks")
    shared = {"since_breach": {"blocks": 5, "n": 100, "bad": 36, "stable_n": 1000, "stable_bad": 350}}
    assert told.numbers(FAILED | shared).endswith("requests bad, in 5 blocks; of stable 350 of 1,000")
    back = event(1, "RolledBack", RAMP, BACK, reason="X", evidence=found)
    assert told.sentence(back).endswith("; also P99AboveLimit")
    slow = {"metric": "p99", "value": 512.0, "limit": 200.0, "unit": "ms", "n": 300, "slower": 9, "window_s": 10.0}
    assert told.numbers(slow) == "p99 of new was 512 ms (limit 200 ms): 9 of 300 requests slower in 10 s"
    hanging = slow | {"value": 200.0, "at_least": True}
    assert told.numbers(hanging) == (
        "p99 of new was above 200 ms, some perhaps still without an answer (limit 200 ms): "
        "9 of 300 requests slower in 10 s"
    )
    check = {"metric": "memory", "value": 1.5e9, "limit": 1e9, "unit": "number"}
    assert told.numbers(check) == "memory of new was 1,500,000,000 (limit 1,000,000,000)"
    assert told.numbers({"metric": "p95", "value": None, "limit": 1.5, "unit": "times"}) == (
        "p95 of new could not be measured (limit 1.5 times stable's)"
    )
    assert told.numbers({}) == ""


def test_moves_are_changes_of_phase_stage_or_weight():
    assert told.last_move(EVENTS)["seq"] == 6
    assert told.last_move(EVENTS[2:3]) is None
    assert not told.moves(event(1, "NoStable", RAMP, RAMP))


@pytest.mark.parametrize(
    "seconds, said", [(0.0123, "0.0123 s"), (59.9, "59.9 s"), (61, "1m 1s"), (7200, "2h"), (90061, "1d 1h")]
)
def test_durations(seconds, said):
    assert told.duration(seconds) == said


# --- the axes ------------------------------------------------------------------------------------------------------


def test_a_time_axis_has_round_instants():
    day = 1_700_006_400.0  # midnight
    seconds = list(_ticks((day + 1.3, day + 72.0)))
    assert [text for _, text in seconds] == [
        "00:00:10",
        "00:00:20",
        "00:00:30",
        "00:00:40",
        "00:00:50",
        "00:01:00",
        "00:01:10",
    ]
    hours = [text for _, text in _ticks((day - 10, day + 5 * 3600))]
    assert hours == ["00:00", "01:00", "02:00", "03:00", "04:00", "05:00"]
    days = [text for _, text in _ticks((day, day + 8 * 86_400))]
    assert days[:2] == ["11-15 00:00", "11-16 00:00"]
    assert all(len(list(_ticks((day, day + span)))) <= TICKS + 1 for span in (1, 30, 700, 1e5, 1e6))


def test_the_weight_is_drawn_as_it_was_decided():
    decisions = [{"t": 10.0, "weight": 1}, {"t": 20.0, "weight": None}, {"t": 30.0, "weight": 50}]
    assert _weights({"decisions": decisions}, 40.0) == [(10.0, 1), (30.0, 1), (30.0, 50), (40.0, 50)]
    points = [{"t": 15.0, "seconds": 5.0, "weight": 10}]
    assert _weights({"decisions": [], "points": points}, 15.0) == [(10.0, 10), (15.0, 10)]


def test_where_nobody_measured_a_line_has_a_gap():
    points = [{"t": t, "seconds": 5.0, "new": {"rate": 7.0}} for t in (5.0, 10.0, 30.0)]
    assert list(_measured(points, "new", "rate")) == [(2.5, 7.0), (7.5, 7.0), (17.5, None), (27.5, 7.0)]


@pytest.mark.parametrize("last", [1, 999, 1000, 1001, 2500, 20_000, 30_000])
def test_pages_back_have_every_event_once_and_the_newest_first(last):
    found = []
    for since, until in told.pages_back(last):
        page = [{"seq": seq, "service": "web"} for seq in range(since + 1, since + 1 + told.PAGE)]
        found = [*told.of_page(page, "web", until), *found]
    assert [event["seq"] for event in found] == list(range(max(0, last - 20_000) + 1, last + 1))
    assert told.of_page([{"seq": 1, "service": "shop"}], "web", 5) == []
