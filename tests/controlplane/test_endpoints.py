"""What takes endpoints out and lets them in, on a controller with everything real around it but time and the checks."""

import asyncio
import functools
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.controlplane.endpoints import SAID, Endpoints
from proxy.controlplane.generations import Generations, ServiceWords
from proxy.controlplane.operations import Order
from proxy.ipc import layout
from proxy.metrics.snapshot import EndpointCounts, ServiceCounts, VersionCounts, nothing
from proxy.rollout.plan import Limit, ServicePlan
from proxy.rollout.state import IDLE, ROLLED_BACK
from proxy.routing.health import Health
from proxy.routing.outlier import Eject
from proxy.routing.table import FULL, NEW, STABLE
from tests.controlplane.regions import A, B, C, service, table, version
from tests.controlplane.ruled import ANN, FakeClock, World

# No check ever comes by itself: what they would have found is put in by hand.
HEALTH = Health("/health", interval_s=3600.0)
PLAN = ServicePlan(
    "web",
    limits=(Limit("error_rate", max=0.01),),
    initial_weight=1000,
    health=HEALTH,
    eject=Eject(bad=0.2, window_s=10.0, min_requests=20, base_s=30.0, max_s=300.0),
    slow_start_s=10.0,
)
BOTH = table(service(stable=version("1", A, B), new=version("2", C, B)))
DOWN = layout.ENDPOINT_DOWN
EJECTED = layout.ENDPOINT_EJECTED


class Play(World):
    """A world whose checks find what a test says."""

    def find(self, version, url, why, name="web"):
        self.controller._endpoints._checked._pulses[name, version, url].why = why

    def control(self, version, index=0, generation=-1):
        """Return state and share of an endpoint's control word."""
        one = self.generations.live[generation]
        word = one.control.words[one.control_layout.endpoints[0][version][index]]
        return word & layout.ENDPOINT_STATE_MASK, FULL - (word >> layout.ENDPOINT_LACKS_SHIFT)

    def fail(self, version, index, times=30, bad=30):
        self.hand.end(version, status=500, kind="status", times=bad, endpoint=index)
        self.hand.end(version, times=times - bad, endpoint=index)

    def shown(self, version, index=0):
        name = "new" if version else "stable"
        one = self.controller.status.service_status("web")["versions"][name]["endpoints"][index]
        return one["state"], one["why"]

    def told(self, kind):
        return [event["evidence"] for event in self.store.last_events(1000) if event["type"] == kind]


def playing(test):
    """Run a test in a loop; its worlds are closed at its end."""

    @functools.wraps(test)
    def run(tmp_path):
        worlds = []

        async def start(plan=PLAN, made=BOTH):
            clock = FakeClock(5.0) if worlds else None
            worlds.append(Play(tmp_path / "state.db", (plan,), made, clock=clock))
            await worlds[-1].controller.start()
            return worlds[-1]

        async def whole():
            try:
                await test(start)
            finally:
                for world in worlds:
                    await world.settle()
                    await world.controller._endpoints.close()
                    if world.generations.live:
                        world.close()

        asyncio.run(whole())

    del run.__wrapped__  # pytest would look through it and want `start`
    return run


READY = (layout.ENDPOINT_READY, FULL)


@playing
async def test_a_failed_check_takes_out_in_the_next_tick_and_is_told(start):
    world = await start()
    assert world.control(STABLE) == READY
    world.find(STABLE, A.url, "3 checks failed: 503")
    await world.tick()
    await world.settle()
    assert world.control(STABLE) == (DOWN, FULL)
    assert world.shown(STABLE) == ("down", "3 checks failed: 503")
    assert world.told("EndpointDown") == [{"version": "stable", "url": A.url, "why": "3 checks failed: 503"}]
    world.find(STABLE, A.url, "")
    await world.tick()
    await world.settle()
    assert world.control(STABLE)[0] == layout.ENDPOINT_READY
    assert world.told("EndpointUp") == [{"version": "stable", "url": A.url, "was": "3 checks failed: 503"}]
    assert world.shown(STABLE) == ("ready", "slow start: 10% of its share")


