import math

import pytest

from tapir_core.evaluation.alpaca_eval import (
    is_switched,
    kept_preference,
    preference_from_choice,
    preference_from_logprobs,
)
from tapir_core.text import Unparsed


def test_the_order_is_drawn_from_the_instruction_alone_and_is_balanced() -> None:
    instructions = [f"Write about {number}." for number in range(2_000)]
    switched = [is_switched(each) for each in instructions]
    assert switched == [is_switched(each) for each in instructions]
    assert sum(switched) == pytest.approx(1_000, abs=100)
    as_ever = "".join("s" if each else "b" for each in switched[:12])
    assert as_ever == "sssbbbssbssb", "other orders meet no stored judgment"


@pytest.mark.parametrize(
    ("logprobs", "as_shown"),
    [
        ({"m": math.log(0.75), "M": math.log(0.25)}, 1.25),
        ({"m": math.log(0.3), "M": math.log(0.1), "Model": math.log(0.6)}, 1.25),
        ({"m": -0.1}, 1.0),
        ({"M": -30.0}, 2.0),
        ({"m": -2_000.0, "M": -2_000.0}, 1.5),
        ({"m": -math.inf, "M": -1.0}, 2.0),
    ],
    ids=["both", "others disregarded", "first only", "second only", "hardly any", "impossible"],
)
def test_logprobs_become_a_preference_between_the_two_identifiers(logprobs: dict[str, float], as_shown: float) -> None:
    assert preference_from_logprobs(logprobs, switched=False) == pytest.approx(as_shown)
    assert preference_from_logprobs(logprobs, switched=True) == pytest.approx(3 - as_shown)


@pytest.mark.parametrize("logprobs", [{}, {"Model": -0.1}, {"m": -math.inf}])
def test_logprobs_without_an_identifier_are_no_preference(logprobs: dict[str, float]) -> None:
    assert isinstance(preference_from_logprobs(logprobs, switched=False), Unparsed)


@pytest.mark.parametrize("reply", ["m", " m\n", "`m`", '"m".', "**m**"])
def test_a_choice_is_an_identifier_alone(reply: str) -> None:
    assert preference_from_choice(reply, switched=False) == 1.0
    assert preference_from_choice(reply, switched=True) == 2.0
    assert preference_from_choice(reply.replace("m", "M"), switched=False) == 2.0


@pytest.mark.parametrize("reply", [None, "", "model", "m or M", "Mm", "The better one is m", "1"])
def test_anything_else_is_no_choice(reply: str | None) -> None:
    assert preference_from_choice(reply, switched=False) == Unparsed("no identifier")


@pytest.mark.parametrize(
    ("stored", "kept"),
    [(1, 1), (2.0, 2.0), (1.25, 1.25), (0, 1.5), (0.0, 1.5), (-1, None), (None, None), (math.nan, None), (2.1, None)],
)
def test_what_is_off_the_scale_failed_and_an_old_draw_is_a_draw(stored: float | None, kept: float | None) -> None:
    assert kept_preference(stored) == kept
