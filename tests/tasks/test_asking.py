import json
from dataclasses import asdict

import polars as pl
import pytest

from tapir_core.calls import Answer, Failure, Outcome
from tasks.asking import LONGEST_BEGINNING, LONGEST_SAID, MOST_SAMPLES, demand_whole, sample_failures, worked

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
