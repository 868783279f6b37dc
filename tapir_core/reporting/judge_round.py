"""How far the judge of one round can be trusted: a pure reading of the run folder.

Only stage `judge` and what it reads must hold, so a round whose verdicts allow no selection can be looked at too.
"""

from dataclasses import dataclass

import polars as pl

from tapir_core.config import JudgeConfig, PanelRule
from tapir_core.curriculum import split_usable
from tapir_core.errors import MissingPrerequisite
from tapir_core.judging import expected_orders
from tapir_core.judging.agreement import (
    JudgePair,
    LengthEffects,
    OrderAgreement,
    compare_judges,
    mean_scores,
    measure_length,
    measure_orders,
    pair_orders,
    with_lengths,
)
from tapir_core.judging.missing import UnscoredVerdicts, count_unscored_verdicts
from tapir_core.judging.orders import combine_judges
from tapir_core.reporting.judge_reading import JudgedInstruction, choose_verdicts
from tapir_core.run_folder import RunFolder
from tapir_core.stages import StageAt
from tapir_core.summary.run_reader import Look

__all__ = ["JudgeRound", "Measures", "summarise_judge"]


@dataclass(frozen=True, slots=True)
class Measures:
    """One judge in figures, or all of them combined."""

    pairs: pl.DataFrame
    """instruction_id, teacher_first, student_first, order_gap: what is scored in both orders."""
    scores: pl.DataFrame
    """instruction_id, both scores, mfd, student_chars, teacher_chars: what is scored in every order."""
    agreement: OrderAgreement | None
    """Nothing when one order only was asked."""
    length: LengthEffects
    unscored: UnscoredVerdicts


@dataclass(frozen=True, slots=True)
class JudgeRound:
    """The judge of one round."""

    run: str
    number: int
    judges: tuple[str, ...]
    """Names, the first judge first."""
    rule: PanelRule
    """How a panel's scores became one."""
    orders: tuple[str, ...]
    """Orders that every instruction is asked in; `pointwise` alone in pointwise mode."""
    verdicts: int
    instructions: int
    """With at least one verdict."""
    whole: Measures
    """Of a panel its combined scores, and what all its judges left unscored."""
    single: dict[str, Measures]
    """Each judge of a panel by its name; empty with one."""
    panel: tuple[JudgePair, ...]
    """Every two judges; empty with one."""
    to_read: tuple[JudgedInstruction, ...]
    """The widest order gaps, then unscored ones of every reason."""


def summarise_judge(run: RunFolder, number: int) -> JudgeRound:
    """Everything that the judge report of round ``number`` says.

    Raises:
        MissingPrerequisite: the round has no verdicts yet.
    """
    look, judge = Look(run), run.config.judge
    names, orders = judge.names, expected_orders(judge)
    verdicts, answers = (look.rows(StageAt(name, number)) for name in ("judge", "answer"))
    if verdicts is None or answers is None:
        raise MissingPrerequisite(
            f"round {number} of run {run.ref.name!r} has no verdicts yet, so there is no judge to report on; "
            f"`tapir status {run.ref.name}` says how far it is"
        )
    pool = _round_pool(look, number)
    whole = _measure(verdicts, answers, pool, judge)
    by_judge = {name: verdicts.filter(judge=name) for name in names} if judge.panel else {}
    return JudgeRound(
        run=run.record.name,
        number=number,
        judges=names,
        rule=judge.panel_rule,
        orders=orders,
        verdicts=verdicts.height,
        instructions=verdicts["instruction_id"].n_unique(),
        whole=whole,
        single={name: _measure(said, answers, pool, judge) for name, said in by_judge.items()},
        panel=compare_judges(verdicts, orders),
        to_read=choose_verdicts(verdicts, whole.pairs, pool),
    )


def _measure(verdicts: pl.DataFrame, answers: pl.DataFrame, pool: pl.DataFrame, judge: JudgeConfig) -> Measures:
    combined, orders = combine_judges(verdicts, judge.panel_rule), expected_orders(judge)
    pairs, scores = pair_orders(combined), with_lengths(mean_scores(combined, orders), answers, pool)
    return Measures(
        pairs,
        scores,
        measure_orders(pairs) if len(orders) > 1 else None,
        measure_length(scores),
        count_unscored_verdicts(verdicts, pool),
    )


def _round_pool(look: Look, number: int) -> pl.DataFrame:
    """instruction_id, instruction, task_type, response of every instruction of the round."""
    stages = [StageAt(name) for name in ("pool", "teach", "label")]
    stages += [StageAt("expand", earlier) for earlier in range(1, number)]
    tables = [rows for at in stages if (rows := look.rows(at)) is not None]
    assert len(tables) == len(stages), "verdicts hold only while the pool they were made of does"
    columns = ["instruction_id", "instruction", "task_type", "response"]
    parts = [split_usable(*tables[:3]).examples, *tables[3:]]
    return pl.concat([part.select(columns) for part in parts], how="vertical_relaxed")
