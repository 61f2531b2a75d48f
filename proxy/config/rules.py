"""Rules between values: what no single value can break.

They look at the plain data, not at the model, because the model exists only when every value is right, and all
mistakes are to be told at once. A rule says nothing about values that are wrong by themselves: those are reported
already. Each rule is a generator of `(path, message)`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from proxy.config import endpoint_rules, limit_rules, plan_rules
from proxy.config.addresses import (
    UNIX_PATH_MAX,
    is_local,
    parse_endpoint,
    parse_listen,
    parse_match_host,
    parse_match_path,
)
from proxy.config.limit_rules import Around
from proxy.config.limits import NAMED
from proxy.config.load import Document, Loc
from proxy.config.looking import Finding, good, items, mapping, mappings
from proxy.config.units import format_duration, parse_duration, parse_size
from proxy.routing.table import MAX_SIGNALS, RequestLimits, Timeouts

Services = Sequence[tuple[Loc, dict[str, Any]]]
_BLOCK_S = 0.25
_WATCHDOG_S = 2.0
_TOO_MANY_SIGNALS = f"is the {MAX_SIGNALS + 1}th different signal of this service: at most {MAX_SIGNALS}"


def check(document: Document, base: Path, log_in_force: str | None = None) -> None:
    """Report every broken rule of a normalised document whose relative paths are taken from `base`.

    An access log that is in force already is only warned of: workers serve without it, and try it again.
    """
    data = document.data if isinstance(document.data, dict) else {}
    services = [(("services", index), service) for index, service in mappings(data, "services")]
    of_files = (*_socket_paths(data, services, base), *_state(data, base))
    for loc, message in (*_findings(data, services), *of_files):
        document.report(loc, message)
    for loc, message in _access_log(data, base):
        if str(base / mapping(data, "access_log")["path"]) == log_in_force:
            document.warn(loc, f"{message}; until then its lines are lost")
        else:
            document.report(loc, message)
    for loc, message in endpoint_rules.surprises(data):
        document.warn(loc, message)
    for loc, service in services:
        for name, plan in mapping(service, "rollouts").items():
            if isinstance(plan, dict):
                for at, message in plan_rules.surprises((*loc, "rollouts", name), plan):
                    document.warn(at, message)


def check_plans(document: Document) -> None:
    """Report every broken rule of a normalised file of plans: what depends on a service is not known here."""
    data = document.data if isinstance(document.data, dict) else {}
    for name, plan in mapping(data, "plans").items():
        if isinstance(plan, dict):
            check_plan(document, ("plans", name), plan, Around("this plan", None, _BLOCK_S))


def check_plan(document: Document, loc: Loc, plan: dict[str, Any], around: Around) -> None:
    """Report every broken rule of one plan, and warn of what may surprise."""
    for at, message in plan_rules.check(loc, plan, around):
        document.report(at, message)
    for at, message in plan_rules.surprises(loc, plan):
        document.warn(at, message)


def _findings(data: dict[str, Any], services: Services) -> Iterator[Finding]:
    yield from _listeners(data)
    yield from _prefaces(data)
    yield from _admin(data)
    yield from _request_limits(data)
    yield from _service_names(services)
    yield from _matches(services)
    for loc, service in services:
        yield from _endpoints(loc, service)
        yield from _labels(loc, service)
        yield from _sticky(loc, service)
        yield from _watchdog(loc, service)
        yield from _eject(loc, service)
        yield from _definitions(loc, service)
        yield from _limits(loc, service)


def _listeners(data: dict[str, Any]) -> Iterator[Finding]:
    listeners = items(data, "listen") if "listen" in data else [{"address": "0.0.0.0:8080"}]
    addresses: list[tuple[Loc, Any]] = [
        (("listen", index, "address"), listener.get("address"))
        for index, listener in enumerate(listeners)
        if isinstance(listener, dict)
    ]
    addresses.append((("admin", "listen"), mapping(data, "admin").get("listen", "127.0.0.1:9900")))
    taken: list[str] = []
    for loc, text in addresses:
        address = good(parse_listen, text)
        first = next((other for other in taken if address and _overlap(address, other)), None)
        if first:
            yield loc, f"cannot be listened on beside {first}: give one of them another port or path"
        elif address:
            taken.append(address)


def _prefaces(data: dict[str, Any]) -> Iterator[Finding]:
    """Yield the listeners that take the PROXY protocol from nobody."""
    for index, listener in mappings(data, "listen"):
        local = str(listener.get("address", "")).startswith("unix:")
        if listener.get("proxy_protocol") is True and not local and not data.get("trusted_proxies"):
            cure = "name the balancers' addresses in trusted_proxies"
            yield (
                ("listen", index, "proxy_protocol"),
                f"takes connections of trusted proxies only, and there are none: {cure}",
            )


def _overlap(address: str, other: str) -> bool:
    """Return whether the kernel would refuse one address beside the other (all of IPv4 is 0.0.0.0, of IPv6 [::])."""
    (host, _, port), (other_host, _, other_port) = address.rpartition(":"), other.rpartition(":")
    if port != other_port or (port == "0" and not address.startswith("unix:")):
        return False
    every = "[::]" if host.startswith("[") else "0.0.0.0"
    return host == other_host or (every in (host, other_host) and host.startswith("[") == other_host.startswith("["))


def _socket_paths(data: dict[str, Any], services: Services, base: Path) -> Iterator[Finding]:
    """Yield the relative socket paths that become too long for the kernel where the file stands."""
    addresses: list[tuple[Loc, Any]] = [
        (("listen", index, "address"), listener.get("address")) for index, listener in mappings(data, "listen")
    ]
    addresses.append((("admin", "listen"), mapping(data, "admin").get("listen")))
    for loc, service in services:
        for version in ("stable", "new"):
            urls = items(mapping(service, version), "endpoints")
            addresses += [((*loc, version, "endpoints", index), url) for index, url in enumerate(urls)]
    for loc, text in addresses:
        path = text.removeprefix("unix:") if isinstance(text, str) and text.startswith("unix:") else ""
        if path and len(str(base / path).encode()) > UNIX_PATH_MAX:
            yield loc, f"is longer than {UNIX_PATH_MAX} bytes below {base}: give a short absolute path"


def _state(data: dict[str, Any], base: Path) -> Iterator[Finding]:
    text = data.get("state")
    if not isinstance(text, str) or text == "none" or "\0" in text:
        return
    path = base / text
    there = next(parent for parent in path.absolute().parents if parent.exists())
    if path.is_dir():
        yield ("state",), f"is a directory: give the path of a file, such as {Path(text) / 'tidegate.db'}"
    elif not there.is_dir():
        yield ("state",), f"cannot be created: {there} is no directory: give another path"


def _access_log(data: dict[str, Any], base: Path) -> Iterator[Finding]:
    """Yield why the log's file could not be opened. Nothing is created to find that out."""
    text = mapping(data, "access_log").get("path")
    if not isinstance(text, str) or text in {"none", "-", ""} or "\0" in text:
        return
    path, loc = (base / text).absolute(), ("access_log", "path")
    cure = "give it to the user that runs (owner, mode), or another path"
    try:
        there, is_directory, above = path.exists(), path.is_dir(), path.parent.is_dir()
    except OSError as error:
        yield loc, f"cannot be opened ({(error.strerror or 'unknown').lower()}): give another path"
        return
    if is_directory:
        yield loc, f"is a directory: give the path of a file, such as {Path(text) / 'access.log'}"
    elif there and not os.access(path, os.W_OK):
        yield loc, f"cannot be written by this user: {cure}"
    elif not above:
        yield loc, f"cannot be opened, there is no directory {path.parent}: create it, or give another path"
    elif not there and not os.access(path.parent, os.W_OK | os.X_OK):
        yield loc, f"cannot be created, this user may not write in {path.parent}: {cure}"


