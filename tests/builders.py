"""Small builders with keyword defaults: what a test does not care about, it does not write."""

import random
from collections.abc import Iterable, Mapping

import polars as pl
from rapidfuzz.distance import Indel

from tapir_core.config import ExpansionConfig
from tapir_core.config.benchmarks import DecontaminationConfig
from tapir_core.data.decontamination import EvaluationQuestions, words_of
from tapir_core.judging import Verdict, verdict_rows
from tapir_core.stages import DIFFICULTY, EXPAND, LABEL, POOL, QUESTIONS, REFINE, SELECT, TEACH, WAVE_CANDIDATES
from tapir_core.text import instruction_id

EXAMPLES = pl.Schema(dict.fromkeys(("instruction_id", "instruction", "system", "task_type", "response"), pl.String()))


def make_pool(*instructions: str, system: str | None = None) -> pl.DataFrame:
    rows = [(instruction_id(text, system), text, system, "test", None) for text in instructions]
    return pl.DataFrame(rows, schema=POOL.columns, orient="row")


def make_teacher(answers: Mapping[str, str | None], finish_reason: str = "stop") -> pl.DataFrame:
    rows = [(identity, response, finish_reason, 10, 20) for identity, response in answers.items()]
    return pl.DataFrame(rows, schema=TEACH.columns, orient="row")


def make_labels(task_types: Mapping[str, str | None]) -> pl.DataFrame:
    return pl.DataFrame(list(task_types.items()), schema=LABEL.columns, orient="row")


def make_verdict(
    identity: str = "a",
    order: str = "teacher_first",
    student: float | None = 4.0,
    teacher: float | None = 9.0,
    reason: str | None = None,
    judge: str = "anna",
) -> Verdict:
    """Unscored as soon as a reason is given."""
    if reason is not None:
        return Verdict(identity, order, None, None, "unscored", reason, None, judge)
    return Verdict(identity, order, student, teacher, "scored", None, "Scores: [[…]]", judge)


def make_verdicts(*verdicts: Verdict) -> pl.DataFrame:
    return verdict_rows(verdicts)


def make_difficulty(mfd: Mapping[str, float], task_type: str = "Math") -> pl.DataFrame:
    rows = [(identity, task_type, 9.0 - gap, 9.0, gap, 2, 0.0) for identity, gap in mfd.items()]
    return pl.DataFrame(rows, schema=DIFFICULTY.columns, orient="row")


def make_seeds(task_types: Mapping[str, str], mfd: float = 3.0) -> pl.DataFrame:
    rows = [(identity, task_type, mfd) for identity, task_type in task_types.items()]
    return pl.DataFrame(rows, schema=SELECT.columns, orient="row")


def make_examples(task_types: Mapping[str, str], system: str | None = None) -> pl.DataFrame:
    rows = [
        (identity, f"instruction {identity}", system, task_type, f"plain {identity}")
        for identity, task_type in task_types.items()
    ]
    return pl.DataFrame(rows, schema=EXAMPLES, orient="row")


def make_expansion(task_types: Mapping[str, str], wave: int = 1) -> pl.DataFrame:
    rows = [
        (identity, f"instruction {identity}", None, task_type, "seed", wave, f"plain {identity}")
        for identity, task_type in task_types.items()
    ]
    return pl.DataFrame(rows, schema=EXPAND.columns, orient="row")


def make_candidates(*instructions: str, task_type: str = "Math", wave: int = 1) -> pl.DataFrame:
    rows = [(instruction_id(text), text, None, task_type, "seed", wave) for text in instructions]
    return pl.DataFrame(rows, schema=WAVE_CANDIDATES.columns, orient="row")


def make_refinement(refined: Mapping[str, str], accepted: bool = True) -> pl.DataFrame:
    rows = [(identity, "Math", f"plain {identity}", text, accepted, None) for identity, text in refined.items()]
    return pl.DataFrame(rows, schema=REFINE.columns, orient="row")


def rouge_l(one: str, other: str) -> float:
    """ROUGE-L F1 of two texts, 0–1. Two empty texts count as equal."""
    return float(Indel.normalized_similarity(words_of(one), words_of(other)))


def make_questions(
    *questions: str,
    benchmark: str = "alpaca_eval",
    overlap_words: int = 13,
    max_rouge_l: float = 0.8,
    pool: pl.DataFrame | None = None,
) -> EvaluationQuestions:
    rows = [(benchmark, str(number), 1, text) for number, text in enumerate(questions, start=1)]
    settings = DecontaminationConfig(overlap_words=overlap_words, max_rouge_l=max_rouge_l)
    return EvaluationQuestions(pl.DataFrame(rows, schema=QUESTIONS.columns, orient="row"), settings, pool)


def make_expansion_config(**fields: object) -> ExpansionConfig:
    return ExpansionConfig.model_validate({"min_chars": 3, **fields})


def shuffled(rows: pl.DataFrame, seed: int) -> pl.DataFrame:
    """The same rows in another order of arrival."""
    places = list(range(rows.height))
    random.Random(seed).shuffle(places)
    return rows[places]


def numbered(task_types: Iterable[str], prefix: str = "i") -> dict[str, str]:
    """Instruction id → task type, for builders that take such a mapping."""
    return {f"{prefix}{number:04d}": task_type for number, task_type in enumerate(task_types)}


FOOTER = "This message is meant only for the person named above. If you received it in error, delete it and tell us so."
GOODS = ["lamp", "kettle", "chair", "printer", "jacket", "cable", "table", "phone", "laptop", "screen"]


def mails(count: int, footer: str = FOOTER, first: int = 0) -> list[str]:
    """Each of other words, all with the footer; many end in the same word before it."""
    rng = random.Random(first)
    return [
        f"Order {number}: {' '.join(f'{rng.choice(GOODS)}{rng.randrange(99)}' for _ in range(14))} {end}. {footer}"
        for number, end in enumerate(rng.choices(GOODS, k=count), start=first)
    ]
