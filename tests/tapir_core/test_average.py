"""The average of the rounds' students in a run folder: when it is made and made anew, who it is, and what is said."""

from pathlib import Path
from typing import Any

import pytest

from tapir_core.comparison.plan import READY
from tapir_core.config import RunConfig
from tapir_core.config.checks import check_config
from tapir_core.config.load import replace_values, spell_out_rounds
from tapir_core.curriculum import RoundHistory, best_round
from tapir_core.errors import ConfigError, RunChanged
from tapir_core.paths import AVERAGE, BACKBONE
from tapir_core.reporting import benchmarks, sentences
from tapir_core.reporting.plots import plot_scores
from tapir_core.reporting.report import model_card, write_report
from tapir_core.reporting.serving import serving_tables
from tapir_core.reporting.tables import rounds_table, stages_table
from tapir_core.run_files import take_over
from tapir_core.run_folder import RunFolder, open_run
from tapir_core.run_state import averaging, find_student, find_students, state_of, unscored_students
from tapir_core.stages import StageAt, plan
from tapir_core.summary import RunReader, read_progress, summarise
from tests.benchmark_runs import ALPACA
from tests.run_builder import build_run
from tests.run_config import make_config

MADE, SCORED = StageAt("average", AVERAGE), StageAt("evaluate", AVERAGE)
ASKED = {"student": {"average": "rounds"}}


def averaged(root: Path | str, rounds: int = 2, *, patience: int = 0, **sections: Any) -> RunConfig:
    """A configuration with an average; no gain is enough for it where it has ``patience``."""
    config = make_config(root, run={"rounds": rounds}, **{**ASKED, **sections})
    stop = config.curriculum.stop.model_copy(update={"min_seeds": 0, "patience": patience, "min_gain": 1.0})
    return config.model_copy(update={"curriculum": config.curriculum.model_copy(update={"stop": stop})})


def stages_of_average(run: RunFolder) -> list[StageAt]:
    return [at for at in plan(run.config) if at.round == AVERAGE]


@pytest.mark.parametrize("heldout", ["references", "none"])
def test_it_comes_after_the_last_round_and_is_scored_as_a_round_s_student_is(tmp_path: Path, heldout: str) -> None:
    data = {"pool": {"type": "standin", "rows": 240}}
    config = averaged(tmp_path, **({} if heldout == "references" else {"data": {**data, "heldout": None}}))
    planned = list(plan(config))
    names = [at.name for at in planned if at.round == AVERAGE]
    assert names == ["average", *(at.name for at in planned if at.round == BACKBONE)]
    assert [at.round for at in planned[-len(names) :]] == [AVERAGE] * len(names)
    assert MADE.folder == "average/checkpoint"
    assert not [at for at in plan(make_config(tmp_path)) if at.round == AVERAGE]


def test_it_is_a_student_by_name_and_the_best_where_dev_says_so(tmp_path: Path) -> None:
    run = build_run(tmp_path, config=averaged(tmp_path))
    assert run.trained_rounds == [0, 1, 2]
    assert find_students(run, "all") == [BACKBONE, 0, 1, 2, AVERAGE]
    assert find_student(run, "average") == find_student(run, "best") == AVERAGE
    assert unscored_students(run, [AVERAGE]) == []
    without = build_run(tmp_path / "without")
    with pytest.raises(ConfigError, match=r"--round average: .* it has 0, 1, 2;"):
        find_student(without, "average")


@pytest.mark.parametrize(
    ("average", "best"),
    [(0.61, AVERAGE), (0.6, 1), (0.4, 1), (None, 1)],
    ids=["better", "a tie goes to the round", "worse", "without a figure"],
)
def test_a_higher_dev_score_makes_it_the_best(average: float | None, best: int) -> None:
    history = [RoundHistory(number, dev_score=score) for number, score in enumerate([0.3, 0.6, 0.5])]
    assert best_round(history, RoundHistory(AVERAGE, dev_score=average)) == best