@playing
async def test_the_share_of_one_that_comes_back_grows_to_the_full_one(start):
    world = await start()
    world.find(STABLE, A.url, "down")
    await world.tick()
    world.find(STABLE, A.url, "")
    shares = []
    for _ in range(42):
        await world.tick()
        shares.append(world.control(STABLE)[1])
    assert shares[0] == FULL // 10
    assert shares == sorted(shares)
    assert abs(shares[20] - FULL // 2) < 10
    assert world.control(STABLE) == READY
    assert world.shown(STABLE) == ("ready", "")
    # One that is alone has its full share at once.
    alone = await start(made=table())
    alone.find(NEW, B.url, "down")
    await alone.tick()
    assert alone.control(NEW) == (DOWN, FULL)
    alone.find(NEW, B.url, "")
    await alone.tick()
    assert alone.control(NEW) == READY


@playing
async def test_what_a_person_says_outranks_the_checks(start):
    world = await start()
    await world.controller.endpoint_changes.set_endpoint("web", STABLE, A.url, "drain", ANN)
    world.find(STABLE, A.url, "down")
    await world.tick()
    assert world.shown(STABLE) == ("drain", "set by an operator")
    # Nor does "ready" help one that is down.
    await world.controller.endpoint_changes.set_endpoint("web", STABLE, A.url, "ready", ANN)
    await world.tick()
    assert world.shown(STABLE) == ("down", "down")
    world.find(STABLE, A.url, "")
    await world.tick()
    assert world.control(STABLE) == (layout.ENDPOINT_READY, FULL // 10)
    await world.controller.endpoint_changes.set_endpoint("web", STABLE, A.url, "maintenance", ANN)
    assert world.control(STABLE) == (layout.ENDPOINT_MAINTENANCE, FULL)


@playing
async def test_after_a_restart_what_was_down_is_down_until_it_passes(start):
    world = await start()
    world.find(STABLE, A.url, "3 checks failed: 503")
    world.find(STABLE, B.url, "3 checks failed: 503")
    await world.tick()
    await world.settle()
    await world.controller.endpoint_changes.set_endpoint("web", STABLE, B.url, "drain", Order("ann"))
    await world.tick(1.0)
    await world.settle()
    world.close()
    again = await start()
    # In the first generation, before any worker has seen it; and a person's word was not lost.
    assert again.shown(STABLE) == ("down", "was down before the restart")
    assert again.shown(STABLE, 1) == ("drain", "set by an operator")
    again.find(STABLE, A.url, "")
    await again.tick()
    await again.settle()
    again.close()
    third = await start()
    assert third.shown(STABLE) == ("ready", "")
    third.close()
    # Without checks there is nobody who could find it up again.
    world = await start(replace(PLAN, health=None))
    assert world.shown(STABLE) == ("ready", "")


@playing
async def test_what_could_not_be_stored_is_stored_later(start):
    world = await start()
    await world.settle()
    world.break_store()
    world.find(STABLE, A.url, "down")
    await world.tick()
    await world.settle()
    assert world.store.load().endpoints == {}
    world.mend_store()
    await world.tick(times=5)
    await world.settle()
    assert world.store.load().endpoints == {("web", STABLE, A.url): DOWN}


@playing
async def test_a_reload_keeps_what_is_known_of_unchanged_endpoints(start):
    world = await start()
    world.find(STABLE, A.url, "down")
    world.fail(STABLE, 1)
    await world.tick()
    changed = table(service(stable=version("1.1", A, B, C), new=version("2", C, B)))
    await world.controller.reloads.reload((PLAN,), changed, ANN)
    for generation in (0, 1):
        assert world.control(STABLE, 0, generation) == (DOWN, FULL)
    # Without checks it is ready, and without it in the table nobody knows of it.
    await world.controller.reloads.reload((replace(PLAN, health=None),), changed, ANN)
    assert world.control(STABLE)[0] == layout.ENDPOINT_READY
    await world.controller.reloads.reload((PLAN,), table(service(stable=version("1.2", B))), ANN)
    await world.tick()
    await world.controller.reloads.reload((PLAN,), BOTH, ANN)
    await world.tick()
    assert world.control(STABLE) == READY


@playing
async def test_a_generation_begins_with_what_is_known(start):
    world = await start()
    world.find(NEW, C.url, "3 checks failed: 503")
    await world.tick()
    await world.controller.endpoint_changes.set_endpoint("web", STABLE, A.url, "drain", ANN)
    seen = []
    world.on_switch = lambda: seen.append((world.control(STABLE), world.control(STABLE, 1)))
    # What was an endpoint of new is one of stable; one that was taken out by a person comes again.
    await world.controller.reloads.reload((PLAN,), table(service(stable=version("2", B, C))), ANN)
    await world.controller.reloads.reload((PLAN,), table(service(stable=version("2", A, C))), ANN)
    assert seen == [(READY, (DOWN, FULL)), ((layout.ENDPOINT_DRAIN, FULL), (DOWN, FULL))]
    assert world.shown(STABLE, 1)[0] == "down"


@playing
async def test_an_endpoint_of_stable_that_fails_more_than_its_sibling_is_ejected_and_returns(start):
    world = await start()
    world.fail(STABLE, 0, times=120, bad=50)
    world.fail(STABLE, 1, times=100, bad=1)
    await world.tick()
    await world.settle()
    assert world.control(STABLE) == (EJECTED, FULL)
    assert world.shown(STABLE) == ("ejected", "ejected: 42% bad of 120, returns in 30 s")
    assert world.told("EndpointEjected") == [
        {"version": "stable", "url": A.url, "bad": 50, "n": 120, "times": 1, "out_s": 30.0, "why": "42% bad of 120"}
    ]
    assert world.store.last_events(1)[0]["reason"] == "WorseThanSiblings"
    assert world.controller.status.standings()["web"].ejections == (1, 0)
    await world.tick(30.0)
    await world.settle()
    assert world.control(STABLE) == (layout.ENDPOINT_READY, FULL // 10)
    assert world.told("EndpointReturned") == [{"version": "stable", "url": A.url}]
    assert world.store.last_events(1)[0]["reason"] == "EjectionOver"
    # Nothing is rolled back for it, and nothing of it is forgotten.
    assert world.state().phase == IDLE
    assert world.controller.status.service_status("web")["versions"]["stable"]["bad"] == 51


@playing
async def test_no_ejection_leaves_a_version_without_an_endpoint(start):
    world = await start()
    world.fail(STABLE, 0)
    world.fail(STABLE, 1, bad=0)
    await world.tick()
    assert world.control(STABLE)[0] == EJECTED
    world.find(STABLE, B.url, "down")
    await world.tick()
    assert (world.control(STABLE)[0], world.control(STABLE, 1)[0]) == (layout.ENDPOINT_READY, DOWN)
    assert world.controller.services.entry("web").watch.stable_ready


@playing
async def test_a_new_with_one_bad_endpoint_of_two_is_rolled_back_before_anything_is_ejected(start):
    world = await start()
    for _ in range(40):
        world.fail(NEW, 0, times=40, bad=40)
        world.fail(NEW, 1, times=40, bad=0)
        await world.tick()
        if world.state().phase == ROLLED_BACK:
            break
    await world.settle()
    assert world.state().reason == "ErrorRateAboveLimit"
    assert world.told("EndpointEjected") == []
    assert world.types().count("RolledBack") == 1


@playing
async def test_a_new_within_its_limits_loses_its_worst_endpoint_after_a_whole_window(start):
    world = await start(replace(PLAN, limits=(Limit("error_rate", max=0.9),)))
    for _ in range(40):
        world.fail(NEW, 0, times=40, bad=20)
        world.fail(NEW, 1, times=40, bad=0)
        await world.tick()
    assert world.control(NEW)[0] == layout.ENDPOINT_READY
    world.fail(NEW, 0, times=40, bad=20)
    await world.tick()
    await world.settle()
    assert world.control(NEW)[0] == EJECTED
    assert world.controller.status.standings()["web"].ejections == (0, 1)
    # What failed there stays charged.
    assert world.controller.services.counts("web").versions[NEW].judged.bad == 41 * 20


@playing
async def test_where_nothing_is_to_be_said_nothing_is_done(start):
    world = await start(replace(PLAN, health=None, eject=None))
    world.fail(STABLE, 0)
    world.fail(STABLE, 1, bad=0)
    await world.tick(times=5)
    assert world.control(STABLE) == READY
    assert world.told("EndpointEjected") == []


URLS = (A, B, C)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("say"), st.integers(0, 2), st.sampled_from(sorted(SAID.values()))),
        st.tuples(st.just("check"), st.integers(0, 2), st.booleans()),
        st.tuples(st.just("answer"), st.integers(0, 2), st.integers(0, 40)),
        st.tuples(st.just("pass"), st.just(0), st.sampled_from([0.25, 5.0, 40.0])),
        st.tuples(st.just("reload"), st.just(0), st.booleans()),
    ),
    max_size=40,
)


