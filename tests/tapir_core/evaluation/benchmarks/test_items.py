"""What benchmarks make of their files, and of hostile answers."""

import json
import re
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tapir_core.config import RunConfig
from tapir_core.errors import ConfigError
from tapir_core.evaluation.benchmarks import benchmark_of, exchanges_of
from tapir_core.evaluation.benchmarks.types import ITEMS
from tapir_core.prompts import PROMPT_NAMES, load_prompt
from tests.run_config import make_config

SAMPLES = Path(__file__).parents[4] / "configs" / "benchmarks"
ALPACA = {
    "type": "alpaca_eval",
    "questions": str(SAMPLES / "alpaca_eval.json"),
    "baseline": str(SAMPLES / "alpaca_eval_baseline.json"),
}
MT_BENCH = {
    "type": "mt_bench",
    "questions": str(SAMPLES / "mt_bench_question.jsonl"),
    "references": str(SAMPLES / "mt_bench_reference.jsonl"),
    "baseline": str(SAMPLES / "mt_bench_baseline.jsonl"),
    "modes": ["single", "pairwise"],
}
VICUNA = {
    "type": "vicuna",
    "questions": str(SAMPLES / "vicuna_question.jsonl"),
    "baseline": str(SAMPLES / "vicuna_baseline.jsonl"),
}


def configured(root: Path, **settings: Any) -> RunConfig:
    return make_config(root, evaluation={"benchmarks": {"mine": settings}})


@pytest.mark.parametrize(("settings", "rows"), [(ALPACA, 20), (MT_BENCH, 40), (VICUNA, 20)], ids=["ae", "mt", "vi"])
def test_the_samples_have_what_their_benchmarks_need(tmp_path: Path, settings: dict[str, Any], rows: int) -> None:
    items = benchmark_of(configured(tmp_path, **settings), "mine").items()
    assert items.schema == ITEMS
    assert items.height == rows
    assert items["baseline"].null_count() == 0


def lacking(path: str, tmp_path: Path) -> str:
    """The same file without its last row."""
    text = Path(path).read_text()
    file = tmp_path / "short"
    if text.startswith("["):
        file.write_text(json.dumps(json.loads(text)[:-1]))
    else:
        file.write_text("\n".join(text.splitlines()[:-1]))
    return str(file)


@pytest.mark.parametrize(
    ("settings", "field", "said"),
    [
        (ALPACA, "baseline", "mine.baseline: .* has no output to 1 of 20 questions"),
        (MT_BENCH, "baseline", "mine.baseline: no answer to question 20"),
        (MT_BENCH, "references", "mine.references: no reference answer to question 14"),
        (VICUNA, "baseline", "mine.baseline: no answer to question 20"),
    ],
    ids=str,
)
def test_a_file_that_lacks_what_another_asks_for_is_refused_before_anybody_is_asked(
    tmp_path: Path, settings: dict[str, Any], field: str, said: str
) -> None:
    short = {**settings, field: lacking(settings[field], tmp_path)}
    with pytest.raises(ConfigError, match=said):
        benchmark_of(configured(tmp_path, **short), "mine").items()


@pytest.mark.parametrize("settings", [ALPACA, MT_BENCH, VICUNA], ids=["ae", "mt", "vi"])
def test_an_answer_opens_and_closes_no_section_of_the_judges_prompt(tmp_path: Path, settings: dict[str, Any]) -> None:
    benchmark = benchmark_of(configured(tmp_path, **settings), "mine")
    prompts, items = {name: load_prompt(name) for name in PROMPT_NAMES}, benchmark.items()
    tags: list[list[str]] = []
    for response in ("fine", None):
        hostile = " ".join(dict.fromkeys(tag for each in tags for tag in each))
        answers = items.select("question_id", "turn").with_columns(response=pl.lit(response or hostile))
        games = [game for each in exchanges_of(items, answers) for game in benchmark.games(each, prompts)]
        tags = [re.findall(r"</?[a-z_0-9]+>", game.text or "") for game in games] if response else tags
    assert all(tags)
    assert [re.findall(r"</?[a-z_0-9]+>", game.text or "") for game in games] == tags


def test_a_question_without_an_answer_has_failed_and_asks_nobody(tmp_path: Path) -> None:
    for settings in (ALPACA, MT_BENCH, VICUNA):
        benchmark = benchmark_of(configured(tmp_path, **settings), "mine")
        prompts = {name: load_prompt(name) for name in PROMPT_NAMES}
        items = benchmark.items()
        answers = items.select("question_id", "turn").with_columns(response=pl.lit(None, pl.String))
        games = [game for each in exchanges_of(items, answers) for game in benchmark.games(each, prompts)]
        assert {(game.text, game.reason) for game in games} == {(None, "the student gave no answer")}
        scores = benchmark.scores(exchanges_of(items, answers), {})
        assert all(score.estimate.value is None for score in scores)
        assert scores[0].n_failed == len({(row[0], row[1]) for row in items.select("question_id", "turn").rows()})