def judged(number: int, values: list[float]) -> RoundHistory:
    return RoundHistory(number, dev_score=sum(values) / len(values), dev_values=dict(enumerate(values)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("average", "best"),
    [([1.0] * 40, AVERAGE), ([1.0] * 3 + [0.5] * 37, 2), ([0.0] * 40, 2)],
    ids=["shown to be better", "higher by chance", "worse"],
)
def test_on_a_judged_split_it_has_to_beat_the_last_round(average: list[float], best: int) -> None:
    history = [judged(number, [level] * 40) for number, level in enumerate([0.2, 0.4, 0.5])]
    assert best_round(history, judged(AVERAGE, average)) == best
    assert best_round(history[:1], judged(AVERAGE, average)) in (0, AVERAGE)


def test_no_stop_rule_looks_at_it_and_nothing_else_of_a_run_moves(tmp_path: Path) -> None:
    """A run that is scored by the same dice has the same keys, but for what is added."""
    run, plain = (build_run(tmp_path / name, config=config) for name, config in variants(tmp_path))
    assert [each.number for each in state_of(run).history] == [0, 1, 2]
    assert summarise(run).gain == summarise(plain).gain
    assert state_of(run).next_stage is None
    common = [at for at in plan(plain.config) if at in set(plan(run.config))]
    assert common == list(plan(plain.config))
    assert [run.key(at, made_by="x") for at in common] == [plain.key(at, made_by="x") for at in common]


def variants(root: Path) -> list[tuple[str, RunConfig]]:
    return [("with", averaged(root / "with")), ("without", averaged(root / "without", student={}))]


def test_a_run_that_is_stopped_goes_on_with_the_average_of_what_it_has(tmp_path: Path) -> None:
    config = averaged(tmp_path, 4, patience=2)
    run = build_run(tmp_path, config=config, until=StageAt("evaluate", 2))
    state = state_of(run)
    assert state.stopped is not None
    assert state.next_stage == MADE
    shown = read_progress(RunReader(run), {})
    assert shown.next_stage == MADE
    assert "Stopped early, 2 of 4 rounds trained: the dev score" in (said := sentences.state(summarise(run)))
    assert said.endswith("Next stage: average.")
    run = build_run(tmp_path, config=config, until=StageAt("evaluate", 2), later=stages_of_average(run))
    state = state_of(run)
    assert (state.next_stage, state.best) == (None, AVERAGE)
    assert state.stopped is not None
    assert "average" not in state.stopped
    assert read_progress(RunReader(run), {}).seconds_left == 0.0
    assert find_students(run, "all") == [BACKBONE, 0, 1, 2, AVERAGE]
    reads = [at.number for at in MADE.stage.reads(config, MADE) if run.holds(at)]
    assert reads == [1, 2]


def test_a_stop_after_one_round_leaves_nothing_to_average_and_says_so(tmp_path: Path) -> None:
    run = build_run(tmp_path, config=averaged(tmp_path, 4, patience=1), until=StageAt("evaluate", 1))
    state = state_of(run)
    assert averaging(run) == []
    assert state.next_stage is None
    assert state.stopped is not None
    assert state.stopped.endswith("; too few rounds were trained to average their students")
    assert "too few rounds were trained to average" in sentences.state(summarise(run))
    # Without one asked for nothing is said of it.
    plain = build_run(tmp_path / "p", config=averaged(tmp_path / "p", 4, patience=1, student={}), until=state_at(1))
    assert "average" not in (state_of(plain).stopped or "")


def state_at(number: int) -> StageAt:
    return StageAt("evaluate", number)


def test_before_the_last_round_it_is_not_due(tmp_path: Path) -> None:
    """Two students would do, but the run goes on."""
    run = build_run(tmp_path, config=averaged(tmp_path, 3), until=state_at(2))
    assert run.key(MADE) is not None
    assert state_of(run).next_stage == StageAt("answer", 3)


def test_a_run_with_more_rounds_makes_it_anew(tmp_path: Path) -> None:
    run = build_run(tmp_path, config=averaged(tmp_path))
    before, more = run.sealed(MADE), averaged(tmp_path, 3)
    with pytest.raises(RunChanged, match=r"    average: a checkpoint\n    answer_heldout \(average\): "):
        open_run(more, run.record.ingredients)
    longer = open_run(more, run.record.ingredients, amend=True)
    assert state_of(longer).next_stage == StageAt("answer", 3)
    longer = build_run(tmp_path, config=more, until=StageAt("train", 3))
    assert longer.holds(MADE) is longer.holds(SCORED) is None
    assert longer.students == [0, 1, 2, 3]
    longer = build_run(tmp_path, config=more)
    assert longer.sealed(MADE).key != before.key
    assert longer.students == [0, 1, 2, 3, AVERAGE]


def test_a_run_gets_it_later_and_loses_it_without_anything_else_being_redone(tmp_path: Path) -> None:
    plain, asked = averaged(tmp_path, student={}), averaged(tmp_path)
    run = build_run(tmp_path, config=plain)
    with_it = open_run(asked, run.record.ingredients)
    assert state_of(with_it).next_stage == MADE
    build_run(tmp_path, config=asked)
    without = open_run(plain, run.record.ingredients)
    assert state_of(without).next_stage is None
    assert without.students == [0, 1, 2]
    assert without.holds(MADE) is None


def test_another_run_takes_it_over_with_the_students_that_it_is_of(tmp_path: Path) -> None:
    config = averaged(tmp_path)
    source = build_run(tmp_path, config=config)
    other = config.run.model_copy(update={"name": "other"})
    target = open_run(config.model_copy(update={"run": other}), source.record.ingredients)
    assert {MADE, SCORED} <= {*take_over(source, target)}
    assert target.students == [0, 1, 2, AVERAGE]


def test_one_round_is_refused_with_field_value_and_remedy(tmp_path: Path) -> None:
    [said] = check_config(averaged(tmp_path, 1))
    assert said == (
        'student.average: value "rounds": with run.rounds = 1 there is one student and nothing to average; set '
        "run.rounds = 2 or more, or leave it out"
    )
    assert check_config(averaged(tmp_path, 2)) == []


@pytest.mark.parametrize("arm", READY)
def test_every_ready_arm_of_such_a_run_can_be_run(tmp_path: Path, arm: str) -> None:
    """Arms of one round have nothing to average, and are matched to the rounds' students."""
    config = spell_out_rounds(averaged(tmp_path))
    made = replace_values(config, READY[arm].settings(config), source=arm)
    assert check_config(made) == []
    assert (made.student.average is None) == (made.run.rounds == 1)


def test_tables_status_and_report_name_it_and_do_not_take_it_for_a_round(tmp_path: Path) -> None:
    benchmark = {"benchmarks": {"ae": ALPACA}, "each_round": ["ae"], "decontamination": {"max_rouge_l": 1.0}}
    run = build_run(tmp_path, config=averaged(tmp_path, evaluation=benchmark))
    summary, reader = summarise(run), RunReader(run)
    table = rounds_table(summary)
    assert table.columns == ("", "backbone", "S_0", "round 1", "round 2", "average")
    cells = {row[0]: row[-1] for row in table.rows}
    assert cells["Accuracy, test, %"] == f"{100 * summary.rounds[-1].score('test').value:.1f}"  # type: ignore[union-attr, operator]
    assert cells["Mixture"] == cells["Pool"] == cells["Seeds"] == "–"
    assert next(row[0] for row in stages_table(summary.rounds[-1]).rows) == "average"
    assert (summary.best, summary.gain and summary.gain.after) == (AVERAGE, 2)
    assert sentences.best(summary) == "Best round by the dev split: average."
    progress = read_progress(reader, {})
    assert (progress.student, progress.next_stage) == (AVERAGE, None)
    [states] = benchmarks.benchmark_states_tables(reader)
    assert [row[0] for row in states.rows] == ["backbone", "S_0", "S_1", "S_2", "average"]
    gains = benchmarks.benchmark_gains_table(reader, [each.number for each in summary.rounds], summary.best)
    assert [row[:2] for row in gains.rows] == [
        ("S_2", "S_0"),
        ("average", "S_0"),
        ("average", "S_2"),
        ("average", "backbone"),
    ]
    before_after, cost = serving_tables(reader, summary.best)
    assert before_after.columns[-1] == "average less backbone"
    assert cost.columns == ("", "average", "teacher")
    assert serving_tables(reader, None)[1].columns == ("", "S_2", "teacher"), "nothing says that it is better"
    [plot] = plot_scores(summary)
    assert plot.plot is not None
    write_report(run)
    page = run.storage.read_bytes("report.html").decode()
    assert "S_50" not in page
    assert "round 50" not in page


def test_its_model_card_says_what_it_is_of_and_has_no_training(tmp_path: Path) -> None:
    run = build_run(tmp_path, config=averaged(tmp_path))
    card = model_card(run, AVERAGE, "use")
    assert "# example, average" in card
    assert "and 2 rounds of curriculum, the mean of the weights of S_1 to S_2, with TAPIR" in card
    assert f"| Checkpoint, digest | {run.sealed(MADE).digest} |" in card
    assert "Tokens of the last fine-tune" not in card
    assert "and 2 rounds of curriculum with TAPIR" in model_card(run, 2, "use")
