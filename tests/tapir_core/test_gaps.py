"""Which rounds lack verdicts, and which stages stand on verdicts that have changed since."""

from pathlib import Path

import polars as pl
import pytest

from tapir_core.data.dataset import write_part
from tapir_core.errors import ConfigError
from tapir_core.run_folder import RunFolder, open_run
from tapir_core.run_state import Gaps, changed_stages, count_gaps, stages_to_retry
from tapir_core.stages import StageAt
from tests.run_builder import build_run
from tests.run_config import make_config

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
    assert count_gaps(run, JUDGE) == Gaps(0, unscored)
    judge_again(run, scored(run), timeout=3, server=4)
    assert count_gaps(run, JUDGE) == Gaps(7, 0)


def test_a_round_is_retried_for_what_is_missing_and_for_what_is_unscored_if_that_is_wanted(run: RunFolder) -> None:
    assert stages_to_retry(run, None, also_terminal=False) == []
    assert stages_to_retry(run, None, also_terminal=True) == [JUDGE]
    judge_again(run, scored(run), timeout=1)
    assert stages_to_retry(run, 1, also_terminal=False) == [JUDGE]
    judge_again(run, scored(run))
    assert stages_to_retry(run, 1, also_terminal=True) == []


def test_a_round_whose_judging_stopped_is_retried_for_all_its_verdicts(tmp_path: Path) -> None:
    run = build_run(tmp_path, until=StageAt("answer", 1))
    assert stages_to_retry(run, None, also_terminal=True) == [JUDGE]
    assert count_gaps(run, JUDGE) == Gaps(2 * run.rows(StageAt("answer", 1)).height, 0)


def test_a_round_that_was_judged_under_other_settings_is_retried_for_all_its_verdicts(run: RunFolder) -> None:
    settings = run.config.judge.model_copy(update={"orders": ("teacher_first",)})
    changed = open_run(run.config.model_copy(update={"judge": settings}), run.record.ingredients, amend=True)
    assert changed.manifest(JUDGE) is not None
    assert stages_to_retry(changed, None, also_terminal=True) == [JUDGE]
    assert count_gaps(changed, JUDGE) == Gaps(changed.rows(StageAt("answer", 1)).height, 0)


def test_a_round_that_is_not_judged_is_refused(run: RunFolder) -> None:
    with pytest.raises(ConfigError, match=r"--round 2: .*judged: \[1\]"):
        stages_to_retry(run, 2, also_terminal=False)


def test_other_verdicts_change_what_was_made_of_them_and_nothing_before(run: RunFolder) -> None:
    assert changed_stages(run) == []
    judge_again(run, scored(run))
    assert changed_stages(run) == [StageAt("difficulty", 1), StageAt("select", 1)]


@pytest.fixture
def held_out(tmp_path: Path) -> RunFolder:
    """A done run of one round, with a judged held-out set."""
    data = {"pool": {"type": "standin", "rows": 240}, "heldout": {"type": "judged"}}
    return build_run(tmp_path, config=make_config(tmp_path, run={"rounds": 1}, data=data))


def of_heldout(number: int) -> StageAt:
    return StageAt("judge_heldout", number)


def lack(run: RunFolder, at: StageAt, missing: int) -> None:
    """Seal a judging stage without its last verdicts."""
    part = write_part(run.storage, at.folder, run.rows(at).head(-missing))
    run.seal(at, [part], accepted_missing={"server": missing})


def test_verdicts_on_the_held_out_set_are_retried_of_every_student_and_change_its_scores(held_out: RunFolder) -> None:
    assert stages_to_retry(held_out, None, also_terminal=False) == []
    for number in (-1, 0, 1):
        lack(held_out, of_heldout(number), 3)
    lacking = [of_heldout(-1), of_heldout(0), of_heldout(1)]
    assert stages_to_retry(held_out, None, also_terminal=False) == lacking
    assert stages_to_retry(held_out, 0, also_terminal=False) == [of_heldout(0)]
    assert count_gaps(held_out, of_heldout(-1)).missing == 3
    assert changed_stages(held_out) == [StageAt("evaluate", number) for number in (-1, 0, 1)]
    lack(held_out, JUDGE, 2)
    assert stages_to_retry(held_out, None, also_terminal=False) == [of_heldout(-1), of_heldout(0), JUDGE], (
        "S_1 comes of other verdicts now, and will answer anew"
    )


def test_judging_of_the_held_out_set_that_stopped_lacks_the_verdicts_on_its_answers(tmp_path: Path) -> None:
    data = {"pool": {"type": "standin", "rows": 240}, "heldout": {"type": "judged"}}
    config = make_config(tmp_path, data=data)
    run = build_run(tmp_path, until=StageAt("answer_heldout", 0), config=config)
    assert stages_to_retry(run, None, also_terminal=False) == [of_heldout(0)]
    asked = run.rows(StageAt("judged_heldout")).height
    assert count_gaps(run, of_heldout(0)) == Gaps(2 * asked, 0)
