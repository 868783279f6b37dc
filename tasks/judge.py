"""Stage `judge`: (s_student, s_teacher) ← J(x, ỹ, y), in every configured order."""

from collections import Counter
from itertools import product
from typing import Any

import polars as pl

from tapir_core.calls import Parsed, Request, ask_parsed
from tapir_core.config import Order
from tapir_core.judging import (
    Verdict,
    arrange,
    combine_points,
    pair_verdict,
    parse_pointwise,
    parse_verdict,
    render_pairwise,
    render_pointwise,
    unscored,
    verdict_rows,
)
from tapir_core.prompts import Prompt
from tapir_core.replies import Unparsed
from tapir_core.run_folder import RunFolder
from tapir_core.stages import StageAt
from tasks._task import Worked, shard_task
from tasks.asking import chat, counts_of, make_request, missing_by_kind, report_rows
from tasks.inputs import round_pool
from tasks.runtime import current

__all__ = ["judge_rows", "judge_shard"]

Row = dict[str, str]
"""instruction_id, instruction, system, reference, teacher (its response), student (its response)."""


@shard_task("judge", reads="answer")
def judge_shard(run: RunFolder, at: StageAt, rows: pl.DataFrame) -> Worked:
    """Verdicts on the answers of one answer shard."""
    pool = round_pool(run, at.number).rename({"response": "teacher"})
    answers = rows.select("instruction_id", "finish_reason", student="response")
    return judge_rows(run, at, answers.join(pool, on="instruction_id", maintain_order="left"))


def judge_rows(run: RunFolder, at: StageAt, rows: pl.DataFrame) -> Worked:
    """Verdicts on rows with both answers; a row without a student answer is unscored with the reason."""
    judged = rows.filter(pl.col("student").is_not_null()).to_dicts()
    ask = _ask_pairwise if run.config.judge.mode == "pairwise" else _ask_pointwise
    verdicts, asked = ask(run, at, judged)
    orders = run.config.judge.orders if run.config.judge.mode == "pairwise" else ("pointwise",)
    silent = rows.filter(pl.col("student").is_null()).select("instruction_id", "finish_reason")
    verdicts += [
        unscored(instruction_id, order, f"no student answer: {reason}")
        for (instruction_id, reason), order in product(silent.iter_rows(), orders)
    ]
    verdicts.sort(key=lambda verdict: (verdict.instruction_id, verdict.order))
    reasons = Counter(f"unscored: {verdict.reason}" for verdict in verdicts if verdict.status == "unscored")
    missing = missing_by_kind([each.outcome for each in asked])
    return Worked(verdict_rows(verdicts), {**counts_of(asked), **reasons}, missing)


def _ask_pairwise(run: RunFolder, at: StageAt, rows: list[Row]) -> tuple[list[Verdict], list[Parsed[Any]]]:
    judge, prompt = run.config.judge, current(run).prompt("judge")
    grid: list[tuple[Row, Order]] = list(product(rows, judge.orders))

    def message(row: Row, order: Order) -> str:
        shown = arrange(order, student=row["student"], teacher=row["teacher"])
        reference = row["reference"]
        return render_pairwise(prompt, row["instruction"], row["system"], shown.answer_1, shown.answer_2, reference)

    requests = [_request(run, message(row, order), prompt) for row, order in grid]
    asked = ask_parsed(
        current(run).calls,
        requests,
        current(run).judge.source,
        parse_verdict,
        judge.reasks,
        on_outcome=report_rows(run, at),
    )
    verdicts = [
        pair_verdict(row["instruction_id"], order, each.value or Unparsed(each.reason), each.raw)
        for (row, order), each in zip(grid, asked, strict=True)
        if not each.retryable
    ]
    return verdicts, asked


def _ask_pointwise(run: RunFolder, at: StageAt, rows: list[Row]) -> tuple[list[Verdict], list[Parsed[Any]]]:
    judge, prompt = run.config.judge, current(run).prompt("judge_pointwise")

    def request(row: Row, who: str) -> Request:
        text = render_pointwise(prompt, row["instruction"], row["system"], row[who], row["reference"])
        return _request(run, text, prompt)

    requests = [request(row, who) for who in ("student", "teacher") for row in rows]
    asked = ask_parsed(
        current(run).calls,
        requests,
        current(run).judge.source,
        parse_pointwise,
        judge.reasks,
        on_outcome=report_rows(run, at),
    )
    of_student, of_teacher = asked[: len(rows)], asked[len(rows) :]
    verdicts = [
        combine_points(
            row["instruction_id"],
            student.value or Unparsed(student.reason),
            teacher.value or Unparsed(teacher.reason),
            student.raw,
        )
        for row, student, teacher in zip(rows, of_student, of_teacher, strict=True)
        if not student.retryable and not teacher.retryable
    ]
    return verdicts, asked


def _request(run: RunFolder, text: str, prompt: Prompt) -> Request:
    return make_request(run, "judge", current(run).judge.voice, chat(text), run.config.judge.sampling, prompt=prompt)
