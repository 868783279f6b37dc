import pytest

from tapir_core.config import Sampling
from tapir_core.config.benchmarks import MTBenchBenchmark
from tapir_core.evaluation.fastchat import WITH_REFERENCE, MTBench, measure_ratings, parse_rating
from tapir_core.text import Unparsed


@pytest.mark.parametrize(
    ("reply", "rating"),
    [
        ("Good. Rating: [[8]]", 8.0),
        ("[[7.5]]", 7.5),
        ("[[8.]]", 8.0),
        ("[[3]], no, [[9]]", 3.0),
        ("As [2] says, [[6]]", 6.0),
        ("As [2] says, 6", 2.0),
        ("[[11]]", 11.0),
        ("[[08]]", 8.0),
        ("[[[6]]]", 6.0),
    ],
)
def test_the_first_double_bracket_counts_then_the_first_single_one(reply: str, rating: float) -> None:
    assert parse_rating(reply) == rating


@pytest.mark.parametrize(
    "reply", [None, "", "8/10", "[[ 8 ]]", "[[-3]]", "[[.5]]", "[[ten]]", "[[٣]]", "[[" + "9" * 400]
)
def test_anything_else_is_no_rating(reply: str | None) -> None:
    assert parse_rating(reply) == Unparsed("no rating")


def test_temperatures_and_references_go_by_category() -> None:
    benchmark = MTBench(MTBenchBenchmark(questions="q"))
    everywhere = ("writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities", "fermi")
    temperatures = [benchmark.answering(each, Sampling()).temperature for each in everywhere]
    assert temperatures == [0.7, 0.7, 0.0, 0.0, 0.0, 0.0, 0.1, 0.1, 0.7]
    assert [each for each in everywhere if each in WITH_REFERENCE] == ["reasoning", "math", "coding"]


def rated(turns: tuple[int, ...] = (1, 2)) -> dict[tuple[str, int], float | None]:
    """Ten questions, each rated with its number."""
    return {(str(number), turn): float(number) for number in range(10) for turn in turns}


def test_the_average_is_that_of_all_ratings_not_of_the_turns() -> None:
    found = measure_ratings({**rated(), ("0", 2): None}, max_failed_share=0.1)
    assert [each.value for each in found.values()] == [90 / 19, 4.5, 5.0]
    assert {name: each.failed for name, each in found.items()} == {
        "rating": 1,
        "rating_turn_1": 0,
        "rating_turn_2": 1,
    }


def test_the_interval_of_a_mean_rating_ends_at_10() -> None:
    for lowest in (9.0, 10.0):
        ratings = {(str(number), 1): lowest if number == 0 else 10.0 for number in range(10)}
        found = measure_ratings(ratings)["rating"]
        assert found.low < found.value <= found.high == 10


def test_each_figure_stands_or_falls_by_its_own_failures() -> None:
    found = measure_ratings({**dict.fromkeys(rated(), 5.0), ("0", 2): None})
    assert found["rating_turn_2"].value is None
    assert found["rating"].value == 5.0


def test_questions_of_one_turn_have_no_second() -> None:
    assert measure_ratings(rated((1,)))["rating_turn_2"].note == "nothing to measure"
