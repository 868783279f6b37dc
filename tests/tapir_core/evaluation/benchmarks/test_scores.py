"""What a benchmark makes of a student's judgments: figures with their counts, and none where too much failed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tapir_core.evaluation.benchmarks import Exchange, Game, Judged, Score, benchmark_of, exchanges_of
from tapir_core.prompts import PROMPT_NAMES, load_prompt
from tests.benchmark_runs import ALPACA, MT_BENCH, QUESTIONS, VICUNA
from tests.run_config import make_config

ALL_THREE = pytest.mark.parametrize("settings", [ALPACA, MT_BENCH, VICUNA], ids=["ae", "mt", "vi"])


def fails_math(game: Game, place: int) -> Judged:
    """One category is lost whole, the others are judged."""
    return Judged() if game.category in ("math", "reckoning") else judged(game, place)


def fails_first(game: Game, place: int) -> Judged:
    """The judgments of one question are lost."""
    return Judged() if game.question_id == "1" else judged(game, place)


def judged(game: Game, place: int) -> Judged:
    """Something that differs from question to question."""
    of_three = place % 3
    if game.mode == "annotation":
        return Judged(1 + of_three / 2, how="log-probabilities")
    if game.mode == "review":
        return Judged(5.0 + of_three, 6.0)
    return Judged(5.0 + of_three if game.mode == "single" else of_three / 2)


def scores_of(root: Path, settings: dict[str, Any], judge: Callable[[Game, int], Judged], **more: Any) -> list[Score]:
    config = make_config(root, evaluation={"benchmarks": {"mine": {**settings, **more}}})
    benchmark, prompts = benchmark_of(config, "mine"), {name: load_prompt(name) for name in PROMPT_NAMES}
    items = benchmark.items()
    answers = items.select("question_id", "turn").with_columns(response=pl.lit("An answer of the student."))
    exchanges: list[Exchange] = exchanges_of(items, answers)
    games = [game for each in exchanges for game in benchmark.games(each, prompts)]
    return benchmark.scores(exchanges, {game.place: judge(game, place) for place, game in enumerate(games)})


@ALL_THREE
def test_where_too_much_failed_no_category_has_a_figure_either(tmp_path: Path, settings: dict[str, Any]) -> None:
    """Failures are no random sample: what the judge lost is all of one category."""
    found = scores_of(tmp_path, settings, fails_math)
    assert {each.estimate.value for each in found} == {None}
    assert all("judgments failed" in each.note for each in found)
    allowed = scores_of(tmp_path, settings, fails_math, max_failed_share=0.5)
    assert {each.category: each.estimate.value is None for each in allowed}["all"] is False
    lost = [each for each in allowed if each.category in ("math", "reckoning")]
    assert lost
    assert {each.estimate.value for each in lost} == {None}


@ALL_THREE
def test_a_note_tells_no_sums_or_wins_where_there_is_no_figure(tmp_path: Path, settings: dict[str, Any]) -> None:
    for each in scores_of(tmp_path, settings, fails_math):
        assert each.note == each.estimate.why


@ALL_THREE
def test_what_failed_is_in_no_count_but_its_own(tmp_path: Path, settings: dict[str, Any]) -> None:
    turns = 2 if settings is MT_BENCH else 1
    for share in (0.1, 0.0):
        found = scores_of(tmp_path, settings, fails_first, max_failed_share=share)
        for each in found:
            if each.category == "all":
                of_both_turns = turns if each.metric not in ("rating_turn_1", "rating_turn_2") else 1
                assert each.n_failed == of_both_turns, each
                assert each.estimate.n + each.n_failed == of_both_turns * QUESTIONS, each
