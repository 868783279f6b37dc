"""Stage `evaluate`: held-out scores of one student, with intervals and failures, by split and task type."""

from tapir_core.evaluation.scores import score_answers
from tapir_core.run_folder import RunFolder
from tapir_core.stages import EVALUATE, StageAt
from tasks._task import stage_task
from tasks.outcomes import Worked


@stage_task(EVALUATE)
def evaluate(run: RunFolder, at: StageAt) -> Worked:
    """Scores of the student after the round, from its stored answers."""
    questions, answers = run.rows(StageAt("heldout")), run.rows(StageAt("answer_heldout", at.round))
    scores = score_answers(questions, answers, f"student: {run.config.student.sampling.in_words}")
    return Worked(scores, {"missing": questions.height - answers.height})