@given(STEPS)
@settings(max_examples=60)
def test_whatever_happens_the_strongest_word_counts_and_nobody_is_ejected_into_silence(steps):
    asyncio.run(lived(steps))


async def lived(steps):
    made = table(service(stable=version("1", *URLS)))
    generations = Generations()
    endpoints = Endpoints(generations)
    totals = {one.url: [0, 0] for one in URLS}
    now, said, down = 1000.0, {}, set()

    def begin():
        endpoints.follow([PLAN], made, now)
        generations.create(made, {"web": ServiceWords(0, 0, 1)})
        endpoints.store(now)

    def words():
        one = generations.current
        return [one.control.words[at] for at in one.control_layout.endpoints[0][STABLE]]

    begin()
    try:
        for what, at, value in steps:
            url = URLS[at].url
            if what == "say":
                endpoints.say(("web", STABLE, url), value, now)
                said[url] = value
            elif what == "check":
                endpoints._checked._pulses["web", STABLE, url].why = "503" if value else ""
                (down.add if value else down.discard)(url)
            elif what == "answer":
                totals[url][0] += 40
                totals[url][1] += value
            elif what == "pass":
                now += value
            else:
                begin()
            counts = [EndpointCounts(url, "", *of) for url, of in totals.items()]
            pair = (
                VersionCounts("stable", "", 1, nothing(), endpoints=tuple(counts)),
                VersionCounts("new", "", 1, nothing()),
            )
            endpoints.look({"web": ServiceCounts("web", (), pair)}, now)
            states = [word & layout.ENDPOINT_STATE_MASK for word in words()]
            for one, state, word in zip(URLS, states, words(), strict=True):
                if said.get(one.url):
                    assert state == said[one.url]
                elif one.url in down:
                    assert state == DOWN
                else:
                    assert state in (layout.ENDPOINT_READY, EJECTED)
                assert state in (word, layout.ENDPOINT_READY)  # only those that are ready lack something
                assert (endpoints.why(("web", STABLE, one.url), now) == "") == (word == 0)
            serving = [one.url for one in URLS if not said.get(one.url) and one.url not in down]
            assert states.count(EJECTED) <= len(serving) // 2
            assert not serving or layout.ENDPOINT_READY in states
    finally:
        await endpoints.close()
        generations.close()
