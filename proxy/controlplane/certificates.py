"""The certificates that listeners and the admin API show, kept as new as their files.

Nouns: what is *in force* is a pair (proxy/tls.py) per pair of files: what was last read and found right. Workers never
open the files: they get the pairs in force, in one memory file, so that all show the same, and one that starts while
the files are wrong still gets what was right.

Rules:
* The files are looked at every second. What has another date, size or inode is read and checked; a pair that is
  wrong changes nothing, is said once, and is read again every second until it is right. It is said only if it is
  wrong twice in a row: whoever renews a certificate writes two files, one after the other.
* A certificate that is out of date is still shown, for some clients do not look, and said once.
* A reload may name other files, or the same in another order. What is new at an address, is gone from it, or is its
  first now (which serves whoever asks for no other) is told.
* Connections keep what they began with. Which addresses have TLS is settled at the start; with which files, a reload
  of the config may change.
"""

from __future__ import annotations

import contextlib
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proxy.config.compile import CertificateFiles, Settings
from proxy.controlplane.mixed_up import Told
from proxy.errors import ConfigError, Problem
from proxy.ipc.enclosure import enclose
from proxy.tls import Pair, WrongPair, read_pair, server_context, show

Stamp = tuple[tuple[int, int, int], ...]
Places = Mapping[str, tuple[CertificateFiles, ...]]  # who shows what, in order
LOOK_S = 1.0
_ADMIN = "the admin API"


@dataclass(slots=True)
class _InForce:
    """A pair in force. `stamp`: of the files as they were read; `wrong`: what is wrong with them since."""

    pair: Pair
    stamp: Stamp | None
    wrong: str = ""
    said: str = ""
    said_old: bool = False


@dataclass(frozen=True, slots=True)
class Finding:
    """What a look at the files, or a reload, found. `kind` is an event's: Certificates… or CertificateProblem.

    `file`: which one it is about; `names` stand in the certificate, `shown_at` is who shows it, or has until now.
    """

    kind: str
    reason: str
    file: str
    why: str
    names: tuple[str, ...] = ()
    shown_at: tuple[str, ...] = ()


