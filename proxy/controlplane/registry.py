"""Which version is `new`: what the config says, or what a deploy script has registered.

PUT versions/new *registers* a version: it stands in the store and wins over the config until the config says
something else than it said then. DELETE registers that there is none. What the config said is stored beside it, so
that a restart can tell a changed config from an unchanged one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from proxy.controlplane.store import CONFIG, REGISTERED
from proxy.routing.table import RoutingTable, Version


@dataclass(frozen=True, slots=True)
class Choice:
    """What `new` of a service is, what it was (`None`: never seen), what is to be stored, and what to tell people."""

    new: Version
    was: Version | None
    stored: Mapping[tuple[str, str], Version | None]
    note: str = ""


def choose(service: str, config: Version, stored: Mapping[tuple[str, str], Version]) -> Choice:
    """Return which version is `new` when the config says `config`."""
    said, registered = stored.get((service, CONFIG)), stored.get((service, REGISTERED))
    was = said if registered is None else registered
    if said == config:
        if registered is None:
            return Choice(config, was, {})
        what = named(registered) if registered.endpoints else "none"
        note = f"{service}: new is {what}, as registered through the API; the config says {named(config)}"
        return Choice(registered, was, {}, note)
    fresh: dict[tuple[str, str], Version | None] = {(service, CONFIG): config}
    if registered is None:
        return Choice(config, was, fresh)
    note = f"{service}: the config has changed and says that new is {named(config)}: the registered one is dropped"
    return Choice(config, was, {**fresh, (service, REGISTERED): None}, note)


def with_new(table: RoutingTable, service: str, new: Version) -> RoutingTable:
    """Return the table with another new version of a service."""
    return replace(
        table, services=tuple(replace(one, new=new) if one.name == service else one for one in table.services)
    )


def named(version: Version) -> str:
    """Return how a version is called in a sentence."""
    if not version.endpoints:
        return "none"
    return repr(version.label) if version.label else version.endpoints[0].url
