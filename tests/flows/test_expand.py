"""The waves of a round's expansion, with the stand-in as the teacher: what holds an evaluation question is listed."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.distill import distill
from tapir_core.run_folder import RunFolder
from tapir_core.stages import StageAt
from tasks.runtime import close_all
from tests.run_builder import build_run
from tests.run_config import make_config

pytestmark = pytest.mark.usefixtures("prefect_server")

EXPAND, LISTED = StageAt("expand", 1), StageAt("contaminated", 1)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[RunFolder]:
    """A run whose first seeds are chosen; the benchmark asks what its teacher will write, as another run has shown."""
    before = build_run(tmp_path, config=make_config(tmp_path, run={"name": "before"}), until=StageAt("select", 1))
    distill(before.ref, until="expand")
    asked = [{"instruction": text} for text in before.rows(EXPAND)["instruction"]]
    (tmp_path / "mine.json").write_text(json.dumps(asked))
    benchmarks = {"mine": {"questions": str(tmp_path / "mine.json")}}
    config = make_config(tmp_path, run={"name": "asked"}, evaluation={"benchmarks": benchmarks})
    yield build_run(tmp_path, config=config, until=StageAt("select", 1))
    close_all()


def test_the_flow_lists_what_it_kept_out_and_a_second_drive_redoes_nothing(run: RunFolder) -> None:
    distill(run.ref, until="expand")
    assert run.holds(EXPAND)
    listed = run.rows(LISTED)
    assert listed.height > 0
    assert not set(listed["instruction_id"]) & set(run.rows(EXPAND)["instruction_id"])
    rejected = run.rows(StageAt("expansion_rejected", 1)).filter(gate="contaminated")
    assert set(listed["instruction_id"]) == set(rejected["instruction_id"])
    assert run.manifest(LISTED).counts["hits: mine"] == listed.filter(benchmark="mine").height
    made = run.manifest(LISTED).created, run.manifest(EXPAND).created
    distill(run.ref, until="expand")
    assert (run.manifest(LISTED).created, run.manifest(EXPAND).created) == made


def test_after_a_wave_that_kept_nothing_no_more_is_paid_for(tmp_path: Path) -> None:
    curriculum = make_config(tmp_path).curriculum.model_dump() | {"expansion": {"max_waves": 3, "max_rouge_l": 0.01}}
    config = make_config(tmp_path, run={"name": "alike"}, curriculum=curriculum)
    run = build_run(tmp_path, config=config, until=StageAt("select", 1))
    distill(run.ref, until="expand")
    close_all()
    assert run.rows(EXPAND).is_empty()
    assert run.manifest(EXPAND).counts["waves"] == 1
    assert run.rows(StageAt("wave_requests", 1, 2)).is_empty()
