"""The corpus: every message is judged as its entry says, however it is cut into pieces."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.http1.reading import Case, corpus, read

ACCEPT = corpus("accept")
REJECT = corpus("reject")


def by_name(case: Case) -> str:
    return case.name


def test_the_corpus_is_large_and_every_entry_names_its_source() -> None:
    cases = ACCEPT + REJECT
    assert len(cases) >= 300
    assert len({case.name for case in cases}) == len(cases)
    assert all("§" in case.ref for case in cases)


@pytest.mark.parametrize("case", ACCEPT, ids=by_name)
def test_accepted_as_described(case: Case) -> None:
    reading = read(case, [case.send])
    assert reading.refusal is None, reading.refusal
    messages = reading.messages + ([reading.open] if reading.open else [])
    assert (reading.open is not None) == case.open
    assert len(messages) == len(case.heads)
    assert reading.rest == case.rest + case.extra
    for message, expected in zip(messages, case.heads, strict=True):
        said = {**message.head, "body": message.body, "trailers": message.trailers}
        if said.get("found"):
            said["found"] = {name.decode(): value for name, value in said["found"].items()}
        assert {key: said[key] for key in expected} == expected


@pytest.mark.parametrize("case", REJECT, ids=by_name)
def test_rejected_with_its_status(case: Case) -> None:
    reading = read(case, [case.send])
    assert reading.refusal is not None
    assert reading.refusal.status == case.status
    assert (reading.open is not None) == case.in_body
    assert len(reading.messages) == case.after


@pytest.mark.parametrize("case", [case for case in ACCEPT + REJECT if len(case.send) < 2000], ids=by_name)
def test_every_cut_in_two_and_every_byte_alone_gives_the_same(case: Case) -> None:
    whole = read(case, [case.send]).outcome()
    for cut in range(1, len(case.send)):
        assert read(case, [case.send[:cut], case.send[cut:]]).outcome() == whole, cut
    assert read(case, [bytes([byte]) for byte in case.send]).outcome() == whole


@given(data=st.data())
@settings(max_examples=3 * settings().max_examples)
def test_random_cuts_give_the_same(data: st.DataObject) -> None:
    case = data.draw(st.sampled_from(ACCEPT + REJECT))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(case.send)), max_size=12)))
    pieces = [case.send[a:b] for a, b in zip([0, *cuts], [*cuts, len(case.send)], strict=True)]
    assert read(case, pieces).outcome() == read(case, [case.send]).outcome()
