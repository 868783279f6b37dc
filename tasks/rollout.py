"""Stages `attempt`, `rollout` and `score`: the student's own answers, and the teacher's word on each token of them.

An attempt is marked right or wrong, so that seeds can be drawn by how often it is; an on-policy round's rollouts of the
same instruction are the same answers, from the store.

Nothing is tokenized again: ids travel as they were sampled, and the teacher gets the prompt's ids too. With the first
shard that has answers both stages check their model (`tasks.scoring`).
"""

import logging
from dataclasses import replace

import polars as pl

from tapir_core import curriculum, errors, stages
from tapir_core.calls import Answer, Scored, Tokens
from tapir_core.config import SHIPPED, OnPolicy
from tapir_core.run_folder import RunFolder
from tasks import asking, judge, scoring
from tasks._task import shard_task
from tasks.engines.logs import tell
from tasks.engines.training import launch
from tasks.engines.training.pair import Compared
from tasks.outcomes import Worked
from tasks.pool import round_pool
from tasks.runtime import AskedModel, current, read_once


@read_once
def attempts(run: RunFolder, at: stages.StageAt) -> pl.DataFrame:
    """Instructions of the round's pool that can be marked and that the teacher answered rightly, once an attempt.

    Raises:
        ConfigError: there is none.
    """
    marker, pool = run.config.judge.marker, round_pool(run, at.number)
    asked = pool.drop_nulls("reference") if marker.function in SHIPPED else pool
    marks = judge.verify_answers(run, at, marker, asked)
    right = asked.join(marks.rows.filter("correct"), on="instruction_id", how="semi")
    if not right.height:
        raise errors.ConfigError(
            f'{at}: selection "pass_rate" marks answers by {marker.function!r}, and of {pool.height} instructions '
            f"{asked.height} can be marked so and none has a right teacher's answer; give the pool references, or a "
            "function in judge.verifier (docs/verifiers.md)"
        )
    samples = pl.int_ranges(1, pl.lit(run.config.round(at.number).selection.attempts) + 1)
    return right.with_columns(sample=samples).explode("sample")


@shard_task(stages.ATTEMPT, plan=attempts)
def attempt_shard(run: RunFolder, at: stages.StageAt, rows: pl.DataFrame) -> Worked:
    """Answers of S_{r−1} to some instructions, drawn at temperature 1, with what each is worth."""
    asked, longest = current(run).student(at.number - 1), run.config.student.sampling.max_tokens
    scorer, with_tokens = scorer_of(run, asked), run.config.objective(at.number).rolls_out
    requests = [
        replace(scorer.drawing(asking.conversation(row), longest, row["sample"]), with_tokens=with_tokens)
        for row in rows.iter_rows(named=True)
    ]
    outcomes = current(run).calls.ask(requests, asked.source, asking.watch(run, at))
    given = rows.with_columns(response=pl.Series(list(map(asking.text_of, outcomes)), dtype=pl.String))
    answered = given.drop_nulls("response")
    marks = judge.verify_answers(run, at, run.config.judge.marker, answered)
    frame = answered.with_columns(correct=marks.rows["correct"]).select(*stages.ATTEMPT.columns)
    return asking.worked(frame, asking.count_paid(outcomes) | dict(marks.counts), rows, outcomes)


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
    asked, longest = current(run).student(at.number - 1), run.config.student.sampling.max_tokens
    student = scorer_of(run, asked)
    requests = [
        student.drawing(tuple(map(asking.message, row["messages"])), longest, row["sample"])
        for row in rows.iter_rows(named=True)
    ]
    outcomes = current(run).calls.ask(requests, asked.source, asking.watch(run, at))
    drawn = [each for each in scoring.tokens_of(outcomes) if each is not None]
    if drawn and at not in current(run).checked:
        _require(run, at, "student", scoring.check_own(student, drawn[: scoring.ANSWERS]))
        # While it is served: the teacher is asked about them when it is not.
        student.word_on(_taught(run, at))
    made = [
        (name, sample, each.tokens.prompt, each.tokens.ids, each.tokens.log_probs, each.finish_reason)
        for name, sample, each in zip(rows["instruction_id"], rows["sample"], outcomes, strict=True)
        if isinstance(each, Answer) and each.tokens is not None
    ]
    frame = pl.DataFrame(made, schema=stages.ROLLOUT.columns, orient="row")
    counts = asking.count_paid(outcomes) | {"cut_off": frame.filter(finish_reason="length").height}
    return asking.worked(frame, counts, rows, outcomes)


