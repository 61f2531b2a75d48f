"""Certificates that a config names: whether they can be used, before anything relies on them.

Their files are read whenever the config is compiled, so that `check` and a reload name what is missing, unreadable or
does not fit. Nothing of a key is ever shown.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from proxy.config.load import Document, Loc
from proxy.config.looking import items, mapping, mappings
from proxy.tls import WrongPair, read_authorities, read_pair

SOON_S = 14 * 86400.0


@dataclass(frozen=True, slots=True)
class Trust:
    """What the files of an `endpoint_tls` hold, as PEM texts."""

    ca: str | None = field(default=None, repr=False)
    pair: str | None = field(default=None, repr=False)


def check(document: Document, base: Path) -> dict[int, Trust]:
    """Report every certificate of a normalised document that cannot be used, and warn of those that run out.

    Return what endpoints are trusted by and shown, by service: it is in force, whatever becomes of the files.
    """
    data = document.data if isinstance(document.data, dict) else {}
    for loc, pair in _pairs(data):
        cert, key = pair.get("cert"), pair.get("key")
        if isinstance(cert, str) and isinstance(key, str) and cert and key:
            _pair(document, loc, cert, key, base)
    return {
        index: _towards_endpoints(document, ("services", index, "endpoint_tls"), mapping(service, "endpoint_tls"), base)
        for index, service in mappings(data, "services")
    }


def _pairs(data: Mapping[str, Any]) -> Iterator[tuple[Loc, dict[str, Any]]]:
    for index, listener in mappings(dict(data), "listen"):
        for number, pair in enumerate(items(listener, "tls")):
            if isinstance(pair, dict):
                yield ("listen", index, "tls", number), pair
    admin = mapping(dict(data), "admin")
    if "tls" in admin:
        yield ("admin", "tls"), mapping(admin, "tls")


def _pair(document: Document, loc: Loc, cert: str, key: str, base: Path) -> str | None:
    try:
        pair = read_pair(base / cert, base / key)
    except WrongPair as error:
        relative = not Path(cert if error.of == "cert" else key).is_absolute()
        hint = f"; relative paths are taken from {base}" if relative and error.what.startswith("cannot be read") else ""
        document.report((*loc, error.of), f"{error}{hint}")
        return None
    now = time.time()
    wrong = pair.out_of_date(now)
    if wrong:
        document.warn((*loc, "cert"), f"{wrong}: clients will refuse it")
    elif pair.not_after - now < SOON_S:
        document.warn((*loc, "cert"), f"expires in {(pair.not_after - now) / 86400:.0f} days: renew it")
    return pair.pem


def _towards_endpoints(document: Document, loc: Loc, tls: Mapping[str, Any], base: Path) -> Trust:
    authorities = pair = None
    ca, cert, key = (tls.get(name) for name in ("ca", "cert", "key"))
    if (cert is None) != (key is None):
        missing = "key" if key is None else "cert"
        document.report(loc, f"has no {missing} beside its {'cert' if key is None else 'key'}: give both or none")
    elif isinstance(cert, str) and isinstance(key, str):
        pair = _pair(document, loc, cert, key, base)
    if isinstance(ca, str):
        try:
            authorities = read_authorities(base / ca)
        except ssl.SSLError:
            document.report((*loc, "ca"), "holds no certificate that can be read: give a PEM file")
        except OSError as error:
            why = (error.strerror or "unknown").lower()
            document.report((*loc, "ca"), f"cannot be read ({why}): relative paths are taken from {base}")
    if tls.get("verify") is False:
        document.warn((*loc, "verify"), "false: whoever is on the way to the endpoints can read and change everything")
    return Trust(authorities, pair)
