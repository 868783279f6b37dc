"""What a cap counts and where it ends: the arithmetic alone. What holds over processes and restarts: test_budget.py."""

from dataclasses import replace

import pytest

from tapir_core.calls import Endpoint, Message, Role, Spend
from tapir_core.calls.budget import cap_reached, reserve
from tapir_core.config import BudgetConfig, Sampling
from tests.doubles.provider import make_request

PRICED = Endpoint("http://127.0.0.1/v1", 1, usd_per_million_prompt_tokens=3.0, usd_per_million_completion_tokens=5.0)


def reached(spent: dict[str, Spend], role: Role = "teach", wanted: Spend | None = None, **caps: object) -> str | None:
    return cap_reached(BudgetConfig.model_validate(caps), spent, role, wanted or Spend(1))


def test_a_request_reserves_its_prompt_with_its_frame_and_its_longest_answer():
    request = make_request("ü" * 30, sampling=Sampling(max_tokens=100))
    # 60 bytes are 20 tokens, and a message's frame is 16.
    assert reserve(request, PRICED) == Spend(1, 36, 100, pytest.approx((36 * 3 + 100 * 5) / 1e6, rel=1e-9))


def test_every_message_is_reserved_and_the_rest_of_a_token_is_left_out():
    several = Message("system", "12"), Message("user", "12345"), Message("assistant", "1")
    request = replace(make_request(sampling=Sampling(max_tokens=10)), messages=several)
    assert reserve(request, PRICED).tokens == 2 + 3 * 16 + 10


def test_a_text_that_no_encoding_takes_is_reserved_all_the_same():
    assert reserve(make_request("\ud800" * 3, sampling=Sampling(max_tokens=1)), PRICED).tokens == 1 + 16 + 1


@pytest.mark.parametrize(
    ("caps", "spent", "wanted", "over"),
    [
        ({"requests": 10}, Spend(requests=9), Spend(1), False),
        ({"requests": 10}, Spend(requests=10), Spend(1), True),
        ({"tokens": 100}, Spend(0, 50, 20), Spend(1, 30), False),
        ({"tokens": 100}, Spend(0, 50, 20), Spend(1, 31), True),
        ({"tokens": 109}, Spend(0, 90, 20), Spend(1), True),
        ({"tokens": 110}, Spend(0, 90, 20), Spend(1), False),
        ({"usd": 2.0}, Spend(usd=1.5), Spend(1, usd=0.5), False),
        ({"usd": 2.0}, Spend(usd=1.5), Spend(1, usd=0.625), True),
        ({"usd": 2.0}, Spend(usd=2.0), Spend(1, 1000), False),
        ({"usd": 2.0}, Spend(usd=2.5), Spend(1, 1000), True),
        ({"hours": 2}, Spend(seconds=7199), Spend(1), False),
        ({"hours": 2}, Spend(seconds=7200), Spend(1), True),
        ({"hours": 2}, Spend(seconds=9000), Spend(1), True),
        ({}, Spend(1000, 1000, 1000, 1000.0, 1e6), Spend(1, 500, 500, 1000.0), False),
    ],
)
def test_a_cap_may_be_used_up_but_not_passed(caps: dict[str, float], spent: Spend, wanted: Spend, over: bool):
    whole = {"run": Spend(seconds=spent.seconds), "teach": spent}
    assert (reached(whole, wanted=wanted, **caps) is not None) is over
    assert (reached(whole, wanted=wanted, stages={"teach": caps}) is not None) is over
    assert reached(whole, wanted=wanted, stages={"judge": caps}) is None


def test_a_run_spends_what_all_its_stages_spend_but_for_the_students_answers():
    spent = {"teach": Spend(3), "judge": Spend(4), "answer": Spend(50)}
    assert reached(spent, requests=8) is None
    assert reached(spent, requests=7) is not None
    assert reached(spent, role="answer", requests=1) is None


def test_the_hours_of_a_run_are_those_it_was_driven_and_a_stages_its_own():
    """Stages overlap: an hour of two of them is one of the run."""
    spent = {"run": Spend(seconds=3600), "teach": Spend(seconds=3000), "judge": Spend(seconds=3000)}
    assert reached(spent, hours=1.5) is None
    assert reached(spent, stages={"teach": {"hours": 0.9}}) is None
    assert reached(spent, stages={"teach": {"hours": 0.8}}) is not None
    assert reached({"teach": Spend(seconds=9000)}, hours=1) is None, "nobody has driven the run yet"


def test_the_words_name_cap_sum_and_need():
    spent = {"teach": Spend(1, 800, 434, 0.75)}
    assert reached(spent, wanted=Spend(1, 9, 90), tokens=1300) == (
        "budget.tokens = 1300 is reached: 1,234 is spent or reserved, and the next request may take 99"
    )
    assert reached(spent, wanted=Spend(1, 9, 0, 0.5), stages={"teach": {"usd": 1.0}}) == (
        "budget.stages.teach.usd = 1 is reached: 0.75 is spent or reserved, and the next request may take 0.5"
    )
    assert reached({"run": Spend(seconds=5400)}, hours=1.5) == "budget.hours = 1.5 is reached: 1.5 is spent or reserved"


def test_the_runs_own_cap_is_named_before_a_stages():
    assert "budget.requests" in str(reached({"teach": Spend(5)}, requests=5, stages={"teach": {"requests": 5}}))
