"""Tables that several stages read: the pool of a round, and the training rows that come of it."""

from functools import lru_cache

import polars as pl

from tapir_core.curriculum import Usable, split_usable
from tapir_core.data.dataset import DatasetRef
from tapir_core.errors import ConfigError
from tapir_core.run_folder import RunFolder, RunRef
from tapir_core.stages import StageAt

__all__ = ["check_pool", "round_pool"]


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
    wanted = {name for name, share in run.config.curriculum.target_shares.items() if share > 0}
    if len(found) == 1 and wanted != set(found):
        raise ConfigError(
            f"data.pool: every usable instruction has the task type {found[0]!r}, so there is nothing to balance; give "
            f'a broader pool, or say that you want this one only: curriculum.target_shares = {{ "{found[0]}" = 1.0 }}'
        )


def round_pool(run: RunFolder, number: int) -> pl.DataFrame:
    """The pool of round ``number`` with the teacher's plain answers: usable instructions, sorted by id.

    Grain: one row per instruction. Columns: instruction_id, instruction, system, reference, task_type, response.
    The pool of round r is the first pool and the accepted expansions of the rounds before it; round 0 is S_0's.
    """
    stages = [StageAt("label"), StageAt("teach"), *(StageAt("expand", r) for r in range(1, number))]
    seen: dict[StageAt, DatasetRef | None] = {}
    held = [run.holds(at, seen) for at in stages]
    assert all(held), "the pool of a round is read after its stages"
    return _round_pool(run.ref, number, tuple(ref.digest for ref in held if ref))


@lru_cache(maxsize=4)
def _round_pool(ref: RunRef, number: int, _digests: tuple[str, ...]) -> pl.DataFrame:
    run = RunFolder(ref)
    references = run.rows(StageAt("pool")).select("instruction_id", "reference")
    first = _usable(run).examples.join(references, on="instruction_id")
    columns = ["instruction_id", "instruction", "system", "reference", "task_type", "response"]
    tables = [first.select(columns)]
    for earlier in range(1, number):
        expansion = run.rows(StageAt("expand", earlier))
        tables.append(expansion.with_columns(reference=pl.lit(None, pl.String)).select(columns))
    return pl.concat(tables, how="vertical_relaxed").sort("instruction_id")


def _usable(run: RunFolder) -> Usable:
    return split_usable(*(run.rows(StageAt(name)) for name in ("pool", "teach", "label")))
