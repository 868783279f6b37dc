"""The exam of the recorded experiments: what the stand-in says and draws is as it was when they began.

Figures from before a change are not to be set against figures from after it. Where one is meant all the same, all
experiments are run anew: say so in docs/LOG.md, and write the new digests here.
"""

import random

import pytest

from tapir_core.sources import standin_heldout, standin_pool
from tapir_core.standin import POOL_VERSION, STANDIN_VERSION
from tapir_core.standin.families import DEV_SHARES, EQUAL_SHARES, FAMILIES, NATURAL_SHARES
from tapir_core.standin.family import LEVELS
from tapir_core.text import digest

DIGITS = 12


def test_what_the_stand_in_says_is_frozen() -> None:
    assert (STANDIN_VERSION, POOL_VERSION) == ("b0b7099debf8", "f33f912ed3a8")


def test_the_shares_of_pool_dev_and_test_are_frozen() -> None:
    shares = {"pool": NATURAL_SHARES, "dev": DEV_SHARES, "test": EQUAL_SHARES}
    assert {name: digest(list(of.items()))[:DIGITS] for name, of in shares.items()} == {
        "pool": "0b9fc872ac28",
        "dev": "0eab0180ef45",
        "test": "00c726700014",
    }


@pytest.mark.parametrize(
    ("run_seed", "pool", "dev", "test"),
    [
        (11, "3cb89fad4b1a", "b24689020d64", "6000a7238825"),
        (12, "492f1d84fc84", "6bddc9a7b1c7", "fd23c46987bc"),
        (13, "1e0a2532f227", "8a7c103031a4", "f07acc8efa00"),
    ],
)
def test_pools_and_held_out_sets_are_frozen(run_seed: int, pool: str, dev: str, test: str) -> None:
    """Of sizes and levels such as experiments have."""
    heldout = standin_heldout(120, 600, 3, run_seed)
    found = {
        "pool": standin_pool(2000, 3, run_seed),
        **{split: heldout.filter(split=split) for split in ("dev", "test")},
    }
    rows = {name: of.select("instruction", "reference").rows() for name, of in found.items()}
    assert {name: digest(of)[:DIGITS] for name, of in rows.items()} == {"pool": pool, "dev": dev, "test": test}


def test_expansions_are_frozen() -> None:
    rng = random.Random(0)
    seeds = [family.draw_problem(level, rng) for family in FAMILIES.values() for level in LEVELS]
    new = [FAMILIES[seed.family].draw_like(seed, "pool", rng).instruction for seed in seeds]
    assert digest(new)[:DIGITS] == "7969722faa79"
