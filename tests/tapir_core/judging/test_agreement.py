import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapir_core.curriculum import compute_difficulty
from tapir_core.judging import Verdict
from tapir_core.judging.agreement import (
    compare_judges,
    favoured_position,
    mean_scores,
    measure_orders,
    pair_orders,
)
from tapir_core.statistics import Estimate
from tests.builders import make_labels, make_verdict, make_verdicts, shuffled

BOTH = ("teacher_first", "student_first")
SCORES = st.integers(2, 20).map(lambda half: half / 2)
MAYBE_SCORES = st.none() | st.tuples(SCORES, SCORES)
JUDGED = st.lists(st.tuples(MAYBE_SCORES, MAYBE_SCORES), max_size=20)


def judged(*instructions: tuple[tuple[float, float] | None, tuple[float, float] | None]) -> pl.DataFrame:
    """Verdicts of instructions given as (student, teacher) with the teacher first, and with the student first."""
    rows: list[Verdict] = []
    for place, scores in enumerate(instructions):
        for order, pair in zip(BOTH, scores, strict=True):
            given_scores = {"reason": "no verdict"} if pair is None else {"student": pair[0], "teacher": pair[1]}
            rows.append(make_verdict(f"i{place:03d}", order, **given_scores))  # type: ignore[arg-type]
    return make_verdicts(*rows)


def panel(**judges: pl.DataFrame) -> pl.DataFrame:
    """The verdicts of several judges, by their names."""
    return pl.concat([rows.with_columns(judge=pl.lit(name)) for name, rows in judges.items()], how="diagonal")


def swapped(verdicts: pl.DataFrame) -> pl.DataFrame:
    return verdicts.with_columns(
        pl.col("order").replace({"teacher_first": "student_first", "student_first": "teacher_first"})
    )


def test_a_judge_that_gives_the_first_answer_a_point_favours_the_first_position() -> None:
    verdicts = judged(*(((4.0, 9.0 + step % 2), (5.0, 8.0)) for step in range(12)))
    found = measure_orders(pair_orders(verdicts))
    assert found.gap.value == pytest.approx(2.5)
    assert favoured_position(found.gap) == "first"
    assert favoured_position(measure_orders(pair_orders(swapped(verdicts))).gap) == "second"


def test_a_gap_around_nothing_favours_neither() -> None:
    gaps = [((5.0, 6.0), (5.0, 7.0)), ((5.0, 7.0), (5.0, 6.0))] * 6
    assert favoured_position(measure_orders(pair_orders(judged(*gaps))).gap) == "neither"


def test_without_an_interval_no_position_can_be_named() -> None:
    assert favoured_position(Estimate(3.0, n=1, note="1 row only")) is None


def test_winners_are_counted_in_both_orders_and_a_tie_is_one_of_them() -> None:
    found = measure_orders(pair_orders(judged(((4, 9), (5, 5)), ((9, 4), (9, 4)), ((7, 7), (7, 7)), ((4, 9), (4, 9)))))
    assert {pair: count for pair, count in found.winners.items() if count} == {
        ("teacher", "tie"): 1,
        ("student", "student"): 1,
        ("tie", "tie"): 1,
        ("teacher", "teacher"): 1,
    }
    assert len(found.winners) == 9
    assert found.same_winner.value == 0.75


def test_an_instruction_that_lacks_an_order_is_in_no_pair() -> None:
    pairs = pair_orders(judged(((4, 9), None), (None, None), ((4, 9), (6, 8))))
    assert pairs.rows() == [("i002", 5.0, 2.0, 3.0)]


def test_decimals_do_not_hide_a_tie() -> None:
    pairs = pair_orders(judged(((6.3, 8.3), (5.1, 7.1))))
    assert pairs["order_gap"].to_list() == [0.0]
    assert pairs["order_gap"][0] == 0


def test_a_judge_who_always_ties_has_no_kappa_and_no_rank_correlation() -> None:
    found = measure_orders(pair_orders(judged(*([((5, 5), (5, 5))] * 8))))
    assert found.same_winner.value == 1.0
    assert found.gap.value == 0.0
    assert (found.kappa.value, found.kappa.note) == (None, "every row has the same class")
    assert (found.spearman.value, found.spearman.note) == (None, "one of the two never changes")


def test_one_order_leaves_nothing_to_compare() -> None:
    found = measure_orders(pair_orders(make_verdicts(make_verdict(), make_verdict("b"))))
    for estimate in (found.gap, found.same_winner, found.kappa, found.spearman):
        assert (estimate.value, estimate.n, estimate.note) == (None, 0, "nothing to measure")


@given(JUDGED)
def test_swapping_the_orders_turns_the_gap_and_keeps_the_agreement(instructions: list) -> None:
    verdicts = judged(*instructions)
    one, other = (measure_orders(pair_orders(rows)) for rows in (verdicts, swapped(verdicts)))
    assert other.gap.value == (None if one.gap.value is None else pytest.approx(-one.gap.value))
    assert other.same_winner == one.same_winner
    assert other.spearman == one.spearman


@given(JUDGED, st.integers(0, 9))
def test_the_order_of_arrival_changes_nothing(instructions: list, seed: int) -> None:
    verdicts = judged(*instructions)
    assert measure_orders(pair_orders(shuffled(verdicts, seed))) == measure_orders(pair_orders(verdicts))


@given(JUDGED)
def test_mean_scores_are_those_of_the_difficulty(instructions: list) -> None:
    verdicts = judged(*instructions)
    labels = make_labels(dict.fromkeys(verdicts["instruction_id"], "Math"))
    columns = ["instruction_id", "student_score", "teacher_score", "mfd"]
    assert mean_scores(verdicts, BOTH).equals(compute_difficulty(verdicts, labels, BOTH).select(columns))


def test_judges_are_compared_two_by_two_by_name() -> None:
    strict = judged(((4, 9), (4, 9)), ((9, 4), (9, 4)), ((3, 8), (3, 8)), ((8, 3), (8, 3)), ((5, 5), (5, 5)))
    mirrored = strict.rename({"student_score": "teacher_score", "teacher_score": "student_score"})
    pairs = compare_judges(panel(strict=strict, mirrored=mirrored, kind=strict), BOTH)
    assert [(pair.first, pair.second) for pair in pairs] == [
        ("kind", "mirrored"),
        ("kind", "strict"),
        ("mirrored", "strict"),
    ]
    against, same = pairs[0], pairs[1]
    assert (same.same_winner.value, same.kappa.value, same.spearman.value) == (1.0, 1.0, 1.0)
    assert (against.same_winner.value, against.spearman.value) == (0.2, -1.0)
    assert against.kappa.value is not None
    assert against.kappa.value < 0


def test_judges_without_a_common_instruction_have_no_agreement() -> None:
    one, other = judged(((4, 9), (4, 9))), judged((None, None), ((4, 9), (4, 9)))
    (pair,) = compare_judges(panel(one=one, other=other), BOTH)
    assert (pair.kappa.value, pair.kappa.note) == (None, "nothing to measure")


def test_one_judge_makes_no_pair() -> None:
    assert compare_judges(judged(((4, 9), (4, 9))), BOTH) == ()
