"""What holds whatever happens: any order of blocks, orders, failing disks and kills; and real SIGKILLs."""

import asyncio
import signal
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from proxy.controlplane import commits
from proxy.controlplane.commits import PATIENCE_S
from proxy.controlplane.operations import Order
from proxy.controlplane.supervisor import _words_of as words_of
from proxy.errors import Refused
from proxy.rollout.plan import Limit, Plan, ServicePlan, Stage
from proxy.rollout.state import PROGRESSING, ROLLED_BACK
from proxy.routing.split import seed_of
from tests.controlplane.regions import table
from tests.controlplane.ruled import ANN, FakeClock, World, begun

ROOT = Path(__file__).parents[2]
LIMITS = (Limit("error_rate", max=0.01, window_s=10.0),)
STAGES = (Stage("few", 500, 1.0), Stage("half", 5000, 1.0), Stage("full", 10_000, 1.0))
PLANS = (ServicePlan("web", limits=LIMITS, initial_weight=1000, rollouts=(Plan("default", STAGES),)),)
TABLE = table()

steps = st.one_of(
    st.tuples(st.just("block"), st.sampled_from(["good", "bad", "quiet"])),
    st.tuples(st.just("weight"), st.sampled_from([0, 1, 500, 3000, 10_000]), st.none() | st.sampled_from([1, 2, 3])),
    st.tuples(st.just("ttl"), st.sampled_from([500, 3000])),
    st.tuples(st.just("rollback")),
    st.tuples(st.just("new"), st.sampled_from(["2", "3"])),
    st.tuples(st.just("pass"), st.sampled_from([1.5, 40.0])),
    st.tuples(st.just("disk"), st.booleans()),
    st.tuples(st.just("kill")),
    st.tuples(
        st.just("rollout"), st.sampled_from(["start", "start", "promote", "promote", "pause", "resume", "finish"])
    ),
)


async def carry_out(world, what, *values):
    controller = world.controller
    if what == "block":
        {"good": world.good, "bad": world.bad, "quiet": lambda: None}[values[0]]()
        await world.tick()
    elif what == "pass":
        await world.tick(values[0])
    elif what == "disk":
        world.mend_store() if values[0] else world.break_store()
    elif what == "rollback":
        await controller.weights.rollback("web", ANN)
    elif what == "rollout":
        order = {"start": lambda: controller.rollouts.start("web", None, ANN)}.get(
            values[0], lambda: getattr(controller.rollouts, values[0])("web", ANN)
        )
        await order()
    elif what == "new":
        await controller.versions.put_new("web", values[0], ["http://127.0.0.1:9002"], ANN)
    elif what == "ttl":
        await controller.weights.set_weights("web", values[0], ANN, ttl_s=30)
    else:
        await controller.weights.set_weights("web", values[0], Order("ann", if_match=values[1]))


def check(world, before):
    """Words, seed, latch and state say the same, and every change has a number."""
    state = world.state()
    assert world.word() == state.weight_bp
    assert world.seed() == seed_of(state.salt)
    if state.phase == ROLLED_BACK:
        assert state.weight_bp == 0
        assert world.latch.read("web") is not None
    changed = [getattr(state, name) != getattr(before, name) for name in ("weight_bp", "phase", "reason", "salt")]
    assert state.revision > before.revision if any(changed) else state.revision >= before.revision


def stage_went_on(world, before):
    rollout = world.state().rollout
    return before.phase == PROGRESSING and rollout is not None and rollout.stage > before.rollout.stage


async def live(directory, history):
    path = Path(directory) / "state.db"
    world = await begun(path, PLANS, TABLE)
    try:
        for what, *values in history:
            before = world.state()
            if what == "kill":
                most = max(before.weight_bp, world.store.load().rows["web"].weight_bp)
                world.close()
                world = await begun(path, PLANS, TABLE, clock=FakeClock(3.0))
                # Never more than was in force or stored; what was shut is shut, stored or not.
                assert world.word() <= most
                assert before.phase != ROLLED_BACK or world.state().phase == ROLLED_BACK
                continue
            try:
                await carry_out(world, what, *values)
            except Refused:
                # The same weight for another time is no lowering: it may make it last longer.
                lowers = what == "rollback" or (what in ("weight", "ttl") and values[0] < before.weight_bp)
                assert not lowers, "what lowers new is never refused"
                assert world.state() == before
            await world.settle()
            check(world, before)
            # Only a person's order makes it more.
            assert (
                what in {"weight", "ttl", "rollout"} or world.word() <= before.weight_bp or stage_went_on(world, before)
            )
    finally:
        await world.settle()
        world.close()


