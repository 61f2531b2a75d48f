"""Endpoints that are right one by one, and hardly meant so: they are warned of.

*Loop*: an endpoint that is an address of this proxy, its own listener or its admin API. Only literal addresses and
`localhost` are looked at: what other names mean is known where the proxy runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address
from typing import Any

from proxy.config.addresses import parse_endpoint, parse_listen
from proxy.config.load import Loc
from proxy.config.looking import Finding, good, items, mapping, mappings
from proxy.routing.table import Endpoint

_EVERY = {"0.0.0.0": 4, "::": 6}  # the listen addresses that take all of an IP version


def surprises(data: dict[str, Any]) -> Iterator[Finding]:
    """Yield what is warned of in plain data: endpoints of both versions, and loops."""
    own = list(_own_addresses(data))
    for at, service in mappings(data, "services"):
        loc: Loc = ("services", at)
        stable = {_target(endpoint) for _, endpoint in _endpoints(loc, service, "stable")}
        for version in ("stable", "new"):
            for place, endpoint in _endpoints(loc, service, version):
                if version == "new" and _target(endpoint) in stable:
                    yield place, "is an endpoint of stable, too: new cannot be told from stable there"
                what = next((what for address, what in own if _reaches(endpoint, address)), None)
                if what:
                    yield place, f"is {what}: what is sent there comes back here: give the address of an endpoint"


def _own_addresses(data: dict[str, Any]) -> Iterator[tuple[str, str]]:
    listeners = [one.get("address") for _, one in mappings(data, "listen")] if "listen" in data else ["0.0.0.0:8080"]
    for text in listeners:
        if address := good(parse_listen, text):
            yield address, f"the address {address} of this proxy itself"
    if address := good(parse_listen, mapping(data, "admin").get("listen", "127.0.0.1:9900")):
        yield address, f"the admin API of this proxy ({address})"


def _endpoints(loc: Loc, service: dict[str, Any], version: str) -> Iterator[tuple[Loc, Endpoint]]:
    for index, url in enumerate(items(mapping(service, version), "endpoints")):
        endpoint = good(parse_endpoint, url)
        if endpoint:
            yield (*loc, version, "endpoints", index), endpoint


def _target(endpoint: Endpoint) -> tuple[str, int, str | None]:
    return endpoint.host, endpoint.port, endpoint.unix


def _reaches(endpoint: Endpoint, address: str) -> bool:
    """Return whether an endpoint is a canonical listen address for sure."""
    if endpoint.unix is not None or address.startswith("unix:"):
        return address == f"unix:{endpoint.unix}"
    host, _, port = address.rpartition(":")
    if int(port) != endpoint.port:
        return False
    host = host.strip("[]")
    name = "127.0.0.1" if endpoint.host == "localhost" else endpoint.host
    try:
        there = ip_address(name)
    except ValueError:
        return False
    local = there.is_loopback or there.is_unspecified
    return str(there) == host or (local and there.version == _EVERY.get(host))
