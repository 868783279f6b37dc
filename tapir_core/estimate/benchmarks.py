"""What the benchmarks of each round take: their questions in the real prompts, for every student that is asked.

Counts are exact: every turn and every judgment of the files is made up with a placeholder for the student's answers.
Limits: answers that stay the same from round to round, or equal the baseline's, are paid once or not at all, and count
in full here; a student that gives no answer is not judged; where nobody judges, only the questions are known.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from tapir_core.config import RunConfig
from tapir_core.data.readers import read_questions
from tapir_core.estimate.assumptions import Scenario
from tapir_core.estimate.tokens import MESSAGE_TOKENS, estimate_tokens, mean_tokens
from tapir_core.estimate.workload import Work
from tapir_core.evaluation.benchmark import Exchange, exchanges_of, judging
from tapir_core.paths import BACKBONE
from tapir_core.prompts import Prompt

__all__ = ["BenchmarkSize", "benchmark_work", "measure_benchmarks"]

_PLACEHOLDER = "-"
"""Stands for a student's answer where a prompt is made up."""


@dataclass(frozen=True, slots=True)
class BenchmarkSize:
    """What one benchmark asks of one student and of its judge."""

    questions: int
    answers: int
    """Turns of all questions: what the student is asked."""
    judgments: int
    """What the judge is asked about one student."""
    answer_prompt_tokens: float
    """Of the prompt of an answer on average, without the student's own earlier answers."""
    earlier_answers: float
    """How many of these stand in it, on average."""
    judge_prompt_tokens: float
    """Of the prompt of a judgment on average, without the student's answers."""
    judged_answers: float
    """How many of these stand in it, on average."""
    marker: str = ""
    """What marks the answers without a call; empty where a judge is asked."""


def measure_benchmarks(config: RunConfig, prompts: Mapping[str, Prompt]) -> dict[str, BenchmarkSize]:
    """Benchmark of each round → what it asks, read from its files.

    Raises:
        ConfigError: a file cannot be read, is wrong, or lacks what another one asks for.
    """
    judged = config.evaluation.judged
    return {
        name: _measure(config, name, prompts) if name in judged else _measure_marked(config, name)
        for name in config.evaluation.each_round
    }


def benchmark_work(config: RunConfig, sizes: Mapping[str, BenchmarkSize], scenario: Scenario) -> Iterator[Work]:
    """Answers and judgments of every benchmark for backbone, S_0 and the student of every round."""
    for number in range(BACKBONE, config.run.rounds + 1):
        for name, size in sizes.items():
            yield Work("benchmark_answers", "answer", number, size.answers, size.answers, benchmark=name)
            if (judged := config.evaluation.judged.get(name)) is not None:
                judgments = size.judgments * (1 + (scenario.reask_share if judged.reasks else 0.0))
                yield Work("benchmark_replies", "benchmark", number, judgments, judgments, benchmark=name)


def _measure(config: RunConfig, name: str, prompts: Mapping[str, Prompt]) -> BenchmarkSize:
    benchmark = judging(config, name)
    items = benchmark.items()
    answers = items.select("question_id", "turn").with_columns(response=pl.lit(_PLACEHOLDER))
    exchanges = exchanges_of(items, answers)
    games = [game for each in exchanges for game in benchmark.games(each, prompts) if game.text is not None]
    asked = [tokens for each in exchanges for tokens in _answer_prompts(each)]
    return BenchmarkSize(
        questions=len(exchanges),
        answers=items.height,
        judgments=len(games),
        answer_prompt_tokens=_mean(asked),
        earlier_answers=_mean([turn for each in exchanges for turn in range(len(each.turns))]),
        judge_prompt_tokens=mean_tokens(game.text or "" for game in games) + MESSAGE_TOKENS,
        # A judgment on a turn shows the answers to all turns up to it.
        judged_answers=_mean([game.turn for game in games]),
    )


def _measure_marked(config: RunConfig, name: str) -> BenchmarkSize:
    """Of what is marked without a call: its prompts are taken to be the questions of its file."""
    asked = read_questions({name: config.evaluation.benchmarks[name]}).filter(turn=1)["question"]
    tokens = mean_tokens(asked) + MESSAGE_TOKENS
    marker = config.evaluation.marked[name].marker
    return BenchmarkSize(len(asked), len(asked), 0, tokens, 0.0, 0.0, 0.0, marker)


def _answer_prompts(exchange: Exchange) -> Iterator[float]:
    """Tokens of the prompt of each turn: its question after the earlier ones, each with a message for its answer."""
    tokens = 0.0
    for number, turn in enumerate(exchange.turns):
        tokens += estimate_tokens(turn.question) + MESSAGE_TOKENS * (2 if number else 1)
        yield tokens


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
