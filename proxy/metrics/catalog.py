"""Every metric by name: the list that /metrics is rendered from and docs/reference/metrics.md is written from.

Rules (INTERFACE §4): base units; label values come from the config or from the lists here and in `proxy.ipc.layout`,
never from a request, so that the number of series is bounded; names, labels and meanings are public.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric. `kind`: counter | gauge | histogram; `name` is the family's, as users see it."""

    name: str
    kind: str
    help: str
    labels: tuple[str, ...] = ()


BUILD_INFO = Metric("tidegate_build_info", "gauge", "Always 1; the version is in the label.", ("version",))
REQUESTS = Metric(
    "tidegate_requests_total",
    "counter",
    "Attempts that ended, by the status that the version answered; 499: the client left. "
    "A request that stable rescued is one attempt on each version. Codes appear when they are first seen.",
    ("service", "version", "code"),
)
BAD = Metric(
    "tidegate_bad_total",
    "counter",
    "What is charged to a version: 5xx (status), failed or refused connects, resets, timeouts, malformed "
    "responses (protocol), and requests for new that stable had to take because no endpoint was ready (diverted).",
    ("service", "version", "kind"),
)
REQUEST_DURATION = Metric(
    "tidegate_request_duration_seconds",
    "histogram",
    "Time from dispatch to the endpoint's last byte, per judged attempt, without waits for the client. Every latency "
    "limit is a bucket edge and its count is exact; other edges and the sum are exact to 0.8 %.",
    ("service", "version"),
)
TTFB = Metric(
    "tidegate_ttfb_seconds",
    "histogram",
    "Time from dispatch to the endpoint's first byte, per judged attempt; a timeout at its value. Every limit on a "
    "first byte is a bucket edge and its count is exact; other edges and the sum are exact to 0.8 %.",
    ("service", "version"),
)
USER_DURATION = Metric(
    "tidegate_user_duration_seconds",
    "histogram",
    "What clients waited for their whole answer, rescues and local replies included (to 0.8 %).",
    ("service",),
)
OVERHEAD = Metric(
    "tidegate_overhead_seconds", "histogram", "What the proxy itself added to a request, sampled (to 0.8 %)."
)
WEIGHT = Metric(
    "tidegate_weight_ratio",
    "gauge",
    "Share of the traffic, 0 to 1: as it is set, and as the split dealt it lately (actual; absent without traffic).",
    ("service", "version", "kind"),
)
ASSIGNMENTS = Metric(
    "tidegate_assignments_total",
    "counter",
    "Requests by the version they were given to and why.",
    ("service", "version", "reason"),
)
IN_FLIGHT = Metric("tidegate_in_flight", "gauge", "Attempts dispatched and not ended.", ("service", "version"))
TUNNELS = Metric(
    "tidegate_tunnels", "gauge", "Open tunnels (WebSocket); each is in flight too.", ("service", "version")
)
QUEUED = Metric(
    "tidegate_queued",
    "gauge",
    "Requests that wait because the version has as many in flight as `in_flight` allows.",
    ("service", "version"),
)
ENDPOINT_UP = Metric(
    "tidegate_endpoint_up",
    "gauge",
    "1 while the endpoint is ready to be given requests, else 0 (drain, maintenance, down, ejected).",
    ("service", "version", "endpoint"),
)
EJECTIONS = Metric(
    "tidegate_ejections_total",
    "counter",
    "How often an endpoint was ejected because it failed more than its siblings.",
    ("service", "version"),
)
POOL = Metric(
    "tidegate_pool_connections",
    "gauge",
    "Open connections to the endpoint, by state: idle or active.",
    ("service", "version", "endpoint", "state"),
)
FAILOVERS = Metric(
    "tidegate_failovers_total",
    "counter",
    "Requests that failed on new and were sent to stable (rescued, failed), or could not be (over_budget).",
    ("service", "outcome"),
)
RETRIES = Metric(
    "tidegate_retries_total",
    "counter",
    "Requests sent once more to the same version because a reused connection was closed under them.",
    ("service", "version", "outcome"),
)
SIGNAL = Metric(
    "tidegate_signal_total",
    "counter",
    "Responses with the header of a configured signal, by whether its value matches (match, other). Begins at 0 when "
    "the version becomes another one.",
    ("service", "version", "signal", "outcome"),
)
CLIENT_ABORTS = Metric(
    "tidegate_client_aborts_total", "counter", "Requests whose client left before the end.", ("service",)
)
LOCAL_REPLIES = Metric(
    "tidegate_local_replies_total", "counter", "Answers that the proxy gave itself.", ("code", "reason")
)
REFUSED_CONNECTIONS = Metric(
    "tidegate_refused_connections_total",
    "counter",
    "Clients' connections that were ended before there was a request to answer: on a listener with proxy_protocol by "
    "no trusted proxy (untrusted), or without a right header (preface); a TLS handshake that failed (tls_handshake); "
    "TLS messages without data and without end (tls_messages).",
    ("reason",),
)
ACCESS_LOG_LOST = Metric(
    "tidegate_access_log_lost_total",
    "counter",
    "Lines of the access log that could not be written: nobody reads fast enough, the disk is full, it is not open.",
)
ROLLOUT_PHASE = Metric(
    "tidegate_rollout_phase", "gauge", "1 for the phase that the service is in.", ("service", "phase")
)
ROLLOUT_STAGE = Metric(
    "tidegate_rollout_stage", "gauge", "The stage that a rollout is in, from 1; 0 without a rollout.", ("service",)
)
ROLLBACKS = Metric("tidegate_rollbacks_total", "counter", "Rollbacks by reason.", ("service", "reason"))
LIMIT_VALUE = Metric(
    "tidegate_limit_value",
    "gauge",
    "What a limit measures now: a share from 0 to 1, or seconds. Limits on stable are named stable_…; of several on "
    "the same metric the worst is shown. Absent while it cannot be measured.",
    ("service", "metric"),
)
LIMIT_VERDICT = Metric(
    "tidegate_limit_verdict", "gauge", "1 for the verdict that a limit has now.", ("service", "metric", "verdict")
)
CONFIG_RELOADS = Metric("tidegate_config_reloads_total", "counter", "Reloads of the config by result.", ("result",))
LOOP_LAG = Metric("tidegate_worker_loop_lag_seconds", "gauge", "How late the worker's last 50 ms sweep was.", ("slot",))
WORKER_RSS = Metric("tidegate_worker_rss_bytes", "gauge", "Resident memory of the worker.", ("slot",))
WORKERS = Metric("tidegate_workers", "gauge", "Workers by state.", ("state",))
INTERNAL_ERRORS = Metric(
    "tidegate_internal_errors_total", "counter", "Faults of the proxy itself: each one is a bug to report."
)

