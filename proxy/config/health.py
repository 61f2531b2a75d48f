"""How the config says when an endpoint gets nothing for a while: active checks and ejection."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field, WrapSerializer

from proxy.config.values import CheckTarget, Duration, Section, Share, Wait, none_for
from proxy.routing.health import Health
from proxy.routing.outlier import Eject

Count = Annotated[int, Field(ge=1, le=100)]


class HealthConfig(Section):
    """Active checks: every endpoint is asked `GET path`, and gets no requests while it does not pass.

    2xx and 3xx pass. An endpoint counts as ready until `fall` checks in a row have failed.
    """

    path: CheckTarget = Field(description="what is asked for; with a query if need be", examples=["/health"])
    interval: Annotated[Duration, Field(ge=0.1, le=3600)] = Field(
        default=2.0, description="between two checks, a tenth more or less"
    )
    timeout: Wait = Field(default=1.0, description="until the head of the answer is there")
    rise: Count = Field(default=2, description="so many in a row have to pass until it is up again")
    fall: Count = Field(default=3, description="so many in a row have to fail until it is down")


class EjectConfig(Section):
    """Ejection: an endpoint at which requests fail much more often than at its siblings gets none for a while.

    At most half of a version's endpoints are out at a time, and one that is alone never is. What failed stays charged
    to its version. An endpoint of `new` is ejected only after `window` more: its judge comes first.
    """

    bad: Annotated[Share, Field(gt=0, le=1)] = Field(
        default=0.2, description="share of bad responses from which on; and some sibling's must be at most half of it"
    )
    window: Annotated[Duration, Field(ge=1, le=300)] = Field(default=10.0, description="over which it is measured")
    min_requests: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        default=20, description="fewer within the window say nothing"
    )
    base: Annotated[Duration, Field(gt=0, le=3600)] = Field(
        default=30.0, description="for how long; doubled each time that it fails again soon after its return"
    )
    max: Annotated[Duration, Field(gt=0, le=86_400)] = Field(default=300.0, description="never longer than this")


EjectOrNone = Annotated[
    EjectConfig | None,
    BeforeValidator(none_for),
    WrapSerializer(lambda value, write: "none" if value is None else write(value)),
]


def health(config: HealthConfig | None) -> Health | None:
    """Return how endpoints are checked."""
    if config is None:
        return None
    return Health(config.path, config.interval, config.timeout, config.rise, config.fall)


def eject(config: EjectConfig | None) -> Eject | None:
    """Return when endpoints are ejected."""
    if config is None:
        return None
    return Eject(config.bad, config.window, config.min_requests, config.base, config.max)
