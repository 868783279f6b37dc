import pytest

from tapir_core.config import ASKED_AS, JudgeConfig, Order
from tapir_core.judging import Verdict, mode_of, unscored, verdict_rows, verified
from tapir_core.judging.modes import Mark
from tapir_core.prompts import PROMPT_NAMES, load_prompt
from tapir_core.stages import JUDGE
from tapir_core.text import Unparsed


def make_judge(**fields: object) -> JudgeConfig:
    return JudgeConfig.model_validate({"endpoint": {"type": "standin"}, **fields})


PAIRWISE, POINTS = mode_of(make_judge()), mode_of(make_judge(mode="pointwise"))


@pytest.mark.parametrize("order", ["teacher_first", "student_first"])
def test_scores_come_back_to_whom_they_were_given(order: Order) -> None:
    row = {"instruction": "Say.", "system": None, "reference": None, "student": "student's", "teacher": "teacher's"}
    text = PAIRWISE.render(load_prompt("judge"), row, order)
    shown = sorted(("teacher's", "student's"), key=text.index)
    scores = tuple(9.0 if answer == "teacher's" else 4.0 for answer in shown)
    verdict = PAIRWISE.combine("a", order, [scores], "raw", "anna")
    assert (verdict.student_score, verdict.teacher_score, verdict.status) == (4.0, 9.0, "scored")


def test_a_reply_without_a_verdict_is_unscored_and_kept() -> None:
    verdict = PAIRWISE.combine("a", "teacher_first", [Unparsed("no verdict")], "Well …", "anna")
    assert (verdict.status, verdict.reason, verdict.raw) == ("unscored", "no verdict", "Well …")
    assert verdict.student_score is None


def test_pointwise_shows_one_answer_at_a_time_and_counts_the_teachers_once() -> None:
    row = {
        "instruction": "Say.",
        "system": "Be brief.",
        "reference": "42",
        "student": "the first text",
        "teacher": "the other text",
    }
    for place, other in (("student", "the other text"), ("teacher", "the first text")):
        text = POINTS.render(load_prompt("judge_pointwise"), row, place)
        assert all(shown in text for shown in ("Say.", "Be brief.", "42", row[place]))
        assert other not in text
    assert POINTS.rests_on("teacher") == ()
    assert POINTS.calls(rows=10, fresh=4) == (20, 14)
    assert POINTS.in_words() == "pointwise"


def test_by_a_schema_the_judge_is_told_the_fields_and_read_by_them() -> None:
    mode = mode_of(make_judge(replies="json"))
    row = {"instruction": "Say.", "system": None, "reference": None, "student": "one", "teacher": "two"}
    assert all(name in mode.schema for name in ("explanation", "score_1", "score_2"))
    assert mode.render(load_prompt("judge"), row, "teacher_first") != PAIRWISE.render(
        load_prompt("judge"), row, "teacher_first"
    )
    assert mode.parse('{"explanation": "", "score_1": 9, "score_2": 4}') == (9, 4)
    assert isinstance(mode.parse("[[9, 4]]"), Unparsed)


def test_pairwise_asks_once_in_each_order() -> None:
    assert PAIRWISE.calls(rows=10, fresh=0) == (20, 20)
    assert PAIRWISE.in_words() == "pairwise, teacher first and student first"
    assert PAIRWISE.is_balanced()
    assert not mode_of(make_judge(orders=["teacher_first"])).is_balanced()


def test_pointwise_needs_both_scores() -> None:
    def combined(*scores: float | Unparsed) -> Verdict:
        replies = [each if isinstance(each, Unparsed) else (each,) for each in scores]
        return POINTS.combine("a", "student", replies, "raw", "anna")

    assert combined(4.0, 9.0).status == "scored"
    assert combined(Unparsed("no verdict"), 9.0).reason == "no verdict"
    assert combined(4.0, Unparsed("no verdict")).reason == "teacher: no verdict"


def test_pointwise_expects_one_row_an_instruction() -> None:
    assert make_judge(mode="pointwise").expected_orders == ("pointwise",)
    assert make_judge().expected_orders == ("teacher_first", "student_first")


def test_every_mode_has_its_prompt() -> None:
    lacking = sorted({each.prompt for each in ASKED_AS.values()} - {*PROMPT_NAMES})
    assert lacking == [], "write each as tapir_core/prompts/NAME.jinja2"


def test_a_verifiers_marks_are_scores_in_each_order_and_what_it_cannot_mark_is_left_to_the_judge() -> None:
    judge = make_judge(verifier={"function": "exact"})
    assert judge.verifier is not None
    scored = list(verified(judge, judge.verifier, "a", (0.0, None), (1.0, None)))
    assert [(each.order, each.student_score, each.teacher_score) for each in scored] == [
        ("teacher_first", 1.0, 10.0),
        ("student_first", 1.0, 10.0),
    ]
    assert {each.judge for each in scored} == {"exact"}
    unmarked: Mark = (None, "no reference")
    assert list(verified(judge, judge.verifier, "a", (0.5, None), unmarked)) == []
    alone = judge.verifier.model_copy(update={"only": True})
    found = list(verified(judge, alone, "a", unmarked, (1.0, None)))
    assert [(each.status, each.reason) for each in found] == [("unscored", "verifier: student: no reference")] * 2


@pytest.mark.parametrize("name", ASKED_AS)
def test_verdicts_stand_under_the_orders_that_are_expected(name: str) -> None:
    judge = make_judge(mode=name)
    orders = [mode_of(judge).order_of(place) for place in mode_of(judge).places()]
    assert tuple(dict.fromkeys(orders)) == judge.expected_orders


def test_an_instruction_gets_a_verdict_for_each_order_and_judge() -> None:
    panel = [{"type": "standin", "noise": 1.0}, {"type": "standin", "noise": 2.0}]
    assert make_judge().verdicts_per_instruction == 2
    assert make_judge(panel=panel).verdicts_per_instruction == 6
    assert make_judge(panel=panel, mode="pointwise").verdicts_per_instruction == 3


def test_the_table_has_the_columns_of_the_contract_even_when_empty() -> None:
    assert verdict_rows([]).schema == JUDGE.columns
    rows = verdict_rows(
        [
            unscored("a", "teacher_first", "refused", None, "anna"),
            POINTS.combine("b", "student", [(4.0,), (9.0,)], "raw", "anna"),
        ]
    )
    assert rows.schema == JUDGE.columns
    assert rows["reason"].to_list() == ["refused", None]


def test_a_verdict_rests_on_its_own_request() -> None:
    assert PAIRWISE.rests_on("teacher_first") == ("teacher_first",)
