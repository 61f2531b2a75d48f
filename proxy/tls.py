"""TLS contexts and certificates, for every process that needs them.

Nouns: a *pair* is a certificate (with its chain) and the key that belongs to it, read from two files at one instant
and checked. It travels as one PEM text, so that whoever loads it gets exactly what was checked, whatever happens to the
files meanwhile.

Rules: TLS 1.2 at least; for 1.2 only key exchange with forward secrecy and authenticated ciphers; ALPN http/1.1.

Sources: RFC 9325 (recommendations for TLS), RFC 6125 §6.4.3 (wildcards: the leftmost label alone).
"""

from __future__ import annotations

import contextlib
import re
import ssl
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from proxy.memory import MemoryFile

CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
ALPN = ["http/1.1"]
_CERTIFICATES = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_KEYS = re.compile(rb"-----BEGIN ([A-Z ]*)PRIVATE KEY-----.+?-----END \1PRIVATE KEY-----", re.DOTALL)
_FILE_MOST = 1024 * 1024
_AUTHORITIES_MOST = 16 * _FILE_MOST  # all that a system trusts is 0.2 MiB
_ANY = "latin-1"  # what stands between the lines of a PEM file comes through as it is


class WrongPair(ValueError):
    """A pair that cannot be used. `of`: the file that is at fault; `what` says how, `cure` what to do."""

    def __init__(self, of: Literal["cert", "key"], what: str, cure: str) -> None:
        super().__init__(f"{what}: {cure}")
        self.of = of
        self.what = what
        self.cure = cure


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate that was checked with its key. Names are in lower case; times are seconds since 1970."""

    names: tuple[str, ...]
    not_before: float
    not_after: float
    pem: str = field(repr=False)

    def out_of_date(self, now: float) -> str:
        """Return what is wrong with the dates at `now`, "" if nothing is."""
        if now > self.not_after:
            return f"the certificate expired on {_day(self.not_after)}"
        if now < self.not_before:
            return f"the certificate is not valid before {_day(self.not_before)}"
        return ""


def read_pair(cert: Path, key: Path) -> Pair:
    """Read a certificate and its key; raise `WrongPair`. Dates are not judged here: an old one still serves."""
    chain = b"\n".join(_CERTIFICATES.findall(_read("cert", cert)))
    if not chain:
        raise WrongPair("cert", "holds no certificate", "give a PEM file that begins with -----BEGIN CERTIFICATE-----")
    keys = [found[0] for found in _KEYS.finditer(_read("key", key))]
    if not keys:
        raise WrongPair("key", "holds no private key", "give a PEM file with -----BEGIN PRIVATE KEY-----")
    if b"ENCRYPTED" in keys[0]:
        cure = "take the passphrase off, as with `openssl pkey -in KEY -out PLAIN`, and protect the file by its mode"
        raise WrongPair("key", "is encrypted", cure)
    pem = b"\n".join((chain, keys[0], b"")).decode(_ANY)
    try:
        told = _told(pem)
    except ssl.SSLError:
        raise WrongPair("cert", "holds no certificate that can be read", "copy it again") from None
    try:
        server_context(pem)
    except ssl.SSLError as error:
        raise _unfit(error) from None
    return Pair(
        names=_names(told),
        not_before=ssl.cert_time_to_seconds(told["notBefore"]),
        not_after=ssl.cert_time_to_seconds(told["notAfter"]),
        pem=pem,
    )


def server_context(pem: str, kind: type[ssl.SSLContext] = ssl.SSLContext) -> ssl.SSLContext:
    """Return the context of a listener for a pair, of that kind."""
    context = kind(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.set_alpn_protocols(ALPN)
    _harden(context)
    show(context, pem)
    return context


def show(context: ssl.SSLContext, pem: str) -> None:
    """Show a pair on the connections that a context will make."""
    with MemoryFile("certificate", pem.encode(_ANY)) as file:
        context.load_cert_chain(file.path, password=_no_passphrase)


def by_server_name(contexts: Sequence[tuple[Sequence[str], ssl.SSLContext]]) -> ssl.SSLContext:
    """Return the context of a listener that has one for each of its pairs, given as (names, context).

    The client's server name chooses: a certificate with that very name, else one whose wildcard covers it, else
    the first. A client that names nobody gets the first. Contexts may have been in such a list before: each forgets it,
    also for connections that were accepted with it and have not named anybody yet.
    """
    first = contexts[0][1]
    by_name: dict[str, ssl.SSLContext] = {}
    for names, context in contexts:
        for name in names:
            by_name.setdefault(name, context)

    def choose(connection: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
        connection.context = chosen(by_name, name, first)

    for _, context in contexts:
        context.sni_callback = choose if len(contexts) > 1 else None
    return first


def chosen(by_name: Mapping[str, ssl.SSLContext], name: str | None, first: ssl.SSLContext) -> ssl.SSLContext:
    """Return what serves a server name: the exact one, the wildcard above it, or `first`."""
    host = (name or "").lower().rstrip(".")
    found = by_name.get(host)
    if found is None:
        found = by_name.get("*." + host.partition(".")[2])
    return first if found is None else found


def read_authorities(path: Path) -> str:
    """Return the certificates to trust in a PEM file; raise `OSError` (`ssl.SSLError`: it holds none)."""
    with path.open("rb") as file:
        pem = file.read(_AUTHORITIES_MOST).decode(_ANY)
    endpoint_context(ca=pem)
    return pem


def endpoint_context(*, ca: str | None = None, verify: bool = True, pair: str | None = None) -> ssl.SSLContext:
    """Return the context towards endpoints, from PEM texts: a file may be another by now, or gone."""
    with contextlib.ExitStack() as held:

        def path(pem: str | None) -> str | None:
            return None if pem is None else held.enter_context(MemoryFile("certificate", pem.encode(_ANY))).path

        return client_context(ca=path(ca), verify=verify, cert=path(pair))


def client_context(
    *, ca: str | None = None, verify: bool = True, cert: str | None = None, key: str | None = None
) -> ssl.SSLContext:
    """Return the context towards a server.

    `ca`: a file of certificates to trust instead of the system's; `cert` and `key`: who we are, if the server asks (one
    file may hold both: no `key`); `verify` false takes any certificate. Raise `OSError` (`ssl.SSLError` too) where a
    file cannot be used.
    """
    context = ssl.create_default_context(cafile=ca)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(ALPN)
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if cert is not None:
        context.load_cert_chain(cert, key, password=_no_passphrase)
    _harden(context)
    return context


def _harden(context: ssl.SSLContext) -> None:
    # To negotiate again and again costs us far more than whoever asks for it, and nothing in HTTP needs it.
    context.options |= ssl.OP_NO_RENEGOTIATION
    # Else OpenSSL takes a TCP end without close_notify, which anybody on the way can make, for the peer's own.
    context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF


def _read(of: Literal["cert", "key"], path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_FILE_MOST)
    except OSError as error:
        why = (error.strerror or "unknown").lower()
        raise WrongPair(of, f"cannot be read ({why})", "check its path, and its owner and mode") from None


def _unfit(error: ssl.SSLError) -> WrongPair:
    if error.reason == "KEY_VALUES_MISMATCH":
        return WrongPair("key", "does not belong to the certificate", "give the key that its request was made with")
    if error.reason in {"EE_KEY_TOO_SMALL", "CA_KEY_TOO_SMALL", "CA_MD_TOO_WEAK", "EE_MD_TOO_WEAK"}:
        return WrongPair("cert", f"is too weak ({error.reason.lower().replace('_', ' ')})", "have a new one made")
    return WrongPair("key", "holds no private key that can be read", "copy it again")


def _told(pem: str) -> dict[str, Any]:
    # The standard library shows what is in a certificate only of a peer, after a handshake that trusts it. This
    # function is what its own tests use instead, in every CPython since 2.6.
    with MemoryFile("certificate", pem.encode(_ANY)) as file:
        told: dict[str, Any] = ssl._ssl._test_decode_cert(file.path)  # type: ignore[attr-defined]  # noqa: SLF001
    return told


def _names(told: Mapping[str, Any]) -> tuple[str, ...]:
    names = [value for kind, value in told.get("subjectAltName", ()) if kind == "DNS"]
    if "subjectAltName" not in told:
        names = [value for part in told["subject"] for kind, value in part if kind == "commonName"]
    return tuple(dict.fromkeys(name.lower().rstrip(".") for name in names))


def _day(when: float) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(when))


def _no_passphrase() -> str:
    raise ssl.SSLError("the key is encrypted")  # without this, OpenSSL would ask the terminal
