import os
import socket
import subprocess
import sys

import pytest

from proxy.controlplane.listeners import (
    Listener,
    Orphaned,
    check_alone,
    check_asked,
    inherited,
    inode,
    open_admin,
    open_listeners,
    path_identity,
    probe,
    shown,
)
from proxy.errors import AddressInUse, ConfigError

LOCAL = "127.0.0.1:0"


@pytest.fixture
def opened():
    socks: list[socket.socket] = []

    def take(listeners):
        socks.extend(listener.sock for listener in listeners)
        return listeners

    yield take
    for sock in socks:
        sock.close()


def reuseport(address):
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind(address)
    sock.listen()
    return sock


def hold(socks):
    """Start a process that holds copies of `socks` and nothing else."""
    fds = [sock.fileno() for sock in socks]
    return subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE, pass_fds=fds)


def end(process):
    process.kill()
    process.communicate()


def test_every_slot_gets_its_own_socket_on_one_port(opened):
    listeners, unmatched = open_listeners([LOCAL], 3)
    opened(listeners)
    assert unmatched == []
    assert [listener.slot for listener in listeners] == [0, 1, 2]
    assert len({listener.address for listener in listeners}) == 1
    assert len({inode(listener.sock) for listener in listeners}) == 3
    assert {listener.asked for listener in listeners} == {LOCAL}
    with socket.create_connection(listeners[0].sock.getsockname(), timeout=30):
        pass


def test_ipv6_stands_beside_ipv4_on_the_same_port(opened):
    four = opened(open_listeners(["0.0.0.0:0"], 1)[0])
    port = four[0].sock.getsockname()[1]
    probe(f"[::]:{port}")
    six = opened(open_listeners([f"[::]:{port}"], 1)[0])
    assert six[0].address == f"[::]:{port}"


def test_a_taken_port_is_refused_even_when_its_holder_would_share_it(opened):
    with reuseport(("127.0.0.1", 0)) as taken:
        address = shown(taken)
        with pytest.raises(AddressInUse, match=address) as caught:
            probe(address)
        assert caught.value.exit_code == 6
        assert f"pid {os.getpid()})" in str(caught.value)
        with pytest.raises(AddressInUse):
            probe(f"0.0.0.0:{taken.getsockname()[1]}")
    probe(address)


def test_connections_in_time_wait_do_not_take_the_address():
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("127.0.0.1", 0))
        server.listen()
        address = shown(server)
        with socket.create_connection(server.getsockname()) as client:
            accepted, _ = server.accept()
            accepted.close()  # the side that closes first waits
            assert client.recv(1) == b""
    probe(address)


def test_sockets_of_our_orphans_do_not_count_as_taken():
    with reuseport(("127.0.0.1", 0)) as sock:
        address = shown(sock)
        orphan = hold([sock])
    try:
        with pytest.raises(AddressInUse):
            probe(address)
        probe(address, Orphaned([orphan.pid]))
    finally:
        end(orphan)


def test_a_stranger_beside_our_orphans_is_still_refused():
    with reuseport(("127.0.0.1", 0)) as sock:
        address = shown(sock)
        orphan = hold([sock])
    stranger = reuseport(("127.0.0.1", int(address.rpartition(":")[2])))
    try:
        with pytest.raises(AddressInUse):
            probe(address, Orphaned([orphan.pid]))
    finally:
        stranger.close()
        end(orphan)


def test_ipv6_sockets_of_our_orphans_are_recognised():
    with socket.socket(socket.AF_INET6) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(("::1", 0))
        sock.listen()
        address = shown(sock)
        orphan = hold([sock])
    try:
        with pytest.raises(AddressInUse):
            probe(address)
        probe(address, Orphaned([orphan.pid]))
    finally:
        end(orphan)


def test_sockets_taken_over_keep_their_slots_and_new_ones_join_their_port(opened):
    before = opened(open_listeners([LOCAL], 2)[0])
    after, unmatched = open_listeners([LOCAL], 3, kept=before)
    opened(after)
    assert unmatched == []
    assert [listener.sock for listener in after[:2]] == [listener.sock for listener in before]
    assert len({listener.address for listener in after}) == 1


def test_a_surplus_socket_fills_an_empty_slot_and_the_rest_is_handed_back(opened):
    before = opened(open_listeners([LOCAL], 4)[0])
    after, unmatched = open_listeners([LOCAL], 2, kept=before[1:])
    assert [listener.slot for listener in after] == [0, 1]
    assert {listener.sock for listener in after + unmatched} == {listener.sock for listener in before[1:]}
    assert after[1].sock is before[1].sock


def test_a_socket_that_comes_twice_is_used_once(opened):
    before = opened(open_listeners([LOCAL], 1)[0])
    copy = before[0].sock.dup()
    twice = [*before, Listener(LOCAL, before[0].address, 0, copy)]
    after, unmatched = open_listeners([LOCAL], 2, kept=twice)
    opened(after)
    assert copy.fileno() < 0
    assert unmatched == []
    assert len({inode(listener.sock) for listener in after}) == 2


