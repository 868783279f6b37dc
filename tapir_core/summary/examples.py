"""Instructions that a report shows, with what each student answered and what came of it."""

import random
from collections.abc import Mapping

import polars as pl

from tapir_core import curriculum
from tapir_core.config import RETENTION
from tapir_core.judging import show_instruction
from tapir_core.run_state import judged_answers
from tapir_core.stages import ANSWER, ANSWER_HELDOUT, HELDOUT, JUDGED_HELDOUT, TEACH, usable_of
from tapir_core.summary import types
from tapir_core.summary.formats import student_name
from tapir_core.summary.reader import RunReader, marks_on_test
from tapir_core.verifiers import is_correct

_Change = tuple[bool | None, bool | None]

_CHANGES: dict[_Change, str] = {
    (False, True): "became right",
    (True, False): "became wrong",
    (True, True): "stayed right",
    (False, False): "stayed wrong",
    (None, None): "drawn at random",
}
"""(right before, right after) → what happened to an instruction."""
_JUDGED_CHANGES: dict[_Change, str] = {
    (False, True): "caught up with the teacher",
    (True, False): "fell behind the teacher",
    (True, True): "stayed level with the teacher",
    (False, False): "stayed behind the teacher",
}
_ALL_CHANGES = (*_CHANGES.values(), *_JUDGED_CHANGES.values())
_OUTCOMES = {True: "✓ right", False: "✗ wrong", None: ""}


def choose_examples(reader: RunReader, students: list[int], count: int, rng: random.Random) -> types.Examples | None:
    """Draw instructions so that what got better, worse or stayed has its true proportion among those shown.

    ``students`` are rounds in order; the change is between the last two of them (of one student: right or wrong). The
    instructions are those of the test split; without a held-out set those of the pool, with the teacher's answers.
    """
    found = _examples(reader, students)
    groups = {change: [each for each in found if each.why == change] for change in _ALL_CHANGES}
    sizes = {change: len(of_change) for change, of_change in groups.items() if of_change}
    quota = curriculum.fill_quotas(count, {change: float(size) for change, size in sizes.items()}, sizes)
    drawn = {change: sorted(rng.sample(range(size), quota[change])) for change, size in sizes.items()}
    shown = tuple(groups[change][place] for change, places in drawn.items() for place in places)
    return types.Examples(shown, len(found), sizes) if found else None


def _examples(reader: RunReader, students: list[int]) -> list[types.Example]:
    """The instructions that all students answered, sorted by id; the teacher's answer stands last, where it is."""
    judged, heldout = reader.rows(JUDGED_HELDOUT.at()), reader.rows(HELDOUT.at())
    changes, taught = _CHANGES, reader.rows(TEACH.at())
    if judged is not None:
        # Nothing is right by its reference there.
        changes, heldout, taught = _JUDGED_CHANGES, judged.with_columns(reference=pl.lit("")), judged
    if heldout is not None:
        questions = heldout.filter(split="test")
    elif of_pool := reader.tables(usable_of(reader.run.config)):
        questions = of_pool[0].join(of_pool[2], on="instruction_id")
    else:
        return []
    rows = {row["instruction_id"]: row for row in questions.sort("instruction_id").iter_rows(named=True)}
    references = {place: row["reference"] or "" for place, row in rows.items()}
    given = [_given(reader, number, None if heldout is not None else references) for number in students]
    teacher = _marked_by("teacher", _texts(taught), references)
    found = []
    for place in (place for place in rows if all(place in of for of in given)):
        answers, row = [of[place] for of in given], rows[place]
        change = changes[answers[-2:][0].correct, answers[-1].correct]
        answers += [teacher[place]] if place in teacher else []
        texts = (show_instruction(row), tuple(answers), row["system"] or "", references[place])
        found.append(types.Example(change, row["task_type"] or "no task type", *texts))
    return found


def _given(reader: RunReader, number: int, of_pool: Mapping[str, str] | None) -> dict[str, types.Answer]:
    """Instruction → the student's answer and what came of it, where both are known; ``of_pool``: without held-out set.

    ``of_pool`` are the references of the pool, which is answered by the student of the round before.
    """
    who = student_name(number)
    if of_pool is not None:
        return _marked_by(who, _texts(reader.rows(ANSWER.at(number + 1))), of_pool)
    if reader.run.config.data.judged:
        compared = judged_answers(reader.run, number, reader.seen)
        known = pl.DataFrame() if compared is None else compared.drop_nulls(RETENTION)
        scores = known.select("instruction_id", "student_score", "teacher_score").iter_rows() if known.height else ()
        outcomes = {at: (f"{own:g} points, the teacher {other:g}", own >= other) for at, own, other in scores}
    else:
        marks = marks_on_test(reader, number).items()
        outcomes = {at: (_OUTCOMES[bool(mark)], bool(mark)) for at, mark in marks if mark is not None}
    texts = _texts(reader.rows(ANSWER_HELDOUT.at(number)))
    return {at: types.Answer(who, told, texts[at], correct) for at, (told, correct) in outcomes.items() if at in texts}


def _texts(rows: pl.DataFrame | None) -> dict[str, str]:
    """Instruction → answer, of those that have one."""
    return {} if rows is None else dict(rows.drop_nulls("response").select("instruction_id", "response").iter_rows())


def _marked_by(who: str, texts: Mapping[str, str], references: Mapping[str, str]) -> dict[str, types.Answer]:
    """Instruction → the answer, which is right where its final result is exactly the reference."""
    correct = {at: is_correct(text, references[at]) if references.get(at) else None for at, text in texts.items()}
    return {at: types.Answer(who, _OUTCOMES[correct[at]], text, correct[at]) for at, text in texts.items()}
