"""The stages of a benchmark: what it asks, what a student answers, what a judge says or it marks itself, the figures.

A later turn is asked with the earlier ones and the student's own answers to them before it. A model of a file has
answered already, and nobody is asked. What a benchmark does by itself is done by its class
(`tapir_core.evaluation.benchmark`): a new kind needs nothing here.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import polars as pl

from tapir_core import calls
from tapir_core.evaluation.benchmark import Game, benchmark_of, exchanges_of, judging
from tapir_core.evaluation.marking import Answered, Marking
from tapir_core.evaluation.scores import Judgment, judgments_of
from tapir_core.run_folder import RunFolder
from tapir_core.stages import (
    BENCHMARK_ANSWERS,
    BENCHMARK_ITEMS,
    BENCHMARK_REPLIES,
    BENCHMARK_SCORES,
    StageAt,
    item_files,
    output_files,
)
from tapir_core.text import Unparsed
from tasks import asking
from tasks._task import shard_task, stage_task
from tasks.input_files import check_benchmark_files
from tasks.outcomes import Worked
from tasks.runtime import current, read_once

_Asked = dict[tuple[str, int, str], calls.Outcome]
"""Question, turn and text of what was asked → its outcome."""


@stage_task(BENCHMARK_ITEMS)
def benchmark_items(run: RunFolder, at: StageAt) -> Worked:
    """Read the files of a benchmark."""
    check_benchmark_files(run, at.benchmark_name)
    return Worked(benchmark_of(run.kept_config, at.benchmark_name, current(run).scripts(at)).items())


@read_once
def items_of(run: RunFolder, name: str) -> pl.DataFrame:
    """The questions of a benchmark with what belongs to them."""
    return run.rows(BENCHMARK_ITEMS.at(benchmark=name))


@read_once
def asked_questions(run: RunFolder, at: StageAt) -> pl.DataFrame:
    """One row a question: question_id, category, turns (list of texts), so that a shard has all turns of its own."""
    by_question = items_of(run, at.benchmark_name).group_by("question_id", "category", maintain_order=True)
    return by_question.agg(turns=pl.col("question"))


@shard_task(BENCHMARK_ANSWERS, plan=asked_questions, when=lambda _, at: at.model is None)
def benchmark_answers_shard(run: RunFolder, at: StageAt, rows: pl.DataFrame) -> Worked:
    """Answers of S_r (or of the untouched backbone) to some questions."""
    runtime, benchmark = current(run), benchmark_of(run.config, at.benchmark_name)
    student, own = runtime.student(at.number), run.config.student.sampling
    said: dict[str, tuple[calls.Message, ...]] = dict.fromkeys(rows["question_id"], ())
    asked: _Asked = {}
    count = runtime.progress.row_counter(at)
    for turn in range(1, max(map(len, rows["turns"]), default=0) + 1):
        waiting = [row for row in rows.rows() if len(row[2]) >= turn and row[0] in said]
        prompts = [(*said[name], calls.Message("user", turns[turn - 1])) for name, _, turns in waiting]
        requests = [
            asking.make_request(run, "answer", student.identity, messages, benchmark.answering(category, own))
            for (_, category, _), messages in zip(waiting, prompts, strict=True)
        ]
        outcomes = runtime.calls.ask(requests, student.source)
        for (name, _, turns), messages, outcome in zip(waiting, prompts, outcomes, strict=True):
            asked[name, turn, turns[turn - 1]] = outcome
            if isinstance(outcome, calls.Answer) and turn < len(turns):
                said[name] = (*messages, calls.Message("assistant", outcome.text))
                continue
            del said[name]
            count(missing=isinstance(outcome, calls.Failure) and outcome.retryable)
    return _answered(asked, runtime.students.in_words)


@shard_task(BENCHMARK_REPLIES, when=lambda c, at: at.benchmark in c.evaluation.judged)
def benchmark_replies_shard(run: RunFolder, at: StageAt, answers: pl.DataFrame) -> Worked:
    """Judgments on the answers of one answer shard: scored or failed; what another try may bring has no row."""
    runtime, games = current(run), _games(run, at, answers)
    asked = [game for game in games if game.text is not None]
    judge, reasks = runtime.benchmark_judge(at.benchmark_name), run.config.evaluation.judged[at.benchmark_name].reasks
    requests, read, watch = _requests(run, at, asked), _reader(run, at, asked), _watch_questions(run, at, games)
    parsed = calls.ask_read(runtime.calls, requests, judge.source, read, reasks, watch)
    replies = dict(zip((game.place for game in asked), parsed, strict=True))
    rows = [_row(game, replies.get(game.place), judge.identity.model) for game in games]
    made = pl.DataFrame([row for row in rows if row is not None], schema=BENCHMARK_REPLIES.columns, orient="row")
    reasons = Counter(f"failed: {reason}" for reason in made.filter(status="failed")["reason"])
    shown = [(f"{game.question_id}, turn {game.turn}, {game.order}", game.text) for game in asked]
    return asking.worked(
        made,
        {**asking.counts_of(parsed), **reasons},
        pl.DataFrame(shown, schema=["instruction_id", "instruction"], orient="row"),
        [reply.outcome for reply in parsed],
    )


def forget_failed(run: RunFolder, at: StageAt) -> int:
    """Delete the stored replies of judgments that failed, so that the judge is asked anew; gives how many.

    What was asked anew by an earlier start, and can be read, stays. Nobody asks where the student or the baseline has
    no answer: that fails again.

    Raises:
        ConfigError: the store lacks replies of judgments that are scored, which would be paid for again.
    """
    scored, failed = (_asked_for(run, at, status) for status in ("scored", "failed"))
    asking.demand_stored(run, at, _requests(run, at, scored), "`tapir evaluate`")
    reasks = run.config.evaluation.judged[at.benchmark_name].reasks
    return calls.forget_unread(current(run).calls, _requests(run, at, failed), _reader(run, at, failed), reasks)


@stage_task(BENCHMARK_REPLIES, when=lambda c, at: at.benchmark not in c.evaluation.judged)
def benchmark_marks(run: RunFolder, at: StageAt) -> Worked:
    """The benchmark's own marks of one student's answers; a question without an answer has failed in each metric.

    One task, not shards: what marks may take seconds to start, and nobody is paid. Killed, it marks again.
    """
    answers = run.rows(replace(at, name=BENCHMARK_ANSWERS.name))
    given = dict(answers.drop_nulls("response").select("question_id", "response").rows())
    asked = items_of(run, at.benchmark_name).select("question_id", "question", "reference").rows()
    benchmark = benchmark_of(run.kept_config, at.benchmark_name, current(run).scripts(at))
    assert isinstance(benchmark, Marking)
    marked = benchmark.mark([Answered(name, text, right, given[name]) for name, text, right in asked if name in given])
    failed = {name: "the student gave no answer" for name, *_ in asked if name not in given}
    counts: dict[str, float] = {"marked": len(given), **{f"left out: {metric}": 1 for metric in marked.left_out}}
    return Worked(marked.replies(failed), counts)


@stage_task(BENCHMARK_SCORES)
def benchmark_scores(run: RunFolder, at: StageAt) -> Worked:
    """Figures of one student, with what stands beside them."""
    name = at.benchmark_name
    check_benchmark_files(run, name, run.config.evaluation.asked[name].read_for_figures)
    answers, replies = (run.rows(replace(at, name=stage)) for stage in ("benchmark_answers", "benchmark_replies"))
    benchmark, exchanges = benchmark_of(run.kept_config, name), exchanges_of(items_of(run, name), answers)
    scores = benchmark.scores(exchanges, judgments_of(replies))
    prompts = {each: current(run).prompt(each) for each in benchmark.settings.prompts}
    digests, read = run.record.ingredients, {each: each.split(":", 2) for each in item_files(run.config, at)}
    files = {field: digests[each] for each, (kind, field, _) in read.items() if kind == "file"}
    # The model whose outputs are a file, with the file's digest.
    outputs = None if at.model is None else (at.model, digests[output_files(run.config, at)[0]])
    return Worked(benchmark.score_rows(run.config, scores, prompts, replies, outputs=outputs, files=files))


@read_once
def _given_to_all(run: RunFolder, at: StageAt) -> pl.DataFrame:
    """What a model's file has to all questions."""
    assert at.model is not None
    check_benchmark_files(run, at.benchmark_name, [f"outputs.{at.model}"])
    return judging(run.kept_config, at.benchmark_name).given_answers(at.model, items_of(run, at.benchmark_name))


