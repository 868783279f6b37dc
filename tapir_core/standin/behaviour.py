"""What the stand-in's replies depend on besides the requests: the judge, the pace, the faults, the batches."""

import math
from dataclasses import dataclass, field
from typing import Literal

from tapir_core.errors import ConfigError
from tapir_core.standin.faults import Faults

__all__ = ["BatchRules", "Behaviour", "Preference"]

Preference = Literal["better", "first", "longer"]


@dataclass(frozen=True, slots=True)
class BatchRules:
    """How batches go.

    Raises:
        ConfigError: values are out of range; all of them are named.
    """

    seconds: float = 1.0
    """From a batch's creation to its last status: a tenth validating, a tenth finalizing, the rest in progress."""
    expire_share: float = 0.0
    """Share of rows that are not answered in time; a batch with such a row ends as expired."""
    fail_share: float = 0.0
    """Share of rows that fail with status 500."""
    max_rows: int = 50_000
    """Most rows of an input file; a batch over a longer one fails."""
    max_bytes: int = 200 * 2**20
    """Largest input file; a batch over a larger one fails."""

    def __post_init__(self) -> None:
        problems = []
        if not 0 <= self.seconds < math.inf:
            problems.append(f"the batches' seconds are {self.seconds:g}: give 0 or more")
        for name, share in (("expire_share", self.expire_share), ("fail_share", self.fail_share)):
            if not 0 <= share <= 1:
                problems.append(f"the batches' {name} is {share:g}: give a number from 0 to 1")
        if not problems and self.expire_share + self.fail_share > 1:
            problems.append(f"expire_share + fail_share is {self.expire_share + self.fail_share:g}: give 1 at most")
        for name, most in (("max_rows", self.max_rows), ("max_bytes", self.max_bytes)):
            if most < 1:
                problems.append(f"the batches' {name} is {most}: give 1 or more")
        if problems:
            raise ConfigError(problems)


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What a reply depends on besides its request."""

    position_bias: float = 0.5
    """Points that the judge adds to the answer shown first."""
    noise: float = 0.5
    """Standard deviation of the judge's scores, in points."""
    latency_seconds: float = 0.0
    """Pause before each reply."""
    faults: Faults = field(default_factory=Faults)
    """What fails on purpose."""
    batches: BatchRules = field(default_factory=BatchRules)
    """How batches go."""
    prefers: Preference = "better"
    """Which of two answers to a benchmark's question wins: the better one, or whatever it says the first or longer."""
    logprobs: bool = True
    """Whether log-probabilities are given to who asks for them."""
