"""The composed operations over the real controller, collector and store; no worker processes."""

import asyncio
import contextlib
import logging
from dataclasses import replace

import pytest

from proxy.clock import SystemClock
from proxy.config.compile import compile_file, compile_text
from proxy.controlplane.latch import Latch
from proxy.controlplane.lock import Place
from proxy.controlplane.notify import Notify
from proxy.controlplane.operations import Operations, Order
from proxy.controlplane.roster import Left
from proxy.controlplane.running import needs_restart
from proxy.controlplane.store import Store
from proxy.controlplane.supervisor import Supervisor
from proxy.errors import Refused
from proxy.ipc.layout import BOARD_BEAT
from proxy.metrics.expose import render

CONFIG = """
listen: 127.0.0.1:8080
admin: {listen: "127.0.0.1:9900"}
services:
  - name: web
    stable: {endpoints: ["http://127.0.0.1:9"]}
    new: {label: a, endpoints: ["http://127.0.0.1:10"]}
"""
OPERATOR = Order("somebody")


@contextlib.asynccontextmanager
async def supervised(tmp_path, text=CONFIG, *, file=True):
    path = tmp_path / "tidegate.yaml"
    path.write_text(text)
    store, latch = Store.open(None), Latch.open(None)
    supervisor = Supervisor(
        compile_file(path, {}) if file else compile_text(text, {}),
        place=Place(tmp_path / "lock", tmp_path / "workers", None),
        left=Left(),
        passed=(),
        store=store,
        latch=latch,
        notify=Notify({}, SystemClock()),
        worker=(),
        announce=lambda _: None,
        flush_log=lambda: None,
        clock=SystemClock(),
    )
    try:
        await supervisor._controller.start()
        yield supervisor
    finally:
        await supervisor._controller.close()
        supervisor._generations.close()
        supervisor._board.close()
        latch.close()
        store.close()


def test_everything_that_the_admin_api_asks_is_answered(tmp_path):
    async def main():
        async with supervised(tmp_path) as supervisor:
            running: Operations = supervisor.running
            await supervisor._tick(sweep=True)
            status = running.status()
            assert set(status) == {"version", "uptime_s", "workers", "services"}
            assert status["services"] == {"web": running.service("web")}
            assert running.service_name(None) == "web"
            assert running.weights("web")["stable"] == 100
            assert running.explain("web", {}, {}, None)["service"] == "web"
            assert running.histogram("web", 0, 60.0, "total")[0] == {}
            assert b"tidegate_workers" in render(running.exposition())
            assert running.ready() == (False, "no worker listens")
            assert running.config()["services"][0]["name"] == "web"
            assert (await running.set_weights("web", 2500, OPERATOR))["new"] == 25
            assert (await running.rollback("web", OPERATOR))["weights"]["new"] == 0
            registered = await running.put_new("web", "b", ["http://127.0.0.1:11"], OPERATOR)
            assert registered["versions"]["new"]["label"] == "b"
            assert "new" not in (await running.delete_new("web", OPERATOR))["versions"]
            events = await running.events(0, 100)
            assert {event["type"] for event in events} >= {"WeightsSet", "RolledBack"}
            assert [event async for event in _until_last(running.follow_events(0), events[-1]["seq"])] == events

    asyncio.run(main())


async def _until_last(events, seq):
    async for event in events:
        yield event
        if event["seq"] == seq:
            return


def test_a_tick_that_raises_is_counted_and_logged_once_and_does_not_beat(tmp_path, caplog, monkeypatch):
    async def main():
        async with supervised(tmp_path) as supervisor:
            words = supervisor._board.segment.words
            await supervisor._tick(sweep=True)
            assert words[BOARD_BEAT] == 1

            async def broken():
                raise ZeroDivisionError("no requests")

            sweeps = []
            with monkeypatch.context() as patch, caplog.at_level(logging.ERROR):
                patch.setattr(supervisor._controller, "tick", broken)
                patch.setattr(supervisor, "_sweep", lambda: sweeps.append(True))
                for _ in range(3):
                    await supervisor._tick(sweep=True)
            assert len(sweeps) == 3  # workers that hang are replaced all the same
            assert words[BOARD_BEAT] == 1
            assert len(caplog.records) == 1
            assert "no requests" in caplog.text
            assert "test_running.py" in caplog.text
            assert supervisor.running.exposition().snapshot.internal_errors == 3
            await supervisor._tick(sweep=True)
            assert words[BOARD_BEAT] == 2

    asyncio.run(main())


