"""The one route table: every call of the admin API, in the order of INTERFACE §2."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from proxy.admin import bodies, configuration, events, observe, parse, report, rollouts, steer
from proxy.admin.route import YAML_TYPES, Parameter, Route
from proxy.config.units import parse_duration

API = "/api/v1"
SERVICE = "/api/v1/services/{service}"
JSON = {"application/json": "the object"}
TEXT: dict[str, Any] = {"type": "string"}
FLAG: dict[str, Any] = {"type": "boolean", "default": False}


def _one_of(*words: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in words:
            raise ValueError(f"must be {' or '.join(words)}")
        return text

    return read


def _name(text: str) -> str:
    if not text:
        raise ValueError("must name a service")
    return text


def _page(text: str) -> int:
    size = parse.integer(text)
    if not 1 <= size <= events.PAGE:
        raise ValueError(f"must be from 1 to {events.PAGE}")
    return size


def _window(text: str) -> float:
    seconds = parse_duration(text)
    if seconds == 0:
        raise ValueError("must be longer than 0")
    return seconds


WHICH = Parameter("service", _name, "which service, where there are several", TEXT)
DRY_RUN = Parameter("dry_run", parse.boolean, "say what would happen, change nothing", FLAG)
TAKE_OVER = Parameter("take_over", parse.boolean, "pause a rollout that is progressing instead of 409", FLAG)
REASON = Parameter("reason", bodies.reason, "why, for the journal", TEXT)
COOKIE = Parameter("cookie", parse.pair, "a cookie of the request, NAME=VALUE", TEXT, many=True)
HEADER = Parameter("header", parse.pair, "a header of the request, NAME=VALUE", TEXT, many=True)
CLIENT_IP = Parameter("client_ip", parse.address, "the client's address", TEXT)
SINCE = Parameter("since", parse.integer, "only events with a larger seq", {"type": "integer", "default": 0})
LIMIT = Parameter("limit", _page, "at most so many", {"type": "integer", "minimum": 1, "maximum": 1000})
FOLLOW = Parameter("follow", parse.boolean, "stream stored and coming events", FLAG)
RUNNING_PLAN = Parameter(
    "running_plan",
    _one_of("keep", "restart"),
    "what becomes of a running rollout whose plan has changed; without it the reload is refused",
    {"enum": ["keep", "restart"]},
)
WINDOW = Parameter("window", _window, "the last so long, for example 60s", {"type": "string", "default": "60s"})
PHASE = Parameter(
    "phase",
    _one_of("total", "ttfb"),
    "total or first byte; first bytes that no limit in force is about are kept by ten seconds, not by one",
    {"enum": ["total", "ttfb"]},
)
PARTS = {
    "type": "object",
    "description": "two non-negative numbers, normalised by their sum; the versions' labels work as keys too",
    "properties": {"stable": {"type": "number", "minimum": 0}, "new": {"type": "number", "minimum": 0}},
    "examples": [{"stable": 0.9, "new": 0.1}],
}
CONFIG = {"type": "string", "description": "a config; empty = the file of the running supervisor, read again"}

ROUTES: tuple[Route, ...] = (
    Route("GET", f"{API}/status", observe.get_status, "Everything about all services and workers", tag="observe"),
    Route("GET", SERVICE, observe.get_service, "One service's object of the status"),
    Route("GET", f"{SERVICE}/weights", steer.get_weights, "The weights, with their revision as ETag"),
    Route(
        "PUT",
        f"{SERVICE}/weights",
        steer.put_weights,
        "Set the weight of new; If-Match guards against overwriting",
        role="operator",
        query=(DRY_RUN, TAKE_OVER),
        body=bodies.Weights,
    ),
    Route(
        "POST",
        "/api/traffic-weights",
        steer.post_traffic_weights,
        "Set both weights as any two numbers",
        role="operator",
        query=(WHICH, DRY_RUN, TAKE_OVER, REASON),
        body=PARTS,
    ),
    Route(
        "POST",
        f"{SERVICE}/rollback",
        steer.post_rollback,
        "Send all weight to stable, in every phase; repeating it changes nothing",
        role="operator",
        body=bodies.Why,
    ),
    Route(
        "PUT",
        f"{SERVICE}/versions/new",
        steer.put_new,
        "Register the new version (stored; weight 0, fresh salt)",
        role="operator",
        query=(DRY_RUN,),
        body=bodies.NewVersion,
    ),
    Route(
        "DELETE",
        f"{SERVICE}/versions/new",
        steer.delete_new,
        "Remove the new version",
        role="operator",
        query=(DRY_RUN,),
        body=bodies.Why,
    ),
    Route(
        "GET",
        f"{SERVICE}/rollout",
        rollouts.get_rollout,
        "Where the rollout is: the service's object, with its stage",
        tag="rollout",
    ),
    Route(
        "POST",
        f"{SERVICE}/rollout",
        rollouts.post_rollout,
        "Start a rollout; as a dry run: look at everything that can be known before, go or no-go",
        role="operator",
        query=(DRY_RUN,),
        body=bodies.RolloutStart,
        tag="rollout",
    ),
    Route(
        "POST",
        f"{SERVICE}/rollout/pause",
        rollouts.post_pause,
        "Stop the clock of the stage; the limits stay armed",
        role="operator",
        body=bodies.Why,
        tag="rollout",
    ),
    Route(
        "POST",
        f"{SERVICE}/rollout/resume",
        rollouts.post_resume,
        "Let a paused rollout go on at the weight of its stage",
        role="operator",
        body=bodies.Why,
        tag="rollout",
    ),
    Route(
        "POST",
        f"{SERVICE}/rollout/promote",
        rollouts.post_promote,
        "Go to the next stage now, or to the last one; from the last one: completed",
        role="operator",
        body=bodies.Promotion,
        tag="rollout",
    ),
    Route(
        "POST",
        f"{SERVICE}/rollout/finish",
        rollouts.post_finish,
        "Make the new version the stable one",
        role="operator",
        body=bodies.Why,
        tag="rollout",
    ),
    Route(
        "POST",
        f"{SERVICE}/rollout/drill",
        rollouts.post_drill,
        "Prove on the running system, by failures that no client sees, that a breach shuts the gate; as a dry run: by "
        "which limit, and how long it takes",
        role="operator",
        query=(DRY_RUN,),
        body=bodies.Why,
        tag="rollout",
    ),
    Route(
        "GET",
        f"{SERVICE}/report",
        report.get_report,
        "What became of the last rollout: its decisions with their numbers, and what was measured on the way",
        produces={"application/json": "the object", "text/markdown": "the same", "text/html": "one page with plots"},
        tag="rollout",
    ),
    Route(
        "GET",
        SERVICE + "/histograms/{version:stable|new}",
        observe.get_histogram,
        "Latencies of a version: HdrHistogram V2, or percentiles as text (.hgrm); first bytes that no limit is about "
        "are kept by ten seconds",
        query=(WINDOW, PHASE),
        produces={"application/json": "encoding, payload, seconds", "text/plain": ".hgrm"},
        tag="observe",
    ),
    Route("GET", f"{SERVICE}/endpoints", steer.get_endpoints, "The endpoints of both versions, and their states"),
    Route(
        "PATCH",
        f"{SERVICE}/endpoints",
        steer.patch_endpoints,
        "Take one endpoint out (drain, maintenance) or let it in again (ready); survives restarts",
        role="operator",
        body=bodies.Endpoint,
    ),
    Route(
        "GET",
        f"{API}/explain",
        observe.get_explain,
        "Which version a request gets, and why",
        query=(WHICH, COOKIE, HEADER, CLIENT_IP),
        tag="observe",
    ),
    Route(
        "GET",
        f"{API}/events",
        events.get_events,
        "The journal; with follow=true as server-sent events",
        query=(SINCE, LIMIT, FOLLOW),
        produces={"application/json": "a page of events", "text/event-stream": "id: seq, data: one event"},
        tag="observe",
        head=False,
    ),
    Route("GET", f"{API}/config", observe.get_config, "The config in force, secrets redacted", tag="config"),
    Route(
        "POST",
        f"{API}/config/validate",
        configuration.post_validate,
        "Say what is wrong with a config",
        role="operator",
        query=(RUNNING_PLAN,),
        body=CONFIG,
        consumes=tuple(sorted(YAML_TYPES)),
        tag="config",
    ),
    Route(
        "POST",
        f"{API}/config/reload",
        configuration.post_reload,
        "Read the config file again; a bad one changes nothing",
        role="operator",
        query=(RUNNING_PLAN,),
        body=bodies.Why,
        tag="config",
    ),
    Route(
        "GET",
        "/metrics",
        observe.get_metrics,
        "Prometheus text",
        produces={"text/plain": "metrics"},
        tag="observe",
    ),
    Route(
        "GET",
        "/livez",
        observe.get_livez,
        "Whether this process answers",
        role="open",
        produces={"text/plain": "ok"},
        tag="probe",
    ),
    Route(
        "GET",
        "/readyz",
        observe.get_readyz,
        "Whether traffic should come here",
        role="open",
        produces={"text/plain": "ok"},
        tag="probe",
    ),
    Route("GET", "/openapi.json", observe.get_openapi, "This document", tag="observe"),
)
