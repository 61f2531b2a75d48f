"""What holds for every test: those that start whole supervisors are marked `e2e` by where they stand."""

from pathlib import Path

import pytest
import trustme

HERE = Path(__file__).parent
WHOLE_PROCESSES = [
    HERE / "e2e",
    HERE / "controlplane" / "test_supervisor.py",
    HERE / "controlplane" / "test_workers.py",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if any(item.path.is_relative_to(place) for place in WHOLE_PROCESSES):
            item.add_marker(pytest.mark.e2e)


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    """Return who signs the certificates of the tests."""
    return trustme.CA()
