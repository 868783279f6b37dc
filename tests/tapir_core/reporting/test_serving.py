"""Before and after, and what a student costs to serve: every figure again from the rows and counts of a small run."""

import json
from pathlib import Path
from statistics import fmean, median

import polars as pl
import pytest

from tapir_core.calls.timing import Timing, timing_counts
from tapir_core.paths import BACKBONE
from tapir_core.reporting.page import Table
from tapir_core.reporting.report import run_card, write_report
from tapir_core.reporting.serving import before_after_table, cost_table, serving_tables
from tapir_core.run_folder import RunFolder
from tapir_core.stages import StageAt
from tapir_core.statistics import estimate_mean
from tapir_core.summary import RunReader, summarise
from tests.run_builder import build_run, make_config

LAST = 2
SORRY = "I'm sorry, but I can't help with that."


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """As an earlier version left it: no answer was timed."""
    return build_run(tmp_path_factory.mktemp("whole"))


def cells(table: Table) -> dict[str, dict[str, str]]:
    """Row → column → cell."""
    return {row[0]: dict(zip(table.columns[1:], row[1:], strict=True)) for row in table.rows}


def with_answers(run: RunFolder, change: dict[int, tuple[str | None, str, int]], number: int = LAST) -> None:
    """Give the student after a round other answers to some instructions of the test split, by their place."""
    at = StageAt("answer_heldout", number)
    test = run.rows(StageAt("heldout")).filter(split="test")["instruction_id"].sort().to_list()
    given = {test[place]: answer for place, answer in change.items()}
    rows = [
        (row[0], given[row[0]][0], given[row[0]][1], row[3], given[row[0]][2]) if row[0] in given else row
        for row in run.rows(at).rows()
    ]
    run.write(at, pl.DataFrame(rows, schema=run.rows(at).schema, orient="row"))


def timed(run: RunFolder, at: StageAt, answers: list[tuple[int, Timing]], by: str = "") -> None:
    """Let a stage have timed these answers."""
    manifest = run.manifest(at)
    assert manifest is not None
    run.seal(at, list(manifest.parts), counts={**manifest.counts, **timing_counts(answers, by)})


def test_the_figures_are_those_of_the_rows(tmp_path: Path) -> None:
    run = build_run(tmp_path)
    endings = dict.fromkeys(range(12), (SORRY, "stop", 11))
    endings |= {
        20: (None, "refused", 0),
        21: ("  ", "stop", 2),
        22: ("half of a", "length", 64),
        23: ("I", "length", 64),
    }
    with_answers(run, endings)
    found = cells(before_after_table(RunReader(run), LAST))

    test = set(run.rows(StageAt("heldout")).filter(split="test")["instruction_id"])
    rows = [row for row in run.rows(StageAt("answer_heldout", LAST)).rows() if row[0] in test]
    assert len(rows) == 80
    tokens = [row[4] for row in rows if row[1] is not None]
    assert {name: row["S_2"] for name, row in found.items()} == {
        "Answers": "80",
        "Refused": f"{100 * 13 / 80:.1f} %",
        "Empty": f"{100 / 80:.1f} %",
        "Cut off": f"{100 * 2 / 80:.1f} %",
        "Looped": "0.0 %",
        "Copied": "0.0 %",
        "Tokens, mean": f"{fmean(tokens):.1f}",
        "Tokens, median": f"{median(tokens):.1f}",
    }
    taught = run.rows(StageAt("teach")).rows()
    assert found["Refused"]["teacher"] == f"{100 * sum(row[2] == 'refused' for row in taught) / len(taught):.1f} %"
    assert found["Cut off"]["teacher"] == f"{100 * sum(row[2] == 'length' for row in taught) / len(taught):.1f} %"
    assert found["Tokens, mean"]["teacher"] == f"{fmean(row[4] for row in taught if row[1] is not None):.1f}"
    assert found["Refused"]["backbone"] == "0.0 %"
    change = estimate_mean([100.0] * 13 + [0.0] * 67)
    assert found["Refused"]["S_2 less backbone"] == f"+16.2 ({change.low:+.1f} to {change.high:+.1f}), worse"


def test_all_columns_are_over_the_judged_test_split_where_the_teacher_answered_it_too(tmp_path: Path) -> None:
    data = {"pool": {"type": "standin", "rows": 240}, "heldout": {"type": "judged"}}
    run = build_run(tmp_path, config=make_config(tmp_path, data=data))
    table = before_after_table(RunReader(run), LAST)
    test = run.rows(StageAt("judged_heldout")).filter(split="test")["instruction_id"]
    taught = run.rows(StageAt("teach")).filter(pl.col("instruction_id").is_in(test.implode()))
    found = cells(table)
    assert {found["Answers"][who] for who in ("backbone", "S_2", "teacher")} == {str(test.len())}
    assert found["Tokens, mean"]["teacher"] == f"{fmean(taught['completion_tokens']):.1f}"
    assert "the same instructions in every column: the test split of the judged held-out set" in table.note
    assert "with a usable answer of the teacher" in table.note
    assert "other instructions" not in table.note


def test_what_got_worse_beyond_its_interval_is_said_and_nothing_else(tmp_path: Path) -> None:
    run = build_run(tmp_path)
    with_answers(run, dict.fromkeys(range(12), (SORRY, "stop", 200)) | {30: ("", "stop", 1)})
    table = before_after_table(RunReader(run), LAST)
    assert table.note.startswith("S_2 got worse than the untouched backbone beyond the 95 % interval in: Refused. ")
    changes = {name: row["S_2 less backbone"] for name, row in cells(table).items()}
    assert [name for name, change in changes.items() if change.endswith("worse")] == ["Refused"]
    assert changes["Empty"] == "+1.2 (-1.2 to +3.7)", "one of 80 may be chance"
    assert changes["Tokens, mean"].startswith("+2"), "a longer answer is neither better nor worse"
    assert changes["Cut off"] == "none changed"


