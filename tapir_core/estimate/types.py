"""What an estimate says: calls, tokens, USD and hours of a run before it starts, each as low, likely and high.

Grain: one `Figures` a stage (all its rounds together), one a role, one a benchmark and student; a total is no sum of
highs, since not everything is high at once.
"""

from dataclasses import dataclass

from pydantic import TypeAdapter, ValidationError

from tapir_core.errors import ConfigError
from tapir_core.paths import ESTIMATE


@dataclass(frozen=True, slots=True)
class Span:
    """A figure that is not known yet: at least ``low``, at most ``high``, as far as the assumptions hold."""

    low: float
    likely: float
    high: float


@dataclass(frozen=True, slots=True)
class Load:
    """Answers, and what they cost."""

    calls: Span
    prompt_tokens: Span
    completion_tokens: Span
    usd: Span | None
    """Nothing where a price is unknown."""


@dataclass(frozen=True, slots=True)
class Figures:
    """One stage, one role, or the whole run."""

    name: str
    asks: str
    """teacher, judge or student; empty for what asks nobody, or several."""
    needed: Load
    """Every answer that it needs, wherever it comes from."""
    paid: Load
    """The answers that neither the store nor an equal request before gives: what the run still has to ask for."""
    hours: Span | None
    """Of the paid calls; nothing where it is unknown."""
    steps: Span | None = None
    """Optimizer steps, of training."""


@dataclass(frozen=True, slots=True)
class BenchmarkFigures:
    """One benchmark of each round, by student: backbone, S_0 and so on, and last `all` of them together."""

    name: str
    judge: str
    """Model that judges it, or what marks its answers and asks nobody."""
    questions: int
    answers: tuple[Figures, ...]
    """What the student is asked, every turn counted."""
    judgments: tuple[Figures, ...]
    """What the judge is asked, in the same order."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a run will take, as far as it can be known before it starts."""

    run: str
    stages: tuple[Figures, ...]
    """In the order of the method, with the names that reports use."""
    roles: tuple[Figures, ...]
    """By what calls are for, as the store counts them."""
    charged: Figures
    """Of teacher and judge together: what money can be asked for."""
    total: Figures
    """Of teacher, judge and student; hours of training are in it where they are known."""
    unknown_prices: tuple[str, ...]
    """Who has no price, why, and what to set."""
    assumptions: tuple[str, ...]
    """In plain words, for the reader of the table."""
    benchmarks: tuple[BenchmarkFigures, ...] = ()
    """Those of each round; they are in stages, roles and totals."""


_JSON = TypeAdapter(Estimate)


def estimate_json(estimate: Estimate) -> str:
    """The estimate as JSON, for other programs and for the run folder."""
    return _JSON.dump_json(estimate, indent=1).decode() + "\n"


def load_estimate(content: bytes | str) -> Estimate:
    """Read what `estimate_json` wrote.

    Raises:
        ConfigError: it is no estimate.
    """
    try:
        return _JSON.validate_json(content)
    except ValidationError as exc:
        raise ConfigError(f"{ESTIMATE} cannot be read ({exc.error_count()} problems); remove it") from exc
