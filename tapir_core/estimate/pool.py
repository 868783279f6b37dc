"""The pool before the run: its instructions, what the store answers of them, and their task types if they are known.

Reads the files of the configuration and the store; asks nobody and writes nothing.
"""

from collections import Counter
from dataclasses import dataclass

import polars as pl

from tapir_core.calls import Answer, AnswerStore, Outcome
from tapir_core.config import RunConfig
from tapir_core.curriculum import parse_label
from tapir_core.data.decontamination import EvaluationQuestions
from tapir_core.data.readers import heldout_questions, read_questions
from tapir_core.estimate.history import store_exists
from tapir_core.estimate.prompts import Instruction, label_request, teach_request
from tapir_core.estimate.workload import Pool
from tapir_core.prompts import Prompt
from tapir_core.sources import read_heldout_of, read_pool_of
from tapir_core.standin.families import recognise

__all__ = ["Instructions", "look_at_pool", "read_instructions"]

_FEWEST_LABELS = 30
"""Known labels from which the shares of the pool are taken."""


@dataclass(frozen=True, slots=True)
class Instructions:
    """What the stages `pool` and `heldout` will make."""

    pool: tuple[Instruction, ...]
    heldout_rows: int


def read_instructions(config: RunConfig) -> Instructions:
    """The instructions of the run; what holds an evaluation question is left out, as the run will leave it out.

    Raises:
        ConfigError: a file cannot be read, or has bad rows.
    """
    data, seed = config.data, config.run.seed
    rows = read_pool_of(data.pool, data, seed).rows
    heldout = None if data.heldout is None else read_heldout_of(data.heldout, data, seed).rows
    asked = [] if heldout is None else [heldout_questions(heldout)]
    questions = pl.concat([*asked, read_questions(config.evaluation.benchmarks)])
    contaminated = EvaluationQuestions(questions, config.evaluation.decontamination).find(rows)
    rows = rows.join(contaminated, on="instruction_id", how="anti", maintain_order="left")
    texts = rows.select("instruction", "system", "reference").iter_rows()
    return Instructions(tuple(Instruction(*row) for row in texts), 0 if heldout is None else heldout.height)


def look_at_pool(config: RunConfig, found: Instructions, prompt: Prompt, url: str) -> Pool:
    """What is known of the pool; ``prompt`` is the label prompt, ``url`` the store."""
    labels: dict[str, Outcome] = {}
    answered: set[str] = set()
    if store_exists(url):
        with AnswerStore(url, patient=False) as store:
            labels = store.lookup([label_request(config, prompt, each).key for each in found.pool])
            answered = store.known([teach_request(config, each).key for each in found.pool])
    parsed = [parse_label(reply.text) for reply in labels.values() if isinstance(reply, Answer)]
    task_types = [each for each in parsed if isinstance(each, str)]
    usable_share = None
    if config.teacher.endpoint.is_standin:
        # What the stand-in will say is known without asking it.
        task_types = [problem.task_type for each in found.pool if (problem := recognise(each.text))]
        usable_share = len(task_types) / len(found.pool) if found.pool else None
    shares = {name: count / len(task_types) for name, count in Counter(task_types).items()}
    natural = shares if len(task_types) >= _FEWEST_LABELS else None
    return Pool(len(found.pool), found.heldout_rows, natural, usable_share, len(labels), len(answered))
