"""What a run may cost at most."""

from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt

from tapir_core.config._base import Section

__all__ = ["BudgetConfig", "Caps"]

PaidStage = Literal["label", "teach", "judge", "expand", "refine", "benchmark"]


class Caps(Section):
    """Most that may be spent; what is left out has no cap. Raising a cap re-runs nothing."""

    usd: PositiveFloat | None = None
    """US dollars; every price must be known then."""

    requests: PositiveInt | None = None
    """Requests to teacher and judge, repeated attempts included."""

    tokens: PositiveInt | None = None
    """Prompt and completion tokens of teacher and judge."""

    hours: PositiveFloat | None = None
    """Hours of work, over all starts; time in which the run does not run is not counted."""


class BudgetConfig(Caps):
    """Caps of the whole run, and of single stages over all rounds. At a cap the run stops cleanly with exit code 3."""

    stages: dict[PaidStage, Caps] = Field(default_factory=dict)
    """`[budget.stages.judge]` and so on: caps of one stage that asks teacher or judge."""
