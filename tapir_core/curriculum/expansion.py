"""Expansion: new instructions in the manner of the seeds, asked for in waves until the target shares are reached.

A wave is a fixed list of requests drawn before any call, so the order in which answers arrive changes nothing.

Departures: the paper expands once; the waves ask again for what the gates took. A task type without a seed of its own
borrows any seed. A new instruction has no system text: it must stand on its own.
"""

import math
import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from tapir_core.curriculum.tables import CANDIDATES, EXAMPLES, in_order
from tapir_core.judging import neutralise
from tapir_core.prompts import Prompt
from tapir_core.text import Unparsed, instruction_id, normalise

__all__ = [
    "ExpansionRequest",
    "candidate_rows",
    "extend_pool",
    "lacking",
    "parse_expansion",
    "plan_wave",
    "render_expansion",
]

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


def extend_pool(examples: pl.DataFrame, *expansions: pl.DataFrame) -> pl.DataFrame:
    """Pool ∪ E_1 ∪ … as examples, by instruction id."""
    parts = [rows.select(EXAMPLES.names()).cast(EXAMPLES) for rows in (examples, *expansions)]
    pool = in_order(pl.concat(parts))
    repeated = [identity for identity, count in Counter(pool["instruction_id"]).items() if count > 1]
    assert not repeated, f"instructions twice in one pool: {repeated[:3]}"
    return pool
