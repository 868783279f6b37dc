"""Expansion: new instructions in the manner of the seeds, asked for in waves, and the gates they have to pass.

A wave is a fixed list of requests drawn before any call, so the order in which answers arrive changes nothing. Waves go
on until the target shares are reached.

Gates are small policies, composed in the order of method.md, each one counted. They come in groups, because the later
ones need paid answers: text gates first, then the label, then the teacher's answer, then (by option) the difficulty.
``apply_gates`` runs any group over rows in list order; the first gate that rejects a row has it.

Departures: the paper expands once; the waves ask again for what the gates took. A task type without a seed of its own
borrows any seed. A new instruction has no system text: it must stand on its own.

Limits: near-duplicates are looked for among the pool, what earlier waves accepted, and what passed the text gates
before it in the same wave, whether or not a later gate rejects that one.
"""

import math
import random
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from tapir_core.config import ExpansionConfig
from tapir_core.curriculum.tables import CANDIDATES, REJECTED, in_order
from tapir_core.curriculum.teacher import unusable_reason
from tapir_core.data.decontamination import EvaluationQuestions, NearDuplicates, word_runs
from tapir_core.judging import neutralise
from tapir_core.prompts import Prompt
from tapir_core.text import Unparsed, instruction_id, normalise

MAX_ROUNDS, MAX_WAVES, _REPEATS = 49, 19, 1000
"""Most rounds, waves a round, and requests a wave for one seed and task type: sample indices stay below 1,000,000,
which is where the indices of re-asks begin."""

