"""Rounds that are to prefer the teacher's answers: what they train on, and what they do not ask for."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from flows.distill import distill
from tapir_core.curriculum import trusted
from tapir_core.judging import combine_judges
from tapir_core.run_folder import RunFolder
from tapir_core.stages import StageAt
from tapir_core.summary import summarise
from tasks.runtime import close_all
from tests.run_builder import build_run
from tests.run_config import make_config

pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    close_all()


def make_run(root: Path, **objective: Any) -> RunFolder:
    rounds = {
        "default": {
            "examples": 200,
            "selection": {"type": "hard_share", "share": 0.9},
            "objective": {"type": "prefer", **objective},
        }
    }
    config = make_config(root, rounds=rounds, curriculum={"target_shares": "natural", "refine": True})
    return build_run(root, until=StageAt("difficulty", 1), config=config)


def test_its_examples_are_pairs_of_what_was_answered_and_judged_already(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    distill(run.ref, until="mix")
    mixture, seeds = run.rows(StageAt("mix", 1)), run.rows(StageAt("select", 1))
    assert 0 < mixture.height <= seeds.height
    assert mixture["origin"].unique().to_list() == ["seed"]
    own = dict(run.rows(StageAt("answer", 1)).select("instruction_id", "response").iter_rows())
    taught = dict(run.rows(StageAt("teach")).select("instruction_id", "response").iter_rows())
    for row in mixture.iter_rows(named=True):
        assert row["rejected"] == own[row["instruction_id"]]
        assert row["messages"][-1]["content"] == taught[row["instruction_id"]]
    verdicts = combine_judges(run.rows(StageAt("judge", 1)), run.config.judge.panel_rule)
    lead = verdicts["teacher_score"] - verdicts["student_score"]
    behind = {*verdicts.filter(lead < 1.0)["instruction_id"]}
    assert behind
    assert not behind & {*seeds["instruction_id"]}
    assert run.rows(StageAt("expand", 1)).height == run.rows(StageAt("refine", 1)).height == 0
    counts = {
        name: rows for name, rows in run.sealed(StageAt("select", 1)).counts.items() if name.startswith("no pair")
    }
    scored = run.rows(StageAt("difficulty", 1)).filter(pl.col("mfd") > 0)
    chosen = min(scored.height, math.ceil(0.9 * trusted_of(run).height))
    assert seeds.height + sum(counts.values()) == chosen
    assert counts["no pair: not_ahead"] > 0
    assert summarise(run).rounds[-1].unfit["no pair: not_ahead"] == counts["no pair: not_ahead"]


def trusted_of(run: RunFolder) -> pl.DataFrame:
    return trusted(run.rows(StageAt("difficulty", 1)), run.config.curriculum.teacher_floor)


def test_a_margin_that_nothing_reaches_ends_the_run_in_good_order(tmp_path: Path) -> None:
    run = make_run(tmp_path, margin=99.0)
    done = distill(run.ref)
    [found] = done["rounds"]  # type: ignore[misc]
    assert found["stopped"] == "round 1 has 0 seeds, fewer than min_seeds = 1"
    assert run.manifest(StageAt("mix", 1)) is None


def test_another_verdict_makes_other_pairs(tmp_path: Path) -> None:
    """The judge is asked again, and the key of what was chosen does not hold any more."""
    run = make_run(tmp_path)
    distill(run.ref, until="mix")
    at = StageAt("judge", 1)
    rows = run.rows(at).with_columns(student_score=pl.col("teacher_score"))
    run.write(at, rows)
    assert run.holds(StageAt("select", 1)) is None
    assert run.holds(StageAt("mix", 1)) is None
