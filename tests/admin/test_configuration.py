from tests.admin.serving import running, served

VALIDATE, RELOAD = "/api/v1/config/validate", "/api/v1/config/reload"
GOOD = """
services:
  - name: web
    stable: {endpoints: [http://127.0.0.1:9001]}
    limits: {error_rate: 1%}
"""
YAML = {"Content-Type": "application/yaml"}


@running
async def test_a_good_text_is_valid_and_has_the_notes_of_check():
    async with served() as api:
        value, _ = await api.ask("POST", VALIDATE, data=GOOD, headers=YAML)
        assert value["valid"] is True
        assert any("is judged by evidence" in note for note in value["notes"])
        plain = {"services": [{"name": "web", "stable": {"endpoints": ["http://127.0.0.1:9001"]}}]}
        await api.ask("POST", VALIDATE, json=plain)
        assert api.operations.orders == []


@running
async def test_a_bad_text_gives_every_problem_with_its_place():
    async with served() as api:
        text = GOOD.replace("limits:", "limitz:").replace("name: web", "name: web\n    watchdog: 2")
        value, _ = await api.ask("POST", VALIDATE, status=400, data=text, headers=YAML)
        assert value["title"] == "ConfigInvalid"
        assert [(error["key"], error["line"]) for error in value["errors"]] == [
            ("services[0].watchdog", 4),
            ("services[0].limitz", 6),
        ]
        await api.ask("POST", VALIDATE, status=400, data=b"\xff", headers=YAML)
        await api.ask("POST", VALIDATE, status=415, data=GOOD, headers={"Content-Type": "image/png"})


@running
async def test_validation_is_no_way_to_read_the_environment(monkeypatch):
    monkeypatch.setenv("TIDEGATE_TEST_SECRET", "hunter2")
    async with served() as api:
        for text in (
            GOOD.replace("http://127.0.0.1:9001", "${TIDEGATE_TEST_SECRET}"),
            GOOD.replace("1%", "${TIDEGATE_TEST_SECRET}"),
            GOOD + "${TIDEGATE_TEST_SECRET}: 1\n",
            GOOD + "listen: '${TIDEGATE_TEST_SECRET}'\n",
            GOOD + "state: [${TIDEGATE_TEST_SECRET:-x}]\n",
        ):
            value, _ = await api.ask("POST", VALIDATE, status=400, data=text, headers=YAML)
            assert "hunter2" not in str(value)


@running
async def test_validate_without_a_body_asks_what_a_reload_would_do():
    async with served() as api:
        await api.ask("POST", VALIDATE)
        assert api.operations.orders[0].dry_run is True
        api.operations.reload_error = True
        value, _ = await api.ask("POST", VALIDATE, status=400)
        assert value["errors"][0]["line"] == 7


@running
async def test_reload():
    async with served() as api:
        value, _ = await api.ask("POST", RELOAD, json={"reason": "new endpoint"})
        assert value == {"changed": [], "restart": []}
        order = api.operations.orders[0]
        assert (order.actor, order.reason, order.dry_run) == ("local", "new endpoint", False)
        api.operations.reload_error = True
        value, _ = await api.ask("POST", RELOAD, status=400)
        problem = {"key": "services[0].limitz", "message": "is not known here"}
        assert value["errors"] == [problem | {"file": "tidegate.yaml", "line": 7, "column": 5}]
