"""Errors as RFC 9457 problem details, for everything that this application answers.

Rules: `title` is a stable UpperCamelCase word; `detail` is one sentence with the cure; `errors` names the fields;
`command_line` is the sentence as `tidegate` says it, where the cure is another one there.
An unexpected exception is logged with its traceback and answered without it. aiohttp's own errors (no such
route, wrong method, body too large) take the same shape. Nothing that a client sent as a secret is repeated.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

import orjson
from aiohttp import web
from aiohttp.typedefs import Handler

from proxy.errors import ConfigError, Problem, Refused, TidegateError

log = logging.getLogger("tidegate.admin")

MEDIA_TYPE = "application/problem+json"
HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Server": "tidegate",
    "Tidegate-Api": "admin",  # the command line knows us by it; a server between may put its own name into Server
}
AIOHTTP_TITLES = {
    404: ("NotFound", "there is nothing at this path (GET /openapi.json lists every call)"),
    405: ("MethodNotAllowed", "this path does not take this method (the Allow header names those it takes)"),
    413: ("BodyTooLarge", "the body is larger than 64 KiB"),
}


def response(
    status: int,
    title: str,
    detail: str,
    *,
    problems: Iterable[Problem] = (),
    extra: Mapping[str, object] | None = None,
    headers: Mapping[str, str] | None = None,
) -> web.Response:
    """Return a problem+json answer; `extra` members go beside the standard ones and never replace them."""
    body: dict[str, Any] = dict(extra or {})
    body |= {"type": "about:blank", "title": title, "status": status, "detail": detail}
    if errors := [_error(problem) for problem in problems]:
        body["errors"] = errors
    answer = web.Response(
        status=status, body=orjson.dumps(body), content_type=MEDIA_TYPE, headers={**HEADERS, **(headers or {})}
    )
    if status == 413:
        answer.force_close()  # the rest of the body is not read
    return answer


def from_error(error: TidegateError) -> web.Response:
    """Return the answer to an error of our own tree."""
    if isinstance(error, ConfigError):
        count = len(error.problems)
        detail = f"the config has {count} problem{'' if count == 1 else 's'}; nothing was changed"
        return response(400, "ConfigInvalid", detail, problems=error.problems)
    if isinstance(error, Refused):
        headers = {"WWW-Authenticate": 'Bearer realm="tidegate"'} if error.status == 401 else None
        extra = error.extra | ({"command_line": f"{error.what} ({error.command})"} if error.command else {})
        return response(error.status, error.title, str(error), problems=error.problems, extra=extra, headers=headers)
    return response(503, type(error).__name__, str(error))


@web.middleware
async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn every exception of the application into a problem."""
    try:
        return await handler(request)
    except TidegateError as error:
        return from_error(error)
    except web.HTTPException as error:
        return _from_aiohttp(error)
    except Exception:
        log.exception("unexpected error in %s %s", request.method, request.path)
        detail = "an unexpected error; the log of the supervisor has the traceback"
        return response(500, "InternalError", detail)


def _from_aiohttp(error: web.HTTPException) -> web.Response:
    title, detail = AIOHTTP_TITLES.get(error.status, (error.reason.title().replace(" ", ""), error.reason))
    headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else None
    return response(error.status, title, detail, headers=headers)


def _error(problem: Problem) -> dict[str, object]:
    error: dict[str, object] = {"key": problem.key, "message": problem.message}
    if problem.line:
        error |= {"file": problem.file, "line": problem.line, "column": problem.column}
    return error
