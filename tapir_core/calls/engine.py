"""The call engine: lists of requests in, lists of outcomes out, nothing paid twice.

For each request: store look-up → single flight → claim → limiter → each attempt booked, sent and settled → raw reply
stored and committed → outcome (sending.py from the claim on; batch_sending.py where a Batch API is used). One
background event loop makes the calls; any number of threads may ask. Parsing is not done here (reask.py).
"""

import queue
import random
import threading
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING

from tapir_core.calls.answer_store import AnswerStore
from tapir_core.calls.asking import Asking, Claim, Flights, IsStopped, OnOutcome, never_stopped
from tapir_core.calls.attempts import STOPPED, Attempts
from tapir_core.calls.background_loop import BackgroundLoop, task_group
from tapir_core.calls.budget import DRIVING
from tapir_core.calls.sending import Books, Sending, Tell
from tapir_core.calls.spend import LiveSpend, Spend, SpendMeter, WorkClock
from tapir_core.calls.types import Endpoint, EndpointSource, Outcome, Request
from tapir_core.config import BudgetConfig, CallsConfig

if TYPE_CHECKING:
    from tapir_core.calls.endpoint import Line

_Inbox = queue.SimpleQueue[tuple[str, Outcome, bool] | None]
"""Key and outcome of each request as it is committed, and whether another process paid; nothing at the end."""


