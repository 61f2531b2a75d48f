"""Who may ask for what: tokens, roles, the Host rule and the browser-origin rule.

* With tokens: `Authorization: Bearer`; role `operator` may do everything, `read` only what changes nothing.
* Without tokens everybody who reaches the socket is an operator (the config allows that on loopback and unix
  sockets only). A web page in the operator's browser reaches loopback too, by pointing its own name at 127.0.0.1
  (DNS rebinding); the browser then sends that name as `Host`. So only a loopback or configured `Host` is accepted.
* A browser says where a request comes from (`Origin`, `Sec-Fetch-Site`). Whatever changes something and comes
  from another origin is refused, with or without tokens: a form on any page can post here without asking.

Every token is compared, as a digest and in constant time, so that the answer's timing says neither which token was
nearly right nor how many there are. A token file is read again when it changes; while it cannot be read, its last
content stays valid.
"""

from __future__ import annotations

import ipaddress
import logging
from dataclasses import dataclass
from hashlib import blake2b
from hmac import compare_digest
from pathlib import Path
from urllib.parse import urlsplit

from aiohttp import hdrs, web

from proxy.config.compile import AdminSettings, Token
from proxy.errors import Refused

log = logging.getLogger("tidegate.admin")

LOCAL = "local"  # the actor of an admin API without tokens
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
MAX_TOKEN_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: the token's name and role."""

    name: str
    role: str


class TokenSource:
    """One named token, from the config or from a file that is watched for changes."""

    def __init__(self, token: Token) -> None:
        self.caller = Caller(token.name, token.role)
        self._path: Path | None = token.token_file
        self._seen: tuple[int, int, int] | None = None
        self._digest = _digest(token.token.encode("utf-8", "surrogateescape"))
        self._usable = bool(token.token)

    def matches(self, digest: bytes) -> bool:
        """Return whether `digest` is this token's, in constant time."""
        self._refresh()
        return compare_digest(self._digest, digest) & self._usable

    def _refresh(self) -> None:
        if self._path is None:
            return
        try:
            stat = self._path.stat()
            seen = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
            if seen == self._seen:
                return
            with self._path.open("rb") as file:
                text = file.read(MAX_TOKEN_BYTES).strip()
        except OSError as error:
            if self._seen != (0, 0, 0):
                log.warning("token_file of %r cannot be read: %s", self.caller.name, error.strerror)
            self._seen = (0, 0, 0)
            return
        self._seen = seen
        if text:
            self._digest, self._usable = _digest(text), True
        else:
            log.warning("token_file of %r is empty; the token from before stays valid", self.caller.name)


class Gate:
    """The rules of this admin API, asked before any route's own code."""

    def __init__(self, settings: AdminSettings) -> None:
        self._tokens = [TokenSource(token) for token in settings.tokens if token.token or token.token_file]
        self._hosts = frozenset(host.lower() for host in settings.hosts)

    def admit(self, request: web.Request, role: str) -> Caller:
        """Return who asks, or raise `Refused` 401 or 403. `role`: what the route needs."""
        if request.method not in SAFE_METHODS:
            self._check_origin(request)
        if not self._tokens:
            self._check_host(request)
            return Caller(LOCAL, "operator")
        caller = self._caller(request)
        if role == "operator" and caller.role != "operator":
            raise Refused(
                403,
                "Forbidden",
                f"the token {caller.name!r} may only read",
                cure="use a token with role: operator",
            )
        return caller

    def _caller(self, request: web.Request) -> Caller:
        values = request.headers.getall(hdrs.AUTHORIZATION, [])
        scheme, _, token = values[0].partition(" ") if len(values) == 1 else ("", "", "")
        if scheme.lower() != "bearer" or not token.strip():
            raise Refused(401, "TokenRequired", "a token is required", cure="send Authorization: Bearer TOKEN")
        digest = _digest(token.strip().encode("utf-8", "surrogateescape"))
        found = [source.caller for source in self._tokens if source.matches(digest)]
        if not found:
            raise Refused(401, "TokenUnknown", "the token is not known here", cure="see admin.tokens of the config")
        return found[0]

    def _check_host(self, request: web.Request) -> None:
        values = request.headers.getall(hdrs.HOST, [])
        if len(values) != 1 or not self._host_allowed(values[0].lower()):
            raise Refused(
                403,
                "HostNotAllowed",
                "without tokens the admin API answers only to a loopback or configured Host",
                cure="call it as localhost, add the name to admin.hosts, or configure admin.tokens",
            )

    def _host_allowed(self, value: str) -> bool:
        name = urlsplit(f"//{value}").hostname if _splits(value) else None
        if name is None:
            return False
        if name == "localhost" or name in self._hosts or value in self._hosts:
            return True
        try:
            return ipaddress.ip_address(name).is_loopback
        except ValueError:
            return False

    def _check_origin(self, request: web.Request) -> None:
        sites = request.headers.getall("Sec-Fetch-Site", [])
        origins = request.headers.getall(hdrs.ORIGIN, [])
        host = request.headers.get(hdrs.HOST, "").lower()
        foreign_site = any(site.lower() not in {"same-origin", "none"} for site in sites)
        foreign_origin = any(origin.lower().partition("://")[2] != host or not host for origin in origins)
        if foreign_site or foreign_origin:
            raise Refused(
                403,
                "OriginNotAllowed",
                "a page of another origin may not change anything here",
                cure="call the admin API from its own page or from outside a browser",
            )


def _splits(value: str) -> bool:
    try:
        return "@" not in value and urlsplit(f"//{value}").netloc == value
    except ValueError:
        return False


def _digest(text: bytes) -> bytes:
    return blake2b(text, digest_size=32).digest()
