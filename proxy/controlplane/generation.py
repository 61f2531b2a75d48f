"""One generation: a routing table with the shared memory that belongs to it.

Its control segment is written by the supervisor, its counters segments by one worker each.
"""

from __future__ import annotations

from itertools import accumulate, pairwise
from typing import NamedTuple

from proxy.ipc.layout import (
    CONTROL_OPENED,
    CONTROL_ROLLBACKS,
    CONTROL_SEED,
    CONTROL_WEIGHT,
    ENDPOINT_STATE_MASK,
    ENDPOINT_WORDS,
    EPOCH_SHIFT,
    SERVICE_USER_HDR,
    VERSION_BAD,
    VERSION_ENDED_WITHIN,
    VERSION_TOTAL_HDR,
    WEIGHT_MASK,
    ControlLayout,
    CountersLayout,
    control_layout,
    counters_layout,
)
from proxy.ipc.segment import Segment
from proxy.metrics.snapshot import Columns, SignalKey
from proxy.routing.table import STABLE, RoutingTable, Service

EPOCH_MASK = 0xFFFF_FFFF
# A version's small words begin with the kinds of bad.
VERSION_FROM = VERSION_BAD


class Parts(NamedTuple):
    """Where each part of a service's small words stands when they are put into one row, and how long that is."""

    service: slice
    versions: tuple[slice, slice]
    endpoints: tuple[tuple[slice, ...], tuple[slice, ...]]
    words: int


class Generation:
    """Number, table and segments.

    By service index: `incarnations` numbers the lives of its stable and its new, `columns` says what is counted for it,
    `small` where its small words stand in the regions (first, end): its own, those of its versions, all its endpoints'.
    `parts` is where these stand in a row.
    """

    __slots__ = (
        "columns",
        "control",
        "control_layout",
        "counters",
        "counters_layout",
        "incarnations",
        "number",
        "parts",
        "service_index",
        "small",
        "table",
    )

    def __init__(self, number: int, table: RoutingTable, incarnations: tuple[tuple[int, int], ...]) -> None:
        self.number = number
        self.table = table
        self.incarnations = incarnations
        self.service_index = {service.name: index for index, service in enumerate(table.services)}
        self.columns = tuple(columns_of(service) for service in table.services)
        self.control_layout: ControlLayout = control_layout(table)
        self.counters_layout: CountersLayout = counters_layout(table)
        self.small = tuple(self._small(index) for index in range(len(table.services)))
        self.parts = tuple(self._parts(index) for index in range(len(table.services)))
        self.control = Segment.create(
            f"control-{number}", self.control_layout.words, self.control_layout.hash, generation=number
        )
        self.counters: dict[int, Segment] = {}

    def weight(self, index: int) -> int:
        """Return the weight of `new` in force for the service at `index`, in 1/10,000."""
        return self.control.words[self.control_layout.services[index] + CONTROL_WEIGHT] & WEIGHT_MASK

    def store_weight(self, index: int, weight_bp: int, flags: int) -> None:
        """Store weight and flags in one word; its epoch grows by 1. An opening is counted before it."""
        at = self.control_layout.services[index] + CONTROL_WEIGHT
        words = self.control.words
        if weight_bp and not words[at] & WEIGHT_MASK:
            words[self.control_layout.services[index] + CONTROL_OPENED] += 1
        epoch = ((words[at] >> EPOCH_SHIFT) + 1) & EPOCH_MASK
        words[at] = weight_bp | flags | epoch << EPOCH_SHIFT

    def count_rollback(self, index: int) -> None:
        """Have what lasts on `new` closed; the weight is 0 by now."""
        self.control.words[self.control_layout.services[index] + CONTROL_ROLLBACKS] += 1

    def store_seed(self, index: int, seed: int) -> None:
        """Store the split's seed (64 bits)."""
        self.control.words[self.control_layout.services[index] + CONTROL_SEED] = seed

    def store_endpoint(self, index: int, version: int, endpoint: int, word: int) -> None:
        """Store an endpoint's control word; one that is alone in its version has its full share."""
        places = self.control_layout.endpoints[index][version]
        self.control.words[places[endpoint]] = word if len(places) > 1 else word & ENDPOINT_STATE_MASK

    def _small(self, index: int) -> tuple[tuple[int, int], ...]:
        places, columns = self.counters_layout, self.columns[index]
        # Words of first bytes and signals are read where they are counted, those of thresholds as many as there are.
        to = VERSION_ENDED_WITHIN + len(columns.thresholds_us)
        if columns.ttfb_thresholds_us or columns.signals:
            to = VERSION_TOTAL_HDR
        service = places.services[index]
        endpoints = [at for version in places.endpoints[index] for at in version]  # one follows the other
        return (
            (service, service + SERVICE_USER_HDR),
            *((at + VERSION_FROM, at + to) for at in places.versions[index]),
            *([(endpoints[0], endpoints[-1] + ENDPOINT_WORDS)] if endpoints else []),
        )

    def _parts(self, index: int) -> Parts:
        sizes = [stop - start for start, stop in self.small[index][:3]]
        many = [len(endpoints) for endpoints in self.counters_layout.endpoints[index]]
        ends = [0, *accumulate(sizes + [ENDPOINT_WORDS] * sum(many))]
        service, stable, new, *rest = [slice(start, stop) for start, stop in pairwise(ends)]
        first = many[STABLE]
        return Parts(service, (stable, new), (tuple(rest[:first]), tuple(rest[first:])), ends[-1])

    def new_counters(self, slot: int) -> Segment:
        """Make the region of the worker in `slot`."""
        region = Segment.create(
            f"counters-{self.number}-{slot}",
            self.counters_layout.words,
            self.counters_layout.hash,
            slot=slot,
            generation=self.number,
        )
        self.counters[slot] = region
        return region


def columns_of(service: Service) -> Columns:
    """Return what a table has counted for a service."""
    return Columns(
        service.thresholds_us,
        service.ttfb_thresholds_us,
        tuple([SignalKey(signal.name, signal.header, signal.matches) for signal in service.signals]),
    )
