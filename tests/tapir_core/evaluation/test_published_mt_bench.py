"""MT-Bench and Vicuna against published gradings: every parse, average and sum."""

import math
from collections import defaultdict

import pytest

from tapir_core.evaluation.fastchat import (
    WITH_REFERENCE,
    measure_ratings,
    measure_reviews,
    parse_first_line,
    parse_rating,
)
from tapir_core.statistics import Estimate
from tapir_core.text import Unparsed
from tests.evalref import csv_rows, json_rows


def value(figure: Estimate) -> float:
    assert figure.value is not None
    return figure.value


def test_every_made_up_reply_is_read_as_the_originals_read_it() -> None:
    parsers = {"single_rating": (parse_rating, -1), "first_line_scores": (parse_first_line, [-1, -1])}
    cases = json_rows("mt_bench/parser_cases.jsonl")
    # No prompt of ours asks for two scores in brackets, or for the better one of two answers.
    for case in (each for each in cases if each["parser"] not in ("two_scores", "pair_verdict")):
        parse, failure = parsers[case["parser"]]
        found = parse(case["text"])
        read = list(found) if isinstance(found, tuple) else found
        assert (failure if isinstance(read, Unparsed) else read) == case["expected"], case
    assert len(cases) == 49


def test_averages_of_published_gradings() -> None:
    models = defaultdict(dict)
    categories = {}
    for number, row in enumerate(csv_rows("mt_bench/single_grading_third_party.csv")):
        # One model's answers were graded twice; an average knows no questions.
        score, place = float(row["score"]), (str(number), int(row["turn"]))
        models[row["repository"], row["model"]][place] = None if score == -1 else score
        categories[place[0]] = row["category"]
        assert (row["category"] in WITH_REFERENCE) == ("math" in row["judge_prompt"])
    expected = csv_rows("mt_bench/single_grading_expected.csv")
    assert len({*categories.values()}) == 8
    for row in expected:
        ratings = models[row["repository"], row["model"]]
        found = measure_ratings(ratings)
        for name, metric in (("turn_1", "rating_turn_1"), ("turn_2", "rating_turn_2"), ("average", "rating")):
            assert value(found[metric]) == float(row[name]), row
        assert (len(ratings), found["rating"].failed) == (int(row["n_rows"]), int(row["n_dropped"]))
        of_category = [
            measure_ratings({place: each for place, each in ratings.items() if categories[place[0]] == category})
            for category in {*categories.values()}
        ]
        kept = sum(each["rating"].n for each in of_category)
        whole = math.fsum(value(each["rating"]) * each["rating"].n for each in of_category)
        assert whole / kept == pytest.approx(value(found["rating"]))
    assert len(expected) == 10


def sums(figure: Estimate) -> list[float]:
    return [float(each) for each in figure.note.partition(";")[0].removeprefix("sum of scores ").split(" to ")]


def test_sums_and_outcomes_of_the_published_reviews() -> None:
    reviews, categories = defaultdict(dict), {}
    for row in csv_rows("mt_bench/vicuna_reviews_2023.csv"):
        scores = float(row["score_1"]), float(row["score_2"])
        reviews[row["pair"]][row["question_id"]] = {"model_first": scores}
        categories[row["question_id"]] = row["category"]
    expected = csv_rows("mt_bench/vicuna_reviews_2023_sums.csv")
    for row in expected:
        found = measure_reviews(reviews[row["pair"]])
        published = [float(row["sum_1"]), float(row["sum_2"])]
        assert sums(found["relative_quality"]) == published
        assert value(found["relative_quality"]) == 100 * (published[0] / published[1])
        wins, ties, losses = (row[name] for name in ("wins_1", "ties", "wins_2"))
        assert found["review_win_rate_adjusted"].note == f"{wins} wins, {losses} losses, {ties} ties"
        of_category = [
            measure_reviews({each: of for each, of in reviews[row["pair"]].items() if categories[each] == category})
            for category in {*categories.values()}
        ]
        assert math.fsum(sums(each["relative_quality"])[0] for each in of_category) == published[0]
        assert "review_position_gap" not in found, "one order only"
    assert len(expected) == 13
