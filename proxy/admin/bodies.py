"""The JSON bodies of the API, as models: read strictly (no coercion, no unknown keys) and shown in OpenAPI."""

from __future__ import annotations

import re
from math import inf
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from proxy.admin.parse import weight_bp
from proxy.config.addresses import parse_endpoint
from proxy.config.units import parse_duration
from proxy.errors import Refused

MAX_REASON = 500
MAX_ENDPOINTS = 256
PRINTABLE = re.compile(r"[^\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]*")
LABEL = re.compile(r"([!-~]([ -~]*[!-~])?)?")


def reason(text: str) -> str:
    """Return a reason as it is: one line of at most 500 printable characters (it is shown in terminals)."""
    if len(text) > MAX_REASON or not PRINTABLE.fullmatch(text):
        raise ValueError(f"must be one line of at most {MAX_REASON} printable characters")
    return text


def _label(text: str) -> str:
    if not LABEL.fullmatch(text):
        raise ValueError("must be printable ASCII without spaces at its ends: it goes into x-tidegate-label")
    return text


def _endpoint(text: str) -> str:
    return parse_endpoint(text).url


def _endpoints(urls: list[str]) -> list[str]:
    twice = next((url for url in urls if urls.count(url) > 1), None)
    if twice is not None:
        raise ValueError(f"{twice} is given twice")
    return urls


def _quoted(value: Any) -> Any:
    if not isinstance(value, str | None):
        raise ValueError('must be a text in quotes: a duration such as "30m", or "none"')  # noqa: TRY004 -- pydantic's
    return value


def _ttl(text: str) -> float:
    if text == "none":
        return inf
    value = parse_duration(text)
    if value == 0:
        raise ValueError("must be longer than 0")
    return value


def _weight(value: Any) -> int:
    try:
        return weight_bp(value, "new")
    except Refused as refused:
        raise ValueError(refused.problems[0].message) from None


def _planned(value: Any) -> Any:
    if not value or not isinstance(value, str | dict):
        # An empty name is a variable of a script that was not set, and not the default plan.
        raise ValueError("must be a plan's name, or a plan as an object")
    return value


Reason = Annotated[str, AfterValidator(reason), WithJsonSchema({"type": "string", "maxLength": MAX_REASON})]
Label = Annotated[str, Field(max_length=100), AfterValidator(_label)]
EndpointUrl = Annotated[str, AfterValidator(_endpoint)]
Endpoints = Annotated[list[EndpointUrl], Field(min_length=1, max_length=MAX_ENDPOINTS), AfterValidator(_endpoints)]
Percent = Annotated[
    int,
    BeforeValidator(_weight),
    WithJsonSchema({"type": "number", "minimum": 0, "maximum": 100, "multipleOf": 0.01}),
]
Planned = Annotated[
    Any,
    AfterValidator(_planned),
    WithJsonSchema({"anyOf": [{"type": "string", "minLength": 1}, {"type": "object"}]}),
]
Ttl = Annotated[
    str,
    BeforeValidator(_quoted),
    AfterValidator(_ttl),
    WithJsonSchema({"type": "string", "examples": ["30m", "2h", "none"]}),
]


class Strict(BaseModel):
    """A body: no key but the declared ones, no value of another type."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Weights(Strict):
    """PUT …/weights. `new` is percent outside and, once read, 1/10,000; `ttl` is text outside and then seconds."""

    new: Percent = Field(description="weight of new in percent, at most two decimals")
    reason: Reason = ""
    ttl: Ttl | None = Field(
        default=None, description="after this time the weight goes back; none: it stays, and an earlier ttl ends"
    )


class Why(Strict):
    """A body that only says why: rollback, reload, removal of the new version."""

    reason: Reason = ""


class RolloutStart(Strict):
    """POST …/rollout. Empty = the plan called default, or the only one."""

    plan: Planned | None = Field(
        default=None, description="a plan's name, or a plan in the notation of a file (without hooks, signals, checks)"
    )
    reason: Reason = ""


class Promotion(Strict):
    """POST …/rollout/promote."""

    full: bool = Field(default=False, description="go to the last stage at once")
    reason: Reason = ""


class Endpoint(Strict):
    """PATCH …/endpoints."""

    version: Literal["stable", "new"]
    url: EndpointUrl = Field(description="the address, as it stands in `endpoints`")
    state: Literal["ready", "drain", "maintenance"] = Field(description="drain, maintenance: it gets no new requests")
    reason: Reason = ""


class NewVersion(Strict):
    """PUT …/versions/new."""

    label: Label = Field(default="", description="what the new version is called, for example 2.3.0")
    endpoints: Endpoints = Field(description="addresses: http://HOST:PORT or unix:/path")
    reason: Reason = ""
