"""The stand-in's pool and held-out set as tables of the run folder's columns. The server needs none of this."""

import polars as pl

from tapir_core.randomness import derive_rng
from tapir_core.standin.families import EQUAL_SHARES, sample_problems
from tapir_core.standin.family import Stream
from tapir_core.text import instruction_id

_POOL = dict.fromkeys(("instruction_id", "instruction", "system", "source", "reference"), pl.String)
_HELDOUT = dict.fromkeys(("instruction_id", "instruction", "system", "task_type", "reference", "split"), pl.String)


def standin_pool(rows: int, max_level: int, seed: int) -> pl.DataFrame:
    """The pool D, one row per instruction, with natural shares. ``source`` is ``standin:FAMILY``.

    Raises:
        ConfigError: there are not that many distinct instructions.
    """
    problems = sample_problems(rows, max_level=max_level, rng=derive_rng(seed, "standin", "pool"))
    records = [
        (instruction_id(each.instruction), each.instruction, None, f"standin:{each.family}", each.reference)
        for each in problems
    ]
    return pl.DataFrame(records, schema=_POOL, orient="row")


def standin_heldout(dev: int, test: int, max_level: int, seed: int) -> pl.DataFrame:
    """The held-out set, one row per instruction, with equal shares of the families in each split.

    Raises:
        ConfigError: there are not that many distinct instructions.
    """
    rows: dict[Stream, int] = {"dev": dev, "test": test}
    records = [
        (instruction_id(each.instruction), each.instruction, None, each.task_type, each.reference, split)
        for split, count in rows.items()
        for each in sample_problems(
            count, max_level=max_level, rng=derive_rng(seed, "standin", split), shares=EQUAL_SHARES, stream=split
        )
    ]
    return pl.DataFrame(records, schema=_HELDOUT, orient="row")
