"""Durations, shares, sizes and weights: what is read, what is refused, and that writing is the inverse of reading."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.config.units import (
    format_duration,
    format_share,
    format_size,
    format_weight,
    parse_duration,
    parse_share,
    parse_size,
    parse_weight,
)


@pytest.mark.parametrize(
    "text,seconds",
    [
        ("250ms", 0.25),
        ("0s", 0.0),
        ("1.5s", 1.5),
        ("30s", 30.0),
        ("5m", 300.0),
        ("2h", 7200.0),
        ("366d", 366 * 86400.0),
    ],
)
def test_a_duration_is_a_number_and_a_unit(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "value,message",
    [
        (30, "needs a unit (ms, s, m, h or d): write 30s"),
        ("30", "needs a unit (ms, s, m, h or d): write 30s"),
        (0.5, "needs a unit (ms, s, m, h or d): write 0.5s"),
        (500, "needs a unit (ms, s, m, h or d): write 500ms or 500s"),
        ("30 sec", "has an unknown unit (ms, s, m, h and d are known): write 30s"),
        ("5min", "has an unknown unit (ms, s, m, h and d are known): write 5m"),
        ("2H", "has an unknown unit (ms, s, m, h and d are known): write 2h"),
        ("3parsec", "has an unknown unit (ms, s, m, h and d are known): write 30s"),
        ("1h30m", "is not a duration: write a number and ms, s, m, h or d, such as 30s"),
        ("-1s", "is not a duration: write a number and ms, s, m, h or d, such as 30s"),
        ("", "is not a duration: write a number and ms, s, m, h or d, such as 30s"),
        (True, "is not a duration: write a number and ms, s, m, h or d, such as 30s"),
        (None, "is not a duration: write a number and ms, s, m, h or d, such as 30s"),
        ("367d", "is longer than a year (366d)"),
        ("٣s", "is not a duration: write a number and ms, s, m, h or d, such as 30s"),
    ],
)
def test_a_wrong_duration_names_its_cure(value, message):
    with pytest.raises(ValueError) as caught:
        parse_duration(value)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "parse,value,message",
    [
        (parse_share, 1, "needs a unit (%): write 1%"),
        (parse_share, "0.01", "needs a unit (%): write 0.01%"),
        (parse_share, "101%", "is above 100%"),
        (parse_share, "1s", "is not a share: write a number and %, such as 1%"),
        (parse_weight, 10, "needs a unit (%): write 10%"),
        (parse_weight, "0.125%", "has more than two decimals: the smallest step of a weight is 0.01%"),
        (parse_weight, "100.01%", "is above 100%"),
        (parse_size, 1024, "needs a unit (KiB, MiB or GiB): write it as 32KiB"),
        (parse_size, "5MB", "has an unknown unit (KiB, MiB and GiB are known): write 5MiB"),
        (parse_size, "5g", "has an unknown unit (KiB, MiB and GiB are known): write 5GiB"),
        (parse_size, "0.0001KiB", "is no whole number of bytes"),
        (parse_size, "1048577GiB", "is larger than 1048576GiB"),
    ],
)
def test_other_wrong_quantities_name_their_cure(parse, value, message):
    with pytest.raises(ValueError) as caught:
        parse(value)
    assert str(caught.value) == message


@given(st.integers(0, 366 * 86400 * 1000))
def test_durations_come_back_from_their_text(milliseconds):
    seconds = parse_duration(f"{milliseconds}ms")
    assert parse_duration(format_duration(seconds)) == seconds


@given(st.integers(0, 100_000_000))
def test_shares_come_back_from_their_text(millionths_of_percent):
    share = parse_share(f"{millionths_of_percent // 1_000_000}.{millionths_of_percent % 1_000_000:06}%")
    assert 0 <= share <= 1
    assert parse_share(format_share(share)) == share


@given(st.integers(0, 10_000))
def test_every_weight_has_a_text(weight):
    assert parse_weight(format_weight(weight)) == weight


@given(st.integers(0, 2**40))
def test_sizes_come_back_from_their_text(size):
    assert parse_size(format_size(size)) == size


@pytest.mark.parametrize(
    "text,parse,write",
    [
        ("250ms", parse_duration, format_duration),
        ("75s", parse_duration, format_duration),
        ("1h", parse_duration, format_duration),
        ("0s", parse_duration, format_duration),
        ("0.05%", parse_share, format_share),
        ("100%", parse_share, format_share),
        ("0.25%", parse_weight, format_weight),
        ("32KiB", parse_size, format_size),
        ("20MiB", parse_size, format_size),
        ("0.5KiB", parse_size, format_size),
    ],
)
def test_texts_are_the_ones_people_write(text, parse, write):
    assert write(parse(text)) == text


@given(st.one_of(st.text(), st.integers(), st.floats(), st.booleans(), st.none(), st.lists(st.integers())))
def test_whatever_comes_is_read_or_refused(value):
    for parse in (parse_duration, parse_share, parse_weight, parse_size):
        with suppress(ValueError):
            assert parse(value) >= 0
