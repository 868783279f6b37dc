"""The requests of one ask as they are claimed: which of them this process has to send, and which others bring.

Belongs to one event loop. What is claimed and neither handed on nor answered is given up at the end.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tapir_core.calls.answer_store import AnswerStore
from tapir_core.calls.attempts import Attempts
from tapir_core.calls.spend import SpendMeter, WorkClock
from tapir_core.calls.types import Outcome

if TYPE_CHECKING:
    from tapir_core.calls.claim_rows import Claimed

__all__ = ["Books", "Claiming", "Tell", "Turn", "in_groups"]

CLOCK_SECONDS = 5.0
"""How far the hours that a cap sees may lag behind."""

Tell = Callable[[str, Outcome, bool], None]
"""Told each key with its outcome as it is committed, and whether another process paid for it."""


@dataclass(slots=True)
class Turn:
    """What became of some keys; the others are told already."""

    ours: list[str] = field(default_factory=list)
    """To be sent by this process."""
    waiting: list[str] = field(default_factory=list)
    """To be looked at again: another process or a batch brings them."""


@dataclass(frozen=True, slots=True)
class Books:
    """What one engine answers from, pays from and counts in: the same for all of its asks."""

    store: AnswerStore
    attempts: Attempts
    meter: SpendMeter
    clock: WorkClock


class Claiming:
    """Claims of one ask."""

    def __init__(self, books: Books, tell: Tell) -> None:
        self._books = books
        self._tell = tell
        self._held: set[str] = set()

    async def claim(self, keys: Sequence[str]) -> Turn:
        """Claim ``keys``; what was answered meanwhile is told."""
        turn, answered = Turn(), []
        for key, claimed in zip(keys, await self._claim(keys), strict=True):
            if claimed is claimed.OURS:
                turn.ours.append(key)
            elif claimed is claimed.ANSWERED:
                answered.append(key)
            else:
                turn.waiting.append(key)
        found = await asyncio.to_thread(self._books.store.lookup, answered) if answered else {}
        for key, outcome in found.items():
            self._tell(key, outcome, True)
        turn.waiting += [key for key in answered if key not in found]
        return turn

    def hand_on(self, key: str) -> None:
        """From now on somebody else sees to the end of this claim."""
        self._held.remove(key)

    def give_up(self) -> None:
        """End what is still held."""
        for key in self._held:
            self._books.store.release(key)

    async def _claim(self, keys: Sequence[str]) -> "list[Claimed]":
        self._books.clock.tell_all(older_than_seconds=CLOCK_SECONDS)
        future = self._books.store.claim(keys)

        def give_up(done: "Future[list[Claimed]]") -> None:
            for key in _ours(keys, done.result()):
                self._books.store.release(key)

        try:
            claimed = await asyncio.shield(asyncio.wrap_future(future))
        except asyncio.CancelledError:
            future.add_done_callback(give_up)
            raise
        self._held.update(_ours(keys, claimed))
        return claimed


def in_groups(keys: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    """``keys`` in their order, ``size`` at a time."""
    for start in range(0, len(keys), size):
        yield keys[start : start + size]


def _ours(keys: Sequence[str], claimed: "Sequence[Claimed]") -> list[str]:
    return [key for key, each in zip(keys, claimed, strict=True) if each is each.OURS]
