import asyncio

from proxy.aio import every


class StandingClock:
    """A loop's time that moves only when somebody sleeps."""

    def __init__(self, monkeypatch, loop):
        self.now = 100.0
        monkeypatch.setattr(loop, "time", lambda: self.now)
        monkeypatch.setattr("proxy.aio.asyncio.sleep", self.sleep)

    async def sleep(self, seconds):
        self.now += max(0.0, seconds)


def test_the_timer_keeps_its_phase_and_skips_what_was_missed(monkeypatch):
    async def main():
        clock = StandingClock(monkeypatch, asyncio.get_running_loop())
        turns = []
        async for missed in every(0.25):
            turns.append((clock.now, missed))
            if len(turns) == 2:
                clock.now += 0.9  # a long turn
            if len(turns) == 5:
                break
        assert turns == [(100.25, 0), (100.5, 0), (101.4, 2), (101.5, 0), (101.75, 0)]

    asyncio.run(main())


def test_a_slow_start_of_each_turn_does_not_add_up(monkeypatch):
    async def main():
        clock = StandingClock(monkeypatch, asyncio.get_running_loop())
        turns = []
        async for _ in every(0.25):
            turns.append(round(clock.now, 6))
            clock.now += 0.1
            if len(turns) == 100:
                break
        assert turns[-1] == 125.0

    asyncio.run(main())
