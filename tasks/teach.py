"""Stages `teach` and `likeliest`: the teacher's plain answers, one or several to an instruction, and which is trained.

Of several the first that is usable is the instruction's answer, or the best by the verifier; the others stand beside
it. Before round 1 S_0 may say which of them it finds likeliest.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from statistics import fmean

import polars as pl

from tapir_core import stages, thoughts
from tapir_core.calls import Answer, Failure, Outcome, Scored
from tapir_core.calls.words import as_kept
from tapir_core.curriculum import FROM_POOL, unusable_reason
from tapir_core.run_folder import RunFolder
from tapir_core.stages import StageAt
from tapir_core.turns import messages_of
from tasks import asking, judge, outcomes, rollout, runtime
from tasks._task import shard_task
from tasks.engines.training import launch
from tasks.pool import pool_rows, round_pool, with_trained_thoughts


@shard_task(stages.TEACH, plan=pool_rows)
def teach_shard(run: RunFolder, at: StageAt, rows: pl.DataFrame) -> outcomes.Worked:
    """Plain answers to some instructions, the pool's own first; a refused or failed one is unusable later."""
    given, samples = _given_answers(run, at, rows), run.config.teacher.answers_per_prompt
    asked = rows.join(given, on="instruction_id", how="anti", maintain_order="left")
    said = ask_teacher(run, at, asked, samples)
    taught = asking.answer_rows(asked, said, asking.demand_whole) if samples == 1 else _of_several(run, at, asked, said)
    if not given.height:
        return replace(taught, rows=_thoughts_apart(taught.rows))
    both = pl.concat([taught.rows, given], how="diagonal_relaxed").sort("instruction_id")
    return replace(taught, rows=_thoughts_apart(both), counts={**taught.counts, FROM_POOL: given.height})


def _thoughts_apart(taught: pl.DataFrame) -> pl.DataFrame:
    """The answers without the thoughts that were kept, those in a column of their own where there are some."""
    apart = [thoughts.split(each or "") for each in taught["response"]]
    if not any(thought for thought, _ in apart):
        return taught
    told = pl.Series("thoughts", [thought or None for thought, _ in apart], dtype=pl.String)
    answers = pl.Series([answer for _, answer in apart], dtype=pl.String)
    return taught.with_columns(told, response=pl.when(told.is_null()).then("response").otherwise(answers))


def _of_several(run: RunFolder, at: StageAt, asked: pl.DataFrame, said: Sequence[Outcome]) -> outcomes.Worked:
    """Of the outcomes of each row one as its answer, and the texts of the others that are usable, each once.

    A row is missing as long as one of its answers may still come; if a run goes on without it, by those that came. What
    the verifier finds wrong is not usable.
    """
    teacher = run.config.teacher
    samples, by_score = teacher.answers_per_prompt, teacher.answers_used == "best"
    texts = [thoughts.split(asking.text_of(each) or "")[1] for each in said]
    each_row = asked.select(pl.all().repeat_by(samples).explode())
    answered = each_row.with_columns(response=pl.Series(texts)).filter([isinstance(each, Answer) for each in said])
    marks = judge.verify_answers(run, at, run.config.judge.verifies("filter"), answered).rows
    marked = iter(marks.select("score", "correct").iter_rows())
    scores = (next(marked, (None, None)) if isinstance(each, Answer) else (None, None) for each in said)
    # Usable, as good as the verifier finds it, and any answer is better than one that may come, and that than none.
    worth = [
        (
            correct is not False
            and unusable_reason(text, asking.ending_of(each), instruction, refusals=teacher.takes_refusals) is None,
            score or 0.0,
            2 if isinstance(each, Answer) else int(each.retryable),
        )
        for text, each, instruction, (score, correct) in zip(texts, said, each_row["instruction"], scores, strict=True)
    ]
    chosen, others, open_ = list[Outcome](), list[list[str] | None](), Counter[str]()
    for first in range(0, len(said), samples):
        places = range(first, first + samples)
        best = max(places, key=lambda place: worth[place] if by_score else worth[place][::2])
        open_.update([each.kind for place in places if isinstance(each := said[place], Failure) and each.retryable][:1])
        chosen.append(said[best])
        more = {texts[place]: asking.text_of(said[place]) for place in places if worth[place][0]}
        others.append([whole for text, whole in more.items() if text != texts[best] and whole] or None)
    taught = asking.answer_rows(asked, chosen, asking.demand_whole)
    beside = asked.select("instruction_id").with_columns(
        others=None if by_score else pl.Series(others, dtype=stages.TEACH.some_have["others"])
    )
    counts = {**taught.counts, **asking.count_paid(said), **asking.count_timed(said)}
    rows = taught.rows.join(beside, on="instruction_id", how="left", maintain_order="left")
    return replace(taught, rows=rows, counts=counts, missing=dict(open_))


