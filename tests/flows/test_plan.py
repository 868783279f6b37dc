"""`tapir plan`: what a run's money is best spent on, tried on a few rows; chosen only where it is shown."""

import json
from math import isnan
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flows.cli import app
from flows.series import finish_trial, plan_trial
from tapir_core.comparison.trial import (
    METHODS,
    MORE,
    PLAIN,
    Gain,
    Tried,
    choose,
    gains_of,
    method_config,
    read_tried,
    settings_of,
)
from tapir_core.config import FileHeldout
from tapir_core.config.load import load_config, replace_values, rounds_setting, spell_out_rounds, written
from tapir_core.errors import BudgetReached, ConfigError, EngineError
from tapir_core.paths import training_file
from tapir_core.reporting.estimate_table import gains_table
from tapir_core.run_folder import RunFolder, RunRef
from tapir_core.stages import StageAt
from tapir_core.summary import RunReader
from tests.run_builder import build_run
from tests.students import make_checkpoint

CONFIG = """
run = { name = "q", root = ROOT, rounds = 2 }
data.pool = { type = "standin", rows = 6000 }
data.heldout = { type = "standin", dev = 20, test = 120 }
teacher.endpoint.type = "standin"
judge.endpoint.type = "standin"
student = { backbone = BACKBONE, engine = { type = "endpoint", base_url = "http://127.0.0.1:9/v1" } }
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    given = {"ROOT": tmp_path / "runs", "BACKBONE": make_checkpoint(tmp_path / "backbone")}
    text = CONFIG
    for name, value in given.items():
        text = text.replace(name, json.dumps(str(value)))
    (tmp_path / "my.toml").write_text(text)
    return tmp_path / "my.toml"


def finish(run: RunFolder, _until: str | None = None) -> None:
    build_run("", config=run.config, **run.record.ingredients)


def tried(method: str, share: float, *, usd: float = 0.0, hours: float = 1.0, items: int = 2000) -> Tried:
    marks = {str(each): 100.0 * (each < share * items) for each in range(items)}
    return Tried(method, usd, hours, marks)


def chosen(*others: Tried) -> tuple[str, str]:
    return choose(gains_of([tried(PLAIN, 0.3, usd=1.0), *others], "a-test"))


def test_a_method_is_chosen_only_where_it_is_better_beyond_all_intervals() -> None:
    more, answers = tried(MORE, 0.6, usd=1.5, hours=1.2), tried("answers", 0.4, usd=2.0, hours=1.2)
    assert chosen(more, answers) == (MORE, "prompts gains most by USD, beyond the intervals of all others")
    alike = tried("answers", 0.6, usd=1.52, hours=1.2)
    assert chosen(more, alike) == ("", "undecided by USD: the intervals overlap; shown to gain: prompts, answers")
    nothing = "undecided: no method is shown to gain anything over plain answers to two thirds of the prompts"
    assert chosen(tried("prefer", 0.301, usd=1.5)) == ("", nothing)


def test_what_costs_no_more_is_better_where_it_gains_more_and_no_rival_where_it_gains_nothing() -> None:
    more = tried(MORE, 0.4, usd=1.5)
    assert chosen(more, tried("on_policy", 0.7, usd=1.0))[0] == "on_policy"
    assert chosen(more, tried("on_policy", 0.4, usd=1.0))[0] == ""
    assert chosen(more, tried("prefer", 0.3, usd=1.0))[0] == MORE
    assert chosen(tried(MORE, 0.6, usd=1.5), tried("prefer", 0.3, usd=1.005))[0] == MORE, "no more than 1 %"


def test_a_rival_that_may_gain_more_by_a_usd_leaves_it_undecided() -> None:
    gains = [
        Gain(tried(PLAIN, 0.3)),
        Gain(tried(MORE, 0.3), (0.01, 0.008, 0.012), more_usd=1.0),
        Gain(tried("prefer", 0.3), (0.1, -0.005, 0.195), more_usd=1.0),
    ]
    assert choose(gains) == ("", "undecided by USD: the intervals overlap; shown to gain: prompts")
    gains[2] = Gain(tried("prefer", 0.3), (0.001, -0.001, 0.002))
    assert choose(gains)[0] == MORE, "one that costs nothing and gains less is no rival"


def test_what_is_free_is_compared_by_the_hour_and_few_items_decide_nothing() -> None:
    free = [tried(MORE, 0.6, usd=1.0, hours=1.5), tried("prefer", 0.4, usd=1.0, hours=3.0)]
    assert chosen(*free) == (MORE, "prompts gains most by hour, beyond the intervals of all others")
    few = [tried(name, share, items=10, hours=2.0) for name, share in ((MORE, 0.5), ("prefer", 0.4))]
    few.insert(0, tried(PLAIN, 0.3, items=10))
    assert choose(gains_of(few, "a-test"))[0] == ""
    three = [tried(PLAIN, 0.0, items=3), tried(MORE, 1.0, items=3, hours=2.0)]
    assert [each.points for each in gains_of(three, "a-test")] == [None, None]
    lacking = Tried(MORE, 2.0, 2.0, {str(each): 100.0 for each in range(80)})
    assert gains_of([tried(PLAIN, 0.3, items=100), lacking], "a-test")[1].points is None, "a fifth of the marks"
    assert choose([Gain(tried(PLAIN, 0.3))])[0] == ""


def test_nothing_is_chosen_over_a_method_without_a_figure_or_by_hours_that_nobody_knows() -> None:
    more = tried(MORE, 0.6, usd=1.0, hours=1.5)
    right = {str(each): 100.0 if each < 1600 else None for each in range(2000)}
    assert chosen(more, Tried("prefer", 1.0, 3.0, right)) == (
        "",
        "undecided: too many held-out items lack a mark for a figure of prefer",
    )
    assert chosen(more, tried("prefer", 0.4, usd=1.0, hours=float("nan")))[0] == ""
    unknown = tried(MORE, 0.6, usd=1.0, hours=float("nan"))
    assert chosen(unknown, tried("prefer", 0.4, usd=1.0, hours=3.0))[0] == ""
    table = gains_table(gains_of([tried(PLAIN, 0.3, usd=1.0), unknown], "a-test"))
    assert [row[-2:] for row in table.rows][1] == ("–", "–")


@pytest.mark.slow
def test_every_method_is_a_run_on_its_rows_and_a_second_start_only_reads(file: Path) -> None:
    planned, lacking = plan_trial(load_config(file), 90)
    assert [*planned, *lacking] == [MORE, PLAIN, "answers", "expansion", "prefer", "on_policy"]
    assert "cannot score token ids" in lacking["on_policy"]
    seen: list[str] = []

    def distil(run: RunFolder, _until: str | None) -> None:
        seen.append(run.ref.name)
        assert run.config.budget.shared == "q-plan90"
        assert run.config.budget.usd == 5.0
        finish(run)

    gains = finish_trial(planned, 5.0, distil, say=lambda _: None)
    assert [each.tried.method for each in gains] == [PLAIN, MORE, "answers", "expansion", "prefer"]
    assert all(len(each.tried.marks) == 120 for each in gains)
    assert len(seen) == len(planned)
    again = finish_trial(planned, 4.0, distil, say=lambda _: None)
    assert len(seen) == len(planned)
    hours = {each.tried.method: each.tried.hours for each in gains}
    assert hours[MORE] < 2 * hours[PLAIN], "labels and answers count alike, whoever asked"
    assert [each.points for each in again] == [each.points for each in gains]
    run = RunFolder(RunRef(planned[MORE].run.root, planned[MORE].run.name))
    was, trained = gains[1].tried.hours, RunReader(run).training(1)
    run.storage.write_bytes(training_file(StageAt("train", 1).folder), json.dumps(trained | {"seconds": 7e5}).encode())
    longer = finish_trial(planned, 4.0, distil, say=lambda _: None)[1].tried.hours - was
    assert longer == pytest.approx((7e5 - trained.get("seconds", 0.0)) / 3600), "over all starts"


@pytest.mark.slow
def test_a_method_that_fails_is_left_out_and_tried_again_by_the_same_command(file: Path) -> None:
    planned, _ = plan_trial(load_config(file), 90)
    said: list[str] = []

    def distil(run: RunFolder, _until: str | None) -> None:
        if run.ref.name.endswith(fails):
            raise EngineError("out of memory")
        finish(run)

    fails = "prefer"
    gains = finish_trial(planned, 5.0, distil, say=said.append)
    assert [each.tried.method for each in gains] == [PLAIN, MORE, "answers", "expansion"]
    assert "method prefer is left out: out of memory. The same command tries it again." in said
    fails = "nothing"
    assert "prefer" in [each.tried.method for each in finish_trial(planned, 5.0, distil, say=said.append)]


def test_without_plain_answers_there_is_no_trial(file: Path) -> None:
    planned, _ = plan_trial(load_config(file), 90)

    def distil(run: RunFolder, _until: str | None) -> None:
        raise EngineError(run.ref.name)

    with pytest.raises(EngineError, match="q-plan90-plain"):
        finish_trial(planned, 5.0, distil, say=lambda _: None)


def test_methods_are_compared_on_the_references_beside_a_judged_set(file: Path) -> None:
    own = file.with_name("own rows.jsonl")
    own.write_text("\n".join(f'{{"instruction": "Add 1 and {n}.", "reference": "{1 + n}"}}' for n in range(5)))
    given = [
        f'data.heldout={{ type = "judged", references = "{own}" }}',
        f'data.pool={{ type = "file", path = "{own}" }}',
    ]
    planned, _ = plan_trial(load_config(file, given), 90)
    assert {each.data.heldout for each in planned.values()} == {FileHeldout(path=str(own))}


def test_expansion_is_planned_for_the_whole_run_as_it_was_tried(file: Path) -> None:
    config = load_config(file)
    planned, _ = plan_trial(config, 90)
    assert (planned["expansion"].data.pool.rows, planned["expansion"].round(1).examples) == (60, 90)
    assert method_config(config, "expansion", 6000).round(1).examples == 9000
    assert method_config(config, MORE, 6000).round(1).examples == "auto"


def test_what_has_no_price_is_refused_before_anything_is_paid(file: Path) -> None:
    given = 'judge.endpoint={ type = "openai", base_url = "https://judge.example/v1", model = "nobody-knows-it" }'
    words = ["plan", str(file), "--set", given, "--trial", "90"]
    done = CliRunner().invoke(app, words)
    assert isinstance(done.exception, ConfigError)
    assert "compared, and capped, by USD: judge.endpoint" in str(done.exception)
    assert CliRunner().invoke(app, [*words, "--estimate"]).exit_code == 0
    assert not (file.parent / "runs").exists()


def test_the_trial_is_estimated_before_it_begins(file: Path) -> None:
    done = CliRunner().invoke(app, ["plan", str(file), "--trial", "90", "--estimate"], env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    assert all(METHODS[each][0] in done.output for each in (PLAIN, MORE, "expansion"))
    assert "Left out: on_policy" in done.output
    assert not (file.parent / "runs").exists()


def test_without_references_there_is_nothing_to_compare_by(file: Path) -> None:
    with pytest.raises(ConfigError, match="each with a `reference`"):
        plan_trial(load_config(file, ['data.heldout={ type = "judged" }']), 90)


def test_too_few_references_are_refused_before_anything_is_paid(file: Path) -> None:
    with pytest.raises(ConfigError, match="5 or more held-out rows of the test split"):
        plan_trial(load_config(file, ["data.heldout.test=4"]), 90)
    assert plan_trial(load_config(file, ["data.heldout.test=5"]), 90)[0]


def test_a_run_that_ends_with_task_types_cannot_be_tried(file: Path) -> None:
    with pytest.raises(ConfigError, match=r'"discover" ends a run before its first student'):
        plan_trial(load_config(file, ["curriculum.task_types=discover"]), 90)


def test_hours_of_a_stage_whose_last_start_found_most_answers_stored_are_not_known(file: Path) -> None:
    run = RunRef(load_config(file).run.root, "q")
    sizes = ["data.pool.rows=240", "basic_tuning.examples=64", "rounds.default.examples=32"]
    judged = 'rounds.default.selection={ type = "hard_share", share = 0.3 }'
    config = load_config(file, ["run.rounds=1", *sizes, judged])
    at = StageAt("answer", 1)

    def hours(calls: int, stored: int, seconds: float) -> float:
        built = build_run("", config=config, backbone="b")
        made = built.sealed(at)
        counts = {**made.counts, "calls": calls, "stored": stored, "seconds": seconds}
        built.seal(at, [*made.parts], counts=counts)
        [found] = read_tried({PLAIN: RunFolder(run)})
        return found.hours

    assert hours(200, 40, 100.0) - hours(240, 0, 100.0) == pytest.approx(20 / 3600)
    assert isnan(hours(1, 239, 70.0))
    assert isnan(hours(0, 240, 1.0))


def test_a_cap_that_the_user_gives_holds_over_the_one_of_the_first_start(file: Path) -> None:
    seen: list[tuple[float | None, str]] = []

    def distil(run: RunFolder, _until: str | None) -> None:
        seen.append((run.config.budget.usd, run.config.budget.shared))
        raise BudgetReached("budget.usd is reached")

    for given, usd in (([], 5.0), ([], 7.0), (["budget.usd=50", "budget.shared=all"], 7.0)):
        planned, _ = plan_trial(load_config(file, given), 90)
        with pytest.raises(BudgetReached):
            finish_trial(planned, usd, distil, say=lambda _: None)
    assert seen == [(5.0, "q-plan90"), (5.0, "q-plan90"), (50.0, "all")]
    other, _ = plan_trial(load_config(file), 120)
    with pytest.raises(BudgetReached):
        finish_trial(other, 9.0, distil, say=lambda _: None)
    assert seen[-1] == (9.0, "q-plan120"), "another trial has another ledger"


def test_more_answers_are_not_tried_where_the_pool_brings_all(file: Path) -> None:
    rows = [{"instruction": f"Count to {each}.", "output": f"It is {each}."} for each in range(60)]
    (file.parent / "pool.json").write_text(json.dumps(rows))
    given = f'data.pool={{ type = "file", path = "{file.parent / "pool.json"}", answers = "use" }}'
    words = ["plan", str(file), "--set", given, "--trial", "30", "--estimate"]
    done = CliRunner().invoke(app, words, env={"COLUMNS": "400"})
    assert done.exit_code == 0, done.output
    assert "Left out: answers: the pool brings all answers" in done.output
    assert METHODS["answers"][0] not in done.output


def test_a_pool_smaller_than_the_trial_is_refused(file: Path) -> None:
    done = CliRunner().invoke(app, ["plan", str(file), "--set", "data.pool.rows=60", "--estimate"])
    assert isinstance(done.exception, ConfigError)
    assert "--trial 300: the pool has 60 instructions" in str(done.exception)


@pytest.mark.parametrize("method", METHODS)
def test_the_configuration_that_is_written_is_the_one_that_was_tried(file: Path, method: str) -> None:
    given: list[Any] = [
        'judge.panel=[{ type = "standin", noise = 2.0 }]',
        *("run.seed=7", "rounds.default.epochs=5", "rounds.2.epochs=6"),
        'curriculum.task_types={ Math = "sums", "Übersetzung" = "ins Deutsche", "A & B" = "both" }',
    ]
    config, copy = load_config(file, given), file.with_name("written.toml")
    copy.write_text(written(file, [*given, rounds_setting(config), *settings_of(config, method)]))
    again = load_config(copy)
    meant = replace_values(spell_out_rounds(config), settings_of(config, method))
    assert again.round(1) == meant.round(1)
    assert again.model_copy(update={"rounds": {}}) == meant.model_copy(update={"rounds": {}})
