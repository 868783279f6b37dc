"""From rows to requests and back: what the stages that call a model share, and `tapir judge-check`; no Prefect."""

import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain, islice, product, zip_longest
from typing import Any, TypeVar

import polars as pl

from tapir_core import calls, turns
from tapir_core.calls.thoughts import unknown_mark
from tapir_core.calls.timing import timing_counts
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

Found = TypeVar("Found")

MOST_SAMPLES = 10
"""Failed rows that a shard shows."""
LONGEST_SAID = 200
LONGEST_BEGINNING = 120
"""Characters that a sample keeps of what the provider said, and of the instruction."""


def chat(prompt: str) -> tuple[calls.Message, ...]:
    """One message, as most prompts are sent."""
    return (calls.Message("user", prompt),)


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


class Watch:
    """Follows what one shard asks: moves the progress of its stage a row an outcome, and gives a lost stage up.

    ``settle`` turns an answer that is of no use into the failure it counts as.
    """

    def __init__(
        self, run: RunFolder, at: StageAt, settle: Callable[[calls.Outcome], calls.Outcome] = lambda outcome: outcome
    ) -> None:
        self._config, self._at, self._settle = run.config, at, settle
        self._runtime, self._progress = current(run), current(run).progress
        self._count = self._progress.row_counter(at)

    def on_outcome(self, place: int, outcome: calls.Outcome) -> None:
        """Count the row; where it failed for good, look whether the stage is lost (`tasks.outcomes`)."""
        settled = self._settle(outcome)
        if isinstance(settled, calls.Failure) and settled.refuses_all:
            self._progress.given_up.setdefault(self._at.stage.asks, settled.message)
        if not isinstance(settled, calls.Failure) or settled.retryable:
            self._count(missing=isinstance(settled, calls.Failure), place=place)
            return
        self._count(place=place, failed=settled.kind)
        said = shorten(settled.message, LONGEST_SAID)
        if why := why_lost(self._at, *self._progress.failed(self._at), said, self._config):
            self._progress.given_up.setdefault(self._at.stage.asks, why)

    def ask(self, model: AskedModel, requests: Sequence[calls.Request]) -> list[calls.Outcome]:
        """What each request came to."""
        return self._runtime.calls.ask(requests, model.source, on_outcome=self.on_outcome, is_stopped=self.is_stopped)

    def ask_read(
        self,
        model: AskedModel,
        requests: Sequence[calls.Request],
        read: Callable[[calls.Answer], Found | Unparsed],
        reasks: int,
    ) -> list[calls.Parsed[Found]]:
        """What ``read`` finds in the reply to each request."""
        return calls.ask_read(
            self._runtime.calls,
            requests,
            model.source,
            lambda _, answer: read(answer),
            reasks,
            on_outcome=self.on_outcome,
            is_stopped=self.is_stopped,
            first=self.first,
        )

    def is_stopped(self) -> bool:
        """Whether who is asked here is asked no more."""
        return self._at.stage.asks in self._progress.given_up

    @property
    def first(self) -> int:
        """How many rows to finish first, so that a lost stage is known early; 0 once that many were reached."""
        enough, (_, reached) = 2 * FEWEST_ASKED, self._progress.failed(self._at)
        return enough if reached < enough and can_be_given_up(self._at, self._config) else 0


def ask_plainly(
    run: RunFolder,
    at: StageAt,
    role: calls.Role,
    model: AskedModel,
    sampling: Sampling,
    rows: pl.DataFrame,
    settle: Callable[[calls.Outcome], calls.Outcome] = lambda outcome: outcome,
) -> list[calls.Outcome]:
    """What ``model`` answers to each row (an instruction) as it stands; ``settle`` is as in `Watch`."""
    requests = [
        make_request(run, role, model.identity, conversation(row), sampling) for row in rows.iter_rows(named=True)
    ]
    outcomes = Watch(run, at, settle).ask(model, requests)
    texts = [each.text for each in outcomes if isinstance(each, calls.Answer)]
    for mark, count in Counter(map(unknown_mark, texts)).most_common(1):
        if mark and len(texts) >= FEWEST_ASKED and 2 * count > len(texts):
            _say_of_mark(str(at), mark)
    return outcomes


