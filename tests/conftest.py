"""What holds for every test: those that start whole supervisors are marked `e2e` by where they stand.

Hypothesis draws the same examples in every run, and no clock judges it: a run that was green stays green on a busy
machine. `make check` draws fewer of them (`check`); others are searched with `--hypothesis-profile=search`.
"""

from pathlib import Path

import pytest
import trustme
from hypothesis import HealthCheck, settings

settings.register_profile("search", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.register_profile("same", settings.get_profile("search"), derandomize=True, database=None)
settings.register_profile("check", settings.get_profile("same"), max_examples=30)
settings.load_profile("same")

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
