"""Keeping evaluation and held-out instructions out of pool and expansion: shared runs of words.

Limits: an overlap is a run of words without case and punctuation. A reworded held-out instruction is not found; the
ROUGE-L gate is no substitute, because it looks at the pool. A held-out instruction shorter than the run counts only
when it is equal.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import polars as pl

from tapir_core.data.similarity import words_of

__all__ = ["Decontaminated", "SharedRuns", "drop_contaminated"]


class SharedRuns:
    """Runs of ``words`` words of some texts, and whether another text shares one."""

    def __init__(self, texts: Iterable[str], words: int) -> None:
        self.words = words
        split = [words_of(text) for text in texts]
        self._whole = {tuple(each) for each in split if each}
        self._runs = {run for each in split for run in self._runs_of(each)}

    def overlaps(self, text: str) -> bool:
        """True when ``text`` is equal to one of the texts or shares a run of words with one."""
        split = words_of(text)
        return tuple(split) in self._whole or any(run in self._runs for run in self._runs_of(split))

    def _runs_of(self, split: list[str]) -> Iterator[str]:
        return (" ".join(split[start : start + self.words]) for start in range(len(split) - self.words + 1))


@dataclass(frozen=True, slots=True)
class Decontaminated:
    """A pool without what it shares with the held-out set."""

    kept: pl.DataFrame
    dropped: pl.DataFrame


def drop_contaminated(pool: pl.DataFrame, heldout: pl.DataFrame, words: int) -> Decontaminated:
    """Split ``pool`` by whether an instruction overlaps one of ``heldout``; both have a column ``instruction``."""
    shared = SharedRuns(heldout["instruction"], words)
    overlaps = pl.Series([shared.overlaps(text) for text in pool["instruction"]], dtype=pl.Boolean)
    return Decontaminated(pool.filter(~overlaps), pool.filter(overlaps))
