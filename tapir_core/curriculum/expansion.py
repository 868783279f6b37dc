"""Expansion: new instructions in the manner of the seeds, asked for in waves, and the gates they have to pass.

A wave is a fixed list of requests drawn before any call, so the order in which answers arrive changes nothing. It asks
for what still lacks, the next one for what the gates took of it, until the target shares are reached.

Gates are small policies, composed in the order of method.md, each one counted. They come in groups, because the later
ones need paid answers: text gates first, then the label, then the teacher's answer, then (by option) the difficulty.
``apply_gates`` runs any group over rows in list order; the first gate that rejects a row has it.

Departures: the paper expands once; the waves ask again for what the gates took. A task type without a seed of its own
borrows any seed. A new instruction has no system text and one turn: it must stand on its own.

A candidate that is like one before it in its wave is held back, unpaid, until that one is decided: the next wave looks
at it again, so that what is rejected keeps nothing else out. A good one that the teacher finds to be of another task
type than the wanted is filed under its own, where that still lacks.

Limits: near-duplicates are looked for among the pool, what earlier waves accepted, and what passed the text gates
before it in the same wave. What the last wave holds back is a near-duplicate.
"""

import math
import random
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import polars as pl

from tapir_core.config import ExpansionConfig
from tapir_core.curriculum.usable import unusable_reason
from tapir_core.data.decontamination import NearDuplicates, Vocabulary, word_runs
from tapir_core.judging import neutralise
from tapir_core.prompts import Prompt
from tapir_core.stages import EXPANSION_REJECTED, WAVE_CANDIDATES
from tapir_core.text import Unparsed, instruction_id, normalise
from tapir_core.turns import holds_control_token

MAX_ROUNDS, MAX_WAVES, _REPEATS = 49, 19, 1000
"""Most rounds, waves a round, and requests a wave for one seed and task type: sample indices stay below 1,000,000,
which is where the indices of re-asks begin."""