def _admin(data: dict[str, Any]) -> Iterator[Finding]:
    admin = mapping(data, "admin")
    tokens = [(("admin", "tokens", index), token) for index, token in mappings(admin, "tokens")]
    for loc, token in tokens:
        if "token" in token and "token_file" in token:
            yield (*loc, "token_file"), "stands beside token: keep one of them"
        elif "token" not in token and "token_file" not in token and "name" in token:
            yield loc, "has neither token nor token_file: give one"
    yield from _repeated(
        [((*loc, "name"), token.get("name")) for loc, token in tokens], str, "is a token's name already"
    )
    address = good(parse_listen, admin.get("listen", "127.0.0.1:9900"))
    held = any(token.get("role") != "read" and (token.get("token") or "token_file" in token) for _, token in tokens)
    if address and not is_local(address) and not held:
        cure = "add {name: ops, role: operator, token: …} to admin.tokens, or listen on 127.0.0.1 or a unix socket"
        empty = " (its token is empty)" if any(token.get("token") == "" for _, token in tokens) else ""
        yield ("admin", "listen"), f"can be reached from other machines without an operator token{empty}: {cure}"


def _request_limits(data: dict[str, Any]) -> Iterator[Finding]:
    limits = mapping(data, "request_limits")
    head = good(parse_size, limits["head"]) if "head" in limits else RequestLimits().head
    target = good(parse_size, limits["target"]) if "target" in limits else RequestLimits().target
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
        host = good(parse_match_host, match["host"]) if "host" in match else ""
        path = good(parse_match_path, match.get("path", "/"))
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
        urls = items(mapping(service, version), "endpoints")
        places = [((*loc, version, "endpoints", index), url) for index, url in enumerate(urls)]
        yield from _repeated(places, _target, "is an endpoint of this version already")


