from pathlib import Path

from tapir_core.paths import RUN_RECORD
from tapir_core.stages import StageAt
from tapir_core.store_admin import DoomedRows, RunAtStake, runs_at_stake
from tests.run_builder import build_run
from tests.run_config import make_config

JUDGE = {"endpoint": {"type": "standin"}}


def doomed(role: str, *, run: str = "elsewhere", model: str = "m", identity: str = "i", rows: int = 3) -> DoomedRows:
    return DoomedRows(role, model, identity, run, rows, bytes=100, tokens=10, usd=0.5)


def test_a_whole_run_asks_nothing_again(tmp_path: Path):
    build_run(tmp_path)
    assert runs_at_stake(str(tmp_path), [doomed("judge", run="example")]) == [RunAtStake("example", 3, ())]


def test_an_unfinished_run_asks_again_in_the_stages_that_are_still_to_do(tmp_path: Path):
    build_run(tmp_path, until=StageAt("judge", 1))
    (stake,) = runs_at_stake(str(tmp_path), [doomed("judge", run="example"), doomed("label", run="example", rows=2)])
    assert stake.rows == 5
    assert stake.stages == ("expand (round 1)", "judge (round 2)", "expand (round 2)")


def test_a_run_that_asks_the_same_teacher_is_at_stake_though_another_asked_first(tmp_path: Path):
    run = build_run(tmp_path, until=StageAt("pool"))
    teacher = run.config.teacher.endpoint.answers_as("teacher")
    rows = doomed("teach", model=teacher.model, identity=teacher.identity)
    (stake,) = runs_at_stake(str(tmp_path), [rows])
    assert (stake.rows, stake.stages[0]) == (0, "teach")
    assert runs_at_stake(str(tmp_path), [doomed("teach")]) == []


def test_every_judge_of_a_panel_is_at_stake(tmp_path: Path):
    panel = [{"type": "openai", "model": "m", "identity": "i"}]
    build_run(tmp_path, until=StageAt("pool"), config=make_config(tmp_path, judge=JUDGE | {"panel": panel}))
    (stake,) = runs_at_stake(str(tmp_path), [doomed("judge")])
    assert stake.stages[0] == "judge (round 1)"


def test_a_run_that_cannot_be_read_is_named_with_the_reason(tmp_path: Path):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / RUN_RECORD).write_text("{")
    (stake,) = runs_at_stake(str(tmp_path), [doomed("judge", run="broken")])
    assert stake.rows == 3
    assert stake.unreadable


def test_a_folder_that_is_no_run_is_passed_over(tmp_path: Path):
    (tmp_path / "notes").mkdir()
    assert runs_at_stake(str(tmp_path), [doomed("judge", run="notes")]) == []


def test_a_root_without_runs_has_none_at_stake(tmp_path: Path):
    assert runs_at_stake(str(tmp_path / "nowhere"), [doomed("judge")]) == []
