"""Held-out scores: what is in an accuracy, what is counted beside it, and when there is none."""

from collections.abc import Sequence
from typing import Any

import polars as pl
import pytest

from tapir_core.config import NATURAL
from tapir_core.evaluation.scores import grade_answers, score_answers
from tapir_core.judging.agreement import NO_TASK_TYPE
from tapir_core.statistics import estimate_share

RIGHT, WRONG, FAILED = "Answer: 4", "Answer: 5", None


def questions(task_types: Sequence[str | None], split: str = "test") -> pl.DataFrame:
    ids = [f"{split} {place}" for place in range(len(task_types))]
    columns = {
        "instruction_id": ids,
        "task_type": task_types,
        "reference": ["4"] * len(ids),
        "split": [split] * len(ids),
    }
    return pl.DataFrame(columns, schema_overrides={"task_type": pl.String})


def answers(*responses: str | None, split: str = "test") -> pl.DataFrame:
    ids = [f"{split} {place}" for place in range(len(responses))]
    return pl.DataFrame({"instruction_id": ids, "response": responses}, schema_overrides={"response": pl.String})


def scores(asked: pl.DataFrame, given: pl.DataFrame) -> dict[tuple[str, str], dict[str, Any]]:
    """(split, category) → the row."""
    found = score_answers(asked, given, "student: greedy")
    return {(row["split"], row["category"]): row for row in found.iter_rows(named=True)}


def at_natural_shares(given: pl.DataFrame, *weights: float) -> dict[str, Any]:
    """The row of as many questions as weights."""
    asked = questions(["Math"] * len(weights))
    known = dict(zip(asked["instruction_id"], weights, strict=True))
    [row] = score_answers(asked, given, "", weights=known).filter(metric=NATURAL).to_dicts()
    return row


def test_at_natural_shares_an_answer_counts_by_its_weight_and_no_category_has_such_a_figure() -> None:
    row = at_natural_shares(answers(*[RIGHT] * 10, *[WRONG] * 10), *[3.0] * 10, *[1.0] * 10)
    assert (row["category"], row["value"], row["n"], row["n_failed"]) == ("all", pytest.approx(0.75), 20, 0)
    assert 0 < row["low"] < row["value"] < row["high"] < 1
    missing = at_natural_shares(answers(*[RIGHT] * 19, FAILED), *[3.0] * 19, 1.0)
    assert (missing["value"], missing["n"], missing["n_failed"]) == (1.0, 19, 1)
    assert missing["low"] < 0.9, "all right has a width too"
    assert at_natural_shares(answers(*[RIGHT] * 9, FAILED), *[1.0] * 10)["value"] is None


def test_accuracy_stands_for_the_whole_and_by_task_type_with_wilsons_interval_and_how_it_was_measured() -> None:
    found = scores(questions(["Math", "Math", "Music"]), answers(RIGHT, WRONG, "4"))
    whole, wilson = found["test", "all"], estimate_share(2, 3)
    assert (whole["value"], whole["n"], whole["n_failed"]) == (pytest.approx(2 / 3), 3, 0)
    assert (whole["low"], whole["high"]) == (wilson.low, wilson.high)
    assert found["test", "Music"]["value"] == 1.0
    assert {row["settings"] for row in found.values()} == {"student: greedy"}


@pytest.mark.parametrize("missing", [False, True], ids=["failed for good", "went on without"])
def test_an_answer_that_failed_is_counted_and_in_no_accuracy(missing: bool) -> None:
    given = answers(*[RIGHT] * 19, *([] if missing else [FAILED]))
    whole = scores(questions(["Math"] * 20), given)["test", "all"]
    assert (whole["value"], whole["n"], whole["n_failed"], whole["note"]) == (1.0, 19, 1, "")


def test_above_the_allowed_share_of_failures_a_split_has_no_figure_in_no_category_and_the_other_split_keeps_its() -> (
    None
):
    asked = pl.concat([questions(["Math"] * 18 + ["Music"] * 2), questions(["Math"], split="dev")])
    given = pl.concat([answers(*[RIGHT] * 18, FAILED, FAILED), answers(RIGHT, split="dev")])
    found = scores(asked, given)
    for category in ("all", "Math", "Music"):
        row = found["test", category]
        assert (row["value"], row["low"], row["high"]) == (None, None, None)
    assert found["test", "all"]["note"] == "2 of 20 answers failed (10.0%), more than the 5.0% allowed"
    assert (found["test", "Math"]["n"], found["test", "Music"]["n_failed"]) == (18, 2)
    assert found["dev", "all"]["value"] == 1.0


@pytest.mark.parametrize("right", [0, 1, 50, 100])
def test_an_interval_stays_between_0_and_1_and_has_a_width_at_the_ends_too(right: int) -> None:
    whole = scores(questions(["Math"] * 100), answers(*[RIGHT] * right, *[WRONG] * (100 - right)))["test", "all"]
    assert 0 <= whole["low"] <= whole["value"] <= whole["high"] <= 1
    assert whole["high"] - whole["low"] > 0.03


def test_one_instruction_alone_says_nearly_nothing() -> None:
    whole = scores(questions(["Math"]), answers(RIGHT))["test", "all"]
    assert (whole["value"], whole["high"]) == (1.0, 1.0)
    assert whole["low"] < 0.25


def test_questions_without_a_task_type_have_a_category_of_their_own() -> None:
    assert {category for _, category in scores(questions(["Math", None]), answers(RIGHT, RIGHT))} == {
        "all",
        "Math",
        NO_TASK_TYPE,
    }


def test_an_empty_answer_is_wrong_and_has_not_failed() -> None:
    graded = grade_answers(questions(["Math"] * 3), answers("", RIGHT, FAILED))
    assert graded["correct"].to_list() == [False, True, None]


def test_without_a_reference_and_a_verifier_an_answer_is_neither_right_nor_wrong() -> None:
    asked = questions(["Math"] * 2).with_columns(reference=pl.Series(["4", None]))
    assert grade_answers(asked, answers(RIGHT, RIGHT))["correct"].to_list() == [True, None]
