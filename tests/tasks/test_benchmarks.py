"""Stages of benchmarks as tasks: what they refuse to make figures of, and what they show while they work."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tapir_core.errors import RunChanged
from tapir_core.paths import BACKBONE, manifest_file
from tapir_core.run_folder import RunFolder
from tapir_core.stages import StageAt
from tasks.benchmarks import benchmark_replies_shard, benchmark_scores
from tasks.input_files import gather_files
from tasks.outcomes import Piece, ShardOutcome
from tasks.runtime import close_all, current
from tests.benchmark_runs import ALPACA, MT_BENCH, QUESTIONS, judge
from tests.doubles.standin import StandinServer
from tests.run_builder import build_run
from tests.run_config import make_config


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    close_all()


def judged_run(root: Path, settings: dict[str, Any]) -> RunFolder:
    """The untouched backbone's answers to the benchmark `mine` are judged."""
    asked = {"benchmarks": {"mine": settings}, "each_round": ["mine"], "decontamination": {"max_rouge_l": 1.0}}
    config = make_config(root, evaluation=asked)
    return build_run(root, config=config, until=of_backbone("scores"), **gather_files(config))


def of_backbone(what: str) -> StageAt:
    return StageAt(f"benchmark_{what}", BACKBONE, benchmark="mine")


def test_tables_of_length_control_that_were_edited_since_the_run_was_opened_make_no_figure(tmp_path: Path) -> None:
    """It would stand under the old table's key."""
    difficulty, anchors = tmp_path / "difficulty.csv", tmp_path / "anchors.csv"
    difficulty.write_text("item,difficulty\n" + "".join(f"{row},{row % 3 - 1}\n" for row in range(QUESTIONS)))
    anchors.write_text("preference,std_delta_len,instruction_difficulty\n0.6,-0.4,0.5\n0.3,0.7,-0.5\n")
    run = judged_run(tmp_path, {**ALPACA, "difficulty": str(difficulty), "anchors": str(anchors)})
    made = run.rows(of_backbone("scores"))
    controlled = made.row(by_predicate=pl.col("metric") == "length_controlled_win_rate", named=True)
    assert controlled["low"] < controlled["value"] < controlled["high"]
    run.storage.remove(manifest_file(of_backbone("scores").folder))
    benchmark_scores.fn(run.ref, of_backbone("scores"))
    assert run.rows(of_backbone("scores")).equals(made)
    run.storage.remove(manifest_file(of_backbone("scores").folder))
    difficulty.write_text(difficulty.read_text().replace("0,-1", "0,2"))
    with pytest.raises(RunChanged, match=r"mine\.difficulty: .*difficulty.csv' is not the file"):
        benchmark_scores.fn(run.ref, of_backbone("scores"))
    assert run.manifest(of_backbone("scores")) is None


@pytest.mark.parametrize(("settings", "judgments"), [(ALPACA, 1), (MT_BENCH, 2)], ids=["ae", "mt"])
def test_the_progress_of_judging_counts_questions_those_that_nobody_is_asked_about_too(
    tmp_path: Path, settings: dict[str, Any], judgments: int
) -> None:
    with StandinServer(noise=0.2) as server:
        run = judged_run(tmp_path, {**settings, "judge": judge(server)})
        answers, items = run.rows(of_backbone("answers")), run.rows(StageAt("benchmark_items", benchmark="mine"))
        equal = pl.when(pl.col("question_id") == "2").then(items["baseline"]).otherwise("response")
        lost = pl.when(pl.col("question_id") == "3").then(None).otherwise(equal)
        run.write(of_backbone("answers"), answers.with_columns(response=lost))
        part, at = run.manifest(of_backbone("answers")).parts[0], of_backbone("replies")
        progress = current(run).progress
        progress.begin(at, shards=1, rows=QUESTIONS)
        made = benchmark_replies_shard.fn(run.ref, at, Piece(0, 1), ShardOutcome(part))
    [shown] = [each for each in progress.stages() if each.at == at]
    assert (shown.rows_done, shown.missing, shown.rows) == (QUESTIONS, 0, QUESTIONS)
    assert made.rows.rows == judgments * QUESTIONS
