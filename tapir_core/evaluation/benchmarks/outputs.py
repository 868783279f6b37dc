"""Answers of a model that are given as a file: AlpacaEval's `model_outputs.json`, FastChat's answers as JSON lines.

They take the place of a student's answers; how they were drawn is not known.
"""

from collections.abc import Mapping
from typing import Any

import polars as pl

from tapir_core.config import AlpacaEvalBenchmark, JudgedBenchmark
from tapir_core.errors import ConfigError
from tapir_core.evaluation.alpaca_eval import read_outputs
from tapir_core.evaluation.questions import read_answers
from tapir_core.evaluation.rows import read_rows

__all__ = ["GIVEN", "NOT_GIVEN", "given_answers"]

GIVEN, NOT_GIVEN = "given", "failed:not_given"
"""``finish_reason`` of an answer that the file has, and of one that it lacks."""

_LISTED = 5


def given_answers(name: str, model: str, settings: JudgedBenchmark, items: pl.DataFrame) -> pl.DataFrame:
    """A file's answers to the questions of a benchmark: a row for each turn of ``items``, in their order.

    Columns: question_id, turn, response (nothing where the file has none), finish_reason. AlpacaEval's outputs are
    found by the instruction, FastChat's answers by the question's id; what is no question of the benchmark is left out.

    Raises:
        ConfigError: the file cannot be read, has a row that is none, is of several models, or answers no question.
    """
    field, path = f"evaluation.benchmarks.{name}.outputs.{model}", settings.outputs[model]
    try:
        found = _answers(settings, path, items)
        models = dict.fromkeys(read_rows(path, lambda fields: _model_of(settings, fields), "output"))
    except ConfigError as exc:
        raise ConfigError(f"{field}: {exc}; is it of another benchmark? Expected {_form(settings)}") from exc
    if len(models) > 1:
        raise ConfigError(
            f"{field}: {path!r} holds answers of {len(models)} models ({', '.join(list(models)[:_LISTED])}); give "
            "those of one"
        )
    asked = items.select("question_id", "turn").rows()
    lacking = {question for question, turn in asked if found.get((question, turn)) is None}
    if lacking.issuperset(items["question_id"]):
        shown = "; ".join(repr(text[:60]) for text in items["question"].head(_LISTED))
        raise ConfigError(
            f"{field}: {path!r} answers none of the {len(lacking)} questions of {settings.questions!r} ({shown}; …) in "
            f"all turns; is it of another benchmark? Give a file of {name!r}"
        )
    rows = []
    for place in asked:
        text = found.get(place)
        rows.append((*place, None, NOT_GIVEN) if text is None else (*place, text, GIVEN))
    schema = {"question_id": pl.String, "turn": pl.Int64, "response": pl.String, "finish_reason": pl.String}
    return pl.DataFrame(rows, schema=schema, orient="row")


def _answers(settings: JudgedBenchmark, path: str, items: pl.DataFrame) -> dict[tuple[str, int], str | None]:
    """Question and turn → answer; nothing where it failed."""
    if isinstance(settings, AlpacaEvalBenchmark):
        outputs = read_outputs(path)
        asked = items.select("question_id", "turn", "question").rows()
        return {(question, turn): outputs.get(text) for question, turn, text in asked}
    answers = read_answers(path)
    return {(question, turn): text for question, turns in answers.items() for turn, text in enumerate(turns, start=1)}


def _model_of(settings: JudgedBenchmark, fields: Mapping[str, Any]) -> str:
    return str(fields.get("generator" if isinstance(settings, AlpacaEvalBenchmark) else "model_id") or "")


def _form(settings: JudgedBenchmark) -> str:
    if isinstance(settings, AlpacaEvalBenchmark):
        return "instruction and output in each row (model_outputs.json)"
    return "question_id and choices with turns in each row (FastChat's model_answer)"
