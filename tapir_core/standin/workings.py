"""Steps that several families take in their refined answers, in as few words as a small student can learn."""

from collections.abc import Callable, Iterable, Sequence
from itertools import zip_longest
from typing import Any

_COLUMNS = ("Ones", "Tens", "Hundreds")


def add_columns(terms: Iterable[int]) -> str:
    """A sum of numbers below 1,000, column by column: `Ones: 7 + 6 = 13, carry 1. Tens: 2 + 1 = 3.`"""
    columns = list(zip_longest(*(map(int, reversed(str(term))) for term in terms)))
    steps, carry = [], 0
    for place, column in enumerate(columns):
        digits = [digit for digit in (*column, carry or None) if digit is not None]
        total = sum(digits)
        carry = total // 10
        summed = f" = {total}" if len(digits) > 1 else ""
        # What the last column carries is the head of its own sum.
        carried = f", carry {carry}" if carry and place < len(columns) - 1 else ""
        steps.append(f"{_COLUMNS[place]}: {' + '.join(map(str, digits))}{summed}{carried}.")
    return " ".join(steps)


def add_up(terms: Sequence[int]) -> list[str]:
    """Partial sums, one term after the other: `40 + 5 = 45`, `45 + 3 = 48`."""
    sums = [sum(terms[:count]) for count in range(1, len(terms) + 1)]
    return [f"{before} + {term} = {after}" for before, term, after in zip(sums, terms[1:], sums[1:], strict=False)]


def split_places(number: int) -> list[int]:
    """A number by its digits: 705 is 700 and 5."""
    digits = str(number)
    return [int(digit) * 10 ** (len(digits) - place) for place, digit in enumerate(digits, start=1) if digit != "0"]


def keep_largest(items: Sequence[Any], key: Callable[[Any], Any], say: Callable[[Any], str] = str) -> str:
    """The largest of some items, each set against the largest before it: `cat or hill: hill. hill or ant: hill.`"""
    steps, largest = [], items[0]
    for item in items[1:]:
        before, largest = largest, max(largest, item, key=key)
        steps.append(f"{say(before)} or {say(item)}: {largest}.")
    return " ".join(steps)


def number_items(items: Iterable[str]) -> str:
    """Items with their places from 1: `1 water, 2 garden`."""
    return ", ".join(f"{place} {item}" for place, item in enumerate(items, start=1))