def _labels(loc: Loc, service: dict[str, Any]) -> Iterator[Finding]:
    for version, other in (("stable", "new"), ("new", "stable")):
        if mapping(service, version).get("label") == other:
            yield (*loc, version, "label"), f'the label of {version} cannot be "{other}": give its release'


def _sticky(loc: Loc, service: dict[str, Any]) -> Iterator[Finding]:
    sticky = mapping(mapping(service, "split"), "sticky")
    by, loc = sticky.get("by", "cookie"), (*loc, "split", "sticky")
    if by == "header" and "name" not in sticky:
        yield loc, "by: header needs the name of the header: add name: x-user"
    if by in ("client_ip", "none") and "name" in sticky:
        yield (*loc, "name"), f"by: {by} has no name: remove it"
    if by == "cookie" and sticky.get("name") == "tidegate":
        yield (*loc, "name"), "tidegate is the minted cookie, which is used anyway: remove the name"


def _watchdog(loc: Loc, service: dict[str, Any]) -> Iterator[Finding]:
    block = _block(service)
    watchdog = good(parse_duration, service["watchdog"]) if "watchdog" in service else _WATCHDOG_S
    if block and watchdog and watchdog < 2 * block:
        key = ("watchdog",) if "watchdog" in service else ("judge", "block")
        blocks = f"two blocks (2 × {format_duration(block)})"
        yield (*loc, *key), f"{format_duration(watchdog)} of silence is less than {blocks}: it would shut between two"


def _eject(loc: Loc, service: dict[str, Any]) -> Iterator[Finding]:
    eject = mapping(service, "eject")
    base, longest = (
        good(parse_duration, eject[key]) if key in eject else default
        for key, default in (("base", 30.0), ("max", 300.0))
    )
    if base and longest and longest < base:
        key = "max" if "max" in eject else "base"
        yield (*loc, "eject", key), f"max ({format_duration(longest)}) is shorter than base ({format_duration(base)})"


def _block(service: dict[str, Any]) -> float | None:
    judge = mapping(service, "judge")
    return good(parse_duration, judge["block"]) if "block" in judge else _BLOCK_S


def _limits(loc: Loc, service: dict[str, Any]) -> Iterator[Finding]:
    timeouts = mapping(service, "timeouts")
    first_byte = good(parse_duration, timeouts["first_byte"]) if "first_byte" in timeouts else Timeouts().first_byte_s
    around = Around("this service", first_byte, _block(service))
    yield from limit_rules.check(loc, service, "limits", around)
    for name, plan in mapping(service, "rollouts").items():
        if isinstance(plan, dict):
            yield from plan_rules.check((*loc, "rollouts", name), plan, around)


def _definitions(loc: Loc, service: dict[str, Any]) -> Iterator[Finding]:
    """Yield the signals and checks of plans that mean something else in the service or in a plan before.

    And the signals that are too many: workers have room for so many counters.
    """
    yield from plan_rules.definitions(loc, service)
    seen = {name: (kind, meant) for kind in NAMED for name, meant in mapping(service, kind).items()}
    signals = dict.fromkeys(mapping(service, "signals"))
    for name in list(signals)[MAX_SIGNALS:]:
        yield (*loc, "signals", name), _TOO_MANY_SIGNALS
    for plan_name, plan in mapping(service, "rollouts").items():
        for kind in NAMED if isinstance(plan, dict) else ():
            for name, meant in mapping(plan, kind).items():
                at = (*loc, "rollouts", plan_name, kind, name)
                if seen.setdefault(name, (kind, meant)) != (kind, meant):
                    yield at, "means something else in this service already: give it another name"
                elif kind == "signals" and name not in signals:
                    signals[name] = None
                    if len(signals) > MAX_SIGNALS:
                        yield at, _TOO_MANY_SIGNALS


def _repeated(items: Sequence[tuple[Loc, Any]], parse: Callable[[Any], Any], what: str) -> Iterator[Finding]:
    """Yield the items that mean the same as one before them."""
    seen: set[object] = set()
    for loc, item in items:
        value = good(parse, item) if isinstance(item, str) else None
        if value in seen and not str(value).endswith(":0"):
            yield loc, f"{what}: remove one of them"
        if value is not None:
            seen.add(value)


def _target(url: str) -> tuple[str, int, str | None]:
    endpoint = parse_endpoint(url)
    return endpoint.host, endpoint.port, endpoint.unix
