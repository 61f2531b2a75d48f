import resource

import pytest

from proxy.controlplane.platform import allow_open_files, check, check_this_machine, too_few_for
from proxy.errors import UnsupportedPlatform


@pytest.mark.parametrize("release", ["5.10.0", "5.15.0-91-generic", "6.1.0-rc1", "10.0"])
def test_linux_from_5_10_on_is_supported(release):
    check("Linux", release)


@pytest.mark.parametrize(
    "system, release", [("Darwin", "23.1.0"), ("Linux", "5.9.16"), ("Linux", "4.19"), ("Linux", "?")]
)
def test_everything_else_says_so_in_one_line(system, release):
    with pytest.raises(UnsupportedPlatform) as caught:
        check(system, release)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)


def test_the_machine_of_the_tests_is_supported():
    check_this_machine()


def test_too_few_open_files_are_said_in_one_line(monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (64, 64))
    monkeypatch.setattr(resource, "setrlimit", lambda *_: None)
    with pytest.raises(UnsupportedPlatform, match="64 open files"):
        allow_open_files()


@pytest.mark.parametrize("connections, workers, allowed", [(20_000, 2, 20_000), (20_000, 1, -1), (700, 1, 1024)])
def test_enough_open_files_are_nothing_to_tell_of(connections, workers, allowed):
    assert too_few_for(connections, workers, allowed) is None


def test_too_few_open_files_for_the_connections_are_said():
    said = too_few_for(20_000, 2, 1024)
    assert said.startswith("2 workers with 1024 open files each can hold 1536 client connections, and ")
    assert "request_limits.connections is 20000" in said
