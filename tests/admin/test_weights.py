import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.admin import parse
from tests.admin.serving import running, served

WEIGHTS = "/api/v1/services/web/weights"


@running
async def test_weights_come_with_their_revision_as_etag():
    async with served() as api:
        value, answer = await api.ask("GET", WEIGHTS)
        assert value == {"service": "web", "stable": 100.0, "new": 0.0, "revision": 1}
        assert answer.headers["ETag"] == '"1"'
        assert answer.headers["Cache-Control"] == "no-store"


@running
async def test_put_sets_the_weight_and_says_who_and_why():
    async with served() as api:
        body = {"new": 12.5, "reason": "canary", "ttl": "30m"}
        value, answer = await api.ask("PUT", WEIGHTS, json=body)
        assert value == {"service": "web", "stable": 87.5, "new": 12.5, "revision": 2}
        assert answer.headers["ETag"] == '"2"'
        assert api.operations.weight_bp["web"] == 1250
        assert api.operations.ttl_s == 1800
        order = api.operations.orders[0]
        assert (order.actor, order.reason, order.if_match) == ("local", "canary", None)


@running
async def test_a_ttl_may_be_taken_away():
    async with served() as api:
        await api.ask("PUT", WEIGHTS, json={"new": 5, "ttl": "none"})
        assert api.operations.ttl_s == float("inf")


@running
async def test_dry_run_says_the_moves_and_changes_nothing():
    async with served() as api:
        value, answer = await api.ask("PUT", WEIGHTS + "?dry_run=true", json={"new": 25})
        assert value["moves"] == {"to_new": 2500, "to_stable": 0, "of": 10000}
        assert "ETag" not in answer.headers
        assert api.operations.weight_bp["web"] == 0


@running
async def test_stale_etag_is_412_upwards_and_ignored_downwards():
    async with served() as api:
        await api.ask("PUT", WEIGHTS, json={"new": 50}, headers={"If-Match": '"1"'})
        value, _ = await api.ask("PUT", WEIGHTS, status=412, json={"new": 60}, headers={"If-Match": '"1"'})
        assert value["title"] == "StaleRevision"
        assert value["revision"] == 2
        for header in ('"1"', "nonsense", 'W/"2"', '"x"'):
            _, answer = await api.ask("PUT", WEIGHTS, json={"new": 40}, headers={"If-Match": header})
            assert answer.status == 200
            api.operations.weight_bp["web"] = 5000
        await api.ask("PUT", WEIGHTS, status=412, json={"new": 60}, headers={"If-Match": "nonsense"})
        await api.ask("PUT", WEIGHTS, json={"new": 60}, headers={"If-Match": "*"})
        revision = api.operations.revision["web"]
        await api.ask("PUT", WEIGHTS, json={"new": 70}, headers={"If-Match": f'"1", "{revision}"'})


@running
async def test_wrong_type_is_415_upwards_and_ignored_downwards():
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    async with served() as api:
        await api.ask("PUT", WEIGHTS, status=415, data=b'{"new": 1}', headers=form)
        await api.ask("PUT", WEIGHTS, status=415, data=b"new=0", headers=form)
        await api.ask("PUT", WEIGHTS, data=b'{"new": 0}', headers=form)
        api.operations.weight_bp["web"] = 5000
        await api.ask("PUT", WEIGHTS, data=b'{"new": 49.99}', headers=form)
        await api.ask("PUT", WEIGHTS, status=415, data=b'{"new": 50}', headers=form)
        await api.ask("POST", "/api/traffic-weights", data=b'{"stable": 3, "new": 1}', headers=form)
        await api.ask("POST", "/api/traffic-weights", status=415, data=b'{"stable": 1, "new": 3}', headers=form)
        await api.ask("POST", "/api/v1/services/web/rollback", data=b'{"reason": "now"}', headers=form)


@running
async def test_progressing_rollout_is_409_with_phase_unless_taken_over():
    async with served() as api:
        api.operations.phase["web"] = "progressing"
        value, _ = await api.ask("PUT", WEIGHTS, status=409, json={"new": 25})
        assert value["phase"] == "progressing"
        assert value["allowed"] == ["rollback", "pause"]
        await api.ask("PUT", WEIGHTS + "?take_over=true", json={"new": 25})
        assert api.operations.orders[-1].take_over is True