def test_a_log_that_broke_since_keeps_no_other_change_from_coming_into_force(tmp_path):
    async def main():
        logs = tmp_path / "logs"
        logs.mkdir()
        logged = CONFIG + "access_log: {path: logs/a.log}\n"
        async with supervised(tmp_path, logged) as supervisor:
            running, config = supervisor.running, tmp_path / "tidegate.yaml"
            logs.rmdir()
            config.write_text(logged.replace("label: a", "label: b"))
            notes = (await running.reload(OPERATOR))["notes"]
            assert (
                f"warning: {config}:8:20: access_log.path: cannot be opened, there is no directory {logs}: "
                "create it, or give another path; until then its lines are lost"
            ) in notes
            assert running.service("web")["versions"]["new"]["label"] == "b"
            config.write_text(logged.replace("a.log", "b.log"))
            with pytest.raises(Refused) as refused:
                await running.reload(OPERATOR)
            assert [problem.key for problem in refused.value.problems] == ["access_log.path"]
            assert running.service("web")["versions"]["new"]["label"] == "b"

    asyncio.run(main())


def test_a_reload_says_what_needs_a_restart_and_keeps_that_in_force(tmp_path):
    async def main():
        async with supervised(tmp_path) as supervisor:
            running = supervisor.running
            changed = CONFIG.replace(":8080", ":8081").replace('127.0.0.1:9"', '127.0.0.1:19"')
            (tmp_path / "tidegate.yaml").write_text(changed)
            before = running.config()
            assert (await running.reload(replace(OPERATOR, dry_run=True)))["needs_restart"] == ["listen"]
            assert running.config() == before
            answer = await running.reload(OPERATOR)
            assert (answer["valid"], answer["needs_restart"]) == (True, ["listen"])
            assert running.config()["listen"] == before["listen"]
            assert running.config()["services"] != before["services"]
            endpoint = supervisor._generations.current.table.services[0].stable.endpoints[0]
            assert endpoint.port == 19
            assert running.exposition().reloads == {"ok": 1, "failed": 0}

    asyncio.run(main())


def test_a_reload_of_a_bad_file_names_every_problem_and_changes_nothing(tmp_path):
    async def main():
        async with supervised(tmp_path) as supervisor:
            (tmp_path / "tidegate.yaml").write_text("listen: 1\nservice: []\n")
            with pytest.raises(Refused) as caught:
                await supervisor.running.reload(OPERATOR)
            assert (caught.value.status, caught.value.title) == (400, "ConfigInvalid")
            assert len(caught.value.problems) >= 2
            assert supervisor._generations.current.number == 1
            assert supervisor.running.exposition().reloads == {"ok": 0, "failed": 1}

    asyncio.run(main())


def test_a_refused_config_is_an_event_with_places_and_cures_and_no_secret(tmp_path, monkeypatch):
    monkeypatch.setenv("OPS_TOKEN", "a-token-that-nobody-may-see")

    async def main():
        async with supervised(tmp_path) as supervisor:
            tokens = "tokens: [{name: ops, role: chief, token: '${OPS_TOKEN}'}]"
            bad = CONFIG.replace('9900"}', f'9900", {tokens}}}').replace("stable:", "stabel:")
            (tmp_path / "tidegate.yaml").write_text(bad)
            await supervisor._reload_and_log()  # as a hang-up does
            with pytest.raises(Refused):
                await supervisor.running.reload(Order("ann", reason="friday"))
            with pytest.raises(Refused):
                await supervisor.running.reload(Order("ann", dry_run=True))  # that only asks
            hung_up, asked = [one for one in await supervisor.running.events(0, 100) if one["type"] == "ConfigRefused"]
            assert (hung_up["actor"], hung_up["service"], hung_up["reason"]) == ("SIGHUP", "", "ConfigInvalid")
            assert (asked["actor"], asked["evidence"]["asked"]) == ("ann", "friday")
            assert hung_up["evidence"]["problems"] == asked["evidence"]["problems"]
            said = "\n".join(hung_up["evidence"]["problems"])
            assert f"{tmp_path / 'tidegate.yaml'}:3:" in said
            assert "did you mean stable?" in said
            assert "a-token-that-nobody-may-see" not in str(hung_up)
            assert supervisor.running.exposition().reloads == {"ok": 0, "failed": 2}
            assert [one["type"] for one in supervisor._controller._store.last_events(100)].count("ConfigRefused") == 2

    asyncio.run(main())


def test_without_a_file_there_is_nothing_to_reload(tmp_path):
    async def main():
        async with supervised(tmp_path, file=False) as supervisor:
            with pytest.raises(Refused, match="without a config file") as caught:
                await supervisor.running.reload(OPERATOR)
            assert caught.value.status == 409

    asyncio.run(main())


def test_a_secret_read_from_a_file_needs_no_restart_and_another_token_does(tmp_path):
    token = tmp_path / "token"
    text = CONFIG.replace('9900"', f'9900", tokens: [{{name: ops, role: operator, token_file: {token}}}]')
    token.write_text("a" * 40)
    before = compile_text(text, {}).settings
    token.write_text("b" * 40)
    after = compile_text(text, {}).settings
    assert before.admin.tokens[0].token != after.admin.tokens[0].token
    assert needs_restart(before, after) == []
    assert needs_restart(before, compile_text(text.replace("ops", "dev"), {}).settings) == ["admin"]
