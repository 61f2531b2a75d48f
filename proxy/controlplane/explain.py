"""Why a visitor gets the version that they get: the worker's way through the split, told step by step.

The same arithmetic and the same order of keys as `proxy.routing.split`, applied to what an operator says that a
visitor brings. What only a worker knows (an endpoint that is down, a watchdog that has tripped) is not in it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

from proxy.controlplane.operations import Json
from proxy.routing.split import MINTED_LENGTH, MINTED_NAME, bucket, sticky_key
from proxy.routing.table import FULL, VERSIONS, Service

_MINTED = re.compile(rf"[A-Za-z0-9_-]{{{MINTED_LENGTH}}}")


@dataclass(frozen=True, slots=True)
class Visitor:
    """What a visitor brings; `headers` by lower-case name."""

    cookies: Mapping[str, str]
    headers: Mapping[str, str]
    client_ip: str | None = None


def explain(service: Service, visitor: Visitor, *, weight_bp: int, seed: int) -> Json:
    """Return {"service", "key", "key_from", "bucket", "weight", "version", "reason"}.

    `version` is `None` where chance decides: a cookie is minted, or each request is drawn. `weight` is in percent.
    """
    answer: Json = {
        "service": service.name,
        "key": None,
        "key_from": "none",
        "bucket": None,
        "weight": weight_bp / 100,
        "version": "stable",
        "reason": "",
    }
    if not service.new.endpoints:
        return {**answer, "reason": "there is no new version: everything goes to stable"}
    if (chosen := _override(service, visitor)) is not None:
        reason = f"the header {service.override.header} chooses it" if service.override else ""
        return {**answer, "key_from": "override", "version": chosen, "reason": reason}
    return {**answer, **_by_key(service, visitor, weight_bp, seed)}


def _by_key(service: Service, visitor: Visitor, weight_bp: int, seed: int) -> Json:
    """Return what the key that a visitor brings, or the lack of one, decides."""
    minted = visitor.cookies.get(MINTED_NAME.decode(), "")
    key, key_from = sticky_key(
        service.sticky,
        "; ".join(f"{name}={value}" for name, value in visitor.cookies.items()).encode(),
        minted.encode() if _MINTED.fullmatch(minted) else b"",
        {name.lower().encode(): value.encode() for name, value in visitor.headers.items()},
        (visitor.client_ip or "").encode(),
    )
    spoilt = f"; its cookie {MINTED_NAME.decode()} is not one that tidegate minted, so that it counts for nothing"
    reads = service.sticky.by in ("cookie", "header")
    said = spoilt if reads and minted and not _MINTED.fullmatch(minted) else ""
    if not key:
        how = "a cookie is minted and is the key" if _mints(service) else "each request is drawn"
        decided = {0: "stable", FULL: "new"}.get(weight_bp)
        return {
            "version": decided,
            "reason": f"it brings no key: {how}, {weight_bp / 100:g} % go to new{said}",
        }
    at = bucket(key, seed)
    is_new = at < weight_bp
    return {
        "key": key.decode(errors="replace"),
        "key_from": key_from,
        "bucket": at,
        "version": "new" if is_new else "stable",
        "reason": f"bucket {at} {'<' if is_new else '>='} {weight_bp} of {FULL}{said}",
    }


def _mints(service: Service) -> bool:
    return service.sticky.mint and service.sticky.by in ("cookie", "header")


def _override(service: Service, visitor: Visitor) -> str | None:
    override = service.override
    if override is None or visitor.client_ip is None:
        return None
    chosen = visitor.headers.get(override.header.lower())
    if chosen not in VERSIONS:
        return None
    try:
        address = ip_address(visitor.client_ip)
    except ValueError:
        return None
    allowed = any(address in ip_network(network, strict=False) for network in override.allow)
    return chosen if allowed else None
