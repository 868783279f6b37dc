"""Randomness is an argument: every draw takes a generator derived from (run seed, round, stage).

No module of the core touches a global generator.
"""

import random

from tapir_core.text import digest


def derive_seed(run_seed: int, *scope: str | int) -> int:
    """A 63-bit seed for ``scope`` (round, stage, …), the same on every machine and in every process."""
    return int(digest([run_seed, *scope])[:16], 16) >> 1


def derive_rng(run_seed: int, *scope: str | int) -> random.Random:
    """A generator for ``scope``; equal scopes of equal runs draw equal values."""
    return random.Random(derive_seed(run_seed, *scope))
