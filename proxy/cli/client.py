"""The admin API from the command line: http.client over TCP, TLS or a unix socket.

A refusal of the API becomes an error with its sentence, its fields and an exit code: what the caller said wrongly
is usage (2), everything else failed (1). The token comes from `--token-file` or TIDEGATE_ADMIN_TOKEN and is shown
nowhere. It goes only to what has answered as an admin API does, so that a mistyped address does not get it: a call
without it comes first. What answers differently is named as something else, whatever it says.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from proxy.errors import TidegateError

TIMEOUT_S = 10.0
STREAM_SILENCE_S = 45.0  # three missed heartbeats
Query = Mapping[str, Any] | Sequence[tuple[str, str]]


class UsageError(TidegateError):
    """What was asked for is not possible as it was said."""

    exit_code = 2


class Unreachable(TidegateError):
    """No admin API answers there."""


class SomethingElse(Unreachable):
    """What answers there is no admin API, and no server before one that is away just now."""


class NoToken(TidegateError):
    """The admin API wants a token, and there is none."""


class ApiError(TidegateError):
    """The admin API refused.

    `status` is the HTTP status, `title` its stable word, `problem` the API's object, `said` what a hook said, in lines.
    """

    def __init__(self, status: int, problem: Mapping[str, Any], where: str = "") -> None:
        errors = problem.get("errors") or []
        fields = "; ".join(_field(error) for error in errors)
        what = problem.get("command_line") or problem.get("detail") or problem.get("title") or f"HTTP {status}"
        super().__init__(f"{what}: {fields}" if fields else what, where=where)
        self.status = status
        self.title = problem.get("title", "")
        self.problem = dict(problem)
        self.said = _said(problem)
        self.exit_code = 2 if status in {400, 404, 413, 415} else 1


@dataclass(frozen=True, slots=True)
class Answer:
    """A successful answer."""

    status: int
    value: Any
    etag: str


class Client:
    """Calls to one admin API. `timeout_s` bounds each wait for the network."""

    def __init__(
        self,
        admin: str,
        token: str = "",
        *,
        token_from: str = "",
        ca: Path | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        """Take the address and the token; `token_from` is where that one stood, for people."""
        self.admin = admin
        self._ca = ca
        self._token = token
        self._token_from = token_from
        self._timeout_s = timeout_s
        self._known = False  # it has answered as an admin API
        self._parse(admin)

    def get(self, path: str, query: Query = ()) -> Any:
        """Return the object that GET gives."""
        return self.call("GET", path, query).value

    def call(
        self, method: str, path: str, query: Query = (), body: Any = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Return the answer to one call; raise `ApiError` or `Unreachable`."""
        with closing(self._connect(self._timeout_s)) as connection:
            response = self._send(connection, method, path, query, body, headers or {})
            return self._answer(response)

    def stream(self, path: str, query: Query = ()) -> Iterator[dict[str, Any]]:
        """Yield the objects of a stream of server-sent events until it ends."""
        with closing(self._connect(STREAM_SILENCE_S)) as connection:
            response = self._send(connection, "GET", path, query, None, {"Accept": "text/event-stream"})
            if response.status != 200:
                self._answer(response)
            try:
                while line := response.readline():
                    if line.startswith(b"data: "):
                        yield json.loads(line[6:])
            except (OSError, HTTPException, ValueError):
                return

    def service(self, name: str | None) -> str:
        """Return the path of the service `name`, or of the only one."""
        if name is None:
            names = list(self.get("/api/v1/status")["services"])
            if len(names) != 1:
                raise UsageError(f"there are {len(names)} services: {', '.join(names)}", cure="name one with --service")
            name = names[0]
        return f"/api/v1/services/{quote(name, safe='')}"

    def _send(
        self, connection: HTTPConnection, method: str, path: str, query: Query, body: Any, headers: Mapping[str, str]
    ) -> HTTPResponse:
        pairs = [(key, str(value)) for key, value in (query.items() if isinstance(query, Mapping) else query)]
        fields: dict[str, str | bytes] = dict(headers)
        if self._token:
            if not self._known:
                self._ask(connection, "HEAD", "/livez").read()
            fields["Authorization"] = b"Bearer " + self._token.encode("utf-8", "surrogateescape")
        raw = None
        if body is not None:
            raw = json.dumps(body).encode()
            fields["Content-Type"] = "application/json"
        return self._ask(connection, method, f"{path}?{urlencode(pairs)}" if pairs else path, raw, fields)

    def _ask(
        self,
        connection: HTTPConnection,
        method: str,
        target: str,
        body: bytes | None = None,
        fields: Mapping[str, str | bytes] | None = None,
    ) -> HTTPResponse:
        """Return the answer of an admin API; raise `Unreachable` where something else answers."""
        try:
            connection.request(method, target, body, fields or {})
            response = connection.getresponse()
        except (OSError, HTTPException) as error:
            raise self._unreachable(error) from None
        # By the name of the server we know those before the field.
        if "Tidegate-Api" not in response.headers and response.headers.get("Server") != "tidegate":
            response.close()
            raise self._something_else(f"HTTP {response.status}", passing=response.status >= 500)
        self._known = True
        return response

    def _answer(self, response: HTTPResponse) -> Answer:
        try:
            raw = response.read()
        except (OSError, HTTPException) as error:
            raise self._unreachable(error) from None
        is_json = "json" in response.headers.get("Content-Type", "")
        try:
            value = json.loads(raw) if is_json else raw.decode("utf-8", "replace")
        except ValueError:
            raise self._something_else("no JSON") from None
        if response.status == 401 and not self._token:
            raise NoToken("a token is required", cure="put it into TIDEGATE_ADMIN_TOKEN or name a --token-file")
        if response.status >= 400:
            if not isinstance(value, dict) or "title" not in value:
                raise self._something_else(f"HTTP {response.status}")
            where = {401: self._token_from, 502: self.admin, 503: self.admin, 504: self.admin}
            raise ApiError(response.status, value, where.get(response.status, ""))
        return Answer(response.status, value, response.headers.get("ETag", ""))

    def _something_else(self, what: str, *, passing: bool = False) -> Unreachable:
        cure = "say where the admin API is with --admin or TIDEGATE_ADMIN; what clients reach is another address"
        kind = Unreachable if passing else SomethingElse
        return kind(f"what answers here is not the admin API: {what}", where=self.admin, cure=cure)

    def _unreachable(self, error: Exception) -> Unreachable:
        if mixed_up := self._mixed_up(error):
            return mixed_up
        if isinstance(error, TimeoutError):
            why = "no answer in time"
        elif isinstance(error, socket.gaierror):
            why = "the name is not known"
        elif getattr(error, "verify_message", ""):
            raise Unreachable(
                f"the certificate of the admin API cannot be trusted: {error.verify_message}",  # type: ignore[attr-defined]
                where=self.admin,
                cure="name the file of who signed it with --ca or TIDEGATE_ADMIN_CA",
            ) from None
        else:
            why = getattr(error, "strerror", None) or str(error) or type(error).__name__
        scheme, _, port = self._parse(self.admin)
        usual = f" (port {443 if scheme == 'https' else 80})" if port is None and scheme != "unix" else ""
        return Unreachable(
            f"the admin API cannot be reached: {why.lower()}",
            where=f"{self.admin}{usual}",
            cure="is tidegate running there? say where with --admin or TIDEGATE_ADMIN",
        )

    def _mixed_up(self, error: Exception) -> Unreachable | None:
        """Return what to say where TLS was tried and the other end has none."""
        scheme, host, port = self._parse(self.admin)
        if scheme != "https" or isinstance(error, TimeoutError | socket.gaierror | ConnectionRefusedError):
            return None
        from proxy.cli.tls import speaks_http

        if getattr(error, "verify_message", "") or not speaks_http(host, port or 443):
            return None
        name = f"[{host}]" if ":" in host else host
        cure = f"write http://{name}:{port or 443}, or give it a certificate with admin.tls in the config"
        return Unreachable("the admin API speaks plain HTTP, and https:// does not", where=self.admin, cure=cure)

    def _connect(self, timeout_s: float) -> HTTPConnection:
        scheme, host, port = self._parse(self.admin)
        if scheme == "unix":
            return _UnixConnection(host, timeout=timeout_s)
        if scheme == "https":
            from http.client import HTTPSConnection

            from proxy.cli.tls import trust

            return HTTPSConnection(host, port, timeout=timeout_s, context=trust(self._ca))
        return HTTPConnection(host, port, timeout=timeout_s)

    @staticmethod
    def _parse(admin: str) -> tuple[str, str, int | None]:
        cure = "write http://HOST:PORT, https://HOST:PORT or unix:/path"
        if admin.startswith("unix:"):
            path = admin.removeprefix("unix:")
            if not path.startswith("/"):
                raise UsageError("the socket of --admin has no absolute path", cure=cure)
            return "unix", "/" + path.lstrip("/"), None
        try:
            parts = urlsplit(admin if "://" in admin else f"http://{admin}")
            host, port = parts.hostname, parts.port
        except ValueError:
            raise UsageError("the value of --admin is no address", cure=cure) from None
        if parts.scheme not in {"http", "https"} or not host or parts.username or parts.path.strip("/") or parts.query:
            raise UsageError("the value of --admin is no address of an admin API", cure=cure)
        return parts.scheme, host, port


