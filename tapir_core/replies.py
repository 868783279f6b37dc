"""A reply that came but does not hold what was asked for. A value, so that one bad reply never loses a batch."""

from dataclasses import dataclass

__all__ = ["Unparsed"]


@dataclass(frozen=True, slots=True)
class Unparsed:
    """What every parser of a teacher's or judge's reply returns when it finds nothing usable."""

    reason: str
    """A short, countable reason without the reply's own words: `no verdict`, `score outside 1-10`."""
