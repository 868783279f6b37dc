"""`tapir compare` as a user gives it: what it prints, shows and refuses."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli import app
from flows.series import read_asked
from tapir_core.errors import BudgetReached, ConfigError, MissingPrerequisite
from tapir_core.paths import comparison_file
from tests.conftest import StandingServer
from tests.flows.built_comparison import BuiltRuns, run_all
from tests.flows.test_compare import finished, spec
from tests.harness.processes import tapir

pytestmark = pytest.mark.slow

__all__ = ["command", "finished", "spec"]


def test_arms_and_run_seeds_may_be_listed_with_spaces(spec: Path) -> None:
    asked = read_asked(spec, [], only="random, hard_only", run_seeds="1, 2", results=None)
    assert [each.ref.name for each in asked.chosen if each.run_seed == 1] == ["c-random-s1", "c-hard_only-s1"]


def test_a_comparison_that_was_changed_is_refused_under_its_old_name(spec: Path) -> None:
    run_all(spec, BuiltRuns(), only=["random"], seeds=[1])
    spec.write_text(spec.read_text() + 'overrides = ["basic_tuning.examples=32"]\n')
    failed = run_all(spec, engines := BuiltRuns(), only=["random"], seeds=[1])
    assert "another configuration" in str(next(iter(failed.values())))
    assert engines.driven == []


def test_a_spending_cap_that_stops_a_run_has_its_own_exit_code(spec: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engines = BuiltRuns(failing=["c-multi_round-s1"])
    engines.failure = BudgetReached("the cap of 1 USD is reached")
    monkeypatch.setattr("flows.commands.series._drive", lambda _: engines.drive())
    done = CliRunner().invoke(app, ["compare", str(spec), "--only", "random", "--run-seeds", "1"])
    assert isinstance(done.exception, BudgetReached)
    assert "the cap of 1 USD" in str(done.exception)
    assert "c-random-s1: it is matched to c-multi_round-s1" in str(done.exception)


def test_a_pool_that_is_too_small_is_told_with_the_figures(spec: Path, tmp_path: Path) -> None:
    config = tmp_path / "q.toml"
    config.write_text(config.read_text().replace("rows = 400", "rows = 70"))
    [failed] = run_all(spec, BuiltRuns(), only=["random"], seeds=[1]).values()
    assert "cannot be matched" in str(failed)
    assert "are not there" in str(failed)


def test_to_show_runs_nothing_and_shows_what_is_finished(spec: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engines = BuiltRuns()
    monkeypatch.setattr("flows.commands.series._drive", lambda _: engines.drive())
    empty = CliRunner().invoke(app, ["compare", str(spec), "--show"])
    assert "nothing is finished yet" in empty.stdout
    run_all(spec, BuiltRuns(), only=["multi_round"], seeds=[1])
    shown = CliRunner().invoke(app, ["compare", str(spec), "--show", "--markdown"])
    assert "8 runs, 1 finished, 0 to do now" in shown.stderr
    assert shown.stdout.startswith("| Arm |")
    assert engines.driven == []
    refused = CliRunner().invoke(app, ["compare", str(spec), "--show", "--only", "random"])
    assert isinstance(refused.exception, ConfigError)


def test_to_show_needs_nothing_that_runs_would_need(spec: Path) -> None:
    away = ["student.engine.api_key_env=TAPIR_NO_SUCH_KEY"]
    with pytest.raises(MissingPrerequisite, match="TAPIR_NO_SUCH_KEY"):
        read_asked(spec, away, only="", run_seeds="", results=None)
    assert read_asked(spec, away, only="", run_seeds="", results=None, show=True).chosen == ()


def test_arms_that_would_end_with_task_types_are_refused(spec: Path) -> None:
    discover = ["curriculum.task_types=discover"]
    with pytest.raises(ConfigError, match=r'"discover" ends a run before its first student'):
        read_asked(spec, discover, only="", run_seeds="", results=None)


def command(spec: Path, *words: str, api: str) -> "subprocess.CompletedProcess[str]":
    """`tapir compare` with a server that stands."""
    environment = {**os.environ, "PREFECT_API_URL": api}
    return subprocess.run(
        tapir("compare", str(spec), *words), cwd=spec.parent, env=environment, capture_output=True, text=True
    )


def test_the_command_prints_tables_verdicts_and_the_page_and_markdown_alone(
    finished: Path, standing_prefect: StandingServer
) -> None:
    done = command(finished, api=standing_prefect.api)
    assert done.returncode == 0, done.stderr
    assert "8 runs, 8 finished, 0 to do now" in done.stderr
    assert "no_refinement *" in done.stdout
    assert "…" not in done.stdout, "every cell is whole on a narrow terminal"
    assert "90 % interval" in done.stdout
    page = (finished.parent / "runs" / comparison_file("c", "html")).read_text()
    assert page.count("<svg") == 3
    assert "<script" not in page
    table = json.loads((finished.parent / "runs" / comparison_file("c", "json")).read_text())
    assert {row["name"] for row in table["rows"]} >= {"S_0", "random", "multi_round", "equal_usd"}
    printed = command(finished, "--markdown", api=standing_prefect.api)
    assert printed.stdout.startswith("| Arm |")
    assert table["conditions"]["Run seeds"] == "1, 2 (exploratory arms 1)"
    for name, words in table["conditions"].items():
        assert words in page
        assert f"{name}: {words}." in printed.stdout


@pytest.mark.parametrize(("option", "value"), [("--only", "rndom"), ("--run-seeds", "7"), ("--run-seeds", "a")])
def test_an_arm_or_a_run_seed_that_is_not_there_is_refused(spec: Path, option: str, value: str) -> None:
    done = CliRunner().invoke(app, ["compare", str(spec), option, value])
    assert value in str(done.exception)
    assert getattr(done.exception, "exit_code", None) == 2
