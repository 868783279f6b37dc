import pytest

from tapir_core.reporting.formats import count, duration, gain, moment, percent, round_name, score, student_name
from tapir_core.reporting.types import Gain, Score


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
    assert score(Score(0.412, 0.032, 240)) == "41.2 ± 3.2"
    assert gain(Gain(0, 2, 0.054, 0.021, 240)) == "+5.4 ± 2.1 percentage points"
    assert moment("2026-01-31T18:05:59+01:00") == "2026-01-31 17:05 UTC"
    assert [count(None), percent(None), score(None), moment("")] == ["–"] * 4


def test_rounds_and_students_have_the_names_of_the_method() -> None:
    assert [round_name(number) for number in (-1, 0, 1)] == ["backbone", "S_0", "round 1"]
    assert [student_name(number) for number in (-1, 0, 1)] == ["backbone", "S_0", "S_1"]
