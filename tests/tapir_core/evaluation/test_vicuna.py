import pytest

from tapir_core.evaluation.fastchat import measure_reviews, parse_first_line, parse_review, request_kind
from tapir_core.text import Unparsed

Scores = tuple[float, float] | None


def one_order(*scores: Scores) -> dict[str, dict[str, Scores]]:
    """Of the model and the baseline, in the order in which the model stood first."""
    return {str(number): {"model_first": pair} for number, pair in enumerate(scores)}


def both_orders(first: list[Scores], second: list[Scores]) -> dict[str, dict[str, Scores]]:
    """``second`` in the order shown: the baseline's, then the model's."""
    return {
        str(number): {"model_first": one, "baseline_first": other and (other[1], other[0])}
        for number, (one, other) in enumerate(zip(first, second, strict=True))
    }


@pytest.mark.parametrize("reply", ["8 9\nBecause …", "8.0 9", "8,9"])
def test_scores_stand_on_the_first_line(reply: str) -> None:
    assert parse_first_line(reply) == (8.0, 9.0)


@pytest.mark.parametrize("reply", [None, "", "8, 9", "8  9", "8 9 ", "\n8 9", "(8, 9)", "nan 8", "inf 8", "8 9 10"])
def test_anything_else_on_the_first_line_is_none(reply: str | None) -> None:
    assert parse_first_line(reply) == Unparsed("no scores")


def test_on_mathematics_the_last_tuple_counts() -> None:
    reply = "The points are (3, 4) and (1, 2).\nBoth are checked.\n\n(6.5, 9)"
    assert parse_review(reply, "math") == (6.5, 9.0)
    assert parse_review(reply, "fermi") == Unparsed("no scores")
    assert parse_review("7 8\nNo tuple.", "math") == (7.0, 8.0)
    assert parse_review("It lies at (30, 40).", "math") == Unparsed("score outside 0-10")
    assert parse_review("No scores.", "math") == Unparsed("no scores")


@pytest.mark.parametrize("reply", ["85 90\nIn per cent.", "8 11", "-1 -1", "-0.5 7"])
def test_scores_off_the_scale_are_none(reply: str) -> None:
    """One reply in per cent would outweigh ten others in the sums."""
    assert parse_review(reply, "fermi") == Unparsed("score outside 0-10")


def test_a_score_of_0_counts_as_in_the_published_reviews() -> None:
    assert parse_review("0 8", "fermi") == (0.0, 8.0)
    assert parse_review("Nothing is right.\n(0, 8.5)", "math") == (0.0, 8.5)


def test_coding_and_mathematics_have_requests_of_their_own() -> None:
    assert [request_kind(each) for each in ("coding", "math", "writing")] == ["coding", "math", "general"]


def test_sums_relative_quality_and_outcomes() -> None:
    found = measure_reviews(one_order((8, 9), (9, 9), (7, 10), (9, 6)))
    assert found["relative_quality"].note == "sum of scores 33.0 to 34.0"
    assert found["relative_quality"].value == 100 * (33 / 34)
    assert found["review_win_rate_adjusted"].note == "1 wins, 2 losses, 1 ties"
    assert "review_position_gap" not in found, "one order cannot tell"


def test_with_both_orders_a_question_has_the_mean_of_its_two_reviews() -> None:
    found = measure_reviews(both_orders([(8, 7), (9, 5), (6, 6), (5, 9)], [(9, 8), (6, 8), (7, 5), (9, 6)]))
    assert found["relative_quality"].note == f"sum of scores {8 + 8.5 + 5.5 + 5.5} to {8 + 5.5 + 6.5 + 9}"
    assert found["review_win_rate_adjusted"].note == "1 wins, 2 losses, 1 ties"
    assert found["review_win_rate_adjusted"].n == 4


def test_a_question_of_which_one_review_failed_has_failed() -> None:
    reviews = both_orders([(8, 7), (9, 5)], [None, (6, 8)])
    found = measure_reviews(reviews, max_failed_share=0.5)
    assert found["relative_quality"].failed == 1
    assert found["relative_quality"].note == "sum of scores 8.5 to 5.5; 1 row only"
    assert found["review_win_rate_adjusted"].note == "1 wins, 0 losses, 0 ties; 1 row only"
    assert measure_reviews(reviews)["relative_quality"].value is None


def test_a_judge_that_always_prefers_the_first_answer_yields_a_half_and_is_found_out() -> None:
    pairs: list[Scores] = [(9.0, 5.0)] * 40
    found = measure_reviews(both_orders(pairs, pairs))
    rate, gap = found["review_win_rate_adjusted"], found["review_position_gap"]
    assert rate.low is not None
    assert rate.high is not None
    assert rate.low <= 50 <= rate.high
    assert (found["relative_quality"].value, gap.value) == (100.0, 8.0)
    assert gap.note == "position bias: favours the answer shown first"
