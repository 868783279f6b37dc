"""A sweep distils what lacks a finished run, in the order of the list; one that fails does not stop the others."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli import app
from flows.forms import sweep_from_form
from flows.series import estimate_sweep, finish_sweep, open_sweep
from tapir_core.errors import BudgetReached, ConfigError, EngineError, NoFigure
from tapir_core.paths import sweep_report_file
from tapir_core.run_folder import RunFolder, RunRef
from tapir_core.run_state import Swept, finished_runs, sweep_sentence
from tapir_core.summary.types import RunSummary
from tests.run_builder import build_run
from tests.students import make_checkpoint

pytestmark = pytest.mark.slow

CURRICULUM = """
run = { name = "q", root = ROOT, rounds = 1 }
data.pool = { type = "standin", rows = 60 }
data.heldout = { type = "standin", dev = 20, test = 40 }
teacher.endpoint.type = "standin"
judge.endpoint.type = "standin"
curriculum.target_shares = { Math = 0.5, Reasoning = 0.5 }
curriculum.refine = true
basic_tuning.examples = 64
rounds.default = { examples = 32, selection = { type = "hard_share", share = 0.3 } }
student.engine = { type = "endpoint", base_url = "http://127.0.0.1:9/v1" }
"""


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    (tmp_path / "q.toml").write_text(CURRICULUM.replace("ROOT", json.dumps(str(tmp_path / "runs"))))
    backbones = {name: make_checkpoint(tmp_path / name, model__safetensors=name) for name in "abc"}
    entries = [f'[[backbones]]\nname = "{name}"\nbackbone = "{folder}"' for name, folder in backbones.items()]
    (tmp_path / "list.toml").write_text("\n".join([f'config = "{tmp_path / "q.toml"}"', *entries]))
    return tmp_path / "list.toml"


def sweep(listed: Path, distil: Callable[[RunFolder, str | None], object]) -> list[Swept]:
    return finish_sweep(open_sweep(listed, None, []), distil, lambda *_: None, say=lambda _: None)


def finish(run: RunFolder, _until: str | None = None) -> None:
    build_run("", config=run.config, **run.record.ingredients)


def outcomes(swept: list[Swept]) -> dict[str, str]:
    return {each.name: each.outcome for each in swept}


def test_every_backbone_is_distilled_once_in_the_order_of_the_list(listed: Path, tmp_path: Path) -> None:
    seen: list[RunRef] = []

    def distil(run: RunFolder, _until: str | None) -> None:
        seen.append(run.ref)
        finish(run)

    assert set(outcomes(sweep(listed, distil)).values()) == {"finished"}
    assert seen == [RunRef(str(tmp_path / "runs"), f"q-{name}") for name in "abc"]
    assert set(outcomes(sweep(listed, distil)).values()) == {"finished before"}
    assert len(seen) == 3


@pytest.mark.parametrize("error", [EngineError("the trainer ended with 1"), KeyError("a fault of our own")])
def test_a_failing_backbone_does_not_stop_the_others_and_is_tried_again(listed: Path, error: Exception) -> None:
    def distil(run: RunFolder, _until: str | None) -> None:
        if run.ref.name == "q-b":
            raise error
        finish(run)

    swept = sweep(listed, distil)
    assert outcomes(swept) == {"a": "finished", "b": "failed", "c": "finished"}
    assert str(error.args[0]) in swept[1].message
    assert outcomes(sweep(listed, finish)) == {"a": "finished before", "b": "finished", "c": "finished before"}


def test_a_backbone_without_a_figure_is_no_success_at_any_start_and_is_still_compared(
    listed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def require(summary: RunSummary) -> None:
        if summary.name == "q-b":
            raise NoFigure("9 of 40 failed")

    monkeypatch.setattr("flows.series.require_figures", require)
    for well in ("finished", "finished before"):
        swept = sweep(listed, finish)
        assert outcomes(swept) == {"a": well, "b": "without a figure", "c": well}
        assert sweep_sentence(swept).endswith("1 without a figure (b).\nb: 9 of 40 failed")
        assert len(finished_runs(swept)) == 3
    done = CliRunner().invoke(app, ["sweep", "--backbones", str(listed)])
    assert done.exit_code == 1


def test_a_backbone_that_is_gone_fails_alone_with_its_remedy(listed: Path, tmp_path: Path) -> None:
    (tmp_path / "b/config.json").unlink()
    swept = sweep(listed, finish)
    assert outcomes(swept) == {"a": "finished", "b": "failed", "c": "finished"}
    assert "student.backbone" in swept[1].message


def test_a_cap_ends_the_sweep_with_its_own_exit_code_and_what_is_finished_is_shown(
    listed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def distil(run: RunFolder, _until: str | None) -> None:
        if run.ref.name == "q-b":
            raise BudgetReached("budget.usd = 1 is reached")
        finish(run)

    swept = sweep(listed, distil)
    assert outcomes(swept) == {"a": "finished", "b": "stopped by a cap"}, "c would only meet the same cap"
    assert [run.ref.name for run in finished_runs(swept)] == ["q-a"]
    monkeypatch.setattr("flows.series.finish_sweep", lambda *_, **__: swept)
    done = CliRunner().invoke(app, ["sweep", "--backbones", str(listed)])
    assert isinstance(done.exception, BudgetReached)
    assert "b: budget.usd = 1 is reached" in str(done.exception)


def test_a_curriculum_may_have_a_number_for_its_name(listed: Path, tmp_path: Path) -> None:
    text = (tmp_path / "q.toml").read_text()
    (tmp_path / "q.toml").write_text(text.replace('name = "q"', 'name = "2025"'))
    assert estimate_sweep(open_sweep(listed, None, []), 0).keys() == {"a", "b", "c"}


def test_other_weights_under_an_old_name_are_refused_once_the_curriculum_changes_too(
    listed: Path, tmp_path: Path
) -> None:
    sweep(listed, finish)
    (tmp_path / "a/model.safetensors").write_bytes(b"other weights")
    changed = open_sweep(listed, None, ["calls.concurrency=3"])
    swept = finish_sweep(changed, finish, lambda *_: None, say=lambda _: None)
    assert outcomes(swept) == {"a": "failed", "b": "finished", "c": "finished"}
    assert "another configuration" in swept[0].message


def test_what_another_process_is_at_work_on_is_left_to_it(listed: Path) -> None:
    def distil(run: RunFolder, _until: str | None) -> None:
        if run.ref.name == "q-a":
            others = sweep(listed, finish)
            assert outcomes(others) == {"a": "at work elsewhere", "b": "finished", "c": "finished"}
            assert all(each.is_well for each in others)
        finish(run)

    assert outcomes(sweep(listed, distil)) == {"a": "finished", "b": "finished before", "c": "finished before"}


def test_one_budget_and_one_estimate_hold_for_all_backbones(listed: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["sweep", "--backbones", str(listed), "--estimate"], env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    assert not (tmp_path / "runs").exists()
    found = estimate_sweep(open_sweep(listed, None, []), 0)
    first, *others = [{each.name: each for each in of.stages} for of in found.values()]
    assert first["teach"].paid.calls.likely == first["label"].paid.calls.likely == 60
    assert [of["teach"].paid.calls.likely + of["label"].paid.calls.likely for of in others] == [0, 0]
    assert first["judge"].paid.calls.likely == others[0]["judge"].paid.calls.likely > 0
    sweep(listed, finish)
    refs = [RunRef(str(tmp_path / "runs"), f"q-{name}") for name in "abc"]
    assert [RunFolder(ref).config.budget.shared for ref in refs] == ["q", "q", "q"]
    named = open_sweep(listed, None, ["budget.shared=all"])
    assert named.overrides == ("budget.shared=all",)


def test_a_wrong_curriculum_starts_nothing(listed: Path) -> None:
    with pytest.raises(ConfigError, match=r"judge\.ordres"):
        open_sweep(listed, None, ["judge.ordres=1"])


def test_a_curriculum_that_ends_with_task_types_starts_nothing(listed: Path) -> None:
    with pytest.raises(ConfigError, match=r'"discover" ends a run before its first student.*RUN/task_types\.toml'):
        open_sweep(listed, None, ["curriculum.task_types=discover"])


def test_an_interrupt_ends_the_sweep(listed: Path) -> None:
    def interrupted(_run: RunFolder, _until: str | None) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep(listed, interrupted)


def test_a_sweep_with_nothing_to_do_only_compares(listed: Path, tmp_path: Path) -> None:
    sweep(listed, finish)
    done = CliRunner().invoke(app, ["sweep", "--backbones", str(listed)])
    assert done.exit_code == 0, done.output
    assert "Side by side" in done.stdout
    assert "3 finished before (a, b, c)" in done.stdout
    assert "connecting" not in done.stderr
    assert (tmp_path / "runs" / sweep_report_file("q")).exists()


@pytest.mark.usefixtures("prefect_server")
def test_the_deployed_sweep_ends_failed_with_what_failed_and_compares_the_rest(
    listed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAPIR_ROOT", str(tmp_path / "runs"))
    sweep(listed, finish)
    (tmp_path / "b/config.json").unlink()
    state = sweep_from_form(str(listed), return_state=True)
    assert state.is_failed()
    assert state.message.startswith("Backbones: 2 finished before (a, c); 1 failed (b).\nb: ")
    page = (tmp_path / "runs" / sweep_report_file("q")).read_text()
    assert "q-a" in page
    assert "q-b" not in page
