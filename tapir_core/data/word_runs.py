"""Runs of words of many texts, looked for in very many others: 64-bit hashes in numpy arrays.

Texts are strings with one character a word (`tapir_core.data.similarity.Vocabulary`); all runs of a batch of texts are
hashed together. What is found is a candidate: equal runs have equal hashes, and that different ones have them too is as
good as impossible but not excluded, so who asks compares the words.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["RunIndex", "Runs", "runs_of"]

Hashes = NDArray[np.uint64]
Places = NDArray[np.int64]

_BASE = np.uint64(0x9E3779B97F4A7C15)
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
_ROOM = 32
"""Bits of the first look for each run: about one foreign run in 32 is looked up in vain."""


@dataclass(frozen=True, slots=True)
class Runs:
    """Every run of one length in a batch of texts, in order."""

    size: int
    """Words of a run."""
    hashes: Hashes
    texts: Places
    """The place of the text, in its batch, that each run stands in."""


def runs_of(encoded: Sequence[str], sizes: Collection[int]) -> Iterator[Runs]:
    """The runs of each of ``sizes``, shortest first."""
    codes = np.frombuffer("".join(encoded).encode("utf-32-le"), dtype=np.uint32)
    lengths = np.fromiter(map(len, encoded), dtype=np.int64, count=len(encoded))
    texts = np.repeat(np.arange(len(encoded)), lengths)
    left = np.cumsum(lengths)[texts] - np.arange(len(codes))
    words = _spread(codes)
    hashes = words
    for size in range(1, max(sizes, default=0) + 1):
        if size > 1:
            hashes = hashes[:-1] * _BASE + words[size - 1 :]
        if size in sizes:
            whole = left[: len(hashes)] >= size
            yield Runs(size, hashes[whole], texts[: len(hashes)][whole])


class RunIndex:
    """Runs of one length, each with who it belongs to."""

    def __init__(self, hashes: Hashes, owners: Places) -> None:
        order = np.argsort(hashes, kind="stable")
        self._hashes, self._owners = hashes[order], owners[order]
        bits = max(1, (_ROOM * len(hashes)).bit_length())
        self._shift = np.uint64(64 - bits)
        self._seen = np.zeros(1 << bits, dtype=bool)
        self._seen[self._hashes >> self._shift] = True

    def find(self, runs: Runs) -> Places:
        """Which texts of a batch have runs of which owners: rows of two columns, text and owner, each row once."""
        maybe = np.flatnonzero(self._seen[runs.hashes >> self._shift])
        first = np.searchsorted(self._hashes, runs.hashes[maybe], side="left")
        counts = np.searchsorted(self._hashes, runs.hashes[maybe], side="right") - first
        # Of each run found the place of its first owner, and the places after it for as many owners as it has.
        places = np.repeat(first - (np.cumsum(counts) - counts), counts) + np.arange(counts.sum())
        base = self._owners.max(initial=0) + 1
        pairs = np.sort(np.repeat(runs.texts[maybe], counts) * base + self._owners[places])
        new = np.diff(pairs, prepend=-1) > 0
        return np.column_stack(np.divmod(pairs[new], base))


def _spread(codes: NDArray[np.uint32]) -> Hashes:
    """Neighbouring codes as numbers far apart (the finaliser of SplitMix64)."""
    mixed = (codes.astype(np.uint64) + np.uint64(1)) * _BASE
    mixed = (mixed ^ (mixed >> np.uint64(30))) * _MIX[0]
    mixed = (mixed ^ (mixed >> np.uint64(27))) * _MIX[1]
    return mixed ^ (mixed >> np.uint64(31))
