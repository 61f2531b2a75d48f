"""Journals that are read, journals that are refused, and what the judge says of them afterwards."""

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.errors import ConfigError
from proxy.metrics import hdr
from proxy.rollout.evidence import ShareEvidence
from proxy.rollout.judges import budget
from proxy.rollout.plan import Limit, ServicePlan
from proxy.rollout.recording import Reader, metric_of, read
from proxy.rollout.replay import replay

ERRORS = Limit("error_rate", max=0.01)
P99 = Limit("p99", max=200.0)


def sample(requests=20, bad=0, over=None, **more):
    return {"requests": requests, "bad": bad, "over": over or {}, **more}


def journal(blocks, header=None, begin=1000.0, step=0.25):
    """Lines of a journal; a block is what `new` got, or (stable, new)."""
    lines = [] if header is None else [json.dumps({"header": header})]
    for number, block in enumerate(blocks, 1):
        stable, new = block if isinstance(block, tuple) else (sample(180), block)
        lines.append(json.dumps({"t": begin + number * step, "stable": stable, "new": new}))
    return lines


def problems(lines, limits=(ERRORS,)):
    with pytest.raises(ConfigError) as caught:
        replay(read(lines, "j"), limits)
    return [str(problem) for problem in caught.value.problems]


# --- decisions -----------------------------------------------------------------------------------------------------


def test_total_failure_is_rolled_back_in_its_fourth_block_and_the_rest_is_only_counted():
    found = replay(read(journal([sample()] * 400 + [sample(bad=20)] * 50)), [ERRORS])
    assert found.rollback.t == 1000 + 404 * 0.25
    assert found.rollback.reason == "ErrorRateAboveLimit"
    assert found.rollback.evidence["since_breach"] == {"blocks": 4, "n": 80, "bad": 80}
    assert (found.blocks, found.requests, found.bad) == (450, 9000, 1000)
    assert found.plain() == {
        "rolled_back_at": found.rollback.t,
        "reason": "ErrorRateAboveLimit",
        "blocks": 450,
        "decisions": [
            {
                "t": found.rollback.t,
                "action": "rollback",
                "reason": "ErrorRateAboveLimit",
                "evidence": found.rollback.evidence,
            }
        ],
    }


def test_a_healthy_run_and_one_without_traffic_are_never_rolled_back():
    for blocks in ([sample()] * 500, [sample(requests=0)] * 500):
        assert replay(read(journal(blocks)), [ERRORS]).plain() == {
            "rolled_back_at": None,
            "reason": None,
            "blocks": 500,
            "decisions": [],
        }


def test_one_failing_request_of_three_is_no_reason():
    assert replay(read(journal([sample(3, 1)])), [ERRORS]).rollback is None


def test_a_fault_of_both_is_told_and_nobodys_rollback():
    both = (sample(180, 180), sample(20, 20))
    found = replay(read(journal([(sample(180), sample())] * 50 + [both] * 50)), [ERRORS])
    assert found.rollback is None
    assert [(one.action, one.reason) for one in found.decisions] == [("alert", "SharedFault")]


def test_a_window_is_judged_by_its_value():
    limit = Limit("error_rate", max=0.5, window_s=1.0)
    found = replay(read(journal([sample()] * 40 + [sample(bad=20)] * 10)), [limit])
    # Three of the four blocks are more than half.
    assert found.rollback.t == 1000 + 43 * 0.25
    assert found.rollback.evidence["judge"] == "window"


def test_availability_is_a_minimum():
    found = replay(read(journal([sample()] * 100 + [sample(bad=20)] * 9)), [Limit("availability", min=0.99)])
    assert found.rollback.reason == "AvailabilityBelowLimit"


@settings(max_examples=30)
@given(st.integers(0, 2**32), st.sampled_from([0.0, 0.02, 0.2, 1.0]))
def test_it_decides_in_the_block_in_which_the_judge_alarms(seed, share):
    chance = random.Random(seed)
    blocks = [
        sample(n, sum(chance.random() < share for _ in range(n))) for n in (chance.randrange(40) for _ in "x" * 120)
    ]
    judge = ShareEvidence(0.01, budget(ServicePlan("x", (ERRORS,)), None))
    alarm = None
    for number, block in enumerate(blocks, 1):
        judge.look(block["requests"], block["bad"])
        if alarm is None and judge.alarm:
            alarm = 1000 + number * 0.25
    found = replay(read(journal([(sample(0), block) for block in blocks])), [ERRORS])
    assert found.plain()["rolled_back_at"] == alarm


# --- latency -------------------------------------------------------------------------------------------------------


