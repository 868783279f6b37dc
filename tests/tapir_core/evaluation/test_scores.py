"""What a benchmark makes of a student's judgments: figures with their counts, and none where too much failed."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tapir_core.evaluation.benchmark import Exchange, Game, benchmark_of, exchanges_of
from tapir_core.evaluation.scores import Judgment, Scores
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


def scores_of(root: Path, settings: dict[str, Any], judge: Callable[[Game, int], Judgment], **more: Any) -> Scores:
    config = make_config(root, evaluation={"benchmarks": {"mine": {**settings, **more}}})
    benchmark, prompts = benchmark_of(config, "mine"), {name: load_prompt(name) for name in PROMPT_NAMES}
    items = benchmark.items()
    answers = items.select("question_id", "turn").with_columns(response=pl.lit("An answer of the student."))
    exchanges: list[Exchange] = exchanges_of(items, answers)
    games = [game for each in exchanges for game in benchmark.games(each, prompts)]
    return benchmark.scores(
        exchanges,
        {
            game.place: game.reading if game.reading and game.reading.reason else judge(game, place)
            for place, game in enumerate(games)
        },
    )


@ALL_THREE
def test_where_too_much_failed_no_category_has_a_figure_either(tmp_path: Path, settings: dict[str, Any]) -> None:
    """Failures are no random sample: what the judge lost is all of one category."""
    found = scores_of(tmp_path, settings, fails_math)
    assert {each.value for each in found.values()} == {None}
    assert all("judgments failed" in each.note for each in found.values())
    allowed = scores_of(tmp_path, settings, fails_math, max_failed_share=0.5)
    assert {category: each.value is None for (category, _), each in allowed.items()}["all"] is False
    lost = [each for (category, _), each in allowed.items() if category in ("math", "reckoning")]
    assert lost
    assert {each.value for each in lost} == {None}


@ALL_THREE
def test_a_note_tells_no_sums_or_wins_where_there_is_no_figure(tmp_path: Path, settings: dict[str, Any]) -> None:
    for each in scores_of(tmp_path, settings, fails_math).values():
        assert re.fullmatch(r"\d+ of \d+ judgments failed \(.*%\), more than the .*% allowed", each.note)


@ALL_THREE
def test_what_failed_is_in_no_count_but_its_own(tmp_path: Path, settings: dict[str, Any]) -> None:
    turns = 2 if settings is MT_BENCH else 1
    for share in (0.1, 0.0):
        found = scores_of(tmp_path, settings, fails_first, max_failed_share=share)
        for (category, metric), each in found.items():
            if category == "all":
                of_both_turns = turns if metric not in ("rating_turn_1", "rating_turn_2") else 1
                assert each.failed == of_both_turns, each
                assert each.n + each.failed == of_both_turns * QUESTIONS, each


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
    of_all = {place: each for place, each in found.items() if place[0] == "all"}
    for each in of_all.values():
        assert (each.failed, each.n + each.failed) == (2, QUESTIONS), each
    place, headline = next(iter(of_all.items()))
    assert headline.value in (100, pytest.approx(100 * 9 / 6)), "of what was judged all is won"
    told = f"failed: the baseline, {baseline!r}, has no answer to 2 questions (1, 2)"
    assert headline.note.endswith(told)
    withheld = scores_of(tmp_path, settings, wins, baseline=baseline, max_failed_share=0.09)
    assert withheld[place].value is None
    assert withheld[place].note == f"2 of {QUESTIONS} judgments failed (10.0%), more than the 9.0% allowed; {told}"


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

    found = [each for (name, _), each in scores_of(tmp_path, settings, refuses).items() if name == "all"]
    told = "failed: 20 questions: bad_request, 'HTTP 400: logprobs are not supported by this model. xx"
    assert told in found[0].note
    assert len(found[0].note) < 450
    remedy = "set evaluation.benchmarks.mine.top_logprobs = 0"
    assert (remedy in found[0].note) == (settings is ALPACA)
    if settings is ALPACA:
        by_choice = scores_of(tmp_path, settings, refuses, top_logprobs=0)
        assert remedy not in next(iter(by_choice.values())).note, "nobody asked for them"
