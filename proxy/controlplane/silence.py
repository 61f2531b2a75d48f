"""Silence of the controller: no tick has judged for longer than a service's watchdog, so that workers went to stable.

It is told once when it is found, and how long it was when it is over.
"""

from __future__ import annotations

from proxy.controlplane.operations import Json
from proxy.controlplane.services import Services


class Silence:
    """Knows when every service was judged last."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._commits = services.commits
        self._last_tick: float | None = None
        self._silent: dict[str, float] = {}  # by service: of the silence that lasts, how long it was when it was told

    def forget(self) -> None:
        """Count from the next tick on."""
        self._last_tick = None

    def say(self, now: float) -> None:
        """Tell once that workers had reason to send all to stable: nobody judged for longer than the watchdog."""
        if self._last_tick is None:
            return
        silent_s = now - self._last_tick
        for name, entry in self._services.entries.items():
            if entry.state.weight_bp and silent_s > entry.plan.watchdog_s and name not in self._silent:
                self._silent[name] = silent_s
                self._commits.say(entry, "ControllerSilent", "ControllerSilent", {"silent_s": round(silent_s, 3)})

    def end(self, now: float) -> None:
        """Tell how long it was where it went on after it was told: ticks have failed, one after the other."""
        silent_s = 0.0 if self._last_tick is None else now - self._last_tick
        for name, told_s in self._silent.items():
            if silent_s > told_s and name in self._services.entries:
                numbers: Json = {"silent_s": round(silent_s, 3), "over": True}
                self._commits.say(self._services.entries[name], "ControllerSilent", "ControllerSilent", numbers)
        self._silent.clear()
        self._last_tick = now
