"""Short forms to long ones, and names to metrics, before the model looks at the data.

`listen: A` becomes `listen: [{address: A}]`, `{p99: 200ms}` a list of limits, and the metric of every limit a `Metric`
if it is known where it stands: every service has those that are counted, a service and a plan add their signals and
checks.
What is not shaped as expected is left alone: the model says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from proxy.config.limits import NAMED, Metric, metric
from proxy.config.load import Document, Loc
from proxy.rollout.plan import COUNTED, METRICS

Scope = dict[str, Metric]


def normalise(document: Document) -> None:
    """Bring a config or a file of plans to its long form."""
    data = document.data
    if not isinstance(data, dict):
        return
    _listeners(document, data)
    counted = {name: metric(name) for name in METRICS}
    services = data.get("services")
    for index, service in enumerate(services if isinstance(services, list) else []):
        if isinstance(service, dict):
            loc: Loc = ("services", index)
            scope = counted | named(service)
            _limits(document, loc, service, "limits", scope)
            if isinstance(service.get("on_rollback"), str):
                service["on_rollback"] = {"tunnels": service["on_rollback"]}
                document.same((*loc, "on_rollback", "tunnels"), (*loc, "on_rollback"))
            _plans(document, (*loc, "rollouts"), service.get("rollouts"), scope)
    if "services" not in data:
        _plans(document, ("plans",), data.get("plans"), counted)


def _listeners(document: Document, data: dict[str, Any]) -> None:
    if "listen" not in data or data["listen"] is None:
        return
    if not isinstance(data["listen"], list):
        data["listen"] = [data["listen"]]
        document.graft(("listen", 0), document, ("listen",))
    for index, listener in enumerate(data["listen"]):
        loc: Loc = ("listen", index)
        if not isinstance(listener, dict | list) and listener is not None:
            data["listen"][index] = {"address": listener}
            document.same((*loc, "address"), loc)
        elif isinstance(listener, dict) and isinstance(listener.get("tls"), dict):
            listener["tls"] = [listener["tls"]]
            document.graft((*loc, "tls", 0), document, (*loc, "tls"))


def named(section: Mapping[str, Any]) -> Scope:
    """Return the signals and checks that a service or a plan defines, as metrics by name."""
    found: Scope = {}
    for key, source in NAMED.items():
        names = section.get(key)
        found |= {name: metric(name, source) for name in (names if isinstance(names, dict) else ())}
    return {name: known for name, known in found.items() if name not in METRICS}


def _plans(document: Document, loc: Loc, plans: object, scope: Scope) -> None:
    for name, plan in plans.items() if isinstance(plans, dict) else ():
        if isinstance(plan, dict):
            normalise_plan(document, (*loc, name), plan, scope)


def normalise_plan(document: Document, loc: Loc, plan: dict[str, Any], scope: Scope) -> None:
    """Bring one plan to its long form; `scope` holds the metrics that are known around it."""
    inner = scope | named(plan)
    stages = plan.get("stages")
    for index, stage in enumerate(stages if isinstance(stages, list) else []):
        if isinstance(stage, dict):
            for key in ("limits", "require"):
                _limits(document, (*loc, "stages", index), stage, key, inner)


def _limits(document: Document, loc: Loc, section: dict[str, Any], key: str, scope: Scope) -> None:
    at = (*loc, key)
    document.metrics[at] = tuple(scope)
    if isinstance(section.get(key), dict):
        section[key] = list(_long(document, at, section[key], scope))
    limits = section.get(key)
    for limit in limits if isinstance(limits, list) else []:
        name = limit.get("metric") if isinstance(limit, dict) else None
        if isinstance(name, str) and name in scope:
            limit["metric"] = scope[name]


def _long(document: Document, loc: Loc, short: dict[str, object], scope: Scope) -> Iterator[dict[str, object]]:
    for index, (name, bound) in enumerate(short.items()):
        key = "min" if name == "availability" else "max"
        for part in ((), ("metric",), (key,)):
            document.same((*loc, index, *part), (*loc, name))
        if isinstance(bound, dict):
            document.report((*loc, index, key), f"takes one value here: write the long form - {{metric: {name}, …}}")
        elif name in scope and scope[name].source != COUNTED:
            cure = f"write the long form - {{metric: {name}, max: …}} or min"
            document.report((*loc, index), f"is limited by max or min: {cure}")
        yield {"metric": name, key: bound}
