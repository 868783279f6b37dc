"""The two roles that are paid for: teacher and judge."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, NonNegativeInt, field_validator

from tapir_core.config._base import Section
from tapir_core.config.endpoints import EndpointConfig, ModelIdentity, Sampling

__all__ = ["JudgeConfig", "Order", "PanelRule", "TeacherConfig"]

Order = Literal["teacher_first", "student_first"]

PanelRule = Literal["mean", "majority"]
"""`mean`: of all who scored. `majority`: of those who named the winner that most named; of all when none leads."""


class TeacherConfig(Section):
    """The strong LLM that labels, answers, expands and refines (the paper's oracle LLM)."""

    free: ClassVar[tuple[str, ...]] = ("terms",)

    endpoint: EndpointConfig
    """Where it answers."""

    answering: Sampling = Sampling(max_tokens=1024)
    """Sampling of the plain answers."""

    labelling: Sampling = Sampling(max_tokens=256)
    """Sampling of the task-type labels."""

    expanding: Sampling = Sampling(temperature=1.0, max_tokens=1024)
    """Sampling of new instructions; each sample has an index of its own."""

    refining: Sampling = Sampling(max_tokens=2048)
    """Sampling of refined answers."""

    terms: str | None = None
    """Licence or terms under which its answers may be trained on; stands in the model card of `tapir export`."""

    reasks: NonNegativeInt = 2
    """Times that a reply which cannot be parsed (label, expansion) is asked for again with another seed."""


class JudgeConfig(Section):
    """The LLM that scores student against teacher; may be the teacher with another prompt."""

    endpoint: EndpointConfig
    """Where it answers; with a panel, where its first judge does."""

    panel: Annotated[tuple[EndpointConfig, ...], Field(strict=False)] = ()
    """More judges, each with the fields of an endpoint in a `[[judge.panel]]`: every judge scores every pair."""

    panel_rule: PanelRule = "mean"
    """How a panel's scores become one: the mean of all judges, or of the `majority` that names the same winner."""

    mode: Literal["pairwise", "pointwise"] = "pairwise"
    """`pairwise` shows both answers in one prompt; `pointwise` scores one answer a call, the teacher's only once."""

    orders: Annotated[tuple[Order, ...], Field(min_length=1, max_length=2, strict=False)] = (
        "teacher_first",
        "student_first",
    )
    """Orders in which the two answers are shown; an instruction is scored only when every order is."""

    sampling: Sampling = Sampling(max_tokens=1024)
    """Sampling of verdicts."""

    reasks: NonNegativeInt = 2
    """Times that a verdict which cannot be parsed is asked for again with another seed before it is unscored."""

    @field_validator("orders", mode="after")
    @classmethod
    def _orders_differ(cls, orders: tuple[Order, ...]) -> tuple[Order, ...]:
        if len(set(orders)) < len(orders):
            raise ValueError("names an order twice; each order is asked once")
        return orders

    @property
    def prompt(self) -> str:
        """Name of its prompt."""
        return {"pairwise": "judge", "pointwise": "judge_pointwise"}[self.mode]

    @property
    def endpoints(self) -> dict[str, EndpointConfig]:
        """Every judge's endpoint by the field that sets it, the first judge first."""
        panel = {f"judge.panel.{place}": endpoint for place, endpoint in enumerate(self.panel)}
        return {"judge.endpoint": self.endpoint, **panel}

    @property
    def identities(self) -> tuple[ModelIdentity, ...]:
        """Every judge's, the first judge first."""
        return tuple(endpoint.answers_as("judge") for endpoint in self.endpoints.values())

    @property
    def names(self) -> tuple[str, ...]:
        """What every judge is called, the first first: its model, with its identity where two have the same model."""
        models = [model for model, _ in self.identities]
        return tuple(
            model if models.count(model) == 1 else f"{model} ({identity})" for model, identity in self.identities
        )
