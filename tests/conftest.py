"""What holds for every test: whole-product tests are marked by where they stand."""

from pathlib import Path

import pytest

WHOLE_PRODUCT = {"e2e", "demo", "loadtests"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if item.path.relative_to(here).parts[0] in WHOLE_PRODUCT:
            item.add_marker(pytest.mark.e2e)
