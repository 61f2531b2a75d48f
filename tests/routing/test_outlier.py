"""Laws of ejection: never more than half, everybody returns, the worst first, and no data says nothing."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proxy.routing.outlier import Eject, Ejection, Outliers, Return

RULE = Eject(bad=0.2, window_s=10.0, min_requests=20, base_s=30.0, max_s=300.0)


class Played:
    """A version whose endpoints answer as they are told, block after block."""

    def __init__(self, count, rule=RULE, patience_s=0.0):
        self.now = 1000.0
        self.outliers = Outliers(rule, patience_s)
        self.totals = [[0, 0] for _ in range(count)]
        self.serves = [True] * count
        self.look()

    def look(self):
        totals = {str(at): tuple(one) for at, one in enumerate(self.totals)}
        return self.outliers.look(totals, lambda url: self.serves[int(url)], self.now)

    def block(self, *answers, seconds=0.25):
        """Let (ended, bad) happen at each endpoint that is in; return what changed."""
        out = self.out
        for at, (ended, bad) in enumerate(answers):
            if str(at) not in out:
                self.totals[at][0] += ended
                self.totals[at][1] += bad
        self.now += seconds
        return self.look()

    @property
    def out(self):
        return set(self.outliers.out)


def test_one_that_fails_more_than_its_siblings_is_ejected_and_returns():
    played = Played(3)
    assert played.block((30, 9), (30, 0), (30, 1)) == [Ejection("0", 9, 30, 1000.25, 1030.25, 1)]
    assert played.block((10, 10), (30, 0), (30, 0), seconds=29.9) == []
    assert played.block((10, 10), (30, 0), (30, 0), seconds=0.1) == [Return("0", early=False)]
    assert played.out == set()


def test_what_fails_everywhere_ejects_nobody():
    played = Played(4)
    for _ in range(40):
        assert played.block((30, 15), (30, 14), (30, 16), (30, 10)) == []


def test_few_requests_say_nothing():
    played = Played(2)
    assert played.block((19, 19), (100, 0)) == []
    assert played.block((1, 1), (0, 0))[0].url == "0"
    # Nor is one with few requests a measure for its siblings.
    alone = Played(2)
    assert alone.block((100, 100), (19, 0)) == []


def test_what_is_older_than_the_window_is_forgotten():
    played = Played(2)
    played.block((19, 19), (100, 0))
    for _ in range(41):
        played.block((0, 0), (30, 0))
    assert played.block((19, 19), (30, 0)) == []
    assert played.block((1, 1), (30, 0))[0].ended == 20


def test_the_time_doubles_with_every_return_to_failing_and_is_bounded():
    played = Played(2)
    lasted = []
    for _ in range(6):
        [ejection] = played.block((30, 30), (30, 0))
        lasted.append((ejection.until - ejection.began, ejection.times))
        [back] = played.block((0, 0), (30, 0), seconds=ejection.until - ejection.began)
        assert back == Return("0", early=False)
    assert lasted == [(30, 1), (60, 2), (120, 3), (240, 4), (300, 5), (300, 6)]


def test_one_that_was_well_for_as_long_as_it_was_out_begins_anew():
    played = Played(2)
    for times in (1, 2, 1):
        [ejection] = played.block((30, 30), (30, 0))
        assert ejection.times == times
        played.block((0, 0), (30, 0), seconds=ejection.until - ejection.began)
        if times == 2:
            played.block((30, 0), (30, 0), seconds=60.0)


def test_patience_lets_others_see_it_first():
    played = Played(2, patience_s=10.0)
    for _ in range(40):
        assert played.block((30, 30), (30, 0)) == []
    assert [one.url for one in played.block((30, 30), (30, 0))] == ["0"]
    # A single good stretch in between begins it anew.
    again = Played(2, patience_s=10.0)
    for _ in range(30):
        again.block((30, 30), (30, 0))
    for _ in range(41):
        again.block((30, 0), (30, 0))
    for _ in range(40):
        assert again.block((30, 30), (30, 0)) == []


def test_when_others_stop_serving_the_ejected_return_early():
    played = Played(4)
    assert len(played.block((30, 30), (30, 20), (30, 0), (30, 0))) == 2
    played.serves[2] = False
    assert played.block((0, 0), (0, 0), (0, 0), (30, 0)) == [Return("0", early=True)]
    played.serves[0] = played.serves[3] = False
    assert played.block((0, 0), (0, 0), (0, 0), (0, 0)) == [Return("1", early=True)]


def test_an_endpoint_that_is_gone_is_forgotten():
    outliers = Outliers(RULE)
    outliers.look({"a": (0, 0), "b": (0, 0)}, bool, 1.0)
    outliers.look({"a": (30, 30), "b": (30, 0)}, bool, 2.0)
    assert set(outliers.out) == {"a"}
    assert outliers.look({"b": (30, 0)}, bool, 3.0) == []
    assert outliers.out == {}


BLOCKS = st.integers(1, 7).flatmap(
    lambda count: st.lists(
        st.tuples(
            st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60), st.booleans()), min_size=count, max_size=count),
            st.sampled_from([0.05, 0.25, 3.0, 40.0]),
        ),
        min_size=1,
        max_size=40,
    )
)


@given(BLOCKS, st.sampled_from([0.0, 2.0]))
def test_never_more_than_half_of_those_that_serve_and_everybody_returns(blocks, patience_s):
    played = Played(len(blocks[0][0]), patience_s=patience_s)
    for answers, seconds in blocks:
        played.serves = [serves for _, _, serves in answers]
        changes = played.block(*[(ended, min(ended, bad)) for ended, bad, _ in answers], seconds=seconds)
        serving = {str(at) for at, serves in enumerate(played.serves) if serves}
        assert len(played.out & serving) <= len(serving) // 2
        assert all(one.until > played.now for one in played.outliers.out.values())
        for change in changes:
            if isinstance(change, Ejection):
                assert change.url in serving
                assert change.ended >= RULE.min_requests
                assert change.bad >= RULE.bad * change.ended
                assert RULE.base_s <= change.until - change.began <= RULE.max_s
    # Whatever was, a time without trouble brings everybody back.
    for _ in range(3):
        played.now += RULE.max_s
        played.look()
    assert played.out == set()


@given(st.lists(st.integers(0, 100), min_size=2, max_size=8))
def test_the_worst_go_first_and_one_that_is_worse_is_never_kept_for_a_better_one(bad):
    played = Played(len(bad))
    played.block(*[(100, one) for one in bad])
    kept = [one for at, one in enumerate(bad) if str(at) not in played.out]
    gone = [one for at, one in enumerate(bad) if str(at) in played.out]
    assert all(one <= other for one in kept for other in gone)
    ripe = sum(one >= 20 and min(bad) <= one / 2 for one in bad)
    assert len(gone) == min(ripe, len(bad) // 2)


@given(st.lists(st.integers(0, 100), min_size=2, max_size=8), st.integers(1, 100))
def test_more_failures_never_let_an_endpoint_in(bad, more):
    """Monotone: who is ejected at a share is ejected at a higher one, all else the same."""

    def first_is_out(shares):
        played = Played(len(shares))
        played.block(*[(100, one) for one in shares])
        return "0" in played.out

    worse = [min(100, bad[0] + more), *bad[1:]]
    if first_is_out(bad):
        assert first_is_out(worse)
