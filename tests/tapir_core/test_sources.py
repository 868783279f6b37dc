import hashlib
import json
from collections import Counter
from pathlib import Path

import polars as pl
import pytest

from tapir_core.config import DataConfig, FilePool, JudgedHeldout, StandinPool
from tapir_core.sources import clean_pool, natural_weights, standin_heldout, standin_pool
from tapir_core.standin.families import DEV_SHARES, FAMILIES, NATURAL_SHARES, NOT_IN_DEV, recognise
from tapir_core.text import instruction_id
from tests.run_config import make_config


def test_the_pool_has_the_run_folders_columns_and_one_row_an_instruction() -> None:
    pool = standin_pool(300, max_level=3, seed=1)
    assert pool.columns == ["instruction_id", "instruction", "system", "source", "reference"]
    assert pool.height == pool["instruction_id"].n_unique() == 300
    assert pool["system"].null_count() == 300
    for row in pool.iter_rows(named=True):
        problem = recognise(row["instruction"])
        assert problem is not None
        assert row["instruction_id"] == instruction_id(row["instruction"])
        assert (row["source"], row["reference"]) == (f"standin:{problem.family}", problem.reference)


def test_the_held_out_set_has_equal_shares_of_the_families_in_each_split() -> None:
    heldout = standin_heldout(48, 100, max_level=3, seed=1)
    assert heldout.columns == ["instruction_id", "instruction", "system", "task_type", "reference", "split"]
    for split, rows, wanted in (("dev", 48, DEV_SHARES), ("test", 100, FAMILIES)):
        part = heldout.filter(heldout["split"] == split)
        families = [problem.family for problem in map(recognise, part["instruction"]) if problem]
        assert len(families) == rows
        assert Counter(families) == dict.fromkeys(wanted, rows // len(wanted))


@pytest.mark.parametrize(
    "heldout", [{"type": "judged", "references": "heldout.json"}, {"path": "heldout.json"}], ids=str
)
def test_columns_of_pool_and_held_out_set_that_are_not_read_are_a_warning(
    tmp_path: Path, heldout: dict[str, str]
) -> None:
    for name in ("pool", "heldout"):
        rows = [{"instruction": f"Who, in the {name}?", "context": "Ada wrote it.", "reference": "Ada"}] * 2
        (tmp_path / f"{name}.json").write_text(json.dumps(rows))
    there = {name: str(tmp_path / file) if file.endswith(".json") else file for name, file in heldout.items()}
    pool = {"type": "file", "path": str(tmp_path / "pool.json")}
    config = make_config(tmp_path, data={"pool": pool, "heldout": {"type": "file"} | there})
    lost = clean_pool(config).lost
    assert [f"{name}.json': columns that change what a row asks" in lost for name in ("pool", "heldout")] == [True] * 2


def test_dev_never_sees_four_task_types_and_a_phrasing_of_each_family_and_test_and_pool_do() -> None:
    heldout = standin_heldout(2000, 2000, max_level=3, seed=1)
    dev, test = (heldout.filter(split=split) for split in ("dev", "test"))
    task_types = {family.task_type for family in FAMILIES.values()}
    assert len(NOT_IN_DEV) == 4
    assert set(dev["task_type"]) == task_types - set(NOT_IN_DEV)
    assert set(test["task_type"]) == task_types
    of_dev, of_test, of_pool = (
        {problem.phrasing for problem in map(recognise, rows["instruction"]) if problem}
        for rows in (dev, test, standin_pool(2000, max_level=3, seed=1))
    )
    for name, family in FAMILIES.items():
        seen = {phrasing for phrasing in family.phrasings if phrasing in of_dev}
        assert seen == (set(family.phrasings) - {family.phrasings[-1]} if name in DEV_SHARES else set())
        assert set(family.phrasings) <= of_test & of_pool


def test_pool_dev_and_test_are_disjoint_whatever_their_seeds() -> None:
    pool = {text for seed in range(5) for text in standin_pool(400, max_level=1, seed=seed)["instruction"]}
    parts = [standin_heldout(100, 100, max_level=1, seed=seed) for seed in range(5)]
    dev, test = (
        {text for part in parts for text in part.filter(part["split"] == split)["instruction"]}
        for split in ("dev", "test")
    )
    assert not pool & dev
    assert not pool & test
    assert not dev & test


def test_a_seed_gives_the_same_tables_again() -> None:
    assert standin_pool(50, 3, seed=4).equals(standin_pool(50, 3, seed=4))
    assert standin_heldout(20, 20, 3, seed=4).equals(standin_heldout(20, 20, 3, seed=4))
    assert not standin_pool(50, 3, seed=4).equals(standin_pool(50, 3, seed=5))


def test_a_split_of_no_rows_is_empty() -> None:
    heldout = standin_heldout(0, 20, 3, seed=1)
    assert heldout["split"].unique().to_list() == ["test"]


def test_at_natural_weights_each_family_has_its_share_of_the_pool_in_each_split() -> None:
    heldout = standin_heldout(50, 90, 3, seed=1)
    data = DataConfig.model_validate({"pool": {"type": "standin"}, "heldout": {"type": "standin"}})
    weights = natural_weights(data, heldout)
    for split, families in (("dev", DEV_SHARES), ("test", FAMILIES)):
        sums = dict.fromkeys(families, 0.0)
        for row in heldout.filter(split=split).iter_rows(named=True):
            problem = recognise(row["instruction"])
            assert problem is not None
            sums[problem.family] += weights[row["instruction_id"]]
        assert sums == pytest.approx({name: NATURAL_SHARES[name] for name in families})


def test_a_pool_is_known_by_what_its_file_holds_and_a_generated_one_by_its_fields_alone(tmp_path: Path) -> None:
    (tmp_path / "pool.jsonl").write_text('{"instruction": "A?"}')
    own, made = FilePool(path=str(tmp_path / "pool.jsonl")), StandinPool()
    assert (own.generated, own.digest()) == (False, hashlib.sha256(b'{"instruction": "A?"}').hexdigest())
    assert (made.generated, made.digest()) == (True, "")
    assert JudgedHeldout().digest() == ""
    assert JudgedHeldout(references=own.path).digest() == own.digest()


def test_a_set_of_ones_own_has_no_natural_weights() -> None:
    data = DataConfig.model_validate({"pool": {"type": "standin"}, "heldout": {"type": "file", "path": "own.jsonl"}})
    assert natural_weights(data, pl.DataFrame({"instruction_id": ["a"], "instruction": ["b"], "split": ["test"]})) == {}