def test_the_recorded_limit_needs_no_histogram_and_another_one_is_refused():
    slow = journal([sample(over={"p99": 0})] * 40 + [sample(over={"p99": 20})] * 9, {"limits": {"p99": 200}})
    assert replay(read(slow), [P99]).rollback.reason == "P99AboveLimit"
    # The count is one of latencies, whatever share of them is allowed.
    assert replay(read(slow), [Limit("p90", max=200.0)]).rollback
    (said,) = problems(slow, [Limit("p99", max=100.0)])
    assert said.startswith("j:2:1: p99: the journal has no histograms")
    assert "recorded: p99=200ms" in said


def test_a_second_limit_on_a_metric_has_its_bound_in_its_name():
    lines = journal([sample(over={"p99": 0, "p99>150": 20})] * 9, {"limits": {"p99": 200, "p99>150": 150.0}})
    assert metric_of("p99>150") == "p99"
    assert replay(read(lines), [P99]).rollback is None
    assert replay(read(lines), [Limit("p99", max=150.0)]).rollback


def test_without_a_header_the_count_of_the_metric_is_taken_at_its_word():
    lines = journal([sample(over={"p99": 20})] * 9)
    assert replay(read(lines), [P99]).rollback
    assert "no count of slow responses is recorded" in problems(journal([sample()] * 9), [P99])[0]


def test_histograms_answer_for_every_latency_and_give_the_percentile():
    blocks = [sample(hist={str(hdr.index(150_000)): 20})] * 20
    recording = read(journal(blocks, {"limits": {"p99": 200}, "hdr": {"unit": "us", "highest_s": 60, "digits": 2}}))
    assert replay(recording, [P99]).rollback is None
    found = replay(recording, [Limit("p99", max=100.0)]).rollback
    assert found.evidence["slower"] == found.evidence["n"]
    assert 149 < found.evidence["value"] < 152


def test_what_hangs_counts_before_it_is_a_request():
    lines = journal([sample()] * 40 + [sample(0, over={"p99": 20})] * 9, {"limits": {"p99": 200}})
    lines[1:41] = journal([sample(over={"p99": 0})] * 40)
    assert replay(read(lines), [P99]).rollback.evidence["since_breach"] == {"blocks": 4, "n": 80, "bad": 80}


def counted(lines, limit):
    """What a reader counts of `new` for the only threshold: how many were slower, how many not, block after block."""
    pairs = [(new.slow + new.ttfb_slow, new.fast + new.ttfb_fast) for _, _, new in Reader(read(lines), [limit])]
    return [(slow[0], fast[0]) for slow, fast in pairs]


def test_a_request_that_was_slow_while_it_hung_is_not_fast_when_it_ends():
    blocks = [sample(10, over={"p99": 0}), sample(0, over={"p99": 8}), sample(3, over={"p99": 1})]
    for limit in (P99, Limit("ttfb_p99", max=200.0)):
        lines = journal(blocks, {"limits": {limit.metric: 200}})
        lines = [line.replace("p99", limit.metric) if "t" in json.loads(line) else line for line in lines]
        # Without a count of what was within it, what ends pays first for what hung.
        assert counted(lines[:4], limit) == [(0, 10), (8, 0), (1, 0)]
        assert counted([*lines[:4], *journal([sample(9, over={limit.metric: 0})], begin=2000.0)], limit)[3] == (0, 3)


def test_what_was_counted_as_fast_is_taken_at_its_word():
    blocks = [sample(0, over={"p99": 8}, within={"p99": 0}), sample(11, over={"p99": 0}, within={"p99": 3})]
    assert counted(journal(blocks, {"limits": {"p99": 200}}), P99) == [(8, 0), (0, 3)]


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 5)), max_size=30))
def test_without_a_count_of_the_fast_ones_none_is_said_to_be_fast_too_early(steps):
    # So many passed the limit, of these ended, and were fast in each block; at the end everybody has ended.
    hanging, blocks, truly = 0, [], []
    for passed, most, fast in [*steps, (0, 10**6, 0)]:
        ended = min(hanging + passed, most)
        hanging += passed - ended
        blocks.append(sample(ended + fast, over={"p99": passed}))
        truly.append((passed, fast))
    found = counted(journal(blocks, {"limits": {"p99": 200}}), P99)
    assert [slow for slow, _ in found] == [slow for slow, _ in truly]
    for number in range(len(found)):
        assert sum(fast for _, fast in found[:number]) <= sum(fast for _, fast in truly[:number])
    assert sum(fast for _, fast in found) == sum(fast for _, fast in truly)


