"""How long answers took: what a call engine sees, what a stage keeps of it, and what is read from that."""

import random

import pytest

from tapir_core.calls import Answer, CallEngine
from tapir_core.calls.timing import PREFIX, Stopwatch, Timing, speed_of, timing_counts
from tests.doubles.provider import FakeProvider
from tests.tapir_core.calls.engine_helpers import prompts


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_calls_that_overlap_share_the_time_in_which_they_were_in_flight() -> None:
    stopwatch = Stopwatch(clock := Clock())
    first = stopwatch.begin()
    clock.now += 2  # the first alone
    second = stopwatch.begin()
    clock.now += 4  # both
    told = stopwatch.end(first)
    clock.now += 1  # the second alone
    last = stopwatch.end(second)
    clock.now += 50  # nobody
    later = stopwatch.begin()
    clock.now += 3
    assert (told, last, stopwatch.end(later)) == (Timing(6, 4), Timing(5, 3), Timing(3, 3))


def test_the_shares_of_all_calls_are_the_time_in_which_any_was_in_flight() -> None:
    rng, stopwatch, open_calls, told, busy = random.Random(7), Stopwatch(clock := Clock()), [], [], 0.0
    for _ in range(500):
        step = rng.random()
        busy += step if open_calls else 0.0
        clock.now += step
        if open_calls and rng.random() < 0.5:
            told.append(stopwatch.end(open_calls.pop(rng.randrange(len(open_calls)))))
        else:
            open_calls.append(stopwatch.begin())
    told += [stopwatch.end(each) for each in open_calls]
    assert sum(each.share_seconds for each in told) == pytest.approx(busy)


def test_speed_is_read_from_the_added_counts_of_shards() -> None:
    rng = random.Random(3)
    answers = [(rng.randint(1, 90), Timing(rng.lognormvariate(0, 1.5), rng.random())) for _ in range(2000)]
    speed = speed_of([timing_counts(answers[:700], "vLLM"), timing_counts(answers[700:], "another"), {"calls": 1.0}])
    assert speed is not None
    seconds = sorted(timing.seconds for _, timing in answers)
    assert speed.p50_seconds == pytest.approx(seconds[999], rel=0.05)
    assert speed.p95_seconds == pytest.approx(seconds[1899], rel=0.05)
    shared = sum(timing.share_seconds for _, timing in answers)
    assert (speed.answers, speed.by) == (2000, ("another", "vLLM")), "what gave most of them stands first"
    assert speed.tokens_per_second == pytest.approx(sum(tokens for tokens, _ in answers) / shared)
    assert speed.in_flight == pytest.approx(sum(seconds) / shared)


def test_one_answer_is_every_quantile() -> None:
    speed = speed_of([timing_counts([(7, Timing(0.25, 0.25))])])
    assert speed is not None
    assert speed.by == ()
    assert [speed.p50_seconds, speed.p95_seconds] == [pytest.approx(0.25, rel=0.05)] * 2


def test_what_was_not_timed_has_no_counts_and_no_speed() -> None:
    assert timing_counts([], "vLLM") == {}
    assert speed_of([]) is None
    assert speed_of([{"calls": 12, "seconds": 3.5}]) is None, "a run of an earlier version"


def test_every_count_begins_as_what_depends_on_the_clock_does() -> None:
    assert all(name.startswith(PREFIX) for name in timing_counts([(7, Timing(0.25, 0.25))], "vLLM"))


def test_an_answer_that_was_asked_for_is_timed_and_a_stored_one_is_not(engine: CallEngine) -> None:
    with FakeProvider(latency_seconds=0.02) as provider:
        asked = engine.ask(prompts(12), provider.endpoint)
        stored = engine.ask(prompts(12), provider.endpoint)
    timings = [each.timing for each in asked if isinstance(each, Answer) and each.timing]
    assert len(timings) == 12
    assert all(each.seconds >= each.share_seconds > 0 for each in timings)
    assert [each.timing for each in stored if isinstance(each, Answer)] == [None] * 12
