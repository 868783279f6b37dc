"""Stages `select`, `draw`, `refine` and `mix`: from what is scored to a round's training set.

D_S ← {x : MFD(x) > δ}, or the hardest share, or a share of the pool at random; hard_r from D_S ∪ E_r and the easy part,
by the target shares; their answers in the style that the task type needs; mixture_r ← hard_r + (1 − α_r)·N of easy.
"""

import logging
from collections import Counter
from collections.abc import Mapping

import polars as pl

from tapir_core import curriculum, randomness, stages, task_types, thoughts
from tapir_core.calls import Answer, Outcome
from tapir_core.config import Prefer
from tapir_core.judging import combine_judges, show_instruction
from tapir_core.reporting.sentences import reduced
from tapir_core.run_folder import RunFolder
from tasks import asking, judge
from tasks._task import shard_task, stage_task
from tasks.engines.logs import tell
from tasks.outcomes import Worked
from tasks.pool import mixture_shares, round_pool, with_trained_thoughts
from tasks.runtime import current, read_once

_SHORTFALL = "shortfall: "
"""In the counts of what is drawn and of a mixture: before the task type that lacks rows."""
_REDUCED = "reduced_to"
"""There too: the examples that a round was reduced to, since its easy rows reach no further at its α."""


@stage_task(stages.SELECT)
def select(run: RunFolder, at: stages.StageAt) -> Worked:
    """The seeds of the round, and δ as it was used, if there was one."""
    rule, candidates = run.config.round(at.number).selection, _candidates(run, at.number)
    chosen = curriculum.select_seeds(
        rule,
        candidates,
        randomness.derive_rng(run.config.run.seed, at.number, "select"),
        () if rule.reads_difficulty else used_before(run, at.number),
    )
    judged = run.config.verdict_round(at.number)
    left_out = {
        "teacher_below_floor": 0
        if judged is None
        else run.rows(stages.DIFFICULTY.at(judged)).height - candidates.height,
        "student_better": candidates.height - chosen.seeds.height - chosen.easy.height,
    }
    seeds, unpaired = _pairs(run, at, chosen.seeds)
    return Worked(seeds, {**chosen.counts, **{reason: rows for reason, rows in left_out.items() if rows}, **unpaired})


def _pairs(run: RunFolder, at: stages.StageAt, seeds: pl.DataFrame) -> tuple[pl.DataFrame, dict[str, float]]:
    """In a round that is to prefer, the seeds that make a pair, and how many do not for which reason."""
    objective, judge = run.config.objective(at.number), run.config.judge
    if not isinstance(objective, Prefer):
        return seeds, {}
    verdicts = combine_judges(run.rows(stages.JUDGE.at(at.round)), judge.panel_rule)
    pairs, why = curriculum.preference_pairs(
        seeds, verdicts, run.rows(stages.ANSWER.at(at.round)), judge.expected_orders, objective.margin
    )
    others = ", ".join(f"{reason.replace('_', ' ')} {count}" for reason, count in why.items()) or "none"
    tell(logging.INFO, f"round {at.number}: {pairs.height} of {seeds.height} seeds make a pair; the others: {others}")
    return pairs, {f"{curriculum.UNPAIRED}{reason}": float(count) for reason, count in why.items()}


@stage_task(stages.DRAW)
def draw(run: RunFolder, at: stages.StageAt) -> Worked:
    """α_r·N of seeds and new instructions, the rest of what the selection left; with what the hard part lacks."""
    size, shares, used = round_size(run, at), mixture_shares(run), used_before(run, at.number)
    rngs = {part: randomness.derive_rng(run.config.run.seed, at.number, part) for part in ("hard", "easy")}
    seeds, new = run.rows(stages.SELECT.at(at.round)), run.rows(stages.EXPAND.at(at.round))
    hard = curriculum.draw_hard(seeds, new, size.hard, shares, rngs["hard"], used)
    easy = curriculum.draw_easy(_easy_rows(run, at), size.easy, shares, rngs["easy"], used)
    counts = {f"{_SHORTFALL}{name}": float(n) for name, n in {**hard.shortfall, **easy.shortfall}.items()}
    if size.examples < size.asked:
        counts[_REDUCED] = float(size.examples)
        tell(logging.WARNING, reduced(run.config, at.number, size.examples))
    return Worked(pl.concat([hard.rows, easy.rows]), counts)


def round_size(run: RunFolder, at: stages.StageAt) -> curriculum.RoundSize:
    """How large the parts of a round's mixture are, as far as what its selection left reaches."""
    return curriculum.size_round(
        run.config.examples(at.number),
        run.config.round(at.number).alpha or 0.0,
        easy=curriculum.reach_of(_easy_rows(run, at), mixture_shares(run)),
    )


@read_once
def hard_rows(run: RunFolder, at: stages.StageAt) -> pl.DataFrame:
    """The rows of hard_r with their texts and plain answers, by id; none when refinement is off."""
    drawn = (
        run.rows(stages.drawn_at(run.config, at))
        .filter(pl.col("origin") != "easy")
        .select("instruction_id", "task_type")
    )
    rows = drawn.join(round_pool(run, at.number + 1).drop("task_type"), on="instruction_id", maintain_order="left")
    return rows if run.config.refines(at.number) else rows.clear()


