"""Stages `heldout` and `pool`: the instructions of the run, from files or from the stand-in."""

from tapir_core.config import FileHeldout, FilePool
from tapir_core.data.decontamination import drop_contaminated
from tapir_core.data.readers import read_heldout, read_pool
from tapir_core.errors import ConfigError
from tapir_core.randomness import derive_rng
from tapir_core.run_folder import RunFolder
from tapir_core.stages import StageAt
from tapir_core.standin.pool import standin_heldout, standin_pool
from tasks._task import stage_task
from tasks.outcomes import Worked

__all__ = ["heldout", "pool"]


@stage_task("heldout")
def heldout(run: RunFolder, _: StageAt) -> Worked:
    """Read or generate the held-out set."""
    source, seed = run.config.data.heldout, run.config.run.seed
    assert source is not None
    if isinstance(source, FileHeldout):
        read = read_heldout(source.path, on_bad_row=run.config.data.on_bad_row)
        return Worked(read.rows, {"bad_rows": len(read.bad_rows), "duplicates": read.duplicates})
    return Worked(standin_heldout(source.dev, source.test, source.max_level, seed))


@stage_task("pool")
def pool(run: RunFolder, _: StageAt) -> Worked:
    """Read or generate the pool; what overlaps the held-out set leaves it and is counted."""
    source, seed = run.config.data.pool, run.config.run.seed
    counts: dict[str, float] = {}
    if isinstance(source, FilePool):
        rng = derive_rng(seed, "pool")
        read = read_pool(source.path, on_bad_row=run.config.data.on_bad_row, limit=source.limit, rng=rng)
        rows = read.rows
        counts = {
            "bad_rows": len(read.bad_rows),
            "duplicates": read.duplicates,
            "dropped_turns": read.dropped_turns,
        }
    else:
        rows = standin_pool(source.rows, source.max_level, seed)
    if run.config.data.heldout is not None:
        words = run.config.curriculum.expansion.heldout_overlap_words
        clean = drop_contaminated(rows, run.rows(StageAt("heldout")), words)
        counts["heldout_overlap"] = clean.dropped.height
        rows = clean.kept
    if not rows.height:
        raise ConfigError("data.pool: no instruction is left beside the held-out set; give another pool")
    return Worked(rows, counts)
