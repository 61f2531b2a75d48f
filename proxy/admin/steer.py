"""Calls that move traffic: weights, traffic weights, rollback, registering and removing the new version.

A request that lowers `new` is the way out of an incident, so it is never refused for its form: a stale ETag is the
operations' matter (they ignore it there), and the wrong Content-Type that every plain `curl -d` sends is ignored
here. The same request upwards is refused. Another version, or none, lowers `new` while it has users.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

from aiohttp import web

from proxy.admin import bodies, parse
from proxy.admin.route import JSON_TYPES, Call, reply, wrong_type
from proxy.controlplane.operations import Json
from proxy.errors import Problem, Refused
from proxy.routing.table import VERSIONS


async def get_weights(call: Call) -> web.StreamResponse:
    """GET …/weights."""
    weights = call.operations.weights(call.service)
    return reply(weights, headers=_etag(weights))


async def put_weights(call: Call) -> web.StreamResponse:
    """PUT …/weights."""
    name = call.service
    body = await call.body()
    wanted = _read_or_type(body, bodies.Weights)
    ttl = cast("float | None", wanted.ttl)
    return await _set(call, name, wanted.new, wanted.reason, typed=body.typed, ttl_s=ttl)


async def post_traffic_weights(call: Call) -> web.StreamResponse:
    """POST /api/traffic-weights."""
    name = call.service
    body = await call.body()
    try:
        parts = _parts(body.json(), _labels(call, name))
    except Refused:
        if not body.typed:
            raise wrong_type(JSON_TYPES) from None
        raise
    return await _set(call, name, parse.share_bp(*parts), call.query.get("reason", ""), typed=body.typed)


async def post_rollback(call: Call) -> web.StreamResponse:
    """POST …/rollback."""
    name = call.service
    why = (await call.body()).read(bodies.Why)
    return reply(await call.operations.rollback(name, call.order(why.reason)))


async def put_new(call: Call) -> web.StreamResponse:
    """PUT …/versions/new."""
    name = call.service
    body = await call.body()
    wanted = _read_or_type(body, bodies.NewVersion)
    weights = call.operations.weights(name)
    if not body.typed and not weights["new"]:
        raise wrong_type(JSON_TYPES)
    order = call.order(wanted.reason, revision=weights["revision"])
    return reply(await call.operations.put_new(name, wanted.label, wanted.endpoints, order))


async def delete_new(call: Call) -> web.StreamResponse:
    """DELETE …/versions/new."""
    name = call.service
    why = (await call.body()).read(bodies.Why)
    order = call.order(why.reason, revision=_revision(call, name))
    return reply(await call.operations.delete_new(name, order))


async def get_endpoints(call: Call) -> web.StreamResponse:
    """GET …/endpoints."""
    return reply(call.operations.endpoints(call.service))


async def patch_endpoints(call: Call) -> web.StreamResponse:
    """PATCH …/endpoints."""
    name = call.service
    wanted = (await call.typed_body()).read(bodies.Endpoint)
    version = VERSIONS.index(wanted.version)
    order = call.order(wanted.reason)
    return reply(await call.operations.set_endpoint(name, version, wanted.url, wanted.state, order))


async def _set(
    call: Call, name: str, new_bp: int, reason: str, *, typed: bool, ttl_s: float | None = None
) -> web.StreamResponse:
    now = call.operations.weights(name)
    lowers = new_bp == 0 or new_bp < round(now["new"] * parse.BUCKETS_PER_PERCENT)
    if not typed and not lowers:
        raise wrong_type(JSON_TYPES)
    order = call.order(reason, revision=now["revision"])
    if lowers and order.if_match == parse.UNMATCHED:
        order = replace(order, if_match=None)
    weights = await call.operations.set_weights(name, new_bp, order, ttl_s=ttl_s)
    return reply(weights, headers=None if order.dry_run else _etag(weights))


def _read_or_type(body: parse.Body, kind: type[parse.Model]) -> parse.Model:
    try:
        return body.read(kind)
    except Refused:
        if not body.typed:
            raise wrong_type(JSON_TYPES) from None
        raise


def _parts(plain: Any, labels: dict[str, str]) -> tuple[float, float]:
    if not isinstance(plain, dict):
        parse.refuse([Problem("", "must be a JSON object")])
    known = {"stable": "stable", "new": "new"}
    known |= {label: version for label, version in labels.items() if label not in known}
    found: dict[str, float] = {}
    problems = []
    for key, value in plain.items():
        version = known.get(key)
        if version is None:
            problems.append(Problem(key, parse.unknown(key, known)))
        elif version in found:
            problems.append(Problem(key, f"{version} is given twice"))
        else:
            found[version] = parse.part(value, key)
    problems += [Problem(version, "is missing") for version in ("stable", "new") if version not in found]
    if problems:
        parse.refuse(problems)
    return found["stable"], found["new"]


def _labels(call: Call, name: str) -> dict[str, str]:
    versions = call.operations.service(name)["versions"]
    labels = {version: versions.get(version, {}).get("label", "") for version in ("stable", "new")}
    if labels["stable"] == labels["new"]:
        return {}
    return {label: version for version, label in labels.items() if label}


def _revision(call: Call, name: str) -> int:
    return cast("int", call.operations.weights(name)["revision"])


def _etag(weights: Json) -> dict[str, str]:
    return {"ETag": f'"{weights["revision"]}"'}
