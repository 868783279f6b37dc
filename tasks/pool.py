"""Stages `heldout`, `questions`, `contaminated` and `pool`: the instructions of the run, kept apart from evaluation."""

import polars as pl

from tapir_core.curriculum.expansion import CONTAMINATED_GATE
from tapir_core.data import readers
from tapir_core.data.decontamination import EvaluationQuestions
from tapir_core.errors import ConfigError
from tapir_core.run_folder import RunFolder
from tapir_core.sources import Found, read_heldout_of, read_pool_of
from tapir_core.stages import CONTAMINATED, HELDOUT, POOL, QUESTIONS, StageAt
from tasks._task import stage_task
from tasks.outcomes import Worked


@stage_task(HELDOUT)
def heldout(run: RunFolder, _: StageAt) -> Worked:
    """Read or generate the held-out set."""
    data = run.config.data
    found = read_heldout_of(data.heldout, data, run.config.run.seed)
    return Worked(found.rows, found.counts)


@stage_task(QUESTIONS)
def questions(run: RunFolder, _: StageAt) -> Worked:
    """Read the questions of the benchmarks."""
    return Worked(readers.read_questions(run.kept_config.evaluation.benchmarks))


@stage_task(CONTAMINATED)
def contaminated(run: RunFolder, at: StageAt) -> Worked:
    """List the instructions that hold an evaluation question: of the pool as it comes, or of a round's candidates."""
    if at.round is None:
        rows = _read_pool(run).rows
    else:
        rejected = run.rows(StageAt("expansion_rejected", at.round))
        # A candidate may have been asked for in several waves.
        rows = rejected.filter(gate=CONTAMINATED_GATE).unique("instruction_id", maintain_order=True)
    asked = evaluation_questions(run)
    found = asked.find(rows)
    return Worked(found, {**asked.count(found), "checked": rows.height})


@stage_task(POOL)
def pool(run: RunFolder, _: StageAt) -> Worked:
    """Read or generate the pool, without what holds an evaluation question."""
    read = _read_pool(run)
    rows = read.rows
    if run.holds(StageAt("contaminated")):
        rows = rows.join(run.rows(StageAt("contaminated")), on="instruction_id", how="anti", maintain_order="left")
    if not rows.height:
        raise ConfigError(
            f"data.pool: each of its {read.rows.height} instructions holds an evaluation question "
            f"({run.ref.name}/{StageAt('contaminated').folder}/ lists them); give another pool"
        )
    return Worked(rows, read.counts)


def evaluation_questions(run: RunFolder) -> EvaluationQuestions:
    """All questions that pool and expansion must not hold: those of the benchmarks and the held-out set."""
    tables = [pl.DataFrame(schema=readers.QUESTIONS)]
    if run.config.data.heldout is not None:
        tables.append(readers.heldout_questions(run.rows(StageAt("heldout"))))
    if run.config.evaluation.benchmarks:
        tables.append(run.rows(StageAt("questions")))
    return EvaluationQuestions(pl.concat(tables), run.config.evaluation.decontamination)


def _read_pool(run: RunFolder) -> Found:
    data = run.config.data
    return read_pool_of(data.pool, data, run.config.run.seed)
