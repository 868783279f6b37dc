"""Example of a selection rule: seeds are the hardest share of each task type, so that no type goes without.

In the product it would be a class in `tapir_core/config/curriculum.py` and a function in
`tapir_core/curriculum/selection.py`. Here it stands beside the product and registers itself when it is imported.
"""

import random
from collections.abc import Collection
from typing import Annotated, Literal

import polars as pl
from pydantic import Field

from tapir_core.config import SelectionRule
from tapir_core.curriculum.selection import choose_rows, hardest

__all__ = ["TopPerType"]


class TopPerType(SelectionRule):
    """Seeds are the hardest share of the scored instructions of each task type."""

    type: Literal["top_per_type"] = "top_per_type"

    share: Annotated[float, Field(gt=0, lt=1)] = 0.3
    """Share q of the scored instructions of a task type; only MFD > 0 can be a seed."""

    @property
    def fixed_share(self) -> float | None:
        """The same in all task types."""
        return self.share


@choose_rows.register
def _(rule: TopPerType, rows: pl.DataFrame, rng: random.Random, _used: Collection[str]) -> list[int]:
    types, mfd = rows["task_type"].to_list(), rows["mfd"].to_list()
    of_type = ([row for row, each in enumerate(types) if each == name] for name in sorted(set(types)))
    return [row for among in of_type for row in hardest(mfd, among, rule.share, rng)]
