"""What other tools read: decoded by the library it is what we counted."""

from __future__ import annotations

from hdrh.histogram import HdrHistogram
from hypothesis import given
from hypothesis import strategies as st

from proxy.metrics import encode, hdr

sparse = st.dictionaries(
    st.integers(0, hdr.COUNTS - 1).filter(lambda at: hdr.lowest(at) <= hdr.HIGHEST_US), st.integers(1, 2**40)
)


@given(sparse)
def test_v2_holds_every_count(counts: dict[int, int]) -> None:
    decoded = HdrHistogram.decode(encode.v2(counts))
    assert {at: decoded.get_count_at_index(at) for at in range(hdr.COUNTS) if decoded.get_count_at_index(at)} == counts
    assert decoded.lowest_trackable_value == 1
    assert decoded.significant_figures == 2


@given(sparse)
def test_payloads_of_two_instances_add_up(counts: dict[int, int]) -> None:
    both = HdrHistogram(1, hdr.HIGHEST_US, 2)
    both.decode_and_add(encode.v2(counts))
    both.decode_and_add(encode.v2(counts))
    assert both.get_total_count() == 2 * sum(counts.values())


def test_what_is_over_60_s_goes_in_at_60_s() -> None:
    decoded = HdrHistogram.decode(encode.v2({hdr.OVERFLOW: 3}))
    assert decoded.get_count_at_value(hdr.HIGHEST_US) == decoded.get_total_count() == 3


def test_hgrm_is_in_milliseconds() -> None:
    text = encode.hgrm({hdr.index(200_000): 100})
    heading, _, first, *rest = text.splitlines()
    assert heading.split() == ["Value", "Percentile", "TotalCount", "1/(1-Percentile)"]
    assert 199 <= float(first.split()[0]) <= 202
    assert rest[-1].startswith("#[Buckets")


def test_an_empty_histogram_is_no_error() -> None:
    assert HdrHistogram.decode(encode.v2({})).get_total_count() == 0
    assert encode.hgrm({}).split() == ["Value", "Percentile", "TotalCount", "1/(1-Percentile)"]
