"""What a benchmark makes of a student's judgments: figures with their counts, and none where too much failed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tapir_core.evaluation.benchmark import Exchange, Game, benchmark_of, exchanges_of
from tapir_core.evaluation.scores import Judgment, Score
from tapir_core.prompts import PROMPT_NAMES, load_prompt
from tests.benchmark_runs import ALPACA, MT_BENCH, QUESTIONS, VICUNA
from tests.run_config import make_config

ALL_THREE = pytest.mark.parametrize("settings", [ALPACA, MT_BENCH, VICUNA], ids=["ae", "mt", "vi"])


def fails_math(game: Game, place: int) -> Judgment:
    """One category is lost whole, the others are judged."""
    return Judgment() if game.category in ("math", "reckoning") else judged(game, place)


def fails_first(game: Game, place: int) -> Judgment:
    """The judgments of one question are lost."""
    return Judgment() if game.question_id == "1" else judged(game, place)


def judged(game: Game, place: int) -> Judgment:
    """Something that differs from question to question."""
    of_three = place % 3
    if game.mode == "annotation":
        return Judgment(1 + of_three / 2, how="log-probabilities")
    if game.mode == "review":
        return Judgment(5.0 + of_three, 6.0)
    return Judgment(5.0 + of_three)


def scores_of(root: Path, settings: dict[str, Any], judge: Callable[[Game, int], Judgment], **more: Any) -> list[Score]:
    config = make_config(root, evaluation={"benchmarks": {"mine": {**settings, **more}}})
    benchmark, prompts = benchmark_of(config, "mine"), {name: load_prompt(name) for name in PROMPT_NAMES}
    items = benchmark.items()
    answers = items.select("question_id", "turn").with_columns(response=pl.lit("An answer of the student."))
    exchanges: list[Exchange] = exchanges_of(items, answers)
    games = [game for each in exchanges for game in benchmark.games(each, prompts)]
    return benchmark.scores(
        exchanges,
        {
            game.place: Judgment(reason=game.reason) if game.reason else judge(game, place)
            for place, game in enumerate(games)
        },
    )


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


def without_first(path: str, folder: Path) -> str:
    """The same answers, of which the first two have failed."""
    text, file = Path(path).read_text(), folder / "baseline"
    rows = json.loads(text) if text.startswith("[") else [json.loads(line) for line in text.splitlines()]
    failed = {"output": "$ERROR$", "choices": [{"turns": ["$ERROR$"]}]}
    file.write_text(json.dumps([*({**row, **failed} for row in rows[:2]), *rows[2:]]))
    return str(file)


@pytest.mark.parametrize("settings", [ALPACA, VICUNA], ids=["ae", "vi"])
def test_a_baselines_answer_that_failed_is_neither_win_nor_loss_and_the_figure_says_whose_it_was(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    baseline = without_first(settings["baseline"], tmp_path)
    found = scores_of(tmp_path, settings, wins, baseline=baseline, max_failed_share=0.1)
    of_all = [each for each in found if each.category == "all"]
    for each in of_all:
        assert (each.n_failed, each.estimate.n + each.n_failed) == (2, QUESTIONS), each
    headline = of_all[0]
    assert headline.estimate.value in (100, pytest.approx(100 * 9 / 6)), "of what was judged all is won"
    told = f"failed: the baseline, {baseline!r}, has no answer to 2 questions (1, 2)"
    assert headline.note.endswith(told)
    withheld = scores_of(tmp_path, settings, wins, baseline=baseline, max_failed_share=0.09)
    [none] = [each for each in withheld if (each.category, each.metric) == ("all", headline.metric)]
    assert none.estimate.value is None
    assert none.note == f"{none.estimate.why}; {told}"


def wins(game: Game, place: int) -> Judgment:
    """The student is better everywhere."""
    return Judgment(9.0, 6.0) if game.mode == "review" else Judgment(2.0)


@ALL_THREE
def test_what_the_judge_said_when_it_refused_stands_in_the_figure_once_and_short(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    said = "HTTP 400: logprobs are not\n supported by this model. " + "x" * 500

    def refuses(game: Game, place: int) -> Judgment:
        return Judgment(reason="bad_request", said=said)

    found = [each for each in scores_of(tmp_path, settings, refuses) if each.category == "all"]
    told = "failed: 20 questions: bad_request, 'HTTP 400: logprobs are not supported by this model. xx"
    assert told in found[0].note
    assert len(found[0].note) < 450
    remedy = "set evaluation.benchmarks.mine.top_logprobs = 0"
    assert (remedy in found[0].note) == (settings is ALPACA)
    if settings is ALPACA:
        by_choice = scores_of(tmp_path, settings, refuses, top_logprobs=0)
        assert remedy not in by_choice[0].note, "nobody asked for them"
