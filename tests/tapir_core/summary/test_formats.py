import pytest

from tapir_core.statistics import Estimate
from tapir_core.summary.formats import (
    count,
    duration,
    gain,
    moment,
    percent,
    round_name,
    score,
    score_in_words,
    student_name,
)
from tapir_core.summary.types import Gain, Score


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "–"),
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (41.2, "41 s"),
        (59.6, "1 min 00 s"),
        (185, "3 min 05 s"),
        (3599.7, "1 h 00 min"),
        (8040, "2 h 14 min"),
    ],
)
def test_a_duration_reads_in_the_unit_it_needs(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_figures_have_one_spelling() -> None:
    assert count(12345) == "12,345"
    assert percent(0.3421) == "34.2 %"
    assert moment("2026-01-31T18:05:59+01:00") == "2026-01-31 17:05 UTC"
    assert [count(None), percent(None), score(None), moment("")] == ["–"] * 4


def test_an_accuracy_stands_with_its_interval_its_n_and_what_failed() -> None:
    known = Score(0.412, 0.352, 0.475, 238, 2)
    assert score(known) == "41.2 (35.2 to 47.5), 2 failed"
    assert score_in_words(known) == "41.2 % (35.2 to 47.5), n = 238, 2 failed"
    none = Score(None, None, None, 200, 40, "40 of 240 answers failed")
    assert score(none) == "no figure, 40 failed"
    assert score_in_words(none) == "no figure: 40 of 240 answers failed"


def test_a_gain_stands_with_its_interval_and_p() -> None:
    assert gain(Gain(0, 2, Estimate(5.4, 1.2, 9.6, 240, p=0.0131))) == "+5.4 (+1.2 to +9.6), p = 0.0131"
    assert gain(Gain(0, 2, Estimate(5.4, n=3, note="3 rows only", p=0.5))) == "+5.4 (3 rows only), p = 0.5000"
    assert gain(Gain(0, 2, Estimate(None, n=200, failed=40, note="40 of 240"))) == "no figure, 40 failed"


def test_rounds_and_students_have_the_names_of_the_method() -> None:
    assert [round_name(number) for number in (-1, 0, 1)] == ["backbone", "S_0", "round 1"]
    assert [student_name(number) for number in (-1, 0, 1)] == ["backbone", "S_0", "S_1"]
