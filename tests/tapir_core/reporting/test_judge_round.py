from pathlib import Path

import polars as pl
import pytest

from tapir_core.errors import MissingPrerequisite
from tapir_core.judging.agreement import favoured_position
from tapir_core.reporting.judge_report import JudgeRound, summarise_judge
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
    assert found.whole.agreement is not None
    gap = found.whole.agreement.gap
    assert favoured_position(gap) == "first" if gap.value and gap.value > 0 else "second"
    assert gap.stderr is not None
    assert gap.stderr < 0.2


def test_a_later_round_counts_the_expansions_of_the_earlier(run: RunFolder, found: JudgeRound) -> None:
    difficulty = run.rows(StageAt("difficulty", 2))
    assert found.whole.scores["instruction_id"].to_list() == difficulty["instruction_id"].sort().to_list()
    assert found.whole.scores["mfd"].to_list() == difficulty.sort("instruction_id")["mfd"].to_list()
    assert found.whole.pairs["order_gap"].to_list() == difficulty.sort("instruction_id")["order_gap"].to_list()
    assert set(found.whole.unscored.task_types) == set(difficulty["task_type"])


def test_pointwise_mode_has_lengths_but_no_orders(tmp_path: Path) -> None:
    def pointwise(rows: pl.DataFrame) -> pl.DataFrame:
        return rows.filter(order="teacher_first").with_columns(order=pl.lit("pointwise"))

    found = summarise_judge(judged_run(tmp_path, pointwise, mode="pointwise"), 1)
    assert found.whole.agreement is None
    assert found.whole.length.student.value is not None


def test_the_judges_of_a_panel_are_measured_alone_together_and_against_each_other(tmp_path: Path) -> None:
    panel = [{"type": "standin", "noise": 1.0}]
    found = summarise_judge(judged_run(tmp_path, lambda rows: rows, panel=panel), 1)
    assert list(found.single) == list(found.judge.names)
    (pair,) = found.panel
    assert {pair.first, pair.second} == set(found.judge.names)
    assert 0 < (pair.kappa.value or 0) < 1
    assert found.verdicts == 4 * found.instructions
    alone = [each.scores["mfd"].to_list() for each in found.single.values()]
    means = [(one + other) / 2 for one, other in zip(*alone, strict=True)]
    assert found.whole.scores["mfd"].to_list() == pytest.approx(means)


def test_a_round_without_verdicts_says_so(run: RunFolder) -> None:
    with pytest.raises(MissingPrerequisite, match="round 7 of run 'example' has no verdicts yet"):
        summarise_judge(run, 7)
