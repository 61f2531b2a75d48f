"""The sockets that clients connect to: probed, opened, inherited or taken over.

Nouns: an *address* is what the config says ("0.0.0.0:8080", "[::]:8080", "unix:/path"); a *listener* is one
listening socket of it. TCP addresses get one SO_REUSEPORT socket per worker slot, so that the kernel spreads the
connections over the slots; unix sockets and sockets inherited from a service manager are one shared descriptor
(`slot` is `None`) on which every worker accepts. The supervisor keeps every descriptor open: a worker's death
closes none, so no accept queue is lost with it.

Rules:
* SO_REUSEPORT lets two programs of one user share a port in silence, each getting half of the connections.
  So every address is probed first by binding *without* it: that fails as long as anybody listens there. Two that
  start at the same instant find each other afterwards (`check_alone`).
* The exception are sockets of our own orphans (workers that outlived their supervisor, handover.py). Whether
  a taken port is theirs alone is read from the kernel: every socket that listens there (/proc/net/tcp) must be
  open in one of their processes (/proc/PID/fd).
* A unix socket is bound under a name of its own and moved over the path, so that there is no instant in which the
  path leads nowhere; what listened there before keeps its queue. A path on which nobody listens any more is
  replaced, one on which somebody does is refused, and so is a path that is no socket. Everybody may connect to one
  that is for clients, as with nginx: the folder says who comes that far. The admin API's is this user's alone.
* "[::]:PORT" means IPv6 only: an address stands for what it says, and both can be listed.

Sources: socket(7), tcp(7), unix(7), proc(5), sd_listen_fds(3).
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from collections.abc import Collection, Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from proxy.config.addresses import UNIX_PATH_MAX
from proxy.config.compile import Entrance
from proxy.errors import AddressInUse, ConfigError, Problem

BACKLOG = 4096  # capped by net.core.somaxconn
FIRST_INHERITED = 3  # SD_LISTEN_FDS_START
UNIX = "unix:"
# Whoever connects needs the right to write, which the umask of most services leaves to nobody else.
CLIENTS = 0o666
OWN = 0o600


@dataclass(frozen=True, slots=True)
class Listener:
    """A listening socket. `asked` is the address of the config, `address` the bound one; `slot` `None` = shared.

    `tls`: whether it has certificates, which workers know by `asked`; `prefaced`: it takes the PROXY protocol.
    """

    asked: str
    address: str
    slot: int | None
    sock: socket.socket
    tls: bool = False
    prefaced: bool = False

    def describe(self) -> dict[str, object]:
        """Return what a worker needs to know of it beside the descriptor."""
        beside = {**({"tls": self.asked} if self.tls else {}), **({"prefaced": True} if self.prefaced else {})}
        return {"address": self.address, "slot": self.slot, **beside}


def as_asked(listeners: Iterable[Listener], entrances: Mapping[str, Entrance]) -> list[Listener]:
    """Return the listeners with what the config says of their addresses beside."""
    found = []
    for listener in listeners:
        entrance = entrances.get(listener.asked, Entrance())
        found.append(replace(listener, tls=bool(entrance.certificates), prefaced=entrance.proxy_protocol))
    return found


@dataclass(frozen=True, slots=True)
class Orphaned:
    """What is known to belong to live orphans: their pids, and the (device, inode) of their unix sockets' paths."""

    pids: Collection[int] = ()
    paths: Collection[tuple[int, int]] = ()


NO_ORPHANS = Orphaned()


def shown(sock: socket.socket) -> str:
    """Return the address a socket is bound to, as the config would write it."""
    name = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        return UNIX + os.fsdecode(name).replace("\0", "@")  # "@": an abstract name, which no config asks for
    return f"[{name[0]}]:{name[1]}" if sock.family == socket.AF_INET6 else f"{name[0]}:{name[1]}"


def inode(sock: socket.socket) -> int:
    """Return the kernel's number of the socket: the same for every descriptor of it."""
    return os.fstat(sock.fileno()).st_ino


def path_identity(address: str) -> tuple[int, int] | None:
    """Return (device, inode) of a unix address's path, `None` for TCP or when nothing is there."""
    if not address.startswith(UNIX):
        return None
    try:
        found = os.lstat(address.removeprefix(UNIX))
    except OSError:
        return None
    return found.st_dev, found.st_ino


def inherited(environ: MutableMapping[str, str]) -> tuple[list[socket.socket], list[str]]:
    """Return the sockets that a service manager passed to this very process, and their names (sd_listen_fds(3)).

    The variables are removed, so that no child takes the numbers for its own.
    """
    pid, count = environ.pop("LISTEN_PID", ""), environ.pop("LISTEN_FDS", "")
    names = environ.pop("LISTEN_FDNAMES", "").split(":")
    if pid != str(os.getpid()) or not count.isdigit():
        return [], []
    found: list[socket.socket] = []
    for fd in range(FIRST_INHERITED, FIRST_INHERITED + int(count)):
        os.set_inheritable(fd, False)  # noqa: FBT003 - the standard library's own signature
        sock = socket.socket(fileno=fd)
        sock.setblocking(False)  # noqa: FBT003
        found.append(sock)
    return found, [*names, *[""] * len(found)][: len(found)]