@shard_task(stages.REFINE, plan=hard_rows)
def refine_shard(run: RunFolder, at: stages.StageAt, rows: pl.DataFrame) -> Worked:
    """Refined answers of some of hard_r. One that loses the plain answer's final result is kept but not accepted."""
    runtime, sampling = current(run), run.config.teacher.refining
    plain, families = rows.to_dicts(), list(map(run.config.curriculum.types.family_of, rows["task_type"]))
    prompts = {family: runtime.prompt(curriculum.refinement_prompt_name(family)) for family in {*families}}
    requests = [
        asking.make_request(
            run,
            "refine",
            runtime.teacher.identity,
            asking.chat(
                curriculum.render_refinement(prompts[family], show_instruction(row), row["system"], row["response"])
            ),
            sampling,
            prompt=prompts[family],
        )
        for row, family in zip(plain, families, strict=True)
    ]
    outcomes = runtime.calls.ask(requests, runtime.teacher.source, asking.watch(run, at, asking.demand_whole))
    table = [
        _refined(row, family, outcome)
        for row, family, outcome in zip(plain, families, outcomes, strict=True)
        if isinstance(outcome, Answer) or not outcome.retryable
    ]
    frame, verifying = _without_wrong(run, at, rows, pl.DataFrame(table, schema=stages.REFINE.columns, orient="row"))
    reasons = Counter(f"refined_{problem or 'accepted'}" for problem in frame["reason"])
    return asking.worked(
        frame, {**asking.count_paid(outcomes), **verifying, **reasons}, rows, list(map(asking.demand_whole, outcomes))
    )


def _refined(row: Mapping[str, str], family: task_types.RefinementFamily, outcome: Outcome) -> tuple[object, ...]:
    plain, task_type, refined = row["response"], row["task_type"], asking.text_of(outcome)
    problem = curriculum.refinement_problem(plain, refined, family, asking.ending_of(outcome))
    return row["instruction_id"], task_type, plain, refined, problem is None, problem


def _without_wrong(
    run: RunFolder, at: stages.StageAt, rows: pl.DataFrame, refined: pl.DataFrame
) -> tuple[pl.DataFrame, dict[str, float]]:
    """The refined answers, not accepted where the run's verifier finds them wrong, and what it counted."""
    asked = rows.select("instruction_id", "instruction", "reference")
    accepted = refined.filter("accepted").select("instruction_id", response="refined")
    answers = accepted.join(asked, on="instruction_id", maintain_order="left")
    marks = judge.verify_answers(run, at, run.config.judge.verifies("filter"), answers)
    is_wrong = pl.col("instruction_id").is_in(judge.wrong_answers(marks.rows))
    reason = pl.when(is_wrong).then(pl.lit(curriculum.UNVERIFIED)).otherwise("reason")
    return refined.with_columns(accepted=pl.col("accepted") & ~is_wrong, reason=reason), marks.counts


@stage_task(stages.MIX)
def mix(run: RunFolder, at: stages.StageAt) -> Worked:
    """The training set of the round, with what it lacks."""
    number, wanted, seed = at.number, run.config.examples(at.number), run.config.run.seed
    counted: Mapping[str, float] = {}
    if number:
        counted, rows = run.sealed(stages.DRAW.at(number)).counts, run.rows(stages.drawn_at(run.config, at))
        pool, refinement = round_pool(run, number + 1), run.rows(stages.REFINE.at(number))
    else:
        pool, refinement = round_pool(run, 0), pl.DataFrame(schema=stages.REFINE.columns)
        rows = curriculum.draw_basic(pool, wanted, randomness.derive_rng(seed, 0, "mix")).rows
    rng, drawn = randomness.derive_rng(seed, number, "order"), [curriculum.BalancedDraw(rows, {})]
    trains_one = run.config.teacher.answers_trained(run.config.objective(number).type) == 1
    shown = with_trained_thoughts(pool.drop("others", strict=False) if trains_one else pool, run.config)
    mixture = curriculum.assemble(drawn, shown, refinement, wanted, rng)
    # What the draw of a round lacks its mixture lacks too.
    told = {name: count for name, count in counted.items() if name == _REDUCED or name.startswith(_SHORTFALL)}
    examples = mixture.rows
    if run.config.objective(number).reads_answers:
        own = run.rows(stages.ANSWER.at(number)).select("instruction_id", rejected="response")
        examples = examples.join(own, on="instruction_id", how="left", validate="1:1", maintain_order="left")
        assert not examples["rejected"].null_count(), "what was drawn has no answer of the student to be preferred to"
    thinking = sum(bool(thoughts.split(each[-1]["content"])[0]) for each in examples["messages"])
    return Worked(
        examples, {**told, "missing_examples": mixture.missing, **({"thoughts": thinking} if thinking else {})}
    )


def _candidates(run: RunFolder, number: int) -> pl.DataFrame:
    """Seeds and easy part come from what is scored, and has a teacher's answer that is good enough.

    Where seeds are drawn at random, from the pool without an MFD; by pass rate, from what of it the student attempted.
    """
    judged = run.config.verdict_round(number)
    if judged is None:
        pool = round_pool(run, number).with_columns(mfd=pl.lit(None, pl.Float64))
        attempted = stages.attempted(run.config, stages.SELECT.at(number))
        by_failure = run.config.objective(number).learns_from_own
        return (
            curriculum.weigh_by_pass_rate(pool, *map(run.rows, attempted), by_failure=by_failure) if attempted else pool
        )
    return curriculum.trusted(run.rows(stages.DIFFICULTY.at(judged)), run.config.curriculum.teacher_floor)


def _easy_rows(run: RunFolder, at: stages.StageAt) -> pl.DataFrame:
    """What the easy part of a round may take."""
    return curriculum.easy_of(_candidates(run, at.number), run.rows(stages.SELECT.at(at.round)))


def used_before(run: RunFolder, number: int) -> frozenset[str]:
    """The instructions that a round draws last: those of the rounds' mixtures before its own.

    Not S_0's: that may be the whole pool, and what it learnt of it the verdicts have measured.
    """
    return frozenset(
        each for earlier in range(1, number) for each in run.rows(stages.MIX.at(earlier))["instruction_id"]
    )
