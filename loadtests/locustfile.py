"""Sticky users against a Tidegate listener; one row per version, and a failure for everything a client should not see.

Every user keeps one `session` cookie for life. The rows are split by the response's `x-tidegate-version`. A user whose
version changes while nobody changes the weight is a failure, like any answer of 400 and above.

    locust -f loadtests/locustfile.py --headless -u 60 -r 60 -t 20s --host http://127.0.0.1:8080
"""

from __future__ import annotations

import os
import uuid
from typing import Any

from gevent import get_hub  # type: ignore[import-untyped]
from locust import FastHttpUser, constant_pacing, events, task

PATH = os.environ.get("LOADTEST_PATH", "/hello")
SECONDS_BETWEEN_REQUESTS = 0.2


class StickyUser(FastHttpUser):
    """A person with one session cookie who asks five times a second."""

    wait_time = constant_pacing(SECONDS_BETWEEN_REQUESTS)
    connection_timeout = 5.0
    network_timeout = 10.0

    def on_start(self) -> None:
        """Take a session."""
        self.session = uuid.uuid4().hex
        self.version = ""

    @task
    def page(self) -> None:
        """Ask for a page and check who answered."""
        headers = {"Cookie": f"session={self.session}"}
        with self.client.get(PATH, headers=headers, name=f"GET {PATH}", catch_response=True) as response:
            version = response.headers.get("x-tidegate-version", "") if response.headers else ""
            if version:
                response.request_meta["name"] = f"GET {PATH} [{version}]"
            if response.status_code >= 400 or response.status_code == 0:
                response.failure(f"status {response.status_code}")
            elif not version:
                response.failure("the answer has no x-tidegate-version")
            elif self.version and version != self.version:
                response.failure(f"the user went from {self.version} to {version}")
            self.version = version or self.version


def look_at_the_clock(**_: Any) -> None:
    """Tell the loop what time it is: a run's length counts from when it looked last, which was before the imports."""
    get_hub().loop.update_now()


def both_versions_answered(environment: Any, **_: Any) -> None:
    """Fail a run in which a version that should have traffic had none (LOADTEST_VERSIONS, by default both)."""
    rows = {name for name, _ in environment.stats.entries}
    for version in os.environ.get("LOADTEST_VERSIONS", "stable new").split():
        if f"GET {PATH} [{version}]" not in rows:
            print(f"loadtest: no request was answered by {version}")
            environment.process_exit_code = 1


events.init.add_listener(look_at_the_clock)  # type: ignore[no-untyped-call]
events.quitting.add_listener(both_versions_answered)  # type: ignore[no-untyped-call]
