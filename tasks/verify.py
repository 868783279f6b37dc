"""A verifier's marks of answers: stages `verify` (the teacher's) and `verify_heldout`, and marks for other stages."""

from collections import Counter

import polars as pl

from tapir_core.config import VerifierConfig
from tapir_core.errors import ConfigError, RunChanged
from tapir_core.paths import log_file
from tapir_core.run_folder import RunFolder
from tapir_core.stages import ANSWER_HELDOUT, HELDOUT, POOL, TEACH, VERIFY, VERIFY_HELDOUT, StageAt
from tasks._task import stage_task
from tasks.engines.supervisor import ScriptRunner
from tasks.engines.verifier import score_rows, source_digest
from tasks.outcomes import FEWEST_ASKED, Worked
from tasks.runtime import current


@stage_task(VERIFY)
def verify(run: RunFolder, at: StageAt) -> Worked:
    """Marks of the teacher's plain answers."""
    return verify_answers(run, at, run.config.judge.verifies("filter"), _with_answers(run, POOL.at(), TEACH.at()))


@stage_task(VERIFY_HELDOUT)
def verify_heldout(run: RunFolder, at: StageAt) -> Worked:
    """Marks of a student's answers to the held-out set."""
    rows = _with_answers(run, HELDOUT.at(), ANSWER_HELDOUT.at(at.round))
    return verify_answers(run, at, run.config.judge.verifies("heldout"), rows)


def verify_answers(run: RunFolder, at: StageAt, verifier: VerifierConfig | None, rows: pl.DataFrame) -> Worked:
    """Marks of the ``rows`` (instruction_id, instruction, reference, response) that have a response, in their order.

    No rows without a verifier. Its failures are counted by kind.

    Raises:
        ConfigError: it cannot be imported any more, or failed on more rows than `calls.max_failed_share` accepts.
        RunChanged: its module was edited since the run was opened.
    """
    rows = rows.filter(pl.col("response").is_not_null())
    if verifier is None or not rows.height:
        return Worked(pl.DataFrame(schema=VERIFY.columns))
    if source_digest(verifier) != run.record.ingredients.get("file:verifier", ""):
        raise RunChanged(
            f"the module of judge.verifier {verifier.function!r} was edited while run {run.ref.name!r} works; put it "
            "back and run the same command again, or run it with --amend"
        )
    scripts = ScriptRunner(lambda name: run.workplace.local(log_file(name)), lambda: current(run).check_stop(at))
    marks = score_rows(verifier, rows.select("instruction", "response", "reference").rows(), scripts)
    kinds = Counter(mark.reason.partition(":")[0] for mark in marks if mark.reason is not None)
    failed, accepted = kinds.total() - kinds["none"], run.config.calls.max_failed_share
    if len(marks) >= FEWEST_ASKED and failed > accepted * len(marks):
        said = next(mark.reason for mark in marks if mark.reason not in (None, "none"))
        raise ConfigError(
            f"{at}: judge.verifier {verifier.function!r} failed on {failed} of {len(marks)} answers ({said}), more "
            f"than calls.max_failed_share = {accepted:g} accepts; correct it, or raise its limits "
            "(judge.verifier.timeout_seconds, judge.verifier.memory_gib), and run the same command with --amend"
        )
    table = [
        (identity, score, None if score is None else score >= verifier.min_score, reason)
        for identity, (score, reason) in zip(rows["instruction_id"], marks, strict=True)
    ]
    counts = {f"verifier_{kind}": float(count) for kind, count in sorted(kinds.items())}
    return Worked(
        pl.DataFrame(table, schema=VERIFY.columns, orient="row"), {"verified": len(marks) - kinds.total(), **counts}
    )


def _with_answers(run: RunFolder, asked: StageAt, answered: StageAt) -> pl.DataFrame:
    answers = run.rows(answered).select("instruction_id", "response")
    return run.rows(asked).join(answers, on="instruction_id", maintain_order="left")


def wrong_answers(marks: pl.DataFrame) -> frozenset[str]:
    """The instructions whose answers are wrong by a verifier."""
    return frozenset(marks.filter(~pl.col("correct"))["instruction_id"])
