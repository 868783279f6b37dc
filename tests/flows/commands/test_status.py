"""`tapir status`: stages, benchmarks, score, USD and time left of a run, and a line for each run of a root."""

import json
import re
from dataclasses import asdict
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli import app
from flows.driver import run_lease
from tapir_core.calls import AnswerStore, Spend, store_url
from tapir_core.calls.budget import Attempt, Settlement
from tapir_core.config import BudgetConfig
from tapir_core.paths import attempt_folder
from tapir_core.run_folder import RunFolder
from tapir_core.stages import StageAt, benchmark_stages
from tasks.engines.training import launch
from tests.benchmark_runs import ALPACA, VICUNA
from tests.run_builder import build_run
from tests.run_config import make_config


def status(root: Path, *words: str, columns: int = 200) -> str:
    done = CliRunner().invoke(app, ["status", *words, "--root", str(root)], env={"COLUMNS": str(columns)})
    assert done.exit_code == 0, done.output
    return done.output


def pay(run: RunFolder, usd: float, starts: int = 2) -> None:
    with AnswerStore(store_url(run.config)) as store:
        for start in range(starts):
            attempt = Attempt(start, run.record.id, "judge", f"key {start}", Spend(1, usd=usd))
            assert store.book([attempt], BudgetConfig()).result(timeout=30) == [""]
            store.settle(Settlement(start, "answer", Spend(1, usd=usd / starts))).result(timeout=30)


def build(root: Path, name: str, until: StageAt | None, seconds: float = 30.0) -> RunFolder:
    """A run up to a stage, each of whose trainings and round stages took so many seconds."""
    config = make_config(root, run={"name": name}, data={"pool": {"type": "standin", "rows": 120}, "heldout": HELDOUT})
    run = build_run("", config=config, until=until)
    for at in (StageAt(stage, place) for place in (0, 1) for stage in TIMED):
        if (manifest := run.manifest(at)) is not None:
            run.seal(at, list(manifest.parts), counts={**manifest.counts, "seconds": seconds})
    return run


HELDOUT = {"type": "standin", "dev": 40, "test": 80}
TIMED = ("answer", "judge", "expand", "refine", "train", "answer_heldout")


def test_a_run_at_work_shows_its_score_what_it_paid_and_about_how_long_it_will_take(tmp_path: Path) -> None:
    run = build(tmp_path, "at-work", StageAt("evaluate", 1))
    pay(run, 1234.5)
    shown = status(tmp_path, "at-work")
    scores = run.rows(StageAt("evaluate", 1)).filter(split="test", category="all", metric="accuracy")
    value, low, high = (100 * share for share in scores.select("value", "low", "high").row(0))
    assert f"S_1 on the held-out test split: {value:.1f} % ({low:.1f} to {high:.1f}), n = " in shown
    assert "1234.50 USD spent on teacher and judge, over all starts" in shown
    assert "next: answer (round 2); about " in shown


def test_a_run_that_was_stopped_is_told_from_one_at_work(tmp_path: Path) -> None:
    run = build(tmp_path, "mine", StageAt("evaluate", 1))
    pay(run, 1.0)
    with run_lease(run.config):
        assert "no process" not in status(tmp_path, "mine")
        assert "answer (round 2), at work" in " ".join(status(tmp_path, columns=200).split())
    assert "no process is at work on it; the command that started it goes on" in status(tmp_path, "mine")
    assert "at work" not in status(tmp_path, columns=200)


def test_a_training_at_work_shows_its_last_step(tmp_path: Path) -> None:
    run = build(tmp_path, "training", StageAt("mix", 1))
    assert "training: step" not in status(tmp_path, "training")
    key = run.key(StageAt("train", 1))
    assert key is not None
    attempt = launch.Attempt(run.workplace.local(attempt_folder(1, key)))
    attempt.folder.mkdir(parents=True)
    steps = (launch.TrainingProgress(step, 20, 1 / step, 99, 120.0, 30.0) for step in (1, 2))
    attempt.progress_file.write_text("".join(f"{json.dumps(asdict(step))}\n" for step in steps) + '{"step": 3')
    assert re.search(
        r"training: step 2/20, loss 0\.500, 120 tokens/s, 30 s left, [0-9.]+ s ago", status(tmp_path, "training")
    )


def test_the_time_left_is_what_the_stages_that_are_left_took_before(tmp_path: Path) -> None:
    build(tmp_path, "known", StageAt("evaluate", 1), seconds=3600.0)
    # An hour each of answer, judge, expand, refine and train; of held-out answers the backbone's took no time.
    found = re.search(r"about (\d+) h (\d+) min of work left", shown := status(tmp_path, "known"))
    assert found is not None, shown
    assert 60 * 5 + 35 <= 60 * int(found[1]) + int(found[2]) <= 60 * 6 + 5


