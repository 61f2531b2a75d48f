"""Ours, h11 and llhttp read the same bytes: every disagreement is listed with its reason, or a bug."""

from __future__ import annotations

import random

import pytest
import yaml

from tests.http1.disagreement import Disagreement, disagreements
from tests.http1.mutation import mutate
from tests.http1.reading import CORPUS, Case, corpus, is_response, read, read_requests, read_response

ALL = [*corpus("accept"), *corpus("reject")]
KINDS = ("stricter", "laxer", "framing")
TABLE = yaml.load((CORPUS / "disagreements.yaml").read_text(), yaml.CSafeLoader)
LISTED = {
    Disagreement(kind, row["side"], oracle, row["says"])
    for kind in KINDS
    for row in TABLE[kind]
    for oracle in row["than"]
}
SMALL = [case for case in ALL if len(case.send) < 1500]


def asked(case: Case) -> bytes | None:
    return case.to if is_response(case) else None


def test_every_row_has_a_source_and_a_reason() -> None:
    assert all("§" in row["ref"] and row["why"] for kind in KINDS for row in TABLE[kind])


@pytest.mark.parametrize("case", ALL, ids=lambda case: case.name)
def test_disagreements_over_the_corpus_are_listed(case: Case) -> None:
    assert set(disagreements(read(case, [case.send]), case.send, asked(case))) <= LISTED


def test_every_row_is_needed() -> None:
    met = set()
    for case in ALL:
        met.update(disagreements(read(case, [case.send]), case.send, asked(case)))
    assert met == LISTED


def disagree_over_mutations(count: int, seed: int) -> None:
    chance = random.Random(seed)
    parts = {side: [case.send for case in SMALL if is_response(case) == side] for side in (False, True)}
    for _ in range(count):
        case = chance.choice(SMALL)
        method = asked(case)
        data = mutate(case.send, chance, parts[method is not None])
        reading = read_requests([data], trusted=case.trusted) if method is None else read_response([data], method)
        unlisted = set(disagreements(reading, data, method)) - LISTED
        assert not unlisted, (case.name, data)


@pytest.mark.slow
def test_disagreements_over_mutations_are_listed() -> None:
    disagree_over_mutations(20_000, seed=1)


@pytest.mark.slow
def test_disagreements_over_many_mutations_are_listed() -> None:
    disagree_over_mutations(150_000, seed=2)
