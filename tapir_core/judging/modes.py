"""How a judge is asked: both answers in one prompt, or one answer a call. An object for each `judge.mode`."""

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


class JudgeMode:
    """Both answers in one prompt. What a request is about is its ``place``: here the order of the answers."""

    shown: tuple[str, ...] = ("teacher", "student")
    """Whose answers stand in a prompt: columns of a row."""

    def places(self, judge: JudgeConfig) -> tuple[str, ...]:
        """The requests for one instruction to one judge."""
        return judge.orders

    def order_of(self, place: str) -> str:
        """The order under which a verdict of this request stands in ``verdicts/``."""
        return place

    def render(self, prompt: Prompt, row: Row, place: str) -> str:
        """What the judge reads."""
        shown = arrange(cast(Order, place), student=row["student"], teacher=row["teacher"])
        asked = row["instruction"], row["system"]
        return render_pairwise(prompt, *asked, shown.answer_1, shown.answer_2, row["reference"])

    def parse(self, reply: str | None) -> Any:
        """The score or scores of one reply, or `Unparsed`."""
        return parse_verdict(reply)

    def rests_on(self, place: str) -> tuple[str, ...]:
        """The requests of which the verdict at ``place`` is made; none where it stands at another one."""
        return (place,)

    def combine(self, instruction_id: str, place: str, scores: Sequence[Any], raw: str | None, judge: str) -> Verdict:
        """The verdict of what `rests_on` names, each parsed; ``raw`` is the first reply."""
        return pair_verdict(instruction_id, cast(Order, place), scores[0], raw, judge)

    def is_balanced(self, judge: JudgeConfig) -> bool:
        """Whether a liking for a position cancels out, or has none to like."""
        return len(judge.orders) > 1

    def calls(self, judge: JudgeConfig, rows: float, fresh: float, changed: float, equal: float) -> tuple[float, float]:
        """Calls that are needed and that are paid; an answer that equals the teacher's makes one prompt of both orders.

        Args:
            judge: its orders.
            rows: instructions.
            fresh: of these, those that no round judged before.
            changed: of these, those whose answer is another than in the round before.
            equal: share of answers that equal the teacher's.
        """
        orders = len(judge.orders)
        return rows * orders, changed * (orders - equal * (orders - 1))

    def in_words(self, judge: JudgeConfig) -> str:
        """For a reader of figures."""
        return f"pairwise, {' and '.join(judge.orders).replace('_', ' ')}"


class _Pointwise(JudgeMode):
    """One answer a call. A place is whose answer is shown; the teacher's is the same in every round, and paid once."""

    shown = ("teacher",)

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

    def is_balanced(self, judge: JudgeConfig) -> bool:
        return True

    def calls(self, judge: JudgeConfig, rows: float, fresh: float, changed: float, equal: float) -> tuple[float, float]:
        return 2 * rows, changed * (1 - equal) + fresh

    def in_words(self, judge: JudgeConfig) -> str:
        return POINTWISE


MODES: dict[str, JudgeMode] = {"pairwise": JudgeMode(), "pointwise": _Pointwise()}


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