@settings(max_examples=settings().max_examples // 2)
@given(st.lists(steps, max_size=14))
def test_laws_that_hold_whatever_happens(history):
    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(live(directory, history))


TAKE = Order("ann", take_over=True)
AT_0 = replace(PLANS[0], initial_weight=0)
OTHER = replace(AT_0, rollouts=(Plan("default", (Stage("other", 2000, 2.0), *STAGES[1:])),))
orders = {
    "start": lambda host: host.rollouts.start("web", None, ANN),
    "pause": lambda host: host.rollouts.pause("web", ANN),
    "resume": lambda host: host.rollouts.resume("web", ANN),
    "promote": lambda host: host.rollouts.promote("web", ANN),
    "full": lambda host: host.rollouts.promote("web", ANN, full=True),
    "finish": lambda host: host.rollouts.finish("web", ANN),
    "rollback": lambda host: host.weights.rollback("web", ANN),
    "weight 0": lambda host: host.weights.set_weights("web", 0, TAKE),
    "weight 1": lambda host: host.weights.set_weights("web", 100, TAKE),
    "weight 50": lambda host: host.weights.set_weights("web", 5000, TAKE),
    "weight 100": lambda host: host.weights.set_weights("web", 10_000, TAKE, ttl_s=30),
    "new": lambda host: host.versions.put_new("web", "3", ["http://127.0.0.1:9002"], ANN),
    "no new": lambda host: host.versions.delete_new("web", ANN),
    "plan kept": lambda host: host.reloads.reload((OTHER,), TABLE, replace(ANN, running_plan="keep")),
    "plan anew": lambda host: host.reloads.reload((OTHER,), TABLE, replace(ANN, running_plan="restart")),
}
# What comes before leads to where something is to be seen: a rollout, everybody on new, a rollback.
befores = st.sampled_from(
    [(), ("start",), ("start", "promote"), ("start", "full"), ("start", "full", "promote"), ("rollback",)]
)
given_orders = st.tuples(st.just("order"), st.sampled_from(sorted(orders)))
happens = st.one_of(
    given_orders,
    st.tuples(st.just("block"), st.sampled_from(["good", "good", "bad"])),
    st.tuples(st.just("disk"), st.booleans()),
    st.tuples(st.just("patience"), st.booleans()),
    st.tuples(st.just("refuse")),
)
# While the store or the workers hang something is decided or ordered, and something else ordered; then all goes on.
first = given_orders | st.tuples(st.just("block"), st.just("good"))
scenes = st.tuples(
    st.sampled_from(["store", "store", "switch"]),
    st.lists(happens, max_size=1),
    first,
    given_orders,
    st.lists(happens, max_size=1),
)


class Slow:
    """A world whose store and workers answer when they are let, and refuse when they are told."""

    def __init__(self, world):
        self.world = world
        self.store = ExitStack()
        self.workers = asyncio.Event()
        self.workers.set()
        self.refuses = False
        self.given = {}
        self.saved = []
        self.held = False
        world.controller.services.switch = self.switch
        save = world.store._save
        world.store._save = lambda change: (
            save(change),
            self.saved.extend(change.rows.values()),
        )

    async def switch(self, made, words):
        """Bring a table as the supervisor does."""
        world = self.world
        before = world.generations.current
        await world.switch(made, words)
        await self.workers.wait()
        if self.refuses:
            self.refuses = False
            await world.switch(before.table, words_of(before))
            raise Refused(500, "TableRefused", "no")

    def hold_store(self, held):
        if held != self.held:
            self.held = held
            if held:
                self.store.enter_context(self.world.slow_store())
            else:
                self.store.close()

    async def turn(self):
        """Let everything come as far as it does."""
        for _ in range(3):
            if not self.held:
                await asyncio.to_thread(lambda: self.world.store._run(int).result())
            for _ in range(10):
                await asyncio.sleep(0)

    async def let_go(self):
        self.hold_store(False)
        self.workers.set()
        await self.world.settle()


def words_are_the_state(slow):
    world = slow.world
    state, entry = world.state(), world.controller.services.entry("web")
    if entry.pending is not None or world.controller.services.changing.locked():
        return
    check(world, state)
    assert world.watchdog_off() == state.watchdog_off
    assert (world.latch.read("web") is not None) == (state.phase == ROLLED_BACK)


def flat(history):
    for held, before, first, second, then in history:
        yield from (*before, (held, True), first, second, *then, (held, False))


async def interleave(directory, before, history):
    world = await begun(Path(directory) / "state.db", (AT_0,), TABLE)
    slow = Slow(world)
    try:
        for name in before:
            await orders[name](world.controller)
        for what, *values in flat(history):
            word, stored = world.word(), len(slow.saved)
            if what == "order":
                slow.given[len(slow.given), values[0]] = asyncio.create_task(orders[values[0]](world.controller))
            elif what == "block":
                for _ in range(2):
                    if world.hand.generation.table.services[0].new.endpoints:
                        {"good": world.good, "bad": world.bad}[values[0]]()
                    await world.tick(1.0)
            elif what == "store":
                slow.hold_store(values[0])
            elif what == "switch":
                slow.workers.clear() if values[0] else slow.workers.set()
            elif what == "disk" and not slow.held:
                world.mend_store() if values[0] else world.break_store()
            elif what == "patience":
                commits.PATIENCE_S = PATIENCE_S if values[0] else 0.0
            elif what == "refuse":
                slow.refuses = True
            await slow.turn()
            words_are_the_state(slow)
            # Towards risk: stored before it is done; what lowers that is done before it is stored.
            known = world.state().revision in {row.revision for row in slow.saved}
            assert known or world.word() <= max([word, *(row.weight_bp for row in slow.saved[stored:])])
        await slow.let_go()
        world.mend_store()
        for (_, name), done in slow.given.items():
            error = done.exception()
            assert error is None or (isinstance(error, Refused) and name not in ("rollback", "weight 0")), error
        await world.tick(1.0, times=2)
        await world.settle()
        assert world.controller.services.entry("web").pending is None
        words_are_the_state(slow)
        state, row = world.state(), world.store.load().rows["web"]
        assert (row.phase, row.weight_bp, row.revision, row.salt) == (
            state.phase,
            state.weight_bp,
            state.revision,
            state.salt,
        )
    finally:
        commits.PATIENCE_S = PATIENCE_S
        await slow.let_go()
        world.close()


@settings(max_examples=settings().max_examples // 2)
@example(("start",), [("store", [], ("block", "good"), ("order", "pause"), [])])
@example(("start",), [("store", [], ("block", "good"), ("order", "weight 50"), [])])
@example(("start", "full"), [("store", [], ("block", "good"), ("order", "weight 100"), [])])
@example((), [("store", [], ("order", "start"), ("order", "rollback"), [("order", "weight 1")])])
@example(("start", "full", "promote"), [("switch", [("refuse",)], ("order", "finish"), ("order", "rollback"), [])])
@given(befores, st.lists(scenes, max_size=3))
def test_state_words_seed_flags_and_latch_are_one_whatever_is_ordered_while_something_is_stored(before, history):
    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(interleave(directory, before, history))


KILLED = """
import asyncio, os, signal, sys
from pathlib import Path
from proxy.controlplane.latch import Latch
from tests.controlplane.ruled import ANN, begun
from tests.controlplane.test_controller_laws import PLANS, TABLE

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

async def main(path, where):
    world = await begun(path, PLANS, TABLE)
    await world.settle()
    if where == "latched":
        shut = world.latch.shut
        world.latch.shut = lambda *given: (shut(*given), die())
    elif where == "submitted":
        save = world.store.save
        world.store.save = lambda change: (save(change), die())
    elif where == "stored":
        save = world.store.save
        world.store.save = lambda change: (save(change).result(), die())
    elif where == "opening":
        await world.controller.weights.rollback("web", ANN)
        await world.settle()
        world.latch.clear = die
        await world.controller.weights.set_weights("web", 3000, ANN)
    world.bad()
    await world.tick()

asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("where", ["latched", "submitted", "stored", "opening"])
def test_killed_by_the_kernel_at_the_worst_instants_it_stays_shut(tmp_path, where):
    path = tmp_path / "state.db"
    done = subprocess.run([sys.executable, "-c", KILLED, str(path), where], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL

    async def again():
        world = await begun(path, PLANS, TABLE)
        assert (world.word(), world.state().phase) == (0, ROLLED_BACK)
        # And only a person opens it.
        await world.tick(times=20)
        assert world.word() == 0
        await world.controller.weights.set_weights("web", 100, Order("ann"))
        assert world.word() == 100
        await world.settle()
        world.close()

    asyncio.run(again())


def test_a_world_that_is_closed_leaves_no_descriptor_behind(tmp_path):
    def descriptors():
        return len(list(Path("/proc/self/fd").iterdir()))

    async def once():
        world = await begun(tmp_path / "state.db", PLANS, TABLE)
        assert isinstance(world, World)
        await world.controller.close()
        world.close()

    before = descriptors()
    asyncio.run(once())
    assert descriptors() == before