def ask_teacher(run: RunFolder, at: StageAt, rows: pl.DataFrame, samples: int = 1) -> list[Outcome]:
    """Ask the teacher for plain answers to each row (an instruction); those of a row stand together."""
    teacher, settings = runtime.current(run).teacher, run.config.teacher
    obeying = partial(asking.obeying, schema=settings.answer_schema)
    return [
        *map(
            obeying,
            asking.ask_plainly(
                *(run, at, "teach", teacher, settings.answering, rows),
                lambda outcome: asking.demand_whole(obeying(outcome)),
                schema=settings.answer_schema,
                samples=samples,
            ),
        )
    ]


def _given_answers(run: RunFolder, at: StageAt, rows: pl.DataFrame) -> pl.DataFrame:
    """The answers that rows of the pool bring with them, as table `teacher` holds them; they cost no tokens."""
    if "answer" not in rows.columns:
        return rows.select("instruction_id").clear()
    given = rows.drop_nulls("answer").with_columns(pl.col("answer").map_elements(as_kept, pl.String))
    given = given.select(
        "instruction_id",
        response="answer",
        finish_reason=pl.col("answer").map_elements(partial(_ending_of_given, run), pl.String),
        prompt_tokens=pl.lit(0),
        completion_tokens=pl.lit(0),
        answered_by=pl.lit(run.config.data.pool.answers_of),
    )
    runtime.current(run).progress.row_counter(at)(given.height)
    return given


def _ending_of_given(run: RunFolder, answer: str) -> str:
    schema = run.config.teacher.answer_schema
    return "stop" if not schema or asking.obeys(answer, schema) else asking.DISOBEYS


@runtime.read_once
def several(run: RunFolder, _: StageAt) -> pl.DataFrame:
    """The answers to what has more than one usable answer, each with its number: instruction_id, sample, answer, …"""
    pool = with_trained_thoughts(round_pool(run, 0), run.config)
    if "others" not in pool.columns:
        return pool.clear().with_columns(sample=pl.lit(0), answer=pl.lit(""))
    rows = pool.drop_nulls("others")
    first = rows["thoughts"].fill_null("") if "thoughts" in rows.columns else [""] * rows.height
    whole = pl.Series(map(thoughts.join, first, rows["response"]), dtype=pl.String)
    told = rows.with_columns(answer=pl.concat_list(whole.alias("first"), "others"))
    return told.with_columns(sample=pl.int_ranges(pl.col("answer").list.len())).explode("answer", "sample")


@shard_task(stages.LIKELIEST, plan=several)
def likeliest_shard(run: RunFolder, at: StageAt, rows: pl.DataFrame) -> outcomes.Worked:
    """What S_0 says of some answers; of one that it cannot score nothing."""
    student, base = runtime.current(run).student(0), runtime.current(run).checkpoint(0)
    talks = [
        [{"role": role, "content": content} for role, content in [*messages_of(row), ("assistant", row["answer"])]]
        for row in rows.iter_rows(named=True)
    ]
    told = launch.tokenize(base, run.config.student.template, talks) if talks else []
    asked = rows.filter(pl.Series([bool(answer) for _, answer in told], dtype=pl.Boolean))
    runtime.current(run).progress.row_counter(at)(rows.height - asked.height)
    scorer = rollout.scorer_of(run, student)
    # In a role that is not paid, and whose replies are read with their tokens from the store too.
    requests = [
        replace(scorer.scoring(Scored((*each,), (*answer,))), role="rollout") for each, answer in told if answer
    ]
    said = runtime.current(run).calls.ask(requests, student.source, asking.watch(run, at))
    made = [
        (*row, fmean(each.tokens.log_probs))
        for row, each in zip(asked.select("instruction_id", "sample", "answer").iter_rows(), said, strict=True)
        if isinstance(each, Answer) and each.tokens is not None
    ]
    frame = pl.DataFrame(made, schema=stages.LIKELIEST.columns, orient="row")
    return asking.worked(frame, asking.count_paid(said), asked, said)
