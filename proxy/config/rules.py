"""Rules between values: what no single value can break.

They look at the plain data, not at the model, because the model exists only when every value is right, and all
mistakes are to be told at once. A rule says nothing about values that are wrong by themselves: those are reported
already. Each rule is a generator of `(path, message)`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from proxy.config.addresses import (
    UNIX_PATH_MAX,
    is_local,
    parse_endpoint,
    parse_listen,
    parse_match_host,
    parse_match_path,
)
from proxy.config.load import Document, Loc
from proxy.config.model import METRICS
from proxy.config.units import format_duration, parse_duration, parse_size
from proxy.config.wrong import WrongValue
from proxy.rollout.plan import QUANTILES
from proxy.routing.table import MAX_THRESHOLDS, RequestLimits, Timeouts

T = TypeVar("T")
Finding = tuple[Loc, str]
Services = Sequence[tuple[Loc, dict[str, Any]]]
_BLOCK_S = 0.25
_WATCHDOG_S = 2.0


def check(document: Document, base: Path) -> None:
    """Report every broken rule of a normalised document whose relative paths are taken from `base`."""
    data = document.data if isinstance(document.data, dict) else {}
    services = [(("services", index), service) for index, service in _mappings(data, "services")]
    for loc, message in (*_findings(data, services), *_socket_paths(data, services, base)):
        document.report(loc, message)


def _findings(data: dict[str, Any], services: Services) -> Iterator[Finding]:
    yield from _listeners(data)
    yield from _admin(data)
    yield from _request_limits(data)
    yield from _service_names(services)
    yield from _matches(services)
    for loc, service in services:
        yield from _endpoints(loc, service)
        yield from _labels(loc, service)
        yield from _sticky(loc, service)
        yield from _judge(loc, service)
        yield from _limits(loc, service)


def _listeners(data: dict[str, Any]) -> Iterator[Finding]:
    listeners = _list(data, "listen") if "listen" in data else ["0.0.0.0:8080"]
    addresses: list[tuple[Loc, Any]] = [(("listen", index), address) for index, address in enumerate(listeners)]
    addresses.append((("admin", "listen"), _mapping(data, "admin").get("listen", "127.0.0.1:9900")))
    taken: list[str] = []
    for loc, text in addresses:
        address = _good(parse_listen, text)
        first = next((other for other in taken if address and _overlap(address, other)), None)
        if first:
            yield loc, f"cannot be listened on beside {first}: give one of them another port or path"
        elif address:
            taken.append(address)


def _overlap(address: str, other: str) -> bool:
    """Return whether the kernel would refuse one address beside the other (all of IPv4 is 0.0.0.0, of IPv6 [::])."""
    (host, _, port), (other_host, _, other_port) = address.rpartition(":"), other.rpartition(":")
    if port != other_port or (port == "0" and not address.startswith("unix:")):
        return False
    every = "[::]" if host.startswith("[") else "0.0.0.0"
    return host == other_host or (every in (host, other_host) and host.startswith("[") == other_host.startswith("["))


def _socket_paths(data: dict[str, Any], services: Services, base: Path) -> Iterator[Finding]:
    """Yield the relative socket paths that become too long for the kernel where the file stands."""
    addresses: list[tuple[Loc, Any]] = [(("listen", index), text) for index, text in enumerate(_list(data, "listen"))]
    addresses.append((("admin", "listen"), _mapping(data, "admin").get("listen")))
    for loc, service in services:
        for version in ("stable", "new"):
            urls = _list(_mapping(service, version), "endpoints")
            addresses += [((*loc, version, "endpoints", index), url) for index, url in enumerate(urls)]
    for loc, text in addresses:
        path = text.removeprefix("unix:") if isinstance(text, str) and text.startswith("unix:") else ""
        if path and len(str(base / path).encode()) > UNIX_PATH_MAX:
            yield loc, f"is longer than {UNIX_PATH_MAX} bytes below {base}: give a short absolute path"


def _admin(data: dict[str, Any]) -> Iterator[Finding]:
    admin = _mapping(data, "admin")
    tokens = [(("admin", "tokens", index), token) for index, token in _mappings(admin, "tokens")]
    for loc, token in tokens:
        if "token" in token and "token_file" in token:
            yield (*loc, "token_file"), "stands beside token: keep one of them"
        elif "token" not in token and "token_file" not in token and "name" in token:
            yield loc, "has neither token nor token_file: give one"
    yield from _repeated(
        [((*loc, "name"), token.get("name")) for loc, token in tokens], str, "is a token's name already"
    )
    address = _good(parse_listen, admin.get("listen", "127.0.0.1:9900"))
    held = any(token.get("role") != "read" and (token.get("token") or "token_file" in token) for _, token in tokens)
    if address and not is_local(address) and not held:
        cure = "add {name: ops, role: operator, token: …} to admin.tokens, or listen on 127.0.0.1 or a unix socket"
        empty = " (its token is empty)" if any(token.get("token") == "" for _, token in tokens) else ""
        yield ("admin", "listen"), f"can be reached from other machines without an operator token{empty}: {cure}"


def _request_limits(data: dict[str, Any]) -> Iterator[Finding]:
    limits = _mapping(data, "request_limits")
    head = _good(parse_size, limits["head"]) if "head" in limits else RequestLimits().head
    target = _good(parse_size, limits["target"]) if "target" in limits else RequestLimits().target
    if head is not None and target is not None and target > head:
        key = "target" if "target" in limits else "head"
        yield ("request_limits", key), "the target is a part of the head: its limit cannot be above that of the head"


def _service_names(services: Services) -> Iterator[Finding]:
    names = [((*loc, "name"), service.get("name")) for loc, service in services]
    yield from _repeated(names, str, "is the name of another service already")


def _matches(services: Services) -> Iterator[Finding]:
    seen: dict[tuple[str, str], str] = {}
    for loc, service in services:
        match = service.get("match", {})
        if not isinstance(match, dict):
            continue
        host = _good(parse_match_host, match["host"]) if "host" in match else ""
        path = _good(parse_match_path, match.get("path", "/"))
        if host is None or path is None:
            continue
        if (host, path) in seen:
            where = (*loc, "match") if "match" in service else loc
            what = f"host {host} and path {path}" if host else f"every host and path {path}"
            yield where, f"matches {what} as {seen[host, path]} does: give one of them another host or path"
        else:
            name = service.get("name")
            seen[host, path] = f'service "{name}"' if isinstance(name, str) else f"services[{loc[1]}]"


def _endpoints(loc: Loc, service: dict[str, Any]) -> Iterator[Finding]:
    for version in ("stable", "new"):
        urls = _list(_mapping(service, version), "endpoints")
        places = [((*loc, version, "endpoints", index), url) for index, url in enumerate(urls)]
        yield from _repeated(places, _target, "is an endpoint of this version already")


def _labels(loc: Loc, service: dict[str, Any]) -> Iterator[Finding]:
    for version, other in (("stable", "new"), ("new", "stable")):
        if _mapping(service, version).get("label") == other:
            yield (*loc, version, "label"), f'the label of {version} cannot be "{other}": give its release'


def _sticky(loc: Loc, service: dict[str, Any]) -> Iterator[Finding]:
    sticky = _mapping(_mapping(service, "split"), "sticky")
    by, loc = sticky.get("by", "cookie"), (*loc, "split", "sticky")
    if by == "header" and "name" not in sticky:
        yield loc, "by: header needs the name of the header: add name: x-user"
    if by in ("client_ip", "none") and "name" in sticky:
        yield (*loc, "name"), f"by: {by} has no name: remove it"
    if by == "cookie" and sticky.get("name") == "tidegate":
        yield (*loc, "name"), "tidegate is the minted cookie, which is used anyway: remove the name"


def _judge(loc: Loc, service: dict[str, Any]) -> Iterator[Finding]:
    judge = _mapping(service, "judge")
    block = _good(parse_duration, judge["block"]) if "block" in judge else _BLOCK_S
    watchdog = _good(parse_duration, service["watchdog"]) if "watchdog" in service else _WATCHDOG_S
    if block and watchdog and watchdog < 2 * block:
        key = ("watchdog",) if "watchdog" in service else ("judge", "block")
        blocks = f"two blocks (2 × {format_duration(block)})"
        yield (*loc, *key), f"{format_duration(watchdog)} of silence is less than {blocks}: it would shut between two"
    for index, limit in _mappings(service, "limits"):
        window = _good(parse_duration, limit.get("window"))
        if window and block and window < block:
            yield (*loc, "limits", index, "window"), f"is shorter than the judge's block ({format_duration(block)})"


def _limits(loc: Loc, service: dict[str, Any]) -> Iterator[Finding]:
    timeouts = _mapping(service, "timeouts")
    first_byte = _good(parse_duration, timeouts["first_byte"]) if "first_byte" in timeouts else Timeouts().first_byte_s
    edges: set[float] = set()
    for index, limit in _mappings(service, "limits"):
        at = (*loc, "limits", index)
        metric = limit.get("metric")
        if metric not in METRICS:
            continue
        bound = "min" if metric == "availability" else "max"
        if not {"max", "min", "max_ratio"} & limit.keys():
            yield (
                at,
                f"has no bound: add {bound}: {'200ms' if metric in QUANTILES else '99%' if bound == 'min' else '1%'}",
            )
        if limit.get("version") == "stable" and limit.get("action", "rollback") == "rollback":
            key = (*at, "action") if "action" in limit else at
            yield key, "a limit on stable cannot roll new back: add action: pause or action: alert"
        edge = _good(parse_duration, limit.get("max")) if metric in QUANTILES else None
        if edge is None:
            continue
        if first_byte and edge > first_byte:
            yield (
                (*at, "max"),
                (
                    f"is above timeouts.first_byte ({format_duration(first_byte)}): "
                    "an endpoint that never answers is recorded at that timeout and would count as fast enough"
                ),
            )
        if edge not in edges and len(edges) == MAX_THRESHOLDS:
            yield (
                (*at, "max"),
                f"is the {MAX_THRESHOLDS + 1}th different latency limit of this service: at most {MAX_THRESHOLDS}",
            )
        elif edge:
            edges.add(edge)


def _repeated(items: Sequence[tuple[Loc, Any]], parse: Callable[[Any], Any], what: str) -> Iterator[Finding]:
    """Yield the items that mean the same as one before them."""
    seen: set[object] = set()
    for loc, item in items:
        value = _good(parse, item) if isinstance(item, str) else None
        if value in seen and not str(value).endswith(":0"):
            yield loc, f"{what}: remove one of them"
        if value is not None:
            seen.add(value)


def _target(url: str) -> tuple[str, int, str | None]:
    endpoint = parse_endpoint(url)
    return endpoint.host, endpoint.port, endpoint.unix


def _good(parse: Callable[[Any], T], value: object) -> T | None:
    """Return the parsed value, or `None` if it is wrong by itself."""
    if not isinstance(value, str):
        return None
    try:
        return parse(value)
    except WrongValue:
        return None


def _mapping(data: dict[str, Any], key: str) -> dict[str, Any]:
    value = data.get(key)
    return value if isinstance(value, dict) else {}


def _list(data: dict[str, Any], key: str) -> list[Any]:
    value = data.get(key)
    return value if isinstance(value, list) else []


def _mappings(data: dict[str, Any], key: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for index, item in enumerate(_list(data, key)):
        if isinstance(item, dict):
            yield index, item
