"""Every case, over sockets, through `tidegate run`."""

from __future__ import annotations

import pytest

from tests.conformance.case import Case, check, run
from tests.conformance.cases import CASES
from tests.conformance.proxies import started
from tests.conformance.wire import Recorder

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(60)]


@pytest.fixture(scope="module")
def recorder():
    recorder = Recorder()
    yield recorder
    recorder.close()


@pytest.fixture(scope="module")
def port(tmp_path_factory, recorder):
    with started("tidegate", tmp_path_factory.mktemp("proxy"), recorder) as port:
        yield port


@pytest.fixture(scope="module")
def trusting_port(tmp_path_factory, recorder):
    with started("tidegate", tmp_path_factory.mktemp("trusting"), recorder, trusted=True) as port:
        yield port


def test_names_are_unique_and_sources_are_named() -> None:
    assert len({case.name for case in CASES}) == len(CASES) >= 600
    assert all("§" in case.ref for case in CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_case(case: Case, port: int, recorder: Recorder, request: pytest.FixtureRequest) -> None:
    place = request.getfixturevalue("trusting_port") if case.trusted else port
    assert check(case, run(case, place, recorder)) == []
