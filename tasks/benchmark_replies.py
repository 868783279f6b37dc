"""Stage `benchmark_replies`: what a benchmark's judge says of a student's answers."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import polars as pl

from tapir_core.calls import Answer, Failure, OnOutcome, Outcome, Parsed, Request, ask_read, forget_unread
from tapir_core.evaluation.benchmarks import REPLIES, Game, Reading, exchanges_of, judged_one
from tapir_core.replies import Unparsed
from tapir_core.run_folder import RunFolder
from tapir_core.stages import BENCHMARK_REPLIES, StageAt
from tasks._task import shard_task
from tasks.asking import chat, check_lacking, counts_of, make_request, worked
from tasks.benchmarks import items_of
from tasks.outcomes import Worked
from tasks.runtime import current

__all__ = ["benchmark_replies_shard", "forget_failed"]


@shard_task(BENCHMARK_REPLIES, when=lambda c, at: at.benchmark in c.evaluation.judged)
def benchmark_replies_shard(run: RunFolder, at: StageAt, rows: pl.DataFrame) -> Worked:
    """Judgments on the answers of one answer shard: scored or failed; what another try may bring has no row."""
    runtime, games = current(run), _games(run, at, rows)
    asked = [game for game in games if game.text is not None]
    judge, reasks = runtime.benchmark_judge(at.benchmark_name), run.config.evaluation.judged[at.benchmark_name].reasks
    requests, read, report = _requests(run, at, asked), _reader(run, at, asked), _report_questions(run, at, games)
    parsed = ask_read(runtime.calls, requests, judge.source, read, reasks, on_outcome=report)
    replies = dict(zip((game.place for game in asked), parsed, strict=True))
    made = [_row(game, replies.get(game.place), judge.voice.model) for game in games]
    kept = [row for row in made if row is not None]
    return _worked(kept, asked, parsed)


def forget_failed(run: RunFolder, at: StageAt) -> int:
    """Delete the stored replies of judgments that failed, so that the judge is asked anew; gives how many.

    What was asked anew by an earlier start, and can be read, stays. Nobody asks where the student or the baseline has
    no answer: that fails again.

    Raises:
        ConfigError: the store lacks replies of judgments that are scored, which would be paid for again.
    """
    scored, failed = (_asked_for(run, at, status) for status in ("scored", "failed"))
    lacking = len(scored) - current(run).calls.count_stored(_requests(run, at, scored))
    check_lacking(run, at, lacking, "`tapir evaluate`")
    reasks = run.config.evaluation.judged[at.benchmark_name].reasks
    return forget_unread(current(run).calls, _requests(run, at, failed), _reader(run, at, failed), reasks)


def _asked_for(run: RunFolder, at: StageAt, status: str) -> list[Game]:
    """What the judge was asked for the judgments of this status."""
    rows = run.rows(at).filter(status=status)
    places = set(rows.select("question_id", "turn", "mode", "order").iter_rows())
    answers = run.rows(replace(at, name="benchmark_answers"))
    games = _games(run, at, answers.filter(pl.col("question_id").is_in(rows["question_id"].unique().implode())))
    return [game for game in games if game.text is not None and game.place in places]


def _games(run: RunFolder, at: StageAt, answers: pl.DataFrame) -> list[Game]:
    """All judgments to be made on these answers."""
    runtime, benchmark = current(run), judged_one(run.config, at.benchmark_name)
    prompts = {name: runtime.prompt(name) for name in run.config.evaluation.judged[at.benchmark_name].prompts}
    questions = answers["question_id"].unique().implode()
    items = items_of(run, at.benchmark_name).filter(pl.col("question_id").is_in(questions))
    return [game for exchange in exchanges_of(items, answers) for game in benchmark.games(exchange, prompts)]


def _requests(run: RunFolder, at: StageAt, asked: Sequence[Game]) -> list[Request]:
    runtime, settings = current(run), run.config.evaluation.judged[at.benchmark_name]
    voice = runtime.benchmark_judge(at.benchmark_name).voice
    prompts = {name: runtime.prompt(name) for name in settings.prompts}
    return [
        make_request(
            run,
            "benchmark",
            voice,
            chat(game.text or ""),
            settings.sampling,
            prompt=prompts[game.prompt],
            top_logprobs=settings.logprobs_asked,
        )
        for game in asked
    ]


def _reader(run: RunFolder, at: StageAt, asked: Sequence[Game]) -> Callable[[int, Answer], Reading | Unparsed]:
    benchmark = judged_one(run.config, at.benchmark_name)
    return lambda place, answer: benchmark.read(asked[place], answer.text, dict(answer.logprobs))


def _report_questions(run: RunFolder, at: StageAt, games: Sequence[Game]) -> OnOutcome:
    """A callback that moves the progress of ``at`` by one row a question, told the outcomes of what is asked.

    A question has one judgment or several, and none that is asked where its answers are equal or failed.
    """
    count = current(run).progress.row_counter(at)
    asked = [game.question_id for game in games if game.text is not None]
    left, lacking = Counter(asked), set[str]()
    for _ in {game.question_id for game in games} - left.keys():
        count()

    def on_outcome(place: int, outcome: Outcome) -> None:
        question = asked[place]
        left[question] -= 1
        if isinstance(outcome, Failure) and outcome.retryable:
            lacking.add(question)
        if not left[question]:
            count(missing=question in lacking)

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