@shard_task(BENCHMARK_ANSWERS, plan=asked_questions, when=lambda _, at: at.model is not None)
def benchmark_outputs_shard(run: RunFolder, at: StageAt, rows: pl.DataFrame) -> Worked:
    """What a model's file has to some questions."""
    given = _given_to_all(run, at).join(rows, on="question_id", how="semi", maintain_order="left")
    current(run).progress.row_counter(at)(rows.height)
    made = given.with_columns(prompt_tokens=pl.lit(0, pl.Int64), completion_tokens=pl.lit(0, pl.Int64))
    return Worked(made, {"given": made["response"].count(), "not given": made["response"].null_count()})


def _answered(asked: _Asked, by: str) -> Worked:
    """A terminal failure keeps its row without a response; what another try may bring has none."""
    rows = [
        (name, turn, *asking.answer_cells(outcome))
        for (name, turn, _), outcome in asked.items()
        if isinstance(outcome, calls.Answer) or not outcome.retryable
    ]
    outcomes = [*asked.values()]
    shown = [(f"{name}, turn {turn}", text) for name, turn, text in asked]
    return asking.worked(
        pl.DataFrame(rows, schema=BENCHMARK_ANSWERS.columns, orient="row"),
        {**asking.count_paid(outcomes), **asking.count_timed(outcomes, by)},
        pl.DataFrame(shown, schema=["instruction_id", "instruction"], orient="row"),
        outcomes,
    )