@cache
def _say_of_mark(at: str, mark: str) -> None:
    text = "%s: most answers begin with %s: if thoughts stand behind it, have the server put them apart from the answer"
    logger.warning(text, at, mark)


def demand_whole(outcome: calls.Outcome) -> calls.Outcome:
    """A teacher's outcome; of an answer that is cut off, empty or ended by a filter the failure `bad_reply`.

    Only what counts as failed changes by it: the answer keeps its row, and leaves the pool later.
    """
    reason = broken_reason(outcome.text, outcome.finish_reason) if isinstance(outcome, calls.Answer) else None
    return calls.Failure("bad_reply", f"{reason}: {text_of(outcome)}") if reason else outcome


def demand_stored(run: RunFolder, at: StageAt, scored: Sequence[calls.Request], otherwise: str) -> None:
    """Refuse to read replies again of which the store lacks some: they would be paid for again.

    ``scored`` are requests whose replies have scores, ``otherwise`` the command that asks for all of the stage.

    Raises:
        ConfigError: with the ways on.
    """
    if lacking := len(scored) - current(run).calls.count_stored(scored):
        raise ConfigError(
            f"{at}: the store lacks {lacking} replies that have scores, so that they would be paid for again. Copy "
            f"them from a store that has them: `tapir store copy FROM {calls.store_url(run.config)}`. Or remove "
            f"{run.ref.root}/{run.ref.name}/{at.folder}, and {otherwise} asks for all of them anew"
        )


def missing_by_kind(outcomes: Sequence[calls.Outcome]) -> dict[str, int]:
    """Retryable failures, counted by kind."""
    return dict(Counter(each.kind for each in outcomes if isinstance(each, calls.Failure) and each.retryable))


def failed_by_kind(outcomes: Sequence[calls.Outcome]) -> dict[str, int]:
    """Terminal failures, counted by kind."""
    return dict(Counter(each.kind for each in outcomes if isinstance(each, calls.Failure) and not each.retryable))


def worked(
    made: pl.DataFrame, counts: dict[str, float], asked: pl.DataFrame, outcomes: Sequence[calls.Outcome]
) -> Worked:
    """What a stage ``made`` of one outcome for each row of ``asked`` (columns instruction_id, instruction)."""
    samples = sample_failures(asked.select("instruction_id", "instruction").iter_rows(), outcomes)
    return Worked(made, counts, missing_by_kind(outcomes), failed_by_kind(outcomes), len(outcomes), samples)


def sample_failures(asked: Iterable[tuple[str, str]], outcomes: Sequence[calls.Outcome]) -> tuple[Sample, ...]:
    """The first failures of each kind in turn; ``asked`` is id and instruction of each outcome."""
    by_kind = defaultdict[str, list[Sample]](list)
    for (instruction_id, instruction), outcome in zip(asked, outcomes, strict=True):
        if isinstance(outcome, calls.Failure):
            said, beginning = shorten(outcome.message, LONGEST_SAID), shorten(instruction, LONGEST_BEGINNING)
            by_kind[outcome.kind].append(Sample(instruction_id, outcome.kind, outcome.attempts, said, beginning))
    in_turn = chain.from_iterable(zip_longest(*by_kind.values()))
    return tuple(islice(filter(None, in_turn), MOST_SAMPLES))


def counts_of(parsed: Sequence[calls.Parsed[Any]]) -> dict[str, float]:
    """What parsed replies cost, those that had to be asked again included."""
    return count_paid([outcome for each in parsed for outcome in each.outcomes])


def count_paid(outcomes: Sequence[calls.Outcome]) -> dict[str, float]:
    """What answers cost: calls made now, answers re-used from the store, tokens, USD of both."""
    answers = [each for each in outcomes if isinstance(each, calls.Answer)]
    return {
        "calls": sum(not each.stored for each in answers),
        "stored": sum(each.stored for each in answers),
        "prompt_tokens": sum(each.prompt_tokens for each in answers),
        "completion_tokens": sum(each.completion_tokens for each in answers),
        "usd": round(sum(each.usd for each in answers), 6),
    }


