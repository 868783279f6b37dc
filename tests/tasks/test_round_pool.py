"""Tables that shards share are read once a process, and anew when a stage was completed."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import polars as pl
import pytest

from tapir_core.run_folder import RunFolder
from tapir_core.stages import StageAt
from tasks.engines.logs import told_to
from tasks.mixture import draw, mix, round_size, used_before
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
