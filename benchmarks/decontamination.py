"""Evaluation questions looked for in a pool: seconds, memory, and what is found of questions that were planted.

Run with ``python benchmarks/decontamination.py`` (or ``make bench-decontamination``). It prints one JSON line.

Texts are made of words whose frequencies follow Zipf's law, with habits: every other word is one of eight that like to
follow the word before it, so that pairs of words repeat as they do in language. Lengths are log-normal; those of the
questions have the median and the spread of AlpacaEval's. Into some instructions a question is planted in each of four
ways that must be found, into others in two ways that must not; what else is found is a false alarm as well.
"""

import argparse
import json
import resource
import time
from collections.abc import Callable, Iterator

import numpy as np
import polars as pl

from tapir_core.config.benchmarks import DecontaminationConfig
from tapir_core.data.decontamination import EvaluationQuestions
from tapir_core.stages import QUESTIONS

VOCABULARY, FOLLOWERS, BENCHMARKS = 60_000, 8, 5
SYLLABLES = [consonant + vowel for consonant in "bdfgklmnprst" for vowel in "aeiou"]
AT_ONCE = 20_000

Words = list[str]


class Language:
    """Made words with realistic frequencies."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        weights = 1 / np.arange(1, VOCABULARY + 1)
        self._edges = np.cumsum(weights / weights.sum())
        self._words = np.array([_spell(rank) for rank in range(VOCABULARY)], dtype=object)
        self._follow = self._draw((VOCABULARY, FOLLOWERS))

    def texts(self, count: int, median: float, most: int) -> Iterator[Words]:
        """Texts of log-normal length."""
        for start in range(0, count, AT_ONCE):
            here = min(AT_ONCE, count - start)
            lengths = np.clip(self.rng.lognormal(np.log(median), 0.8, here), 3, most).astype(int)
            table = self._draw((here, lengths.max()))
            by_habit = self.rng.random(table.shape) < 0.5
            habits = self.rng.integers(0, FOLLOWERS, table.shape)
            for place in range(1, table.shape[1]):
                following = self._follow[table[:, place - 1], habits[:, place]]
                table[:, place] = np.where(by_habit[:, place], following, table[:, place])
            for row, length in zip(self._words[table], lengths, strict=True):
                yield row[:length].tolist()

    def strange(self, count: int) -> Words:
        """Words that stand in no other text."""
        return [f"x{number}" for number in self.rng.integers(0, 1 << 60, count)]

    def _draw(self, shape: tuple[int, ...]) -> np.ndarray:
        return np.searchsorted(self._edges, self.rng.random(shape)).clip(0, VOCABULARY - 1)


def plants(language: Language) -> dict[str, Callable[[Words, Words], Words | None]]:
    """Ways to put a question into an instruction; nothing where the question is too short or too long for it."""

    def replaced(words: Words, every: int) -> Words:
        return [language.strange(1)[0] if place % every == every // 2 else word for place, word in enumerate(words)]

    return {
        "equal": lambda question, _: [*question[:-1], question[-1].upper() + "!"],
        "run of 13": lambda question, text: [*text, *question[-13:]] if len(question) >= 13 else None,
        "whole": lambda question, text: [*text[:9], *question, *text[9:]] if 8 <= len(question) < 13 else None,
        "one word in ten": lambda question, _: replaced(question, 10) if len(question) >= 10 else None,
        "not: run of 12": lambda question, text: (
            [*text, *language.strange(1), *question[-12:]] if question[40:] else None
        ),
        "not: one word in three": lambda question, _: replaced(question, 3) if len(question) >= 10 else None,
    }


def measure(rows: int, questions: int, planted: int) -> dict[str, object]:
    """Make both, plant, look for the questions, and compare."""
    language = Language(1)
    asked = list(language.texts(questions, median=18, most=300))
    made = list(language.texts(rows, median=30, most=300))
    places: dict[str, list[int]] = {}
    free = iter(language.rng.permutation(rows).tolist())
    for name, plant in plants(language).items():
        found = places.setdefault(name, [])
        for number in language.rng.permutation(questions).tolist():
            if len(found) < planted and (text := plant(asked[number], made[place := next(free)])) is not None:
                made[place] = text
                found.append(place)
    pool = pl.DataFrame(
        {"instruction_id": [f"{row:016x}" for row in range(rows)], "instruction": [" ".join(words) for words in made]}
    )
    words = sum(map(len, made)) / rows
    del made
    benchmarks = [f"made_{number % BENCHMARKS}" for number in range(questions)]
    table = pl.DataFrame(
        [(benchmarks[number], str(number), 1, " ".join(text)) for number, text in enumerate(asked)],
        schema=QUESTIONS.columns,
        orient="row",
    )
    began, began_cpu = time.perf_counter(), time.process_time()
    hits = EvaluationQuestions(table, DecontaminationConfig()).find(pool)
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - began_cpu
    rows_hit = {int(identity, 16) for identity in hits["instruction_id"]}
    wanted = {name: rows_ for name, rows_ in places.items() if not name.startswith("not")}
    real = {row for rows_ in wanted.values() for row in rows_}
    return {
        "rows": rows,
        "questions": questions,
        "words_per_instruction": round(words, 1),
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu_seconds, 1),
        "memory_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "planted": {name: len(rows_) for name, rows_ in places.items()},
        "recall": {name: round(len(rows_hit & set(rows_)) / len(rows_), 4) for name, rows_ in wanted.items()},
        "false_alarms": len(rows_hit - real),
    }


def _spell(rank: int) -> str:
    """A word for a rank; frequent ones are short."""
    word = SYLLABLES[rank % len(SYLLABLES)]
    while rank := rank // len(SYLLABLES):
        word += SYLLABLES[rank % len(SYLLABLES)]
    return word


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rows", type=int, default=1_000_000, help="instructions of the pool")
    options.add_argument("--questions", type=int, default=10_000, help="evaluation questions")
    options.add_argument(
        "--planted", type=int, default=1_000, help="instructions that a question is planted into, each way"
    )
    given = options.parse_args()
    print(json.dumps(measure(given.rows, given.questions, given.planted)))
