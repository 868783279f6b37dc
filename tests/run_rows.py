"""What student, teacher and judge say in a run that is built without them: by the stand-in's rules, or drawn by lot."""

import random
from itertools import product

import polars as pl

from tapir_core.config import JudgeConfig
from tapir_core.curriculum import refinement_problem
from tapir_core.judging import Verdict, verdict_rows
from tapir_core.stages import REFINE, TEACH
from tapir_core.standin.families import recognise
from tapir_core.task_types import PAPER
from tapir_core.verifiers import is_correct

__all__ = [
    "examined_candidates",
    "judge_verdicts",
    "pairs",
    "refinements",
    "student_answers",
    "teacher_answers",
]


def pairs(rows: pl.DataFrame) -> list[tuple[str, str]]:
    """Id and instruction of each row."""
    return rows.select("instruction_id", "instruction").rows()


def teacher_answers(instructions: list[tuple[str, str]]) -> pl.DataFrame:
    """One answer in 40 is refused, one in 60 is cut off."""
    answers = []
    for place, (identity, text) in enumerate(instructions):
        refused, ending = place % 40 == 0, "length" if place % 60 == 1 else "stop"
        response = None if refused else recognise(text).plain
        answers.append((identity, response, "refused" if refused else ending, 30, 12))
    return pl.DataFrame(answers, schema=TEACH.columns, orient="row")


def student_answers(rows: pl.DataFrame, skill: float, rng: random.Random) -> pl.DataFrame:
    """The share ``skill`` of them is right."""
    answers = []
    for identity, text in pairs(rows):
        problem = recognise(text)
        told = problem.reference if rng.random() < skill else rng.choice(["42", "unknown", problem.reference + "x"])
        words = problem.instruction.split()[:6]
        answers.append((identity, f"You asked: {' '.join(words)} …\nAnswer: {told}", "stop", 30, 14))
    return pl.DataFrame(answers, schema=TEACH.columns, orient="row")


def judge_verdicts(answers: pl.DataFrame, pool: pl.DataFrame, judge: JudgeConfig, rng: random.Random) -> pl.DataFrame:
    """Right answers score near the teacher's, wrong ones far below; the first shown gains; one in 50 is garbled."""
    said, verdicts = dict(answers.select("instruction_id", "response").iter_rows()), []
    for place, (identity, text) in enumerate(pairs(pool)):
        right = is_correct(said[identity], recognise(text).reference)
        base = rng.gauss(8.5, 0.5) if right else rng.triangular(1, 8, 2.5)
        for order, name in product(judge.orders, judge.names):
            bias = 0.5 if order == "student_first" else -0.5
            student = round(min(10.0, max(1.0, base + bias + rng.gauss(0, 0.4))), 1)
            teacher = round(min(10.0, max(1.0, rng.gauss(9, 0.4) - bias)), 1)
            scores = ("scored", None) if place % 50 else ("unscored", "no verdict in the reply")
            found = (student, teacher) if place % 50 else (None, None)
            verdicts.append(Verdict(identity, order, *found, *scores, f"Scores: [[{student}, {teacher}]]", name))
    return verdict_rows(verdicts)


def examined_candidates(candidates: pl.DataFrame) -> pl.DataFrame:
    """Labels and answers of an expansion's candidates; every ninth label is another task type."""
    problems = [recognise(text) for _, text in pairs(candidates)]
    labels = [each.task_type if place % 9 else "Others" for place, each in enumerate(problems)]
    return candidates.select(
        "instruction_id",
        task_type=pl.Series(labels, dtype=pl.String),
        response=pl.Series([each.plain for each in problems], dtype=pl.String),
        finish_reason=pl.lit("stop"),
        mfd=pl.lit(None, pl.Float64),
    )


def refinements(rows: pl.DataFrame) -> pl.DataFrame:
    """Every 15th refined answer loses its result."""
    table = []
    for place, row in enumerate(rows.iter_rows(named=True)):
        refined = "It depends.\nAnswer: unknown" if place % 15 == 14 else recognise(row["instruction"]).refined
        problem = refinement_problem(row["response"], refined, PAPER.family_of(row["task_type"]))
        table.append((row["instruction_id"], row["task_type"], row["response"], refined, problem is None, problem))
    return pl.DataFrame(table, schema=REFINE.columns, orient="row")
