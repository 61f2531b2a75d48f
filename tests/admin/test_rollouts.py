"""GET and POST …/rollout and its verbs."""

import pytest

from tests.admin.serving import running, served

ROLLOUT = "/api/v1/services/web/rollout"


@running
async def test_a_rollout_is_started_by_name_by_default_or_inline_and_seen():
    async with served() as api:
        value, _ = await api.ask("POST", ROLLOUT)
        assert (value["phase"], api.operations.plan) == ("progressing", None)
        assert (await api.ask("GET", ROLLOUT))[0] == api.operations.service("web")
        api.operations.phase["web"] = "rolled_back"
        await api.ask("POST", ROLLOUT, json={"plan": "careful", "reason": "2.3.0"})
        assert api.operations.plan == "careful"
        assert api.operations.orders[-1].reason == "2.3.0"
        api.operations.phase["web"] = "idle"
        plan = {
            "stages": [{"name": "all", "weight": "100%", "hold": "1h", "limits": [{"metric": "p95", "max_ratio": 1.5}]}]
        }
        await api.ask("POST", ROLLOUT, json={"plan": plan})
        # Numbers come as those of a file, not as the exact ones of the API.
        assert api.operations.plan == plan
        assert type(api.operations.plan["stages"][0]["limits"][0]["max_ratio"]) is float


@running
async def test_a_dry_run_answers_go_or_no_go_and_changes_nothing():
    async with served() as api:
        api.operations.go = False
        value, _ = await api.ask("POST", f"{ROLLOUT}?dry_run=true")
        assert value["go"] is False
        assert value["findings"][0]["finding"] == "no-go"
        assert api.operations.orders[0].dry_run
        assert api.operations.phase["web"] == "idle"


@running
async def test_verbs_pass_on_what_was_said_and_answer_with_the_service():
    async with served() as api:
        await api.ask("POST", ROLLOUT)
        for verb, phase in (("pause", "paused"), ("resume", "progressing"), ("promote", "progressing")):
            value, _ = await api.ask("POST", f"{ROLLOUT}/{verb}", json={"reason": verb})
            assert value["phase"] == phase
            assert (api.operations.orders[-1].reason, api.operations.orders[-1].actor) == (verb, "local")
        assert api.operations.full is False
        value, _ = await api.ask("POST", f"{ROLLOUT}/promote", json={"full": True})
        assert api.operations.full is True
        assert value["weights"]["new"] == 100
        api.operations.phase["web"] = "completed"
        assert (await api.ask("POST", f"{ROLLOUT}/finish"))[0]["phase"] == "idle"
        assert (await api.ask("POST", f"{ROLLOUT}/drill"))[0]["drill"] == "passed"


@running
async def test_the_wrong_phase_is_409_with_what_is_possible_and_a_stale_revision_412():
    async with served() as api:
        value, _ = await api.ask("POST", f"{ROLLOUT}/promote", status=409)
        assert (value["phase"], value["allowed"]) == ("idle", ["weights"])
        await api.ask("POST", ROLLOUT, status=412, headers={"If-Match": '"7"'})
        await api.ask("POST", ROLLOUT, headers={"If-Match": '"1"'})


@pytest.mark.parametrize(
    "verb, body, key",
    [
        ("", {"plann": "x"}, "plann"),
        ("", {"plan": 5}, "plan"),
        ("", {"plan": ["x"]}, "plan"),
        ("", {"plan": ""}, "plan"),
        ("/pause", {"full": True}, "full"),
        ("/promote", {"full": "yes"}, "full"),
        ("/promote", {"full": 1}, "full"),
        ("/resume", {"reason": "a\nb"}, "reason"),
        ("/finish", [], ""),
    ],
)
@running
async def test_bad_bodies_name_the_field_and_change_nothing(verb, body, key):
    async with served() as api:
        value, _ = await api.ask("POST", ROLLOUT + verb, status=400, json=body)
        assert [error["key"] for error in value["errors"]] == [key]
        assert api.operations.orders == []


@running
async def test_a_body_of_another_type_is_refused_and_an_empty_one_is_not():
    async with served() as api:
        await api.ask("POST", ROLLOUT, status=415, data=b"{}", headers={"Content-Type": "text/plain"})
        await api.ask("POST", f"{ROLLOUT}/pause?dry_run=true", status=400)
        await api.ask("POST", ROLLOUT)


@running
async def test_a_reload_says_what_becomes_of_a_running_rollout():
    async with served() as api:
        await api.ask("POST", "/api/v1/config/reload?running_plan=keep")
        assert api.operations.orders[-1].running_plan == "keep"
        await api.ask("POST", "/api/v1/config/reload")
        assert api.operations.orders[-1].running_plan == ""
        await api.ask("POST", "/api/v1/config/reload?running_plan=forget", status=400)
