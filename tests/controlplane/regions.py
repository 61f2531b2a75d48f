"""A worker's hand: writes into a region what a worker would, through its own mapping of the descriptor."""

from __future__ import annotations

import os
from typing import Self

from proxy.controlplane.generation import Generation
from proxy.ipc import layout
from proxy.ipc.segment import Segment
from proxy.metrics import hdr
from proxy.routing.table import STABLE, Endpoint, RoutingTable, Service, Signal, Version

A, B, C = (Endpoint(f"http://127.0.0.1:{port}", "127.0.0.1", port) for port in (9001, 9002, 9003))


def version(label: str, *endpoints: Endpoint) -> Version:
    return Version(label, endpoints)


def service(
    name: str = "web",
    stable: Version | None = None,
    new: Version | None = None,
    thresholds: tuple[int, ...] = (200_000,),
    first: tuple[int, ...] = (),
    signals: tuple[Signal, ...] = (),
) -> Service:
    return Service(
        name,
        stable or version("1", A),
        new or version("2", B),
        thresholds_us=thresholds,
        ttfb_thresholds_us=first,
        signals=signals,
    )


def table(*services: Service) -> RoutingTable:
    return RoutingTable(services or (service(),))


class Hand:
    """Writes one region as its worker; the mapping is its own, as in another process."""

    def __init__(self, generation: Generation, region: Segment) -> None:
        self.generation = generation
        self.places = generation.counters_layout
        self.segment = Segment.attach(os.dup(region.fd), self.places.hash)

    def close(self) -> None:
        self.segment.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add(self, at: int, amount: int = 1) -> None:
        self.segment.words[at] += amount

    def set(self, at: int, value: int) -> None:
        self.segment.words[at] = value

    def version_at(self, version: int = STABLE, name: str = "web") -> int:
        return self.places.versions[self.generation.service_index[name]][version]

    def service_at(self, name: str = "web") -> int:
        return self.places.services[self.generation.service_index[name]]

    def endpoint_at(self, version: int = STABLE, index: int = 0, name: str = "web") -> int:
        return self.places.endpoints[self.generation.service_index[name]][version][index]

    def end(
        self,
        version: int = STABLE,
        us: int = 1000,
        *,
        status: int = 200,
        kind: str | None = None,
        name: str = "web",
        times: int = 1,
        endpoint: int = 0,
    ) -> None:
        """One attempt that ended: the words that `proxy.dataplane.record` writes. Its first byte came half way."""
        spec = self.generation.table.services[self.generation.service_index[name]]
        at = self.version_at(version, name)
        self.add(at + layout.VERSION_CODES + status, times)
        self.add(at + layout.VERSION_ASSIGNED, times)
        self.add(at + layout.VERSION_ENDED, times)
        if kind is not None:
            self.add(at + layout.VERSION_BAD + layout.BAD_KINDS.index(kind), times)
        elif 400 <= status < 500:
            self.add(at + layout.VERSION_CLIENT_ERRORS, times)
        for took, thresholds, slow_at, within_at in (
            (us, spec.thresholds_us, layout.VERSION_SLOW, layout.VERSION_ENDED_WITHIN),
            (us // 2, spec.ttfb_thresholds_us, layout.VERSION_TTFB_SLOW, layout.VERSION_TTFB_WITHIN),
        ):
            slow = sum(took > threshold for threshold in thresholds)
            for threshold in range(slow):
                self.add(at + slow_at + threshold, times)
            self.add(at + within_at + slow, times)
        self.add(at + layout.VERSION_TOTAL_HDR + hdr.index(us), times)
        self.add(at + layout.VERSION_TTFB_HDR + hdr.index(us // 2), times)
        block = self.endpoint_at(version, endpoint, name)
        self.add(block + layout.ENDPOINT_ENDED, times)
        self.add(block + layout.ENDPOINT_BAD, times * (kind is not None))
        self.add(self.service_at(name) + layout.SERVICE_USER_HDR + hdr.index(us), times)

    def signal(self, index: int, *, matched: bool, version: int = STABLE, times: int = 1) -> None:
        """A response that has the header of a signal."""
        at = self.version_at(version) + layout.VERSION_SIGNALS + index * layout.SIGNAL_WORDS
        self.add(at + layout.SIGNAL_SEEN, times)
        self.add(at + layout.SIGNAL_MATCHED, times * matched)