def _asked_for(run: RunFolder, at: StageAt, status: str) -> list[Game]:
    """What the judge was asked for the judgments of this status."""
    rows, answers = run.rows(at).filter(status=status), run.rows(replace(at, name=BENCHMARK_ANSWERS.name))
    places = set(rows.select("question_id", "turn", "mode", "order").iter_rows())
    games = _games(run, at, answers.join(rows, on="question_id", how="semi", maintain_order="left"))
    return [game for game in games if game.text is not None and game.place in places]


def _games(run: RunFolder, at: StageAt, answers: pl.DataFrame) -> list[Game]:
    """All judgments to be made on these answers."""
    runtime, benchmark = current(run), judging(run.config, at.benchmark_name)
    prompts = {name: runtime.prompt(name) for name in run.config.evaluation.judged[at.benchmark_name].prompts}
    items = items_of(run, at.benchmark_name).join(answers, on="question_id", how="semi", maintain_order="left")
    return [game for exchange in exchanges_of(items, answers) for game in benchmark.games(exchange, prompts)]


def _requests(run: RunFolder, at: StageAt, asked: Sequence[Game]) -> list[calls.Request]:
    runtime, settings = current(run), run.config.evaluation.judged[at.benchmark_name]
    who = runtime.benchmark_judge(at.benchmark_name).identity
    prompts = {name: runtime.prompt(name) for name in settings.prompts}
    return [
        asking.make_request(
            run,
            "benchmark",
            who,
            asking.chat(game.text or ""),
            settings.sampling,
            prompt=prompts[game.prompt],
            top_logprobs=settings.logprobs_asked,
        )
        for game in asked
    ]


def _reader(run: RunFolder, at: StageAt, asked: Sequence[Game]) -> Callable[[int, calls.Answer], Judgment | Unparsed]:
    benchmark = judging(run.config, at.benchmark_name)
    return lambda place, answer: benchmark.read(asked[place], answer.text, dict(answer.logprobs))


def _watch_questions(run: RunFolder, at: StageAt, games: Sequence[Game]) -> calls.Watch:
    """Moves the progress of ``at`` by one row a question, told the outcomes of what is asked.

    A question has one judgment or several, and none that is asked where its answers are equal or failed.
    """
    count = current(run).progress.row_counter(at)
    asked = [game.question_id for game in games if game.text is not None]
    left, lacking = Counter(asked), set[str]()
    count(len({game.question_id for game in games} - left.keys()))

    def on_outcome(place: int, outcome: calls.Outcome) -> None:
        question = asked[place]
        left[question] -= 1
        if isinstance(outcome, calls.Failure) and outcome.retryable:
            lacking.add(question)
        if not left[question]:
            count(missing=question in lacking)

    return calls.Watch(on_outcome)


def _row(game: Game, reply: calls.Parsed[Judgment] | None, judge: str) -> tuple[object, ...] | None:
    """A row of the table; nothing for a reply that may still come."""
    if reply is not None and reply.retryable:
        return None
    found, raw = game.reading or Judgment(), ""
    if reply is not None:
        found = reply.value or Judgment(reason=reply.reason)
        # The judge's last words, or its provider's where there was no reply.
        raw = reply.outcome.message if isinstance(reply.outcome, calls.Failure) else reply.raw
    status = "failed" if found.reason else "scored"
    return (*game.place, found.value, found.baseline_value, found.how, status, found.reason, raw, judge)