def test_what_hung_and_passed_a_recorded_limit_is_slower_than_any_below_it():
    ended = {str(hdr.index(150_000)): 4, str(hdr.index(900_000)): 8}
    blocks = [sample(0, over={"p99": 8}), sample(12, over={"p99": 0}, hist=ended)]
    lines = journal(blocks, {"limits": {"p99": 200}})
    assert counted(lines, Limit("p99", max=100.0)) == [(8, 0), (4, 0)]
    # Whether it was slower than a higher one shows only at its end.
    assert counted(lines, Limit("p99", max=300.0)) == [(0, 0), (8, 4)]


def test_what_hung_to_the_end_of_a_journal_is_said_to_be_untold():
    ended = {str(hdr.index(150_000)): 4, str(hdr.index(900_000)): 8}
    lines = journal([sample(0, over={"p99": 11}), sample(12, over={"p99": 0}, hist=ended)], {"limits": {"p99": 200}})
    (untold,) = replay(read(lines), [Limit("p99", max=300.0), ERRORS, Limit("p95", max=100.0), P99]).untold
    assert (untold.limit.max, untold.requests, untold.recorded_ms) == (300, 3, 200)


def test_first_bytes_are_never_taken_from_histograms_of_whole_responses():
    lines = journal([sample(hist={"5": 20})] * 9)
    assert "no histograms of first bytes" in problems(lines, [Limit("ttfb_p99", max=100.0)])[0]


def test_client_errors_need_to_be_there():
    limit = Limit("client_error_rate", max=0.05)
    assert "client errors are not in the journal" in problems(journal([sample()]), [limit])[0]
    assert replay(read(journal([sample(client_errors=20)] * 9)), [limit]).rollback


def test_signals_are_not_in_a_journal():
    assert (
        "is not in the journal" in problems(journal([sample()]), [Limit("cache_hit_rate", min=0.5, source="signal")])[0]
    )


def test_histograms_by_the_second_are_judged_by_the_second():
    blocks = [sample(**({"hist": {"1500": 80}} if number % 4 == 0 else {})) for number in range(1, 41)]
    found = replay(read(journal(blocks)), [Limit("p99", max=1.0)])
    assert found.rollback.evidence["n"] == found.rollback.evidence["slower"]
    assert found.rollback.evidence["n"] % 80 == 0


def test_signals_are_judged_where_they_were_recorded():
    limit = Limit("hits", min=0.5, source="signal")
    found = replay(read(journal([sample(signals={"hits": [20, 1]})] * 60)), [limit])
    assert found.rollback.reason == "HitsBelowLimit"


# --- as it was judged ------------------------------------------------------------------------------------------------


def judged(since, rules, **more):
    found = {"since": since, "alarm_at": 12.0, "stage": "canary", "weight": 10, "rules": rules} | more
    return {"block_s": 0.25, "limits": {}, "judged": found}


def test_every_part_is_judged_by_what_its_header_says():
    strict, loose = ({"metric": "error_rate", "max": share} for share in (0.01, 0.9))
    bad = [sample(bad=4)] * 40
    first = journal(bad, judged(1000.0, [loose]))
    second = journal(bad, judged(2000.0, [strict, {"metric": "rss", "max": 5, "source": "check"}]), begin=2000.0)
    found = replay(read(first + second))
    assert 2000 < found.rollback.t < 2003
    assert (found.rollback.evidence["limit"], found.rollback.evidence["alarm_at"]) == (0.01, 12.0)
    assert [limit.metric for limit in found.left_out] == ["rss"]
    assert found.blocks == 80


def test_a_header_that_only_names_another_weight_goes_on_with_the_same_judges():
    rules = [{"metric": "error_rate", "max": 0.01}]
    first = journal([sample()] * 2 + [sample(bad=20)] * 2, judged(1000.0, rules))
    second = journal([sample(bad=20)] * 9, judged(1000.0, rules, weight=25), begin=1001.0)
    whole = journal([sample()] * 2 + [sample(bad=20)] * 11, judged(1000.0, rules))
    assert replay(read(first + second)).rollback == replay(read(whole)).rollback


def test_a_trial_lasts_until_a_header_names_another_one():
    rules = [{"metric": "error_rate", "max": 0.01}]
    # A weight from before the supervisor, a rollout whose file was turned over, the next supervisor, another rollout.
    named = [None, 1010.0, 1010.0, None, 1040.0]
    lines = []
    for number, trial in enumerate(named):
        begin = 1000.0 + 10 * number
        lines += journal([sample()] * 4, judged(begin, rules, trial=trial), begin=begin)
    found = read(lines).trials()
    assert [(trial.began, trial.ended) for trial in found] == [(1000, 1001), (1010, 1031), (1040, 1041)]
    assert [len(trial.blocks) for trial in found] == [4, 12, 4]
    assert (found[1].since(1030.5).began, found[1].since(1031)) == (1030.5, None)
    assert len(read(journal([sample()] * 4) + lines[5:]).trials()) == 3
    # One that names none is a single one, however long it rests.
    assert len(read(journal([sample()]) + journal([sample()], begin=9e9)).trials()) == 1


