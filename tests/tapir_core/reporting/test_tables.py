from pathlib import Path

import pytest

from tapir_core.paths import BACKBONE
from tapir_core.reporting.page import Table
from tapir_core.reporting.tables import (
    accuracy_table,
    left_out_table,
    mfd_table,
    rounds_table,
    scores_table,
    seconds_table,
    shares_table,
    spend_table,
    stages_table,
    students_table,
)
from tapir_core.stages import StageAt, plan
from tapir_core.summary import summarise
from tapir_core.summary.types import RunSummary
from tests.run_builder import build_run, make_config

OF_A_RUN = [rounds_table, accuracy_table, left_out_table, seconds_table, spend_table]
OF_A_ROUND = [stages_table, mfd_table, shares_table, scores_table]


@pytest.fixture(scope="module")
def summary(tmp_path_factory: pytest.TempPathFactory) -> RunSummary:
    return summarise(build_run(tmp_path_factory.mktemp("whole")))


def column(table: Table, name: str) -> dict[str, str]:
    place = table.columns.index(name)
    return {row[0].strip(): row[place] for row in table.rows}


def figure(cell: str) -> int:
    return int(cell.replace(",", ""))


def test_every_row_has_a_cell_for_every_column(summary: RunSummary) -> None:
    tables = [make(summary) for make in OF_A_RUN] + [make(each) for make in OF_A_ROUND for each in summary.rounds]
    for table in tables:
        assert {len(row) for row in table.rows} <= {len(table.columns)}, table.title


def test_tables_of_a_run_that_stands_anywhere_can_be_made(tmp_path: Path) -> None:
    for number, at in enumerate(list(plan(make_config(tmp_path)))[::3]):
        config = make_config(tmp_path, run={"name": f"until-{number}"}, data=_SMALL)
        found = summarise(build_run(tmp_path, until=at, config=config))
        for make in OF_A_RUN:
            make(found)
        for each in found.rounds:
            for make_round in OF_A_ROUND:
                make_round(each)


_SMALL = {"pool": {"type": "standin", "rows": 60}, "heldout": {"type": "standin", "dev": 20, "test": 20}}


def test_the_table_of_rounds_shows_only_what_some_round_has(tmp_path: Path) -> None:
    table = rounds_table(summarise(build_run(tmp_path, until=StageAt("evaluate", BACKBONE))))
    assert table.columns == ("", "backbone")
    assert [row[0] for row in table.rows] == [
        *("Accuracy, test, %", "  95 % interval", "  n / failed"),
        *("Accuracy, dev, %", "  95 % interval", "  n / failed"),
        "Time",
    ]


def test_the_parts_of_a_mixture_stand_under_it(summary: RunSummary) -> None:
    cells = column(rounds_table(summary), "round 2")
    assert sum(figure(cells[part]) for part in ("seeds", "expansion", "easy")) == figure(cells["Mixture"])
    assert cells["from the pool"] == "–"


def test_a_round_that_its_easy_rows_make_smaller_says_so_with_both_numbers_and_keeps_its_alpha(tmp_path: Path) -> None:
    rounds = {"default": {"examples": 1000, "alpha": 0.4, "selection": {"type": "hard_share", "share": 0.3}}}
    found = summarise(build_run(tmp_path, until=StageAt("mix", 1), config=make_config(tmp_path, rounds=rounds)))
    mixture = found.rounds[-1].mixture
    assert mixture is not None
    assert mixture.reduced_to is not None
    assert mixture.reduced_to < mixture.asked == 1000
    assert mixture.origins["easy"] == pytest.approx(0.6 * mixture.reduced_to, abs=1)
    table = rounds_table(found)
    assert f"Round 1 takes {mixture.reduced_to} examples and not the 1,000 that were asked for" in table.note
    assert "α = 0.40" in table.note
    cells = column(table, "round 1")
    assert (figure(cells["asked for (N)"]), figure(cells["Mixture"])) == (1000, mixture.rows)
    assert cells["α, asked for / got"].startswith("40.0 % / ")


def test_a_round_with_enough_easy_rows_says_nothing_of_its_size(summary: RunSummary) -> None:
    assert "asked for:" not in rounds_table(summary).note


def test_accuracy_by_task_type_compares_backbone_s0_and_the_last_student(summary: RunSummary) -> None:
    table = accuracy_table(summary)
    assert table.columns == ("Task type", "backbone", "S_0", "S_2", "n")
    assert table.rows[0][0] == "all"
    counts = column(table, "n")
    assert sum(figure(n) for name, n in counts.items() if name != "all") == figure(counts["all"]) == 80


def test_the_histogram_counts_every_scored_instruction(summary: RunSummary) -> None:
    second = summary.round(2)
    assert second is not None
    table = mfd_table(second)
    assert sum(figure(row[1]) for row in table.rows) == second.scored
    assert max(len(row[2]) for row in table.rows) == 30


def test_time_of_the_stages_is_summed_at_the_bottom(summary: RunSummary) -> None:
    table = seconds_table(summary)
    assert table.columns == ("", "once", "backbone", "S_0", "round 1", "round 2")
    assert table.rows[-1][0] == "sum of stages"
    assert column(table, "S_0")["answer"] == "–"


def test_spend_by_stage_sums_to_all(summary: RunSummary) -> None:
    calls = column(spend_table(summary), "Calls")
    assert sum(figure(cell) for name, cell in calls.items() if name != "all") == figure(calls["all"])


def test_everything_left_out_has_a_place_and_a_reason(summary: RunSummary) -> None:
    found = {row[:3] for row in left_out_table(summary).rows}
    assert ("pool", "unusable teacher answer", "refused") in found
    assert ("round 1", "expansion rejected", "gate task type") in found
    assert ("round 2", "refined answer rejected", "lost result") in found
    assert ("round 2", "unscored", "no verdict in the reply") in found


def test_shares_leave_out_task_types_that_nobody_has_or_wants(summary: RunSummary) -> None:
    second = summary.round(2)
    assert second is not None
    names = [row[0] for row in shares_table(second).rows]
    assert "Math" in names
    assert "Law" not in names


def test_students_stand_below_each_other_by_split_and_one_alone_by_task_type(summary: RunSummary) -> None:
    several = students_table(summary, [BACKBONE, 0, 2])
    names = [(student, split) for student in ("backbone", "S_0", "S_2") for split in ("dev", "test")]
    assert [row[:2] for row in several.rows] == names
    assert several.columns[2:] == ("Accuracy, %", "95 % interval", "n", "Failed")
    assert {row[4:] for row in several.rows} == {("40", "0"), ("80", "0")}
    for _, _, value, interval, *_ in several.rows:
        low, high = map(float, interval.split(" to "))
        assert 0 <= low <= float(value) <= high <= 100
    assert "Judged by exact match of the final result; student: temperature " in several.note
    found = summary.round(2)
    assert found is not None
    assert students_table(summary, [2]) == scores_table(found)
    assert students_table(summary, [7]).rows == ()
