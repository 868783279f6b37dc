"""The two roles that are paid for: teacher and judge."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, field_validator

from tapir_core.config._base import Section
from tapir_core.config.endpoints import EndpointConfig, Sampling

__all__ = ["JudgeConfig", "Order", "TeacherConfig"]

Order = Literal["teacher_first", "student_first"]


class TeacherConfig(Section):
    """The strong LLM that labels, answers, expands and refines (the paper's oracle LLM)."""

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

    reasks: NonNegativeInt = 2
    """Times that a reply which cannot be parsed (label, expansion) is asked for again with another seed."""


class JudgeConfig(Section):
    """The LLM that scores student against teacher; may be the teacher with another prompt."""

    endpoint: EndpointConfig
    """Where it answers."""

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
