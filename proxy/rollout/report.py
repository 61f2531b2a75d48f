"""The report of a rollout: one object, shown as JSON, Markdown, or one HTML file that needs nothing else.

`build` puts together what is known: the service's object of `status`, its events since the rollout began, and *points*
of what was measured on the way (`{"t", "seconds", "weight", "stable": {"requests", "bad", "p50_ms", "p95_ms",
"p99_ms"}, "new": {…}}`). `markdown` and `html` show that object; they know of nothing else, so that whoever has such
an object (the admin API, the page, a load test) has the same picture.

The HTML has no script and loads nothing; all that came from elsewhere is escaped. Its plots share one time axis, on
which the decisions are marked with the numbers of the table below them. Colours are `stable` blue and `new` orange, and
never the only difference: the lines of `new` are dashed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from itertools import takewhile
from math import ceil, floor, log10
from typing import Any

from proxy.rollout import told
from proxy.rollout.event import CONTROLLER

Json = dict[str, Any]

VERSIONS = ("stable", "new")
PERCENTILES = ("p50_ms", "p95_ms", "p99_ms")

# The plots, in SVG units.
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 960, 190, 64, 12, 22, 24
TICKS = 8
LAST_BLOCK_S = 1.0  # after a rollout's end: the block that led to it is written down after it
GAP_S = 3.0  # without any measuring, from which a line has a gap
# Steps of a time axis, in seconds.
STEPS = (
    1,
    2,
    5,
    10,
    15,
    30,
    *(60 * n for n in (1, 2, 5, 10, 15, 30)),
    *(3600 * n for n in (1, 2, 3, 6, 12, 24, 48, 168)),
)
MARK_LEAST = 14  # between two numbers of marks


# --- the object ----------------------------------------------------------------------------------------------------


def build(service: str, item: Mapping[str, Any], events: Sequence[Json], points: Sequence[Json], now: float) -> Json:
    """Return the report of the last rollout of a service, or of what was done without one.

    `item` is the service's object of `status`, `events` are in order, `now` is seconds since 1970. Of a rollout that is
    over the report is what it was at its end, whatever has become of the service since.
    """
    mine, end = _course(service, events)
    started = mine[0]["time"] if _is_rollout(mine) else None
    move = told.last_move(mine)
    ended = end["time"] if end is not None else _ended(move) if started is not None else None
    if end is not None:
        item = _as_it_ended(end)
    return {
        "service": service,
        "generated": now,
        "phase": item["phase"],
        "reason": item.get("reason") or None,
        "plan": (mine[0].get("after") or {}).get("plan") if started is not None else None,
        "started": started,
        "ended": ended,
        "headline": told.sentence(move) if move is not None else f"{service}: nothing was decided yet",
        "weights": {version: item["weights"][version] for version in VERSIONS},
        "labels": {version: (item["versions"].get(version) or {}).get("label", "") for version in VERSIONS},
        "stages": _stages(item.get("stage"), item["phase"], mine, ended),
        "versions": {version: _sum(points, version) for version in VERSIONS},
        "limits": [dict(limit) for limit in item.get("limits", [])],
        "decisions": [_decision(number, event) for number, event in enumerate(mine, 1)],
        "points": [_point(point) for point in points],
    }


def span(service: str, events: Sequence[Json], now: float) -> tuple[float, float] | None:
    """Return the time (s since 1970) that the points of a report are wanted of, `None` when there is nothing to show.

    It begins with the rollout or, without one, when `new` got weight.
    """
    mine, end = _course(service, events)
    if _is_rollout(mine):
        return mine[0]["time"], now if end is None else min(now, end["time"] + LAST_BLOCK_S)
    opened = [event["time"] for event in mine if told.opens(event)]
    return (opened[-1], now) if opened else None


def _course(service: str, events: Sequence[Json]) -> tuple[list[Json], Json | None]:
    """Return what was decided about the last rollout, and the event that ended it, if one has.

    After the end only that belongs to it which the end brought about. Without a rollout it is all that was decided.
    """
    mine = [event for event in events if event.get("service") == service and event["type"] != told.PROGRESS]
    begun = max((index for index, event in enumerate(mine) if event["type"] == told.STARTED), default=0)
    mine = mine[begun:]
    place = _end(mine)
    if place is None:
        return mine, None
    after = takewhile(lambda event: not told.moves(event), mine[place + 1 :])
    return [*mine[: place + 1], *filter(told.comes_of_end, after)], mine[place]


def _end(mine: Sequence[Json]) -> int | None:
    """Return which event ended the rollout, `None` if none has, or if the service's object still shows it."""
    place: int | None = None
    back: int | None = None
    for index, event in enumerate(mine):
        before, after = event.get("before") or {}, event.get("after") or {}
        if told.ROLLOUT in (event.get("evidence") or {}):
            place = index
        elif event["type"] in told.UNDONE:
            place = None
        elif event["type"] == "RolledBack" and back is None:
            back = index
        elif place is None and "plan" in before and "plan" not in after:
            # It was ended while nobody could look (by the latch, at a start) or by a release that kept nothing of it.
            place = index if back is None else back
    return place