CATALOG: tuple[Metric, ...] = (
    BUILD_INFO,
    REQUESTS,
    BAD,
    REQUEST_DURATION,
    TTFB,
    USER_DURATION,
    OVERHEAD,
    WEIGHT,
    ASSIGNMENTS,
    IN_FLIGHT,
    QUEUED,
    TUNNELS,
    ENDPOINT_UP,
    EJECTIONS,
    POOL,
    FAILOVERS,
    RETRIES,
    SIGNAL,
    CLIENT_ABORTS,
    LOCAL_REPLIES,
    REFUSED_CONNECTIONS,
    ACCESS_LOG_LOST,
    ROLLOUT_PHASE,
    ROLLOUT_STAGE,
    ROLLBACKS,
    LIMIT_VALUE,
    LIMIT_VERDICT,
    CONFIG_RELOADS,
    LOOP_LAG,
    WORKER_RSS,
    WORKERS,
    INTERNAL_ERRORS,
)

# Label values that exist from the start, worst verdict first.
VERDICTS = ("FAIL", "ERROR", "INCONCLUSIVE", "PASS")
WORKER_STATES = ("starting", "listening", "draining", "hung", "down")
RELOAD_RESULTS = ("ok", "failed")

# Bucket edges in µs; the latency limits of the service come on top.
LATENCY_EDGES_US = tuple(
    round(milliseconds * 1000)
    for milliseconds in (1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 30_000, 60_000)
)
OVERHEAD_EDGES_US = (10, 25, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 100_000, 1_000_000)
