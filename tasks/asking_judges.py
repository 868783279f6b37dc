"""Texts → replies → verdicts: what the judge's stage and `tapir judge-check` do with one judge. Knows no Prefect."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any, TypeVar

from tapir_core.calls import Answer, IsStopped, OnOutcome, Parsed, Request, ask_read, forget_unread, never_stopped
from tapir_core.config import JudgeConfig
from tapir_core.judging import JudgeMode, Verdict, mode_of
from tapir_core.prompts import Prompt
from tapir_core.text import Unparsed
from tasks.asking import chat, make_request
from tasks.runtime import Role, Runtime

__all__ = [
    "Judged",
    "Place",
    "ask_judge",
    "count_lacking",
    "forget_judge",
    "judge_requests",
    "read_verdicts",
    "render_texts",
]

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
    mode = mode_of(judge)
    return {
        (row["instruction_id"], place): mode.render(prompt, row, place)
        for row, place in product(rows, mode.places(judge))
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


def read_verdicts(mode: JudgeMode, replies: Mapping[Place, Parsed[Any]], judge: str) -> Iterator[Judged]:
    """One verdict for each instruction and order of ``replies``; pointwise, one for each instruction."""
    for instruction_id, place in replies:
        if parts := [replies[instruction_id, each] for each in mode.rests_on(place)]:
            verdict = mode.combine(instruction_id, place, [_value(part) for part in parts], parts[0].raw, judge)
            yield Judged(verdict, any(part.retryable for part in parts))


def _reader(runtime: Runtime) -> Callable[[int, Answer], Any]:
    parse = mode_of(runtime.config.judge).parse
    return lambda _, answer: parse(answer.text)


def _value(reply: Parsed[T]) -> T | Unparsed:
    return reply.value or Unparsed(reply.reason)
