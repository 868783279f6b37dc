"""Students side by side on the same test instructions: who was right, how much was gained, and ten to read.

Right is what stage `evaluate` calls right: the stated final result equals the reference.
"""

import random
from dataclasses import dataclass
from typing import Any

import polars as pl

from tapir_core.curriculum import fill_quotas
from tapir_core.evaluation.scores import grade_answers
from tapir_core.evaluation.statistics import compare_paired
from tapir_core.randomness import derive_rng
from tapir_core.stages import StageAt
from tapir_core.summary.run_reader import Look
from tapir_core.summary.types import Gain
from tapir_core.verifiable import is_correct


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
    found = _examples(look, students)
    groups = {change: [each for each in found if each.change == change] for change in CHANGES.values()}
    sizes = {change: len(of_change) for change, of_change in groups.items() if of_change}
    quota = fill_quotas(count, {change: float(size) for change, size in sizes.items()}, sizes)
    drawn = {change: sorted(rng.sample(range(size), quota[change])) for change, size in sizes.items()}
    shown = tuple(groups[change][place] for change, places in drawn.items() for place in places)
    return Examples(shown, len(found), sizes) if found else None


def _examples(look: Look, students: list[int]) -> list[Example]:
    """Test instructions that all ``students`` answered, sorted by id."""
    heldout = look.rows(StageAt("heldout"))
    given = [look.rows(StageAt("answer_heldout", number)) for number in students]
    if heldout is None:
        return []
    texts = [
        {} if rows is None else dict(rows.drop_nulls("response").select("instruction_id", "response").iter_rows())
        for rows in given
    ]
    questions = heldout.filter(split="test").sort("instruction_id").iter_rows(named=True)
    return [
        _example(row, students, [of[row["instruction_id"]] for of in texts])
        for row in questions
        if all(row["instruction_id"] in of for of in texts)
    ]


def _example(row: dict[str, Any], students: list[int], texts: list[str]) -> Example:
    answers = tuple(
        ExampleAnswer(number, text, is_correct(text, row["reference"]))
        for number, text in zip(students, texts, strict=True)
    )
    before, after = answers[-2:] if len(answers) > 1 else answers * 2
    change = CHANGES[before.correct, after.correct]
    return Example(row["instruction"], row["system"] or "", row["task_type"], row["reference"], change, answers)
