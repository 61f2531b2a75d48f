"""Calls about rollouts: start (or look whether one could), pause, resume, promote, finish, drill.

A plan in a body is taken as it stands there, in the notation of a file; what is wrong with it is said all at once. It
may name the checks and signals of the service, and never defines any, nor hooks: a token for this API must not be a
way to run commands or to call other hosts.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from aiohttp import web

from proxy.admin import bodies
from proxy.admin.route import Call, reply
from proxy.controlplane.operations import Order


async def get_rollout(call: Call) -> web.StreamResponse:
    """GET …/rollout: the service's object; its `stage` is where the rollout is."""
    return reply(call.operations.service(call.service))


async def post_rollout(call: Call) -> web.StreamResponse:
    """POST …/rollout: start by a plan's name, by an inline plan, or by the default one; dry run = pre-flight."""
    name = call.service
    wanted = (await call.typed_body()).read(bodies.RolloutStart)
    plan = wanted.plan if wanted.plan is None or isinstance(wanted.plan, str) else _plain(wanted.plan)
    return reply(await call.operations.start_rollout(name, plan, _order(call, name, wanted.reason)))


async def post_pause(call: Call) -> web.StreamResponse:
    """POST …/rollout/pause."""
    name = call.service
    why = (await call.typed_body()).read(bodies.Why)
    return reply(await call.operations.pause(name, _order(call, name, why.reason)))


async def post_resume(call: Call) -> web.StreamResponse:
    """POST …/rollout/resume."""
    name = call.service
    why = (await call.typed_body()).read(bodies.Why)
    return reply(await call.operations.resume(name, _order(call, name, why.reason)))


async def post_promote(call: Call) -> web.StreamResponse:
    """POST …/rollout/promote."""
    name = call.service
    wanted = (await call.typed_body()).read(bodies.Promotion)
    return reply(await call.operations.promote(name, _order(call, name, wanted.reason), full=wanted.full))


async def post_finish(call: Call) -> web.StreamResponse:
    """POST …/rollout/finish."""
    name = call.service
    why = (await call.typed_body()).read(bodies.Why)
    return reply(await call.operations.finish(name, _order(call, name, why.reason)))


async def post_drill(call: Call) -> web.StreamResponse:
    """POST …/rollout/drill."""
    name = call.service
    why = (await call.typed_body()).read(bodies.Why)
    return reply(await call.operations.drill(name, _order(call, name, why.reason)))


def _order(call: Call, name: str, reason: str) -> Order:
    return call.order(reason, revision=call.operations.weights(name)["revision"])


def _plain(value: Any) -> Any:
    """Return JSON with the numbers that a file would give."""
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_plain(part) for part in value]
    return float(value) if isinstance(value, Decimal) else value
