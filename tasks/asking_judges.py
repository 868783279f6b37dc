"""Texts → replies → verdicts: what the judge's stage and `tapir judge-check` do with one judge. Knows no Prefect."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any, TypeVar, cast

from tapir_core.calls import Answer, IsStopped, OnOutcome, Parsed, Request, ask_read, forget_unread, never_stopped
from tapir_core.config import JudgeConfig, Order
from tapir_core.judging import (
    Verdict,
    arrange,
    combine_points,
    pair_verdict,
    parse_pointwise,
    parse_verdict,
    render_pairwise,
    render_pointwise,
)
from tapir_core.prompts import Prompt
from tapir_core.replies import Unparsed
from tasks.asking import chat, make_request
from tasks.runtime import Role, Runtime

__all__ = [
    "PROMPTS",
    "Judged",
    "Place",
    "ask_judge",
    "count_lacking",
    "forget_judge",
    "judge_requests",
    "read_verdicts",
    "render_texts",
]

PROMPTS = {"pairwise": "judge", "pointwise": "judge_pointwise"}
"""Prompt of each mode."""

Row = Mapping[str, str]
"""instruction_id, instruction, system, reference, teacher (its response), student (its response)."""
Place = tuple[str, str]
"""An instruction's id with the order in which it is judged; pointwise, with whose answer is."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Judged:
    """A verdict as far as it is known."""

    verdict: Verdict
    retryable: bool
    """Whether it is unscored only because a reply did not come."""


def render_texts(judge: JudgeConfig, prompt: Prompt, rows: Iterable[Row]) -> dict[Place, str]:
    """What a judge is to read about ``rows``, in their order: in pairwise mode both answers, in each order."""
    if judge.mode == "pairwise":
        return {
            (row["instruction_id"], order): _pairwise_text(prompt, row, order)
            for row, order in product(rows, judge.orders)
        }
    return {
        (row["instruction_id"], who): render_pointwise(
            prompt, row["instruction"], row["system"], row[who], row["reference"]
        )
        for row, who in product(rows, ("student", "teacher"))
    }


def judge_requests(runtime: Runtime, role: Role, prompt: Prompt, texts: Mapping[Place, str]) -> list[Request]:
    """One request for each text."""
    sampling = runtime.config.judge.sampling
    return [
        make_request(runtime.run, "judge", role.voice, chat(text), sampling, prompt=prompt) for text in texts.values()
    ]


def ask_judge(
    runtime: Runtime,
    role: Role,
    prompt: Prompt,
    texts: Mapping[Place, str],
    *,
    on_outcome: OnOutcome,
    is_stopped: IsStopped = never_stopped,
    first: int = 0,
) -> dict[Place, Parsed[Any]]:
    """What one judge replies to ``texts``, with the scores in it."""
    requests, read, reasks = judge_requests(runtime, role, prompt, texts), _reader(runtime), runtime.config.judge.reasks
    asked = ask_read(
        runtime.calls,
        requests,
        role.source,
        read,
        reasks,
        on_outcome=on_outcome,
        is_stopped=is_stopped,
        first=first,
    )
    return dict(zip(texts, asked, strict=True))


def forget_judge(runtime: Runtime, role: Role, prompt: Prompt, texts: Mapping[Place, str]) -> int:
    """Delete the stored replies of one judge to ``texts`` that have no scores, so that it is asked anew; how many."""
    requests, read = judge_requests(runtime, role, prompt, texts), _reader(runtime)
    return forget_unread(runtime.calls, requests, read, runtime.config.judge.reasks)


def count_lacking(runtime: Runtime, role: Role, prompt: Prompt, texts: Mapping[Place, str]) -> int:
    """How many of ``texts`` the store has no reply of this judge to."""
    requests = judge_requests(runtime, role, prompt, texts)
    return len(requests) - runtime.calls.count_stored(requests)


def read_verdicts(replies: Mapping[Place, Parsed[Any]], judge: str) -> Iterator[Judged]:
    """One verdict for each instruction and order of ``replies``; pointwise, one for each instruction."""
    for (instruction_id, place), reply in replies.items():
        if place == "student":
            teacher = replies[instruction_id, "teacher"]
            points = (_value(reply), _value(teacher))
            verdict = combine_points(instruction_id, *points, reply.raw, judge)
            yield Judged(verdict, reply.retryable or teacher.retryable)
        elif place != "teacher":
            verdict = pair_verdict(instruction_id, cast(Order, place), _value(reply), reply.raw, judge)
            yield Judged(verdict, reply.retryable)


def _reader(runtime: Runtime) -> Callable[[int, Answer], Any]:
    parse = parse_verdict if runtime.config.judge.mode == "pairwise" else parse_pointwise
    return lambda _, answer: parse(answer.text)


def _pairwise_text(prompt: Prompt, row: Row, order: Order) -> str:
    shown = arrange(order, student=row["student"], teacher=row["teacher"])
    return render_pairwise(prompt, row["instruction"], row["system"], shown.answer_1, shown.answer_2, row["reference"])


def _value(reply: Parsed[T]) -> T | Unparsed:
    return reply.value or Unparsed(reply.reason)
