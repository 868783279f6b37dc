from pathlib import Path

import pytest

from tapir_core.reporting.judge_report import judge_tables, summarise_judge
from tapir_core.stages import StageAt
from tests.run_builder import build_run
from tests.tapir_core.reporting.judged_rounds import EDGES, judged_run


def test_a_round_has_its_measures_winners_and_unscored(tmp_path: Path) -> None:
    run = build_run(tmp_path, until=StageAt("judge", 1))
    found = summarise_judge(run, 1)
    tables = judge_tables(found)
    measures = {row[0]: row[1:] for row in tables["judge"].rows}
    assert list(measures)[:2] == ["Order gap, points", "Same winner in both orders"]
    assert measures["Order gap, points"][3] == str(found.whole.pairs.height)
    assert measures["Unscored verdicts"][0].endswith(" %")
    cells = [int(cell) for row in tables["judge-winners"].rows for cell in row[1:]]
    assert sum(cells) == found.whole.pairs.height
    assert [row[0] for row in tables["judge-unscored"].rows] == ["no verdict in the reply"]
    assert tables["judge-panel"].rows == tables["judge-single"].rows == ()


def test_a_panel_has_a_row_for_every_two_judges_and_every_measure_of_each(tmp_path: Path) -> None:
    panel = [{"type": "openai", "model": name, "identity": "i"} for name in ("one", "two")]
    tables = judge_tables(summarise_judge(judged_run(tmp_path, lambda rows: rows, panel=panel), 1))
    names = [("one", "standin-judge"), ("one", "two"), ("standin-judge", "two")]
    assert [row[:2] for row in tables["judge-panel"].rows] == names
    measures = [row[0] for row in tables["judge"].rows]
    alone = [(judge, name) for judge in ("standin-judge", "one", "two") for name in measures]
    assert [row[:2] for row in tables["judge-single"].rows] == alone


@pytest.mark.parametrize("edge", EDGES)
def test_every_row_has_a_cell_for_every_column_and_no_cell_is_nan(tmp_path: Path, edge: str) -> None:
    tables = judge_tables(summarise_judge(judged_run(tmp_path, EDGES[edge]), 1))
    for name, table in tables.items():
        assert {len(row) for row in table.rows} <= {len(table.columns)}, name
        cells = [cell for row in table.rows for cell in row[1:]]
        assert [cell for cell in cells if cell.lower() in ("nan", "inf", "none", "nan %", "-0.00")] == []


def test_what_is_not_defined_says_why_in_its_cell(tmp_path: Path) -> None:
    rows = judge_tables(summarise_judge(judged_run(tmp_path, EDGES["all ties"]), 1))["judge"].rows
    cells = {row[0]: row[1] for row in rows}
    assert cells["Winner in both orders, Cohen's κ"] == "not defined: every row has the same class"
    assert cells["MFD and length difference, Spearman's ρ"] == "not defined: one of the two never changes"
