"""From rows to requests and back: what the stages that call a model share."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import polars as pl

from tapir_core.calls import Answer, Failure, Message, Outcome, Parsed, Request, Role
from tapir_core.config import Sampling
from tapir_core.prompts import Prompt
from tapir_core.run_folder import RunFolder
from tapir_core.stages import StageAt
from tapir_core.voices import Voice
from tasks._task import Worked
from tasks.runtime import current

__all__ = [
    "answer_rows",
    "chat",
    "count_paid",
    "counts_of",
    "ending_of",
    "make_request",
    "missing_by_kind",
    "report_rows",
    "text_of",
]


def chat(instruction: str, system: str | None = None) -> tuple[Message, ...]:
    """An instruction as chat messages."""
    user = Message("user", instruction)
    return (Message("system", system), user) if system else (user,)


def make_request(
    run: RunFolder,
    role: Role,
    voice: Voice,
    messages: tuple[Message, ...],
    sampling: Sampling,
    *,
    prompt: Prompt | None = None,
    sample_index: int = 0,
) -> Request:
    """A request of this run in a role."""
    return Request(
        role=role,
        messages=messages,
        model=voice.model,
        identity=voice.identity,
        sampling=sampling,
        sample_index=sample_index,
        prompt_version=prompt.version if prompt else "",
        run=run.ref.name,
    )


def report_rows(run: RunFolder, at: StageAt) -> Callable[[int, Outcome], None]:
    """A callback that moves the progress of ``at`` by one row an outcome."""
    count = current(run).progress.row_counter(at)

    def on_outcome(_: int, outcome: Outcome) -> None:
        count(isinstance(outcome, Failure) and outcome.retryable)

    return on_outcome


def missing_by_kind(outcomes: Sequence[Outcome]) -> dict[str, int]:
    """Retryable failures, counted by kind."""
    return dict(Counter(each.kind for each in outcomes if isinstance(each, Failure) and each.retryable))


def counts_of(parsed: Sequence[Parsed[Any]]) -> dict[str, float]:
    """What parsed replies cost, those that had to be asked again included."""
    return count_paid([outcome for each in parsed for outcome in each.outcomes])


def count_paid(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """What answers cost: calls made now, answers re-used from the store, tokens, USD of both."""
    answers = [each for each in outcomes if isinstance(each, Answer)]
    return {
        "calls": sum(not each.stored for each in answers),
        "stored": sum(each.stored for each in answers),
        "prompt_tokens": sum(each.prompt_tokens for each in answers),
        "completion_tokens": sum(each.completion_tokens for each in answers),
        "usd": round(sum(each.usd for each in answers), 6),
    }


def ending_of(outcome: Outcome) -> str:
    """An outcome's finish reason; of a failure `refused` or `failed:<kind>`."""
    if isinstance(outcome, Answer):
        return outcome.finish_reason
    return "refused" if outcome.kind == "refused" else f"failed:{outcome.kind}"


def text_of(outcome: Outcome) -> str | None:
    """An outcome's text; nothing of a failure."""
    return outcome.text if isinstance(outcome, Answer) else None


def answer_rows(ids: Sequence[str], outcomes: Sequence[Outcome]) -> Worked:
    """Answers as the tables `teacher`, `answers` and `heldout_answers` hold them; missing rows are left out.

    A terminal failure keeps its row: no response, and the kind of failure as finish reason.
    """
    rows: list[tuple[object, ...]] = []
    for instruction_id, outcome in zip(ids, outcomes, strict=True):
        if isinstance(outcome, Answer):
            row = (
                instruction_id,
                outcome.text,
                outcome.finish_reason,
                outcome.prompt_tokens,
                outcome.completion_tokens,
            )
            rows.append(row)
        elif not outcome.retryable:
            rows.append((instruction_id, None, ending_of(outcome), 0, 0))
    schema = {
        "instruction_id": pl.String,
        "response": pl.String,
        "finish_reason": pl.String,
        "prompt_tokens": pl.Int64,
        "completion_tokens": pl.Int64,
    }
    frame = pl.DataFrame(rows, schema=schema, orient="row")
    failed = Counter(f"failed_{each.kind}" for each in outcomes if isinstance(each, Failure) and not each.retryable)
    return Worked(frame, {**count_paid(outcomes), **failed}, missing_by_kind(outcomes))
