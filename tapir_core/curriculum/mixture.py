"""The training set of a round: a hard part by target shares, refined, and an easy part that keeps what is known.

How large its parts are is known before anything is paid for: ``size_round``. The hard part is drawn before it is
refined, since only what is drawn is paid for: ``draw_hard`` → refine → ``draw_easy`` → ``assemble``. Nothing is drawn
twice; what lacks makes the mixture smaller and is reported.
Task types are balanced by largest remainder, in exact fractions: each count is within one of its share, and they sum to
the total.
"""

import math
import random
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import groupby
from typing import Any, NamedTuple

import polars as pl

from tapir_core import thoughts
from tapir_core.config import TargetShares
from tapir_core.stages import MIX, SELECT
from tapir_core.text import digest
from tapir_core.turns import messages_of


@dataclass(frozen=True, slots=True)
class BalancedDraw:
    """Drawn rows, by instruction id, and the task types that ran short."""

    rows: pl.DataFrame
    shortfall: dict[str, int]
    """Task type → rows that were wanted and not there; only task types that lack."""


def quotas(total: int, shares: Mapping[str, float]) -> dict[str, int]:
    """``total`` split by ``shares`` (scaled to sum to 1): the largest remainders round up, ties by name.

    Raises:
        ValueError: no share is positive.
    """
    exact = {name: Fraction(share) for name, share in shares.items()}
    whole = sum(exact.values())
    if whole <= 0:
        raise ValueError(f"no share is positive in {dict(shares)}")
    ideal = {name: total * share / whole for name, share in exact.items()}
    counts = {name: math.floor(count) for name, count in ideal.items()}
    by_remainder = sorted(ideal, key=lambda name: (counts[name] - ideal[name], name))
    for name in by_remainder[: total - sum(counts.values())]:
        counts[name] += 1
    return counts


def fill_quotas(total: int, shares: Mapping[str, float], supply: Mapping[str, int]) -> dict[str, int]:
    """Quotas that no supply falls short of: what one task type lacks is asked of the others, by their shares.

    The sum is below ``total`` only when every task type with a share is used up.
    """
    counts = dict.fromkeys(shares, 0)
    while (rest := total - sum(counts.values())) > 0:
        unused = {name: share for name, share in shares.items() if share > 0 and counts[name] < supply.get(name, 0)}
        if not unused:
            break
        for name, more in quotas(rest, unused).items():
            counts[name] = min(counts[name] + more, supply[name])
    return counts


def draw_balanced(
    candidates: pl.DataFrame, wanted: Mapping[str, int], rng: random.Random, later: Sequence[Collection[str]] = ()
) -> BalancedDraw:
    """Draw ``wanted`` rows of each task type without repeats; the order of ``candidates`` changes nothing.

    Of each task type, instructions in the first of ``later`` are drawn when all others are, those in the second after
    them, and so on. From the same generator, a draw that wants more of some task types and less of none holds the
    smaller draw.
    """
    candidates = candidates.sort("instruction_id")
    ids, turns = candidates["instruction_id"].to_list(), turns_of(later)
    rows_of = dict(candidates.with_row_index("row").group_by("task_type").agg("row").iter_rows())
    drawn = [
        row
        for task_type, count in sorted(wanted.items())
        for row in draw_rows(rows_of.get(task_type, []), count, rng, lambda row: turns.get(ids[row], 0))
    ]
    return BalancedDraw(candidates[sorted(drawn)], lacking(wanted, supply_of(candidates)))


def lacking(wanted: Mapping[str, int], have: Mapping[str, int]) -> dict[str, int]:
    """Task type → number of rows still missing; only types with missing rows."""
    return dict(sorted((Counter(wanted) - Counter(have)).items()))


def turns_of(later: Sequence[Collection[str]]) -> dict[str, int]:
    """Instruction → its turn in a draw, from 1: the place of the last of ``later`` that holds it. All others have 0."""
    return {identity: turn for turn, ids in enumerate(later, start=1) for identity in ids}