def scorer_of(run: RunFolder, model: AskedModel) -> scoring.Scorer:
    """What asks a model of the run for tokens and scores."""
    return scoring.Scorer(lambda requests: current(run).calls.ask(requests, model.source), model.identity, run.ref.name)


def _require(run: RunFolder, at: stages.StageAt, who: str, *found: Compared | None) -> None:
    """Refuse scores that mean nothing. What could not be checked, for a request failed, the next shard checks.

    Raises:
        EngineError: with the first fault and its remedy.
    """
    for each in found:
        if each is not None and each.remedy:
            raise errors.EngineError(f"{at}, {who}: {each.part}: {each.found}; {each.remedy}")
    if None not in found:
        current(run).checked.add(at)


def _taught(run: RunFolder, at: stages.StageAt) -> list[Scored]:
    """Some of the teacher's answers to the round's prompts that no training has seen, as a training would see them."""
    seen = pl.concat(run.rows(stages.MIX.at(each)).select("instruction_id") for each in range(at.number))
    rows = run.rows(stages.MIX.at(at.round)).sort("instruction_id").join(seen, on="instruction_id", how="anti")
    # The plain ones: a refined answer was written to another prompt than the one that is scored.
    plain = round_pool(run, at.number + 1).select("instruction_id", "response")
    asked = rows.head(scoring.ANSWERS).join(plain, on="instruction_id", maintain_order="left")
    talks = [
        [*messages[:-1], {"role": "assistant", "content": response}]
        for messages, response in asked.select("messages", "response").iter_rows()
    ]
    told = launch.tokenize(current(run).checkpoint(at.number - 1), run.config.student.template, talks)
    return [Scored(tuple(prompt), tuple(answer)) for prompt, answer in told if answer]


def _students_word(run: RunFolder, at: stages.StageAt, taught: list[Scored]) -> list[Tokens | None]:
    """What the student said of the teacher's answers while it was served, as far as the store has it.

    To ask it now would end the teacher's server.
    """
    student = scorer_of(run, current(run).student(at.number - 1))
    requests = [student.scoring(each) for each in taught]
    found = current(run).calls.stored(requests)
    return scoring.tokens_of([found.get(each.key) for each in requests])


@shard_task(stages.SCORE)
def score_shard(run: RunFolder, at: stages.StageAt, rows: pl.DataFrame) -> Worked:
    """The teacher's log-probabilities of the tokens of some rollouts, and of those that it finds likeliest."""
    objective, teacher = objective_of(run, at), current(run).teacher
    asked = [
        Scored(tuple(prompt), tuple(ids[: objective.first_tokens]), objective.scored_top_k)
        for prompt, ids in rows.select("prompt_ids", "token_ids").iter_rows()
    ]
    scorer = scorer_of(run, teacher)
    outcomes = current(run).calls.ask([*map(scorer.scoring, asked)], teacher.source, asking.watch(run, at))
    if any(scoring.tokens_of(outcomes)) and at not in current(run).checked:
        checked, taught = asked[: scoring.ANSWERS], _taught(run, at)
        found = [scoring.check_places(scorer, checked), scoring.check_steady(scorer, checked[0])]
        if any(known := _students_word(run, at, taught)):
            found.append(scoring.check_lead(scorer.word_on(taught), known))
        else:
            tell(
                logging.WARNING,
                f"{at}: whether the teacher leads the student is not checked: {len(taught)} of its answers are new to "
                "the student, and of none the student's word is stored",
            )
        _require(run, at, "teacher", *found)
    made = [
        (*name, *_cells(each.tokens))
        for name, each in zip(rows.select("instruction_id", "sample").iter_rows(), outcomes, strict=True)
        if isinstance(each, Answer) and each.tokens is not None
    ]
    frame = pl.DataFrame(made, schema=stages.SCORE.columns, orient="row")
    counts = asking.count_paid(outcomes) | curriculum.measure_rollouts(rows, frame)
    return asking.worked(frame, counts, rows.select("instruction_id", instruction="instruction_id"), outcomes)


def _cells(tokens: Tokens) -> tuple[object, ...]:
    ids, log_probs = ([[each[part] for each in place] for place in tokens.top] for part in (0, 1))
    return tokens.log_probs, ids, log_probs
