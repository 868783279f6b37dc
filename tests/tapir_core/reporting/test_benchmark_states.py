"""How far each benchmark of a run is, whether it is asked each round or was asked later."""

from pathlib import Path

import pytest

from tapir_core.config import RunConfig
from tapir_core.paths import BACKBONE
from tapir_core.reporting.benchmarks import benchmark_states_tables
from tapir_core.run_folder import RunFolder, open_run
from tapir_core.stages import StageAt, benchmark_stages
from tapir_core.summary import RunReader
from tests.benchmark_runs import ALPACA, VICUNA
from tests.run_builder import build_run
from tests.run_config import make_config


def configured(root: Path) -> RunConfig:
    return make_config(
        root,
        data={"pool": {"type": "standin", "rows": 120}},
        evaluation={
            "benchmarks": {
                "always": VICUNA,
                "later": ALPACA,
                "never": VICUNA,
                "apart": {"questions": ALPACA["questions"]},
            },
            "each_round": ["always"],
            "decontamination": {"max_rouge_l": 1.0},
        },
    )


ITEMS = StageAt("benchmark_items", benchmark="later")
ANSWERS, REPLIES, SCORES = benchmark_stages("later", 0)


def built(root: Path, *later: StageAt) -> RunFolder:
    return build_run(root, config=configured(root), until=benchmark_stages("always", 0)[-1], later=later)


def states(run: RunFolder) -> dict[tuple[str, str], tuple[str, ...]]:
    """(benchmark, student) → asked, state, figure."""
    tables = benchmark_states_tables(RunReader(run))
    return {(table.title.removeprefix("Benchmark "), row[0]): row[1:] for table in tables for row in table.rows}


def notes(run: RunFolder) -> dict[str, str]:
    """Benchmark → what stands under its table."""
    return {table.title.removeprefix("Benchmark "): table.note for table in benchmark_states_tables(RunReader(run))}


def test_a_benchmark_of_each_round_has_every_student_with_its_figure_or_what_is_to_do(tmp_path: Path) -> None:
    found = states(built(tmp_path))
    assert [student for _, student in found] == ["backbone", "S_0", "S_1", "S_2"]
    assert {name for name, _ in found} == {"always"}, "nobody asked the others"
    asked, state, figure = found["always", "S_0"]
    assert (asked, state) == ("each round", "done")
    assert figure.startswith("relative quality, % ")
    assert figure.endswith(", n = 20")
    assert found["always", "S_1"] == ("each round", "to do", "–")


def test_a_benchmark_that_was_asked_later_stands_beside_it_with_the_students_that_were_asked(tmp_path: Path) -> None:
    run = built(tmp_path, ITEMS, ANSWERS, REPLIES, SCORES)
    found = states(run)
    assert [student for name, student in found if name == "later"] == ["S_0"]
    asked, state, figure = found["later", "S_0"]
    assert (asked, state) == ("later", "done")
    value = run.rows(SCORES).filter(metric="win_rate", category="all")["value"][0]
    assert f"win rate, % {value:.2f} (" in figure


@pytest.mark.parametrize(
    ("done", "state"), [((ANSWERS,), "answered"), ((ANSWERS, REPLIES), "judged")], ids=["answers", "replies"]
)
def test_what_is_half_done_says_how_far_it_is(tmp_path: Path, done: tuple[StageAt, ...], state: str) -> None:
    assert states(built(tmp_path, ITEMS, *done))["later", "S_0"] == ("later", state, "–")


def test_the_first_rows_of_a_benchmark_show_that_it_has_begun(tmp_path: Path) -> None:
    run = built(tmp_path, ITEMS)
    assert ("later", "backbone") not in states(run)
    run.storage.write_bytes(f"{StageAt('benchmark_answers', BACKBONE, benchmark='later').folder}/part-0.parquet", b"")
    assert states(run)["later", "backbone"] == ("later", "begun", "–")


def test_figures_of_another_configuration_are_out_of_date_and_not_shown(tmp_path: Path) -> None:
    run = built(tmp_path, ITEMS, ANSWERS, REPLIES, SCORES)
    changed = run.config.model_dump()
    changed["evaluation"]["benchmarks"]["later"]["max_failed_share"] = 0.5
    amended = open_run(RunConfig.model_validate(changed), run.record.ingredients, amend=True)
    assert states(amended)["later", "S_0"] == ("later", "out of date", "–")
    assert "Out of date" not in notes(run)["later"]
    assert notes(amended)["later"].startswith("Out of date: made with another configuration")


def test_figures_of_two_benchmarks_stand_in_two_tables_with_judge_prompt_and_settings(tmp_path: Path) -> None:
    said = notes(built(tmp_path, ITEMS, ANSWERS, REPLIES, SCORES))
    assert list(said) == ["always", "later"]
    for prompt, note in zip(("vicuna", "alpaca_eval"), said.values(), strict=True):
        assert "Judged by standin-judge (standin-" in note
        assert f"; prompt {prompt} " in note
        assert "; judge: temperature " in note
