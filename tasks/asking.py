"""From rows to requests and back, for all stages that call a model and for `tapir judge-check`; no Prefect."""

import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from itertools import chain, islice, product, zip_longest
from typing import Any

import polars as pl

from tapir_core import calls, thoughts, tools, turns, verifiers
from tapir_core.calls import timing, words
from tapir_core.config import JudgeConfig, ModelIdentity, Sampling
from tapir_core.curriculum import broken_reason
from tapir_core.errors import ConfigError
from tapir_core.judging import JudgeMode, Verdict, mode_of
from tapir_core.prompts import Prompt
from tapir_core.run_folder import RunFolder
from tapir_core.stages import ANSWER, StageAt
from tapir_core.text import Unparsed, shorten
from tasks.outcomes import FEWEST_ASKED, Sample, Worked, can_be_given_up, why_lost
from tasks.runtime import AskedModel, Runtime, current

logger = logging.getLogger(__name__)


MOST_SAMPLES = 10
"""Failed rows that a shard shows."""
LONGEST_SAID = 200
LONGEST_BEGINNING = 120
"""Characters that a sample keeps of the provider's message, and of the instruction."""


def chat(prompt: str) -> tuple[calls.Message, ...]:
    """A prompt as one user message."""
    return (calls.Message("user", prompt),)


def message(turn: Mapping[str, str]) -> calls.Message:
    """A message of a mixture."""
    return calls.Message(turn["role"], turn["content"])  # type: ignore[arg-type]  # roles are checked where they are read


def conversation(row: turns.Row) -> tuple[calls.Message, ...]:
    """An instruction with its system text and its earlier turns, as chat messages."""
    return tuple(calls.Message(*turn) for turn in turns.messages_of(row))


def make_request(
    run: RunFolder,
    role: calls.Role,
    who: ModelIdentity,
    messages: tuple[calls.Message, ...],
    sampling: Sampling,
    *,
    prompt: Prompt | None = None,
    sample_index: int = 0,
    top_logprobs: int = 0,
    schema: str = "",
) -> calls.Request:
    """A request of this run in a role."""
    return calls.Request(
        role=role,
        messages=messages,
        model=who.model,
        identity=who.identity,
        sampling=sampling,
        sample_index=sample_index,
        top_logprobs=top_logprobs,
        prompt_version=prompt.version if prompt else "",
        run=run.ref.name,
        schema=schema,
    )


def watch(
    run: RunFolder, at: StageAt, counts_as: Callable[[calls.Outcome], calls.Outcome] = lambda outcome: outcome
) -> calls.Watch:
    """Follows the requests of one shard: counts its rows as progress, and gives up a stage that cannot succeed.

    ``counts_as`` turns an unusable answer into the failure that it counts as. The first rows of a stage are finished
    before the others are asked, so that such a stage is known early (`tasks.outcomes`).
    """
    progress, asked = current(run).progress, at.stage.asks
    count = progress.row_counter(at)

    def on_outcome(place: int, outcome: calls.Outcome) -> None:
        counted = counts_as(outcome)
        if isinstance(counted, calls.Failure) and counted.refuses_all:
            progress.given_up.setdefault(asked, counted.message)
        if not isinstance(counted, calls.Failure) or counted.retryable:
            count(missing=isinstance(counted, calls.Failure), place=place)
            return
        count(place=place, failed=counted.kind)
        if why := why_lost(at, *progress.failed(at), shorten(counted.message, LONGEST_SAID), run.config):
            progress.given_up.setdefault(asked, why)

    enough, (_, reached) = 2 * FEWEST_ASKED, progress.failed(at)
    first = enough if reached < enough and can_be_given_up(at, run.config) else 0
    return calls.Watch(on_outcome, lambda: asked in progress.given_up, first)


