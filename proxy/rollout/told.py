"""Events in sentences: what was decided, by whom, and by which numbers.

Takes the objects of `GET /api/v1/events` as they are. Every number in a sentence comes from the event: nothing is
looked up, so that an old event says the same for ever. What is not known here is said by its type.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from proxy.rollout.event import CONTROLLER
from proxy.rollout.state import PAUSED

Json = Mapping[str, Any]

PAGE = 1000  # events that are asked for at a time
PAGES = 20  # so often at most, from the newest ones on

PROGRESS = "ProgressReport"
STARTED = "RolloutStarted"
ROLLOUT = "rollout"  # in the evidence of the event that ended a rollout: its labels, stage and limits
UNDONE = frozenset({"FinishUndone", "NewRefused"})  # what had ended a rollout was taken back
# What an end brings about.
VERIFICATIONS = frozenset({"RollbackVerified", "RollbackIneffective"})
OUTCOMES = VERIFICATIONS | {"HookCalled", "HookFailed"}
PROBLEMS = "problems"  # in the evidence of a config that was refused
MOST_PROBLEMS = 3  # in a sentence
SAME_S = 1.0  # times that differ by less are told as one
MOST_NAMES = 3  # of a certificate, in a sentence
HOOKS = ("HookCalled", "HookFailed")  # their reason is the hook's name
# What events say that one did not move anything and is worth knowing after the last move.
REMARKABLE = frozenset(
    {
        "RollbackVerified",
        "RollbackIneffective",
        "NoStable",
        "StableReady",
        "HookFailed",
        "LimitFailed",
        "SharedFault",
        "ControllerSilent",
        "WorkerLost",
    }
)
_REASONS = {
    "HoldOver": "the hold is over and every limit is PASS",
    "Proven": "every limit is proven before the hold is over",
    "OperatorRollback": "a person wanted it",
    "OperatorPause": "a person wanted it",
    "ControllerSilent": "the ticks that judge came late or failed",
    "NoHealthyEndpoint": "no endpoint of new could be reached",
    "MaxHoldOver": "the stage waited longer than max_hold",
    "NotStored": "the state could not be stored",
    "SharedFault": "stable is over the same limit, so that it is not the fault of new alone",
    "CheckUnreadable": "a check could not be read three times in a row",
    "HookFailed": "a hook did not say go",
    "TakenOver": "a person set the weight",
    "PlanChanged": "the plan was changed in the config",
    "FilesChanged": "its files have changed",
    "ConfigReloaded": "the config names other files",
    "FirstOfList": "it is now the first of the list, for clients that ask for no other",
    "ChecksFailed": "it does not pass its checks",
    "ChecksPassed": "it passes its checks",
    "WorseThanSiblings": "it fails more than its siblings",
    "EjectionOver": "its time is over",
    "SiblingsOut": "too few others can serve",
    "CertificateUnusable": "its files have changed and cannot be used, the one before stays",
    "CertificateOutOfDate": "clients will refuse it",
    "TtlOver": "the time that it was given for is over",
    "TableRefused": "the workers cannot use the new table",
    "Overtaken": "something else was decided while it was being stored",
}


def pages_back(last: int) -> Iterator[tuple[int, int]]:
    """Yield (since, until) of the pages in which events up to the number `last` are looked for, the newest first."""
    for until in range(last, max(0, last - PAGE * PAGES), -PAGE):
        yield max(0, until - PAGE), until


def of_page(page: Iterable[dict[str, Any]], service: str, until: int) -> list[dict[str, Any]]:
    """Return the events of a service in a page; one that has gaps reaches into the page after it."""
    return [event for event in page if event["service"] == service and event["seq"] <= until]


def moves(event: Json) -> bool:
    """Tell whether an event changed phase, stage or weight; that a service came or went is none of these."""
    before, after = event.get("before") or {}, event.get("after") or {}
    return (
        bool(before)
        and bool(after)
        and any(before.get(key) != after.get(key) for key in ("phase", "stage", "new", "plan"))
    )


def opens(event: Json) -> bool:
    """Tell whether `new` got weight with an event, after it had none: also when its service came into the config."""
    return not (event.get("before") or {}).get("new") and bool((event.get("after") or {}).get("new"))


def comes_of_end(event: Json) -> bool:
    """Tell whether the end of a rollout brought an event about; a hook that refused the next start is none."""
    return event["type"] in OUTCOMES and not (event.get("evidence") or {}).get("refused")


def left_early(stage: Json) -> str:
    """Return what let a stage of `status` go on where it was not that its hold was over, "" if it was."""
    if stage.get("left_by") not in (None, CONTROLLER):
        return f"promoted by {stage['left_by']}"
    return "proven" if stage.get("left_for") == "Proven" else ""


def last_move(events: Iterable[Json]) -> Json | None:
    """Return the newest event that moved something, of events in order."""
    found = None
    for event in events:
        if moves(event):
            found = event
    return found


def sentence(event: Json) -> str:
    """Return what happened, with its numbers, as one sentence."""
    said = f"{event.get('service') or 'tidegate'} {_what(event)} at {moment(event['time'])}"
    if event.get("actor") not in (None, "", CONTROLLER):
        said += f" by {event['actor']}"
    because = _because(event)
    return f"{said}: {because}" if because else said


def predicate(event: Json) -> str:
    """Return what happened and why, for whoever shows service, time and actor beside it."""
    what, because = _what(event), _because(event)
    return f"{what}: {because}" if because else what


def numbers(evidence: Json) -> str:
    """Return the numbers of a verdict: value, limit, counts; "" if there are none."""
    if evidence.get("metric") is None:
        return ""
    unit = evidence.get("unit")
    told = f"{evidence['metric']} of {evidence.get('version', 'new')}"
    if evidence.get("value") is None:
        told += " could not be measured"
    elif evidence.get("at_least"):
        told += f" was above {amount(evidence['value'], unit)}, some perhaps still without an answer"
    else:
        told += f" was {amount(evidence['value'], unit)}"
    if evidence.get("limit") is not None:
        told += f" (limit {amount(evidence['limit'], unit)})"
    since = evidence.get("since_breach")
    word = next((word for word in ("bad", "slower", "good") if evidence.get(word) is not None), None)
    if isinstance(since, Mapping) and since.get("n"):
        what = "slower" if word == "slower" else "bad"
        told += f": {since['bad']:,} of the last {since['n']:,} requests {what}, in {since['blocks']:,} blocks"
        if since.get("stable_n"):
            told += f"; of stable {since['stable_bad']:,} of {since['stable_n']:,}"
        return told
    if word is not None and evidence.get("n"):
        told += f": {evidence[word]:,} of {evidence['n']:,} requests {word}"
    if evidence.get("window_s"):
        told += f" in {duration(evidence['window_s'])}"
    return told


def problems(evidence: Json) -> str:
    """Return what is wrong with a config that was refused: its first problems and their places, or why and a cure."""
    found = evidence.get(PROBLEMS)
    if not found:
        cure = f" ({evidence['cure']})" if evidence.get("cure") else ""
        return f"{evidence.get('what', '')}{cure}"
    more = evidence.get("count", len(found)) - len(found[:MOST_PROBLEMS])
    return "; ".join([*found[:MOST_PROBLEMS], *([f"and {more:,} more"] if more > 0 else [])])


def amount(value: float, unit: str | None) -> str:
    """Return a value in the unit of a limit."""
    if unit == "ratio":
        return f"{_digits(100 * value)} %"
    if unit == "ms":
        return f"{_digits(value)} ms"
    return f"{_digits(value)} times stable's" if unit == "times" else _digits(value)


def moment(time: float) -> str:
    """Return seconds since 1970 as UTC to the second."""
    return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def duration(seconds: float) -> str:
    """Return seconds in their two largest units, such as `2h 3m`; short ones with a digit."""
    if seconds < 60:
        return f"{_digits(seconds)} s"
    rest, parts = round(seconds), []
    for unit, size in (("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)):
        count, rest = divmod(rest, size)
        if count:
            parts.append(f"{count}{unit}")
    return " ".join(parts[:2])


def _what(event: Json) -> str:
    before, after, kind = event.get("before") or {}, event.get("after") or {}, event["type"]
    weight, was = f"{after.get('new', 0):g} %", f"{before.get('new', 0):g} %"
    evidence = event.get("evidence") or {}
    pauses = after.get("phase") == PAUSED != before.get("phase")
    paused = f"which paused its rollout in stage {after.get('stage')}" if pauses else ""
    for_a_time = f" for {duration(evidence['ttl_s'])}" if evidence.get("ttl_s") else ""
    endpoint = f"{evidence.get('url')} of {evidence.get('version')}"
    set_by_hand = f"the endpoint {after.get('url')} of {after.get('version')}"
    named = after.get("label") or ", ".join(evidence.get("endpoints", ())) or "another version"
    silent = duration(evidence.get("silent_s", 0))
    said = {
        "RolledBack": f"was rolled back from {was}",
        "DrillShut": f"was shut from {was} by a drill",
        "DrillOver": f"is open again after a drill, at {weight}",
        STARTED: f"began the rollout {after.get('plan')!r} at {weight} (stage {after.get('stage')})",
        "StageEntered": f"went from {was} to {weight} (stage {after.get('stage')})",
        "RolloutPaused": f"was paused at {weight} in stage {after.get('stage')}",
        "RolloutResumed": f"went on at {weight} in stage {after.get('stage')}",
        "RolloutCompleted": f"completed the rollout {after.get('plan')!r} at {weight}",
        "RolloutFinished": f"finished: {after.get('stable') or 'the new version'} is stable",
        "PlanKept": "kept the plan that its rollout was started with",
        "PlanRestarted": f"began a changed plan anew, at {weight}",
        "WeightsSet": f"was set from {was} to {weight}{for_a_time}" + (f", {paused}" if paused else ""),
        "NewChanged": f"got {named} as its new version, at 0 %",
        "NewRemoved": "has no new version any more" + (f", it was {before['label']}" if before.get("label") else ""),
        "NewRefused": "goes on with the versions that it had",
        "NoStable": f"stays at {weight} although it should be rolled back: stable has no ready endpoint",
        "StableReady": "has a ready endpoint of stable again",
        "RollbackVerified": f"was seen to be back: nobody is sent to new, and {_stable(evidence)}",
        "RollbackIneffective": "was rolled back without effect",
        "LimitFailed": "broke a limit that moves nothing",
        "LimitWouldFail": "would have broken a limit (dry run)",
        "SharedFault": "broke a limit that stable breaks too",
        "ControllerSilent": f"was not judged for {silent}, longer than the watchdog allows",
        "WorkerLost": f"lost worker {evidence.get('slot')}",
        "ChangeUndone": f"is at {weight} as before: a change that was refused had been stored late, and was undone",
        "EventsLost": f"has lost {evidence.get('lost', 0):,} events",
        "FinishUndone": f"did not finish, and stays at {weight}",
        "CertificatesRenewed": f"shows another certificate, {_certificate(evidence)}",
        "CertificatesRemoved": f"shows a certificate no more, {_certificate(evidence)}",
        "CertificateProblem": f"has a certificate that needs somebody, {_certificate(evidence)}",
        "ServiceAdded": f"came into the config, at {weight}",
        "ServiceRemoved": f"is in the config no more, it was at {was}",
        "HookCalled": f"called the hook {event.get('reason')}",
        "HookFailed": f"called the hook {event.get('reason')} in vain",
        "ConfigChanged": f"is served by a changed config ({', '.join(evidence.get('changed', ()))})",
        "ConfigRefused": "refused a config, and goes on by the one before",
        "EndpointSet": f"has {set_by_hand} set from {before.get('state')} to {after.get('state')}",
        "EndpointDown": f"sends nothing to {endpoint}",
        "EndpointUp": f"sends requests to {endpoint} again",
        "EndpointEjected": f"sends nothing to {endpoint} for {duration(evidence.get('out_s', 0))}",
        "EndpointReturned": f"sends requests to {endpoint} again",
        PROGRESS: f"reported its progress in stage {event.get('reason')}",
    }
    return said.get(kind, f"says {kind}")


def _certificate(evidence: Json) -> str:
    """Return which certificate it is: its file, the names in it, and who shows it."""
    names, shown_at = evidence.get("names", ()), ", ".join(evidence.get("shown_at", ()))
    more = len(names) - MOST_NAMES
    names = ", ".join([*names[:MOST_NAMES], *([f"and {more} more"] if more > 0 else [])])
    told = str(evidence.get("file", ""))
    told += f" for {names}" if names else ""
    return f"{told} at {shown_at}" if shown_at else told


def _stable(evidence: Json) -> str:
    """Return how stable was seen to do after a rollback: that nobody asked it says nothing."""
    asked = evidence.get("stable") or {}
    return "nobody asked stable since" if asked.get("requests") == 0 else "stable is within the limits"


def _because(event: Json) -> str:
    evidence, reason = event.get("evidence") or {}, event.get("reason") or ""
    if event["type"] == PROGRESS:
        return ""
    if event["type"] == "ConfigRefused":
        return problems(evidence)
    if event["type"] == "DrillShut":
        return f"{reason} by failures that were made up"
    if event["type"] == "DrillOver" and evidence.get("decided_s") is not None:
        return _drilled(evidence)
    if event["type"] in VERIFICATIONS:
        why = f"because {_REASONS[reason]}" if reason in _REASONS else f"for {reason}"
        return "; ".join(part for part in (f"after a rollback {why}" if reason else "", evidence.get("why")) if part)
    if event["type"] in HOOKS:
        reason = _answer(evidence)
    told = [part for part in (_REASONS.get(reason, reason), numbers(evidence)) if part]
    if evidence.get("also"):
        told.append(f"also {', '.join(evidence['also'])}")
    if evidence.get("metric") is None and evidence.get("requests") is not None:
        told.append(f"{evidence['requests']:,} requests to new in {_time_of(evidence)}")
    told += [f"although {', and '.join(evidence['no_go'])}"] if evidence.get("no_go") else []
    told += [f"it waited for {', '.join(evidence['open'])}"] if evidence.get("open") else []
    told += [str(evidence[key]) for key in ("why", "body", "output", "warning") if evidence.get(key)]
    told += [f"the {evidence['refused']} was refused"] if evidence.get("refused") else []
    return "; ".join(told)


def _answer(evidence: Json) -> str:
    """Return how a hook ended; why it failed and what it said is told beside."""
    if evidence.get("exit") is not None:
        return f"it ended with exit code {evidence['exit']}"
    return f"it answered {evidence['status']}" if evidence.get("status") is not None else ""


def _time_of(evidence: Json) -> str:
    """Return the time that the requests belong to which a stage was judged by, beside that of its hold."""
    held_s = evidence.get("elapsed_s", 0)
    judged_s = evidence.get("judged_s", held_s)
    if judged_s < held_s - SAME_S:
        return f"the last {duration(judged_s)} of {duration(held_s)}, since judging began anew"
    if judged_s > held_s + SAME_S:
        return f"{duration(judged_s)}, of which {duration(held_s)} count as hold"
    return duration(held_s)


def _drilled(evidence: Json) -> str:
    limit = f" by {evidence['limit']}" if evidence.get("limit") else ""
    took = f"it was decided{limit} within {duration(evidence['decided_s'])}"
    reached_s = evidence.get("reached_s")
    if reached_s is None:
        return f"{took}; not every worker showed that it sends nobody to new"
    return f"{took}, and every worker had it {duration(reached_s)} later"


def _digits(number: float) -> str:
    """Return a number with at most three significant digits behind its whole part."""
    shown = f"{number:,.0f}" if abs(number) >= 1000 else f"{number:.3g}"
    return f"{number:.6f}".rstrip("0") if "e" in shown else shown