def test_fewer_refusals_than_the_backbone_are_no_regress(tmp_path: Path) -> None:
    run = build_run(tmp_path)
    with_answers(run, dict.fromkeys(range(40), (SORRY, "stop", 11)), BACKBONE)
    table = before_after_table(RunReader(run), LAST)
    assert table.note.startswith("S_2 got worse than the untouched backbone beyond the 95 % interval in: no row. ")
    assert cells(table)["Refused"]["S_2 less backbone"].startswith("-50.0 (")


def test_what_it_costs_is_what_the_counts_of_the_run_say(tmp_path: Path) -> None:
    run = build_run(tmp_path)
    answered = [(10 + place, Timing(0.5 + place / 10, 0.05)) for place in range(40)]
    timed(run, StageAt("answer_heldout", LAST), answered, "vLLM in bfloat16 on 2 cores")
    taught = [(30, Timing(4.0, 1.0))] * 19 + [(30, Timing(9.0, 1.0))] * 2
    timed(run, StageAt("teach"), taught)
    table = cost_table(RunReader(run), LAST)
    found = cells(table)
    seconds = sorted(timing.seconds for _, timing in answered)
    assert float(found["Seconds an answer, p50"]["S_2"]) == pytest.approx(seconds[19], rel=0.05)
    assert float(found["Seconds an answer, p95"]["S_2"]) == pytest.approx(seconds[37], rel=0.05)
    assert float(found["Output tokens/s"]["S_2"]) == pytest.approx(sum(tokens for tokens, _ in answered) / 2, abs=0.05)
    assert float(found["Calls in flight, mean"]["S_2"]) == pytest.approx(sum(seconds) / 2, abs=0.05)
    assert found["Answers timed"] == {"S_2": "40", "teacher": "21"}
    assert found["Output tokens/s"]["teacher"] == "30.0"
    assert float(found["Seconds an answer, p50"]["teacher"]) == pytest.approx(4, rel=0.05)
    assert float(found["Seconds an answer, p95"]["teacher"]) == pytest.approx(9, rel=0.05)
    usage = run.manifest(StageAt("teach")).counts  # type: ignore[union-attr]  # it is there
    price = 1000 * usage["usd"] / (usage["calls"] + usage["stored"])
    assert found["USD per 1,000 answers"] == {"S_2": "–", "teacher": f"{price:.2f}"}
    assert table.note.startswith("S_2 answered with vLLM in bfloat16 on 2 cores. ")


def test_size_and_parameters_are_those_of_the_exported_files(tmp_path: Path) -> None:
    shapes = {"embed": [64, 16], "norm": [16], "scalar": []}
    sizes = {"embed": 2048, "norm": 32, "scalar": 2}
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, shape in shapes.items():
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + sizes[name]]}
        at += sizes[name]
    said = json.dumps(header).encode()
    (tmp_path / "student").mkdir()
    weights = len(said).to_bytes(8, "little") + said + bytes(at)
    (tmp_path / "student" / "model.safetensors").write_bytes(weights)
    (tmp_path / "student" / "config.json").write_text("{}")
    run = build_run(tmp_path, student=tmp_path / "student")
    run.storage.write_bytes("round_02/checkpoint/training.json", b"{}")
    found = cells(cost_table(RunReader(run), LAST))
    assert found["Parameters"]["S_2"] == "1,041"
    assert found["Size on disk"]["S_2"] == "2.3 kB" == f"{(len(weights) + 2) / 1000:.1f} kB"


def test_a_run_of_an_earlier_version_has_a_report_without_latencies(run: RunFolder) -> None:
    table = cost_table(RunReader(run), LAST)
    assert [row[0] for row in table.rows] == ["Size on disk", "USD per 1,000 answers"]
    page = Path(write_report(run)).read_text()
    assert page.count("<h2>Before and after</h2>") == page.count("<h2>What it costs to serve</h2>") == 1
    assert "Seconds an answer" not in page


def test_the_card_has_both_tables(run: RunFolder) -> None:
    card = run_card(summarise(run), RunReader(run))
    assert "\n## Before and after\n" in card
    assert "\n## What it costs to serve\n" in card


def test_the_best_student_is_reported_and_without_one_the_last(run: RunFolder) -> None:
    assert serving_tables(RunReader(run), best=1)[0].columns[2] == "S_1"
    assert serving_tables(RunReader(run), best=None)[0].columns[2] == "S_2"


def test_a_student_that_answered_and_is_not_scored_yet_is_compared(tmp_path: Path) -> None:
    run = build_run(tmp_path, until=StageAt("answer_heldout", 1))
    assert summarise(run).students[-1].number == 0
    write_report(run)
    assert serving_tables(RunReader(run), best=None)[0].columns[1:3] == ("backbone", "S_1")


def test_a_run_without_a_heldout_set_says_what_it_knows(tmp_path: Path) -> None:
    config = make_config(tmp_path, data={"pool": {"type": "standin", "rows": 120}})
    before_after, cost = serving_tables(RunReader(build_run(tmp_path, config=config)), best=None)
    assert not before_after
    assert cost.columns == ("", "S_2", "teacher")


def test_before_the_first_training_there_is_nothing_to_say(tmp_path: Path) -> None:
    run = build_run(tmp_path, until=StageAt("mix", 0))
    assert serving_tables(RunReader(run), best=None) == []
    write_report(run)
