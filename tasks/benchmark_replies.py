"""Stage `benchmark_replies`: what a benchmark's judge says of a student's answers."""

from collections import Counter
from collections.abc import Sequence

import polars as pl

from tapir_core.calls import Answer, Failure, OnOutcome, Outcome, Parsed, ask_read
from tapir_core.evaluation.benchmarks import REPLIES, Game, Reading, exchanges_of, judged_one
from tapir_core.replies import Unparsed
from tapir_core.run_folder import RunFolder
from tapir_core.stages import StageAt
from tasks._task import shard_task
from tasks.asking import chat, counts_of, make_request, worked
from tasks.benchmarks import items_of
from tasks.outcomes import Worked
from tasks.runtime import current

__all__ = ["benchmark_replies_shard"]


@shard_task("benchmark_replies", reads="benchmark_answers")
def benchmark_replies_shard(run: RunFolder, at: StageAt, rows: pl.DataFrame) -> Worked:
    """Judgments on the answers of one answer shard: scored or failed; what another try may bring has no row."""
    assert at.benchmark is not None
    runtime, settings = current(run), run.config.evaluation.judged[at.benchmark]
    prompts = {name: runtime.prompt(name) for name in settings.prompts}
    items = items_of(run, at.benchmark).filter(pl.col("question_id").is_in(rows["question_id"].unique().implode()))
    benchmark = judged_one(run.config, at.benchmark)
    games = [game for exchange in exchanges_of(items, rows) for game in benchmark.games(exchange, prompts)]
    asked = [game for game in games if game.text is not None]
    judge = runtime.benchmark_judge(at.benchmark)

    def read(place: int, answer: Answer) -> Reading | Unparsed:
        return benchmark.read(asked[place], answer.text, dict(answer.logprobs))

    requests = [
        make_request(
            run,
            "benchmark",
            judge.voice,
            chat(game.text or ""),
            settings.sampling,
            prompt=prompts[game.prompt],
            top_logprobs=settings.logprobs_asked,
        )
        for game in asked
    ]
    parsed = ask_read(
        runtime.calls, requests, judge.source, read, settings.reasks, on_outcome=_report_questions(run, at, games)
    )
    replies = dict(zip((game.place for game in asked), parsed, strict=True))
    made = [_row(game, replies.get(game.place), judge.voice.model) for game in games]
    kept = [row for row in made if row is not None]
    return _worked(kept, asked, parsed)


def _report_questions(run: RunFolder, at: StageAt, games: Sequence[Game]) -> OnOutcome:
    """A callback that moves the progress of ``at`` by one row a question, told the outcomes of what is asked.

    A question has one judgment or several, and none that is asked where its answers are equal or failed.
    """
    count = current(run).progress.row_counter(at)
    asked = [game.question_id for game in games if game.text is not None]
    left, lacking = Counter(asked), set[str]()
    for _ in {game.question_id for game in games} - left.keys():
        count(False)

    def on_outcome(place: int, outcome: Outcome) -> None:
        question = asked[place]
        left[question] -= 1
        if isinstance(outcome, Failure) and outcome.retryable:
            lacking.add(question)
        if not left[question]:
            count(question in lacking)

    return on_outcome


def _row(game: Game, reply: Parsed[Reading] | None, judge: str) -> tuple[object, ...] | None:
    """A row of the table; nothing for a reply that may still come."""
    if reply is not None and reply.retryable:
        return None
    found = game.reading if reply is None else reply.value
    reason, raw = (game.reason, "") if reply is None else (reply.reason, _said(reply))
    if found is None:
        return (*game.place, None, None, "", "failed", reason, raw, judge)
    return (*game.place, found.value, found.baseline_value, found.how, "scored", "", raw, judge)


def _said(reply: Parsed[Reading]) -> str:
    """The judge's last words, or its provider's where there was no reply."""
    return reply.outcome.message if isinstance(reply.outcome, Failure) else reply.raw


def _worked(rows: Sequence[tuple[object, ...]], asked: Sequence[Game], parsed: Sequence[Parsed[Reading]]) -> Worked:
    made = pl.DataFrame(rows, schema=REPLIES, orient="row")
    reasons = Counter(f"failed: {reason}" for reason in made.filter(status="failed")["reason"])
    shown = [(f"{game.question_id}, turn {game.turn}, {game.order}", game.text or "") for game in asked]
    return worked(
        made,
        {**counts_of(parsed), **reasons},
        pl.DataFrame(shown, schema={"instruction_id": pl.String, "instruction": pl.String}, orient="row"),
        [reply.outcome for reply in parsed],
    )
