"""One supervisor per state: the lock beside the state file, and where the other files beside it are.

Nouns: the *lock* is a file held with flock(2) by the supervisor and by nobody else: its descriptor is not
inherited by workers, so that the kernel opens the lock at the very instant the supervisor is gone, whatever it
died of. The file stays behind (unlinking a lock file races with whoever opens it) and holds the holder's pid,
for people. A *place* is what a supervisor keeps beside its state: the lock, the handover socket (handover.py)
and the list of its workers (workers.py). A supervisor whose state is in memory keeps them in a directory that
only this user can enter, under a name made from its addresses: two of them on one address meet there, and the
second is told that the address is taken.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from proxy.config.addresses import UNIX_PATH_MAX
from proxy.errors import AddressInUse, StateError, TidegateError


@dataclass(frozen=True, slots=True)
class Place:
    """Where a supervisor keeps its lock, its list of workers and its handover socket.

    `handover` is `None` when no other supervisor could ever look for it.
    """

    lock: Path
    workers: Path
    handover: Path | None


def place_of(state: Path | None, addresses: Sequence[str], environ: Mapping[str, str]) -> Place:
    """Return the place of the supervisor with this state, or, without one, with these addresses.

    A state in memory behind a port that the kernel chooses (`:0`) cannot be found again: its place is this
    process's own and has no handover.
    """
    if state is not None:
        state = state.absolute()
        handover = state.with_name(state.name + ".handover")
        if len(os.fsencode(handover)) > UNIX_PATH_MAX:
            handover = runtime_directory(environ) / f"{_digest([str(state)])}.handover"
        return Place(state.with_name(state.name + ".lock"), state.with_name(state.name + ".workers"), handover)
    directory = runtime_directory(environ)
    if any(address.endswith(":0") for address in addresses):
        name = f"memory-{os.getpid()}"
        return Place(directory / f"{name}.lock", directory / f"{name}.workers", None)
    name = _digest(sorted(addresses))
    return Place(directory / f"{name}.lock", directory / f"{name}.workers", directory / f"{name}.handover")


def runtime_directory(environ: Mapping[str, str]) -> Path:
    """Return this user's directory for run-time files, made with mode 0700; raise `StateError` if it is not ours."""
    base = environ.get("XDG_RUNTIME_DIR", "")
    own = f"tidegate-{os.getuid()}"
    choices = [Path(base, "tidegate")] if base and Path(base).is_dir() else []
    choices += [Path(tempfile.gettempdir(), own), Path("/tmp", own)]  # noqa: S108 -- looked at below
    directory = next((choice for choice in choices if _has_room(choice)), choices[-1])
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
        found = directory.lstat()
    except OSError as error:
        raise StateError(
            f"cannot be made: {error.strerror}", where=str(directory), cure="set XDG_RUNTIME_DIR or give a state file"
        ) from error
    # In a directory that everybody can write to, somebody else may have made it first.
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise StateError(
            "is not a directory of this user with mode 0700", where=str(directory), cure="remove it, or set its mode"
        )
    return directory


def _has_room(directory: Path) -> bool:
    """Tell whether a socket in this directory has a path that the kernel takes."""
    return len(os.fsencode(directory / f"{_digest([])}.handover")) <= UNIX_PATH_MAX


def _digest(words: Sequence[str]) -> str:
    return blake2b("\n".join(words).encode(), digest_size=10).hexdigest()


class Lock:
    """A held lock; `release` opens it, and so does the end of the process."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self._fd = fd

    def release(self) -> None:
        """Open the lock."""
        os.ftruncate(self._fd, 0)
        os.close(self._fd)


def acquire(path: Path, *, state: Path | None, addresses: Sequence[str] = ()) -> Lock:
    """Take the lock at `path` and write our pid into it.

    Raise `StateError` when another supervisor holds this state or the file cannot be written, and
    `AddressInUse` when there is no state file: then what the two would share is the address.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StateError(
            f"cannot be written: {error.strerror}", where=str(path), cure="give the state a directory of its own"
        ) from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = os.read(fd, 32).decode("ascii", "replace").strip()
        os.close(fd)
        raise _held(holder or "unknown", state, addresses) from error
    os.ftruncate(fd, 0)
    with contextlib.suppress(OSError):  # on a full disk the lock holds all the same, it only does not say who has it
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    return Lock(path, fd)


def _held(pid: str, state: Path | None, addresses: Sequence[str]) -> TidegateError:
    if state is None:
        return AddressInUse(
            f"another tidegate listens there (pid {pid})", where=", ".join(addresses), cure="stop it, or use --listen"
        )
    return StateError(
        f"another tidegate holds this state (pid {pid})", where=str(state), cure="stop it, or use another state file"
    )
