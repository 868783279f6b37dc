import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapir_core.config import HardShare, Threshold
from tapir_core.curriculum import compute_difficulty, count_unscored, select_seeds
from tapir_core.judging import Verdict
from tapir_core.randomness import derive_rng
from tapir_core.stages import DIFFICULTY
from tests.builders import make_labels, make_verdict, make_verdicts, shuffled

BOTH = ("teacher_first", "student_first")


def test_mfd_is_the_mean_over_orders_of_teacher_minus_student() -> None:
    rows = compute_difficulty(
        make_verdicts(
            make_verdict(order="teacher_first", student=4, teacher=9),
            make_verdict(order="student_first", student=6, teacher=8),
        ),
        make_labels({"a": "Math"}),
        BOTH,
    )
    assert rows.schema == DIFFICULTY.columns
    assert rows.rows() == [("a", "Math", 5.0, 8.5, 3.5, 2, 3.0)]


def test_one_order_has_no_order_gap() -> None:
    rows = compute_difficulty(make_verdicts(make_verdict()), make_labels({"a": "Math"}), ("teacher_first",))
    assert rows.row(0, named=True) | {"orders": 1, "order_gap": None} == rows.row(0, named=True)
    pointwise = make_verdicts(make_verdict(order="pointwise"))
    assert compute_difficulty(pointwise, make_labels({"a": "Math"}), ("pointwise",))["mfd"].to_list() == [5.0]


def test_decimals_do_not_make_an_instruction_harder_than_it_is() -> None:
    verdict = make_verdict(student=6.3, teacher=8.3)
    assert 8.3 - 6.3 > 2.0
    rows = compute_difficulty(make_verdicts(verdict), make_labels({"a": "Math"}), ("teacher_first",))
    assert rows["mfd"].to_list() == [2.0]


def test_unscored_instructions_are_counted_by_reason() -> None:
    verdicts = make_verdicts(
        make_verdict("whole", "teacher_first"),
        make_verdict("whole", "student_first"),
        make_verdict("half", "teacher_first"),
        make_verdict("half", "student_first", reason="no verdict"),
        make_verdict("refused", "student_first", reason="no verdict"),
        make_verdict("refused", "teacher_first", reason="refused"),
        make_verdict("lone", "teacher_first"),
        make_verdict("unlabelled", "teacher_first"),
        make_verdict("unlabelled", "student_first"),
    )
    labels = make_labels({"whole": "Math", "half": "Math", "refused": "Law", "lone": "Law", "unlabelled": None})
    assert compute_difficulty(verdicts, labels, BOTH)["instruction_id"].to_list() == ["whole"]
    expected = {"an order is missing": 1, "no task type": 1, "no verdict": 1, "refused": 1}
    assert count_unscored(verdicts, labels, BOTH) == expected


def test_no_verdict_at_all_gives_an_empty_table() -> None:
    rows = compute_difficulty(make_verdicts(), make_labels({}), BOTH)
    assert rows.schema == DIFFICULTY.columns
    assert rows.height == 0
    assert count_unscored(make_verdicts(), make_labels({}), BOTH) == {}


@st.composite
def verdict_tables(draw: st.DrawFn) -> list[Verdict]:
    scores = st.integers(2, 20).map(lambda half: half / 2)
    verdicts = []
    for number in range(draw(st.integers(0, 25))):
        for order in BOTH:
            reason = draw(st.sampled_from([None, None, None, "no verdict"]))
            verdicts.append(make_verdict(f"i{number:02d}", order, draw(scores), draw(scores), reason))
    return verdicts


@given(verdict_tables(), st.sampled_from([Threshold(), HardShare(share=0.4), Threshold(threshold=-20)]), st.integers())
def test_an_unscored_instruction_is_in_neither_seeds_nor_easy(
    verdicts: list[Verdict], selection: Threshold | HardShare, seed: int
) -> None:
    table = make_verdicts(*verdicts)
    labels = make_labels(dict.fromkeys([each.instruction_id for each in verdicts], "Math"))
    parts = select_seeds(selection, compute_difficulty(table, labels, BOTH), derive_rng(seed))
    unscored = {each.instruction_id for each in verdicts if each.status == "unscored"}
    together = pl.concat([parts.seeds, parts.easy])["instruction_id"].to_list()
    assert unscored.isdisjoint(together)
    difficulty = compute_difficulty(table, labels, BOTH)
    better = set(difficulty.filter(pl.col("mfd") < 0)["instruction_id"]) - {*parts.seeds["instruction_id"]}
    assert sorted(together) == sorted({each.instruction_id for each in verdicts} - unscored - better)
    assert sum(count_unscored(table, labels, BOTH).values()) == len(unscored)


@given(verdict_tables(), st.integers(0, 100))
def test_the_order_of_arriving_verdicts_changes_no_byte(verdicts: list[Verdict], seed: int) -> None:
    table = make_verdicts(*verdicts)
    labels = make_labels(dict.fromkeys([each.instruction_id for each in verdicts], "Math"))
    expected = compute_difficulty(table, labels, BOTH)
    assert compute_difficulty(shuffled(table, seed), shuffled(labels, seed), BOTH).equals(expected)


def test_a_table_that_breaks_its_grain_is_noticed() -> None:
    twice = pl.concat([make_labels({"a": "Math"}), make_labels({"a": "Law"})])
    with pytest.raises(pl.exceptions.ComputeError):
        compute_difficulty(make_verdicts(make_verdict()), twice, ("teacher_first",))