class CallEngine:
    """Answers requests from the store, and from endpoints what the store lacks. Takes the store over and closes it."""

    def __init__(
        self, store: AnswerStore, config: CallsConfig, *, run: str, budget: BudgetConfig | None = None
    ) -> None:
        """Answer for the run with the id ``run``, within ``budget``."""
        clock = WorkClock(lambda role, seconds: store.add_seconds(run, role, seconds))
        clock.begin(DRIVING)
        self._run = run
        self._config = config
        meter = SpendMeter()
        self._stopping = threading.Event()
        attempts = Attempts(store, budget or BudgetConfig(), run, meter, self._stopping)
        self._books = Books(store, attempts, meter, clock)
        self._flights = Flights()
        self._lines: dict[tuple[str, ...], Line] = {}
        # Jitter of pauses only: it can change no result, so it needs no derived seed.
        self._rng = random.Random()
        self._loop = BackgroundLoop("tapir-calls")

    def ask(
        self,
        requests: Sequence[Request],
        source: EndpointSource,
        *,
        on_outcome: OnOutcome | None = None,
        is_stopped: IsStopped = never_stopped,
    ) -> list[Outcome]:
        """Outcomes of ``requests``, in their order.

        ``source`` is called at most once, in this thread, and only when the store lacks something. An outcome that cost
        nothing now (stored, or shared with an equal request) is marked ``stored``. From when ``is_stopped`` says so
        nothing more of this list is sent, as after `stop_sending`. When this thread is interrupted, what was received
        stays in the store and what is in flight is cancelled.

        Raises:
            TapirError: the store cannot be written, or the engine was closed meanwhile.
        """
        asking, endpoint = Asking(requests, on_outcome, is_stopped), cache(source)
        while asking.waiting:
            with self._flights.claim(asking.waiting) as claim:
                self._answer_own(claim, asking, endpoint)
                for key, flight in claim.joined.items():
                    outcome = flight.result()
                    # Nothing means that the other asker was interrupted: the next turn claims the key.
                    if outcome is not None:
                        self._books.meter.count_stored(asking.deliver(key, outcome, shared=True))
        return asking.outcomes()

    def count_stored(self, requests: Sequence[Request]) -> int:
        """How many of ``requests`` the store answers."""
        keys = [request.key for request in requests]
        known = self._books.store.known(list(dict.fromkeys(keys)))
        return sum(key in known for key in keys)

    def stored(self, requests: Sequence[Request]) -> Mapping[str, Outcome]:
        """What the store answers ``requests`` with, by their keys; nothing is asked."""
        return self._books.store.lookup([request.key for request in requests])

    def forget(self, requests: Sequence[Request]) -> int:
        """Delete what the store answers ``requests`` with, so that they are asked again; gives how many there were."""
        return self._books.store.forget([request.key for request in requests]).result()

    def spend(self) -> LiveSpend:
        """The live counters of this process."""
        return self._books.meter.snapshot()

    def paid(self) -> Mapping[str, Spend]:
        """What the run has spent by role, over all its starts and processes."""
        return self._books.store.spend_by_role(self._run)

    @property
    def cap_reached(self) -> str:
        """Which cap kept a request of this process from being sent, in words; empty as long as none did."""
        return self._books.meter.cap_reached

    def stop_sending(self) -> None:
        """From now on send nothing: calls in flight end and are stored, every other request is given back as `stopped`.

        For any thread. A Batch API's batches are still waited for; `close` gives them up.
        """
        self._stopping.set()

    def close(self) -> None:
        """Cancel what is in flight, commit what was received, close the store. Closing twice is the same as once."""
        self._loop.close(self._close_lines)
        self._books.clock.end_all()
        self._books.store.close()

    def __enter__(self) -> "CallEngine":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _answer_own(self, claim: Claim, asking: Asking, endpoint: EndpointSource) -> None:
        found = self._books.store.lookup(list(claim.own))
        if found:
            self._books.store.count_reuse([asking.waiting[key] for key in found])
        for key, outcome in found.items():
            claim.resolve(key, outcome)
            self._books.meter.count_stored(asking.deliver(key, outcome, shared=True))
        missing = {key: asking.waiting[key] for key in claim.own if key in asking.waiting}
        if self._stopping.is_set() or asking.is_stopped():
            for key in missing:
                claim.resolve(key, STOPPED)
                asking.deliver(key, STOPPED, shared=False)
        elif missing:
            role = next(iter(missing.values())).role
            with self._books.clock.working(role):
                self._call_missing(missing, endpoint(), claim, asking)

    def _call_missing(self, missing: Mapping[str, Request], endpoint: Endpoint, claim: Claim, asking: Asking) -> None:
        inbox: _Inbox = queue.SimpleQueue()
        # Where the endpoint says so, and for what is in a batch already.
        batched = missing.keys() if endpoint.batch else self._books.store.batched(list(missing))
        sending = self._send(missing, batched, endpoint, lambda *told: inbox.put(told), asking.is_stopped)
        job = self._loop.start(sending, on_end=lambda: inbox.put(None))
        ended = False
        try:
            while (received := inbox.get()) is not None:
                key, outcome, shared = received
                claim.resolve(key, outcome)
                self._books.meter.count_stored(asking.deliver(key, outcome, shared=shared))
            ended = True
            job.result()
        finally:
            if not ended:
                job.cancel()
                # Who joined gets what still arrives, and the claim is given up only when nothing is in flight any more.
                while (received := inbox.get()) is not None:
                    claim.resolve(received[0], received[1])

    async def _send(
        self,
        missing: Mapping[str, Request],
        batched: Collection[str],
        endpoint: Endpoint,
        tell: Tell,
        is_stopped: IsStopped,
    ) -> None:
        """Bring requests to their outcomes: those that are ``batched`` through batches, the rest call by call."""

        def stopped() -> bool:
            return self._stopping.is_set() or is_stopped()

        async with task_group() as group:
            if batched:
                from tapir_core.calls.batch_sending import BatchSending

                batches = BatchSending(self._books, endpoint, tell, config=self._config, rng=self._rng)
                group.create_task(batches.send_all({key: missing[key] for key in missing if key in batched}))
            if rest := {key: request for key, request in missing.items() if key not in batched}:
                sending = Sending(self._books, endpoint, tell, line=self._line(endpoint), is_stopped=stopped)
                group.create_task(sending.send_all(rest))

    def _line(self, endpoint: Endpoint) -> "Line":
        """The line to the endpoint's addresses, ready for a new asker. Called on the loop: all askers share it."""
        from tapir_core.calls.endpoint import Line

        line = self._lines.get(endpoint.base_urls)
        if line is None:
            line = Line(endpoint, self._config, rng=self._rng, attempts=self._books.attempts)
            self._lines[endpoint.base_urls] = line
        line.admit(endpoint)
        return line

    async def _close_lines(self) -> None:
        for line in self._lines.values():
            await line.close()
