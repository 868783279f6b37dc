"""How hard an instruction is for the student, and which instructions are seeds.

Model Fitting Difficulty is how far the student's answer falls behind the teacher's, by the judge's scores: the mean
over orders of teacher − student (method.md: the paper's summaries print the opposite sign, but keep what is *above* δ
as hard). An instruction counts as scored only when every configured order is, and when it has a task type.

Seeds are those above a threshold, the paper's rule; the hardest share, for weak students, of whose pool most lies above
any fixed δ; or a share drawn at random, which knows no difficulty: it is what the other two are compared with; or one
drawn by how often the student is right, which needs no judge. A rule of your own registers what it chooses with
`choose_rows.register`.
"""

import math
import random
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from tapir_core.config import HardShare, PassRate, RandomShare, SelectionRule, Threshold, by_kind
from tapir_core.curriculum.mixture import draw_rows
from tapir_core.curriculum.usable import broken_reason
from tapir_core.judging.agreement import ORDER_GAP, mean_scores
from tapir_core.stages import DIFFICULTY, SELECT


def compute_difficulty(verdicts: pl.DataFrame, labels: pl.DataFrame, orders: Sequence[str]) -> pl.DataFrame:
    """The table ``difficulty/``: one row an instruction that is scored in every one of ``orders``."""
    scored = mean_scores(verdicts, orders, order_gap=ORDER_GAP).with_columns(orders=len(set(orders)))
    rows = scored.join(labels.drop_nulls("task_type"), on="instruction_id", how="inner", validate="1:1")
    return rows.sort("instruction_id").select(*DIFFICULTY.columns).cast(DIFFICULTY.columns)


def count_unscored(verdicts: pl.DataFrame, labels: pl.DataFrame, orders: Sequence[str]) -> dict[str, int]:
    """Why instructions with a verdict are in neither seeds nor easy: reason → instructions.

    An instruction with several reasons counts under the first of its verdicts in the order of ``orders``.
    """
    place = pl.col("order").replace_strict({order: number for number, order in enumerate(orders)}, default=None)
    left = (
        verdicts.sort(place)
        .filter(place.is_not_null())
        .join(compute_difficulty(verdicts, labels, orders), on="instruction_id", how="anti")
    )
    said = pl.col("reason").replace("", None).fill_null("no reason given").filter(pl.col("status") != "scored").first()
    labelled = pl.col("instruction_id").is_in(labels.drop_nulls("task_type")["instruction_id"].implode())
    otherwise = pl.when(labelled).then(pl.lit("an order is missing")).otherwise(pl.lit("no task type"))
    reasons = left.group_by("instruction_id").agg(said).select(pl.col("reason").fill_null(otherwise))
    return dict(reasons["reason"].value_counts().sort("reason").iter_rows())


def trusted(difficulty: pl.DataFrame, floor: float) -> pl.DataFrame:
    """The scored instructions to whose answer by the teacher the judge gave at least ``floor``, the mean of all orders.

    What the teacher itself answers badly teaches nothing, however far the student is behind.
    """
    return difficulty.filter(pl.col("teacher_score") >= floor)


def weigh_by_pass_rate(candidates: pl.DataFrame, attempts: pl.DataFrame, *, by_failure: bool) -> pl.DataFrame:
    """The candidates with a mark of the student's own answers, and their ``weight`` in a draw.

    With p = (right + 1) / (n + 2) that is 1 − p ``by_failure``, else p·(1 − p). One without a mark counts in none.
    """
    passed = (pl.col("correct").sum() + 1) / (pl.col("correct").count() + 2)
    rates = attempts.drop_nulls("correct").group_by("instruction_id").agg(rate=passed)
    return candidates.join(rates, on="instruction_id").with_columns(
        weight=(1 - pl.col("rate")) * (1 if by_failure else pl.col("rate")),
        mfd=pl.lit(None, pl.Float64),
    )


def easy_of(candidates: pl.DataFrame, seeds: pl.DataFrame) -> pl.DataFrame:
    """What the easy part may take of the candidates: no seed, and none that the student answers better (MFD < 0)."""
    left = candidates.join(seeds, on="instruction_id", how="anti", maintain_order="left")
    return left.filter(pl.col("mfd").is_null() | (pl.col("mfd") >= 0))


@dataclass(frozen=True, slots=True)
class SeedSelection:
    """Seeds D_S and the easy ones; the candidates that the student answers better than the teacher are neither."""

    seeds: pl.DataFrame
    easy: pl.DataFrame
    delta: float | None
    """δ as it was used: what a new instruction must be above to count as hard. Nothing without a difficulty."""

    @property
    def counts(self) -> dict[str, float]:
        """For the manifest of the seeds: the size of the rest, and δ."""
        return {"easy": self.easy.height} if self.delta is None else {"delta": self.delta, "easy": self.easy.height}