def test_sockets_of_an_address_no_longer_asked_for_are_handed_back(opened):
    before = opened(open_listeners([LOCAL], 2)[0])
    after, unmatched = open_listeners(["127.0.0.2:0"], 1, kept=before)
    opened(after)
    assert unmatched == before


def test_a_unix_listener_is_shared_and_replaces_what_was_left_behind(tmp_path, opened):
    address = f"unix:{tmp_path}/s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(f"{tmp_path}/s")
    probe(address)
    (listener,) = opened(open_listeners([address], 3)[0])
    assert (listener.slot, listener.address) == (None, address)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(f"{tmp_path}/s")
    assert [path.name for path in tmp_path.iterdir()] == ["s"]
    with pytest.raises(AddressInUse, match="unix:"):
        probe(address)
    identity = path_identity(address)
    assert identity is not None
    probe(address, Orphaned(paths=[identity]))


def test_a_path_that_is_no_socket_is_not_touched(tmp_path):
    (tmp_path / "s").write_text("mine")
    with pytest.raises(ConfigError, match="not touched"):
        probe(f"unix:{tmp_path}/s")


def test_a_unix_path_without_directory_or_too_long_is_a_mistake_in_the_config(tmp_path):
    with pytest.raises(ConfigError, match="directory"):
        probe(f"unix:{tmp_path}/no/s")
    with pytest.raises(ConfigError, match="too long"):
        probe(f"unix:{tmp_path}/{'s' * 100}")


def test_an_address_of_another_machine_is_a_mistake_in_the_config():
    with pytest.raises(ConfigError, match=r"192\.0\.2\.1:1234"):
        probe("192.0.2.1:1234")


def test_everybody_may_connect_to_a_unix_socket_for_clients_whatever_the_umask(tmp_path):
    before = os.umask(0o077)
    try:
        (listener,), _ = open_listeners([f"unix:{tmp_path}/s"], 2)
    finally:
        os.umask(before)
    with listener.sock:
        assert (tmp_path / "s").stat().st_mode & 0o777 == 0o666


def test_the_admin_socket_can_be_used_by_nobody_else(tmp_path):
    with open_admin(f"unix:{tmp_path}/admin"):
        assert (tmp_path / "admin").stat().st_mode & 0o777 == 0o600
    with open_admin(LOCAL) as sock, pytest.raises(AddressInUse, match=r"admin\.listen"):
        open_admin(shown(sock))


INHERIT = """
import os, sys
from proxy.controlplane.listeners import inherited, open_listeners, shown
os.dup2(int(sys.argv[1]), 3)
os.environ["LISTEN_PID"] = str(os.getpid())
passed, names = inherited(os.environ)
assert names == ["web"]
assert not any(name.startswith("LISTEN") for name in os.environ)
listeners, _ = open_listeners([shown(passed[0])], 4, passed=passed)
print([listener.describe() for listener in listeners], os.get_inheritable(3))
"""


@pytest.mark.slow
def test_sockets_from_a_service_manager_are_shared():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        fd = os.dup(sock.fileno())  # any number but 3
        done = subprocess.run(
            [sys.executable, "-c", INHERIT, str(fd)],
            env={**os.environ, "LISTEN_FDS": "1", "LISTEN_FDNAMES": "web"},
            pass_fds=[fd],
            capture_output=True,
            text=True,
            check=False,
        )
        os.close(fd)
        assert done.stdout == f"[{{'address': '{shown(sock)}', 'slot': None}}] False\n", done.stderr


def test_sockets_meant_for_another_process_are_left_alone():
    assert inherited({"LISTEN_PID": "1", "LISTEN_FDS": "1"}) == ([], [])


def test_inherited_sockets_that_nobody_asked_for_are_refused_by_name():
    with socket.create_server(("127.0.0.1", 0)) as web, socket.create_server(("127.0.0.1", 0)) as other:
        check_asked([web], ["web"], [shown(web)])
        with pytest.raises(ConfigError) as wrong:
            check_asked([web, other], ["web", "extra"], [shown(web)])
        (problem,) = wrong.value.problems
        assert problem.message.startswith(f"the service manager passes a socket (extra) for {shown(other)}, which")
    with socket.socket() as accepted, pytest.raises(ConfigError, match="Accept=no"):
        check_asked([accepted], [""], [])


def test_somebody_who_began_to_listen_at_the_same_instant_is_found():
    listeners, _ = open_listeners(["127.0.0.1:0"], 2)
    try:
        check_alone(listeners)
        host, port = listeners[0].sock.getsockname()
        with socket.socket() as stranger:
            stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            stranger.bind((host, port))
            stranger.listen()
            with pytest.raises(AddressInUse, match=f"pid {os.getpid()}"):
                check_alone(listeners)
            check_alone(listeners, Orphaned([os.getpid()]))
    finally:
        for listener in listeners:
            listener.sock.close()
