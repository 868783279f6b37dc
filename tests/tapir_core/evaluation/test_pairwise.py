import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapir_core.evaluation.fastchat import (
    Pair,
    Shown,
    Winner,
    combine_games,
    measure_pairs,
    parse_pair_verdict,
    winner_of_game,
)
from tapir_core.text import Unparsed

WINNERS = st.sampled_from(["model", "baseline", "tie"])


def pair(question: int, model_first: Winner | None, baseline_first: Winner | None, turn: int = 1) -> Pair:
    return Pair(str(question), "math", turn, model_first, baseline_first)


@pytest.mark.parametrize(
    ("reply", "shown"),
    [("So [[A]]", "A"), ("[[B]]", "B"), ("[[C]]", "tie"), ("[[B]] not [[A]]", "A"), ("[[C]] not [[B]]", "B")],
)
def test_a_verdict_is_found_by_containment_a_before_b_before_a_tie(reply: str, shown: Shown) -> None:
    assert parse_pair_verdict(reply) == shown


@pytest.mark.parametrize("reply", [None, "", "[A]", "[[a]]", "[[tie]]", "A is better"])
def test_anything_else_is_no_verdict(reply: str | None) -> None:
    assert parse_pair_verdict(reply) == Unparsed("no verdict")


def test_a_shown_answer_is_somebodys() -> None:
    assert [winner_of_game(shown, model_first=True) for shown in ("A", "B", "tie")] == ["model", "baseline", "tie"]
    assert [winner_of_game(shown, model_first=False) for shown in ("A", "B", "tie")] == ["baseline", "model", "tie"]


@given(WINNERS, WINNERS)
def test_what_two_games_disagree_on_is_a_tie(one: Winner, other: Winner) -> None:
    assert combine_games(one, other) == (one if one == other else "tie")
    assert combine_games(one, None) is None
    assert combine_games(None, other) is None


def test_a_judge_that_always_prefers_the_first_answer_yields_a_half_and_is_found_out() -> None:
    pairs = [
        pair(question, winner_of_game("A", model_first=True), winner_of_game("A", model_first=False), turn)
        for question in range(40)
        for turn in (1, 2)
    ]
    found = measure_pairs(pairs)
    rate = found.outcomes.win_rate_adjusted.estimate
    assert (rate.value, found.outcomes.ties) == (0.5, 80)
    assert rate.low is not None
    assert rate.high is not None
    assert rate.low <= 0.5 <= rate.high
    assert found.order_gap.estimate.value == 1.0
    assert found.favoured == "first"


def test_where_all_is_won_the_interval_ends_at_1_and_has_a_width() -> None:
    found = measure_pairs([pair(question, "model", "model", turn) for question in range(20) for turn in (1, 2)])
    for figure, end in (
        (found.outcomes.win_rate, 1.0),
        (found.outcomes.loss_rate, 0.0),
        (found.outcomes.win_rate_adjusted, 1.0),
    ):
        rate = figure.estimate
        assert rate.value == end
        assert (rate.low, rate.high) == pytest.approx((0.8389, 1.0) if end else (0.0, 0.1611), abs=1e-4)
    gaps = measure_pairs([pair(question, "model", "baseline") for question in range(20)]).order_gap.estimate
    assert gaps.high == 1.0
    assert gaps.low == pytest.approx(0.6777, abs=1e-4)


def test_a_judge_that_prefers_the_last_answer_now_and_then_is_found_out_too() -> None:
    pairs = [pair(n, "model", "model") for n in range(30)] + [pair(n, "baseline", "model") for n in range(30, 50)]
    assert measure_pairs(pairs).favoured == "second"


def test_a_judge_that_agrees_with_itself_favours_neither() -> None:
    pairs = [pair(n, "model", "model") for n in range(20)] + [pair(n, "tie", "tie") for n in range(20, 30)]
    found = measure_pairs(pairs)
    assert found.favoured == "neither"
    outcomes = found.outcomes
    assert (outcomes.wins, outcomes.losses, outcomes.ties) == (20, 0, 10)
    rates = (outcomes.win_rate, outcomes.loss_rate, outcomes.win_rate_adjusted)
    assert [rate.estimate.value for rate in rates] == [20 / 30, 0.0, 25 / 30]


def test_one_failed_game_takes_its_pair_out_of_every_figure() -> None:
    pairs = [pair(n, "model", "model") for n in range(30)] + [pair(30, "model", None)]
    found = measure_pairs(pairs)
    assert (found.outcomes.wins, found.outcomes.win_rate.n_failed, found.order_gap.n_failed) == (30, 1, 1)
    refused = measure_pairs(pairs, max_failed_share=0.01)
    assert refused.outcomes.win_rate.estimate.value is None
    assert refused.favoured is None