def _is_rollout(mine: Sequence[Json]) -> bool:
    return bool(mine) and mine[0]["type"] == told.STARTED


def _ended(move: Mapping[str, Any] | None) -> float | None:
    """Return when a rollout was over of which no event says more."""
    over = move is not None and (move.get("after") or {}).get("phase") in ("rolled_back", "completed", "idle")
    return move["time"] if over and move is not None else None


def _as_it_ended(end: Json) -> Json:
    """Return what the service's object of `status` was when its rollout ended, as far as a report shows it."""
    kept, before, after = end["evidence"].get(told.ROLLOUT) or {}, end["before"], end["after"]
    completed = before["phase"] == "completed" and after["phase"] != "rolled_back"
    new = before["new"] if completed else after["new"]
    return {
        "phase": before["phase"] if completed else after["phase"],
        "reason": end["reason"] if after["phase"] == "rolled_back" else None,
        "weights": {"stable": 100 - new, "new": new},
        "versions": {name: {"label": label} for name, label in kept.get("labels", {}).items()},
        "stage": kept.get("stage"),
        "limits": kept.get("limits", []),
    }


def _stages(stage: Mapping[str, Any] | None, phase: str, events: Sequence[Json], ended: float | None) -> list[Json]:
    if stage is None:
        return []
    entered: dict[str, float] = {}
    for event in events:
        if event["type"] == "PlanRestarted":
            entered = {}
        if event["type"] in (told.STARTED, "StageEntered", "PlanRestarted"):
            entered[(event.get("after") or {}).get("stage", "")] = event["time"]
    found = []
    for number, one in enumerate(stage.get("stages", [])):
        state = "open"
        if number < stage["index"] or phase == "completed":
            state = "done" if one["name"] in entered else "skipped"
        elif number == stage["index"]:
            state = {"rolled_back": _rolled_back(events), "paused": "paused", "idle": "left"}.get(phase, "current")
        found.append({**one, "state": state, "entered": entered.get(one["name"]), "left": None})
    been = [one for one in found if one["entered"] is not None]
    for one, later in zip(been, [*(later["entered"] for later in been[1:]), ended], strict=True):
        one["left"] = later
    return found


def _rolled_back(events: Sequence[Json]) -> str:
    """Return what a stage is from which everything was rolled back: it has not failed when a person wanted it."""
    actors = [event["actor"] for event in events if event["type"] == "RolledBack"]
    return "failed" if not actors or actors[-1] == CONTROLLER else "rolled back"


def _decision(number: int, event: Json) -> Json:
    return {
        "number": number,
        "t": event["time"],
        "type": event["type"],
        "actor": event.get("actor"),
        "reason": event.get("reason"),
        "text": told.sentence(event),
        "weight": (event.get("after") or {}).get("new"),
        "evidence": dict(event.get("evidence") or {}),
    }


def _sum(points: Sequence[Json], version: str) -> Json:
    requests, bad = (sum((point.get(version) or {}).get(key, 0) for point in points) for key in ("requests", "bad"))
    return {"requests": requests, "bad": bad, "error_rate": _share(bad, requests)}