_NEW = re.compile(r"<new_instruction>(.*?)</new_instruction>", re.DOTALL | re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ExpansionRequest:
    """One new instruction to ask for."""

    task_type: str
    seed_id: str
    sample_index: int
    """Unique for this seed and task type in the whole run, so that no round is served another's answer."""


def lacking(wanted: Mapping[str, int], have: Mapping[str, int]) -> dict[str, int]:
    """Task type → rows that are wanted and not there yet; only those that lack."""
    lacks = {task_type: count - have.get(task_type, 0) for task_type, count in sorted(wanted.items())}
    return {task_type: count for task_type, count in lacks.items() if count > 0}


def plan_wave(
    seeds: pl.DataFrame,
    lacks: Mapping[str, int],
    *,
    round_number: int,
    wave: int,
    oversample: float,
    rng: random.Random,
) -> list[ExpansionRequest]:
    """The requests of wave ``wave`` (from 1) of a round; none without seeds.

    A task type goes through its seeds (or through all seeds, if it has none) in random order, again and again, so
    that each is used about equally often, and at most 1000 times a wave.
    """
    assert round_number <= MAX_ROUNDS, f"round {round_number} is past the last possible one, {MAX_ROUNDS}"
    assert wave <= MAX_WAVES, f"wave {wave} is past the last possible one, {MAX_WAVES}"
    all_seeds = in_order(seeds)
    requests = []
    for task_type, count in sorted(lacks.items()):
        own = all_seeds.filter(pl.col("task_type") == task_type)
        seed_ids = (own if own.height else all_seeds)["instruction_id"].to_list()
        rng.shuffle(seed_ids)
        for number in range(min(math.ceil(round(count * oversample, 9)), len(seed_ids) * _REPEATS)):
            repeat, place = divmod(number, len(seed_ids))
            index = (round_number * (MAX_WAVES + 1) + wave) * _REPEATS + repeat
            requests.append(ExpansionRequest(task_type, seed_ids[place], index))
    return requests


def render_expansion(prompt: Prompt, seed: str, task_type: str) -> str:
    """The teacher's message that asks for one new instruction in the manner of ``seed``."""
    return prompt.render(seed=neutralise(seed), task_type=task_type)


def parse_expansion(raw: str | None) -> str | Unparsed:
    """The new instruction in the teacher's reply: the last one that is complete."""
    found = _NEW.findall(raw or "")
    instruction = normalise(found[-1]) if found else ""
    return instruction or Unparsed("no new instruction")


def candidate_rows(
    requests: Sequence[ExpansionRequest], instructions: Sequence[str | Unparsed | None], wave: int
) -> pl.DataFrame:
    """Candidates of a wave in list order; a request without an instruction is an empty one, which the gates count."""
    texts = [text if isinstance(text, str) else "" for text in instructions]
    rows = [
        (instruction_id(text), text, None, request.task_type, request.seed_id, wave)
        for request, text in zip(requests, texts, strict=True)
    ]
    return pl.DataFrame(rows, schema=CANDIDATES, orient="row")


Row = Mapping[str, Any]

CONTAMINATED_GATE = "contaminated"
"""The gate whose candidates are listed with the question they hold."""

_ECHO_WORDS = 6
_OWN_WORDS = re.compile(r"</?(?:seed|task_types?|style)>|\bnew_instruction\b|\bseed instruction\b", re.IGNORECASE)
_TEMPLATE = re.compile(r"\{\{.*?\}\}|\{%.*?%\}|\{#.*?#\}", re.DOTALL)


class Gate(ABC):
    """One reason to reject a candidate. Most remember nothing of the rows that they have seen."""

    name: str
    """What stands in the column ``gate`` of the rejected rows."""

    @abstractmethod
    def passes(self, row: Row) -> bool:
        """True when this gate has nothing against the row."""

    def admit(self, row: Row) -> None:  # noqa: B027  # most gates take none
        """Take note of a row that passed every gate of the group."""


@dataclass(frozen=True, slots=True)
class Gated:
    """What a group of gates let through, and what each of them kept back."""

    passed: pl.DataFrame
    rejected: pl.DataFrame
    """Columns ``REJECTED``."""
    counts: dict[str, int]
    """Gate → rows it rejected, in the order of the gates, zeros included."""


def apply_gates(rows: pl.DataFrame, gates: Sequence[Gate]) -> Gated:
    """Run ``gates`` over ``rows`` in list order."""
    failed: list[str | None] = []
    for row in rows.iter_rows(named=True):
        gate = next((each for each in gates if not each.passes(row)), None)
        failed.append(None if gate is None else gate.name)
        if gate is None:
            for each in gates:
                each.admit(row)
    marked = rows.with_columns(pl.Series("gate", failed, dtype=pl.String))
    if "response" not in rows.columns:
        marked = marked.with_columns(pl.lit(None, dtype=pl.String).alias("response"))
    rejected = marked.filter(pl.col("gate").is_not_null()).select(REJECTED.names()).cast(REJECTED)
    passed = rows.filter(marked["gate"].is_null())
    return Gated(passed, rejected, {gate.name: failed.count(gate.name) for gate in gates})


def text_gates(
    config: ExpansionConfig, prompt: Prompt, known: pl.DataFrame, questions: EvaluationQuestions
) -> tuple[Gate, ...]:
    """The gates that need no call. ``known`` are pool and accepted instructions (instruction_id, instruction)."""
    return (
        _LengthGate(config.min_chars, config.max_chars),
        _EchoGate(word_runs(_TEMPLATE.sub("\n", prompt.text), _ECHO_WORDS)),
        _NearDuplicateGate(set(known["instruction_id"]), NearDuplicates(known["instruction"], config.max_rouge_l)),
        _ContaminationGate(questions),
    )


@dataclass(frozen=True)
class _LengthGate(Gate):
    """Empty, too short or too long."""

    min_chars: int
    max_chars: int
    name = "length"

    def passes(self, row: Row) -> bool:
        return self.min_chars <= len(row["instruction"].strip()) <= self.max_chars


@dataclass(frozen=True)
class _EchoGate(Gate):
    """Repeats words of the expansion prompt: our tags, or a run of words from its text."""

    prompt: set[str]
    """Its runs of words."""
    name = "echo"

    def passes(self, row: Row) -> bool:
        own = word_runs(row["instruction"], _ECHO_WORDS)
        return not _OWN_WORDS.search(row["instruction"]) and self.prompt.isdisjoint(own)


@dataclass(frozen=True)
class _NearDuplicateGate(Gate):
    """Equal to, or too like, an instruction of the pool or one let through before."""

    known_ids: set[str]
    known: NearDuplicates
    name = "near_duplicate"

    def passes(self, row: Row) -> bool:
        return row["instruction_id"] not in self.known_ids and not self.known.contains_like(row["instruction"])

    def admit(self, row: Row) -> None:
        self.known_ids.add(row["instruction_id"])
        self.known.add(row["instruction"])


@dataclass(frozen=True)
class _ContaminationGate(Gate):
    """Holds a question of a benchmark or of the held-out set."""

    questions: EvaluationQuestions
    name = CONTAMINATED_GATE

    def passes(self, row: Row) -> bool:
        return not self.questions.find(pl.DataFrame([row])).height


class LabelGate(Gate):
    """The teacher's label is not the task type that was wanted."""

    name = "task_type"

    def __init__(self, labels: pl.DataFrame) -> None:
        self._labels = dict(labels.select("instruction_id", "task_type").iter_rows())

    def passes(self, row: Row) -> bool:
        """True when the label is the wanted task type."""
        return bool(self._labels.get(row["instruction_id"]) == row["task_type"])


class AnswerGate(Gate):
    """The teacher's own answer is unusable."""

    name = "teacher_answer"

    def __init__(self, teacher: pl.DataFrame) -> None:
        rows = teacher.select("instruction_id", "response", "finish_reason").iter_rows()
        self._usable = {identity for identity, response, ending in rows if unusable_reason(response, ending) is None}

    def passes(self, row: Row) -> bool:
        """True when the instruction has a usable answer."""
        return row["instruction_id"] in self._usable


class DifficultyGate(Gate):
    """The student does not find it hard: MFD is not above δ, or it could not be scored."""

    name = "difficulty"

    def __init__(self, difficulty: pl.DataFrame, delta: float) -> None:
        self._hard = set(difficulty.filter(pl.col("mfd") > delta)["instruction_id"])

    def passes(self, row: Row) -> bool:
        """True when the instruction is hard for the student."""
        return row["instruction_id"] in self._hard