def draw_rows(rows: Sequence[int], count: int, rng: random.Random, turn: Callable[[int], int]) -> list[int]:
    """``count`` of the row numbers ``rows``, or as many as there are; those of a later turn when all before are drawn.

    All are put in order and the first ``count`` taken: from the same generator a larger count draws the same rows and
    more, and leaves the generator as a smaller one does. What was paid for a mixture serves the next size of it.
    """
    by_turn = [list(alike) for _, alike in groupby(sorted(rows, key=turn), key=turn)]
    return [row for alike in by_turn for row in rng.sample(alike, len(alike))][:count]


def supply_of(rows: pl.DataFrame) -> dict[str, int]:
    """Task type → rows, by name; rows without a task type are in none."""
    return dict(sorted(rows.drop_nulls("task_type").group_by("task_type").len().iter_rows()))


def shares_of(rows: pl.DataFrame) -> dict[str, float]:
    """Task type → share of the rows that have one; the natural shares, when the rows are a pool's labels."""
    supply = supply_of(rows)
    return {task_type: count / sum(supply.values()) for task_type, count in supply.items()}


def target_shares(configured: TargetShares, natural: Mapping[str, float]) -> Mapping[str, float]:
    """Pr(task type): as configured; or of the first pool the ``natural`` shares, or the same of each of its types."""
    if configured == "equal":
        return dict.fromkeys(natural, 1 / max(1, len(natural)))
    return natural if isinstance(configured, str) else configured


def share_table(
    names: Iterable[str], natural: pl.DataFrame, target: Mapping[str, float], got: pl.DataFrame
) -> pl.DataFrame:
    """Natural, target and got share of each task type of ``names``; ``natural`` and ``got`` have a ``task_type``."""
    before, after = shares_of(natural), shares_of(got)
    rows = [(name, before.get(name, 0.0), float(target.get(name, 0.0)), after.get(name, 0.0)) for name in names]
    return pl.DataFrame(
        rows,
        schema={"task_type": pl.String, "natural": pl.Float64, "target": pl.Float64, "got": pl.Float64},
        orient="row",
    )


@dataclass(frozen=True, slots=True)
class Mixture:
    """Rows to train on, and what they lack."""

    rows: pl.DataFrame
    """Columns of `mix`, in training order."""
    shortfall: dict[str, int]
    """Task type → rows that the hard part lacks."""
    missing: int
    """Examples below the number asked for, hard and easy part together."""


def hard_count(examples: int, alpha: float) -> int:
    """Examples of the hard part: α·N."""
    return round(alpha * examples)


class RoundSize(NamedTuple):
    """How many examples a round takes of its hard and of its easy part."""

    asked: int
    """N as it was asked for."""
    hard: int
    easy: int

    @property
    def examples(self) -> int:
        """N, as far as the easy rows reach."""
        return self.hard + self.easy


def size_round(asked: int, alpha: float, easy: int) -> RoundSize:
    """The largest N up to ``asked`` whose easy part needs no more than ``easy`` rows, split by α.

    So α is that of the mixture within one example, also where easy rows run short.
    """
    examples = bisect_right(range(asked + 1), easy, key=lambda size: size - hard_count(size, alpha)) - 1
    hard = hard_count(examples, alpha)
    return RoundSize(asked, hard, examples - hard)


def reach_of(easy: pl.DataFrame, shares: Mapping[str, float]) -> int:
    """Easy rows that a mixture of these shares can take: those of the task types that have one."""
    return sum(rows for name, rows in supply_of(easy).items() if shares.get(name, 0) > 0)


def draw_hard(
    seeds: pl.DataFrame,
    expansion: pl.DataFrame,
    count: int,
    shares: Mapping[str, float],
    rng: random.Random,
    used: Collection[str] = (),
) -> BalancedDraw:
    """Draw ``count`` from D_S ∪ E_r by the target shares. A task type that runs short is filled by no other.

    Of each task type seeds come first, since they are what the student was seen to fail; those in ``used`` after the
    others, and new instructions after all seeds.
    """
    candidates = pl.concat([_from(seeds, "seed"), _from(expansion, "expansion")])
    return draw_balanced(candidates, quotas(count, shares), rng, [used, {*expansion["instruction_id"]}])


