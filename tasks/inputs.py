"""Tables that several stages or shards read: the pool of a round, and how a table is read once for all shards."""

from collections.abc import Callable, Hashable, Mapping
from functools import wraps
from typing import TypeVar

import polars as pl

from tapir_core.curriculum import Usable, shares_of, split_usable, target_shares
from tapir_core.data.dataset import DatasetRef
from tapir_core.errors import ConfigError
from tapir_core.run_folder import RunFolder
from tapir_core.stages import StageAt
from tasks.runtime import current

Place = TypeVar("Place", bound=Hashable)


def read_once(make: Callable[[RunFolder, Place], pl.DataFrame]) -> Callable[[RunFolder, Place], pl.DataFrame]:
    """A table that the shards of a stage have in common: made once a process, until a stage is completed."""

    @wraps(make)
    def table(run: RunFolder, place: Place) -> pl.DataFrame:
        return current(run).table((make, place), lambda: make(run, place))

    return table


def check_pool(run: RunFolder) -> None:
    """Refuse a pool that nothing can be learnt from or balanced in.

    Raises:
        ConfigError: no instruction has a task type and a usable teacher answer, or all have one task type and others
            are wanted.
    """
    usable = _usable(run)
    if not usable.examples.height:
        reasons = ", ".join(f"{count} {reason}" for reason, count in usable.dropped.items())
        raise ConfigError(
            f"data.pool: no instruction has a usable teacher answer and a task type ({reasons}); look at the answers "
            f"in {StageAt('teach').folder}/, and give a pool or a teacher that fit each other"
        )
    found = usable.examples["task_type"].unique().to_list()
    wanted = {name for name, share in mixture_shares(run).items() if share > 0}
    if len(found) == 1 and wanted != set(found) and run.config.curriculum.target_shares != "natural":
        raise ConfigError(
            f"data.pool: every usable instruction has the task type {found[0]!r}, so there is nothing to balance; give "
            f'a broader pool, or say that you want this one only: curriculum.target_shares = {{ "{found[0]}" = 1.0 }}'
        )


def mixture_shares(run: RunFolder) -> Mapping[str, float]:
    """Pr(task type) of every mixture of the run; the labels are there."""
    return target_shares(run.config.curriculum.target_shares, shares_of(run.rows(StageAt("label"))))


@read_once
def round_pool(run: RunFolder, number: int) -> pl.DataFrame:
    """The pool of round ``number`` with the teacher's plain answers: usable instructions, sorted by id.

    Grain: one row per instruction. Columns: instruction_id, instruction, system, reference, task_type, response.
    The pool of round r is the first pool and the accepted expansions of the rounds before it; round 0 is S_0's.
    """
    stages = [StageAt("label"), StageAt("teach"), *(StageAt("expand", r) for r in range(1, number))]
    seen: dict[StageAt, DatasetRef | None] = {}
    assert all(run.holds(at, seen) for at in stages), "the pool of a round is read after its stages"
    references = run.rows(StageAt("pool")).select("instruction_id", "reference")
    first = _usable(run).examples.join(references, on="instruction_id")
    columns = ["instruction_id", "instruction", "system", "reference", "task_type", "response"]
    tables = [first.select(columns)]
    for earlier in range(1, number):
        expansion = run.rows(StageAt("expand", earlier))
        tables.append(expansion.with_columns(reference=pl.lit(None, pl.String)).select(columns))
    return pl.concat(tables, how="vertical_relaxed").sort("instruction_id")


def used_before(run: RunFolder, number: int) -> frozenset[str]:
    """The instructions that a round draws last: those of the mixtures before its own, S_0's included."""
    mixtures = [run.rows(StageAt("mix", earlier)) for earlier in range(number)]
    return frozenset(identity for rows in mixtures for identity in rows["instruction_id"])


def _usable(run: RunFolder) -> Usable:
    return split_usable(*(run.rows(StageAt(name)) for name in ("pool", "teach", "label")))
