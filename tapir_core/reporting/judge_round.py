"""How far the judge of one round can be trusted: a pure reading of the run folder.

Only stage `judge` and what it reads must hold, so a round whose verdicts allow no selection can be looked at too.
"""

from dataclasses import dataclass
from typing import Any

import polars as pl

from tapir_core.config import JudgeConfig, PanelRule
from tapir_core.curriculum import split_usable
from tapir_core.errors import MissingPrerequisite
from tapir_core.judging import expected_orders
from tapir_core.judging.estimates import (
    JudgePair,
    LengthEffects,
    OrderAgreement,
    UnscoredVerdicts,
    compare_judges,
    count_unscored_verdicts,
    favoured_position,
    mean_scores,
    measure_length,
    measure_orders,
    pair_orders,
    with_lengths,
)
from tapir_core.judging.orders import combine_judges
from tapir_core.run_folder import RunFolder
from tapir_core.stages import StageAt
from tapir_core.summary.run_reader import Look

__all__ = [
    "JudgeRound",
    "JudgedInstruction",
    "Measures",
    "Reply",
    "summarise_judge",
]

_EACH = 5
_SHOWN_CHARS = 2_000


@dataclass(frozen=True, slots=True)
class Reply:
    """One verdict to read."""

    order: str
    judge: str
    outcome: str
    """The scores, or why there are none."""
    text: str
    """The judge's reply; a long one without its middle, since verdicts stand at the end."""


@dataclass(frozen=True, slots=True)
class JudgedInstruction:
    """An instruction with the judges' replies."""

    why: str
    """Why it is shown."""
    instruction: str
    task_type: str
    replies: tuple[Reply, ...]
    """The teacher's answer first, then the student's; of several judges by name."""


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

    @property
    def favoured(self) -> str | None:
        """The position that the judge favours: first, second or neither; nothing where it cannot be told."""
        return None if self.whole.agreement is None else favoured_position(self.whole.agreement.gap)


def summarise_judge(run: RunFolder, number: int) -> JudgeRound:
    """Everything that the judge report of round ``number`` says.

    Raises:
        MissingPrerequisite: the round has no verdicts yet.
    """
    look, judge = Look(run), run.config.judge
    orders = expected_orders(judge)
    verdicts, answers = (look.rows(StageAt(name, number)) for name in ("judge", "answer"))
    if verdicts is None or answers is None:
        raise MissingPrerequisite(
            f"round {number} of run {run.ref.name!r} has no verdicts yet, so there is no judge to report on; "
            f"`tapir status {run.ref.name}` says how far it is"
        )
    pool = _round_pool(look, number)
    whole = _measure(verdicts, answers, pool, judge)
    alone = judge.names if judge.panel else ()
    return JudgeRound(
        run=run.record.name,
        number=number,
        judges=judge.names,
        rule=judge.panel_rule,
        orders=orders,
        verdicts=verdicts.height,
        instructions=verdicts["instruction_id"].n_unique(),
        whole=whole,
        single={name: _measure(verdicts.filter(judge=name), answers, pool, judge) for name in alone},
        panel=compare_judges(verdicts, orders),
        to_read=_choose_verdicts(verdicts, whole.pairs, pool),
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


def _choose_verdicts(verdicts: pl.DataFrame, pairs: pl.DataFrame, pool: pl.DataFrame) -> tuple[JudgedInstruction, ...]:
    """At most ten instructions with their replies, the same ones for the same verdicts."""
    unequal = pairs.filter(pl.col("order_gap") != 0)
    widest = unequal.sort(pl.col("order_gap").abs(), "instruction_id", descending=[True, False]).head(_EACH)
    chosen = [
        (identity, f"order gap {gap:+.1f}") for identity, gap in widest.select("instruction_id", "order_gap").rows()
    ]
    # The reasons take turns, so that a rare one is seen.
    unscored = verdicts.filter(pl.col("status") != "scored").sort("instruction_id", "order", "judge")
    turns = unscored.with_columns(turn=pl.int_range(pl.len()).over("reason")).sort("turn", maintain_order=True)
    chosen += [(identity, "unscored") for identity in turns["instruction_id"].unique(maintain_order=True).head(_EACH)]
    texts = {row["instruction_id"]: row for row in pool.iter_rows(named=True)}
    rows = verdicts.filter(pl.col("instruction_id").is_in([identity for identity, _ in chosen]))
    replies = rows.sort("order", "judge", descending=[True, False]).partition_by("instruction_id", as_dict=True)
    return tuple(
        JudgedInstruction(
            why,
            texts[identity]["instruction"],
            texts[identity]["task_type"],
            tuple(map(_reply, replies[identity,].iter_rows(named=True))),
        )
        for identity, why in chosen
    )


def _reply(row: dict[str, Any]) -> Reply:
    scores = f"student {row['student_score']:g}, teacher {row['teacher_score']:g}" if row["status"] == "scored" else ""
    return Reply(row["order"], row["judge"], scores or f"unscored: {row['reason']}", _shorten(row["raw"] or ""))


def _shorten(text: str) -> str:
    half = _SHOWN_CHARS // 2
    left_out = f"\n… ({len(text) - 2 * half} characters left out) …\n"
    return text if len(text) <= _SHOWN_CHARS else f"{text[:half]}{left_out}{text[-half:]}"
