import polars as pl
import pytest

from tapir_core.judging.agreement import mean_scores, measure_length, with_lengths
from tests.builders import make_teacher, make_verdict, make_verdicts


def scored(*pairs: tuple[float, float]) -> pl.DataFrame:
    rows = [make_verdict(f"i{place}", student=pair[0], teacher=pair[1]) for place, pair in enumerate(pairs)]
    return mean_scores(make_verdicts(*rows), ("teacher_first",))


def answers(*lengths: int | None) -> pl.DataFrame:
    return make_teacher({f"i{place}": None if chars is None else "ä" * chars for place, chars in enumerate(lengths)})


def test_a_judge_who_scores_by_length_is_seen_through() -> None:
    rows = with_lengths(scored((1, 9), (3, 7), (5, 5), (7, 3), (9, 1)), answers(1, 2, 3, 5, 8), answers(9, 8, 7, 6, 5))
    found = measure_length(rows)
    assert (found.student.value, found.teacher.value, found.difference.value) == (1.0, 1.0, 1.0)


def test_length_is_counted_in_characters_and_a_missing_answer_leaves() -> None:
    rows = with_lengths(scored((4, 9), (4, 9)), answers(3, None), answers(10, 10))
    assert rows.select("instruction_id", "student_chars", "teacher_chars").rows() == [("i0", 3, 10)]


@pytest.mark.parametrize(
    ("pairs", "why"),
    [((), "nothing to measure"), (((4, 9),), "1 row only"), (((4, 9),) * 6, "one of the two never changes")],
    ids=["nothing", "one", "constant"],
)
def test_what_cannot_be_correlated_says_why(pairs: tuple[tuple[float, float], ...], why: str) -> None:
    rows = with_lengths(scored(*pairs), answers(*range(len(pairs))), answers(*range(len(pairs))))
    found = measure_length(rows)
    assert [(each.value, each.note) for each in (found.student, found.teacher, found.difference)] == [(None, why)] * 3