def count_timed(outcomes: Iterable[calls.Outcome], by: str = "") -> dict[str, float]:
    """How long the answers took that were asked for now; ``by`` says what gave them, where it is known."""
    answers = (each for each in outcomes if isinstance(each, calls.Answer) and not each.stored)
    return timing_counts(((each.completion_tokens, each.timing) for each in answers if each.timing), by)


def ending_of(outcome: calls.Outcome) -> str:
    """An outcome's finish reason; of a failure `refused` or `failed:<kind>`."""
    if isinstance(outcome, calls.Answer):
        return outcome.finish_reason
    return "refused" if outcome.kind == "refused" else f"failed:{outcome.kind}"


def text_of(outcome: calls.Outcome) -> str | None:
    """An outcome's text; nothing of a failure."""
    return outcome.text if isinstance(outcome, calls.Answer) else None


def answer_cells(outcome: calls.Outcome) -> tuple[object, ...]:
    """The cells of an outcome in a table of answers, behind those that name the row; a failure has no response."""
    tokens = (outcome.prompt_tokens, outcome.completion_tokens) if isinstance(outcome, calls.Answer) else (0, 0)
    return (text_of(outcome), ending_of(outcome), *tokens)


def answer_rows(
    asked: pl.DataFrame,
    outcomes: Sequence[calls.Outcome],
    settle: Callable[[calls.Outcome], calls.Outcome] = lambda outcome: outcome,
    *,
    by: str = "",
) -> Worked:
    """Answers to ``asked`` as the tables `teacher`, `answers` and `heldout_answers` hold them, without missing rows.

    A terminal failure keeps its row: no response, and the kind of failure as finish reason. ``settle`` says which
    answers are of no use, and count as failed; ``by`` what gave them, where it is known.
    """
    rows = [
        (instruction_id, *answer_cells(outcome))
        for instruction_id, outcome in zip(asked["instruction_id"], outcomes, strict=True)
        if isinstance(outcome, calls.Answer) or not outcome.retryable
    ]
    frame = pl.DataFrame(rows, schema=ANSWER.columns, orient="row")
    failed = {f"failed_{kind}": count for kind, count in failed_by_kind(outcomes).items()}
    counts = {**count_paid(outcomes), **failed, **count_timed(outcomes, by)}
    return worked(frame, counts, asked, list(map(settle, outcomes)))


Row = Mapping[str, str]
"""instruction_id, instruction, system, reference, teacher (its response), student (its response)."""
Place = tuple[str, str]
"""An instruction's id with the order in which it is judged; pointwise, with whose answer is."""


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


def judge_requests(
    runtime: Runtime, judge: AskedModel, prompt: Prompt, texts: Mapping[Place, str]
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
    """What reads the verdicts on ``requests``, as `calls.ask_read` wants it."""
    parse = mode_of(judge).parse
    return lambda place, answer: parse(answer.text, requests[place].messages[-1].content)


def ask_judge(
    runtime: Runtime,
    judge: AskedModel,
    prompt: Prompt,
    texts: Mapping[Place, str],
    *,
    on_outcome: calls.OnOutcome,
    is_stopped: calls.IsStopped = calls.never_stopped,
    first: int = 0,
) -> dict[Place, calls.Parsed[Any]]:
    """What one judge replies to ``texts``, with the scores in it."""
    settings, requests = runtime.config.judge, judge_requests(runtime, judge, prompt, texts)
    asked = calls.ask_read(
        runtime.calls,
        requests,
        judge.source,
        verdict_reader(settings, requests),
        settings.reasks,
        on_outcome=on_outcome,
        is_stopped=is_stopped,
        first=first,
    )
    return dict(zip(texts, asked, strict=True))


def read_verdicts(mode: JudgeMode, replies: Mapping[Place, calls.Parsed[Any]], judge: str) -> Iterator[Judged]:
    """One verdict for each instruction and order of ``replies``; pointwise, one for each instruction."""
    for instruction_id, place in replies:
        if parts := [replies[instruction_id, each] for each in mode.rests_on(place)]:
            values = [part.value or Unparsed(part.reason) for part in parts]
            verdict = mode.combine(instruction_id, place, values, parts[0].raw, judge)
            yield Judged(verdict, any(part.retryable for part in parts))
