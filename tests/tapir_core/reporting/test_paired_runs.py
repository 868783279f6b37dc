"""Students of different runs on the same items: what is compared, what is not, and with which figures."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tapir_core.reporting.benchmarks import headline_values
from tapir_core.reporting.side_by_side import (
    SideBySide,
    last_student,
    put_side_by_side,
    render_side_by_side,
    side_by_side_card,
)
from tapir_core.run_folder import RunFolder, RunRef
from tapir_core.stages import STAGES, benchmark_stages
from tapir_core.statistics import compare_paired
from tapir_core.summary import RunReader
from tapir_core.summary.formats import number
from tests.benchmark_runs import ALPACA, MT_BENCH, VICUNA
from tests.run_builder import build_run
from tests.run_config import make_config

NOISY = {"judge": {"type": "standin", "noise": 3.0}}


def built(root: Path, name: str, *, rounds: int = 1, **benchmarks: dict[str, Any]) -> RunFolder:
    config = make_config(
        root,
        run={"name": name, "rounds": rounds},
        data={"pool": {"type": "standin", "rows": 120}, "heldout": {"type": "standin", "dev": 10, "test": 60}},
        evaluation={"benchmarks": benchmarks, "each_round": [*benchmarks], "decontamination": {"max_rouge_l": 1.0}},
    )
    return build_run("", config=config, backbone=name)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[RunFolder]:
    """Alike but for one round more, another judge of `vi`, another baseline of `against`, the orders of `order`, and
    the kind of `kind`.

    The baseline of `ae` says the same in other bytes.
    """
    root = tmp_path_factory.mktemp("runs")
    first = built(root, "one", ae=ALPACA, vi=VICUNA, against=VICUNA, order=VICUNA, kind=VICUNA, only=MT_BENCH)
    alone = VICUNA | {"orders": "baseline_first"}
    (root / "other-bytes.json").write_text(json.dumps(json.loads(Path(ALPACA["baseline"]).read_text())))
    alike = ALPACA | {"baseline": str(root / "other-bytes.json")}
    (root / "other.jsonl").write_text(Path(VICUNA["baseline"]).read_text().replace("Answer: number", "A number"))
    other = VICUNA | {"baseline": str(root / "other.jsonl")}
    changed = {"ae": alike, "vi": VICUNA | NOISY, "against": other, "order": alone, "kind": MT_BENCH}
    return [first, built(root, "two", rounds=2, **changed)]


@pytest.fixture(scope="module")
def shown(runs: list[RunFolder]) -> SideBySide:
    return put_side_by_side(runs)


def paired(shown: SideBySide) -> dict[tuple[str, str], dict[str, str]]:
    """(benchmark, figure) → the row."""
    rows = [dict(zip(shown.paired.columns, row, strict=True)) for row in shown.paired.rows]
    return {(row["Benchmark"], row["Figure"]): row for row in rows}


def test_a_benchmark_of_both_runs_has_the_difference_of_their_last_students(
    runs: list[RunFolder], shown: SideBySide
) -> None:
    row = paired(shown)["ae", "win rate, %"]
    assert (row["Student"], row["Against"]) == ("two S_2", "one S_1")
    first, second = (
        headline_values(RunReader(run), "ae", last)["win_rate"] for run, last in zip(runs, (1, 2), strict=True)
    )
    expected = compare_paired(second, first)
    value, low, high = expected.value, expected.low, expected.high
    assert value is not None
    assert row["Difference"] == f"{value:+.2f}"
    assert row["95 % interval"] == f"{low:+.2f} to {high:+.2f}"
    assert row["Standard error"] == number(expected.stderr)
    assert expected.p is not None
    assert float(row["p"]) == pytest.approx(expected.p, abs=0.02)
    assert (row["n"], row["Failed"]) == ("20", "0")


def test_the_heldout_set_is_compared_instruction_by_instruction(shown: SideBySide) -> None:
    row = paired(shown)["held-out", "test accuracy, %"]
    students = [last_student(each) for each in shown.runs]
    before, after = (each.score("test") if each is not None else None for each in students)
    assert before is not None
    assert after is not None
    assert row["Difference"] == f"{100 * (after.value - before.value):+.2f}"
    assert row["n"] == "60"
    assert 0 < float(row["p"]) <= 1


def test_figures_of_different_judges_or_settings_are_neither_paired_nor_in_one_column(shown: SideBySide) -> None:
    row = paired(shown)["vi", "–"]
    assert row["Note"] == "not compared: another judge"
    assert row["Difference"] == row["p"] == "–"
    tables = [table for table in shown.benchmarks if table.title == "vi"]
    assert [table.columns[2:3] for table in tables] == [("one S_1",), ("two S_2",)]
    assert len({table.note for table in tables}) == 2


def test_judgments_in_both_orders_and_in_one_are_not_compared(shown: SideBySide) -> None:
    assert paired(shown)["order", "–"]["Note"] == "not compared: other settings"
    one, both = (table.note for table in shown.benchmarks if table.title == "order")
    assert {", both orders" in one, ", both orders" in both} == {True, False}


def test_other_questions_or_another_baseline_are_not_compared(shown: SideBySide) -> None:
    assert paired(shown)["against", "–"]["Note"] == "not compared: other questions or another baseline"
    note = paired(shown)["kind", "–"]["Note"]
    assert note.startswith("not compared: ")
    assert "another prompt" in note
    assert "other questions or another baseline" in note
    assert [table.columns[2:] for table in shown.benchmarks if table.title == "ae"] == [("one S_1", "two S_2", "n")]


def test_a_benchmark_of_one_run_alone_is_shown_and_not_paired(shown: SideBySide) -> None:
    [table] = [table for table in shown.benchmarks if table.title == "only"]
    assert table.columns[2:3] == ("one S_1",)
    assert not [name for name, _ in paired(shown) if name == "only"]


def test_every_further_run_is_set_against_the_first(runs: list[RunFolder]) -> None:
    one, two = runs
    rows = put_side_by_side([two, one, two]).paired.rows
    assert {row[:2] for row in rows if row[2] == "ae"} == {("one S_1", "two S_2"), ("two S_2", "two S_2")}
    equal = next(row for row in rows if row[:3] == ("two S_2", "two S_2", "ae"))
    assert equal[5] == "+0.00"


def test_a_run_alone_has_no_pairs(runs: list[RunFolder]) -> None:
    alone = put_side_by_side(runs[:1])
    assert alone.paired.rows == ()
    assert "on the same items" not in render_side_by_side(alone)


def test_students_before_the_last_one_count_where_the_last_one_was_not_asked(runs: list[RunFolder]) -> None:
    run = RunFolder(runs[1].ref)
    scores = benchmark_stages("ae", 2)[-1]
    kept = run.storage.read_bytes(f"{scores.folder}/manifest.json")
    run.storage.remove(f"{scores.folder}/manifest.json")
    row = paired(put_side_by_side([runs[0], run]))["ae", "win rate, %"]
    run.storage.write_bytes(f"{scores.folder}/manifest.json", kept)
    assert row["Student"] == "two S_1"


def test_figures_that_another_version_scored_are_not_compared(
    runs: list[RunFolder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied = [RunFolder(RunRef(str(tmp_path), each.ref.name)) for each in runs]
    for each in runs:
        shutil.copytree(each.storage.root, tmp_path / each.ref.name)
    scoring = STAGES["benchmark_scores"]
    monkeypatch.setitem(STAGES, "benchmark_scores", replace(scoring, version=scoring.version + 1))
    at = benchmark_stages("ae", 2)[-1]
    assert paired(put_side_by_side(copied))["ae", "win rate, %"]
    copied[1].write(at, copied[1].rows(at))
    assert paired(put_side_by_side(copied))["ae", "–"]["Note"] == "not compared: made by another version of tapir"


def test_page_and_card_show_benchmarks_and_pairs(shown: SideBySide) -> None:
    for text in (render_side_by_side(shown), side_by_side_card(shown, "report.html")):
        assert "Students of different runs on the same items" in text
        assert "not compared: another judge" in text
        assert "win rate, %" in text