_NEW = re.compile(r"<new_instruction>(.*?)</new_instruction>", re.DOTALL | re.IGNORECASE)
_CLOSING = re.compile("</new_instruction>", re.IGNORECASE)
_LEFT_OPEN = re.compile(r"<new_instruction>((?:(?!</?new_instruction>).)*+)\Z", re.DOTALL | re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ExpansionRequest:
    """One new instruction to ask for."""

    task_type: str
    seed_id: str
    sample_index: int
    """Unique for this seed and task type in the whole run, so that no round is served another's answer."""


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
    all_seeds = seeds.sort("instruction_id")
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


def parse_expansion(raw: str | None, *, ended: bool = False) -> str | Unparsed:
    """The new instruction in the teacher's reply: the last one that is complete.

    Where none is, and the reply ``ended`` by itself and was not cut off, one without its closing tag.
    """
    text = raw or ""
    # Behind the last closing tag each opening one would be followed to the end: many of them take a minute.
    closed = max((tag.end() for tag in _CLOSING.finditer(text)), default=0)
    found = _NEW.findall(text, 0, closed) or (_LEFT_OPEN.findall(text) if ended else [])
    return (normalise(found[-1]) if found else "") or Unparsed("no new instruction")


def candidate_rows(
    requests: Sequence[ExpansionRequest], instructions: Sequence[str | Unparsed | None], wave: int
) -> pl.DataFrame:
    """Candidates of a wave in list order; a request without an instruction is an empty one, which the gates count."""
    texts = [text if isinstance(text, str) else "" for text in instructions]
    rows = [
        (instruction_id(text), text, None, request.task_type, request.seed_id, wave)
        for request, text in zip(requests, texts, strict=True)
    ]
    return pl.DataFrame(rows, schema=WAVE_CANDIDATES.columns, orient="row")


Row = Mapping[str, Any]

NEAR_DUPLICATE_GATE = "near_duplicate"
"""The gate of what is like something that is known."""

HELD_BACK_GATE = "held_back"
"""The gate of what is like a candidate of its own wave, on which nothing is decided yet; between waves only."""

CONTAMINATED_GATE = "contaminated"
"""The gate whose candidates are listed with the question they hold."""

_ECHO_WORDS = 6
_OWN_WORDS = re.compile(
    r"</?(?:seed|task_types?|style|(?:user|assistant)_turn)>|\bnew_instruction\b|\bseed instruction\b", re.IGNORECASE
)
_OF_THE_SEED = re.compile(
    r"\b(?:the|this|that|our|given|provided) (?:seed|sample) (?:text|instruction|task|prompt|question)\b"
    r"|\bseed (?:text|task|prompt|question)\b|\btask (?:type|difficulty) ?[:=]",
    re.IGNORECASE,
)
"""How a task speaks of the sample that it was to be like, and that nobody else sees."""
_TEMPLATE = re.compile(r"\{\{.*?\}\}|\{%.*?%\}|\{#.*?#\}", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Gate:
    """One reason to reject a candidate."""

    name: str
    """What stands in the column ``gate`` of the rejected rows."""
    passes: Callable[[Row], bool]
    """Whether this gate has nothing against a row."""
    admit: Callable[[Row], None] = lambda _row: None
    """Takes note of a row that passed every gate of the group."""


@dataclass(frozen=True, slots=True)
class Gated:
    """What a group of gates let through, and what each of them kept back."""

    passed: pl.DataFrame
    rejected: pl.DataFrame
    """Columns of `expansion_rejected`."""
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
    marked = rows.with_columns(gate=pl.Series(failed, dtype=pl.String))
    empty = pl.DataFrame(schema=EXPANSION_REJECTED.columns)
    rejected = pl.concat([empty, marked.drop_nulls("gate")], how="diagonal_relaxed").select(*empty.columns)
    return Gated(
        marked.filter(pl.col("gate").is_null()).drop("gate"),
        rejected,
        {gate.name: failed.count(gate.name) for gate in gates},
    )


def text_gates(
    config: ExpansionConfig, prompt: Prompt, known: pl.DataFrame, contaminated: Collection[str]
) -> tuple[Gate, ...]:
    """The gates that need no call.

    Args:
        config: what is asked of a text.
        prompt: that of the expansion, whose words nobody repeats.
        known: pool and accepted instructions (instruction_id, instruction).
        contaminated: ids of the candidates that hold an evaluation question.
    """
    echoes = word_runs(_TEMPLATE.sub("\n", prompt.text), _ECHO_WORDS)
    known_ids, known_texts = set(known["instruction_id"]), NearDuplicates(known["instruction"], config.max_rouge_l)
    before_ids, before = set[str](), NearDuplicates([], config.max_rouge_l)
    # Of a conversation its last turn, which comes before the earlier ones.
    texts = dict(known.reverse().select("instruction_id", "instruction").iter_rows())

    def has_own_words(row: Row) -> bool:
        """Neither our tags, a chat template's tokens, a mention of the sample nor a run of words from the prompt."""
        text = row["instruction"]
        if _OWN_WORDS.search(text) or holds_control_token(text) or not echoes.isdisjoint(word_runs(text, _ECHO_WORDS)):
            return False
        return not _OF_THE_SEED.search(text) or bool(_OF_THE_SEED.search(texts.get(row["seed_id"], "")))

    def is_new(row: Row) -> bool:
        text, words = row["instruction"], Vocabulary()
        # A part of a long seed has little in common with the whole, and is nothing new.
        own = words.learn(text)
        is_piece = bool(own) and own in words.learn(texts.get(row["seed_id"], ""))
        return row["instruction_id"] not in known_ids and not is_piece and not known_texts.contains_like(text)

    def is_first(row: Row) -> bool:
        return row["instruction_id"] not in before_ids and not before.contains_like(row["instruction"])

    def remember(row: Row) -> None:
        before_ids.add(row["instruction_id"])
        before.add(row["instruction"])

    return (
        Gate("length", lambda row: config.min_chars <= len(row["instruction"].strip()) <= config.max_chars),
        Gate("echo", has_own_words),
        Gate(NEAR_DUPLICATE_GATE, is_new),
        Gate(CONTAMINATED_GATE, lambda row: row["instruction_id"] not in contaminated),
        Gate(HELD_BACK_GATE, is_first, remember),
    )


def held_back(screened: pl.DataFrame) -> pl.DataFrame:
    """Of a wave's candidates behind the text gates, those that the next wave looks at again, before its own."""
    return screened.filter(pl.col("gate") == HELD_BACK_GATE).select(*WAVE_CANDIDATES.columns)


def all_rejected(screened: Sequence[pl.DataFrame], gated: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """Every candidate that the gates of all waves kept back, each once, with its gate.

    ``screened`` and ``gated`` are the rows of each wave behind the text gates and behind the paid ones, in order. What
    the last wave still held back is a near-duplicate.
    """
    is_last = pl.col("gate") != HELD_BACK_GATE
    decided = [each.filter(is_last) for each in screened[:-1]] + [*screened[-1:]]
    in_order = [rows for wave in zip(decided, gated, strict=True) for rows in wave]
    return (
        pl.concat([pl.DataFrame(schema=EXPANSION_REJECTED.columns), *in_order], how="vertical_relaxed")
        .drop_nulls("gate")
        .with_columns(gate=pl.col("gate").replace(HELD_BACK_GATE, NEAR_DUPLICATE_GATE))
    )


def needed_types(rows: pl.DataFrame, labels: pl.Series, lacks: Collection[str]) -> pl.Series:
    """Which candidates have a task type that somebody wants: their own wanted one, or one of those that lack."""
    return ((labels == rows["task_type"]) | labels.is_in([*lacks])).fill_null(value=False)


def paid_gates(
    lacks: Mapping[str, int], delta: float | None = None, wrong: Collection[str] | None = None
) -> tuple[Gate, ...]:
    """The gates that read what was paid for: the teacher's label, its answer and, where there is a δ, the difficulty.

    They are in the rows as label, response, finish_reason and mfd.

    Args:
        lacks: task type → rows that the wave was to bring; up to so many of another wanted type may be of it.
        delta: of the round's seeds.
        wrong: ids whose answer a verifier finds wrong; nothing where there is none.
    """
    room = Counter(lacks)

    def has_needed_type(row: Row) -> bool:
        return row["label"] is not None and (row["label"] == row["task_type"] or room[row["label"]] > 0)

    return (
        Gate("task_type", has_needed_type, lambda row: room.subtract([row["label"]])),
        Gate(
            "teacher_answer",
            lambda row: unusable_reason(row["response"], row["finish_reason"], row["instruction"]) is None,
        ),
        *([] if wrong is None else [Gate("verifier", lambda row: row["instruction_id"] not in wrong)]),
        *([] if delta is None else [Gate("difficulty", lambda row: row["mfd"] is not None and row["mfd"] > delta)]),
    )


def file_by_label(gated: Gated) -> Gated:
    """What passed, each under the task type that the teacher gave it; what was rejected keeps the wanted one."""
    return replace(gated, passed=gated.passed.with_columns(task_type="label"))