def _point(point: Json) -> Json:
    found: Json = {"t": point["t"], "seconds": point["seconds"], "weight": point["weight"]}
    for version in VERSIONS:
        part = point.get(version)
        if part is not None:
            found[version] = {
                "rate": round(part["requests"] / point["seconds"], 3) if point["seconds"] else None,
                "error_rate": _share(part["bad"], part["requests"]),
                **{name: part.get(name) for name in PERCENTILES},
            }
    return found


def _share(bad: int, requests: int) -> float | None:
    return round(min(1.0, bad / requests), 6) if requests else None


# --- Markdown ------------------------------------------------------------------------------------------------------


def markdown(report: Mapping[str, Any]) -> str:
    """Return the report as Markdown."""
    return "\n".join(_markdown(report)) + "\n"


def _markdown(report: Mapping[str, Any]) -> Iterator[str]:
    yield f"# {_plain(_title(report))}"
    yield ""
    yield _plain(report["headline"])
    yield ""
    for name, value in _facts(report):
        yield f"* **{name}**: {_plain(value)}"
    for title, head, rows in _tables(report):
        yield ""
        yield f"## {title}"
        yield ""
        yield f"| {' | '.join(head)} |"
        yield f"|{'---|' * len(head)}"
        for row in rows:
            yield f"| {' | '.join(_plain(cell) for cell in row)} |"


def _plain(text: Any) -> str:
    """Return text that Markdown takes as it is: one line, without marks of tables, HTML, links or code."""
    line = " ".join(str(text).split())
    for char in "\\`*_[]<>|":
        line = line.replace(char, f"\\{char}" if char not in "<>" else ("&lt;" if char == "<" else "&gt;"))
    return line


# --- what both show ------------------------------------------------------------------------------------------------


def _title(report: Mapping[str, Any]) -> str:
    if report["plan"]:
        return f"Rollout {report['plan']} of {report['service']}: {report['phase'].replace('_', ' ')}"
    return f"{report['service']}: {report['phase'].replace('_', ' ')}"


