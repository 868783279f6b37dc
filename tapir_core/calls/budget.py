"""What calls cost: spend, live counters of one engine, and the caps on a run.

The store keeps a run's spend over all restarts (`AnswerStore.spend_by_role`). The live counters begin at zero with the
process, and also count stored answers and failures.

Before an attempt is sent, the most that it can cost is reserved; afterwards it is settled at its true cost. Both happen
in the store's transactions (store_rows.py): processes that share a run share its caps, and a restart continues from
what was spent. The student's own answers count against no cap.
"""

import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace

from tapir_core.calls import types, wire
from tapir_core.config import BudgetConfig, Caps, Role

DRIVING = "run"
"""Role of the whole run's working time: stages overlap, so their times do not add up to it."""

_BYTES_PER_TOKEN = 3
"""For the reservation of a prompt: fewer than tokenizers need for almost any text, so reservations are high."""
_TOKENS_PER_MESSAGE = 16
"""For the chat template around each message."""

UNPAID: frozenset[Role] = frozenset({"answer", "rollout"})
"""Roles of the student's own answers."""

SHARD: ContextVar[str] = ContextVar("shard", default="")
"""Digest of the list of requests in progress."""

LOST_HOLD = (
    "another process may ask these requests, because this one gave no sign of life for too long; the same command asks "
    "for what is left"
)
"""Why an attempt is not booked although caps have room for it."""


@dataclass(slots=True)
class LiveSpend:
    """The live counters of one engine, or a copy. Only its event loop changes them, except ``stored``."""

    sent: int = 0
    """Attempts that went out."""
    stored: int = 0
    """Rows answered from the store, or by an equal request in flight."""
    answers: int = 0
    """Answers received."""
    failures: Counter[types.FailureKind] = field(default_factory=Counter)
    """Requests that ended without an answer, by kind."""
    timeouts: int = 0
    """Attempts without a reply in time; most are tried again."""
    spent: types.Spend = field(default_factory=types.Spend)
    """What the requests that ended have cost."""
    cap_reached: str = ""
    """The cap that kept a request from being sent, the last one, in words; empty as long as none did."""

    def count_reply(self, reply: wire.Reply) -> None:
        """Count a request that ended with ``reply``."""
        if isinstance(reply.outcome, types.Failure):
            self.failures[reply.outcome.kind] += 1
            if reply.outcome.kind == "budget":
                self.cap_reached = reply.outcome.message
        else:
            self.answers += 1
        self.spent += reply.spent


class WorkClock:
    """Measures the working time of a run and its roles; overlapping work of one role counts once. For any thread."""

    def __init__(self, add_seconds: Callable[[str, float], object]) -> None:
        """The time of the run begins now."""
        self._add_seconds = add_seconds
        self._lock = threading.RLock()
        self._working = Counter[str]([DRIVING])
        self._told = time.monotonic()

    @contextmanager
    def working(self, role: str) -> Iterator[None]:
        """The block is work of ``role``."""
        self._change(role, 1)
        try:
            yield
        finally:
            self._change(role, -1)

    def tell(self, *, older_than_seconds: float = 0.0) -> None:
        """Add the time since the last call, unless that was just now."""
        with self._lock:
            seconds = time.monotonic() - self._told
            if seconds >= older_than_seconds:
                self._told += seconds
                for role in +self._working:
                    self._add_seconds(role, seconds)

    def _change(self, role: str, more: int) -> None:
        with self._lock:
            self.tell()
            self._working[role] += more


@dataclass(frozen=True, slots=True)
class Attempt:
    """One request that is about to be sent."""

    id: int
    """63 random bits."""
    run: str
    """The run's id."""
    role: Role
    key: str
    most: types.Spend
    """The most that it can cost."""
    shard: str = ""
    """The list of requests that it belongs to, which this process has to hold; empty outside of one."""

    @property
    def is_capped(self) -> bool:
        """Whether it counts against caps, so that its end may leave room for others."""
        return self.role not in UNPAID


@dataclass(frozen=True, slots=True)
class Settlement:
    """The result of an attempt."""

    attempt: int
    outcome: str
    """`answer` or the kind of failure."""
    spent: types.Spend | None
    """What it cost, without a request if it was never sent; None if unknown: it stays booked at the most."""


_IDS = random.Random()
"""Seeded by the system once, because each such call is slow; a forked process seeds its own."""
os.register_at_fork(after_in_child=_IDS.seed)


def reserve(request: types.Request, endpoint: types.Endpoint) -> types.Spend:
    """The most that one attempt at ``request`` can cost at ``endpoint``."""
    text = sum(len(message.content.encode("utf-8", "replace")) for message in request.messages)
    prompt = text // _BYTES_PER_TOKEN + _TOKENS_PER_MESSAGE * len(request.messages)
    prompt += len(request.scored.prompt) + len(request.scored.answer) if request.scored else 0
    completion = 1 if request.scored else wire.most_tokens(request, endpoint)
    return types.Spend(1, prompt, completion, endpoint.usd(prompt, completion))


def make_attempt(run: str, key: str, request: types.Request, endpoint: types.Endpoint) -> Attempt:
    """An attempt at ``request``, which has the key ``key``, by the run with the id ``run``."""
    return Attempt(_IDS.getrandbits(63), run, request.role, key, reserve(request, endpoint), SHARD.get())


def settlement(attempt: int, reply: wire.Reply | None) -> Settlement:
    """The settlement of an attempt by its ``reply``; None if it was never sent."""
    if reply is None or not reply.spent.requests:
        return Settlement(attempt, "", types.Spend())
    outcome = reply.outcome.kind if isinstance(reply.outcome, types.Failure) else "answer"
    return Settlement(attempt, outcome, None if reply.cost_unknown else reply.spent)


def cap_reached(budget: BudgetConfig, spent: Mapping[str, types.Spend], role: Role, wanted: types.Spend) -> str | None:
    """Which cap would be exceeded if ``wanted`` were added for ``role``, as a message; None if there is room.

    ``spent`` holds what was spent and what is reserved, by role.
    """
    if role in UNPAID:
        return None
    whole = sum((each for name, each in spent.items() if name not in UNPAID), start=types.Spend())
    whole = replace(whole, seconds=spent.get(DRIVING, types.Spend()).seconds)
    stage = next((caps for name, caps in budget.stages.items() if name == role), None)
    return _passed("budget", budget, whole, wanted) or (
        _passed(f"budget.stages.{role}", stage, spent.get(role, types.Spend()), wanted) if stage else None
    )


def _passed(name: str, caps: Caps, spent: types.Spend, wanted: types.Spend) -> str | None:
    amounts = (
        ("usd", caps.usd, spent.usd, wanted.usd),
        ("requests", caps.requests, spent.requests, wanted.requests),
        ("tokens", caps.tokens, spent.tokens, wanted.tokens),
        ("hours", caps.hours, spent.seconds / 3600, 0),
    )
    for amount, cap, used, more in amounts:
        if cap is not None and (used + more > cap or (amount == "hours" and used >= cap)):
            need = f", and the next request may take {more:,.4g}" if more else ""
            return f"{name}.{amount} = {cap:g} is reached: {used:,.4g} is spent or reserved{need}"
    return None
