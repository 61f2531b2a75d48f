import resource

import pytest

from proxy.controlplane.platform import allow_open_files, check, check_this_machine, least_files, too_few_for
from proxy.errors import UnsupportedPlatform
from proxy.ipc import files


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
    with pytest.raises(UnsupportedPlatform, match=r"64 open files, and this needs 128 .*ulimit -n"):
        allow_open_files(1, 1)


def test_many_workers_that_listen_on_many_addresses_need_more(monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (128, 128))
    monkeypatch.setattr(resource, "setrlimit", lambda *_: None)
    assert allow_open_files(1, 1) == 128
    with pytest.raises(UnsupportedPlatform, match=rf"needs {least_files(16, 4)} .*fewer workers"):
        allow_open_files(16, 4)


@pytest.mark.parametrize("clients", [1, 60, 100, 144, 145, 1000])
def test_what_clients_need_and_what_they_get_agree(clients):
    allowed = files.for_all(clients)
    assert files.for_clients(allowed) >= clients > files.for_clients(allowed - 1)


@pytest.mark.parametrize("connections, workers, allowed", [(20_000, 2, 20_000), (20_000, 1, -1), (700, 1, 1024)])
def test_enough_open_files_are_nothing_to_tell_of(connections, workers, allowed):
    assert too_few_for(connections, workers, 1, allowed) is None


def test_too_few_open_files_for_the_connections_are_said():
    said = too_few_for(20_000, 2, 1, 1024)
    assert said.startswith("2 workers with 1024 open files each can hold 1456 client connections, and ")
    assert "request_limits.connections is 20000" in said
