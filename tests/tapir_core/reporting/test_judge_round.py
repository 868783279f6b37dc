from pathlib import Path

import polars as pl
import pytest

from tapir_core.errors import MissingPrerequisite
from tapir_core.judging.agreement import favoured_position
from tapir_core.reporting.judge_round import JudgeRound, summarise_judge
from tapir_core.run_folder import RunFolder
from tapir_core.stages import StageAt
from tests.run_builder import build_run
from tests.tapir_core.reporting.judged_rounds import judged_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return build_run(tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def found(run: RunFolder) -> JudgeRound:
    return summarise_judge(run, 2)


def test_the_bias_that_was_built_in_is_found(found: JudgeRound) -> None:
    assert found.agreement is not None
    gap = found.agreement.gap
    assert favoured_position(gap) == "first" if gap.value and gap.value > 0 else "second"
    assert gap.stderr is not None
    assert gap.stderr < 0.2


def test_a_later_round_counts_the_expansions_of_the_earlier(run: RunFolder, found: JudgeRound) -> None:
    difficulty = run.rows(StageAt("difficulty", 2))
    assert found.scores["instruction_id"].to_list() == difficulty["instruction_id"].sort().to_list()
    assert found.scores["mfd"].to_list() == difficulty.sort("instruction_id")["mfd"].to_list()
    assert found.pairs["order_gap"].to_list() == difficulty.sort("instruction_id")["order_gap"].to_list()
    assert set(found.unscored.task_types) == set(difficulty["task_type"])


def test_pointwise_mode_has_lengths_but_no_orders(tmp_path: Path) -> None:
    def pointwise(rows: pl.DataFrame) -> pl.DataFrame:
        return rows.filter(order="teacher_first").with_columns(order=pl.lit("pointwise"))

    found = summarise_judge(judged_run(tmp_path, pointwise, mode="pointwise"), 1)
    assert found.agreement is None
    assert found.length.student.value is not None


def test_the_judges_of_a_panel_are_compared(run: RunFolder) -> None:
    verdicts = run.rows(StageAt("judge", 1))
    (pair,) = summarise_judge(run, 1, {"one": verdicts, "other": verdicts}).panel
    assert pair.same_winner.value == 1.0


def test_a_round_without_verdicts_says_so(run: RunFolder) -> None:
    with pytest.raises(MissingPrerequisite, match="round 7 of run 'example' has no verdicts yet"):
        summarise_judge(run, 7)