@pytest.mark.parametrize(
    "body, key",
    [
        ('{"new": 101}', "new"),
        ('{"new": -0.01}', "new"),
        ('{"new": 0.005}', "new"),
        ('{"new": "25"}', "new"),
        ('{"new": true}', "new"),
        ('{"new": null}', "new"),
        ('{"new": [1]}', "new"),
        ('{"new": 1e999999999}', "new"),
        ('{"new": 1e-999999999}', "new"),
        ('{"new": NaN}', ""),
        ('{"new": Infinity}', ""),
        ("{}", "new"),
        ("", "new"),
        ("[]", ""),
        ("null", ""),
        ("{", ""),
        ('"\udc80"', ""),
        ('{"new": 1, "new": 2}', "new"),
        ('{"new": 1, "reson": "x"}', "reson"),
        ('{"new": 1, "reason": 5}', "reason"),
        ('{"new": 1, "reason": "two\\nlines"}', "reason"),
        ('{"new": 1, "reason": "' + "x" * 501 + '"}', "reason"),
        ('{"new": 1, "ttl": 30}', "ttl"),
        ('{"new": 1, "ttl": "30"}', "ttl"),
        ('{"new": 1, "ttl": "0s"}', "ttl"),
        ('{"new": 1, "ttl": "999d"}', "ttl"),
        ("[" * 30_000, ""),
        ('{"new": ' + "9" * 5000 + "}", ""),
    ],
)
@running
async def test_bad_bodies_are_400_naming_the_field_and_change_nothing(body, key):
    async with served() as api:
        data = body.encode("utf-8", "surrogateescape")
        value, _ = await api.ask("PUT", WEIGHTS, status=400, data=data, headers={"Content-Type": "application/json"})
        assert [error["key"] for error in value["errors"]] == [key]
        assert api.operations.orders == []


@running
async def test_mistyped_names_are_suggested():
    async with served() as api:
        value, _ = await api.ask("PUT", WEIGHTS, status=400, json={"nwe": 5})
        assert {"key": "nwe", "message": "is not known here: did you mean new?"} in value["errors"]
        value, _ = await api.ask("PUT", WEIGHTS + "?dryrun=true", status=400, json={"new": 5})
        assert value["errors"] == [{"key": "dryrun", "message": "is not known here: did you mean dry_run?"}]
        await api.ask("PUT", WEIGHTS + "?dry_run=yes", status=400, json={"new": 5})
        await api.ask("PUT", WEIGHTS + "?dry_run=true&dry_run=false", status=400, json={"new": 5})
        assert api.operations.orders == []


@pytest.mark.parametrize(
    "body, weight_bp",
    [
        ({"stable": 0.9, "new": 0.1}, 1000),
        ({"stable": 90, "new": 10}, 1000),
        ({"stable": 3, "new": 1}, 2500),
        ({"2.2.0": 1, "2.3.0": 1}, 5000),
        ({"stable": 1, "2.3.0": 3}, 7500),
        ({"stable": 0, "new": 7}, 10_000),
        ({"stable": 1e308, "new": 1e308}, 5000),
        ({"stable": 1, "new": 1e-300}, 1),
        ({"stable": 1e-300, "new": 1}, 9999),
    ],
)
@running
async def test_traffic_weights_are_normalised(body, weight_bp):
    async with served() as api:
        value, _ = await api.ask("POST", "/api/traffic-weights", json=body)
        assert value["new"] == weight_bp / 100
        assert api.operations.weight_bp["web"] == weight_bp


@pytest.mark.parametrize(
    "body, keys",
    [
        ('{"stable": 0, "new": 0}', [""]),
        ('{"stable": 1}', ["new"]),
        ('{"stable": 1, "new": -1}', ["new"]),
        ('{"stable": 1, "new": -1e-400}', ["new"]),
        ('{"stable": 1, "new": 1e999}', ["new"]),
        ('{"stable": 1, "new": "1"}', ["new"]),
        ('{"stable": 1, "new": true}', ["new"]),
        ('{"stable": 1, "new": 1, "2.3.0": 1}', ["2.3.0"]),
        ('{"stable": 1, "2.4.0": 1}', ["2.4.0", "new"]),
        ('{"stable": 1, "new": NaN}', [""]),
        ("[1, 2]", [""]),
    ],
)
@running
async def test_bad_traffic_weights_are_400(body, keys):
    async with served() as api:
        options = {"data": body, "headers": {"Content-Type": "application/json"}}
        value, _ = await api.ask("POST", "/api/traffic-weights", status=400, **options)
        assert [error["key"] for error in value["errors"]] == keys
        assert api.operations.orders == []


@running
async def test_equal_labels_are_no_keys():
    async with served() as api:
        api.operations.labels["web"] = {"stable": "2.3.0", "new": "2.3.0"}
        await api.ask("POST", "/api/traffic-weights", status=400, json={"stable": 1, "2.3.0": 1})


