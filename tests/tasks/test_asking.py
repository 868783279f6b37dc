import json
from dataclasses import asdict
from pathlib import Path

import polars as pl
import pytest

from tapir_core.calls import Answer, Failure, Outcome
from tapir_core.calls.timing import Timing, speed_of
from tapir_core.run_folder import open_run
from tapir_core.stages import StageAt
from tasks.asking import (
    LONGEST_BEGINNING,
    LONGEST_SAID,
    MOST_SAMPLES,
    answer_rows,
    demand_whole,
    sample_failures,
    watch,
    worked,
)
from tasks.runtime import close_all
from tests.run_config import make_config

TEACH = StageAt("teach")
ANSWER = Answer("four", "stop", 10, 1)


def failures(**counts: int) -> list[Outcome]:
    return [Failure(kind, f"{kind} {n}", attempts=n) for kind, count in counts.items() for n in range(count)]


def asked(outcomes: list[Outcome]) -> pl.DataFrame:
    ids = [f"id-{place}" for place in range(len(outcomes))]
    return pl.DataFrame({"instruction_id": ids, "instruction": [f"What is {each}?" for each in ids]})


def test_what_is_missing_and_what_failed_for_good_are_counted_apart() -> None:
    outcomes = [ANSWER, *failures(timeout=2, refused=1, bad_request=3)]
    made = worked(pl.DataFrame(), {"calls": 1}, asked(outcomes), outcomes)
    assert made.missing == {"timeout": 2}
    assert made.failed == {"refused": 1, "bad_request": 3}
    assert made.asked == 7
    assert [each.instruction_id for each in made.samples[:3]] == ["id-1", "id-3", "id-4"], "the first of each kind"


def test_a_stage_keeps_how_long_the_answers_took_that_it_asked_for_itself() -> None:
    took = Timing(2.0, 0.5)
    outcomes = [
        Answer("four", "stop", 10, 3, timing=took),
        Answer("five", "stop", 10, 40, stored=True, timing=took),  # shared with an equal request
        Answer("six", "stop", 10, 500),  # through a Batch API
        *failures(refused=1),
    ]
    speed = speed_of([answer_rows(asked(outcomes), outcomes, by="vLLM").counts])
    assert speed is not None
    assert (speed.answers, speed.tokens_per_second, speed.by) == (1, 6.0, ("vLLM",))
    untimed = answer_rows(asked(outcomes[2:]), outcomes[2:], by="vLLM").counts
    assert not [name for name in untimed if name.startswith("timed")]


def test_a_kind_that_is_rare_and_late_is_among_the_samples() -> None:
    outcomes = [*failures(server=300), ANSWER, *failures(timeout=1, connection=2)]
    samples = sample_failures(asked(outcomes).iter_rows(), outcomes)
    assert len(samples) == MOST_SAMPLES
    assert [each.kind for each in samples[:6]] == ["server", "timeout", "connection", "server", "connection", "server"]
    assert samples[1].said == "timeout 0"
    assert samples[1].instruction == "What is id-301?"


def test_samples_are_short_and_plain_json() -> None:
    long = "x" * 1000
    [sample] = sample_failures([("a", long)], [Failure("server", long)])
    assert (len(sample.said), len(sample.instruction)) == (LONGEST_SAID + 1, LONGEST_BEGINNING + 1)
    assert json.loads(json.dumps(asdict(sample))) == asdict(sample)


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (Answer("I weigh", "length", 10, 2), "cut_off: I weigh"),
        (Answer(" ", "stop", 10, 0), "empty:  "),
        (ANSWER, None),
    ],
    ids=["cut off", "empty", "whole"],
)
def test_an_answer_that_nobody_can_learn_from_counts_as_failed_for_good(answer: Answer, told: str | None) -> None:
    expected = answer if told is None else Failure("bad_reply", told)
    assert demand_whole(answer) == expected


def test_a_failure_stays_what_it_is_where_answers_must_be_whole() -> None:
    refusal = Failure("refused", "no")
    assert demand_whole(refusal) is refusal


def test_failures_that_come_before_slower_answers_give_nothing_up(tmp_path: Path) -> None:
    """A refusal takes a moment, an answer its time: the first outcomes of a list are no sample of it."""
    run = open_run(make_config(tmp_path), {})
    watched = watch(run, TEACH)
    for place in range(0, 90, 3):
        watched.on_outcome(place, Failure("refused", "no"))
    assert not watched.is_stopped(), "30 of the first 90 were refused, and 60 are in flight"
    for place in range(90, 260):
        watched.on_outcome(place, Failure("refused", "no"))
    assert watched.is_stopped()
    close_all()


def test_a_stage_that_is_new_is_begun_with_a_few_rows(tmp_path: Path) -> None:
    run = open_run(make_config(tmp_path), {})
    watched = watch(run, TEACH)
    assert watched.first == 40
    watched.on_outcome(39, ANSWER)
    assert watch(run, TEACH).first == 0
    close_all()


def test_what_is_paid_in_whole_batches_is_asked_in_one_piece(tmp_path: Path) -> None:
    teacher = {"endpoint": {"type": "openai", "model": "m", "identity": "i", "api_key_env": "", "mode": "batch"}}
    assert watch(open_run(make_config(tmp_path, teacher=teacher), {}), TEACH).first == 0
    close_all()
