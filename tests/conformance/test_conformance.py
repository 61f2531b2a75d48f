"""Every case, over sockets, through `tidegate run`."""

from __future__ import annotations

import re

import pytest

from tests.conformance.case import Case, check, run
from tests.conformance.cases import CASES
from tests.conformance.proxies import ROOT, started
from tests.conformance.wire import Recorder

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]


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


def test_the_reference_names_cases_that_exist() -> None:
    page = (ROOT / "docs" / "reference" / "http.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| ") and "shown by" not in line]
    shown = [name for row in rows for name in re.findall(r"`([^`]+)`", row.rsplit(" | ", 1)[1])]
    assert len(shown) > 80
    names = [case.name for case in CASES]
    unknown = [name for name in shown if not any(one.startswith(name) for one in names)]
    assert unknown == ["tests/corpus/http/accept"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_case(case: Case, port: int, recorder: Recorder, request: pytest.FixtureRequest) -> None:
    place = request.getfixturevalue("trusting_port") if case.trusted else port
    assert check(case, run(case, place, recorder)) == []
