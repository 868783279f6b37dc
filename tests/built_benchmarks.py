"""Benchmarks in a run folder that is built without engines: the stand-in judges, without a server."""

import math
import random
from dataclasses import replace
from pathlib import Path

import polars as pl

from tapir_core.evaluation.benchmark import Exchange, exchanges_of, judging
from tapir_core.evaluation.scores import judgments_of
from tapir_core.paths import AVERAGE
from tapir_core.prompts import PROMPT_NAMES, load_prompt
from tapir_core.randomness import derive_rng
from tapir_core.run_folder import RunFolder
from tapir_core.stages import STAGES, StageAt
from tapir_core.standin.families import recognise
from tapir_core.standin.rules import Behaviour, Weighted, read_ask, say
from tapir_core.storage import file_sha256

__all__ = ["SKILL", "BenchmarkStages", "StageWriter"]

SKILL = {-1: 0.03, 0: 0.3, 1: 0.45, 2: 0.6, 3: 0.68, AVERAGE: 0.9}
"""Chance of a right answer after each round, and of the rounds' average."""


class StageWriter:
    """Writes rows as a stage of the run, with plausible counts."""

    def __init__(self, run: RunFolder) -> None:
        self.run = run
        self.seed = run.config.run.seed

    def _save(self, at: StageAt, rows: pl.DataFrame, **counts: float) -> None:
        rate = 0.15 if "calls" in counts else 0.002
        seconds = {"seconds": round(self._rng(at, "seconds").uniform(0.5, 1.5) * rate * rows.height, 1)}
        self.run.write(at, rows, counts={**seconds, **counts})

    def _asked(self, rows: int) -> dict[str, float]:
        calls = rows - rows // 10
        return {
            "calls": calls,
            "stored": rows - calls,
            "prompt_tokens": 60 * rows,
            "completion_tokens": 25 * rows,
            "usd": 1e-4 * rows,
        }

    def _rng(self, at: StageAt, *more: str) -> random.Random:
        return derive_rng(self.seed, "test", str(at), *more)

    def _rows(self, name: str, number: int | None = None) -> pl.DataFrame:
        return self.run.rows(StageAt(name, number))


class BenchmarkStages(StageWriter):
    """The stages of benchmarks, by their names."""

    def _benchmark_items(self, at: StageAt) -> None:
        self._save(at, judging(self.run.config, at.benchmark).items())

    def _benchmark_answers(self, at: StageAt) -> None:
        rng, rows = self._rng(at), []
        for row in self.run.rows(StageAt("benchmark_items", benchmark=at.benchmark)).iter_rows(named=True):
            problem = recognise(row["question"])
            told = problem.plain if rng.random() < SKILL[at.round] else "Answer: unknown"
            rows.append((row["question_id"], row["turn"], told, "stop", 30, 4))
        self._save(at, pl.DataFrame(rows, schema=list(STAGES[at.name].columns), orient="row"), **self._asked(len(rows)))

    def _benchmark_replies(self, at: StageAt) -> None:
        """The stand-in judges, without a server."""
        benchmark, rows = judging(self.run.config, at.benchmark), []
        prompts = {name: load_prompt(name) for name in PROMPT_NAMES}
        for game in (game for each in self._exchanges(at) for game in benchmark.games(each, prompts)):
            found = game.reading or benchmark.read(game, *_reply_of_standin(game.text))
            told = ("failed" if found.reason else "scored", found.reason, "", "standin-judge")
            rows.append((*game.place, found.value, found.baseline_value, found.how, *told))
        schema = {**dict.fromkeys(STAGES[at.name].columns, pl.String), "turn": pl.Int64}
        schema |= {"value": pl.Float64, "baseline_value": pl.Float64}
        self._save(at, pl.DataFrame(rows, schema=schema, orient="row"), **self._asked(len(rows)))

    def _benchmark_scores(self, at: StageAt) -> None:
        config, replies = self.run.config, self.run.rows(replace(at, name="benchmark_replies"))
        judged = config.evaluation.judged[at.benchmark]
        benchmark = judging(config, at.benchmark)
        scores = benchmark.scores(self._exchanges(at), judgments_of(replies))
        prompts = {name: load_prompt(name) for name in judged.prompts}
        paths = {"questions": judged.questions, **judged.files}
        files = {field: file_sha256(Path(path)) for field, path in paths.items()}
        self._save(at, benchmark.score_rows(config, scores, prompts, replies, files=files))

    def _exchanges(self, at: StageAt) -> list[Exchange]:
        items = self.run.rows(StageAt("benchmark_items", benchmark=at.benchmark))
        return exchanges_of(items, self.run.rows(replace(at, name="benchmark_answers")))


def _reply_of_standin(text: str) -> tuple[str, dict[str, float]]:
    """Text and log-probabilities."""
    reply = say(read_ask([{"role": "user", "content": text}], None), Behaviour(noise=0.2))
    if isinstance(reply, Weighted):
        return reply.text, {token: math.log(share) for token, share in reply.probabilities.items()}
    return reply, {}
