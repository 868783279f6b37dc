"""Sends what the store lacks: claim, slot, call, commit. One `Sending` serves one ask, on the engine's event loop.

Claims are taken in groups, so that a commit's time delays few. What another process is sending is looked at again until
it is answered or free. What is claimed and neither handed on nor answered is given up at the end.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from tapir_core.calls.answer_store import AnswerStore
from tapir_core.calls.asking import IsStopped, in_groups
from tapir_core.calls.attempts import STOPPED, Attempts
from tapir_core.calls.background_loop import task_group
from tapir_core.calls.budget import SpendMeter, WorkClock
from tapir_core.calls.limits import Slot
from tapir_core.calls.types import Claimed, Endpoint, Failure, Outcome, Request

if TYPE_CHECKING:
    from tapir_core.calls.endpoint import Line

_CLOCK_SECONDS = 5.0
"""How far the hours that a cap sees may lag behind."""
_RECLAIM_SECONDS = 0.5
_GROUPS_OUT = 2
"""Size of a group of claims, in requests that may be in flight."""

Tell = Callable[[str, Outcome, bool], None]
"""Told each key with its outcome as it is committed, and whether another process paid for it."""


class Turn(NamedTuple):
    """What became of some keys; the others are told already."""

    ours: list[str]
    """To be sent by this process."""
    waiting: list[str]
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
        became: dict[Claimed, list[str]] = {each: [] for each in Claimed}
        for key, claimed in zip(keys, await self._claim(keys), strict=True):
            became[claimed].append(key)
        answered = became[Claimed.ANSWERED]
        found = await asyncio.to_thread(self._books.store.lookup, answered) if answered else {}
        for key, outcome in found.items():
            self._tell(key, outcome, True)
        unread = [key for key in answered if key not in found]
        return Turn(became[Claimed.OURS], became[Claimed.ELSEWHERE] + unread)

    def hand_on(self, key: str) -> None:
        """From now on somebody else sees to the end of this claim."""
        self._held.remove(key)

    def give_up(self) -> None:
        """End what is still held."""
        for key in self._held:
            self._books.store.release(key)

    async def _claim(self, keys: Sequence[str]) -> list[Claimed]:
        self._books.clock.tell_all(older_than_seconds=_CLOCK_SECONDS)
        future = self._books.store.claim(keys)

        def give_up(done: Future[list[Claimed]]) -> None:
            for key in _ours(keys, done.result()):
                self._books.store.release(key)

        try:
            claimed = await asyncio.shield(asyncio.wrap_future(future))
        except asyncio.CancelledError:
            future.add_done_callback(give_up)
            raise
        self._held.update(_ours(keys, claimed))
        return claimed


class Sending:
    """The requests of one ask that were not in the store."""

    def __init__(self, books: Books, endpoint: Endpoint, tell: Tell, *, line: "Line", is_stopped: IsStopped) -> None:
        self._books = books
        self._endpoint = endpoint
        self._tell = tell
        self._line = line
        self._is_stopped = is_stopped
        self._claiming = Claiming(books, tell)

    async def send_all(self, missing: Mapping[str, Request]) -> None:
        """Bring every request to its outcome; when this is cancelled, what was claimed and not answered is given up.

        What is not sent when ``is_stopped`` says so comes to `STOPPED`.
        """
        try:
            async with task_group() as group:
                waiting: Sequence[str] = list(missing)
                while waiting:
                    waiting = await self._send_claimable(group, missing, waiting)
                    if waiting:
                        await asyncio.sleep(_RECLAIM_SECONDS)
        finally:
            self._claiming.give_up()

    async def _send_claimable(
        self, group: asyncio.TaskGroup, missing: Mapping[str, Request], keys: Sequence[str]
    ) -> list[str]:
        """Send what is ours to send; gives back the keys that have to be looked at again."""
        waiting = []
        for some in in_groups(keys, _GROUPS_OUT * self._endpoint.concurrency):
            if self._is_stopped():
                self._tell_stopped(some)
                continue
            turn = await self._claiming.claim(some)
            for key in turn.ours:
                await self._begin(group, key, missing[key])
            waiting += turn.waiting
        return waiting

    async def _begin(self, group: asyncio.TaskGroup, key: str, request: Request) -> None:
        # A slot first, its task then: a long list costs memory for what is in flight, not for its length.
        slot = await self._line.limiter.acquire()
        if self._is_stopped():
            slot.release()
            self._tell_stopped([key])
            return
        task = group.create_task(self._send_one(key, request, slot))
        # A task that is cancelled before its first step releases nothing itself.
        task.add_done_callback(lambda _: slot.release())

    def _tell_stopped(self, keys: Sequence[str]) -> None:
        for key in keys:
            self._tell(key, STOPPED, False)

    async def _send_one(self, key: str, request: Request, slot: Slot) -> None:
        reply = await self._line.answer(key, request, self._endpoint, slot)
        self._claiming.hand_on(key)
        store, outcome = self._books.store, reply.outcome
        failed = isinstance(outcome, Failure) and outcome.retryable
        written: Future[Any] = store.release(key) if failed else store.put(key, request, reply)
        # The next attempt is booked behind this write, so it is sent after it: a kill loses no more than is in flight.
        slot.release()
        # Shielded: an interrupt must not take back what is on its way into the store.
        stored = await asyncio.shield(asyncio.wrap_future(written))
        reply = reply if failed else replace(reply, outcome=stored)
        self._books.meter.count_reply(reply)
        self._tell(key, reply.outcome, False)


def _ours(keys: Sequence[str], claimed: Sequence[Claimed]) -> list[str]:
    return [key for key, each in zip(keys, claimed, strict=True) if each is Claimed.OURS]
