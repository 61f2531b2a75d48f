"""The laws of the split: monotone, even, and the same for the same key."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from xxhash import xxh3_64_intdigest

from proxy.routing.split import bucket, cookie_value, seed_of, sticky_key
from proxy.routing.table import FULL, Sticky

SEEDS = st.integers(0, 2**64 - 1)
WEIGHTS = st.integers(0, FULL)


@given(st.binary(max_size=80), SEEDS)
def test_buckets_are_within_range_and_lasting(key, seed):
    assert 0 <= bucket(key, seed) < FULL
    assert bucket(key, seed) == bucket(key, seed)


@given(st.binary(max_size=80), SEEDS, WEIGHTS, WEIGHTS)
def test_a_higher_weight_only_adds_keys_to_new(key, seed, one, other):
    low, high = sorted((one, other))
    if bucket(key, seed) < low:
        assert bucket(key, seed) < high


@given(st.binary(max_size=80), SEEDS)
def test_nobody_at_0_and_everybody_at_100_percent(key, seed):
    assert not bucket(key, seed) < 0
    assert bucket(key, seed) < FULL


@given(SEEDS)
@example(0)
@example(2**64 - 1)
def test_the_bucket_is_the_hash_scaled(number):
    """10,000 equal slices of 2^64, but for one in 10^15."""
    scaled = (number * FULL) >> 64
    assert scaled * 2**64 <= number * FULL < (scaled + 1) * 2**64


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["numbers", "uuids"])
def test_a_million_keys(kind):
    """1 → 10 → 50 → 100 %: shares within 0.2 points, nobody ever back; a second salt deals anew."""
    draw = random.Random(7)
    count = 1_000_000
    if kind == "numbers":
        keys = [b"%d" % number for number in range(count)]
    else:
        keys = [draw.randbytes(16).hex().encode() for _ in range(count)]
    seed = seed_of("rollout-7")
    places = Counter(bucket(key, seed) for key in keys)
    before = 0
    for percent in (1, 10, 50, 100):
        there = sum(size for place, size in places.items() if place < percent * 100)
        assert abs(there / count - percent / 100) <= 0.002
        # Who is there is decided by `place < weight` alone: a larger weight has them all and more.
        assert there >= before
        before = there
    assert len(places) == FULL
    assert max(places.values()) < 2 * count / FULL
    other = seed_of("rollout-8")
    both = sum(bucket(key, seed) < 1000 and bucket(key, other) < 1000 for key in keys[:200_000])
    assert abs(both / 200_000 - 0.01) < 0.002


def test_salts_are_seeds():
    assert seed_of("a") == xxh3_64_intdigest(b"a")
    assert seed_of("a") != seed_of("b")


# ---------------------------------------------------------------- cookies

NAMES = st.text("abcXYZ09_-!", min_size=1, max_size=8).map(str.encode)
VALUES = st.text("abcXYZ09_-./+%", max_size=12).map(str.encode)
PAIRS = st.lists(st.tuples(NAMES, VALUES), max_size=6)


@given(PAIRS, NAMES, st.sampled_from([b"; ", b";", b" ; ", b";\t"]))
def test_a_cookies_first_value_is_found(pairs, name, separator):
    field = separator.join(one + b"=" + value for one, value in pairs)
    wanted = next((value for one, value in pairs if one == name), b"")
    assert cookie_value(field, name + b"=") == wanted


@pytest.mark.parametrize(
    "field, value",
    [
        (b"session=a", b"a"),
        (b"xsession=b; session=a", b"a"),
        (b"x=session=b; session=a", b"a"),
        (b"session=", b""),
        (b"session", b""),
        (b"", b""),
        (b"a=b;session=c;d=e", b"c"),
        (b'session="quoted"', b'"quoted"'),
        (b"session=a=b==", b"a=b=="),
        (b"Session=a", b""),
    ],
)
def test_cookies(field, value):
    assert cookie_value(field, b"session=") == value


@given(st.binary(max_size=60), st.binary(min_size=1, max_size=10))
def test_any_bytes_are_taken(field, name):
    assert isinstance(cookie_value(field, name + b"="), bytes)


# ---------------------------------------------------------------- where the key is from

MINTED = b"M" * 22


@pytest.mark.parametrize(
    "sticky, cookie, minted, found, key",
    [
        (Sticky("cookie", "session"), b"session=a", MINTED, None, (MINTED, "minted")),
        (Sticky("cookie", "session"), b"session=a", b"", None, (b"a", "cookie")),
        (Sticky("cookie", "session"), b"other=a", b"", None, (b"", "none")),
        (Sticky("cookie"), b"session=a", b"", None, (b"", "none")),
        (Sticky("header", "X-User"), b"", b"", {b"x-user": b"u"}, (b"u", "header")),
        (Sticky("header", "X-User"), b"", MINTED, {b"x-user": b"u"}, (MINTED, "minted")),
        (Sticky("header", "X-User"), b"", b"", None, (b"", "none")),
        (Sticky("client_ip"), b"", MINTED, None, (b"192.0.2.1", "client_ip")),
        (Sticky("none"), b"session=a", MINTED, None, (b"", "none")),
    ],
)
def test_the_order_of_keys(sticky, cookie, minted, found, key):
    assert sticky_key(sticky, cookie, minted, found, b"192.0.2.1") == key
