import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapir_core.evaluation.mt_bench import Shown, combine_games, measure_pairs, parse_pair_verdict, win_of_game
from tapir_core.text import Unparsed

WORTH = st.sampled_from([1.0, 0.5, 0.0])
WON, LOST, TIE = (1.0, 1.0), (0.0, 0.0), (0.5, 0.5)
Games = tuple[float | None, float | None]


def pairs_of(games: list[Games], turns: tuple[int, ...] = (1,)) -> dict[tuple[str, int], Games]:
    """A question each, with the same games in every turn."""
    return {(str(question), turn): each for question, each in enumerate(games) for turn in turns}


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
    assert [win_of_game(shown, model_first=True) for shown in ("A", "B", "tie")] == [1.0, 0.0, 0.5]
    assert [win_of_game(shown, model_first=False) for shown in ("A", "B", "tie")] == [0.0, 1.0, 0.5]


@given(WORTH, WORTH)
def test_what_two_games_disagree_on_is_a_tie(one: float, other: float) -> None:
    assert combine_games(one, other) == (one if one == other else 0.5)
    assert combine_games(one, None) is None
    assert combine_games(None, other) is None


def test_a_judge_that_always_prefers_the_first_answer_yields_a_half_and_is_found_out() -> None:
    games = (win_of_game("A", model_first=True), win_of_game("A", model_first=False))
    found = measure_pairs(pairs_of([games] * 40, (1, 2)))
    rate = found["pair_win_rate_adjusted"]
    assert (rate.estimate.value, rate.note) == (50.0, "0 wins, 0 losses, 80 ties")
    assert rate.estimate.low is not None
    assert rate.estimate.high is not None
    assert rate.estimate.low <= 50 <= rate.estimate.high
    assert found["pair_position_gap"].estimate.value == 100.0
    assert found["pair_position_gap"].note == "position bias: favours the answer shown first"


def test_where_all_is_won_the_interval_ends_at_1_and_has_a_width() -> None:
    found = measure_pairs(pairs_of([WON] * 20, (1, 2)))
    for metric, end in (("pair_win_rate", 100.0), ("pair_loss_rate", 0.0), ("pair_win_rate_adjusted", 100.0)):
        rate = found[metric].estimate
        assert rate.value == end
        assert (rate.low, rate.high) == pytest.approx((83.89, 100.0) if end else (0.0, 16.11), abs=1e-2)
    gaps = measure_pairs(pairs_of([(1.0, 0.0)] * 20))["pair_position_gap"].estimate
    assert gaps.high == 100.0
    assert gaps.low == pytest.approx(67.77, abs=1e-2)


def test_a_judge_that_prefers_the_last_answer_now_and_then_is_found_out_too() -> None:
    found = measure_pairs(pairs_of([WON] * 30 + [(0.0, 1.0)] * 20))
    assert found["pair_position_gap"].note == "position bias: favours the answer shown second"


def test_a_judge_that_agrees_with_itself_favours_neither() -> None:
    found = measure_pairs(pairs_of([WON] * 20 + [TIE] * 10))
    gap = found["pair_position_gap"]
    assert (gap.estimate.low, gap.estimate.value, gap.estimate.high, gap.note) == (0.0, 0.0, 0.0, "")
    rates = [found[name].estimate.value for name in ("pair_win_rate", "pair_loss_rate", "pair_win_rate_adjusted")]
    assert rates == [100 * (20 / 30), 0.0, 100 * (25 / 30)]
    assert found["pair_win_rate_adjusted"].note == "20 wins, 0 losses, 10 ties"


def test_one_failed_game_takes_its_pair_out_of_every_figure() -> None:
    pairs = pairs_of([*[WON] * 30, (1.0, None)])
    found = measure_pairs(pairs)
    assert found["pair_win_rate_adjusted"].note == "30 wins, 0 losses, 0 ties"
    assert {name: each.n_failed for name, each in found.items()} == dict.fromkeys(found, 1)
    refused = measure_pairs(pairs, max_failed_share=0.01)
    assert {each.estimate.value for each in refused.values()} == {None}
    assert refused["pair_position_gap"].note == ""
