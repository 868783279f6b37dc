"""The tables of held-out accuracy: by task type, of one student, of several."""

from collections.abc import Sequence

from tapir_core.reporting.sentences import accuracy_note
from tapir_core.reporting.tables import Table
from tapir_core.summary.formats import accuracy, count, first_two_and_last, interval, most, score, student_name
from tapir_core.summary.types import RoundSummary, RunSummary, Score
from tapir_core.task_types import TASK_TYPES

__all__ = ["accuracy_table", "scores_table", "students_table"]

_COLUMNS = ("Accuracy, %", "95 % interval", "n", "Failed")


def accuracy_table(summary: RunSummary, split: str = "test") -> Table:
    """Held-out accuracy by task type: backbone, S_0 and the last student."""
    students = first_two_and_last(summary.students)
    names = [name for name in ("all", *TASK_TYPES) if any(each.score(split, name) for each in students)]
    rows = []
    for name in names:
        scores = [each.score(split, name) for each in students]
        rows.append((name, *map(score, scores), most(scores)))
    columns = ("Task type", *(student_name(each.number) for each in students), "n")
    note = f"n counts what failed, too. {accuracy_note(each.score(split) for each in students)}"
    return Table(f"Accuracy by task type ({split})", columns, tuple(rows), note=note)


def scores_table(summary: RoundSummary) -> Table:
    """Every held-out score of one student."""
    rows = [] if summary.scores is None else summary.scores.select("split", "category").rows()
    scores = {row: summary.score(*row) for row in rows}
    cells = tuple((*row, *_score_cells(found)) for row, found in scores.items())
    title = f"Held-out accuracy of {student_name(summary.number)}"
    note = accuracy_note(scores.values())
    return Table(title, ("Split", "Task type", *_COLUMNS), cells, text_columns=2, note=note)


def students_table(summary: RunSummary, numbers: Sequence[int]) -> Table:
    """Held-out accuracy of these students, by split; of one student alone by task type too."""
    found = [each for number in numbers if (each := summary.round(number)) is not None and each.scores is not None]
    if len(found) == 1:
        return scores_table(found[0])
    rows = []
    for each in found:
        scores = {split: each.score(split) for split in ("dev", "test")}
        rows += [(student_name(each.number), split, *_score_cells(one)) for split, one in scores.items() if one]
    note = accuracy_note(each.score(split) for each in found for split in ("dev", "test"))
    return Table("Held-out accuracy", ("Student", "Split", *_COLUMNS), tuple(rows), text_columns=2, note=note)


def _score_cells(found: Score | None) -> tuple[str, ...]:
    """The cells of an accuracy under ``_COLUMNS``."""
    counts = (None, None) if found is None else (found.n, found.n_failed)
    return (accuracy(found), interval(found), *map(count, counts))
