"""Random at equal USD: how many more plain teacher answers the curriculum's calls would have bought, and where they go.

What the reference cost more than random, at the price of one more plain answer to random's pool, makes that many more
instructions; random's rounds grow in proportion, in batches of the size that random was matched with, so that it trains
on as many more in as many more steps. Where plain answers are far cheaper than the curriculum's calls that is more than
can be trained on, and a comparison may say how much is enough.

Limits: another pool is another sample for S_0, so that this arm has a basic student of its own. A file must have the
instructions: what it lacks is told after it is read.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from tapir_core.comparison.outcome import Training, recipe_stages, usd_of
from tapir_core.comparison.plan import Size, with_sizes
from tapir_core.config import RunConfig
from tapir_core.config.load import replace_values
from tapir_core.config.presets import RolePrices
from tapir_core.errors import TapirError
from tapir_core.run_folder import RunFolder
from tapir_core.summary import summarise

__all__ = ["MorePlain", "buy_more", "check_pool", "trained_sizes", "with_more"]


@dataclass(frozen=True, slots=True)
class MorePlain:
    """What equal USD buys, or as much of it as is enough."""

    instructions: int
    """More than random's pool has."""
    pool: int
    """Random's pool as it was read."""
    usd: float
    """What they cost."""
    affordable: int
    """As many as equal USD buys."""


def buy_more(
    reference: RunFolder, random: RunFolder, *, pool: int, prices: RolePrices | None, enough: int | None = None
) -> MorePlain:
    """How many more instructions the difference in price pays for.

    Args:
        reference: the finished curriculum.
        random: finished random of the same run seed.
        pool: instructions of random's pool.
        prices: what tokens count at; as they were paid when there are none.
        enough: instructions that are taken at most.

    Raises:
        TapirError: nothing has a price, or the reference cost no more.
    """
    of_random = _whole(random, prices)
    more, each = _whole(reference, prices) - of_random, of_random / pool
    if not each or more <= 0:
        why = "a plain answer has no price" if not each else f"it cost {more:.4f} USD more than random"
        raise TapirError(
            f"equal USD cannot be computed from run {reference.ref.name!r}: {why}; set [prices.teacher] and "
            "[prices.judge] in the comparison, or leave equal_usd out"
        )
    affordable = round(more / each)
    taken = affordable if enough is None else min(affordable, enough)
    return MorePlain(taken, pool, taken * each, affordable)


def trained_sizes(random: RunConfig, trainings: Mapping[int, Training]) -> dict[int, Size]:
    """Round → examples that random trained on, and its batch size; ``trainings`` have S_0 too."""
    return {number: Size(each.examples, random.batch_size(number)) for number, each in trainings.items() if number}


def with_more(config: RunConfig, more: MorePlain, rounds: Mapping[int, Size]) -> RunConfig:
    """Random's configuration with the larger pool, and rounds that grow by what it has more, in batches as large.

    Args:
        config: the arm's.
        more: what is bought.
        rounds: what random trained on in each round.
    """
    larger = replace_values(config, [f"data.pool.{config.data.pool.size_field}={more.pool + more.instructions}"])
    growth = 1 + more.instructions / sum(each.examples for each in rounds.values())
    sizes = {number: Size(round(each.examples * growth), each.batch_size) for number, each in rounds.items()}
    return with_sizes(larger, sizes)


def check_pool(config: RunConfig, rows: int) -> None:
    """Refuse a pool that lacks what equal USD would have bought.

    Raises:
        TapirError: with the figures.
    """
    wanted = config.data.pool.most_rows
    if wanted is not None and rows < wanted - _MOST_LOST * wanted:
        raise TapirError(
            f"equal USD buys a pool of {wanted:,} instructions, and there are {rows:,}; give a larger file, or leave "
            "equal_usd out"
        )


_MOST_LOST = 0.02
"""Share of a pool that may be dropped on reading (duplicates, held-out questions)."""


def _whole(run: RunFolder, prices: RolePrices | None) -> float:
    asked = (stage for stage in recipe_stages(summarise(run), run.config) if stage.asks in ("teacher", "judge"))
    return sum(usd_of(stage.usage, stage.asks, prices) for stage in asked)
