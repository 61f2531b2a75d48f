"""What the long runs under load count as an excuse, and what as growth."""

from loadtests.held.play import Plan, Play
from loadtests.held.tunnels import Ended
from loadtests.soak.watch import Sample, complaints

MIB = 1024
REST = Sample(0, 100, 7)


def test_a_tunnel_may_end_with_a_drain_but_not_before_its_end(tmp_path):
    play = Play(tmp_path, Plan(timeout_s=15))
    play._drains = [100.0]
    assert play._drained(Ended(1, 50.0, 115.2, "end"))
    assert not play._drained(Ended(1, 50.0, 114.0, "end"))
    assert not play._drained(Ended(1, 50.0, 160.0, "end"))
    assert not play._drained(Ended(1, 0.0, 115.2, "503"))


def test_growth_is_the_last_quarter_against_the_second():
    flat = [Sample(80 * MIB, 200, 7)] * 40
    assert complaints(flat, REST, REST) == []
    filling = [Sample(60 * MIB, 100, 7)] * 10 + flat[10:]
    assert complaints(filling, REST, REST) == []
    growing = [Sample(80 * MIB + 150 * number, 200 + number, 7) for number in range(40)]
    memory, descriptors = complaints(growing, REST, REST)
    assert "2.9 MiB" in memory
    assert "from 214.5 to 234.5" in descriptors


def test_descriptors_and_threads_that_stay_at_rest_are_growth():
    flat = [Sample(80 * MIB, 200, 7)] * 40
    assert complaints(flat, REST, Sample(0, 101, 40)) == [
        "descriptors at rest grew from 100 to 101",
        "threads grew from 7 to 40",
    ]
