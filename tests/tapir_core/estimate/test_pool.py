import json
from pathlib import Path

import pytest

from tapir_core.curriculum import shares_of
from tapir_core.estimate.pool import look_at_pool, read_instructions
from tapir_core.prompts import load_prompt
from tapir_core.run_folder import RunFolder
from tapir_core.stages import StageAt
from tests.run_builder import build_run
from tests.run_config import make_config


def no_store(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'store.sqlite'}"


def test_the_pool_is_the_one_that_the_run_will_have(tmp_path: Path) -> None:
    run: RunFolder = build_run(tmp_path, until=StageAt("label"))
    found = read_instructions(run.config)
    assert {each.text for each in found.pool} == set(run.rows(StageAt("pool"))["instruction"])
    assert found.heldout_rows == run.rows(StageAt("heldout")).height
    pool = look_at_pool(run.config, found, load_prompt("label"), no_store(tmp_path))
    assert pool.natural_shares == pytest.approx(shares_of(run.rows(StageAt("label"))))
    assert (pool.rows, pool.usable_share, pool.stored_labels) == (240, 1.0, 0)


def test_what_overlaps_the_held_out_set_does_not_count(tmp_path: Path) -> None:
    rows = [{"instruction": f"Tell me of river {number}."} for number in range(10)]
    heldout = [{"instruction": "Tell me of river 3.", "reference": "long", "split": "test"}]
    for name, content in (("pool", rows), ("heldout", heldout)):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    files = {name: {"type": "file", "path": str(tmp_path / f"{name}.json")} for name in ("pool", "heldout")}
    found = read_instructions(make_config(tmp_path, data=files))
    assert (len(found.pool), found.heldout_rows) == (9, 1)


def test_task_types_of_a_strange_pool_are_not_known(tmp_path: Path) -> None:
    endpoint = {"type": "openai", "model": "m", "identity": "i"}
    config = make_config(tmp_path, teacher={"endpoint": endpoint})
    pool = look_at_pool(config, read_instructions(config), load_prompt("label"), no_store(tmp_path))
    assert pool.natural_shares is None
    assert pool.usable_share is None
