"""What may be asked of a running supervisor: the seam between the admin API and the control plane.

The admin routes know only this interface. Every method raises `proxy.errors.Refused` (with HTTP status, title,
problems and extra members) when it is not carried out, and then nothing has changed.
Shares are fractions 0…1, weights percent outside (JSON) and 1/10,000 in arguments named `_bp`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Order:
    """Who asks and why. `if_match` is the revision that the operator has seen, `None` = any.

    `take_over`: a progressing rollout is paused for it. `running_plan`: what a reload does with a running rollout whose
    plan has changed: keep | restart, "" = it is refused.
    """

    actor: str
    reason: str = ""
    if_match: int | None = None
    dry_run: bool = False
    take_over: bool = False
    running_plan: str = ""


class Operations(Protocol):
    """The running supervisor as the admin API sees it."""

    def status(self) -> Json:
        """Return the object of `GET /api/v1/status` (INTERFACE §2)."""

    def service_name(self, name: str | None) -> str:
        """Return the checked service name; `None` means the only one. Refused: 404, or 400 if there are several."""

    def service(self, name: str) -> Json:
        """Return the service's object of `status`."""

    def weights(self, name: str) -> Json:
        """Return {"service", "stable", "new", "revision", "expires_in_s"?}; percent."""

    async def set_weights(self, name: str, new_bp: int, order: Order, *, ttl_s: float | None = None) -> Json:
        """Set the weight of `new`; return `weights` plus "moves" (dry run) and "durable": false when not stored.

        When that pauses a rollout, "paused" has its plan and stage and where `resume` and `promote` lead.
        """

    async def rollback(self, name: str, order: Order) -> Json:
        """Send everything to stable in any phase; return the service's object plus "durable": false when not stored."""

    async def start_rollout(self, name: str, plan: str | Mapping[str, Any] | None, order: Order) -> Json:
        """Start a rollout by a plan's name, by a plan in the notation of a file, or (`None`) by the default plan.

        Return the service's object; for a dry run {"go", "plan", "findings": [{"check", "finding", "what"}]}, where a
        finding is ok | warning | no-go. Refused: 409 (phase, HookFailed with what it said), 404, 400 with all problems.
        """

    async def pause(self, name: str, order: Order) -> Json:
        """Pause a progressing rollout; the limits stay armed. Return the service's object."""

    async def resume(self, name: str, order: Order) -> Json:
        """Let a paused rollout go on at the weight of its stage. Return the service's object."""

    async def promote(self, name: str, order: Order, *, full: bool = False) -> Json:
        """Go to the next stage, or to the last (`full`); from the last: completed. Return the service's object."""

    async def finish(self, name: str, order: Order) -> Json:
        """Make the new version the stable one. Return the service's object."""

    async def drill(self, name: str, order: Order) -> Json:
        """Shut the gate by made-up failures and restore it.

        Return {"drill": "passed" | "failed", "limit", "decided_s", "reached_s", "latched", "restored", "why"}; for a
        dry run {"limit", "limits", "expected_s", "most_s"}. Refused: 409 where it cannot succeed, 503 when nothing can
        be stored.
        """

    async def put_new(self, name: str, label: str, endpoints: list[str], order: Order) -> Json:
        """Register the new version (weight 0, fresh seed, next generation); return the service's object."""

    async def delete_new(self, name: str, order: Order) -> Json:
        """Remove the new version; return the service's object."""

    def endpoints(self, name: str) -> Json:
        """Return {"service", "endpoints": [{"version", "url", "state", "why", "in_flight", "requests", "bad"}]}."""

    async def set_endpoint(self, name: str, version: int, url: str, state: str, order: Order) -> Json:
        """Set an endpoint to ready, drain or maintenance, for later starts too; return `endpoints`."""

    def explain(self, name: str, cookies: Mapping[str, str], headers: Mapping[str, str], client_ip: str | None) -> Json:
        """Return {"service", "key", "key_from", "bucket", "weight", "version", "reason"}."""

    async def events(self, since: int, limit: int) -> list[Json]:
        """Return stored events with seq > since, oldest first (shape: INTERFACE §2)."""

    def follow_events(self, since: int) -> AsyncIterator[Json]:
        """Yield stored and then live events with seq > since, until the supervisor ends."""

    async def past(self, name: str, since: float, until: float) -> list[Json]:
        """Return what was measured while `since` < t <= `until` (s since 1970), as points of a report."""

    def histogram(self, name: str, version: int, window_s: float, phase: str) -> tuple[dict[int, int], float]:
        """Return sparse HDR counts (index → count) of `phase` ("total" | "ttfb") and the seconds they cover."""

    def exposition(self) -> Any:
        """Return a snapshot that `proxy.metrics.expose.render` turns into /metrics text in another thread."""

    def ready(self) -> tuple[bool, str]:
        """Return whether traffic should come here (False while draining or with no worker listening) and why not."""

    def config(self) -> Json:
        """Return the config in force, secrets redacted."""

    async def reload(self, order: Order) -> Json:
        """Read the config file again and switch; a bad one changes nothing (Refused 400 with all problems)."""
