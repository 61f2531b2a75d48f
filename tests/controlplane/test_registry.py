import pytest

from proxy.controlplane.registry import choose
from proxy.controlplane.store import CONFIG, REGISTERED, STABLE_REGISTERED
from proxy.routing.table import Version
from tests.controlplane.regions import A, B, C, version

TWO, THREE, NONE = version("2", B), version("3", C), Version()


@pytest.mark.parametrize(
    "stored, said",
    [
        ({REGISTERED: THREE}, "web: new is '3', as registered through the API; the config says '2'"),
        (
            {REGISTERED: NONE, STABLE_REGISTERED: TWO},
            (
                "web: there is no new version, since a finished rollout made '2' stable; "
                "the config still says that new is '2': name the next one there"
            ),
        ),
        (
            {REGISTERED: NONE},
            (
                "web: there is no new version, since it was removed through the API; "
                "the config still says that new is '2': name the next one there"
            ),
        ),
        ({REGISTERED: TWO}, ""),
        ({}, ""),
    ],
)
def test_what_wins_over_the_config_is_said_with_how_it_came(stored, said):
    chosen = choose("web", TWO, {("web", key): value for key, value in {CONFIG: TWO, **stored}.items()})
    assert (chosen.new, chosen.note) == (stored.get(REGISTERED, TWO), said)


def test_a_config_that_says_another_version_wins():
    stored = {("web", CONFIG): version("1", A), ("web", REGISTERED): NONE}
    assert choose("web", TWO, stored).new == TWO
