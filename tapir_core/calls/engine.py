"""The call engine: lists of requests in, lists of outcomes out, nothing paid twice.

For each request: store look-up → single flight → limiter → call with retries → raw reply stored and committed →
outcome. One background event loop makes the calls; any number of threads may ask. Parsing is not done here (reask.py).
"""

import asyncio
import queue
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from tapir_core.calls.asking import Asking, Once, OnOutcome
from tapir_core.calls.background_loop import BackgroundLoop
from tapir_core.calls.limiter import Slot
from tapir_core.calls.single_flight import Claim, Flights
from tapir_core.calls.spend import LiveSpend, Spend, SpendMeter
from tapir_core.calls.store import AnswerStore
from tapir_core.calls.types import Endpoint, EndpointSource, Failure, Outcome, Request, Role
from tapir_core.config import CallsConfig

if TYPE_CHECKING:
    from tapir_core.calls.line import Line

__all__ = ["CallEngine"]

Inbox = queue.SimpleQueue[tuple[str, Outcome] | None]
"""Key and outcome of each request as it is committed; nothing at the end."""


class CallEngine:
    """Answers requests from the store, and from endpoints what the store lacks. Takes the store over and closes it."""

    def __init__(self, store: AnswerStore, config: CallsConfig, *, run: str) -> None:
        self._store = store
        self._run = run
        self._config = config
        self._flights = Flights()
        self._meter = SpendMeter()
        self._lines: dict[str, Line] = {}
        # Jitter of pauses only: it can change no result, so it needs no derived seed.
        self._rng = random.Random()
        self._loop = BackgroundLoop("tapir-calls")

    def ask(
        self, requests: Sequence[Request], source: EndpointSource, *, on_outcome: OnOutcome | None = None
    ) -> list[Outcome]:
        """Outcomes of ``requests``, in their order.

        ``source`` is called at most once, in this thread, and only when the store lacks something. An outcome that cost
        nothing now (stored, or shared with an equal request) is marked ``stored``. When this thread is interrupted,
        what was received stays in the store and what is in flight is cancelled.

        Raises:
            TapirError: the store cannot be written, or the engine was closed meanwhile.
        """
        asking, endpoint = Asking(requests, on_outcome), Once(source)
        while asking.waiting:
            with self._flights.claim(asking.waiting) as claim:
                self._answer_own(claim, asking, endpoint)
                for key, flight in claim.joined.items():
                    outcome = flight.result()
                    # Nothing means that the other asker was interrupted: the next turn claims the key.
                    if outcome is not None:
                        self._meter.count_stored(asking.deliver(key, outcome, shared=True))
        return asking.outcomes()

    def count_stored(self, requests: Sequence[Request]) -> int:
        """How many of ``requests`` the store answers."""
        keys = [request.key for request in requests]
        known = self._store.known(list(dict.fromkeys(keys)))
        return sum(key in known for key in keys)

    def spend(self) -> LiveSpend:
        """The live counters of this process."""
        return self._meter.snapshot()

    def paid(self) -> Mapping[Role, Spend]:
        """What the run has paid for by role, over all its starts and processes."""
        return self._store.spend_by_role(self._run)

    def close(self) -> None:
        """Cancel what is in flight, commit what was received, close the store. Closing twice is the same as once."""
        self._loop.close(self._close_lines)
        self._store.close()

    def __enter__(self) -> "CallEngine":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _answer_own(self, claim: Claim, asking: Asking, endpoint: Once) -> None:
        for key, outcome in self._store.lookup(list(claim.own)).items():
            claim.resolve(key, outcome)
            self._meter.count_stored(asking.deliver(key, outcome, shared=True))
        missing = {key: asking.waiting[key] for key in claim.own if key in asking.waiting}
        if missing:
            self._call_missing(missing, endpoint(), claim, asking)

    def _call_missing(self, missing: Mapping[str, Request], endpoint: Endpoint, claim: Claim, asking: Asking) -> None:
        inbox: Inbox = queue.SimpleQueue()
        job = self._loop.start(self._send_all(missing, endpoint, inbox), on_end=lambda: inbox.put(None))
        ended = False
        try:
            while (received := inbox.get()) is not None:
                claim.resolve(*received)
                self._meter.count_stored(asking.deliver(*received, shared=False))
            ended = True
            job.result()
        finally:
            if not ended:
                job.cancel()
                # Who joined gets what still arrives, and the claim is given up only when nothing is in flight any more.
                while (received := inbox.get()) is not None:
                    claim.resolve(*received)

    async def _send_all(self, missing: Mapping[str, Request], endpoint: Endpoint, inbox: Inbox) -> None:
        line = self._line(endpoint)
        try:
            async with asyncio.TaskGroup() as group:
                for key, request in missing.items():
                    # A slot first, its task then: a long list costs memory for what is in flight, not for its length.
                    slot = await line.limiter.acquire()
                    task = group.create_task(self._send_one(line, key, request, endpoint, slot, inbox))
                    # A task that is cancelled before its first step releases nothing itself.
                    task.add_done_callback(lambda _, slot=slot: slot.release())  # type: ignore[misc]
        except BaseExceptionGroup as group_of_errors:
            raise group_of_errors.exceptions[0] from None

    async def _send_one(
        self, line: "Line", key: str, request: Request, endpoint: Endpoint, slot: Slot, inbox: Inbox
    ) -> None:
        reply = await line.answer(request, endpoint, slot)
        if not (isinstance(reply.outcome, Failure) and reply.outcome.retryable):
            # Shielded: an interrupt must not take back an answer that is on its way into the store.
            committed = asyncio.wrap_future(self._store.put(key, request, reply))
            reply = replace(reply, outcome=await asyncio.shield(committed))
        self._meter.count_reply(reply)
        inbox.put((key, reply.outcome))

    def _line(self, endpoint: Endpoint) -> "Line":
        """The line to the endpoint's address, ready for a new asker."""
        from tapir_core.calls.line import Line

        line = self._lines.get(endpoint.base_url)
        if line is None:
            line = Line(endpoint, self._config, rng=self._rng, on_send=self._meter.count_sent)
            self._lines[endpoint.base_url] = line
        line.limiter.lower_to(endpoint.concurrency)
        line.breaker.rearm()
        return line

    async def _close_lines(self) -> None:
        for line in self._lines.values():
            await line.close()
