"""What an attempt leaves behind in the counters (DESIGN §6 says what counts, `proxy.ipc.layout` where it stands).

Latency is from dispatch (or the end of the request body) to the endpoint's last byte, minus the time in which the
client held the flow; a timeout is recorded at its value. The index into an HDR histogram is computed in place
(`proxy.metrics.hdr.index` is the same arithmetic with its explanation): a call would cost more than the sum.
Cost of `ended`: 1 µs.
"""

from __future__ import annotations

from time import monotonic_ns
from typing import TYPE_CHECKING

from proxy.ipc import layout

if TYPE_CHECKING:
    from proxy.dataplane.exchange import Exchange

_ENDED = layout.VERSION_ENDED
_BAD = layout.VERSION_BAD
_SLOW = layout.VERSION_SLOW
_TTFB_SLOW = layout.VERSION_TTFB_SLOW
_TIMEOUT = layout.BAD_KINDS.index("timeout")
_HIGHEST = layout.HDR_HIGHEST_US
_OVERFLOW = layout.HDR_OVERFLOW
_CLIENT_LEFT = 499


def ended(exchange: Exchange, now: int, kind: int, *, last: bool = False) -> None:
    """Count an attempt that ended, good (`kind` -1) or bad (index in BAD_KINDS); `last`: the user has the answer."""
    service = exchange.service
    counts = service.plane.counts
    version = exchange.version
    at = version.counters_at
    status = exchange.status
    counts[at + status] += 1
    begin = exchange.started_ns or exchange.arrived_ns
    if exchange.judged and not (version.index and outlived(exchange)):
        endpoint = exchange.endpoint
        assert endpoint is not None
        counts[at + _ENDED] += 1
        counts[endpoint.counters_at] += 1
        if kind >= 0:
            counts[at + _BAD + kind] += 1
            counts[endpoint.counters_at + layout.ENDPOINT_BAD] += 1
        elif status >= 400:
            counts[at + layout.VERSION_CLIENT_ERRORS] += 1
        if not exchange.event_stream:
            waited = (exchange.held_since or now) - begin - exchange.held_ns
            us = waited // 1000
            if us < 256:
                index = max(0, us)
            elif us <= _HIGHEST:
                shift = us.bit_length() - 8
                index = (shift << 7) + (us >> shift)
            else:
                index = _OVERFLOW
            counts[version.total_at + index] += 1
            if exchange.first_slow >= 0:
                # The first byte came with the last one, or too late, or never.
                if exchange.first_byte_ns or kind == _TIMEOUT:
                    counts[version.ttfb_at + index] += 1
                    if service.ttfb_thresholds_ns:
                        _first_within(exchange, waited)
                elif service.ttfb_thresholds_ns:
                    _pass_first(exchange, waited)
            thresholds = service.thresholds_ns
            slow = exchange.slow
            while slow < len(thresholds) and waited > thresholds[slow]:
                counts[at + _SLOW + slow] += 1
                slow += 1
            counts[version.within_at + slow] += 1
    else:
        counts[at + layout.VERSION_OVERRIDES] += 1
    if last:
        us = (now - exchange.arrived_ns) // 1000
        if us < 256:
            index = us
        elif us <= _HIGHEST:
            shift = us.bit_length() - 8
            index = (shift << 7) + (us >> shift)
        else:
            index = _OVERFLOW
        counts[service.user_at + index] += 1
        if exchange.sampled_ns:
            overhead = exchange.sampled_ns + monotonic_ns() - now
            counts[service.plane.layout.process + layout.PROCESS_OVERHEAD_HDR + hdr_index(overhead // 1000)] += 1


def outlived(exchange: Exchange) -> bool:
    """Tell whether the gate was shut and opened again since `new` got the attempt: another trial is judged now."""
    service = exchange.service
    return bool(exchange.version.index) and exchange.opening != service.plane.control.words[service.opened_at]


def hdr_index(us: int) -> int:
    """Return the place of `us` microseconds in a histogram."""
    if us > _HIGHEST:
        return _OVERFLOW
    shift = max(0, us.bit_length() - 8)
    return (shift << 7) + (max(us, 0) >> shift)


def waited(exchange: Exchange, now: int) -> None:
    """Record how long the user waited for an answer that the proxy gave itself."""
    counts = exchange.service.plane.counts
    counts[exchange.service.user_at + hdr_index((now - exchange.arrived_ns) // 1000)] += 1


def first_byte(exchange: Exchange, waited_ns: int) -> None:
    """Count a first byte whose response goes on. Not at its end: a long answer would be slow first and fast later."""
    counts = exchange.service.plane.counts
    counts[exchange.version.ttfb_at + hdr_index(waited_ns // 1000)] += 1
    if exchange.service.ttfb_thresholds_ns:
        _first_within(exchange, waited_ns)
    exchange.first_slow = -1


def signals(exchange: Exchange, found: dict[bytes, bytes]) -> None:
    """Count what the watched headers of a judged response say."""
    counts = exchange.service.plane.counts
    for signal in exchange.service.signals:
        value = found.get(signal.header)
        if value is not None:
            at = exchange.version.counters_at + signal.at
            counts[at] += 1
            if signal.matches(value):
                counts[at + layout.SIGNAL_MATCHED] += 1


def pass_thresholds(exchange: Exchange, waited_ns: int) -> None:
    """Count the latency thresholds that an attempt in flight has passed by now, each once."""
    service = exchange.service
    if service.ttfb_thresholds_ns and exchange.first_slow >= 0:
        _pass_first(exchange, waited_ns)
    thresholds = service.thresholds_ns
    slow = exchange.slow
    at = exchange.version.counters_at + _SLOW
    while slow < len(thresholds) and waited_ns > thresholds[slow]:
        service.plane.counts[at + slow] += 1
        slow += 1
    exchange.slow = slow


def _pass_first(exchange: Exchange, waited_ns: int) -> None:
    """Count the thresholds of the first byte that an attempt without one has passed by now, each once."""
    thresholds = exchange.service.ttfb_thresholds_ns
    slow = exchange.first_slow
    at = exchange.version.counters_at + _TTFB_SLOW
    while slow < len(thresholds) and waited_ns > thresholds[slow]:
        exchange.service.plane.counts[at + slow] += 1
        slow += 1
    exchange.first_slow = slow


def _first_within(exchange: Exchange, waited_ns: int) -> None:
    """Count a first byte that came after `waited_ns` in its class."""
    _pass_first(exchange, waited_ns)
    exchange.service.plane.counts[exchange.version.ttfb_within_at + exchange.first_slow] += 1


def aborted(exchange: Exchange, now: int) -> None:
    """Count an exchange whose client left: charged only with the thresholds that it had passed before."""
    counts = exchange.service.plane.counts
    exchange.status = _CLIENT_LEFT
    counts[exchange.service.counters_at + layout.SERVICE_CLIENT_ABORTS] += 1
    counts[exchange.version.counters_at + _CLIENT_LEFT] += 1
    if exchange.judged and not exchange.event_stream and not outlived(exchange):
        pass_thresholds(exchange, exchange.waited_ns(now))


def uncharged(exchange: Exchange, status: int) -> None:
    """Count a failed attempt that is not the version's fault: its code, and nothing that is judged."""
    exchange.service.plane.counts[exchange.version.counters_at + status] += 1


def switched(exchange: Exchange, now: int) -> None:
    """Count an attempt that became a tunnel: well answered, and left out of the latencies."""
    exchange.event_stream = True
    ended(exchange, now, -1, last=True)
