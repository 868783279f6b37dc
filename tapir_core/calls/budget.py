"""Caps on what a run spends: pure arithmetic on what is spent or reserved and what is wanted.

Every attempt reserves the most that it can cost before it is sent, and settles with its true cost after, both in the
store's transactions (attempt_rows.py): processes that share a run share its caps, and a restart goes on from what
was spent. The student's own answers count against no cap.
"""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from tapir_core.calls.spend import Spend
from tapir_core.calls.types import Endpoint, Failure, Request, Role
from tapir_core.calls.wire import Reply
from tapir_core.config import BudgetConfig, Caps

DRIVING = "run"
"""Where the ledger keeps the hours of the whole run: stages overlap, so theirs do not add up to it."""

_BYTES_PER_TOKEN = 3
"""Of a prompt, for its reservation: fewer than tokenizers need for almost any text, so that a reservation is high."""
_TOKENS_PER_MESSAGE = 16
"""Of a chat template around each message."""

UNPAID: Literal["answer"] = "answer"
"""Role of the student's own answers."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One request that is about to be sent."""

    id: int
    """63 random bits."""
    run: str
    """The run's id."""
    role: Role
    key: str
    most: Spend
    """That it can cost."""


@dataclass(frozen=True, slots=True)
class Settlement:
    """What came of an attempt."""

    attempt: int
    outcome: str
    """`answer` or the kind of failure."""
    spent: Spend | None
    """What it cost, without a request if it was never sent; None where nobody says: it stays booked at the most."""


def reserve(request: Request, endpoint: Endpoint) -> Spend:
    """The most that one attempt at ``request`` can cost at ``endpoint``."""
    text = sum(len(message.content.encode("utf-8", "replace")) for message in request.messages)
    prompt = text // _BYTES_PER_TOKEN + _TOKENS_PER_MESSAGE * len(request.messages)
    completion = request.sampling.max_tokens
    prices = endpoint.usd_per_million_prompt_tokens, endpoint.usd_per_million_completion_tokens
    return Spend(1, prompt, completion, (prompt * prices[0] + completion * prices[1]) / 1e6)


def make_attempt(run: str, key: str, request: Request, endpoint: Endpoint) -> Attempt:
    """An attempt at ``request``, which has the key ``key``, by the run with the id ``run``."""
    return Attempt(secrets.randbits(63), run, request.role, key, reserve(request, endpoint))


def settlement(attempt: int, reply: Reply | None) -> Settlement:
    """What ``reply`` settles an attempt at; None says that it was never sent."""
    if reply is None or not reply.attempts:
        return Settlement(attempt, "", Spend())
    outcome = reply.outcome.kind if isinstance(reply.outcome, Failure) else "answer"
    known = Spend(1, reply.prompt_tokens, reply.completion_tokens, reply.usd)
    return Settlement(attempt, outcome, None if reply.cost_unknown else known)


def cap_reached(budget: BudgetConfig, spent: Mapping[str, Spend], role: Role, wanted: Spend) -> str | None:
    """Which cap would be passed if ``wanted`` were added for ``role``, in words; nothing when there is room.

    ``spent`` holds what was spent and what is reserved, by role.
    """
    if role == UNPAID:
        return None
    driving = spent.get(DRIVING, Spend())
    whole = sum((each for name, each in spent.items() if name != UNPAID), start=Spend())
    whole = replace(whole, seconds=driving.seconds)
    stage = budget.stages.get(role)
    return _passed("budget", budget, whole, wanted) or (
        _passed(f"budget.stages.{role}", stage, spent.get(role, Spend()), wanted) if stage else None
    )


def _passed(name: str, caps: Caps, spent: Spend, wanted: Spend) -> str | None:
    amounts = {
        "usd": (caps.usd, spent.usd, wanted.usd),
        "requests": (caps.requests, spent.requests, wanted.requests),
        "tokens": (caps.tokens, spent.tokens, wanted.tokens),
        "hours": (caps.hours, spent.seconds / 3600, 0),
    }
    for field, (cap, used, more) in amounts.items():
        if cap is not None and (used + more > cap or (field == "hours" and used >= cap)):
            need = f", and the next request may take {more:,.4g}" if more else ""
            return f"{name}.{field} = {cap:g} is reached: {used:,.4g} is spent or reserved{need}"
    return None
