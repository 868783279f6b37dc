"""The offline teacher and judge for verifiable instructions. Rule-based; no LLM (docs/standin.md).

Here are its versions: that of its answers, under which they are stored and re-used, and that of its pools and held-out
sets.
Limits: it knows its own families and refuses everything else.
"""

import random
from dataclasses import astuple

from tapir_core.standin.families import DEV_SHARES, FAMILIES, NATURAL_SHARES
from tapir_core.standin.family import LEVELS
from tapir_core.standin.rules import SCALE
from tapir_core.text import digest

_RULES = 1
"""Raised by hand when replies change in a way that the sample below does not show."""


_DRAWS = random.Random(0)
_SAMPLE = [
    astuple(family.draw_problem(level, _DRAWS)) for family in FAMILIES.values() for level in LEVELS for _ in range(3)
]
"""A changed family says something else here."""

STANDIN_VERSION = digest([_RULES, astuple(SCALE), [family.phrasings for family in FAMILIES.values()], _SAMPLE])[:12]
"""Of what the families say on a fixed sample, and of the judge's scale; 12 hex digits."""

POOL_VERSION = digest([STANDIN_VERSION, NATURAL_SHARES, DEV_SHARES])[:12]
"""Of the pools and held-out sets that are drawn from its families by their shares, 12 hex digits."""
