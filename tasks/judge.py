"""Stage `judge`: (s_student, s_teacher) ← J(x, ỹ, y), in every configured order."""

from collections import Counter
from collections.abc import Callable
from itertools import product
from typing import Any, TypeVar

import polars as pl

from tapir_core.calls import Parsed, Request, all_samples, ask_parsed
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

__all__ = ["forget_unscored", "judge_rows", "judge_shard"]

Row = dict[str, str]
"""instruction_id, instruction, system, reference, teacher (its response), student (its response)."""
P = TypeVar("P", bound=tuple[str, str])
"""An instruction's id with the order in which it is judged, or with whose answer is."""


@shard_task("judge", reads="answer")
def judge_shard(run: RunFolder, at: StageAt, rows: pl.DataFrame) -> Worked:
    """Verdicts on the answers of one answer shard."""
    return judge_rows(run, at, _with_both_answers(run, at, rows))


def forget_unscored(run: RunFolder, at: StageAt) -> int:
    """Delete the stored replies of every verdict that is unscored, so that it is asked anew; gives how many."""
    ids = run.rows(at).filter(status="unscored")["instruction_id"].unique()
    answers = run.rows(StageAt("answer", at.number)).filter(pl.col("instruction_id").is_in(ids.implode()))
    rows = _with_both_answers(run, at, answers).filter(pl.col("student").is_not_null()).to_dicts()
    pairwise = run.config.judge.mode == "pairwise"
    asked = (_pairwise_requests if pairwise else _pointwise_requests)(run, rows).values()
    again = [sample for request in asked for sample in all_samples(request, run.config.judge.reasks)]
    return current(run).calls.forget(again)


def _with_both_answers(run: RunFolder, at: StageAt, answers: pl.DataFrame) -> pl.DataFrame:
    """Student answers with their instruction and the teacher's answer beside them."""
    pool = round_pool(run, at.number).rename({"response": "teacher"})
    students = answers.select("instruction_id", "finish_reason", student="response")
    return students.join(pool, on="instruction_id", maintain_order="left")


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
    asked = _ask(run, at, _pairwise_requests(run, rows), parse_verdict)
    verdicts = [
        pair_verdict(instruction_id, order, each.value or Unparsed(each.reason), each.raw)
        for (instruction_id, order), each in asked.items()
        if not each.retryable
    ]
    return verdicts, list(asked.values())


def _ask_pointwise(run: RunFolder, at: StageAt, rows: list[Row]) -> tuple[list[Verdict], list[Parsed[Any]]]:
    asked = _ask(run, at, _pointwise_requests(run, rows), parse_pointwise)
    pairs = [
        (row["instruction_id"], asked[row["instruction_id"], "student"], asked[row["instruction_id"], "teacher"])
        for row in rows
    ]
    verdicts = [
        combine_points(
            instruction_id,
            student.value or Unparsed(student.reason),
            teacher.value or Unparsed(teacher.reason),
            student.raw,
        )
        for instruction_id, student, teacher in pairs
        if not student.retryable and not teacher.retryable
    ]
    return verdicts, list(asked.values())


def _ask(run: RunFolder, at: StageAt, requests: dict[P, Request], parse: Callable[[str], Any]) -> dict[P, Parsed[Any]]:
    engine, source, reasks = current(run).calls, current(run).judge.source, run.config.judge.reasks
    on_outcome = report_rows(run, at)
    asked = ask_parsed(engine, list(requests.values()), source, parse, reasks, on_outcome=on_outcome)
    return dict(zip(requests, asked, strict=True))


def _pairwise_requests(run: RunFolder, rows: list[Row]) -> dict[tuple[str, Order], Request]:
    prompt = current(run).prompt("judge")

    def message(row: Row, order: Order) -> str:
        shown = arrange(order, student=row["student"], teacher=row["teacher"])
        reference = row["reference"]
        return render_pairwise(prompt, row["instruction"], row["system"], shown.answer_1, shown.answer_2, reference)

    grid = product(rows, run.config.judge.orders)
    return {(row["instruction_id"], order): _request(run, message(row, order), prompt) for row, order in grid}


def _pointwise_requests(run: RunFolder, rows: list[Row]) -> dict[tuple[str, str], Request]:
    prompt = current(run).prompt("judge_pointwise")

    def message(row: Row, who: str) -> str:
        return render_pointwise(prompt, row["instruction"], row["system"], row[who], row["reference"])

    grid = product(rows, ("student", "teacher"))
    return {(row["instruction_id"], who): _request(run, message(row, who), prompt) for row, who in grid}


def _request(run: RunFolder, text: str, prompt: Prompt) -> Request:
    return make_request(run, "judge", current(run).judge.voice, chat(text), run.config.judge.sampling, prompt=prompt)
