"""Fixtures of the end-to-end tests."""

import pytest

from tests.e2e.product import Backends, Product


@pytest.fixture
def backends():
    with Backends() as running:
        yield running


@pytest.fixture
def product(tmp_path, backends):
    """Make products in the test's folder; they are swept up with it, and none may have had an internal error."""
    made = []

    def make(more="", **config):
        made.append(Product(tmp_path, backends, more, **config))
        return made[-1]

    yield make
    for one in made:
        one.sweep_up()
        assert "internal error" not in one.log.read_text()
