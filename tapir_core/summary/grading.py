"""Students side by side on the same test instructions: who was right, how much was gained, and ten to read.

Right is what stage `evaluate` calls right: the stated final result equals the reference.
"""

import random
from dataclasses import dataclass

import polars as pl

from tapir_core.curriculum import fill_quotas
from tapir_core.evaluation.scores import grade_answers
from tapir_core.evaluation.statistics import compare_paired
from tapir_core.randomness import derive_rng
from tapir_core.stages import StageAt
from tapir_core.summary.run_reader import Look
from tapir_core.summary.types import Gain
from tapir_core.verifiable import is_correct

__all__ = ["CHANGES", "Example", "ExampleAnswer", "Examples", "choose_examples", "marks_on_test", "measure_gain"]

CHANGES = {
    (False, True): "became right",
    (True, False): "became wrong",
    (True, True): "stayed right",
    (False, False): "stayed wrong",
}
"""(right before, right after) → what happened to an instruction."""


@dataclass(frozen=True, slots=True)
class ExampleAnswer:
    """One student's answer to an example."""

    round: int
    text: str
    correct: bool


@dataclass(frozen=True, slots=True)
class Example:
    """One test instruction with the answers of several students."""

    instruction: str
    system: str
    task_type: str
    reference: str
    change: str
    """What happened between the second-last and the last of the compared students, in words."""
    answers: tuple[ExampleAnswer, ...]


@dataclass(frozen=True, slots=True)
class Examples:
    """Examples to read, and the groups that they were drawn from."""

    shown: tuple[Example, ...]
    n: int
    """Test instructions that every compared student answered."""
    groups: dict[str, int]
    """What happened → test instructions, in the order of ``CHANGES``."""


def measure_gain(look: Look, before: int, after: int) -> Gain | None:
    """Test accuracy of student ``after`` less that of ``before``, over the instructions that both answered."""
    marks = [marks_on_test(look, number) for number in (before, after)]
    if not all(marks):
        return None
    rng = derive_rng(look.run.config.run.seed, "gain", before, after)
    return Gain(before, after, compare_paired(marks[1], marks[0], rng=rng, unit="instructions"))


def marks_on_test(look: Look, number: int) -> dict[str, float | None]:
    """Instruction of the test split → 100 where the student is right, 0 where not, None without an answer.

    Empty while the student was not asked.
    """
    questions, answers = look.rows(StageAt("heldout")), look.rows(StageAt("answer_heldout", number))
    if questions is None or answers is None:
        return {}
    test = grade_answers(questions, answers).filter(split="test")
    return dict(test.select("instruction_id", 100.0 * pl.col("correct")).iter_rows())


def choose_examples(look: Look, students: list[int], count: int, rng: random.Random) -> Examples | None:
    """Draw test instructions so that what got better, worse or stayed has its true proportion among those shown.

    ``students`` are rounds in order; the change is between the last two of them (of one student: right or wrong).
    """
    graded = _graded(look, students)
    if graded is None or not graded.height:
        return None
    old, new = f"right_{students[max(0, len(students) - 2)]}", f"right_{students[-1]}"
    changes = [CHANGES[was, now] for was, now in zip(graded[old], graded[new], strict=True)]
    places = {change: [row for row, each in enumerate(changes) if each == change] for change in CHANGES.values()}
    groups = {change: len(rows) for change, rows in places.items() if rows}
    quota = fill_quotas(count, {change: float(size) for change, size in groups.items()}, groups)
    drawn = [(change, row) for change in groups for row in sorted(rng.sample(places[change], quota[change]))]
    return Examples(
        tuple(_example(graded.row(row, named=True), change, students) for change, row in drawn), graded.height, groups
    )


def _graded(look: Look, students: list[int]) -> pl.DataFrame | None:
    """Test instructions that all ``students`` answered, with `response_N` and `right_N`, sorted by id."""
    heldout = look.rows(StageAt("heldout"))
    answers = [look.rows(StageAt("answer_heldout", number)) for number in students]
    if heldout is None:
        return None
    rows = heldout.filter(split="test")
    for number, given in zip(students, answers, strict=True):
        if given is None:
            return None
        rows = rows.join(
            given.drop_nulls("response").select("instruction_id", pl.col("response").alias(f"response_{number}")),
            on="instruction_id",
            validate="1:1",
        )
        pairs = rows.select(f"response_{number}", "reference").iter_rows()
        right = [is_correct(response, reference) for response, reference in pairs]
        rows = rows.with_columns(pl.Series(f"right_{number}", right, dtype=pl.Boolean))
    return rows.sort("instruction_id")


def _example(row: dict[str, object], change: str, students: list[int]) -> Example:
    answers = tuple(
        ExampleAnswer(number, str(row[f"response_{number}"] or ""), bool(row[f"right_{number}"])) for number in students
    )
    return Example(
        str(row["instruction"]),
        str(row["system"] or ""),
        str(row["task_type"]),
        str(row["reference"]),
        change,
        answers,
    )
