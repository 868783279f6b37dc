"""What a family of verifiable instructions is: phrasings with slots, a way to draw content and a way to solve it.

A problem is always made from the text of its slots, whether that text was drawn or read back from an instruction. So
what the server recognises is what the generator made, by construction.

Content decides the stream: a problem belongs to the pool, to dev or to test by a digest of its words, in any phrasing
and in any order of its items. No draw can put one problem into two streams.

Below are the steps that several families take in their refined answers, in as few words as a small student can learn.
"""

import random
import re
import tomllib
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, count, pairwise, zip_longest
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

from tapir_core.text import digest

Slots = Mapping[str, str]
"""Slot name → its text; the content of a problem without its phrasing."""

Traits = tuple[Hashable, ...]
"""What makes one content of a family and level harder than another, in an order that is the family's."""

Stream = Literal["pool", "dev", "test"]

LEVELS = (1, 2, 3, 4, 5)
"""Levels of difficulty, easiest first; every family has them all."""

WORDS = SimpleNamespace(**tomllib.loads(Path(__file__).with_name("words.toml").read_text(encoding="utf-8")))
"""The words that the families draw from."""

_MOST_DRAWS = 200
"""Draws for a content with all traits of another, before the likest of them is taken."""

_SLOT = re.compile(r"\\{(\w+)\\}")
"""In an escaped phrasing."""

_COLUMNS = ("Ones", "Tens", "Hundreds")

_STREAM_OF_TENTH: list[Stream] = ["pool", "pool", "pool", "pool", "pool", "pool", "dev", "dev", "test", "test"]


@dataclass(frozen=True, slots=True)
class Solution:
    """What follows from the slots of a problem."""

    level: int
    reference: str
    """The bare final result."""
    working: str
    """What the refined answer says before its final result."""
    traits: Traits
    """As many for each content of a level."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One verifiable instruction with its exact answers."""

    family: str
    task_type: str
    level: int
    stream: Stream
    instruction: str
    reference: str
    plain: str
    """Short answer that ends in `Answer: …`."""
    refined: str
    """Steps, code or prose to the same final result; ends in `Answer: …`."""
    phrasing: str
    """The instruction with `{slot}` for its content."""
    traits: Traits
    content: tuple[str, ...]
    """Its words in alphabetical order, without those of the phrasing."""


@dataclass(frozen=True)
class Family:
    """A family: one kind of instruction in several phrasings and five levels."""

    name: str
    task_type: str
    phrasings: tuple[str, ...]
    """Instructions with `{slot}` in them; each phrasing has every slot."""
    slots: Slots
    """Slot name → regular expression of its text."""
    draw: Callable[[int, random.Random], Slots]
    """Content of a level."""
    solve: Callable[[Slots], Solution]
    """What follows from any content; a LookupError or ValueError, or no level of ours, where it is none of
    this family's."""

    def draw_problem(self, level: int, rng: random.Random) -> Problem:
        """A random problem of ``level``, of any stream."""
        slots = self.draw(level, rng)
        problem = self._problem(rng.choice(self.phrasings), slots)
        assert problem.level == level, f"{self.name} drew {dict(slots)} for level {level}, it is of {problem.level}"
        return problem

    def draw_like(self, seed: Problem, stream: Stream, rng: random.Random) -> Problem:
        """A problem of a stream with the level, the phrasing and the traits of ``seed``, and with other content.

        Where none of many draws has all its traits, the likest of them.
        """
        likest, most = None, -1
        for number in count(1):
            drawn = self._problem(seed.phrasing, self.draw(seed.level, rng))
            alike = sum(one == other for one, other in zip(drawn.traits, seed.traits, strict=False))
            if alike > most and drawn.content != seed.content and drawn.stream == stream:
                likest, most = drawn, alike
            if likest and (most == len(seed.traits) or number >= _MOST_DRAWS):
                return likest
        raise AssertionError("a family has new content at every level")

    def read(self, instruction: str) -> Problem | None:
        """The problem that ``instruction`` poses, or None when it is none of this family's."""
        for phrasing, pattern in self._patterns.items():
            if match := pattern.fullmatch(instruction):
                with suppress(LookupError, ValueError):
                    return self._problem(phrasing, match.groupdict())
        return None

    def _problem(self, phrasing: str, slots: Slots) -> Problem:
        solution = self.solve(slots)
        if solution.level not in LEVELS:
            raise ValueError(f"{dict(slots)} is too short or too long")
        stated = f"Answer: {solution.reference}"
        content = tuple(sorted(re.findall(r"\w+", " ".join(slots.values()).casefold())))
        return Problem(
            family=self.name,
            task_type=self.task_type,
            level=solution.level,
            stream=_STREAM_OF_TENTH[int(digest([self.name, content])[:8], 16) % len(_STREAM_OF_TENTH)],
            instruction=phrasing.format(**slots),
            reference=solution.reference,
            plain=stated,
            refined=f"{solution.working}\n{stated}",
            phrasing=phrasing,
            traits=solution.traits,
            content=content,
        )

    @cached_property
    def _patterns(self) -> dict[str, re.Pattern[str]]:
        """Phrasing → what matches it, a group for each slot."""
        return {
            phrasing: re.compile(
                _SLOT.sub(lambda slot: f"(?P<{slot[1]}>{self.slots[slot[1]]})", re.escape(phrasing)), re.ASCII
            )
            for phrasing in self.phrasings
        }


def distinct(items: list[str]) -> list[str]:
    """The items as they are.

    Raises:
        ValueError: one of them is there twice.
    """
    if len(set(items)) < len(items):
        raise ValueError(f"{items} has an item twice")
    return items


def any_of(words: Iterable[str]) -> str:
    """A regular expression that matches one of the words."""
    return f"(?:{'|'.join(words)})"


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
    return [
        f"{before} + {term} = {after}"
        for term, (before, after) in zip(terms[1:], pairwise(accumulate(terms)), strict=True)
    ]


def split_places(number: int) -> list[int]:
    """A number by its digits: 705 is 700 and 5."""
    digits = str(number)
    return [int(digit) * 10 ** (len(digits) - place) for place, digit in enumerate(digits, start=1) if digit != "0"]


def keep_largest(items: Sequence[Any], key: Callable[[Any], Any], say: Callable[[Any], str] = str) -> str:
    """The largest of some items, each set against the largest before it: `cat or hill: hill. hill or ant: hill.`"""
    largest = pairwise(accumulate(items, lambda *pair: max(pair, key=key)))
    return " ".join(
        f"{say(before)} or {say(item)}: {after}." for item, (before, after) in zip(items[1:], largest, strict=True)
    )


def number_items(items: Iterable[str], start: int = 1) -> str:
    """Items with their places: `1 water, 2 garden`."""
    return ", ".join(f"{place} {item}" for place, item in enumerate(items, start))
