"""Beside a run a plain fine-tune on as many tokens: made once, resumed, and told in the run's own report."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
from typer.testing import CliRunner

from flows.cli import app
from flows.whole_run import drive
from tapir_core import statistics
from tapir_core.comparison.baseline import baseline_of, read_baseline, run_beside, with_baseline
from tapir_core.comparison.matching import TOLERANCE
from tapir_core.comparison.outcome import read_training
from tapir_core.config import RunConfig
from tapir_core.config.load import load_config
from tapir_core.errors import ConfigError, EngineError
from tapir_core.reporting import sentences
from tapir_core.reporting.report import model_card, run_card, write_report
from tapir_core.reporting.tables import baseline_table
from tapir_core.run_folder import RunFolder, RunRef
from tapir_core.run_state import state_of
from tapir_core.stages import StageAt
from tapir_core.statistics import rerun_sd
from tapir_core.summary import RunReader, summarise
from tapir_core.verifiers import is_correct
from tests.flows.built_comparison import CURRICULUM, BuiltRuns, trained
from tests.students import make_checkpoint

pytestmark = pytest.mark.slow


class Engines(BuiltRuns):
    """Engines that end the work on a run in a certain way at a certain stage, or stop the rounds of `q` after one."""

    def __init__(self, *, ending: tuple[str, str | None, BaseException] | None = None, last: str | None = None) -> None:
        super().__init__()
        self.ending, self.last = ending, last

    def distil(self, run: RunFolder, until: str | None) -> None:
        if self.ending and self.ending[:2] == (run.ref.name, until):
            raise self.ending[2]
        super().distil(run, self.last if run.ref.name == "q" and self.last else until)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """The configuration of the run `q`, which says nothing of a baseline."""
    backbone = json.dumps(str(make_checkpoint(tmp_path / "backbone")))
    root, file = json.dumps(str(tmp_path / "runs")), tmp_path / "q.toml"
    file.write_text(CURRICULUM.replace("ROOT", root).replace("BACKBONE", backbone))
    return file


def load(config: Path, *settings: str) -> RunConfig:
    return load_config(config, settings)


def go(
    config: Path, *settings: str, engines: BuiltRuns | None = None, said: list[str] | None = None
) -> tuple[RunFolder, Sequence[tuple[str, str | None]]]:
    """The run after the same command as a user gives it, and what was distilled."""
    made, settled = engines or Engines(), load(config, "evaluation.baseline=sft", *settings)
    with made.counting():
        drive(settled, made.distil, say=([] if said is None else said).append)
    return RunFolder(RunRef(settled.run.root, settled.run.name)), made.driven


def run_of(config: Path) -> RunFolder:
    return RunFolder(RunRef(load(config).run.root, "q"))


def added(run: RunFolder) -> str:
    return sentences.added(read_baseline(run))


def right(run: RunFolder, number: int) -> dict[str, float]:
    """Test instruction → 100 where the student is right."""
    questions = (
        run.rows(StageAt("heldout"))
        .filter(split="test")
        .join(run.rows(StageAt("answer_heldout", number)), on="instruction_id")
    )
    rows = questions.select("instruction_id", "response", "reference").iter_rows()
    return {item: 100.0 * is_correct(response, reference) for item, response, reference in rows}


def test_a_baseline_is_matched_shares_all_that_is_paid_and_is_told_with_its_interval(config: Path) -> None:
    said: list[str] = []
    run, driven = go(config, said=said)
    made = baseline_of(run)
    assert [*dict.fromkeys(driven)] == [("q", None), ("q-sft", "mix@1"), ("q-sft", None)]
    assert made.config.run.rounds == 1
    assert abs(trained(made).tokens - trained(run).tokens) <= TOLERANCE * trained(run).tokens
    assert abs(trained(made).steps - trained(run).steps) <= 1
    assert {*made.rows(StageAt("mix", 1))["origin"]} == {"easy"}
    for at in (StageAt("teach"), StageAt("train", 0), StageAt("evaluate", 0)):
        assert made.sealed(at).digest == run.sealed(at).digest
    assert any("finished stages taken over from q, up to evaluate (round 0)" in line for line in said)

    one, other = right(run, 2), right(made, 1)
    differences = np.array([one[item] - other[item] for item in one])
    told = added(run)
    words = (
        r"The curriculum added (\S+) points over plain fine-tuning on as many tokens \(90 % interval (\S+) to (\S+)\)"
    )
    found = re.match(words, told)
    assert found, told
    value, low, high = map(float, found.groups())
    assert value == pytest.approx(fmean(differences), abs=0.05)
    draws = np.random.default_rng(7).choice(differences, (10_000, differences.size)).mean(axis=1)
    reaches = np.abs(np.quantile(draws, [0.05, 0.95]) - value)
    below, above = np.hypot(reaches, 1.645 * 100 * rerun_sd(2))
    assert (low, high) == pytest.approx((value - below, value + above), abs=0.9)
    assert "The interval covers the choice of instructions and what a rerun changes (SD 2.1 points, measured" in told
    assert ("nothing is shown" in told) is (low <= 0 <= high)

    write_report(run)
    summary = with_baseline(summarise(run), run)
    shown = CliRunner().invoke(app, ["status", "q", "--root", run.ref.root])
    for place in (run.storage.read_bytes("report.html").decode(), run_card(summary, RunReader(run)), shown.output):
        assert told in place
    assert f"\n{told}\n" in model_card(run, 2, "")
    assert f"Of S_2, the last student of the run: {told}" in model_card(run, 1, "")
    assert "The curriculum added" not in model_card(made, 1, "")
    assert go(config)[1] == [], "the same command again does nothing"


def test_where_rounds_learn_from_its_own_answers_a_second_one_has_as_much_time_of_the_machine(config: Path) -> None:
    said: list[str] = []
    run, driven = go(config, "rounds.2.objective=prefer", said=said)
    assert {name for name, _ in driven} == {"q", "q-sft", "q-sft-seconds"}
    per_round = [read_training(run, number).tokens for number in (1, 2)]
    as_many, as_long = baseline_of(run), baseline_of(run, "seconds")
    assert abs(trained(as_many).tokens - sum(per_round)) <= TOLERANCE * sum(per_round)
    wanted = per_round[0] + 3 * per_round[1]
    assert abs(trained(as_long).tokens - wanted) <= TOLERANCE * wanted
    assert any(
        "plain fine-tuning in as much time of the machine as all its rounds, as run q-sft-seconds" in line
        for line in said
    )
    summary = with_baseline(summarise(run), run)
    rows = {row[0]: row[-1] for row in baseline_table(summary).rows}
    assert [*rows] == [
        "S_2, after all rounds",
        "Plain fine-tuning on as many tokens (run q-sft)",
        "Plain fine-tuning in as much time of the machine (run q-sft-seconds)",
    ]
    told = sentences.added(*summary.baselines)
    assert all(f"points over plain fine-tuning {as_much} (90 %" in told for as_much in sentences.AS_MUCH.values())
    assert told in run_card(summary, RunReader(run))
    assert model_card(run, 2, "").count("points over plain fine-tuning") == 2
    assert [beside.ref for beside in map(run_beside, (as_many, as_long)) if beside] == [run.ref, run.ref]
    assert go(config, "rounds.2.objective=prefer")[1] == [], "the same command again does nothing"


def test_where_nobody_knows_how_long_the_rounds_took_the_second_one_is_left_out_and_the_reason_told(
    config: Path,
) -> None:
    settings = ["rounds.2.objective=prefer", 'student.engine={ type = "vllm" }']

    class Interrupted(BuiltRuns):
        def distil(self, run: RunFolder, until: str | None) -> None:
            super().distil(run, until)
            if run.ref.name == "q" and run.holds(at := StageAt("answer", 2)):
                made = run.sealed(at)
                run.seal(at, [*made.parts], counts={**made.counts, "calls": 1, "stored": made.rows - 1})

    run, driven = go(config, *settings, engines=Interrupted())
    assert {name for name, _ in driven} == {"q", "q-sft"}
    told = sentences.added(*with_baseline(summarise(run), run).baselines)
    assert "over plain fine-tuning (run q-sft-seconds) is unknown: a stage was interrupted" in told
    assert "points over plain fine-tuning on as many tokens" in told
    assert go(config, *settings)[1] == [], "the same command again does nothing"


@pytest.mark.parametrize("stage", ["mix@1", None])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), EngineError("the trainer ended with 1")])
def test_a_baseline_that_ended_leaves_the_run_done_and_the_same_command_goes_on_with_it(
    config: Path, stage: str | None, error: BaseException
) -> None:
    said: list[str] = []
    with pytest.raises(type(error)):
        go(config, engines=Engines(ending=("q-sft", stage, error)), said=said)
    run = run_of(config)
    assert state_of(run).next_stage is None
    assert "run q is done, its baseline q-sft is not" in said[-1]
    assert "known when run q-sft is done" in added(run)
    _, driven = go(config)
    assert {name for name, _ in driven} == {"q-sft"}
    assert "The curriculum added" in added(run)


def test_who_goes_on_with_a_run_by_retry_judge_has_its_baseline_made_too(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(KeyboardInterrupt):
        go(config, engines=Engines(ending=("q-sft", "mix@1", KeyboardInterrupt())))
    engines, run = Engines(), run_of(config)
    monkeypatch.setattr("flows.commands.live.ShownFlows.do", lambda _, work, made, until: engines.distil(made, until))
    monkeypatch.setattr("tasks.train.count_round", engines.count)
    command = ["retry-judge", "q", "--root", run.ref.root]
    assert CliRunner().invoke(app, command).exit_code == 0
    assert engines.driven == []
    done = CliRunner().invoke(app, [*command, "--continue"])
    assert done.exit_code == 0, f"{done.output}\n{done.exception!r}"
    assert {name for name, _ in engines.driven} == {"q-sft"}
    assert added(run_of(config)).startswith("The curriculum added ")
    assert added(run_of(config)) in done.output


def test_a_run_that_goes_on_has_its_baseline_made_anew(config: Path) -> None:
    run, _ = go(config)
    before = trained(baseline_of(run)).tokens
    go(config, "run.rounds=3", "evaluation.baseline=none")
    with pytest.raises(KeyboardInterrupt):
        go(config, "run.rounds=3", engines=Engines(ending=("q-sft", "mix@1", KeyboardInterrupt())))
    assert "known when run q-sft is done" in added(run_of(config))
    go(config, "run.rounds=3")
    run = run_of(config)
    after = trained(baseline_of(run)).tokens
    assert after == pytest.approx(trained(run).tokens, rel=TOLERANCE)
    assert after > 1.3 * before
    assert "The curriculum added" in added(run)


def test_the_baseline_of_rounds_that_are_others_by_now_is_not_told(config: Path) -> None:
    go(config)
    engines, more = Engines(), load(config, "evaluation.baseline=sft", "run.rounds=3")
    with engines.counting():
        drive(more, engines.distil, say=lambda _: None, until="evaluate@3")
    assert added(run_of(config)).endswith("rounds are others by now; its own command makes the baseline anew.")


def test_a_pool_with_too_few_instructions_is_gone_through_more_often(config: Path) -> None:
    run, _ = go(config, "data.pool.rows=120", "rounds.default.epochs=3.0")
    made = baseline_of(run)
    assert made.config.round(1).epochs > 3
    assert abs(trained(made).tokens - trained(run).tokens) <= TOLERANCE * trained(run).tokens
    assert made.rows(StageAt("mix", 1)).height <= run.rows(StageAt("pool")).height


def test_after_an_early_stop_the_rounds_that_were_trained_count(config: Path) -> None:
    run, _ = go(
        config, "curriculum.stop.min_gain=1.0", "curriculum.stop.patience=1", engines=Engines(last="evaluate@1")
    )
    assert state_of(run).stopped
    assert run.trained_rounds == [0, 1]
    first = read_training(run, 1).tokens
    assert abs(trained(baseline_of(run)).tokens - first) <= TOLERANCE * first
    assert "The curriculum added" in added(run)


def test_a_run_of_that_name_that_is_no_baseline_is_left_alone(config: Path) -> None:
    engines = Engines()
    with engines.counting():
        drive(load(config, "run.name=q-sft"), engines.distil, say=lambda _: None)
    own = run_of(config).ref.root
    before = RunFolder(RunRef(own, "q-sft")).config
    with pytest.raises(ConfigError, match="run 'q-sft' is no baseline"):
        go(config)
    assert RunFolder(RunRef(own, "q-sft")).config == before
    assert added(run_of(config)) == ""


def test_a_run_that_trained_no_round_has_none(config: Path) -> None:
    run, driven = go(config, "curriculum.stop.min_seeds=1000", engines=Engines(last="select@1"))
    assert state_of(run).stopped
    assert {name for name, _ in driven} == {"q"}
    assert added(run) == ""


def test_nothing_is_told_of_a_difference_where_too_many_answers_are_missing(config: Path) -> None:
    run, _ = go(config)
    made, at = baseline_of(run), StageAt("answer_heldout", 1)
    rows = made.rows(at)
    test = run.rows(StageAt("heldout")).filter(split="test")["instruction_id"]
    made.write(at, rows.filter(~rows["instruction_id"].is_in(test.head(4).implode())))
    made.write(StageAt("evaluate", 1), made.rows(StageAt("evaluate", 1)))
    assert added(run).endswith("is unknown: 4 of 40 instructions lack an answer or a verdict of one, more than 5%.")


def test_a_difference_over_a_few_instructions_has_no_figure(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, _ = go(config)
    assert "90 % interval" in added(run)
    monkeypatch.setattr(statistics, "FEWEST_ROWS", 41)
    assert added(run).endswith("is unknown: 40 instructions are too few for an interval.")


def test_without_the_field_a_run_that_costs_nothing_has_none_and_to_a_stage_nobody_has_one(config: Path) -> None:
    engines = Engines()
    plain = load(config)
    with engines.counting():
        drive(plain, engines.distil, say=lambda _: None)
        drive(replace_baseline(plain, "none"), engines.distil, say=lambda _: None)
        drive(replace_baseline(plain, "sft"), engines.distil, say=lambda _: None, until="train@1")
    assert {name for name, _ in engines.driven} == {"q"}
    assert not baseline_of(run_of(config)).storage.exists("run.json")


def replace_baseline(config: RunConfig, said: str) -> RunConfig:
    evaluation = config.evaluation.model_copy(update={"baseline": said})
    return config.model_copy(update={"evaluation": evaluation})
