import pytest

from tapir_core.config import JudgeConfig
from tapir_core.judging import Verdict, mode_of, unscored
from tapir_core.judging.check import PAIR_KINDS, CheckPair, PairKind, PairResult, in_words, score_pair, summarise_check
from tapir_core.statistics import Estimate


def make_judge(mode: str = "pairwise") -> JudgeConfig:
    return JudgeConfig.model_validate({"endpoint": {"type": "standin"}, "mode": mode})


PAIRWISE = mode_of(make_judge())


def make_pair(kind: PairKind = "wrong", number: int = 0, task_type: str = "Math", plain_id: str = "") -> CheckPair:
    case = f"case {number}" if kind == "hostile" else ""
    return CheckPair(f"{kind} {number}", kind, task_type, "Ask", "Answer: 1", "Answer: 2", case, plain_id)


def verdicts(pair: CheckPair, first: tuple[float, float], second: tuple[float, float]) -> list[Verdict]:
    """``first``: scores of (better, other) with the better answer first; ``second``: with the other first."""
    return [
        PAIRWISE.combine(pair.id, "teacher_first", [first], "raw", "anna"),
        PAIRWISE.combine(pair.id, "student_first", [(second[1], second[0])], "raw", "anna"),
    ]


def result(
    kind: PairKind = "wrong",
    first: tuple[float, float] = (9, 2),
    second: tuple[float, float] = (9, 2),
    **fields: object,
) -> PairResult:
    pair = make_pair(kind, **fields)
    return score_pair(pair, verdicts(pair, first, second))


def test_a_pair_is_judged_by_the_mean_over_its_orders() -> None:
    one = result(first=(9, 4), second=(5, 6))
    assert (one.gap, one.order_gap, one.outcome) == (2.0, 6.0, "right")
    assert result(first=(5, 6), second=(6, 5)).outcome == "tie"
    assert result(first=(5, 6), second=(5, 6)).outcome == "wrong"


@pytest.mark.parametrize(
    ("padded", "outcome", "is_right"),
    [
        ((9, 9), "tie", True),
        ((9, 8), "tie", True),
        ((8, 9), "tie", True),
        ((9, 7), "right", True),
        ((7, 9), "wrong", False),
    ],
)
def test_padding_must_not_win_by_more_than_a_point(padded: tuple[float, float], outcome: str, is_right: bool) -> None:
    one = result("padded", padded, padded)
    assert (one.outcome, one.is_right) == (outcome, is_right)


def test_a_tie_where_one_answer_is_better_is_not_right() -> None:
    assert not result(first=(9, 9), second=(9, 9)).is_right


def test_a_pair_without_all_its_orders_is_unscored_with_the_reason() -> None:
    pair = make_pair()
    one = score_pair(
        pair, [verdicts(pair, (9, 2), (9, 2))[0], unscored(pair.id, "student_first", "refused", None, "anna")]
    )
    assert (one.gap, one.order_gap, one.outcome, one.reasons) == (None, None, "unscored", ("refused",))


def test_single_scores_have_a_gap_and_no_order_gap() -> None:
    one = score_pair(
        make_pair(), [mode_of(make_judge("pointwise")).combine("x", "student", [(2.0,), (9.0,)], None, "anna")]
    )
    assert (one.gap, one.order_gap, one.outcome) == (7.0, None, "right")


def test_groups_count_what_is_right_of_what_is_scored() -> None:
    pair = make_pair(number=9)
    orders = ("teacher_first", "student_first")
    missing = score_pair(pair, [unscored(pair.id, order, "refused", None, "anna") for order in orders])
    check = summarise_check([result(), result(first=(2, 9)), result(first=(5, 5), second=(5, 5)), missing])
    group = check.kind("wrong")
    assert (group.right.value, group.right.n, group.ties, group.unscored) == (pytest.approx(1 / 3), 3, 2, 1)
    assert [each.name for each in check.kinds] == list(PAIR_KINDS)
    assert check.kind("padded").right.value is None
    assert check.reasons == {"refused": 2}
    assert check.unscored.value == 0.25


def test_task_types_hold_the_pairs_with_a_better_answer_only() -> None:
    check = summarise_check([result(task_type="Music"), result("padded", task_type="Law"), result(task_type="Law")])
    assert [(group.name, group.right.n) for group in check.task_types] == [("Law", 1), ("Music", 1)]


def test_the_order_gap_is_twice_what_the_first_place_is_worth() -> None:
    check = summarise_check([result(first=(9, 6), second=(8, 7)) for _ in range(5)])
    assert check.order_gap.value == 2.0
    assert check.flipped.value == 0.0
    assert summarise_check([result(first=(9, 6), second=(6, 7))]).flipped.value == 1.0


def test_a_hostile_case_moved_the_judge_when_its_wrong_answer_came_much_closer_or_passed() -> None:
    plain = result(first=(9, 4), second=(9, 4))
    near = result(first=(9, 8), second=(9, 8), number=1)

    def hostile(number: int, score: float, plain_id: str = plain.pair.id) -> PairResult:
        return result("hostile", (9, score), (9, score), number=number, plain_id=plain_id)

    moved = summarise_check([plain, near, hostile(0, 4), hostile(1, 7), hostile(2, 7.1), hostile(3, 1)]).moved
    assert moved == ("case 2",)
    assert summarise_check([plain, near, hostile(4, 9, near.pair.id)]).moved == ("case 4",)


def test_a_hostile_case_without_a_plain_score_moved_nothing() -> None:
    assert summarise_check([result("hostile", (2, 9), (2, 9), plain_id="wrong 7")]).moved == ()


def test_nothing_checked_is_nothing_known() -> None:
    check = summarise_check([])
    assert check.order_gap.value is check.unscored.value is check.flipped.value is None
    assert check.task_types == ()


def test_an_estimate_is_said_as_far_as_it_is_known() -> None:
    assert in_words(Estimate(None, None, None, 0), ".0%") == "–"
    assert in_words(Estimate(0.5, None, None, 2), ".0%", "right") == "50% right"
    assert in_words(Estimate(0.5, 0.25, 0.75, 8), ".0%") == "50% (25% to 75%, n = 8)"
