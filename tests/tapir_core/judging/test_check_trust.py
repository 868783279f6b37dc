import pytest

from tapir_core.judging.check import PAIR_KINDS, CheckPair, JudgeCheck, PairKind, PairResult, summarise_check

ORDERS = ("teacher_first", "student_first")


def make_results(
    pairs: int = 20,
    *,
    wrong: int = 0,
    of: PairKind = "wrong",
    gap: float = 6.0,
    order_gap: float = 0.0,
    unscored: int = 0,
    orders: tuple[str, ...] = ORDERS,
) -> list[PairResult]:
    """``pairs`` of each kind, right but for ``wrong`` pairs of one kind and ``unscored`` of it."""
    shifts = (order_gap / 2, -order_gap / 2)[: len(orders)]
    results = []
    for kind in PAIR_KINDS:
        for number in range(pairs):
            case, plain_id = (f"case {number}", f"wrong {number}") if kind == "hostile" else ("", "")
            pair = CheckPair(f"{kind} {number}", kind, "Math", "Ask", "a", "b", case, plain_id)
            mean = -gap if kind == of and number < wrong else 0.0 if kind == "padded" else gap
            gaps = {order: mean + shift for order, shift in zip(orders, shifts, strict=True)}
            if kind == of and number >= pairs - unscored:
                results.append(PairResult(pair, {}, ("refused",) * len(orders)))
            else:
                results.append(PairResult(pair, gaps))
    return results


def weigh(results: list[PairResult], *, both_orders: bool = True) -> JudgeCheck:
    return summarise_check(results, balanced=both_orders)


def reasons(check: JudgeCheck) -> list[str]:
    return [reason for _, reason in check.objections]


def test_a_judge_that_is_right_in_both_orders_is_trusted_without_objection() -> None:
    check = weigh(make_results(order_gap=1.0))
    assert (check.word, check.objections) == ("trust", [])


@pytest.mark.parametrize(
    ("of", "wrong", "word"),
    [
        ("wrong", 2, "trust"),
        ("wrong", 3, "with care"),
        ("wrong", 6, "do not trust"),
        ("almost right", 4, "trust"),
        ("almost right", 5, "with care"),
        ("almost right", 9, "do not trust"),
        ("no answer", 3, "with care"),
        ("no answer", 6, "do not trust"),
        ("padded", 5, "with care"),
        ("padded", 20, "with care"),
        ("hostile", 2, "with care"),
        ("hostile", 5, "do not trust"),
    ],
)
def test_each_kind_of_pair_has_its_limits(of: PairKind, wrong: int, word: str) -> None:
    trust = weigh(make_results(of=of, wrong=wrong))
    assert trust.word == word
    if word != "trust":
        assert any(of in reason or "hostile" in reason for reason in reasons(trust))


@pytest.mark.parametrize(
    ("order_gap", "word"),
    [(1.4, "trust"), (1.5, "with care"), (-1.5, "with care"), (3.0, "do not trust"), (-9.0, "do not trust")],
)
def test_a_favoured_place_costs_trust_whichever_it_is(order_gap: float, word: str) -> None:
    trust = weigh(make_results(order_gap=order_gap))
    assert trust.word == word
    if word != "trust":
        assert ("first" if order_gap > 0 else "second") in reasons(trust)[0]


def test_one_order_alone_is_with_care_at_best() -> None:
    trust = weigh(make_results(), both_orders=False)
    assert trust.word == "with care"
    assert "judge.orders" in reasons(trust)[0]


def test_a_judge_of_single_answers_has_no_order_to_favour() -> None:
    check = weigh(make_results(orders=("pointwise",)))
    assert (check.word, check.objections) == ("trust", [])


def test_few_pairs_do_not_make_a_judge_trusted() -> None:
    trust = weigh(make_results(5))
    assert trust.word == "with care"
    assert "--pairs" in reasons(trust)[0]


def test_an_order_gap_of_a_single_pair_is_said_without_an_interval() -> None:
    only = [each for each in make_results(1, order_gap=4.0) if each.pair.kind == "wrong"]
    assert "the answer shown first is favoured: order gap +4.0 points, beyond 3" in reasons(weigh(only))


def test_one_moved_case_is_with_care_and_many_are_too_many() -> None:
    assert weigh(make_results(of="hostile", wrong=1)).word == "with care"
    assert weigh(make_results(of="hostile", wrong=3)).word == "do not trust"


@pytest.mark.parametrize(("unscored", "word"), [(5, "trust"), (6, "with care"), (20, "do not trust")])
def test_a_judge_that_does_not_answer_cannot_be_trusted(unscored: int, word: str) -> None:
    trust = weigh(make_results(of="padded", unscored=unscored))
    assert trust.word == word


def test_no_score_at_all_is_no_trust() -> None:
    trust = weigh(make_results(of="wrong", unscored=20))
    assert trust.word == "do not trust"
    assert "wrong: no pair was scored" in reasons(trust)


def test_what_weighs_most_is_said_first() -> None:
    results = make_results(of="wrong", wrong=6, order_gap=2.0)
    found = reasons(weigh(results))
    assert found[0].startswith("wrong: 70% right (")
    assert "order gap +2.0" in found[1]