class _UnixConnection(HTTPConnection):
    def __init__(self, path: str, *, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def connect(admin: str, token_file: Path | None, ca: Path | None = None, *, timeout_s: float = TIMEOUT_S) -> Client:
    """Return a client for the shared options."""
    token, token_from = _token(token_file)
    return Client(admin, token, token_from=token_from, ca=ca, timeout_s=timeout_s)


def _token(token_file: Path | None) -> tuple[str, str]:
    """Return the token, and where it stood."""
    if token_file is None:
        where, token = "TIDEGATE_ADMIN_TOKEN", os.environ.get("TIDEGATE_ADMIN_TOKEN", "").strip()
    else:
        try:
            where, token = str(token_file), token_file.read_text("utf-8", "surrogateescape").strip()
        except OSError as error:
            why = (error.strerror or "unreadable").lower()
            cure = "give --token-file the path of a file that holds the token alone"
            raise UsageError(f"the token file cannot be read: {why}", where=str(token_file), cure=cure) from None
    if len(token.split()) > 1 or (token_file is not None and not token):
        raise UsageError("there is not one token in it", where=where)
    return token, where


def _said(problem: Mapping[str, Any]) -> list[str]:
    """Return what a hook said that did not say go: why it failed, and its words."""
    if problem.get("title") != "HookFailed":
        return []
    forms = {"why": "{}", "exit": "it ended with exit code {}", "answered": "it answered {}"}
    why = next((form.format(problem[key]) for key, form in forms.items() if problem.get(key) is not None), "it said:")
    words = str(problem.get("output") or problem.get("body") or "")
    return [why, *words.splitlines()]


def _field(error: Mapping[str, Any]) -> str:
    place = f"{error['file']}:{error['line']}:{error['column']}: " if error.get("line") else ""
    key = error.get("key", "")
    return f"{place}{key}: {error.get('message', '')}" if key else f"{place}{error.get('message', '')}"
