"""A supervisor in memory: the rules of `Operations` that the admin API relies on, and nothing behind them."""

import asyncio
import itertools
from types import SimpleNamespace

from proxy.errors import ConfigError, Problem, Refused


class FakeOperations:
    def __init__(self, names=("web",)):
        self.journal = []
        self.arrived = asyncio.Event()
        self.weight_bp = dict.fromkeys(names, 0)
        self.revision = dict.fromkeys(names, 1)
        self.phase = dict.fromkeys(names, "idle")
        self.labels = {name: {"stable": "2.2.0", "new": "2.3.0"} for name in names}
        self.urls = dict.fromkeys(names, ("http://127.0.0.1:9002",))
        self.states = {}
        self.warning = ""
        self.warnings = []
        self.orders = []
        self.ttl_s = None
        self.is_ready = (True, "")
        self.reload_error = None
        self.explained = None
        self.answer = {}
        self.histogram_asked = None
        self.paused = None
        self.durable = True
        self.ended = False
        self.plan = None
        self.full = None
        self.go = True
        self.deciding = ["P99AboveLimit"]
        self.drilled = {"drill": "passed", "limit": "P99AboveLimit", "decided_s": 0.75, "reached_s": 0.012}
        self.drilled |= {"latched": True, "restored": True, "why": ""}
        self.stage = None
        self.streams = 0
        self.past_asked = []
        self.past_points = []

    async def past(self, name, since, until):
        self.past_asked.append((name, since, until))
        await asyncio.sleep(0)
        return self.past_points

    def status(self):
        workers = [{"slot": 0, "pid": 4711, "state": "serving", "beat_age_s": 0.02}]
        services = {name: self.service(name) for name in self.weight_bp}
        return {"version": "0.1.0", "uptime_s": 3723.4, "workers": workers, "services": services}

    def service_name(self, name):
        if name is None:
            if len(self.weight_bp) != 1:
                raise Refused(400, "ServiceRequired", "there are several services", cure="name one")
            return next(iter(self.weight_bp))
        if name not in self.weight_bp:
            raise Refused(404, "NoSuchService", f"there is no service {name!r}")
        return name

    def service(self, name):
        window = {"seconds": 10.0, "requests": 1000, "error_rate": 0.002}
        window |= {"p50_ms": 4.2, "p95_ms": 20.0, "p99_ms": 31.5, "p999_ms": None}
        counts = {"requests": 12345, "bad": 7, "in_flight": 3, "rescued": 0, "window": window}
        endpoint = {
            "url": "http://127.0.0.1:9001",
            "state": "ready",
            "why": "",
            "in_flight": 1,
            "requests": 9,
            "bad": 0,
        }
        limit = {"metric": "error_rate", "version": "new", "max": 0.01, "value": 0.002, "unit": "ratio"}
        limit |= {"verdict": "PASS", "proven": False, "samples": 1000, "needed": 0, "judge": "window"}
        return {
            "weights": self.weights(name),
            "phase": self.phase[name],
            "reason": "ErrorRate" if self.phase[name] == "rolled_back" else "",
            "stage": self.stage,
            "versions": {
                version: {**counts, "label": self.labels[name][version], "endpoints": [endpoint]}
                for version in ("stable", "new")
            },
            "limits": [limit | {"action": "rollback"}],
            "last_event": self.journal[-1] if self.journal else None,
        }

    def weights(self, name):
        new = self.weight_bp[name] / 100
        return {"service": name, "stable": 100 - new, "new": new, "revision": self.revision[name]}

    async def set_weights(self, name, new_bp, order, *, ttl_s=None):
        self.orders.append(order)
        self.ttl_s = ttl_s
        lowers = new_bp == 0 or new_bp < self.weight_bp[name]
        if not lowers and order.if_match not in {None, self.revision[name]}:
            raise Refused(412, "StaleRevision", "somebody else changed it", extra={"revision": self.revision[name]})
        if not lowers and self.phase[name] == "progressing" and not order.take_over:
            extra = {"phase": "progressing", "allowed": ["rollback", "pause"]}
            raise Refused(409, "WrongPhase", "a rollout is progressing", cure="take_over=true", extra=extra)
        moved = new_bp - self.weight_bp[name]
        moves = {"to_new": max(moved, 0), "to_stable": max(-moved, 0), "of": 10000}
        if order.dry_run:
            return self.weights(name) | {"new": new_bp / 100, "stable": 100 - new_bp / 100, "moves": moves}
        self._change(name, new_bp, order, "WeightsSet")
        return self.weights(name) | self._remarks() | ({"paused": self.paused} if self.paused else {})

    async def rollback(self, name, order):
        self.orders.append(order)
        self._change(name, 0, order, "RolledBack")
        self.phase[name] = "rolled_back"
        return self.service(name) | self._remarks()

    async def start_rollout(self, name, plan, order):
        self.orders.append(order)
        self.plan = plan
        if order.dry_run:
            found = {"check": "state", "finding": "ok" if self.go else "no-go", "what": "can be written"}
            return {"go": self.go, "plan": "default", "findings": [found]}
        phases = {"idle", "rolled_back"}
        answer = self._order(name, "progressing", 100, order, "RolloutStarted", phases, listed=False)
        return answer | ({"warnings": self.warnings} if self.warnings else {})

    async def pause(self, name, order):
        return self._order(name, "paused", self.weight_bp[name], order, "RolloutPaused", {"progressing"})

    async def resume(self, name, order):
        return self._order(name, "progressing", self.weight_bp[name], order, "RolloutResumed", {"paused"})

    async def promote(self, name, order, *, full=False):
        self.full = full
        return self._order(name, "progressing", 10_000 if full else 1000, order, "StageEntered", {"progressing"})

    async def finish(self, name, order):
        return self._order(name, "idle", 0, order, "RolloutFinished", {"completed"})

    async def drill(self, name, order):
        self.orders.append(order)
        if order.dry_run:
            return {"limit": self.deciding[0], "limits": self.deciding, "expected_s": 1.5, "most_s": 31.5}
        return self.drilled

    def _order(self, name, phase, new_bp, order, kind, phases, *, listed=True):
        if listed:
            self.orders.append(order)
        if self.phase[name] not in phases:
            extra = {"phase": self.phase[name], "allowed": ["weights"]}
            raise Refused(409, "WrongPhase", f"is not possible in phase {self.phase[name]}", extra=extra)
        if order.if_match not in {None, self.revision[name]}:
            raise Refused(412, "RevisionStale", "somebody else changed it")
        self.phase[name] = phase
        self._change(name, new_bp, order, kind)
        return self.service(name) | self._remarks()

    async def put_new(self, name, label, endpoints, order):
        self.orders.append(order)
        self.labels[name]["new"] = label
        self.urls[name] = tuple(endpoints)
        self._change(name, 0, order, "NewVersionRegistered")
        return self.service(name)

    async def delete_new(self, name, order):
        self.orders.append(order)
        self.urls[name] = ()
        self._change(name, 0, order, "NewVersionRemoved")
        return self.service(name)

    def explain(self, name, cookies, headers, client_ip):
        self.explained = (cookies, headers, client_ip)
        found = {"service": name, "key": "ab12", "key_from": "cookie session", "bucket": 4711, "weight": 25.0}
        return found | {"version": "stable", "reason": "hash"} | self.answer

    def _remarks(self):
        return ({} if self.durable else {"durable": False}) | ({"warning": self.warning} if self.warning else {})

    def endpoints(self, name):
        stable, new = ("http://127.0.0.1:9001",), self.urls[name]
        listed = [("stable", url) for url in stable] + [("new", url) for url in new]
        return {
            "service": name,
            "endpoints": [
                {"version": version, "url": url, "state": self.states.get((version, url), "ready"), "in_flight": 1}
                for version, url in listed
            ],
        }

    async def set_endpoint(self, name, version, url, state, order):
        self.orders.append(order)
        which = ("stable", "new")[version]
        if (which, url) not in [(one["version"], one["url"]) for one in self.endpoints(name)["endpoints"]]:
            raise Refused(404, "NoSuchEndpoint", f"{which} has no endpoint {url!r}")
        self.states[which, url] = state
        return self.endpoints(name) | self._remarks()

    async def events(self, since, limit):
        return list(itertools.islice((event for event in self.journal if event["seq"] > since), limit))

    async def follow_events(self, since):
        self.streams += 1
        try:
            while not self.ended:
                self.arrived.clear()
                for event in await self.events(since, 1000):
                    since = event["seq"]
                    yield event
                await self.arrived.wait()
        finally:
            self.streams -= 1

    def histogram(self, name, version, window_s, phase):
        self.histogram_asked = (name, version, window_s, phase)
        return {100: 90, 300: 10}, 59.75

    def exposition(self):
        return SimpleNamespace()

    def ready(self):
        return self.is_ready

    def config(self):
        return {"admin": {"tokens": [{"name": "ops", "token": "***"}]}}

    async def reload(self, order):
        self.orders.append(order)
        if self.reload_error:
            raise ConfigError([Problem("services[0].limitz", "is not known here", "tidegate.yaml", 7, 5)])
        return {"changed": [], "restart": []}

    def _change(self, name, new_bp, order, kind):
        before = self.weights(name)
        self.weight_bp[name] = new_bp
        self.revision[name] += 1
        seq = len(self.journal) + 1
        event = {"seq": seq, "time": 1700000000.5 + seq, "service": name, "type": kind, "actor": order.actor}
        event |= {"reason": order.reason, "before": before, "after": self.weights(name), "evidence": {}}
        self.journal.append(event)
        self.arrived.set()