def delta_of(counts: Mapping[str, float]) -> float | None:
    """δ in what `SeedSelection.counts` wrote into the manifest of a round's seeds."""
    return counts.get("delta")


def select_seeds(
    rule: SelectionRule, candidates: pl.DataFrame, rng: random.Random, used: Collection[str] = ()
) -> SeedSelection:
    """Split the candidates, columns of seeds: the `trusted` instructions, or the whole pool without an MFD.

    Instructions in ``used`` are drawn at random when all others are drawn.
    """
    candidates = candidates.sort("instruction_id")
    rows = candidates.select(*SELECT.columns)
    seeds = rows.filter(pl.int_range(rows.height, eager=True).is_in(choose_rows(rule, candidates, rng, used)))
    return SeedSelection(seeds, easy_of(rows, seeds), rule.delta(seeds["mfd"].to_list()))


@by_kind(SelectionRule)
def choose_rows(rule: SelectionRule, rows: pl.DataFrame, rng: random.Random, used: Collection[str]) -> list[int]:
    """Row numbers of the seeds among ``rows``, the candidates in order of their ids."""
    raise NotImplementedError  # never runs: `by_kind` names the kind that lacks it


@choose_rows.register
def _(rule: Threshold, rows: pl.DataFrame, _rng: random.Random, _used: Collection[str]) -> list[int]:
    return [row for row, mfd in enumerate(rows["mfd"]) if mfd > rule.threshold]


@choose_rows.register
def _(rule: HardShare, rows: pl.DataFrame, rng: random.Random, _used: Collection[str]) -> list[int]:
    return hardest(rows["mfd"].to_list(), range(rows.height), rule.share, rng)


@choose_rows.register
def _(rule: RandomShare, rows: pl.DataFrame, rng: random.Random, used: Collection[str]) -> list[int]:
    ids = rows["instruction_id"].to_list()
    return draw_rows(range(rows.height), ceil_share(rule.share, rows.height), rng, lambda row: ids[row] in used)


@choose_rows.register
def _(rule: PassRate, rows: pl.DataFrame, rng: random.Random, _used: Collection[str]) -> list[int]:
    # A weighted draw without replacement (Efraimidis and Spirakis 2006): no weight is 0.
    keys = [rng.random() ** (1 / weight) for weight in rows["weight"]]
    return sorted(range(rows.height), key=lambda row: -keys[row])[: ceil_share(rule.share, rows.height)]


def ceil_share(share: float, rows: int) -> int:
    """Rows of a share, rounded up; no rounding error adds one."""
    return math.ceil(round(share * rows, 9))


def hardest(mfd: list[float], among: Collection[int], share: float, rng: random.Random) -> list[int]:
    """Of the rows ``among``, the ceil(q·n) with the highest MFD above 0, ties broken by the generator."""
    rows = list(among)
    rng.shuffle(rows)
    rows.sort(key=lambda row: -mfd[row])
    return [row for row in rows[: ceil_share(share, len(rows))] if mfd[row] > 0]


UNPAIRED = "no pair: "
"""In the counts of a selection: before the reason why instructions that it would choose make no pair."""

_NOT_AHEAD = "not_ahead"
_ANSWER = ("instruction_id", "response", "finish_reason")


def preference_pairs(
    seeds: pl.DataFrame, verdicts: pl.DataFrame, answers: pl.DataFrame, orders: Sequence[str], margin: float
) -> tuple[pl.DataFrame, dict[str, int]]:
    """What a preference round learns from: the teacher's answer over the student's own, where the judge is sure of it.

    The answers are those that the round's verdicts are about, so that nothing is asked for again (arXiv 2604.03873). A
    pair takes verdicts that agree: in every order the teacher's answer is ahead by a margin. An answer that broke off
    is left out: no end of it was written that could be learned to avoid, and a loop up to the limit would outweigh all
    else. Gives the seeds that make a pair, and why the others do not: reason → seeds.

    Args:
        seeds: instruction_id and more.
        verdicts: of all judges combined, a row an instruction and order.
        answers: of the student, instruction_id, response, finish_reason.
        orders: in all of which the teacher's answer must be ahead.
        margin: points by which it must be, at least; at 0 any more than none.
    """
    ahead = mean_scores(verdicts, orders, least=pl.col("mfd").min()).filter(
        pl.col("least") >= margin, pl.col("least") > 0
    )
    given = {identity: broken_reason(*said) for identity, *said in answers.select(_ANSWER).iter_rows()}
    led = {*ahead["instruction_id"]}
    reasons = [given.get(each, "failed") if each in led else _NOT_AHEAD for each in seeds["instruction_id"]]
    whole = pl.Series([reason is None for reason in reasons], dtype=pl.Boolean)
    return seeds.filter(whole), dict(sorted(Counter(filter(None, reasons)).items()))
