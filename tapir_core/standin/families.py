"""The 20 families by name: recognising an instruction as theirs, and drawing problems for pools and held-out sets.

Natural shares for the pool, equal shares for held-out sets, one stream for each: streams keep pool, dev and test apart
whatever the seeds are. Some task types and phrasings are never in dev, so that what is chosen by dev is tested on what
it was not chosen for. Limits: a draw is distinct by instruction within one call.
"""

import random
from bisect import bisect_right
from collections.abc import Mapping
from itertools import accumulate, count

from tapir_core.errors import ConfigError
from tapir_core.standin import language, reasoning, subjects
from tapir_core.standin.family import LEVELS, Family, Problem, Stream

FAMILIES: dict[str, Family] = {
    family.name: family for module in (reasoning, language, subjects) for family in module.FAMILIES
}
"""Name → family. Their order is part of the version: equal shares are dealt out in it."""

_LONGEST_CHARS = 300

NATURAL_SHARES: dict[str, float] = {
    "pick": 0.255,
    "sum": 0.22,
    "plural": 0.08,
    "translation": 0.06,
    "lambda": 0.05,
    "stock": 0.04,
    "record": 0.04,
    "print": 0.035,
    "passive": 0.03,
    "ranking": 0.03,
    "biggest": 0.025,
    "product": 0.025,
    "match": 0.02,
    "mend": 0.02,
    "conversion": 0.015,
    "supposed": 0.015,
    "element": 0.01,
    "century": 0.01,
    "melody": 0.01,
    "chain": 0.01,
}
"""Family → share of the pool. Three families make more than half of it, as in instruction sets that people wrote."""

EQUAL_SHARES: dict[str, float] = dict.fromkeys(FAMILIES, 1 / len(FAMILIES))
"""Family → share of the test split: a mean over its rows is a mean over families."""

NOT_IN_DEV = ("Multilingual", "Computer Science", "Counterfactual", "Music")
"""Task types that dev lacks, from 6 % of the pool to 1 %: to recall words, to run code, to suppose, to reorder."""

DEV_SHARES: dict[str, float] = {name: 1.0 for name, family in FAMILIES.items() if family.task_type not in NOT_IN_DEV}
"""Family → share of the dev split, equal ones of fewer families."""

_DRAWS = 2000
"""Draws for one new problem before its family counts as used up."""


def recognise(instruction: str) -> Problem | None:
    """The problem that ``instruction`` poses, or None when it is no family's.

    It is the very problem that a family draws with this text: level, stream and answers included.
    """
    text = instruction.strip()
    families = FAMILIES.values() if len(text) <= _LONGEST_CHARS else ()
    return next((problem for family in families if (problem := family.read(text))), None)


def sample_problems(
    rows: int,
    *,
    max_level: int,
    rng: random.Random,
    shares: Mapping[str, float] = NATURAL_SHARES,
    stream: Stream = "pool",
) -> list[Problem]:
    """``rows`` problems with distinct instructions, in random order.

    Each family has its share of all shares, within one row; its levels, from 1 to ``max_level``, are equally likely.

    Raises:
        ConfigError: a family has fewer distinct instructions than its share asks for.
    """
    found: dict[str, Problem] = {}
    for name in _spread(rows, shares, rng):
        drawn = (draw_problem(FAMILIES[name], rng.choice(LEVELS[:max_level]), stream, rng) for _ in range(_DRAWS))
        problem = next((each for each in drawn if each.instruction not in found), None)
        if problem is None:
            raise ConfigError(
                f"the stand-in has no {rows} distinct {stream} instructions up to level {max_level}: "
                f"family {name!r} is used up after {len(found)}; ask for fewer rows or a higher max_level"
            )
        found[problem.instruction] = problem
    problems = list(found.values())
    rng.shuffle(problems)
    return problems


def draw_problem(family: Family, level: int, stream: Stream, rng: random.Random) -> Problem:
    """A random problem of a family, a level and a stream; every level has problems of every stream.

    The dev split never sees a family's last phrasing.
    """
    unseen = family.phrasings[-1] if stream == "dev" else None
    drawn = (family.draw_problem(level, rng) for _ in count())
    return next(problem for problem in drawn if problem.stream == stream and problem.phrasing != unseen)


def _spread(rows: int, shares: Mapping[str, float], rng: random.Random) -> list[str]:
    """A family for each row, by equidistant points over the shares laid end to end: counts are exact within one."""
    start, names = rng.random(), list(shares)
    ends, total = list(accumulate(shares.values())), sum(shares.values())
    return [names[bisect_right(ends, (row + start) / rows * total)] for row in range(rows)]