def draw_easy(
    easy: pl.DataFrame, count: int, shares: Mapping[str, float], rng: random.Random, used: Collection[str] = ()
) -> BalancedDraw:
    """Draw ``count`` of the easy rows by the target shares as far as they reach, the rest from other task types.

    Of each task type those in ``used`` come last.
    """
    return draw_balanced(_from(easy, "easy"), fill_quotas(count, shares, supply_of(easy)), rng, [used])


def draw_basic(examples: pl.DataFrame, count: int, rng: random.Random) -> BalancedDraw:
    """Draw S_0's examples by the pool's natural shares; all of them, if there are no more than ``count``."""
    return draw_balanced(_from(examples, "pool"), fill_quotas(count, shares_of(examples), supply_of(examples)), rng)


def draw_splits(examples: pl.DataFrame, sizes: Mapping[str, int], rng: random.Random) -> pl.DataFrame:
    """Draw a split of each of ``sizes`` by the natural shares; no row is in two. Adds ``split``."""
    splits = []
    for name, size in sizes.items():
        drawn = draw_basic(examples, size, rng).rows.select("instruction_id")
        splits.append(examples.join(drawn, on="instruction_id", how="semi").with_columns(split=pl.lit(name)))
        examples = examples.join(drawn, on="instruction_id", how="anti")
    return pl.concat(splits).sort("instruction_id")


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
        examples: conversation and plain answer of every drawn row, and of more, with `thoughts` that are trained, and
            `others`, more answers to it.
        refinement: refined answers; an accepted one replaces all plain ones.
        wanted: N.
        rng: decides the order of the rows.
    """
    drawn = pl.concat([draw.rows for draw in draws]).sort("instruction_id")
    assert not drawn["instruction_id"].is_duplicated().any(), "an instruction was drawn twice"
    better = refinement.filter(pl.col("accepted")).select("instruction_id", pl.col("refined").alias("better"))
    rows = drawn.join(examples.drop("task_type"), on="instruction_id", validate="1:1", maintain_order="left")
    assert rows.height == drawn.height, "a drawn instruction has no usable answer"
    rows = rows.join(better, on="instruction_id", how="left", validate="1:1", maintain_order="left")
    parts = (
        [each for row in some.iter_rows(named=True) for each in _examples(row)] for some in rows.iter_slices(_PART)
    )
    tables = [pl.DataFrame(part, schema=MIX.columns, orient="row") for part in parts]
    mixed = pl.concat([pl.DataFrame(schema=MIX.columns), *tables])
    order = [*range(mixed.height)]
    rng.shuffle(order)
    return Mixture(
        mixed[order], {name: count for draw in draws for name, count in draw.shortfall.items()}, wanted - rows.height
    )


_PART = 5_000
"""Rows of a mixture whose texts are objects of Python at once."""


def _from(rows: pl.DataFrame, origin: str) -> pl.DataFrame:
    """What can be drawn of ``rows``: the columns of seeds, no MFD where they have none, and where they are from."""
    known = rows.select(name for name in SELECT.columns if name in rows.columns)
    return pl.concat([pl.DataFrame(schema=SELECT.columns), known], how="diagonal").with_columns(origin=pl.lit(origin))


def _examples(row: Mapping[str, Any]) -> Iterator[tuple[object, ...]]:
    refined, plain = row["better"] is not None, thoughts.join(row.get("thoughts") or "", row["response"] or "")
    for answer in [row["better"]] if refined else [plain, *(row.get("others") or ())]:
        turns = [{"role": role, "content": content} for role, content in [*messages_of(row), ("assistant", answer)]]
        yield digest(turns)[:16], row["instruction_id"], turns, row["task_type"], row["origin"], row["mfd"], refined
