"""The training set of a round: a hard part by target shares, refined, and an easy part that keeps what is known.

The hard part is drawn before it is refined, since only what is drawn is paid for: ``draw_hard`` → refine →
``draw_easy`` → ``assemble``. Nothing is drawn twice; what lacks makes the mixture smaller and is reported.
"""

import random
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import polars as pl

from tapir_core.curriculum.balance import BalancedDraw, draw_balanced, fill_quotas, quotas, shares_of, supply_of
from tapir_core.curriculum.tables import MIXTURE, SEEDS, in_order
from tapir_core.text import digest

__all__ = ["Mixture", "assemble", "draw_basic", "draw_easy", "draw_hard", "hard_count"]


@dataclass(frozen=True, slots=True)
class Mixture:
    """Rows to train on, and what they lack."""

    rows: pl.DataFrame
    """Columns ``MIXTURE``, in training order."""
    shares: dict[str, float]
    """Task type → share that the mixture got."""
    shortfall: dict[str, int]
    """Task type → rows that the hard part lacks."""
    missing: int
    """Examples below the number asked for, hard and easy part together."""


def hard_count(examples: int, alpha: float) -> int:
    """Examples of the hard part: α·N."""
    return round(alpha * examples)


def draw_hard(
    seeds: pl.DataFrame,
    expansion: pl.DataFrame,
    count: int,
    shares: Mapping[str, float],
    rng: random.Random,
    used: Collection[str] = (),
) -> BalancedDraw:
    """Draw ``count`` from D_S ∪ E_r by the target shares. A task type that runs short is filled by no other.

    Instructions in ``used`` are drawn when all others of their task type are; so in `draw_easy`.
    """
    new = expansion.select("instruction_id", "task_type", pl.lit(None, dtype=pl.Float64).alias("mfd"))
    candidates = pl.concat([_with_origin(seeds.select(SEEDS.names()), "seed"), _with_origin(new, "expansion")])
    return draw_balanced(candidates, quotas(count, shares), rng, used)


def draw_easy(
    easy: pl.DataFrame, count: int, shares: Mapping[str, float], rng: random.Random, used: Collection[str] = ()
) -> BalancedDraw:
    """Draw ``count`` of the easy rows by the target shares as far as they reach, the rest from other task types."""
    wanted = fill_quotas(count, shares, supply_of(easy))
    return draw_balanced(_with_origin(easy.select(SEEDS.names()), "easy"), wanted, rng, used)


def draw_basic(examples: pl.DataFrame, count: int, rng: random.Random) -> BalancedDraw:
    """Draw S_0's examples by the pool's natural shares; all of them, if there are no more than ``count``."""
    pool = examples.select("instruction_id", "task_type", pl.lit(None, dtype=pl.Float64).alias("mfd"))
    wanted = fill_quotas(count, shares_of(pool), supply_of(pool))
    return draw_balanced(_with_origin(pool, "pool"), wanted, rng)


def assemble(
    draws: list[BalancedDraw],
    examples: pl.DataFrame,
    refinement: pl.DataFrame,
    wanted: int,
    rng: random.Random,
) -> Mixture:
    """Put drawn rows together with their texts, in random order.

    Args:
        draws: hard and easy part, or S_0's one draw.
        examples: instruction, system text and plain answer of every drawn row, and of others.
        refinement: refined answers; an accepted one replaces the plain one.
        wanted: N.
        rng: decides the order of the rows.
    """
    drawn = in_order(pl.concat([draw.rows for draw in draws]))
    assert not drawn["instruction_id"].is_duplicated().any(), "an instruction was drawn twice"
    texts = examples.drop("task_type")
    better = refinement.filter(pl.col("accepted")).select("instruction_id", pl.col("refined").alias("better"))
    rows = drawn.join(texts, on="instruction_id", validate="1:1", maintain_order="left")
    assert rows.height == drawn.height, "a drawn instruction has no usable answer"
    rows = rows.join(better, on="instruction_id", how="left", validate="1:1", maintain_order="left")
    mixed = [_example(row) for row in rows.iter_rows(named=True)]
    rng.shuffle(mixed)
    table = pl.DataFrame(mixed, schema=MIXTURE, orient="row")
    shortfall: dict[str, int] = {}
    for draw in draws:
        shortfall.update(draw.shortfall)
    return Mixture(table, shares_of(table), shortfall, wanted - table.height)


def _with_origin(rows: pl.DataFrame, origin: str) -> pl.DataFrame:
    return rows.with_columns(pl.lit(origin).alias("origin"))


def _example(row: dict[str, str | None]) -> tuple[object, ...]:
    refined = row["better"] is not None
    answer = row["better"] if refined else row["response"]
    spoken = [("system", row["system"] or None), ("user", row["instruction"]), ("assistant", answer)]
    messages = [{"role": role, "content": content} for role, content in spoken if content is not None]
    identity = digest(messages)[:16]
    return identity, row["instruction_id"], messages, row["task_type"], row["origin"], row["mfd"], refined
