"""The requests of one ask as they are claimed: which of them this process has to send, and which others bring.

Belongs to one event loop. What is claimed and neither handed on nor answered is given up at the end.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tapir_core.calls.budget import reserve
from tapir_core.calls.spend import SpendMeter, WorkClock
from tapir_core.calls.store.answer_store import AnswerStore
from tapir_core.calls.types import Endpoint, Failure, Outcome, Request
from tapir_core.config.budget import BudgetConfig

if TYPE_CHECKING:
    from tapir_core.calls.store.writes import Grant

__all__ = ["Books", "Claimed", "Claiming", "Tell", "in_groups"]

CLOCK_SECONDS = 5.0
"""How far the hours that a cap sees may lag behind."""

Tell = Callable[[str, Outcome, bool], None]
"""Told each key with its outcome as it is committed, and whether another process paid for it."""


@dataclass(slots=True)
class Claimed:
    """What became of some keys; the others are told already."""

    ours: list[str] = field(default_factory=list)
    """To be sent by this process."""
    waiting: list[str] = field(default_factory=list)
    """To be looked at again: another process or a batch brings them, or a cap has no room for now."""


@dataclass(frozen=True, slots=True)
class Books:
    """What one engine answers from, pays from and counts in: the same for all of its asks."""

    store: AnswerStore
    budget: BudgetConfig
    meter: SpendMeter
    clock: WorkClock


class Claiming:
    """Claims of one ask."""

    def __init__(self, books: Books, endpoint: Endpoint, tell: Tell) -> None:
        self._books = books
        self._endpoint = endpoint
        self._tell = tell
        self._held: dict[str, Request] = {}

    async def claim(self, missing: Mapping[str, Request], keys: Sequence[str]) -> Claimed:
        """Claim ``keys``; what was answered meanwhile and what no cap will ever have room for is told."""
        claimed, answered = Claimed(), []
        for key, grant in zip(keys, await self._ask_for_grants(missing, keys), strict=True):
            state = grant.state
            if state == state.OURS:
                claimed.ours.append(key)
            elif state == state.ANSWERED:
                answered.append(key)
            elif state == state.OVER and grant.final:
                self._books.meter.count_over_budget(grant.reason)
                self._tell(key, Failure("budget", grant.reason), False)
            else:
                claimed.waiting.append(key)
        found = await asyncio.to_thread(self._books.store.lookup, answered) if answered else {}
        for key, outcome in found.items():
            self._tell(key, outcome, True)
        claimed.waiting += [key for key in answered if key not in found]
        return claimed

    def hand_on(self, key: str) -> None:
        """From now on somebody else sees to the end of this claim."""
        del self._held[key]

    def give_up(self) -> None:
        """End what is still held."""
        for key, request in self._held.items():
            self._books.store.release(key, request, None)

    async def _ask_for_grants(self, missing: Mapping[str, Request], keys: Sequence[str]) -> "list[Grant]":
        from tapir_core.calls.store.writes import Wanted

        wanted = [
            Wanted(key, missing[key].run, missing[key].role, reserve(missing[key], self._endpoint)) for key in keys
        ]
        self._books.clock.tell_all(older_than_seconds=CLOCK_SECONDS)
        future = self._books.store.claim(wanted, self._books.budget)

        def give_up(claimed: "Future[list[Grant]]") -> None:
            for key, grant in zip(keys, claimed.result(), strict=True):
                if grant.state == grant.state.OURS:
                    self._books.store.release(key, missing[key], None)

        try:
            grants = await asyncio.shield(asyncio.wrap_future(future))
        except asyncio.CancelledError:
            future.add_done_callback(give_up)
            raise
        ours = (key for key, grant in zip(keys, grants, strict=True) if grant.state == grant.state.OURS)
        self._held.update((key, missing[key]) for key in ours)
        return grants


def in_groups(keys: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    """``keys`` in their order, ``size`` at a time."""
    for start in range(0, len(keys), size):
        yield keys[start : start + size]
