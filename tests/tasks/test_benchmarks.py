"""Stages of benchmarks as tasks: what they refuse to make figures of."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tapir_core.errors import RunChanged
from tapir_core.run_folder import RunFolder
from tapir_core.stages import StageAt
from tasks.benchmarks import benchmark_scores
from tasks.ingredients import gather_files
from tasks.runtime import close_all
from tests.benchmark_runs import ALPACA, QUESTIONS
from tests.run_builder import build_run
from tests.run_config import make_config


@pytest.fixture
def run(tmp_path: Path) -> Iterator[RunFolder]:
    """The untouched backbone's answers are judged."""
    difficulty, anchors = tmp_path / "difficulty.csv", tmp_path / "anchors.csv"
    difficulty.write_text("item,difficulty\n" + "".join(f"{row},{row % 3 - 1}\n" for row in range(QUESTIONS)))
    anchors.write_text("preference,std_delta_len,instruction_difficulty\n0.6,-0.4,0.5\n0.3,0.7,-0.5\n")
    tables = {"difficulty": str(difficulty), "anchors": str(anchors)}
    asked = {"benchmarks": {"ae": {**ALPACA, **tables}}, "each_round": ["ae"], "decontamination": {"max_rouge_l": 1.0}}
    config = make_config(tmp_path, evaluation=asked)
    yield build_run(
        tmp_path, config=config, until=StageAt("benchmark_scores", -1, benchmark="ae"), **gather_files(config)
    )
    close_all()


def test_tables_of_length_control_that_were_edited_since_the_run_was_opened_make_no_figure(run: RunFolder) -> None:
    """It would stand under the old table's key."""
    at = StageAt("benchmark_scores", -1, benchmark="ae")
    made = run.rows(at)
    assert made.filter(metric="length_controlled_win_rate")["value"].null_count() == 0
    benchmark_scores.fn(run.ref, -1, None, "ae")
    assert run.rows(at).equals(made)
    difficulty = Path(run.config.evaluation.asked["ae"].files["difficulty"] or "")
    difficulty.write_text(difficulty.read_text().replace("0,-1", "0,2"))
    with pytest.raises(RunChanged, match=r"ae\.difficulty: .*difficulty.csv' is not the file"):
        benchmark_scores.fn(run.ref, -1, None, "ae")
    assert run.rows(at).equals(made)
