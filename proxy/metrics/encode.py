"""Histograms for other tools: HdrHistogram's V2 encoding and its percentile text (.hgrm).

The hdrhistogram library writes both, so that whatever reads HdrHistograms reads ours. What took longer than 60 s goes
in at 60 s: the encoding has no place for "more".

Sources: HdrHistogram's V2 compressed encoding (EncodableHistogram, base64 of a zlib stream); the .hgrm text is the
output of its `outputPercentileDistribution`, which the plotter at hdrhistogram.github.io reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO

from hdrh.histogram import HdrHistogram

from proxy.metrics import hdr

_DIGITS = 2
_US_PER_MS = 1000


def v2(counts: Mapping[int, int]) -> str:
    """Return sparse counts as a V2 payload (base64); its values are µs."""
    return str(_library(counts).encode(), "ascii")


def hgrm(counts: Mapping[int, int]) -> str:
    """Return sparse counts as percentile text; its values are milliseconds."""
    text = BytesIO()
    histogram = _library(counts)
    if histogram.get_total_count():
        histogram.output_percentile_distribution(text, _US_PER_MS)
    else:
        # The library's iterator says nothing about an empty histogram, not even its heading.
        text.write(b"%12s %14s %10s %14s\n\n" % (b"Value", b"Percentile", b"TotalCount", b"1/(1-Percentile)"))
    return text.getvalue().decode()


def _library(counts: Mapping[int, int]) -> HdrHistogram:
    histogram = HdrHistogram(1, hdr.HIGHEST_US, _DIGITS)
    for at, count in counts.items():
        if count:
            histogram.record_value(min(hdr.lowest(at), hdr.HIGHEST_US), count)
    return histogram
