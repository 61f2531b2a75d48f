"""What stands where in shared memory.

Three kinds of segments, each an anonymous mapping (memfd) of 64-bit words with one writer:

* **board** (one for a supervisor's life): the controller's beat, and a row of gauges per worker slot.
  The row is written by the worker in that slot (a replaced worker is dead before the next one writes).
* **control** (one per generation, written by the supervisor): per service the weight word and the seed,
  per endpoint its state.
* **counters** (one per worker and generation, written by that worker): everything that is counted.

Rules (DESIGN §3): one writer; aligned words written only through `memoryview.cast("Q")`; counters only grow;
words named in `GAUGES_…` are gauges and never subtracted; no order between words is promised; a header
holds magic, layout hash and slot, and a mismatch refuses to attach. The hash is over all constants here and the shape:
who runs with the files of another release, put in place below a running supervisor, counts nothing in wrong places.

Positions are word indices (not bytes). The layout of a counters segment depends only on the shape of the table
(how many services, how many endpoints each version has), so both sides compute it from the table.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b

from proxy.metrics import hdr
from proxy.routing.table import MAX_SIGNALS, MAX_THRESHOLDS, NEW, STABLE, RoutingTable

WORD = 8
MAGIC = 0x5449_4445_4741_5431  # "TIDEGAT1"

# Header of every segment.
HEADER_WORDS = 8
HEADER_MAGIC, HEADER_HASH, HEADER_SLOT, HEADER_GENERATION, HEADER_WORDS_TOTAL = range(5)

# HDR counts: 1 µs unit, 60 s highest, 2 significant digits; one word more for the overflow ("> 60 s").
HDR_COUNTS = hdr.COUNTS
HDR_OVERFLOW = hdr.OVERFLOW
HDR_WORDS = HDR_COUNTS + 1
HDR_HIGHEST_US = hdr.HIGHEST_US

# Board.
BOARD_BEAT = HEADER_WORDS  # the controller's beat: +1 as the last act of a tick that judged every service
BOARD_DRAINING = HEADER_WORDS + 1  # 1 while the supervisor drains
BOARD_ROWS = HEADER_WORDS + 8
ROW_WORDS = 16
(
    ROW_BEAT,  # +1 at every sweep of the worker (50 ms)
    ROW_PID,
    ROW_CONNECTIONS,  # open client connections
    ROW_LOOP_LAG_US,  # how late the last sweep was
    ROW_RSS,  # bytes
    ROW_GENERATION,  # the generation in force
    ROW_STABLE_ONLY,  # 1 while the watchdog or a lost supervisor sends everything to stable
    ROW_ACCEPTED,  # connections accepted by this worker
    ROW_ACCEPTING,  # ACCEPTING_…: whether it takes new connections
    ROW_TUNNELS,  # open tunnels
) = range(10)
# Not: it starts, or finishes what is open; so its queue is its neighbours'. Only its own: a drain is near, or it has no
# descriptors left for clients, who wait.
ACCEPTING_NOT, ACCEPTING, ACCEPTING_OWN = range(3)

# Control: per service.
CONTROL_SERVICE_WORDS = 4
CONTROL_WEIGHT, CONTROL_SEED, CONTROL_OPENED, CONTROL_ROLLBACKS = range(4)
# CONTROL_OPENED grows by 1 before the weight is stored above 0 where it was 0: an attempt on `new` that was dispatched
# before that belongs to a trial that is over, and is judged no more.
# CONTROL_ROLLBACKS grows by 1 after `new` has lost all its weight: what lasts there is closed (`on_rollback`).
# The weight word: bits 0…15 weight (0…10,000) · 16…31 flags · 32…63 epoch (grows by 1 at every store).
WEIGHT_MASK = 0xFFFF
FLAG_WATCHDOG_OFF = 1 << 16  # phase `completed`: a silent controller changes nothing
EPOCH_SHIFT = 32
# Control: per endpoint, one word. Bits 0…7 state · 8…23 what a ready one lacks of its share of the requests, of 10,000
# (slow start; only where the version has others). So 0 is ready with its full share.
ENDPOINT_READY, ENDPOINT_DRAIN, ENDPOINT_MAINTENANCE, ENDPOINT_DOWN, ENDPOINT_EJECTED = range(5)
ENDPOINT_STATE_MASK = 0xFF
ENDPOINT_LACKS_SHIFT = 8

# Local replies by reason (`tidegate_local_replies_total{code,reason}`): index in the process block.
LOCAL_REPLIES: tuple[tuple[int, str], ...] = (
    (400, "malformed"),
    (404, "no_service"),
    (408, "head_timeout"),
    (408, "body_timeout"),
    (413, "body_too_large"),
    (414, "target_too_long"),
    (417, "expectation"),
    (431, "head_too_large"),
    (501, "connect"),
    (501, "coding"),
    (502, "connect"),
    (502, "reset"),
    (502, "protocol"),
    (503, "no_endpoint"),
    (503, "overload"),
    (504, "timeout"),
    (505, "http_version"),
    (500, "internal"),
    (200, "max_forwards"),
    (405, "max_forwards"),
)
LOCAL_REPLIES_WORDS = 32

# Connections that were ended before there was a request to answer (`tidegate_refused_connections_total{reason}`).
REFUSED_CONNECTIONS = ("untrusted", "preface", "tls_handshake", "tls_messages")

# Counters: the process block.
PROCESS_INTERNAL_ERRORS = 0
PROCESS_LINES_LOST = 1  # of the access log
PROCESS_REFUSED = 2  # + index in REFUSED_CONNECTIONS
PROCESS_LOCAL_REPLIES = 8
PROCESS_OVERHEAD_HDR = PROCESS_LOCAL_REPLIES + LOCAL_REPLIES_WORDS
PROCESS_WORDS = PROCESS_OVERHEAD_HDR + HDR_WORDS

# Counters: the service block (what is not of one version).
SERVICE_CLIENT_ABORTS = 0
SERVICE_FAILOVERS = 1  # + index in FAILOVER_OUTCOMES
FAILOVER_OUTCOMES = ("rescued", "failed", "over_budget")
SERVICE_USER_HDR = 8
SERVICE_WORDS = SERVICE_USER_HDR + HDR_WORDS

# Counters: the version block.
BAD_KINDS = ("status", "connect", "reset", "timeout", "protocol", "diverted")
BY_SPLIT = ("hash", "mint", "random")  # the reasons that are the split's own
ASSIGNMENT_REASONS = (*BY_SPLIT, "override", "failover", "diverted")
RETRY_OUTCOMES = ("ok", "failed")
CODES = 1000  # one word per status code, so that any three-digit code has its place
VERSION_CODES = 0
VERSION_BAD = VERSION_CODES + CODES  # + index in BAD_KINDS; judged
VERSION_ASSIGNED = VERSION_BAD + 8  # + index in ASSIGNMENT_REASONS
VERSION_RETRIES = VERSION_ASSIGNED + 8  # + index in RETRY_OUTCOMES
VERSION_ENDED = VERSION_RETRIES + 4  # judged attempts that ended, good or bad (diverted not included)
VERSION_RESCUED = VERSION_ENDED + 1  # attempts of this version that stable answered instead
VERSION_CLIENT_ERRORS = VERSION_ENDED + 2  # judged attempts that ended with 4xx
VERSION_OVERRIDES = VERSION_ENDED + 3  # requests that ended and are in codes, but not judged: mostly overridden ones
VERSION_GAUGES = VERSION_ENDED + 4
VERSION_IN_FLIGHT = VERSION_GAUGES  # gauge: attempts dispatched and not ended
VERSION_OLDEST_US = VERSION_GAUGES + 1  # gauge: age of the oldest judged attempt in flight
VERSION_LAST_DISPATCH_NS = VERSION_GAUGES + 2  # gauge: CLOCK_MONOTONIC just before the weight word was read
VERSION_TUNNELS = VERSION_GAUGES + 3  # gauge: of those in flight
VERSION_QUEUED = VERSION_GAUGES + 4  # gauge: requests that wait until they may be in flight
VERSION_SLOW = VERSION_GAUGES + 5  # + i: judged attempts that passed threshold i, in flight or at their end
# + k: judged attempts that ended within threshold k but not within k-1; k = len(thresholds): slower than all.
# fast[i] of DESIGN §3.6 is the sum of words 0…i: one store per attempt instead of up to 16.
VERSION_ENDED_WITHIN = VERSION_SLOW + MAX_THRESHOLDS
# The same for first bytes and their thresholds; an attempt is within one as soon as its first byte has come.
VERSION_TTFB_SLOW = VERSION_ENDED_WITHIN + MAX_THRESHOLDS + 1
VERSION_TTFB_WITHIN = VERSION_TTFB_SLOW + MAX_THRESHOLDS
# Two words per signal: judged responses that have its header (seen), and those of them whose value matches.
VERSION_SIGNALS = VERSION_TTFB_WITHIN + MAX_THRESHOLDS + 1
SIGNAL_WORDS = 2
SIGNAL_SEEN, SIGNAL_MATCHED = range(SIGNAL_WORDS)
VERSION_TOTAL_HDR = VERSION_SIGNALS + SIGNAL_WORDS * MAX_SIGNALS
VERSION_TTFB_HDR = VERSION_TOTAL_HDR + HDR_WORDS
VERSION_WORDS = VERSION_TTFB_HDR + HDR_WORDS

# Counters: the endpoint block.
ENDPOINT_ENDED = 0  # judged attempts that ended at this endpoint, good or bad
ENDPOINT_BAD = 1
ENDPOINT_CONNECT_FAILED = 2
ENDPOINT_CONNECTED = 3
ENDPOINT_GAUGES = 4
ENDPOINT_IN_FLIGHT = 4  # gauge
ENDPOINT_POOL_IDLE = 5  # gauge
ENDPOINT_POOL_ACTIVE = 6  # gauge
ENDPOINT_WORDS = 8


@dataclass(frozen=True, slots=True)
class CountersLayout:
    """Word positions of the blocks of a counters segment, by index in the routing table."""

    process: int
    services: tuple[int, ...]
    versions: tuple[tuple[int, int], ...]
    endpoints: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]
    words: int
    hash: int


@dataclass(frozen=True, slots=True)
class ControlLayout:
    """Word positions of a control segment, by index in the routing table."""

    services: tuple[int, ...]
    endpoints: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]
    words: int
    hash: int


_CONSTANTS = sorted((name, value) for name, value in globals().items() if name.isupper())


def shape_hash(kind: str, shape: object) -> int:
    """Return 63 bits that differ when the layout does."""
    return int.from_bytes(blake2b(repr((kind, shape, _CONSTANTS)).encode(), digest_size=8).digest(), "little") >> 1


def _shape(table: RoutingTable) -> tuple[tuple[int, int], ...]:
    return tuple((len(service.stable.endpoints), len(service.new.endpoints)) for service in table.services)


def counters_layout(table: RoutingTable) -> CountersLayout:
    """Return where everything that is counted stands for `table`."""
    position = HEADER_WORDS + PROCESS_WORDS
    services: list[int] = []
    versions: list[tuple[int, int]] = []
    endpoints: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
    for service in table.services:
        services.append(position)
        position += SERVICE_WORDS
        versions.append((position, position + VERSION_WORDS))
        position += 2 * VERSION_WORDS
        blocks: list[tuple[int, ...]] = []
        for version in (STABLE, NEW):
            count = len(service.version(version).endpoints)
            blocks.append(tuple(position + index * ENDPOINT_WORDS for index in range(count)))
            position += count * ENDPOINT_WORDS
        endpoints.append((blocks[STABLE], blocks[NEW]))
    return CountersLayout(
        process=HEADER_WORDS,
        services=tuple(services),
        versions=tuple(versions),
        endpoints=tuple(endpoints),
        words=position,
        hash=shape_hash("counters", _shape(table)),
    )


def control_layout(table: RoutingTable) -> ControlLayout:
    """Return where the control words of `table` stand."""
    services = tuple(HEADER_WORDS + index * CONTROL_SERVICE_WORDS for index in range(len(table.services)))
    position = HEADER_WORDS + CONTROL_SERVICE_WORDS * len(table.services)
    endpoints: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
    for service in table.services:
        blocks: list[tuple[int, ...]] = []
        for version in (STABLE, NEW):
            count = len(service.version(version).endpoints)
            blocks.append(tuple(range(position, position + count)))
            position += count
        endpoints.append((blocks[STABLE], blocks[NEW]))
    return ControlLayout(services, tuple(endpoints), position, shape_hash("control", _shape(table)))


def board_words(slots: int) -> int:
    """Return the size of a board with `slots` worker rows, in words."""
    return BOARD_ROWS + slots * ROW_WORDS


def board_hash(slots: int) -> int:
    """Return the layout hash of a board with `slots` rows."""
    return shape_hash("board", slots)


def row(slot: int) -> int:
    """Return the position of a slot's row on the board."""
    return BOARD_ROWS + slot * ROW_WORDS
