import pytest

from tapir_core.config import JudgeConfig, Order
from tapir_core.judging import (
    POINTWISE,
    VERDICTS,
    PairScores,
    arrange,
    combine_points,
    expected_orders,
    pair_verdict,
    unscored,
    verdict_rows,
    verdicts_per_instruction,
)
from tapir_core.text import Unparsed


def make_judge(**fields: object) -> JudgeConfig:
    return JudgeConfig.model_validate({"endpoint": {"type": "standin"}, **fields})


@pytest.mark.parametrize("order", ["teacher_first", "student_first"])
def test_scores_come_back_to_whom_they_were_given(order: Order) -> None:
    shown = arrange(order, student="student's", teacher="teacher's")
    scores = PairScores(*(9.0 if answer == "teacher's" else 4.0 for answer in (shown.answer_1, shown.answer_2)))
    verdict = pair_verdict("a", order, scores, "raw", "anna")
    assert (verdict.student_score, verdict.teacher_score, verdict.status) == (4.0, 9.0, "scored")


def test_a_reply_without_a_verdict_is_unscored_and_kept() -> None:
    verdict = pair_verdict("a", "teacher_first", Unparsed("no verdict"), "Well …", "anna")
    assert (verdict.status, verdict.reason, verdict.raw) == ("unscored", "no verdict", "Well …")
    assert verdict.student_score is None


def test_pointwise_needs_both_scores() -> None:
    assert combine_points("a", 4.0, 9.0, "raw", "anna").status == "scored"
    assert combine_points("a", Unparsed("no verdict"), 9.0, "raw", "anna").reason == "no verdict"
    assert combine_points("a", 4.0, Unparsed("no verdict"), "raw", "anna").reason == "teacher: no verdict"


def test_pointwise_expects_one_row_an_instruction() -> None:
    assert expected_orders(make_judge(mode="pointwise")) == (POINTWISE,)
    assert expected_orders(make_judge()) == ("teacher_first", "student_first")


def test_an_instruction_gets_a_verdict_for_each_order_and_judge() -> None:
    panel = [{"type": "standin", "noise": 1.0}, {"type": "standin", "noise": 2.0}]
    assert verdicts_per_instruction(make_judge()) == 2
    assert verdicts_per_instruction(make_judge(panel=panel)) == 6
    assert verdicts_per_instruction(make_judge(panel=panel, mode="pointwise")) == 3


def test_the_table_has_the_columns_of_the_contract_even_when_empty() -> None:
    assert verdict_rows([]).schema == VERDICTS
    rows = verdict_rows(
        [unscored("a", "teacher_first", "refused", None, "anna"), combine_points("b", 4.0, 9.0, "raw", "anna")]
    )
    assert rows.schema == VERDICTS
    assert rows["reason"].to_list() == ["refused", None]
