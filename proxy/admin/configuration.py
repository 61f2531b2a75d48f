"""Calls about the config: validate one, read the file again.

`validate` without a body asks what a reload would do, with a YAML (or JSON) body whether that text is a config.
The text of a body may name environment variables, and a mistake may be explained with the value it is about. So the
values of the variables that the text names are taken out of the answer again: this must not be a way to read them.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Mapping
from dataclasses import replace

from aiohttp import web

from proxy.admin import bodies, parse
from proxy.admin.route import YAML_TYPES, Call, reply
from proxy.config.compile import compile_text
from proxy.errors import ConfigError, Problem

VARIABLE = re.compile(r"\$\{(\w+)")


async def post_validate(call: Call) -> web.StreamResponse:
    """POST /api/v1/config/validate."""
    body = await call.typed_body(YAML_TYPES)
    if not body.raw.strip():
        return reply(await call.operations.reload(replace(call.order(), dry_run=True)))
    try:
        text = body.raw.decode("utf-8")
    except UnicodeDecodeError as error:
        parse.refuse([Problem("", f"not UTF-8 text: {error.reason} at byte {error.start}")])
    try:
        compiled = await asyncio.to_thread(compile_text, text, dict(os.environ), name="body")
    except ConfigError as error:
        named = {name: os.environ.get(name, "") for name in VARIABLE.findall(text)}
        raise ConfigError([_without_values(problem, named) for problem in error.problems]) from None
    return reply({"valid": True, "notes": list(compiled.notes)})


async def post_reload(call: Call) -> web.StreamResponse:
    """POST /api/v1/config/reload."""
    why = (await call.typed_body()).read(bodies.Why)
    return reply(await call.operations.reload(call.order(why.reason)))


def _without_values(problem: Problem, values: Mapping[str, str]) -> Problem:
    message = problem.message
    for name, value in values.items():
        if value:
            message = message.replace(value, f"${{{name}}}")
    return replace(problem, message=message)
