"""Sends what the store lacks: claim, slot, call, commit. One `Sending` serves one ask, on the engine's event loop.

Claims are taken in groups, so that a commit's time delays few. What another process is sending, or what has no room
under a cap for now, is looked at again until it is answered or settled.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import TYPE_CHECKING

from tapir_core.calls.budget import reserve
from tapir_core.calls.limiter import Slot
from tapir_core.calls.spend import SpendMeter, WorkClock
from tapir_core.calls.store import AnswerStore
from tapir_core.calls.types import Endpoint, Failure, Outcome, Request
from tapir_core.config.budget import BudgetConfig

if TYPE_CHECKING:
    from tapir_core.calls.line import Line
    from tapir_core.calls.store_writes import Grant

__all__ = ["Sending"]

RECLAIM_SECONDS = 0.5
CLOCK_SECONDS = 5.0
"""How far the hours that a cap sees may lag behind."""
GROUPS_OUT = 2
"""Size of a group of claims, in requests that may be in flight."""

Tell = Callable[[str, Outcome, bool], None]
"""Told each key with its outcome as it is committed, and whether another process paid for it."""


class Sending:
    """The requests of one ask that were not in the store."""

    def __init__(
        self,
        store: AnswerStore,
        line: "Line",
        endpoint: Endpoint,
        budget: BudgetConfig,
        *,
        meter: SpendMeter,
        clock: WorkClock,
        tell: Tell,
    ) -> None:
        self._store = store
        self._line = line
        self._endpoint = endpoint
        self._budget = budget
        self._meter = meter
        self._clock = clock
        self._tell = tell
        self._claimed: dict[str, Request] = {}
        """Ours to send, and neither stored nor given up yet."""

    async def send_all(self, missing: Mapping[str, Request]) -> None:
        """Bring every request to its outcome; when this is cancelled, what was claimed and not answered is given up."""
        try:
            async with asyncio.TaskGroup() as group:
                waiting: Sequence[str] = list(missing)
                while waiting:
                    waiting = await self._send_claimable(group, missing, waiting)
                    if waiting:
                        await asyncio.sleep(RECLAIM_SECONDS)
        except BaseExceptionGroup as group_of_errors:
            raise group_of_errors.exceptions[0] from None
        finally:
            for key, request in self._claimed.items():
                self._store.release(key, request, None)

    async def _send_claimable(
        self, group: asyncio.TaskGroup, missing: Mapping[str, Request], keys: Sequence[str]
    ) -> list[str]:
        """Send what is ours to send; gives back the keys that have to be looked at again."""
        answered, waiting = [], []
        for some in _groups(keys, GROUPS_OUT * self._endpoint.concurrency):
            for key, grant in zip(some, await self._claim(missing, some), strict=True):
                state = grant.state
                if state == state.OURS:
                    await self._begin(group, key, missing[key])
                elif state == state.ANSWERED:
                    answered.append(key)
                elif state == state.OVER and grant.final:
                    self._meter.count_over_budget(grant.reason)
                    self._tell(key, Failure("budget", grant.reason), False)
                else:
                    waiting.append(key)
        found = await asyncio.to_thread(self._store.lookup, answered)
        for key, outcome in found.items():
            self._tell(key, outcome, True)
        return waiting + [key for key in answered if key not in found]

    async def _claim(self, missing: Mapping[str, Request], keys: Sequence[str]) -> "list[Grant]":
        from tapir_core.calls.store_writes import Wanted

        wanted = [
            Wanted(key, missing[key].run, missing[key].role, reserve(missing[key], self._endpoint)) for key in keys
        ]
        self._clock.tell_all(older_than_seconds=CLOCK_SECONDS)
        future = self._store.claim(wanted, self._budget)

        def give_up(claimed: "Future[list[Grant]]") -> None:
            for key, grant in zip(keys, claimed.result(), strict=True):
                if grant.state == grant.state.OURS:
                    self._store.release(key, missing[key], None)

        try:
            grants = await asyncio.shield(asyncio.wrap_future(future))
        except asyncio.CancelledError:
            future.add_done_callback(give_up)
            raise
        ours = (key for key, grant in zip(keys, grants, strict=True) if grant.state == grant.state.OURS)
        self._claimed.update((key, missing[key]) for key in ours)
        return grants

    async def _begin(self, group: asyncio.TaskGroup, key: str, request: Request) -> None:
        # A slot first, its task then: a long list costs memory for what is in flight, not for its length.
        slot = await self._line.limiter.acquire()
        task = group.create_task(self._send_one(key, request, slot))
        # A task that is cancelled before its first step releases nothing itself.
        task.add_done_callback(lambda _: slot.release())

    async def _send_one(self, key: str, request: Request, slot: Slot) -> None:
        reply = await self._line.answer(request, self._endpoint, slot)
        del self._claimed[key]
        # Shielded: an interrupt must not take back what is on its way into the store.
        if isinstance(reply.outcome, Failure) and reply.outcome.retryable:
            await asyncio.shield(asyncio.wrap_future(self._store.release(key, request, reply)))
        else:
            committed = asyncio.wrap_future(self._store.put(key, request, reply))
            reply = replace(reply, outcome=await asyncio.shield(committed))
        self._meter.count_reply(reply)
        self._tell(key, reply.outcome, False)


def _groups(keys: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    for start in range(0, len(keys), size):
        yield keys[start : start + size]
