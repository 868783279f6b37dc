"""Stages `rollout` and `score`: the student's own answers to a round's prompts, token by token, and the teacher's word
on each token.

Nothing is tokenized again: ids travel as they were sampled, and the teacher gets the prompt's ids too. Before it is
asked, the student scores some of its own answers the way the teacher will: what it says then must be what it said when
it sampled them. That finds ids that are shifted, another chat template, another temperature.
"""

from statistics import median

import polars as pl

from tapir_core import errors, stages
from tapir_core.calls import Answer, Request, Scored, Tokens
from tapir_core.config import OnPolicy, Sampling
from tapir_core.run_folder import RunFolder
from tasks import asking
from tasks._task import shard_task
from tasks.engines.training.launch import MEDIAN_APART, WORST_APART
from tasks.outcomes import Worked
from tasks.runtime import AskedModel, current, read_once

_CHECKED = 20
"""Rollouts that the student scores itself."""


def objective_of(run: RunFolder, at: stages.StageAt) -> OnPolicy:
    """What a round that rolls out learns."""
    objective = run.config.objective(at.number)
    assert isinstance(objective, OnPolicy)
    return objective


@read_once
def prompts(run: RunFolder, at: stages.StageAt) -> pl.DataFrame:
    """The prompts of the round's mixture, each as often as it is answered: instruction_id, sample, messages."""
    samples = pl.int_ranges(1, pl.lit(objective_of(run, at).samples) + 1)
    rows = run.rows(stages.MIX.at(at.round)).sort("instruction_id")
    told = rows.select("instruction_id", pl.col("messages").list.head(pl.col("messages").list.len() - 1))
    instruction = pl.col("messages").list.last().struct.field("content")
    return told.with_columns(sample=samples, instruction=instruction).explode("sample")


@shard_task(stages.ROLLOUT, plan=prompts)
def rollout_shard(run: RunFolder, at: stages.StageAt, rows: pl.DataFrame) -> Worked:
    """Answers of S_{r−1} to some prompts, drawn at temperature 1 from the whole distribution."""
    student = current(run).student(at.number - 1)
    sampling = Sampling(temperature=1.0, top_p=1.0, max_tokens=run.config.student.sampling.max_tokens)
    requests = [
        asking.make_request(
            run,
            "rollout",
            student.identity,
            tuple(asking.message(turn) for turn in row["messages"]),
            sampling,
            sample_index=row["sample"],
            with_tokens=True,
        )
        for row in rows.iter_rows(named=True)
    ]
    outcomes = current(run).calls.ask(requests, student.source, asking.watch(run, at))
    first = {*prompts(run, at).head(_CHECKED)["instruction_id"]}
    drawn = [
        each.tokens
        for name, each in zip(rows["instruction_id"], outcomes, strict=True)
        if name in first and isinstance(each, Answer) and each.tokens is not None
    ]
    _check_scorer(run, at, student, drawn)
    made = [
        (name, sample, each.tokens.prompt, each.tokens.ids, each.tokens.log_probs, each.finish_reason)
        for name, sample, each in zip(rows["instruction_id"], rows["sample"], outcomes, strict=True)
        if isinstance(each, Answer) and each.tokens is not None
    ]
    frame = pl.DataFrame(made, schema=stages.ROLLOUT.columns, orient="row")
    counts = asking.count_paid(outcomes) | {"cut_off": frame.filter(finish_reason="length").height}
    return asking.worked(frame, counts, rows, outcomes)


def _check_scorer(run: RunFolder, at: stages.StageAt, student: AskedModel, drawn: list[Tokens]) -> None:
    """Refuse scores that do not say of tokens what the student said that sampled them.

    Raises:
        EngineError: with the difference.
    """
    requests = [_scoring(run, student, Scored(each.prompt, each.ids)) for each in drawn]
    again = current(run).calls.ask(requests, student.source)
    apart = sorted(
        abs(now - then)
        for one, other in zip(drawn, again, strict=True)
        if isinstance(other, Answer) and other.tokens is not None
        for then, now in zip(one.log_probs, other.tokens.log_probs, strict=True)
    )
    worst = apart[len(apart) * 99 // 100] if apart else 0.0
    if apart and (median(apart) > MEDIAN_APART or worst > WORST_APART):
        raise errors.EngineError(
            f"{at}: the student scores its own answers otherwise than it sampled them: by {median(apart):.3f} nats for "
            f"half of the tokens (at most {MEDIAN_APART:g}), by {worst:.3f} for one in a hundred "
            f"(at most {WORST_APART:g}). Scores would say nothing of its tokens: "
            "another server answers, or one that samples or renders otherwise"
        )


def _scoring(run: RunFolder, who: AskedModel, scored: Scored) -> Request:
    return asking.make_request(run, "score", who.identity, (), Sampling(max_tokens=1), scored=scored)


@shard_task(stages.SCORE)
def score_shard(run: RunFolder, at: stages.StageAt, rows: pl.DataFrame) -> Worked:
    """The teacher's log-probabilities of the tokens of some rollouts, and of those that it finds likeliest."""
    objective, teacher = objective_of(run, at), current(run).teacher
    asked = [
        Scored(tuple(prompt), tuple(ids[: objective.first_tokens]), objective.scored_top_k)
        for prompt, ids in rows.select("prompt_ids", "token_ids").iter_rows()
    ]
    outcomes = current(run).calls.ask(
        [_scoring(run, teacher, each) for each in asked], teacher.source, asking.watch(run, at)
    )
    names = rows.select("instruction_id", "sample").iter_rows()
    made = [
        (*name, *_cells(each.tokens))
        for name, each in zip(names, outcomes, strict=True)
        if isinstance(each, Answer) and each.tokens is not None
    ]
    frame = pl.DataFrame(made, schema=stages.SCORE.columns, orient="row")
    shown = rows.select("instruction_id", instruction=pl.col("instruction_id"))
    return asking.worked(frame, asking.count_paid(outcomes), shown, outcomes)


def _cells(tokens: Tokens) -> tuple[object, ...]:
    ids, log_probs = ([[each[part] for each in place] for place in tokens.top] for part in (0, 1))
    return tokens.log_probs, ids, log_probs