def check_asked(passed: Sequence[socket.socket], names: Sequence[str], asked: Collection[str]) -> None:
    """Raise `ConfigError` for an inherited socket that the config does not ask for, or that does not listen.

    The addresses alone say which is which, so that an admin API is never what clients reach because of a name; and who
    connects to a socket that nobody serves would wait for ever.
    """
    problems = []
    for sock, name in zip(passed, names, strict=True):
        what = f"the service manager passes a socket{f' ({name})' if name else ''}"
        if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            problems.append(Problem("listen", f"{what} that does not listen: its unit must say Accept=no"))
        elif shown(sock) not in asked:
            cure = "add the address to listen (or admin.listen), or take it out of the .socket unit"
            problems.append(Problem("listen", f"{what} for {shown(sock)}, which is not in the config: {cure}"))
    if problems:
        raise ConfigError(problems)


def probe(address: str, orphaned: Orphaned = NO_ORPHANS, *, key: str = "listen") -> None:
    """Raise `AddressInUse` if anybody but our own orphans listens at `address`; `key` is its place in the config."""
    if address.startswith(UNIX):
        _probe_unix(address, orphaned, key)
        return
    family, where = _resolve(address, key)
    with _tcp_socket(family) as sock:
        try:
            sock.bind(where)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise _bind_failed(address, error, key) from error
            listening = _listening(family, where)
            if not listening or not listening <= sockets_of(orphaned.pids):
                raise _taken(address, key, _holder(listening)) from error


def check_alone(listeners: Sequence[Listener], orphaned: Orphaned = NO_ORPHANS) -> None:
    """Raise `AddressInUse` if somebody else has begun to listen beside us since the addresses were probed."""
    ours = {inode(listener.sock) for listener in listeners} | sockets_of(orphaned.pids)
    for listener in listeners:
        if listener.slot is not None:
            family = listener.sock.family
            strangers = _listening(family, listener.sock.getsockname()[:2]) - ours
            if strangers:
                raise _taken(listener.address, "listen", _holder(strangers))


def open_listeners(
    asked: Sequence[str],
    slots: int,
    *,
    kept: Iterable[Listener] = (),
    passed: Iterable[socket.socket] = (),
) -> tuple[list[Listener], list[Listener]]:
    """Return the listeners of all addresses, and those of `kept` that have no place among them.

    `kept` were taken over from orphans: they stay on their slot, or fill one that is empty. `passed` were
    inherited. What is missing is opened. A socket that comes twice is used once and its copies are closed.
    """
    listeners: list[Listener] = []
    left: dict[int, Listener] = {}
    for listener in kept:
        if left.setdefault(inode(listener.sock), listener) is not listener:
            listener.sock.close()
    shared = {shown(sock): sock for sock in passed}
    for address in dict.fromkeys(asked):
        mine = [listener for listener in left.values() if address in (listener.asked, listener.address)]
        if address in shared:
            listeners.append(Listener(address, address, None, shared[address]))
        elif address.startswith(UNIX):
            found = next((listener for listener in mine if listener.slot is None), None)
            listeners.append(found or Listener(address, address, None, _open_unix(address, CLIENTS)))
        else:
            listeners.extend(_tcp_listeners(address, slots, [one for one in mine if one.slot is not None]))
    for listener in listeners:
        taken = left.pop(inode(listener.sock), None)
        if taken is not None and taken.sock is not listener.sock:
            taken.sock.close()
    return listeners, list(left.values())


def open_admin(address: str) -> socket.socket:
    """Return the admin API's own listening socket; a unix one can only be used by this user (mode 0600)."""
    if address.startswith(UNIX):
        return _open_unix(address, OWN)
    family, where = _resolve(address, "admin.listen")
    sock = _tcp_socket(family)
    try:
        sock.bind(where)
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise _bind_failed(address, error, "admin.listen") from error
    return sock


def unlink_unix(listener_address: str, identity: tuple[int, int] | None) -> None:
    """Remove a unix socket's path if it is still the one with this identity."""
    if identity is not None and path_identity(listener_address) == identity:
        with contextlib.suppress(OSError):
            Path(listener_address.removeprefix(UNIX)).unlink()


# --- TCP ---------------------------------------------------------------------------------------------------------


def _resolve(address: str, key: str) -> tuple[socket.AddressFamily, tuple[str, int]]:
    host, _, port = address.rpartition(":")
    try:
        found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, ValueError) as error:
        raise _wrong(key, f"{address}: is no address of this machine ({error})") from error
    family, _, _, _, where = found[0]
    return family, (str(where[0]), int(where[1]))


def _tcp_socket(family: socket.AddressFamily) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setblocking(False)  # noqa: FBT003
    # Without it, connections in TIME_WAIT of the run before would keep the address for a minute.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    return sock


