"""How a judge is asked: both answers in one prompt, or one answer a call. An object for each `judge.mode`."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, cast

from tapir_core.config import JudgeConfig, Order
from tapir_core.judging.combine import POINTWISE, Verdict, arrange, combine_points, pair_verdict
from tapir_core.judging.prompt import render_pairwise, render_pointwise
from tapir_core.judging.verdict import parse_pointwise, parse_verdict
from tapir_core.prompts import Prompt

__all__ = ["MODES", "JudgeMode", "expected_orders", "mode_of", "verdicts_per_instruction"]

Row = Mapping[str, Any]
"""instruction_id, instruction, system, reference, teacher (its response), student (its response)."""


class JudgeMode(ABC):
    """What one request is about is its ``place``: an order of both answers, or whose answer is shown."""

    @abstractmethod
    def places(self, judge: JudgeConfig) -> tuple[str, ...]:
        """The requests for one instruction to one judge."""

    @abstractmethod
    def order_of(self, place: str) -> str:
        """The order under which a verdict of this request stands in ``verdicts/``."""

    @abstractmethod
    def render(self, prompt: Prompt, row: Row, place: str) -> str:
        """What the judge reads."""

    @abstractmethod
    def parse(self, reply: str | None) -> Any:
        """The score or scores of one reply, or `Unparsed`."""

    @abstractmethod
    def rests_on(self, place: str) -> tuple[str, ...]:
        """The requests of which the verdict at ``place`` is made; none where it stands at another one."""

    @abstractmethod
    def combine(self, instruction_id: str, place: str, scores: Sequence[Any], raw: str | None, judge: str) -> Verdict:
        """The verdict of what `rests_on` names, each parsed; ``raw`` is the first reply."""

    @property
    @abstractmethod
    def shown(self) -> tuple[str, ...]:
        """Whose answers stand in a prompt: columns of a row."""

    @abstractmethod
    def is_balanced(self, judge: JudgeConfig) -> bool:
        """Whether a liking for a position cancels out, or has none to like."""

    @abstractmethod
    def calls(self, judge: JudgeConfig, rows: float, fresh: float, changed: float, equal: float) -> tuple[float, float]:
        """Calls that are needed and that are paid.

        Args:
            judge: its orders.
            rows: instructions.
            fresh: of these, those that no round judged before.
            changed: of these, those whose answer is another than in the round before.
            equal: share of answers that equal the teacher's.
        """

    @abstractmethod
    def in_words(self, judge: JudgeConfig) -> str:
        """For a reader of figures."""


class _Pairwise(JudgeMode):
    def places(self, judge: JudgeConfig) -> tuple[str, ...]:
        return judge.orders

    def order_of(self, place: str) -> str:
        return place

    def render(self, prompt: Prompt, row: Row, place: str) -> str:
        shown = arrange(cast(Order, place), student=row["student"], teacher=row["teacher"])
        asked = row["instruction"], row["system"]
        return render_pairwise(prompt, *asked, shown.answer_1, shown.answer_2, row["reference"])

    def parse(self, reply: str | None) -> Any:
        return parse_verdict(reply)

    def rests_on(self, place: str) -> tuple[str, ...]:
        return (place,)

    def combine(self, instruction_id: str, place: str, scores: Sequence[Any], raw: str | None, judge: str) -> Verdict:
        return pair_verdict(instruction_id, cast(Order, place), scores[0], raw, judge)

    @property
    def shown(self) -> tuple[str, ...]:
        return ("teacher", "student")

    def is_balanced(self, judge: JudgeConfig) -> bool:
        return len(judge.orders) > 1

    def calls(self, judge: JudgeConfig, rows: float, fresh: float, changed: float, equal: float) -> tuple[float, float]:
        # An answer that equals the teacher's makes one prompt of both orders.
        orders = len(judge.orders)
        return rows * orders, changed * (orders - equal * (orders - 1))

    def in_words(self, judge: JudgeConfig) -> str:
        return f"pairwise, {' and '.join(judge.orders).replace('_', ' ')}"


class _Pointwise(JudgeMode):
    def places(self, judge: JudgeConfig) -> tuple[str, ...]:
        return ("student", "teacher")

    def order_of(self, place: str) -> str:
        return POINTWISE

    def render(self, prompt: Prompt, row: Row, place: str) -> str:
        return render_pointwise(prompt, row["instruction"], row["system"], row[place], row["reference"])

    def parse(self, reply: str | None) -> Any:
        return parse_pointwise(reply)

    def rests_on(self, place: str) -> tuple[str, ...]:
        return ("student", "teacher") if place == "student" else ()

    def combine(self, instruction_id: str, place: str, scores: Sequence[Any], raw: str | None, judge: str) -> Verdict:
        student, teacher = scores
        return combine_points(instruction_id, student, teacher, raw, judge)

    @property
    def shown(self) -> tuple[str, ...]:
        return ("teacher",)

    def is_balanced(self, judge: JudgeConfig) -> bool:
        return True

    def calls(self, judge: JudgeConfig, rows: float, fresh: float, changed: float, equal: float) -> tuple[float, float]:
        # The teacher's own answer is paid once.
        return 2 * rows, changed * (1 - equal) + fresh

    def in_words(self, judge: JudgeConfig) -> str:
        return POINTWISE


MODES: dict[str, JudgeMode] = {"pairwise": _Pairwise(), "pointwise": _Pointwise()}


def mode_of(judge: JudgeConfig) -> JudgeMode:
    """How the judges of a run are asked."""
    return MODES[judge.mode]


def expected_orders(judge: JudgeConfig) -> tuple[str, ...]:
    """The orders that an instruction must be scored in before it counts as scored."""
    mode = mode_of(judge)
    return tuple(dict.fromkeys(mode.order_of(place) for place in mode.places(judge)))


def verdicts_per_instruction(judge: JudgeConfig) -> int:
    """Rows of ``verdicts/`` that an instruction gets: one an order and judge."""
    return len(expected_orders(judge)) * len(judge.endpoints)
