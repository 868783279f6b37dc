"""What calls cost: sums over what is stored, live counters of one engine, and the caps on a run.

The store is the truth about a run's spend over restarts (`AnswerStore.spend_by_role`); the live counters begin at zero
with the process and also know what came from the store and what failed.

Every attempt reserves the most that it can cost before it is sent, and settles with its true cost after, both in the
store's transactions (store_rows.py): processes that share a run share its caps, and a restart goes on from what was
spent. The student's own answers count against no cap.
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
from typing import Literal

from tapir_core.calls.types import Endpoint, Failure, FailureKind, Request
from tapir_core.calls.wire import Reply
from tapir_core.config import BudgetConfig, Caps, Role

DRIVING = "run"
"""Where the ledger keeps the hours of the whole run: stages overlap, so theirs do not add up to it."""

_BYTES_PER_TOKEN = 3
"""Of a prompt, for its reservation: fewer than tokenizers need for almost any text, so that a reservation is high."""
_TOKENS_PER_MESSAGE = 16
"""Of a chat template around each message."""

UNPAID: Literal["answer"] = "answer"
"""Role of the student's own answers."""

SHARD: ContextVar[str] = ContextVar("shard", default="")
"""Digest of the list of requests that is being asked."""

LOST_HOLD = (
    "another process may ask these requests, because this one gave no sign of life for too long; the same command asks "
    "for what is left"
)
"""Why an attempt is not booked that no cap holds back."""


@dataclass(slots=True)
class LiveSpend:
    """The live counters of one engine, or one look at them. But for ``stored`` they are its event loop's to change."""

    sent: int = 0
    """Attempts that went out."""
    stored: int = 0
    """Rows answered from the store, or by an equal request in flight."""
    answers: int = 0
    """Answers received."""
    failures: Counter[FailureKind] = field(default_factory=Counter)
    """Requests that ended without an answer, by kind."""
    timeouts: int = 0
    """Attempts that had no reply in time; most are tried again."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    usd: float = 0.0
    cap_reached: str = ""
    """The cap that was reached last, in words."""

    def count_reply(self, reply: Reply) -> None:
        """A request came to its end with ``reply``."""
        if isinstance(reply.outcome, Failure):
            self.failures[reply.outcome.kind] += 1
            if reply.outcome.kind == "budget":
                self.cap_reached = reply.outcome.message
        else:
            self.answers += 1
        self.prompt_tokens += reply.prompt_tokens
        self.completion_tokens += reply.completion_tokens
        self.usd += reply.usd


@dataclass(frozen=True, slots=True)
class Spend:
    """What was spent, over all starts and processes: what is booked for attempts without a known cost included."""

    requests: int = 0
    """Attempts that went out."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    usd: float = 0.0
    seconds: float = 0.0
    """Time in which such requests were worked on."""

    @property
    def tokens(self) -> int:
        """Of prompts and completions."""
        return self.prompt_tokens + self.completion_tokens

    def __add__(self, other: "Spend") -> "Spend":
        return Spend(
            self.requests + other.requests,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.usd + other.usd,
            self.seconds + other.seconds,
        )

    def __sub__(self, other: "Spend") -> "Spend":
        return Spend(
            self.requests - other.requests,
            self.prompt_tokens - other.prompt_tokens,
            self.completion_tokens - other.completion_tokens,
            self.usd - other.usd,
            self.seconds - other.seconds,
        )


class WorkClock:
    """Time in which a run and its roles are worked on; overlapping work of one role counts once. For any thread."""

    def __init__(self, add_seconds: Callable[[str, float], object]) -> None:
        """The run is worked on from now on."""
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
        """Add up what was worked since it was last added, unless that was just now."""
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
    most: Spend
    """That it can cost."""
    shard: str = ""
    """The list of requests that it is of, which this process has to hold; empty outside of one."""

    @property
    def is_capped(self) -> bool:
        """Whether it counts against caps, so that it may leave room for others when it ends."""
        return self.role != UNPAID


@dataclass(frozen=True, slots=True)
class Settlement:
    """What came of an attempt."""

    attempt: int
    outcome: str
    """`answer` or the kind of failure."""
    spent: Spend | None
    """What it cost, without a request if it was never sent; None where nobody says: it stays booked at the most."""


_IDS = random.Random()
"""Seeded by the system, which takes long to ask for each; a forked process seeds its own."""
os.register_at_fork(after_in_child=_IDS.seed)


def reserve(request: Request, endpoint: Endpoint) -> Spend:
    """The most that one attempt at ``request`` can cost at ``endpoint``."""
    text = sum(len(message.content.encode("utf-8", "replace")) for message in request.messages)
    prompt = text // _BYTES_PER_TOKEN + _TOKENS_PER_MESSAGE * len(request.messages)
    completion = request.sampling.max_tokens
    prices = endpoint.usd_per_million_prompt_tokens, endpoint.usd_per_million_completion_tokens
    return Spend(1, prompt, completion, (prompt * prices[0] + completion * prices[1]) / 1e6)


def make_attempt(run: str, key: str, request: Request, endpoint: Endpoint) -> Attempt:
    """An attempt at ``request``, which has the key ``key``, by the run with the id ``run``."""
    return Attempt(_IDS.getrandbits(63), run, request.role, key, reserve(request, endpoint), SHARD.get())


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
    whole = sum((each for name, each in spent.items() if name != UNPAID), start=Spend())
    whole = replace(whole, seconds=spent.get(DRIVING, Spend()).seconds)
    stage = None if role == "probe" else budget.stages.get(role)
    return _passed("budget", budget, whole, wanted) or (
        _passed(f"budget.stages.{role}", stage, spent.get(role, Spend()), wanted) if stage else None
    )


def _passed(name: str, caps: Caps, spent: Spend, wanted: Spend) -> str | None:
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