def _facts(report: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    labels = report["labels"]
    yield "Versions", f"stable {labels['stable'] or '(no label)'}, new {labels['new'] or '(no label)'}"
    yield "Weight of new", f"{report['weights']['new']} %"
    if report["started"] is not None:
        end = report["ended"] if report["ended"] is not None else report["generated"]
        ran = told.duration(max(0.0, end - report["started"]))
        until = f"until {told.moment(end)}" if report["ended"] is not None else "still running"
        yield "Time", f"from {told.moment(report['started'])}, {until} ({ran})"
    for version in VERSIONS:
        counts = report["versions"][version]
        rate = "-" if counts["error_rate"] is None else told.amount(counts["error_rate"], "ratio")
        if not report["points"]:
            yield f"Measured of {version}", "nothing"
            continue
        yield f"Measured of {version}", f"{counts['requests']:,} requests, {counts['bad']:,} bad ({rate})"
    yield "Made", told.moment(report["generated"])


def _tables(report: Mapping[str, Any]) -> Iterator[tuple[str, list[str], list[list[str]]]]:
    if report["stages"]:
        rows = [
            [
                stage["name"],
                f"{stage['weight']} %",
                told.duration(stage["hold_s"]),
                stage["state"] + _left(stage),
                *("-" if stage[when] is None else told.moment(stage[when]) for when in ("entered", "left")),
            ]
            for stage in report["stages"]
        ]
        yield "Stages", ["stage", "weight of new", "hold", "state", "entered", "left"], rows
    if report["limits"]:
        head = ["limit", "version", "bound", "value", "verdict", "requests", "needs", "judged", "action"]
        yield "Limits", head, [_limit(limit, over=report["ended"] is not None) for limit in report["limits"]]
    if report["decisions"]:
        rows = [[str(one["number"]), told.moment(one["t"]), one["type"], one["text"]] for one in report["decisions"]]
        yield "Decisions", ["no.", "time", "event", "what"], rows


def _left(stage: Mapping[str, Any]) -> str:
    how = told.left_early(stage) if stage["state"] == "done" else ""
    return f", {how}" if how else ""


def _limit(limit: Mapping[str, Any], *, over: bool) -> list[str]:
    unit = limit.get("unit")
    bound = "-"
    for key, sign in (("max", "≤"), ("min", "≥"), ("max_ratio", "≤")):
        if limit.get(key) is not None:
            bound = f"{sign} {told.amount(limit[key], unit)}"
    return [
        limit["metric"],
        limit["version"],
        bound,
        "-"
        if limit.get("value") is None
        else ("> " if limit.get("at_least") else "") + told.amount(limit["value"], unit),
        limit["verdict"] + (", proven" if limit.get("proven") else ""),
        f"{limit.get('samples') or 0:,}",
        f"{limit['needed']:,} more" if limit.get("needed") and not over else "",
        limit.get("judge") or "",
        (limit.get("action") or "") + (" (dry run)" if limit.get("dry_run") else ""),
    ]


# --- HTML ----------------------------------------------------------------------------------------------------------

STYLE = """
:root { color-scheme: light dark; --ink: #1a202c; --soft: #718096; --line: #e2e8f0; --paper: #fff; --panel: #f7fafc;
  --stable: #2b6cb0; --new: #c05621; --mark: #805ad5; --bad: #c53030; --good: #2f855a; }
@media (prefers-color-scheme: dark) { :root { --ink: #e2e8f0; --soft: #a0aec0; --line: #2d3748; --paper: #171923;
  --panel: #1e2330; --stable: #63b3ed; --new: #f6ad55; --mark: #b794f4; --bad: #fc8181; --good: #68d391; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 2rem auto;
  max-width: 62rem; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin: 0 0 .25rem; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
.headline { font-size: 1.05rem; margin: 0 0 1rem; padding: .6rem .9rem; background: var(--panel);
  border-left: 4px solid var(--soft); }
.rolled_back { border-color: var(--bad); } .completed { border-color: var(--good); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1rem; margin: 0; }
dt { color: var(--soft); } dd { margin: 0; }
.wide { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-size: .87rem; }
th, td { text-align: left; padding: .3rem .6rem .3rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
.decisions td:nth-child(2) { white-space: nowrap; }
th { color: var(--soft); font-weight: 600; } tr:target { background: var(--panel); }
svg { width: 100%; height: auto; display: block; margin: .5rem 0 1rem; }
svg text { fill: var(--soft); font-size: 11px; } svg .title { fill: var(--ink); font-size: 13px; font-weight: 600; }
.grid { stroke: var(--line); } .plot { fill: none; stroke-width: 1.6; }
.stable { stroke: var(--stable); } .new { stroke: var(--new); stroke-dasharray: 5 2; }
.faint { opacity: .45; } .limit { stroke: var(--bad); stroke-dasharray: 2 3; } .mark line { stroke: var(--mark); }
svg .mark text { fill: var(--mark); font-weight: 600; } .key { stroke-width: 3; }
""".strip()

# A series of a plot: name, classes, and points (t, value or none).
Series = tuple[str, str, list[tuple[float, float | None]]]


def html(report: Mapping[str, Any]) -> str:
    """Return the report as one HTML file."""
    return "\n".join(_html(report)) + "\n"


def _html(report: Mapping[str, Any]) -> Iterator[str]:
    title = escape(_title(report))
    yield "<!doctype html>"
    yield '<html lang="en"><head><meta charset="utf-8">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
    yield f"<title>{title}</title><style>{STYLE}</style></head><body>"
    yield f"<h1>{title}</h1>"
    yield f'<p class="headline {escape(report["phase"])}">{escape(report["headline"])}</p>'
    yield "<dl>"
    for name, value in _facts(report):
        yield f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>"
    yield "</dl>"
    yield from _plots(report)
    for name, head, rows in _tables(report):
        yield f"<h2>{escape(name)}</h2>"
        yield f'<div class="wide"><table class="{name.lower()}"><thead><tr>'
        yield "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head) + "</tr></thead><tbody>"
        for number, row in enumerate(rows, 1):
            anchor = f' id="decision-{number}"' if name == "Decisions" else ""
            yield f"<tr{anchor}>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>"
        yield "</tbody></table></div>"
    yield "</body></html>"


def _plots(report: Mapping[str, Any]) -> Iterator[str]:
    points = report["points"]
    yield "<h2>Measured</h2>"
    if len(points) < 2:
        yield "<p>There are no points to plot: nothing was measured, or only just now.</p>"
        return
    begin, end = points[0]["t"] - points[0]["seconds"], points[-1]["t"]
    marks = [one for one in report["decisions"] if begin <= one["t"] <= end]
    yield _plot("Weight of new, %", [("weight of new", "new", _weights(report, end))], (begin, end), marks, most=100.0)
    yield _plot("Requests per second", _both(points, "rate"), (begin, end), marks)
    errors = [(name, classes, _scaled(values)) for name, classes, values in _both(points, "error_rate")]
    bounds = [(100 * value, f"limit {_number(100 * value)} %") for value, _ in _bounds(report, ["error_rate"])]
    yield _plot("Bad responses, %", errors, (begin, end), marks, limits=bounds)
    latencies = [
        (f"{series[0]} {name.removesuffix('_ms')}", f"{series[1]}{' faint' * (name != 'p99_ms')}", series[2])
        for name in PERCENTILES
        for series in _both(points, name)
    ]
    slow = _bounds(report, [name.removesuffix("_ms") for name in PERCENTILES])
    bounds = [(value, f"{metric} limit {_number(value)} ms") for value, metric in slow]
    yield _plot("Latency p99 (faint: p50, p95), ms", latencies, (begin, end), marks, limits=bounds)


def _weights(report: Mapping[str, Any], end: float) -> list[tuple[float, float | None]]:
    """Return the weight at every instant at which it changed, as steps."""
    changes = [(one["t"], one["weight"]) for one in report["decisions"] if one.get("weight") is not None]
    if not changes:
        changes = [(point["t"] - point["seconds"], point["weight"]) for point in report["points"]]
    steps: list[tuple[float, float | None]] = []
    for t, weight in changes:
        steps += [(t, steps[-1][1])] if steps else []
        steps.append((t, weight))
    return [*steps, (max(end, steps[-1][0]), steps[-1][1])] if steps else []


def _both(points: Sequence[Json], key: str) -> list[Series]:
    return [(version, version, list(_measured(points, version, key))) for version in VERSIONS]


def _measured(points: Sequence[Json], version: str, key: str) -> Iterator[tuple[float, float | None]]:
    """Yield the values in the middle of the time that they stand for; where nobody measured there is a gap."""
    before = None
    for point in points:
        begin = point["t"] - point["seconds"]
        if before is not None and begin - before > max(GAP_S, point["seconds"] / 2):
            yield (before + begin) / 2, None
        before = point["t"]
        yield begin + point["seconds"] / 2, (point.get(version) or {}).get(key)


def _scaled(values: list[tuple[float, float | None]]) -> list[tuple[float, float | None]]:
    return [(t, None if value is None else 100 * value) for t, value in values]


def _bounds(report: Mapping[str, Any], metrics: Sequence[str]) -> list[tuple[float, str]]:
    """Return the fixed limits on `new` that can be drawn into a plot of these metrics."""
    limits = [limit for limit in report["limits"] if limit["metric"] in metrics and limit["version"] == "new"]
    return sorted(
        {
            (limit["max"], limit["metric"])
            for limit in limits
            if limit.get("max") is not None and limit.get("unit") in ("ratio", "ms")
        }
    )


def _plot(
    title: str,
    series: Sequence[Series],
    span: tuple[float, float],
    marks: Sequence[Json],
    *,
    most: float | None = None,
    limits: Sequence[tuple[float, str]] = (),
) -> str:
    values = [value for _, _, points in series for _, value in points if value is not None]
    # A limit far above all that was measured would press the lines to the ground: then it is only named.
    highest = max(values, default=0.0)
    drawn = [bound for bound, _ in limits if bound <= 4 * highest]
    step, top = _scale(most or max([highest, *drawn], default=0.0))

    def x(t: float) -> float:
        return round(LEFT + (t - span[0]) / max(1e-9, span[1] - span[0]) * (WIDTH - LEFT - RIGHT), 1)

    def y(value: float) -> float:
        return round(HEIGHT - BOTTOM - min(1.0, value / top) * (HEIGHT - TOP - BOTTOM), 1)

    label = f"{title}: {', '.join(dict.fromkeys(name for name, _, _ in series))}"
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">']
    parts.append(f'<text class="title" x="{LEFT}" y="14">{escape(title)}</text>')
    for number in range(round(top / step) + 1):
        at = y(number * step)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at}" y2="{at}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{at + 4}" text-anchor="end">{_number(number * step)}</text>')
    for t, text in _ticks(span):
        parts.append(f'<line class="grid" x1="{x(t)}" x2="{x(t)}" y1="{HEIGHT - BOTTOM}" y2="{HEIGHT - BOTTOM + 4}"/>')
        parts.append(f'<text x="{x(t)}" y="{HEIGHT - 6}" text-anchor="middle">{text}</text>')
    parts += [f'<line class="limit" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(at)}" y2="{y(at)}"/>' for at in drawn]
    for name, classes, points in series:
        for path in _paths(points, x, y):
            parts.append(f'<path class="plot {classes}" d="{path}"><title>{escape(name)}</title></path>')
    parts += _marks(marks, x)
    parts += _legend([one for one in series if "faint" not in one[1]], limits, drawn)
    return "".join([*parts, "</svg>"])


