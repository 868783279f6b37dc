from pathlib import Path
from typing import Any

from tapir_core.estimate.run import Estimate, estimate_json, forecast, kept_estimate
from tapir_core.estimate.workload import Pool
from tapir_core.paths import ESTIMATE
from tapir_core.reporting.estimate_table import comparison_table, stage_table
from tapir_core.reporting.page import Table
from tapir_core.stages import StageAt
from tapir_core.summary import summarise
from tests.estimates import measured
from tests.run_builder import build_run, make_config


def estimate(**sections: Any) -> Estimate:
    config = make_config("runs", **sections)
    return forecast(config, Pool(240, 120), measured(config))


def cells(table: Table, stage: str) -> tuple[str, ...]:
    return next(row for row in table.rows if row[0] == stage)


def test_every_row_has_a_cell_for_every_column() -> None:
    table = stage_table(estimate())
    assert {len(row) for row in table.rows} == {len(table.columns)}


def test_a_stage_has_its_answers_and_a_span_where_something_is_open() -> None:
    table = stage_table(estimate())
    teach = dict(zip(table.columns, cells(table, "teach"), strict=True))
    assert (teach["Answers"], teach["To ask for"]) == ("240", "240")
    judge = dict(zip(table.columns, cells(table, "judge"), strict=True))
    assert "–" in judge["To ask for"]
    train = dict(zip(table.columns, cells(table, "train"), strict=True))
    assert train["Steps"] != "–"
    assert train["Hours"] == "unknown", "nobody says how large the student is"
    assert table.rows[-1][0] == "all"


def test_an_unknown_price_is_said_to_be_unknown() -> None:
    endpoint = {"type": "openai", "base_url": "https://llm.example.com/v1", "model": "m", "identity": "i"}
    table = stage_table(estimate(judge={"endpoint": endpoint}))
    place = table.columns.index("USD")
    assert cells(table, "judge")[place] == "unknown"
    assert cells(table, "all")[place] == "unknown"
    assert cells(table, "answer")[place] == "0.00"


def test_a_finished_run_stands_beside_what_was_expected(tmp_path: Path) -> None:
    table = comparison_table(estimate(), summarise(build_run(tmp_path)))
    assert {len(row) for row in table.rows} == {len(table.columns)}
    label = cells(table, "label")
    assert label[2] == "240", "calls and answers from the store together"
    assert cells(table, "judge")[2] not in ("–", "0")
    assert cells(table, "train")[-1] != "–"


def test_a_run_that_has_only_begun_has_gaps(tmp_path: Path) -> None:
    table = comparison_table(estimate(), summarise(build_run(tmp_path, until=StageAt("teach"))))
    assert cells(table, "teach")[2] == "240"
    assert cells(table, "judge")[2] == "–"


def test_a_run_is_compared_with_the_estimate_that_its_folder_keeps(tmp_path: Path) -> None:
    run = build_run(tmp_path, until=StageAt("teach"))
    summary = summarise(run)
    assert not comparison_table(kept_estimate(run), summary)
    run.storage.write_bytes(ESTIMATE, estimate_json(estimate()).encode())
    assert comparison_table(kept_estimate(run), summary) == comparison_table(estimate(), summary)


def test_large_figures_are_short() -> None:
    config = make_config("runs")
    rows = {
        9_999: "9,999",
        52_520: "52.5k",
        404_838: "405k",
        1_372_800: "1.37M",
    }
    for count, shown in rows.items():
        table = stage_table(forecast(config, Pool(count), measured(config)))
        assert cells(table, "teach")[table.columns.index("Answers")] == shown
