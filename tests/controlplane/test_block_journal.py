"""The block journal of a real controller: what is judged is written down, and judged again it says the same."""

import asyncio
import json
from dataclasses import replace

import pytest

from proxy.controlplane.blocks import Blocks
from proxy.ipc import layout
from proxy.rollout.recording import read
from proxy.rollout.replay import replay
from proxy.rollout.state import PROGRESSING
from proxy.routing.table import NEW
from tests.controlplane.ruled import ANN, World
from tests.controlplane.test_controller import TABLE, running
from tests.controlplane.test_rollouts import PLANS, flow, last


def journalled(world):
    world.controller._blocks = blocks = Blocks(world.store.path.with_name("blocks"))
    return blocks


def read_lines(blocks):
    lines = [json.loads(line) for line in blocks.path("web").read_text().splitlines()]
    return [line["header"] for line in lines if "header" in line], [line for line in lines if "t" in line]


@running
async def test_every_judged_block_is_in_the_journal(start):
    world = await start(PLANS)
    blocks = journalled(world)
    await world.tick()
    await world.controller.rollouts.start("web", None, ANN)
    await flow(world, 5)
    blocks.close()
    (header,), lines = read_lines(blocks)
    assert header["limits"] == {"error_rate": 0.01, "p99": 200}
    assert (header["judged"]["stage"], header["judged"]["weight"]) == ("canary", 1)
    assert len(lines) == 20
    assert lines[0]["new"] == {"requests": 10, "bad": 0, "client_errors": 0, "over": {"p99": 0}, "within": {"p99": 10}}
    assert lines[1]["t"] - lines[0]["t"] == pytest.approx(0.25, abs=1e-3)
    assert sum("hist" in line["new"] for line in lines) in (4, 5)


@running
async def test_the_first_block_of_a_new_trial_begins_when_the_gate_is_opened(start):
    world = await start(PLANS)
    blocks = journalled(world)
    await world.controller.rollouts.start("web", None, ANN)
    await flow(world, 1)
    await world.controller.weights.rollback("web", ANN)
    await world.tick()
    world.bad(30)
    world.clock.pass_s(0.1)
    await world.controller.rollouts.start("web", None, ANN)
    world.good(10)
    world.clock.pass_s(0.15)
    await world.controller.tick()
    await flow(world, 1)
    assert world.state().phase == PROGRESSING
    assert world.controller.status.service_status("web")["stage"]["requests"] == 50
    blocks.close()
    _, lines = read_lines(blocks)
    assert [line["new"]["requests"] for line in lines[4:]] == [10] * 5
    assert not any(line["new"]["bad"] for line in lines)


async def begun_with_weight(path):
    world = World(path, [replace(PLANS[0], initial_weight=5000)], TABLE)
    blocks = journalled(world)
    await world.controller.start()
    await flow(world, 1)
    await world.settle()
    blocks.close()
    world.close()
    return blocks


def test_a_journal_begins_with_a_service_that_has_weight_from_the_first_start(tmp_path):
    _, lines = read_lines(asyncio.run(begun_with_weight(tmp_path / "state.db")))
    assert [line["new"]["requests"] for line in lines[-3:]] == [10, 10, 10]


@running
async def test_the_block_that_rolled_back_is_the_last_one_and_is_judged_so_again(start):
    world = await start(PLANS)
    blocks = journalled(world)
    await world.tick()
    await world.controller.rollouts.start("web", None, ANN)
    await flow(world, 15)
    while world.state().phase == PROGRESSING:
        world.bad(10)
        await world.tick()
    await world.settle()
    await flow(world, 5)
    blocks.close()
    headers, lines = read_lines(blocks)
    assert len(headers) > 1
    event = last(world, "RolledBack")
    assert lines[-1]["t"] == pytest.approx(event["time"], abs=0.01)
    with blocks.path("web").open() as file:
        found = replay(read(file))
    assert (found.rollback.t, found.rollback.reason) == (lines[-1]["t"], event["reason"])
    for key in ("n", "bad", "limit", "judge", "since_breach", "alarm_at"):
        assert found.rollback.evidence[key] == event["evidence"][key]


def hang(world, passed, ended):
    """So many requests of `new` pass the limit of 200 ms in this block, and so many that passed it before end well."""
    at = world.hand.version_at(NEW)
    world.hand.add(at + layout.VERSION_SLOW, passed)
    world.hand.add(at + layout.VERSION_ENDED, ended)
    world.hand.add(at + layout.VERSION_CODES + 200, ended)
    world.hand.add(at + layout.VERSION_ENDED_WITHIN + 1, ended)


@running
async def test_requests_that_hang_are_slow_once_and_never_fast(start):
    world = await start(PLANS)
    blocks = journalled(world)
    await world.tick()
    await world.controller.rollouts.start("web", None, ANN)
    await flow(world, 5, new=40)
    hung = 0
    for number in range(400):
        if world.state().phase != PROGRESSING:
            break
        # What hung in one block ends in the next: the line has it as slow in the one and as a request in the other.
        slow = 1 - number % 2
        hang(world, slow, hung)
        hung = slow
        await flow(world, 0.25, new=4)
    blocks.close()
    event = last(world, "RolledBack")
    with blocks.path("web").open() as file:
        found = replay(read(file))
    assert event["reason"] == "P99AboveLimit"
    assert (found.rollback.t, found.rollback.reason) == (pytest.approx(event["time"], abs=0.01), event["reason"])
    for key in ("n", "slower", "evidence", "since_breach", "alarm_at"):
        assert found.rollback.evidence[key] == event["evidence"][key]


@running
async def test_every_rollout_of_a_service_can_be_judged_again(start):
    world = await start(PLANS)
    blocks = journalled(world)
    await world.tick()
    for bad in (10, 0):
        await world.controller.rollouts.start("web", None, ANN)
        await flow(world, 4, bad=bad)
        await flow(world, 11)
    blocks.close()
    with blocks.path("web").open() as file:
        first, second = read(file).trials()
    assert replay(first).rollback.t == first.ended
    assert replay(second).rollback is None
    assert {block.header.judged.stage for block in second.blocks} == {"canary", "half"}


@running
async def test_a_line_is_a_block_however_often_the_controller_looks(start):
    world = await start([replace(PLANS[0], block_s=1.0)])
    blocks = journalled(world)
    await world.tick()
    await world.controller.rollouts.start("web", None, ANN)
    await flow(world, 10)
    blocks.close()
    _, lines = read_lines(blocks)
    assert 10 <= len(lines) <= 11
    assert {line["new"]["requests"] for line in lines[2:]} == {40}  # blocks lie on a grid
