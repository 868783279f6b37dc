"""What is known before a run beside its configuration, as the forecast takes it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from tapir_core.calls import Role
from tapir_core.config import ModelIdentity
from tapir_core.estimate.benchmarks import BenchmarkSize
from tapir_core.estimate.prompts import PromptTokens

__all__ = ["Evidence", "KnownLength"]


@dataclass(frozen=True, slots=True)
class KnownLength:
    """How long a model's replies in a role were."""

    tokens: float
    """Completion tokens on average."""
    answers: int
    """Stored answers that were looked at."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """Measured on the sample, found in the store, or seen in earlier runs of the same root."""

    prompts: PromptTokens
    sampled: int
    """Instructions of the pool that were rendered."""
    lengths: Mapping[tuple[Role, ModelIdentity], KnownLength] = field(default_factory=dict)
    """Of the replies of one model in one role."""
    benchmarks: Mapping[str, BenchmarkSize] = field(default_factory=dict)
    """What the benchmarks of each round ask of one student, as their files say."""
    judgments: Mapping[str, KnownLength] = field(default_factory=dict)
    """Benchmark → of its judge's replies to its prompts."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Stage → seconds of a call that an earlier run with the same models paid for, concurrency included; of `train`
    seconds of an example."""
