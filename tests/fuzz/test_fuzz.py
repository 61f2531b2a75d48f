"""The corpus and its mutations through the proxy's own connections, held against a second reading."""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.inputs import ANSWERS, METHODS, REQUESTS, judge, seeds
from tests.fuzz.judge import judge_answer, judge_requests
from tests.fuzz.model import read_requests
from tests.fuzz.passage import Passage
from tests.http1.mutation import mutate


@pytest.fixture
def passage():
    passage = Passage()
    yield passage
    passage.close()


def inputs(count: int) -> settings:
    # A passage is meant to be used again: that is where poison would show.
    checks = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
    return settings(max_examples=count, suppress_health_check=checks)


CUTS = st.lists(st.integers(0, 2000), max_size=8)


def mutated(chance: random.Random, message: bytes) -> bytes:
    return mutate(message, chance, chance.sample(REQUESTS, 3))


def test_the_whole_corpus(passage: Passage) -> None:
    for data in seeds():
        judge(passage, data)


def run_requests(passage: Passage, chance: random.Random, places: list[int]) -> None:
    data = b"".join(mutated(chance, chance.choice(REQUESTS)) for _ in range(chance.randint(1, 3)))
    judge_requests(passage, data, places, chance.randrange(6))


def run_answers(passage: Passage, chance: random.Random, places: list[int], method: bytes, *, old: bool) -> None:
    data, to = chance.choice(ANSWERS)
    judge_answer(passage, mutated(chance, data), method or to, places, old=old)


@given(chance=st.randoms(use_true_random=False), places=CUTS)
@inputs(100)
def test_requests(passage: Passage, chance: random.Random, places: list[int]) -> None:
    run_requests(passage, chance, places)


@given(chance=st.randoms(use_true_random=False), places=CUTS, method=st.sampled_from(METHODS), old=st.booleans())
@inputs(100)
def test_answers(passage: Passage, chance: random.Random, places: list[int], method: bytes, old: bool) -> None:
    run_answers(passage, chance, places, method, old=old)


@pytest.mark.slow
@given(chance=st.randoms(use_true_random=False), places=CUTS)
@inputs(2000)
def test_many_requests(passage: Passage, chance: random.Random, places: list[int]) -> None:
    run_requests(passage, chance, places)


@pytest.mark.slow
@given(chance=st.randoms(use_true_random=False), places=CUTS, method=st.sampled_from(METHODS), old=st.booleans())
@inputs(2000)
def test_many_answers(passage: Passage, chance: random.Random, places: list[int], method: bytes, old: bool) -> None:
    run_answers(passage, chance, places, method, old=old)


def test_the_model_is_a_second_opinion() -> None:
    """It must be able to say no: a fuzzer whose model agrees with everything finds nothing."""
    good = b"POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nX: y\r\n\r\n"
    reading = read_requests(good * 2)
    assert [(one.method, one.target, one.body, one.trailers) for one in reading.messages] == [
        (b"POST", b"/a", b"hi", [b"X: y"])
    ] * 2
    for bad in (good.replace(b"2\r", b"+2\r"), good.replace(b"Host", b"Host "), good.replace(b"d\r", b"d, x\r")):
        assert read_requests(bad).end == "wrong"
    assert read_requests(good[:-1]).end == "unfinished"