class Certificates:
    """All pairs in force. `look` and `take` read files and are for another thread; one at a time goes on."""

    def __init__(self, settings: Settings) -> None:
        """Read them all; raise `ConfigError` with what cannot be used."""
        self._working = threading.Lock()
        self._entrances = {address: one.certificates for address, one in settings.entrances.items()}
        self._admin = settings.admin.tls
        self._held = self._read_all({})
        self._shown: dict[str, tuple[Pair, ...]] = {}
        self._admin_context = None if self._admin is None else self._context(self._admin)
        self._show()

    @property
    def any(self) -> bool:
        """Whether there is any certificate."""
        return bool(self._held)

    @property
    def shown(self) -> Mapping[str, tuple[Pair, ...]]:
        """What workers are to show, by address; never changed, but replaced by another."""
        return self._shown

    @property
    def admin(self) -> ssl.SSLContext | None:
        """The context of the admin API; it shows what is in force, also later."""
        return self._admin_context

    @contextlib.contextmanager
    def message(self) -> Iterator[tuple[dict[str, Any], list[int]]]:
        """Give what workers are told, and the descriptors that go with it; these are closed afterwards."""
        pairs = {address: [(one.names, one.pem) for one in of] for address, of in self._shown.items()}
        with enclose("certificates", pairs) as file:
            yield {"type": "certificates"}, [file.fd]

    def look(self, now: float | None = None) -> list[Finding]:
        """Read what has changed; return what is new, for the log and the events. `now`: seconds since 1970."""
        with self._working:
            return self._look(time.time() if now is None else now)

    def take(self, settings: Settings) -> list[Finding]:
        """Go over to the files that a reloaded config names, for the addresses that have TLS already.

        Raise `ConfigError` where one has become unusable since the config was checked; then nothing has changed.
        """
        with self._working:
            before, places = (self._entrances, self._admin, self._held), self._places()
            self._entrances = {
                address: _files_of(settings, address) or files if files else ()
                for address, files in self._entrances.items()
            }
            self._admin = (settings.admin.tls or self._admin) if self._admin is not None else None
            try:
                self._held = self._read_all(self._held)
            except ConfigError:
                self._entrances, self._admin, self._held = before
                raise
            self._show()
            return [*self._moved(places, before[2]), *self._look(time.time())]

    def _moved(self, before: Places, held: Mapping[CertificateFiles, _InForce]) -> Iterator[Finding]:
        """Yield what a reload has moved between places, of which `before` were, and what was `held` then."""
        after = self._places()
        for files in self._held:
            if any(files in of and files not in before[place] for place, of in after.items()):
                yield self._found("CertificatesRenewed", "ConfigReloaded", files, files.cert)
        for files, one in held.items():
            gone = tuple(place for place, of in before.items() if files in of and files not in after[place])
            if gone:
                yield Finding("CertificatesRemoved", "ConfigReloaded", str(files.cert), "", one.pair.names, gone)
        for place, of in after.items():
            if of and of[0] != before[place][0] and of[0] in before[place]:
                names = self._held[of[0]].pair.names
                yield Finding("CertificatesRenewed", "FirstOfList", str(of[0].cert), "", names, (place,))

    def _look(self, now: float) -> list[Finding]:
        found = []
        for files, held in self._held.items():
            if held.wrong or _stamp(files) != held.stamp:
                found += self._again(files, held)
            wrong = held.pair.out_of_date(now)
            if wrong and not held.said_old:
                found.append(self._found("CertificateProblem", "CertificateOutOfDate", files, files.cert, wrong))
            held.said_old = bool(wrong)
        return found

    def _again(self, files: CertificateFiles, held: _InForce) -> list[Finding]:
        try:
            fresh = _read(files)
        except WrongPair as error:
            file = getattr(files, error.of)
            why, before = f"{file}: {error}", held.wrong
            held.wrong = why
            if why != before or why == held.said:
                return []
            held.said = why
            return [self._found("CertificateProblem", "CertificateUnusable", files, file, str(error))]
        changed = fresh.pair.pem != held.pair.pem
        held.pair, held.stamp, held.wrong, held.said = fresh.pair, fresh.stamp, "", ""
        if not changed:
            return []
        held.said_old = False
        self._show()
        return [self._found("CertificatesRenewed", "FilesChanged", files, files.cert)]

    def _found(self, kind: str, reason: str, files: CertificateFiles, file: Path, why: str = "") -> Finding:
        shown_at = tuple(place for place, shown in self._places().items() if files in shown)
        return Finding(kind, reason, str(file), why, self._held[files].pair.names, shown_at)

    def _places(self) -> Places:
        return {**self._entrances, **({} if self._admin is None else {_ADMIN: (self._admin,)})}

    def _read_all(self, held: Mapping[CertificateFiles, _InForce]) -> dict[CertificateFiles, _InForce]:
        """Return all that are named, reading those that are not `held`."""
        found: dict[CertificateFiles, _InForce] = {}
        problems = []
        named = [one for files in self._entrances.values() for one in files]
        for files in dict.fromkeys([*named, *([] if self._admin is None else [self._admin])]):
            try:
                found[files] = held.get(files) or _read(files)
            except WrongPair as error:
                problems.append(Problem("tls", f"{getattr(files, error.of)}: {error}"))
        if problems:
            raise ConfigError(problems)
        return found

    def _show(self) -> None:
        """Let everybody who asks from now on have what is in force."""
        self._shown = {
            address: tuple(self._held[one].pair for one in files) for address, files in self._entrances.items() if files
        }
        if self._admin is not None and self._admin_context is not None:
            show(self._admin_context, self._held[self._admin].pair.pem)

    def _context(self, files: CertificateFiles) -> ssl.SSLContext:
        return server_context(self._held[files].pair.pem, Told)


def _files_of(settings: Settings, address: str) -> tuple[CertificateFiles, ...]:
    entrance = settings.entrances.get(address)
    return () if entrance is None else entrance.certificates


def _read(files: CertificateFiles) -> _InForce:
    stamp = _stamp(files)  # before reading: what is written meanwhile has another one
    return _InForce(read_pair(files.cert, files.key), stamp)


def _stamp(files: CertificateFiles) -> Stamp | None:
    try:
        looked = [path.stat() for path in (files.cert, files.key)]
    except OSError:
        return None
    return tuple((one.st_ino, one.st_size, one.st_mtime_ns) for one in looked)
