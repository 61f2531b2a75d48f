"""GET and PATCH …/endpoints."""

import pytest

from tests.admin.serving import running, served

ENDPOINTS = "/api/v1/services/web/endpoints"
NEW = "http://127.0.0.1:9002"


@running
async def test_endpoints_are_listed_and_taken_out():
    async with served() as api:
        value, _ = await api.ask("GET", ENDPOINTS)
        assert [(one["version"], one["state"]) for one in value["endpoints"]] == [("stable", "ready"), ("new", "ready")]
        body = {"version": "new", "url": NEW, "state": "drain", "reason": "disk"}
        value, _ = await api.ask("PATCH", ENDPOINTS, json=body)
        assert value["endpoints"][1]["state"] == "drain"
        assert (api.operations.orders[0].actor, api.operations.orders[0].reason) == ("local", "disk")


@pytest.mark.parametrize(
    "change, status, key",
    [
        ({"state": "down"}, 400, "state"),
        ({"state": None}, 400, "state"),
        ({"version": "old"}, 400, "version"),
        ({"url": "ftp://127.0.0.1"}, 400, "url"),
        ({"sate": "drain"}, 400, "sate"),
        ({"url": "http://127.0.0.1:1"}, 404, None),
    ],
)
@running
async def test_bad_bodies_name_the_field_and_change_nothing(change, status, key):
    async with served() as api:
        body = {"version": "new", "url": NEW, "state": "drain"} | change
        value, _ = await api.ask("PATCH", ENDPOINTS, status=status, json=body)
        assert [error["key"] for error in value.get("errors", [])] == ([key] if key else [])
        assert api.operations.states == {}