def _paths(points: Sequence[tuple[float, float | None]], x: Any, y: Any) -> Iterator[str]:
    """Yield the pieces of a line; where there is no value there is a gap."""
    piece: list[str] = []
    for t, value in points:
        if value is None:
            if piece:
                yield "".join(piece)
            piece = []
            continue
        at = f"{x(t)} {y(value)}"
        # A lone point is a line of no length, which round ends would show; here it gets one unit.
        piece.append(f"L{at}" if piece else f"M{at}h1")
    if piece:
        yield "".join(piece)


def _marks(marks: Sequence[Json], x: Any) -> Iterator[str]:
    last = -float(MARK_LEAST)
    for mark in marks:
        at = x(mark["t"])
        number = ""
        if at - last >= MARK_LEAST:
            number, last = f'<text x="{at + 2}" y="{TOP + 9}">{mark["number"]}</text>', at
        link = f'<a href="#decision-{mark["number"]}"><title>{escape(mark["text"])}</title>'
        yield f'<g class="mark">{link}<line x1="{at}" x2="{at}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>{number}</a></g>'


def _legend(series: Sequence[Series], limits: Sequence[tuple[float, str]], drawn: Sequence[float]) -> Iterator[str]:
    at = float(WIDTH - RIGHT)
    entries = [(name, classes) for name, classes, _ in series]
    entries += [(f"{name}{'' if bound in drawn else ' (above)'}", "limit") for bound, name in limits]
    for name, classes in reversed(entries):
        yield f'<text x="{at:g}" y="14" text-anchor="end">{escape(name)}</text>'
        at -= 6.2 * len(name) + 6
        yield f'<line class="key {classes}" x1="{at - 18:g}" x2="{at:g}" y1="10" y2="10"/>'
        at -= 32


def _scale(highest: float) -> tuple[float, float]:
    """Return the step of a scale (1, 2 or 5 times a power of ten) and its top, for three to six steps."""
    if highest <= 0:
        return 1.0, 1.0
    rough = highest / 4
    power = 10.0 ** floor(log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    return step, step * max(1, ceil(round(highest / step, 9)))


def _number(value: float) -> str:
    return f"{value:,.6g}" if value < 1000 else f"{value:,.0f}"


def _ticks(span: tuple[float, float]) -> Iterator[tuple[float, str]]:
    """Yield at most `TICKS` round instants of a time axis (UTC), and what stands below them."""
    step = next((one for one in STEPS if (span[1] - span[0]) / one <= TICKS), STEPS[-1])
    first = ceil(span[0] / step) * step
    for number in range(int((span[1] - first) / step) + 1):
        t = first + number * step
        text = told.moment(t)
        yield t, text[11:19] if step < 60 else text[11:16] if step < 6 * 3600 else text[5:16]