def _tcp_listeners(address: str, slots: int, kept: list[Listener]) -> list[Listener]:
    """Return one listener per slot: the kept ones where they fit, new ones on the same port beside them."""
    by_slot = {listener.slot: listener for listener in kept}
    spare = [listener for slot, listener in by_slot.items() if slot is None or slot >= slots]
    family, (host, port) = _resolve(address, "listen")
    if kept:
        port = kept[0].sock.getsockname()[1]
    listeners = []
    for slot in range(slots):
        listener = by_slot.get(slot)
        if listener is not None:
            sock = listener.sock
        elif spare:
            sock = spare.pop().sock
        else:
            sock = _open_tcp(address, family, (host, port))
        port = sock.getsockname()[1]
        listeners.append(Listener(address, shown(sock), slot, sock))
    return listeners


def _open_tcp(address: str, family: socket.AddressFamily, where: tuple[str, int]) -> socket.socket:
    sock = _tcp_socket(family)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(where)
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise _bind_failed(address, error, "listen") from error
    return sock


def _listening(family: socket.AddressFamily, where: tuple[str, int]) -> set[int]:
    """Return the inodes of the sockets that listen at an address that overlaps `where` (proc(5), /proc/net/tcp)."""
    ipv6 = family == socket.AF_INET6
    wanted, anywhere = _as_kernel_writes(family, where[0]), "0" * (32 if ipv6 else 8)
    found = set()
    for line in Path("/proc/net/tcp6" if ipv6 else "/proc/net/tcp").read_text("ascii").splitlines()[1:]:
        fields = line.split()
        if fields[3] != "0A":  # TCP_LISTEN
            continue
        host, _, port = fields[1].partition(":")
        if int(port, 16) == where[1] and (host in (wanted, anywhere) or wanted == anywhere):
            found.add(int(fields[9]))
    return found


def _as_kernel_writes(family: socket.AddressFamily, host: str) -> str:
    """Return an address as /proc/net/tcp shows it: 32-bit words in the machine's order, in hex."""
    packed = socket.inet_pton(family, host.partition("%")[0])
    words = (int.from_bytes(packed[at : at + 4], "little") for at in range(0, len(packed), 4))
    return "".join(f"{word:08X}" for word in words)


def sockets_of(pids: Iterable[int]) -> set[int]:
    """Return the inodes of the sockets that are open in these processes."""
    found = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            for entry in os.scandir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):  # closed since it was listed
                    kind, _, number = str(Path(entry.path).readlink()).partition(":[")
                    if kind == "socket":
                        found.add(int(number.rstrip("]")))
    return found


def _holder(listening: set[int]) -> str:
    """Return the name and pid of a process that holds one of the sockets, "" when we may not see it."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and listening & sockets_of([int(entry.name)]):
            with contextlib.suppress(OSError):
                return f"{(entry / 'comm').read_text().strip()}, pid {entry.name}"
    return ""


# --- unix --------------------------------------------------------------------------------------------------------


def _probe_unix(address: str, orphaned: Orphaned, key: str) -> None:
    path = address.removeprefix(UNIX)
    if len(os.fsencode(path)) > UNIX_PATH_MAX - len(".12345678"):
        raise _wrong(key, f"{address}: the path is too long for a unix socket")
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        if not Path(path).absolute().parent.is_dir():
            raise _wrong(key, f"{address}: there is no such directory") from None
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise _wrong(key, f"{address}: there is something else at this path, and it is not touched")
    if (found.st_dev, found.st_ino) in orphaned.paths:
        return
    with socket.socket(socket.AF_UNIX) as sock:
        sock.setblocking(False)  # noqa: FBT003
        try:
            sock.connect(path)
        except ConnectionRefusedError:
            return  # left behind: nobody listens on it
        except OSError as error:
            if error.errno != errno.EAGAIN:  # a full queue: somebody listens
                raise _bind_failed(address, error, key) from error
    raise _taken(address, key)


def _open_unix(address: str, mode: int) -> socket.socket:
    path = Path(address.removeprefix(UNIX))
    fresh = path.with_name(f"{path.name}.{os.getpid() % 10**8}")
    sock = socket.socket(socket.AF_UNIX)
    sock.setblocking(False)  # noqa: FBT003
    try:
        fresh.unlink(missing_ok=True)
        sock.bind(str(fresh))
        fresh.chmod(mode)  # before it listens: nobody connects in between
        sock.listen(BACKLOG)
        fresh.rename(path)
    except OSError as error:
        sock.close()
        raise _bind_failed(address, error, "listen") from error
    return sock


# --- errors ------------------------------------------------------------------------------------------------------


def _wrong(key: str, message: str) -> ConfigError:
    return ConfigError([Problem(key, message)])


def _taken(address: str, key: str, holder: str = "") -> AddressInUse:
    who = f"another program ({holder})" if holder else "another program"
    return AddressInUse(f"{who} listens there", where=address, cure=f"stop it, or change `{key}`")


def _bind_failed(address: str, error: OSError, key: str) -> AddressInUse | ConfigError:
    if error.errno == errno.EADDRINUSE:
        return _taken(address, key)
    if error.errno == errno.EACCES and not address.startswith(UNIX):
        return _wrong(key, f"{address}: ports below 1024 need CAP_NET_BIND_SERVICE, or a socket from systemd")
    return _wrong(key, f"{address}: cannot listen there ({error.strerror})")
