"""MT-Bench and Vicuna against published gradings: every parse, average and pair result."""

import math
from collections import defaultdict

import pytest

from tapir_core.evaluation.fastchat import Pair, measure_pairs, needs_reference, parse_pair_verdict
from tapir_core.evaluation.mt_bench import Rating, measure_ratings, parse_rating
from tapir_core.evaluation.statistics import Figure, by_category
from tapir_core.evaluation.vicuna import Review, measure_reviews, parse_first_line
from tapir_core.judging.verdict import PairScores
from tapir_core.text import Unparsed
from tests.evalref import csv_rows, json_rows


def value(figure: Figure) -> float:
    assert figure.estimate.value is not None
    return figure.estimate.value


def test_every_made_up_reply_is_read_as_the_originals_read_it() -> None:
    parsers = {
        "single_rating": (parse_rating, -1),
        "pair_verdict": (parse_pair_verdict, "error"),
        "first_line_scores": (parse_first_line, [-1, -1]),
    }
    cases = json_rows("mt_bench/parser_cases.jsonl")
    # No prompt of ours asks for two scores in brackets.
    for case in (each for each in cases if each["parser"] != "two_scores"):
        parse, failure = parsers[case["parser"]]
        found = parse(case["text"])
        read = [found.answer_1, found.answer_2] if isinstance(found, PairScores) else found
        assert (failure if isinstance(read, Unparsed) else read) == case["expected"], case
    assert len(cases) == 49


def test_averages_of_published_gradings() -> None:
    models = defaultdict(list)
    for row in csv_rows("mt_bench/single_grading_third_party.csv"):
        score = float(row["score"])
        rating = Rating(row["question_id"], row["category"], int(row["turn"]), None if score == -1 else score)
        models[row["repository"], row["model"]].append(rating)
        assert needs_reference(row["category"]) == ("math" in row["judge_prompt"])
    expected = csv_rows("mt_bench/single_grading_expected.csv")
    for row in expected:
        ratings = models[row["repository"], row["model"]]
        found = measure_ratings(ratings)
        for name in ("turn_1", "turn_2", "average"):
            assert value(getattr(found, name)) == float(row[name]), row
        assert (len(ratings), found.average.n_failed) == (int(row["n_rows"]), int(row["n_dropped"]))
        of_category = by_category(ratings, measure_ratings)
        assert of_category.pop("all") == found
        assert len(of_category) == 8
        kept = sum(each.average.estimate.n for each in of_category.values())
        whole = math.fsum(value(each.average) * each.average.estimate.n for each in of_category.values())
        assert whole / kept == pytest.approx(value(found.average))
    assert len(expected) == 10


def test_published_pairs() -> None:
    winners = {"model_1": "model", "model_2": "baseline", "tie": "tie", "error": None}
    pairs = [
        Pair(row["question_id"], row["category"], 1, winners[row["game_1_winner"]], winners[row["game_2_winner"]])
        for row in csv_rows("mt_bench/pairwise_third_party.csv")
    ]
    found = measure_pairs(pairs)
    outcomes = found.outcomes
    assert (outcomes.wins, outcomes.losses, outcomes.ties, outcomes.win_rate.n_failed) == (18, 20, 35, 2)
    assert value(outcomes.win_rate) == 18 / 73
    assert value(outcomes.loss_rate) == 20 / 73
    assert value(outcomes.win_rate_adjusted) == (18 + 35 / 2) / 73
    assert found.favoured == "first", "16 pairs went to whoever stood first, 2 to whoever stood second"


def test_sums_and_outcomes_of_the_published_reviews() -> None:
    reviews = defaultdict(list)
    for row in csv_rows("mt_bench/vicuna_reviews_2023.csv"):
        scores = float(row["score_1"]), float(row["score_2"])
        reviews[row["pair"]].append(Review(row["question_id"], row["category"], True, scores))
    expected = csv_rows("mt_bench/vicuna_reviews_2023_sums.csv")
    for row in expected:
        found = measure_reviews(reviews[row["pair"]])
        sums = float(row["sum_1"]), float(row["sum_2"])
        assert (found.model_sum, found.baseline_sum) == sums
        assert value(found.relative) == sums[0] / sums[1]
        outcomes = found.outcomes
        counts = tuple(int(row[name]) for name in ("wins_1", "ties", "wins_2"))
        assert (outcomes.wins, outcomes.ties, outcomes.losses) == counts
        of_category = by_category(reviews[row["pair"]], measure_reviews)
        assert math.fsum(each.model_sum for name, each in of_category.items() if name != "all") == sums[0]
        assert found.favoured is None, "one order only"
    assert len(expected) == 13