@running
async def test_several_services_need_a_name():
    async with served(names=("web", "api")) as api:
        await api.ask("POST", "/api/traffic-weights", status=400, json={"stable": 1, "new": 1})
        await api.ask("POST", "/api/traffic-weights?service=api", json={"stable": 1, "new": 1})
        await api.ask("POST", "/api/traffic-weights?service=nope", status=404, json={"stable": 1, "new": 1})
        assert api.operations.weight_bp == {"web": 0, "api": 5000}
        await api.ask("GET", "/api/v1/services/nope/weights", status=404)


@running
async def test_rollback_needs_no_body_and_may_be_repeated():
    async with served() as api:
        api.operations.weight_bp["web"] = 5000
        for options in ({}, {"json": {"reason": "errors"}}, {"headers": {"If-Match": '"99"'}}):
            value, _ = await api.ask("POST", "/api/v1/services/web/rollback", **options)
            assert value["phase"] == "rolled_back"
        assert [order.reason for order in api.operations.orders] == ["", "errors", ""]
        await api.ask("POST", "/api/v1/services/web/rollback", status=400, json={"why": "x"})


@running
async def test_what_could_not_be_stored_is_said():
    async with served() as api:
        api.operations.durable = False
        value, _ = await api.ask("POST", "/api/v1/services/web/rollback")
        assert value["durable"] is False


@running
async def test_new_version_is_registered_and_removed():
    path = "/api/v1/services/web/versions/new"
    async with served() as api:
        body = {"label": "2.4.0", "endpoints": ["http://10.0.0.1:80", "unix:/run/new.sock"]}
        await api.ask("PUT", path, json=body)
        assert api.operations.urls["web"] == ("http://10.0.0.1:80", "unix:/run/new.sock")
        assert api.operations.labels["web"]["new"] == "2.4.0"
        await api.ask("DELETE", path)
        assert api.operations.urls["web"] == ()
        await api.ask("DELETE", path, json={"reason": "abandoned"})
        assert api.operations.orders[-1].reason == "abandoned"


@running
async def test_another_version_takes_the_wrong_content_type_only_while_new_has_users():
    path = "/api/v1/services/web/versions/new"
    body = '{"label": "2.4.0", "endpoints": ["http://10.0.0.1:80"]}'
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    async with served() as api:
        api.operations.weight_bp["web"] = 2500
        await api.ask("PUT", path, data=body, headers=form)
        assert api.operations.labels["web"]["new"] == "2.4.0"
        await api.ask("PUT", path, status=415, data=body, headers=form)
        await api.ask("PUT", path, status=415, data="label=2", headers=form)


@running
async def test_a_version_takes_nothing_over():
    async with served() as api:
        await api.ask("DELETE", "/api/v1/services/web/versions/new?take_over=true", status=400)


@pytest.mark.parametrize(
    "body, key",
    [
        ({"label": "x"}, "endpoints"),
        ({"label": "x", "endpoints": []}, "endpoints"),
        ({"label": "x", "endpoints": "http://a:1"}, "endpoints"),
        ({"label": "x", "endpoints": ["http://a:1", "ftp://a"]}, "endpoints[1]"),
        ({"label": "x", "endpoints": ["http://a:1", "http://a:1"]}, "endpoints"),
        ({"label": "x\r\nset-cookie: a=b", "endpoints": ["http://a:1"]}, "label"),
        ({"label": "é", "endpoints": ["http://a:1"]}, "label"),
        ({"label": 23, "endpoints": ["http://a:1"]}, "label"),
        ({"label": "x", "endpoints": ["http://a:1"], "weight": 5}, "weight"),
    ],
)
@running
async def test_bad_new_versions_are_400(body, key):
    async with served() as api:
        value, _ = await api.ask("PUT", "/api/v1/services/web/versions/new", status=400, json=body)
        assert [error["key"] for error in value["errors"]] == [key]
        assert api.operations.orders == []


PARTS = st.floats(min_value=0, allow_nan=False, allow_infinity=False)


@given(PARTS, PARTS)
def test_share_is_monotone_and_keeps_both_ends(stable, new):
    if stable == new == 0:
        return
    bp = parse.share_bp(stable, new)
    assert (bp == 0) == (new == 0)
    assert (bp == 10_000) == (stable == 0)
    if new <= stable:
        assert bp <= 5000


@given(st.integers(0, 10_000))
def test_every_bucket_has_a_percentage(bp):
    percent = parse.Body(json.dumps(bp / 100).encode(), typed=True).json()
    assert parse.weight_bp(percent, "new") == bp