# --- reading -------------------------------------------------------------------------------------------------------


def judged_by(rule):
    return '{"header": {"judged": {"since": 1, "alarm_at": 9, "weight": 1, "rules": [' + rule + "]}}}"


@pytest.mark.parametrize(
    "line, said",
    [
        ("{", "is not JSON"),
        ("[]", "is not a JSON object"),
        ('{"new": {}}', "t: must be"),
        ('{"t": "x"}', "t: must be"),
        ('{"t": NaN}', "t: must be"),
        ('{"t": 900}', "t: is not after that of line 1"),
        ('{"t": 2000, "new": 3}', "new: must be an object"),
        ('{"t": 2000, "new": {"requests": -1}}', "new.requests: must be a whole number"),
        ('{"t": 2000, "new": {"requests": 1.5}}', "new.requests: must be a whole number"),
        ('{"t": 2000, "new": {"requests": true}}', "new.requests: must be a whole number"),
        ('{"t": 2000, "new": {"requests": 3, "bad": 5}}', "new.bad: is more than requests"),
        ('{"t": 2000, "stable": {"over": 7}}', "stable.over: must be an object"),
        ('{"t": 2000, "new": {"hist": {"2561": 1}}}', "is no index of the scale"),
        ('{"t": 2000, "new": {"hist": {"x": 1}}}', "is no index of the scale"),
        ('{"t": 2000}', 'has neither "stable" nor "new"'),
        ('{"t": 2000, "new": {"bad": 0}}', "new.requests: is missing"),
        ('{"t": 2000, "new": {"requests": 3, "signals": {"hits": 3}}}', "new.signals.hits: must be [seen, matched]"),
        ('{"header": 5}', "header: is not an object"),
        ('{"header": {"judged": 5}}', "header.judged: is not an object"),
        ('{"header": {"judged": {"since": 1}}}', "header.judged: since, alarm_at and weight must be numbers"),
        (
            '{"header": {"judged": {"since": 1, "alarm_at": 9, "weight": 1, "trial": "x"}}}',
            "header.judged.trial: must be a number of seconds, or null",
        ),
        ('{"header": {"judged": {"since": 1, "alarm_at": 9, "weight": 1}}}', "header.judged.rules: must be a list"),
        (judged_by('{"max": 1}'), 'header.judged.rules.0: must be an object with a "metric"'),
        (judged_by('{"metric": "p99", "mx": 1}'), "header.judged.rules.0.mx: is no field of a limit"),
        (judged_by('{"metric": "p99", "max": "1"}'), "header.judged.rules.0.max: must be a number"),
        ('{"header": {"block_s": 0}}', "header.block_s"),
        ('{"header": {"limits": {"p99": "fast"}}}', "header.limits"),
        ('{"header": {"hdr": {"digits": 3}}}', "header.hdr"),
    ],
)
def test_a_mistake_has_its_line(line, said):
    found = problems([*journal([sample()]), line])
    assert len(found) == 1
    assert found[0].startswith("j:2:1: ")
    assert said in found[0]


def test_all_mistakes_are_said_up_to_twenty_and_an_empty_journal_is_one():
    assert len(problems(["{"] * 3)) == 3
    assert len(problems(["{"] * 300)) == 20
    assert "has no blocks" in problems([])[0]


def test_a_header_takes_numbers_texts_and_lists_and_may_come_again():
    for limits in ({"p99": 200, "error_rate": 0.01}, {"p99": "200ms", "error_rate": "1%"}):
        assert read(journal([sample()], {"limits": limits})).limits == {"p99": 200.0, "error_rate": 0.01}
    listed = [{"metric": "p99", "max": "0.2s"}]
    assert read(journal([sample()], {"limits": listed})).limits == {"p99": 200.0}
    lines = journal([sample()], {"limits": {"p99": 100}}) + journal([sample()], {"limits": {"p99": 300}}, begin=2000.0)
    assert read(lines).limits == {"p99": 300.0}


def test_blocks_are_as_long_as_the_header_says_or_as_they_follow_each_other():
    assert read(journal([sample()] * 9, {"block_s": 0.5})).block_s == 0.5
    assert read(journal([sample()] * 9, step=2.0)).block_s == 2.0
    assert read(journal([sample()])).block_s == 0.25


def test_blank_lines_and_unknown_keys_are_left_alone():
    lines = ["", *journal([sample(note="x")]), " \n"]
    ((block, stable, new),) = Reader(read(lines), [ERRORS])
    assert (block.line, stable.ended, new.ended) == (2, 180, 20)