def test_before_a_first_training_nobody_says_how_long_it_takes(tmp_path: Path) -> None:
    build(tmp_path, "young", StageAt("teach"))
    shown = status(tmp_path, "young")
    assert "next: answer_heldout (backbone); how long it takes is known once a round is done" in shown
    assert "held-out" not in shown.replace("answer_heldout", "")
    assert "0.00 USD spent" in shown


def test_a_run_that_is_done_says_so(tmp_path: Path) -> None:
    build(tmp_path, "whole", None)
    assert status(tmp_path, "whole").splitlines()[-1] == "done"


@pytest.mark.parametrize("columns", [80, 200])
def test_all_runs_stand_with_score_usd_and_time_left_and_no_figure_is_cut(tmp_path: Path, columns: int) -> None:
    name = "a-run-with-a-name-that-is-as-long-as-names-of-arms-of-comparisons-are-s11"
    run = build(tmp_path, name, StageAt("evaluate", 1), seconds=7200.0)
    build(tmp_path, "whole", None)
    pay(run, 1_234_567.89)
    shown = " ".join(status(tmp_path, columns=columns).split())
    scores = run.rows(StageAt("evaluate", 1)).filter(split="test", category="all", metric="accuracy")
    assert "1234567.89" in shown
    assert f"{100 * scores['value'][0]:.1f}" in shown
    assert "…" not in shown
    assert "S_2" in shown
    assert re.search(r"\d+ h", shown)


def test_a_store_that_cannot_be_read_hides_no_stage(tmp_path: Path) -> None:
    run = build(tmp_path, "asked", StageAt("teach"))
    file = Path(store_url(run.config).removeprefix("sqlite:///"))
    file.parent.mkdir(exist_ok=True)
    file.write_text("no database " * 100)
    shown = status(tmp_path, "asked")
    assert "what it spent is not known: " in shown
    assert "teach" in shown
    assert "asked" in status(tmp_path)


@pytest.mark.parametrize(
    "command", [["status"], ["report"], ["export"], ["ask", "Hi"], ["move", "to"], ["side-by-side"]]
)
def test_a_run_that_is_not_there_is_answered_with_the_ones_that_are(tmp_path: Path, command: list[str]) -> None:
    for name in ("quickstart", "trial"):
        build_run("", config=make_config(tmp_path, run={"name": name}), until=StageAt("heldout"))
    done = CliRunner().invoke(app, [command[0], "Quickstrat", *command[1:], "--root", str(tmp_path)])
    said = str(done.exception)
    assert f"there is no run 'Quickstrat' in {str(tmp_path)!r}. Did you mean 'quickstart'?" in said
    assert "It holds quickstart, trial;" in said


def test_where_there_is_no_run_at_all_the_error_says_so(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["status", "quickstart", "--root", str(tmp_path / "none")])
    assert "nor any other; name the right root with --root" in str(done.exception)


def test_stages_name_their_benchmark_and_all_benchmarks_have_state_and_figure(tmp_path: Path) -> None:
    config = make_config(
        tmp_path,
        run={"name": "asked"},
        data={"pool": {"type": "standin", "rows": 120}},
        evaluation={
            "benchmarks": {"vi": VICUNA, "ae": ALPACA},
            "each_round": ["vi"],
            "decontamination": {"max_rouge_l": 1.0},
        },
    )
    later = [StageAt("benchmark_items", benchmark="ae"), *benchmark_stages("ae", 0)]
    build_run("", config=config, until=benchmark_stages("vi", 0)[-1], later=later)
    shown = status(tmp_path, "asked")
    assert "benchmark_answers vi" in shown
    later_asked, each_round = re.split(r"Benchmark (?:vi|ae)\b", shown)[1:]
    rows = [line.split() for line in each_round.splitlines() if "each round" in line]
    assert [row[0] for row in rows] == ["backbone", "S_0", "S_1", "S_2"]
    [later_row] = [line.split() for line in later_asked.splitlines() if line.startswith("S_")]
    assert later_row[:3] == ["S_0", "later", "done"]
    assert "win" in later_row
    assert "Judged by standin-judge (" in later_asked


def test_a_run_without_benchmarks_has_no_such_table(tmp_path: Path) -> None:
    config = make_config(tmp_path, run={"name": "asked"}, data={"pool": {"type": "standin", "rows": 40}})
    build_run("", config=config, until=StageAt("teach"))
    assert "Benchmark " not in status(tmp_path, "asked")
