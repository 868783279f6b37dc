"""One piece of a run's work with what it takes: the grain that estimates are summed of."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from tapir_core.calls import Role
from tapir_core.calls.prices import Price, UnknownPrice
from tapir_core.estimate.workload import Work

__all__ = ["ASKS", "Asked", "Line", "Prices"]

Asked = Literal["teacher", "judge", "student", ""]
Prices = Mapping[str, Price | UnknownPrice]
"""Price of teacher and judge in the mode in which they are asked."""

ASKS: dict[Role, Asked] = {
    "label": "teacher",
    "teach": "teacher",
    "answer": "student",
    "judge": "judge",
    "expand": "teacher",
    "refine": "teacher",
}
"""Who is asked in a role."""


@dataclass(frozen=True, slots=True)
class Line:
    """One piece of work with the tokens of a call, its price and the time of all its paid calls."""

    work: Work
    asks: Asked
    prompt_tokens: float = 0.0
    completion_tokens: float = 0.0
    price: Price | None = None
    """Nothing where it is unknown, and for training."""
    seconds: float | None = None

    @property
    def usd(self) -> float:
        """Price of one call; 0 where it is unknown."""
        return self.price.usd(self.prompt_tokens, self.completion_tokens) if self.price is not None else 0.0
