"""Tables that shards share are read once a process, and anew when a stage was completed."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import polars as pl
import pytest

from tapir_core.reporting.tables import left_out_table
from tapir_core.run_folder import RunFolder
from tapir_core.stages import StageAt
from tapir_core.summary import summarise
from tasks.engines.logs import told_to
from tasks.mixture import draw, mix, round_size, select, used_before
from tasks.pool import round_pool
from tasks.runtime import close_all, read_once
from tests.run_builder import build_run
from tests.run_config import make_config

TEACH = StageAt("teach")


@pytest.fixture
def run(tmp_path: Path) -> Iterator[RunFolder]:
    yield build_run(tmp_path, until=TEACH)
    close_all()


def test_threads_that_begin_together_share_one_table(run: RunFolder) -> None:
    made: list[int] = []
    together = Barrier(8)

    @read_once
    def table(run: RunFolder, number: int) -> pl.DataFrame:
        made.append(number)
        return round_pool(run, number).select("instruction_id")

    def look(_: int) -> pl.DataFrame:
        together.wait()
        return table(RunFolder(run.ref), 1)

    with ThreadPoolExecutor(8) as threads:
        first, *others = threads.map(look, range(8))
    assert all(other is first for other in others)
    assert made == [1]


def test_a_stage_that_was_completed_makes_tables_be_read_anew(run: RunFolder) -> None:
    before = round_pool(run, 0)
    assert round_pool(run, 0) is before
    run.write(TEACH, run.rows(TEACH).with_columns(response=pl.lit("Another answer.")))
    assert mix.fn(run.ref, StageAt("mix", 0)).rows
    assert set(round_pool(run, 0)["response"]) == {"Another answer."}
    assert set(before["response"]) != {"Another answer."}


def test_what_is_neither_seed_nor_easy_is_counted_by_reason_and_shown(tmp_path: Path) -> None:
    run, at = build_run(tmp_path, until=StageAt("difficulty", 1)), StageAt("select", 1)
    rows = run.rows(StageAt("difficulty", 1)).with_row_index("row")
    low, better = pl.col("row") < 20, (pl.col("row") >= 20) & (pl.col("row") < 50)
    scores = pl.when(low).then(4.5).otherwise(9.0)
    gaps = pl.when(better).then(-1.0).otherwise(pl.col("row") % 7)
    run.write(StageAt("difficulty", 1), rows.with_columns(teacher_score=scores, mfd=gaps.cast(pl.Float64)))
    select.fn(run.ref, at)
    counts, seeds = run.sealed(at).counts, run.rows(at)
    assert (counts["teacher_below_floor"], counts["student_better"]) == (20, 30)
    assert counts["easy"] == rows.height - 50 - seeds.height
    left_out = left_out_table(summarise(run)).rows
    assert ("round 1", "neither seed nor easy", "teacher below floor", "20") in left_out
    assert ("round 1", "neither seed nor easy", "student better", "30") in left_out


def test_a_round_is_drawn_as_large_as_its_easy_rows_allow_and_the_run_is_told(tmp_path: Path) -> None:
    rounds = {"default": {"examples": 1000, "alpha": 0.4, "selection": {"type": "hard_share", "share": 0.3}}}
    run = build_run(tmp_path, until=StageAt("expand", 1), config=make_config(tmp_path, rounds=rounds))
    told: list[str] = []
    with told_to(lambda _, text: told.append(text)):
        draw.fn(run.ref, StageAt("draw", 1))
    drawn, size = run.rows(StageAt("draw", 1)), round_size(run, StageAt("draw", 1))
    assert drawn.filter(origin="easy").height == size.easy
    assert abs(size.hard - 0.4 * size.examples) <= 1
    assert run.sealed(StageAt("draw", 1)).counts["reduced_to"] == size.examples < 1000
    assert [f"takes {size.examples} examples and not the 1,000" in each for each in told] == [True]


def test_what_a_round_draws_last_is_what_the_rounds_before_it_held_and_not_what_s0_did(tmp_path: Path) -> None:
    run = build_run(tmp_path, until=StageAt("mix", 2))
    of_s0, of_first = (set(run.rows(StageAt("mix", number))["instruction_id"]) for number in (0, 1))
    assert of_s0 - of_first
    assert used_before(run, 2) == of_first
    assert used_before(run, 1) == used_before(run, 0) == frozenset()
