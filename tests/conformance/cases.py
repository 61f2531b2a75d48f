"""Every case of the suite."""

from __future__ import annotations

from tests.conformance import bodies, messages, responses

CASES = [*messages.all_cases(), *bodies.all_cases(), *responses.all_cases()]
