"""Rounds that are to prefer the teacher's answers: what they train on, and what they do not ask for."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flows.distill import distill
from tapir_core.errors import ConfigError
from tapir_core.judging import combine_judges
from tapir_core.run_folder import RunFolder
from tapir_core.stages import StageAt
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
    return build_run(root, until=StageAt("select", 1), config=config)


def test_its_examples_are_pairs_of_what_was_answered_and_judged_already(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    distill(run.ref, until="mix")
    mixture, seeds = run.rows(StageAt("mix", 1)), run.rows(StageAt("select", 1))
    assert 0 < mixture.height < seeds.height
    assert mixture["origin"].unique().to_list() == ["seed"]
    own = dict(run.rows(StageAt("answer", 1)).select("instruction_id", "response").iter_rows())
    taught = dict(run.rows(StageAt("teach")).select("instruction_id", "response").iter_rows())
    for row in mixture.iter_rows(named=True):
        assert row["rejected"] == own[row["instruction_id"]]
        assert row["messages"][-1]["content"] == taught[row["instruction_id"]]
    verdicts = combine_judges(run.rows(StageAt("judge", 1)), run.config.judge.panel_rule)
    lead = verdicts["teacher_score"] - verdicts["student_score"]
    behind = verdicts.filter(lead < 1.0)["instruction_id"]
    assert not {*behind} & {*mixture["instruction_id"]}
    assert run.rows(StageAt("expand", 1)).height == run.rows(StageAt("refine", 1)).height == 0
    counts = run.sealed(StageAt("mix", 1)).counts
    left_out = sum(count for name, count in counts.items() if name.startswith("no pair: "))
    assert left_out + mixture.height <= seeds.height
    assert left_out > 0


def test_a_margin_that_nothing_reaches_ends_the_round_before_it_trains(tmp_path: Path) -> None:
    run = make_run(tmp_path, margin=99.0)
    with pytest.raises(ConfigError, match=r"round 1 has nothing to prefer: 0 of \d+ seeds make a pair; .*not ahead"):
        distill(run.ref, until="mix")
    assert run.manifest(StageAt("mix", 1)) is None
