"""What a running supervisor answers: the `Operations` of the admin API, put together from those who know.

The controller knows services, decisions and events; the collector what was counted; the workers who lives; this file
what belongs to the whole: readiness, the config in force, and reading it again.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from proxy import __version__
from proxy.clock import Clock
from proxy.config.compile import CertificateFiles, Compiled, Settings, compile_file
from proxy.controlplane.board import Board
from proxy.controlplane.certificates import Certificates, Finding
from proxy.controlplane.collector import Collector
from proxy.controlplane.controller import Controller
from proxy.controlplane.operations import Json, Order
from proxy.controlplane.workers import Workers
from proxy.errors import ConfigError, Refused
from proxy.metrics.expose import Exposition, WorkerStanding
from proxy.rollout.state import PHASES

SOME = (CertificateFiles(Path(), Path()),)  # stands for whatever certificates there are


class Running:
    """The running supervisor as the admin API sees it (`proxy.controlplane.operations`).

    `workers` is `None` until they are started, `draining` is set by the supervisor; `sweep_s` is its time between
    two looks at the workers.
    """

    def __init__(
        self,
        compiled: Compiled,
        controller: Controller,
        collector: Collector,
        board: Board,
        clock: Clock,
        *,
        sweep_s: float,
    ) -> None:
        self._compiled = compiled
        self._settings = compiled.settings
        self._controller = controller
        self._collector = collector
        self._board = board
        self._clock = clock
        self._sweep_s = sweep_s
        self._started_ns = clock.monotonic_ns()
        self._reloading = asyncio.Lock()
        self._reloads = {"ok": 0, "failed": 0}
        self.workers: Workers | None = None
        self.certificates: Certificates | None = None
        self.show_certificates: Callable[[Sequence[Finding], str], None] = lambda _found, _actor: None
        self.reloading: Callable[[], None] = lambda: None
        self.reloaded: Callable[[bool], None] = lambda _well: None
        self.draining = False
        self.failed_ticks = 0

    # --- the whole -----------------------------------------------------------------------------------------------

    def status(self) -> Json:
        """Return the object of `GET /api/v1/status` (INTERFACE §2)."""
        names, shown = self._controller.services.names(), self._controller.status
        return {
            "version": __version__,
            "uptime_s": round((self._clock.monotonic_ns() - self._started_ns) / 1e9, 3),
            "workers": self.worker_rows(),
            "services": {name: shown.service_status(name) for name in names},
        }

    def ready(self) -> tuple[bool, str]:
        """Return whether traffic should come here, and why not."""
        if self.draining:
            return False, "draining"
        if self.workers is None or not self.workers.listening:
            return False, "no worker listens"
        return True, ""

    def exposition(self) -> Exposition:
        """Return what `proxy.metrics.expose.render` turns into the text of /metrics in another thread."""
        snapshot = self._collector.read()
        board = [self._board.row(row["slot"]) for row in self.worker_rows()]
        return Exposition(
            version=__version__,
            snapshot=replace(snapshot, internal_errors=snapshot.internal_errors + self.failed_ticks),
            deep=self._collector.deep(),
            standings=self._controller.status.standings(),
            phases=PHASES,
            workers=tuple(
                WorkerStanding(row["slot"], row["state"], gauges.loop_lag_us, gauges.rss)
                for row, gauges in zip(self.worker_rows(), board, strict=True)
            ),
            reloads=dict(self._reloads),
        )

    def histogram(self, name: str, version: int, window_s: float, phase: str) -> tuple[dict[int, int], float]:
        """Return sparse HDR counts of `phase` ("total" | "ttfb") over about `window_s`, and the seconds they cover."""
        return self._collector.history.histogram(name, version, phase, window_s)

    def worker_rows(self) -> list[Json]:
        """Return the worker slots as `status` shows them."""
        return [] if self.workers is None else self.workers.rows(self._sweep_s)

    # --- the config ----------------------------------------------------------------------------------------------

    def config(self) -> Json:
        """Return the config in force, secrets redacted."""
        return self._compiled.redacted

    async def reload(self, order: Order) -> Json:
        """Read the config file again and bring it into force; a dry run only says what would be.

        Return {"valid", "needs_restart": [keys], "notes"}. Refused: 400 with all problems, 409 without a file; then
        nothing has changed, and an event tells it (`ConfigRefused`).
        """
        try:
            return await self._reload(order)
        except Refused as error:
            if not order.dry_run:
                self._controller.reloads.say_refused(error, order)
            raise

    async def _reload(self, order: Order) -> Json:
        source = self._compiled.source
        if source is None:
            what = "the proxy was started without a config file"
            raise Refused(409, "NoConfigFile", what, cure="start it with --config FILE")
        async with self._reloading:
            result = "failed"
            if not order.dry_run:
                self.reloading()
            try:
                log = self._compiled.table.access_log.path
                compiled = await asyncio.to_thread(compile_file, source, dict(os.environ), log_in_force=log)
                notes = await self._controller.reloads.reload(compiled.plans, compiled.table, order)
                if self.certificates is not None and not order.dry_run:
                    found = await asyncio.to_thread(self.certificates.take, compiled.settings)
                    self.show_certificates(found, order.actor)
                result = "ok"
            except ConfigError as error:
                count = len(error.problems)
                what = f"{count} problem{'' if count == 1 else 's'} in {source}; nothing was changed"
                raise Refused(400, "ConfigInvalid", what, problems=tuple(error.problems)) from error
            finally:
                if not order.dry_run:
                    self._reloads[result] += 1
                    self.reloaded(result == "ok")
            restart = needs_restart(self._settings, compiled.settings)
            if not order.dry_run:
                in_force = {key: self._compiled.redacted[key] for key in restart if key in self._compiled.redacted}
                self._compiled = replace(compiled, redacted={**compiled.redacted, **in_force})
        return {"valid": True, "needs_restart": restart, "notes": [*compiled.notes, *notes]}

    # --- services: the controller's ------------------------------------------------------------------------------

    def service_name(self, name: str | None) -> str:
        """Return the checked service name; `None` means the only one."""
        return self._controller.services.service_name(name)

    def service(self, name: str) -> Json:
        """Return the service's object of `status`."""
        return self._controller.status.service_status(name)

    def weights(self, name: str) -> Json:
        """Return the weights in percent, and their revision."""
        return self._controller.status.weights(name)

    async def set_weights(self, name: str, new_bp: int, order: Order, *, ttl_s: float | None = None) -> Json:
        """Set the weight of `new`."""
        return await self._controller.weights.set_weights(name, new_bp, order, ttl_s=ttl_s)

    async def rollback(self, name: str, order: Order) -> Json:
        """Send everything to stable in any phase."""
        return await self._controller.weights.rollback(name, order)

    async def start_rollout(self, name: str, plan: str | Mapping[str, Any] | None, order: Order) -> Json:
        """Start a rollout, or look whether one could start."""
        return await self._controller.rollouts.start(name, plan, order)

    async def pause(self, name: str, order: Order) -> Json:
        """Pause a progressing rollout."""
        return await self._controller.rollouts.pause(name, order)

    async def resume(self, name: str, order: Order) -> Json:
        """Let a paused rollout go on."""
        return await self._controller.rollouts.resume(name, order)

    async def promote(self, name: str, order: Order, *, full: bool = False) -> Json:
        """Go to the next stage now, or to the last."""
        return await self._controller.rollouts.promote(name, order, full=full)

    async def finish(self, name: str, order: Order) -> Json:
        """Make the new version the stable one."""
        return await self._controller.rollouts.finish(name, order)

    async def drill(self, name: str, order: Order) -> Json:
        """Shut the gate by made-up failures and restore it."""
        return await self._controller.drills.drill(name, order)

    async def put_new(self, name: str, label: str, endpoints: list[str], order: Order) -> Json:
        """Register the new version."""
        return await self._controller.versions.put_new(name, label, endpoints, order)

    async def delete_new(self, name: str, order: Order) -> Json:
        """Remove the new version."""
        return await self._controller.versions.delete_new(name, order)

    def endpoints(self, name: str) -> Json:
        """Return the endpoints of both versions."""
        return self._controller.status.endpoints(name)

    async def set_endpoint(self, name: str, version: int, url: str, state: str, order: Order) -> Json:
        """Set an endpoint to ready, drain or maintenance."""
        return await self._controller.endpoint_changes.set_endpoint(name, version, url, state, order)

    def explain(self, name: str, cookies: Mapping[str, str], headers: Mapping[str, str], client_ip: str | None) -> Json:
        """Return which version a visitor gets, and why."""
        return self._controller.status.explain(name, cookies, headers, client_ip)

    async def events(self, since: int, limit: int) -> list[Json]:
        """Return stored events with seq > since, oldest first."""
        return await self._controller.status.events(since, limit)

    def follow_events(self, since: int) -> AsyncIterator[Json]:
        """Yield stored and then live events with seq > since."""
        return self._controller.status.follow_events(since)

    async def past(self, name: str, since: float, until: float) -> list[Json]:
        """Return what was measured of a service, as points of a report."""
        return await self._controller.status.past(name, since, until)


def needs_restart(before: Settings, after: Settings) -> list[str]:
    """Return the keys of the config that changed and that only a restart brings into force."""
    before, after = _without_live(before), _without_live(after)
    names = [field.name for field in fields(before) if getattr(before, field.name) != getattr(after, field.name)]
    return list(dict.fromkeys("listen" if name == "entrances" else name for name in names))


def _without_live(settings: Settings) -> Settings:
    """Return the settings without what needs no restart: what token files say, and which files certificates are in."""
    admin = settings.admin
    tokens = tuple(token if token.token_file is None else replace(token, token="") for token in admin.tokens)
    entrances = {
        address: replace(one, certificates=SOME if one.certificates else ())
        for address, one in settings.entrances.items()
    }
    tls = None if admin.tls is None else SOME[0]
    return replace(settings, admin=replace(admin, tokens=tokens, tls=tls), entrances=entrances)
