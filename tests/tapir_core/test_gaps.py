"""Which rounds lack verdicts, and which stages stand on verdicts that have changed since."""

from pathlib import Path

import polars as pl
import pytest

from tapir_core.data.dataset import write_part
from tapir_core.errors import ConfigError
from tapir_core.run_folder import RunFolder, open_run
from tapir_core.run_state import Gaps, changed_stages, count_gaps, rounds_to_retry
from tapir_core.stages import StageAt
from tests.run_builder import build_run

JUDGE = StageAt("judge", 1)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return build_run(tmp_path, until=StageAt("select", 1))


def judge_again(run: RunFolder, rows: pl.DataFrame, **missing: int) -> None:
    run.seal(JUDGE, [write_part(run.storage, JUDGE.folder, rows)], accepted_missing=missing)


def scored(run: RunFolder) -> pl.DataFrame:
    return run.rows(JUDGE).filter(pl.col("status") != "unscored")


def test_a_gap_was_never_received_or_has_no_scores(run: RunFolder) -> None:
    unscored = run.rows(JUDGE).filter(status="unscored").height
    assert unscored > 0
    assert count_gaps(run, 1) == Gaps(0, unscored)
    judge_again(run, scored(run), timeout=3, server=4)
    assert count_gaps(run, 1) == Gaps(7, 0)


def test_a_round_is_retried_for_what_is_missing_and_for_what_is_unscored_if_that_is_wanted(run: RunFolder) -> None:
    assert rounds_to_retry(run, None, also_terminal=False) == []
    assert rounds_to_retry(run, None, also_terminal=True) == [1]
    judge_again(run, scored(run), timeout=1)
    assert rounds_to_retry(run, 1, also_terminal=False) == [1]
    judge_again(run, scored(run))
    assert rounds_to_retry(run, 1, also_terminal=True) == []


def test_a_round_whose_judging_stopped_is_retried_for_all_its_verdicts(tmp_path: Path) -> None:
    run = build_run(tmp_path, until=StageAt("answer", 1))
    assert rounds_to_retry(run, None, also_terminal=True) == [1]
    assert count_gaps(run, 1) == Gaps(2 * run.rows(StageAt("answer", 1)).height, 0)


def test_a_round_that_was_judged_under_other_settings_is_retried_for_all_its_verdicts(run: RunFolder) -> None:
    settings = run.config.judge.model_copy(update={"orders": ("teacher_first",)})
    changed = open_run(run.config.model_copy(update={"judge": settings}), run.record.ingredients, amend=True)
    assert changed.manifest(JUDGE) is not None
    assert rounds_to_retry(changed, None, also_terminal=True) == [1]
    assert count_gaps(changed, 1) == Gaps(changed.rows(StageAt("answer", 1)).height, 0)


def test_a_round_that_is_not_judged_is_refused(run: RunFolder) -> None:
    with pytest.raises(ConfigError, match=r"--round 2: .*judged: \[1\]"):
        rounds_to_retry(run, 2, also_terminal=False)


def test_other_verdicts_change_what_was_made_of_them_and_nothing_before(run: RunFolder) -> None:
    assert changed_stages(run) == []
    judge_again(run, scored(run))
    assert changed_stages(run) == [StageAt("difficulty", 1), StageAt("select", 1)]