def ask_plainly(
    run: RunFolder,
    at: StageAt,
    role: calls.Role,
    model: AskedModel,
    sampling: Sampling,
    rows: pl.DataFrame,
    counts_as: Callable[[calls.Outcome], calls.Outcome] = lambda outcome: outcome,
    *,
    schema: str = "",
    samples: int = 1,
) -> list[calls.Outcome]:
    """Outcomes of ``model`` for rows of instructions, asked without a prompt; ``counts_as`` is as in `watch`.

    Of several ``samples`` the outcomes of a row stand together; it counts once all are in, by the best of them.
    """
    requests = [
        make_request(run, role, model.identity, conversation(row), sampling, schema=schema, sample_index=sample)
        for row in rows.iter_rows(named=True)
        for sample in range(samples)
    ]
    outcomes = current(run).calls.ask(requests, model.source, _by_row(watch(run, at, counts_as), samples, counts_as))
    texts = [each.text for each in outcomes if isinstance(each, calls.Answer)]
    for mark, count in Counter(map(words.unknown_mark, texts)).most_common(1):
        if mark and len(texts) >= FEWEST_ASKED and 2 * count > len(texts):
            _say_of_mark(str(at), mark)
    return outcomes


def _by_row(watched: calls.Watch, samples: int, counts_as: Callable[[calls.Outcome], calls.Outcome]) -> calls.Watch:
    """The same for rows of so many requests each."""
    known = defaultdict[int, list[calls.Outcome]](list)

    def worth(outcome: calls.Outcome) -> int:
        counted = counts_as(outcome)
        return 2 if isinstance(counted, calls.Answer) else int(counted.retryable)

    def on_outcome(place: int, outcome: calls.Outcome) -> None:
        of_row = known[place // samples]
        of_row.append(outcome)
        if len(of_row) == samples:
            watched.on_outcome(place // samples, max(known.pop(place // samples), key=worth))

    return replace(watched, on_outcome=on_outcome, first=watched.first * samples)


@cache
def _say_of_mark(at: str, mark: str) -> None:
    logger.warning(
        "%s: most answers begin with %s: if thoughts stand behind it, have the server put them apart from the answer",
        at,
        mark,
    )


def demand_whole(outcome: calls.Outcome) -> calls.Outcome:
    """A teacher's outcome; for an answer that is cut off, empty or ended by a filter, the failure `bad_reply`.

    This only changes the counts: the answer keeps its row, and is dropped from the pool later.
    """
    reason = broken_reason(outcome.text, outcome.finish_reason) if isinstance(outcome, calls.Answer) else None
    return calls.Failure("bad_reply", f"{reason}: {text_of(outcome)}") if reason else outcome


def obeying(outcome: calls.Outcome, schema: str) -> calls.Outcome:
    """The outcome; of an answer that does not obey ``schema`` with the ending that makes it unusable.

    A call of a tool obeys the tool, and no schema.
    """
    if not (schema and isinstance(outcome, calls.Answer)) or broken_reason(outcome.text, outcome.finish_reason):
        return outcome
    return outcome if obeys(outcome.text, schema) else replace(outcome, finish_reason=DISOBEYS)


DISOBEYS = "failed:schema"
"""Ending of an answer that is not as its schema says."""


def obeys(text: str, schema: str) -> bool:
    """Whether an answer, behind its thought, is JSON as ``schema`` says; a call of a tool obeys the tool alone."""
    bare = thoughts.split(text)[1].strip()
    return bool(tools.calls_in(bare)[1]) or (bare[:1] in "{[" and verifiers.json_schema("", bare, schema) != 0.0)


def demand_stored(run: RunFolder, at: StageAt, scored: Sequence[calls.Request], otherwise: str) -> None:
    """Refuse to read replies again if some are missing from the store: they would be paid for again.

    ``scored`` are requests whose replies have scores, ``otherwise`` the command that asks for the whole stage.

    Raises:
        ConfigError: with the ways on.
    """
    if lacking := len(scored) - current(run).calls.count_stored(scored):
        raise ConfigError(
            f"{at}: the store lacks {lacking} replies that have scores, so that they would be paid for again. Copy "
            f"them from a store that has them: `tapir store copy FROM {calls.store_url(run.config)}`. Or remove "
            f"{run.ref.root}/{run.ref.name}/{at.folder}, and {otherwise} asks for all of them anew"
        )


def failures_by_kind(outcomes: Sequence[calls.Outcome], *, retryable: bool) -> dict[str, int]:
    """Failures that are retryable, or those that are terminal, counted by kind."""
    return dict(
        Counter(each.kind for each in outcomes if isinstance(each, calls.Failure) and each.retryable == retryable)
    )


def worked(
    made: pl.DataFrame, counts: dict[str, float], asked: pl.DataFrame, outcomes: Sequence[calls.Outcome]
) -> Worked:
    """The work of a stage that ``made`` a table of one outcome for each row of ``asked``."""
    return Worked(
        made,
        counts,
        missing=failures_by_kind(outcomes, retryable=True),
        failed=failures_by_kind(outcomes, retryable=False),
        asked=len(outcomes),
        samples=sample_failures(asked.select("instruction_id", "instruction").iter_rows(), outcomes),
    )


def sample_failures(asked: Iterable[tuple[str, str]], outcomes: Sequence[calls.Outcome]) -> tuple[Sample, ...]:
    """The first failures, one of each kind in turn; ``asked`` has id and instruction of each outcome."""
    by_kind = defaultdict[str, list[Sample]](list)
    for (instruction_id, instruction), outcome in zip(asked, outcomes, strict=True):
        if isinstance(outcome, calls.Failure):
            said, beginning = shorten(outcome.message, LONGEST_SAID), shorten(instruction, LONGEST_BEGINNING)
            by_kind[outcome.kind].append(Sample(instruction_id, outcome.kind, outcome.attempts, said, beginning))
    return tuple(islice(filter(None, chain.from_iterable(zip_longest(*by_kind.values()))), MOST_SAMPLES))


NOT_ASKED = calls.Answer("", "", 0, 0)
"""The outcome of a row whose value is known without asking."""


def counts_of(parsed: Sequence[calls.Parsed[Any]]) -> dict[str, float]:
    """What parsed replies cost, including re-asks."""
    return count_paid([outcome for each in parsed for outcome in each.outcomes if outcome is not NOT_ASKED])


def count_paid(outcomes: Sequence[calls.Outcome]) -> dict[str, float]:
    """What answers cost: calls made now, answers from the store, tokens and USD of both."""
    answers = [each for each in outcomes if isinstance(each, calls.Answer)]
    return {
        "calls": sum(not each.stored for each in answers),
        "stored": sum(each.stored for each in answers),
        "prompt_tokens": sum(each.prompt_tokens for each in answers),
        "completion_tokens": sum(each.completion_tokens for each in answers),
        "usd": round(sum(each.usd for each in answers), 6),
    }


def count_timed(outcomes: Iterable[calls.Outcome], by: str = "") -> dict[str, float]:
    """How long answers that were not in the store took; ``by`` names the engine, if known."""
    answers = (each for each in outcomes if isinstance(each, calls.Answer) and not each.stored)
    return timing.timing_counts(((each.completion_tokens, each.timing) for each in answers if each.timing), by)


def ending_of(outcome: calls.Outcome) -> str:
    """An outcome's finish reason; for a failure `refused` or `failed:<kind>`."""
    if isinstance(outcome, calls.Answer):
        return outcome.finish_reason
    return "refused" if outcome.kind == "refused" else f"failed:{outcome.kind}"


def text_of(outcome: calls.Outcome) -> str | None:
    """An outcome's text; None for a failure."""
    return outcome.text if isinstance(outcome, calls.Answer) else None


def answer_cells(outcome: calls.Outcome) -> tuple[object, ...]:
    """The cells of an outcome in a table of answers, behind those that name the row; a failure has no response."""
    tokens = (outcome.prompt_tokens, outcome.completion_tokens) if isinstance(outcome, calls.Answer) else (0, 0)
    return (text_of(outcome), ending_of(outcome), *tokens)


def answer_rows(
    asked: pl.DataFrame,
    outcomes: Sequence[calls.Outcome],
    counts_as: Callable[[calls.Outcome], calls.Outcome] = lambda outcome: outcome,
    *,
    by: str = "",
) -> Worked:
    """Answers to ``asked`` as the tables `teacher`, `answers` and `heldout_answers` hold them, without missing rows.

    A terminal failure keeps its row: no response, and the kind of failure as finish reason. ``counts_as`` is as in
    `watch`; ``by`` names the engine, if known.
    """
    rows = [
        (instruction_id, *answer_cells(outcome))
        for instruction_id, outcome in zip(asked["instruction_id"], outcomes, strict=True)
        if isinstance(outcome, calls.Answer) or not outcome.retryable
    ]
    frame = pl.DataFrame(rows, schema=ANSWER.columns, orient="row")
    counts = {
        **count_paid(outcomes),
        **{f"failed_{kind}": count for kind, count in failures_by_kind(outcomes, retryable=False).items()},
        **count_timed(outcomes, by),
    }
    return worked(frame, counts, asked, list(map(counts_as, outcomes)))


VerdictKey = tuple[str, str]
"""An instruction's id with the order in which it is judged; in pointwise mode, with whose answer is judged."""


def render_texts(judge: JudgeConfig, prompt: Prompt, rows: Iterable[Mapping[str, str]]) -> dict[VerdictKey, str]:
    """The judge's prompts for ``rows``, in their order; in pairwise mode with both answers, in each order.

    A row has instruction_id, instruction, system, reference, teacher (its response) and student (its response).
    """
    mode = mode_of(judge)
    return {
        (row["instruction_id"], place): mode.render(prompt, row, place) for row, place in product(rows, mode.places())
    }


def judge_requests(
    runtime: Runtime, judge: AskedModel, prompt: Prompt, texts: Mapping[VerdictKey, str]
) -> list[calls.Request]:
    """One request for each text."""
    sampling, schema = runtime.config.judge.sampling, mode_of(runtime.config.judge).schema
    return [
        make_request(runtime.run, "judge", judge.identity, chat(text), sampling, prompt=prompt, schema=schema)
        for text in texts.values()
    ]


def verdict_reader(
    judge: JudgeConfig, requests: Sequence[calls.Request]
) -> Callable[[int, calls.Answer], Any | Unparsed]:
    """The parser of verdicts on ``requests``, for `calls.ask_read`."""
    parse = mode_of(judge).parse
    return lambda place, answer: parse(answer.text, requests[place].messages[-1].content)


def ask_judge(
    runtime: Runtime,
    judge: AskedModel,
    prompt: Prompt,
    texts: Mapping[VerdictKey, str],
    watch: calls.Watch,
) -> dict[VerdictKey, calls.Parsed[Any]]:
    """The parsed replies of one judge to ``texts``."""
    settings, requests = runtime.config.judge, judge_requests(runtime, judge, prompt, texts)
    asked = calls.ask_read(
        runtime.calls, requests, judge.source, verdict_reader(settings, requests), settings.reasks, watch
    )
    return dict(zip(texts, asked, strict=True))


def read_verdicts(
    mode: JudgeMode, replies: Mapping[VerdictKey, calls.Parsed[Any]], judge: str, *, missing: bool = False
) -> Iterator[Verdict]:
    """One verdict for each instruction and order of ``replies``; pointwise, one for each instruction.

    A verdict whose reply may still come is left out, or unscored with ``missing``.
    """
    for instruction_id, place in replies:
        parts = [replies[instruction_id, each] for each in mode.rests_on(place)]
        if parts and (missing or not any(part.retryable for part in parts)):
            values = [part.value or Unparsed(part.reason) for part in parts]
            yield mode.combine(instruction_id, place, values, parts[0].raw, judge)
