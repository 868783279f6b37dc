"""One piece of a run's work with what it takes: the grain that estimates are summed of."""

from dataclasses import dataclass
from typing import Literal

from tapir_core.calls import Role
from tapir_core.calls.prices import Price, UnknownPrice, price_of
from tapir_core.config import EndpointConfig, ModelIdentity, RunConfig
from tapir_core.estimate.workload import Work

__all__ = ["ASKS", "Asked", "Charger", "Line", "benchmark_chargers", "chargers_of"]

Asked = Literal["teacher", "judge", "student", ""]

_NO_MONEY = Price(0.0, 0.0, 0.0, source="the student's answers cost time and no money")

ASKS: dict[Role, Asked] = {
    "label": "teacher",
    "teach": "teacher",
    "answer": "student",
    "judge": "judge",
    "expand": "teacher",
    "refine": "teacher",
    "benchmark": "judge",
}
"""Who is asked in a role."""


@dataclass(frozen=True, slots=True)
class Charger:
    """A teacher or judge that is asked at an endpoint, and may charge for it."""

    asks: Asked
    name: str
    """In words: `teacher`, `judge`, of a panel `judge NAME`, `judge of BENCHMARK`."""
    field: str
    """Of the configuration."""
    endpoint: EndpointConfig
    voice: ModelIdentity
    price: Price | UnknownPrice
    """In the mode in which it is asked."""


def chargers_of(config: RunConfig) -> tuple[Charger, ...]:
    """The teacher, then every judge."""
    judges = config.judge.endpoints
    names = [f"judge {name}" for name in config.judge.names] if config.judge.panel else ["judge"]
    found = [_charger("teacher", "teacher", "teacher.endpoint", config.teacher.endpoint)]
    return (*found, *(_charger("judge", name, *item) for name, item in zip(names, judges.items(), strict=True)))


def benchmark_chargers(config: RunConfig, judge: Charger) -> dict[str, Charger]:
    """Judged benchmark of each round → who judges it: a judge of its own, or ``judge``, the first one of the run."""
    judged = config.evaluation.judged
    asked = {name: judged[name].judge for name in config.evaluation.each_round if name in judged}
    return {
        name: judge
        if own is None
        else _charger("judge", f"judge of {name}", f"evaluation.benchmarks.{name}.judge", own)
        for name, own in asked.items()
    }


def _charger(asks: Asked, name: str, field: str, endpoint: EndpointConfig) -> Charger:
    price = price_of(endpoint)
    if isinstance(price, Price):
        price = price.in_mode("batch" if endpoint.in_batches else "live")
    return Charger(asks, name, field, endpoint, endpoint.answers_as(asks), price)


@dataclass(frozen=True, slots=True)
class Line:
    """One piece of work of one who is asked, with the tokens of a call and the time of all its paid calls."""

    work: Work
    asks: Asked
    charger: Charger | None = None
    """Nothing for the student, and for training."""
    prompt_tokens: float = 0.0
    completion_tokens: float = 0.0
    seconds: float | None = None

    @property
    def price(self) -> Price | None:
        """Nothing where it is unknown, and for training."""
        if self.charger is None:
            return _NO_MONEY if self.asks == "student" else None
        return self.charger.price if isinstance(self.charger.price, Price) else None

    @property
    def usd(self) -> float:
        """Price of one call; 0 where it is unknown."""
        return self.price.usd(self.prompt_tokens, self.completion_tokens) if self.price is not None else 0.0
