"""The call engine: lists of requests in, lists of outcomes out, nothing paid twice.

For each list: store look-up → the list is claimed → each request passes the limits → each attempt is booked, sent and
settled → the raw reply is committed → outcome (endpoint.py, books.py; batch_sending.py for a Batch API). One background
event loop makes the calls; any number of threads may ask. Equal requests in one list are sent once. Another thread or
process that asks the same list waits until it is answered; equal requests in two different lists may both be paid.

`ask_read` also parses the replies, and sends a request again if its reply cannot be parsed. Parsing is free and
separate from asking: every raw reply stays in the store, so a second run parses the same replies and pays nothing. A
re-ask is the same request under another sample index, and so with another seed. At temperature 0 another seed changes
nothing, so the re-ask shows the reply and asks for what is missing.
"""

import asyncio
import random
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, Generic, TypeVar

from tapir_core.calls import types
from tapir_core.calls.answer_store import AnswerStore
from tapir_core.calls.books import STOPPED, Books
from tapir_core.calls.budget import SHARD, LiveSpend, WorkClock
from tapir_core.config import BudgetConfig, CallsConfig
from tapir_core.errors import Stopped
from tapir_core.text import MISSING, Unparsed, digest

if TYPE_CHECKING:
    from tapir_core.calls.endpoint import Line, Slot

T = TypeVar("T")

REASK_STRIDE = 1_000_000
"""Re-ask k of sample i has sample index ``i + k * REASK_STRIDE``. Samples are numbered below it, so none collide."""
_AGAIN_SECONDS = 0.5
"""How often a list of requests that another process holds is checked."""
_CLOCK_SECONDS = 5.0
"""How far the working hours that caps see may lag behind."""


class CallEngine(AbstractContextManager["CallEngine"]):
    """Answers requests from the store, and missing ones from endpoints. Takes over the store and closes it."""

    def __init__(
        self, store: AnswerStore, config: CallsConfig, *, run: str, budget: BudgetConfig | None = None
    ) -> None:
        """Answer for the run with the id ``run``, within ``budget``."""
        self._config = config
        self._stopping = threading.Event()
        self._books = Books(store, budget or BudgetConfig(), run, self._stopping)
        self._clock = WorkClock(partial(store.add_seconds, run))
        self._here: dict[str, threading.Lock] = {}
        self._lines: dict[tuple[object, ...], Line] = {}
        # Jitter of pauses only: it can change no result, so it needs no derived seed.
        self._rng = random.Random()
        self._lock = threading.Lock()
        self._loop = asyncio.new_event_loop()
        # A daemon, so that a process that forgets to close the engine still ends.
        self._thread = threading.Thread(target=self._loop.run_forever, name="tapir-calls", daemon=True)
        self._thread.start()

    def ask(
        self,
        requests: Sequence[types.Request],
        source: types.EndpointSource,
        watch: types.Watch = types.UNWATCHED,
    ) -> list[types.Outcome]:
        """Outcomes of ``requests``, in their order.

        ``source`` is called at most once, in this thread, and only if an outcome is missing from the store. An outcome
        that cost nothing now (stored, or shared with an equal request) is marked ``stored``. If this thread is
        interrupted, calls in flight are cancelled and everything received stays in the store.

        Raises:
            TapirError: the store cannot be written, or the engine was closed meanwhile.
        """
        outcomes: dict[int, types.Outcome] = {}

        def take(place: int, outcome: types.Outcome) -> None:
            outcomes[place] = outcome
            if outcome.stored:
                with self._lock:
                    self._books.meter.stored += 1
            watch.on_outcome(place, outcome)

        asking = _Asking(requests, take, lambda: self._stopping.is_set() or watch.is_stopped())
        shard = digest(sorted(asking.waiting))
        self._look_up(asking)
        if asking.waiting and not asking.is_stopped():
            role = next(iter(asking.waiting.values())).role
            # Before the list is claimed: a thread that waits for a GPU here must not block the one that has it.
            with self._clock.working(role):
                endpoint = source()
            with self._holding(shard, asking):
                # The previous holder may have answered it meanwhile.
                self._look_up(asking)
                if asking.waiting and not asking.is_stopped():
                    with self._clock.working(role):
                        self._ask_for_the_rest(shard, asking, endpoint)
        for key in list(asking.waiting):
            asking.deliver(key, STOPPED, shared=False)
        return [outcomes[place] for place in range(len(requests))]

    def count_stored(self, requests: Sequence[types.Request]) -> int:
        """How many of ``requests`` are in the store."""
        keys = [request.key for request in requests]
        known = self._books.store.known(list(dict.fromkeys(keys)))
        return sum(key in known for key in keys)

    def stored(self, requests: Sequence[types.Request]) -> Mapping[str, types.Outcome]:
        """The stored outcomes of ``requests``, by key; nothing is sent."""
        return self._books.store.lookup([request.key for request in requests])

    def forget(self, requests: Sequence[types.Request]) -> int:
        """Delete the stored outcomes of ``requests``, so that they are sent again; returns how many there were."""
        return self._books.store.forget([request.key for request in requests]).result()

    def spend(self) -> LiveSpend:
        """A copy of this process's live counters."""
        return replace(self._books.meter, failures=self._books.meter.failures.copy())

    def paid(self) -> Mapping[str, types.Spend]:
        """What the run has spent by role, over all its starts and processes."""
        return self._books.store.spend_by_role(self._books.run)

    def stop_sending(self) -> None:
        """Send nothing more: calls in flight end and are stored, every other request ends as `stopped`.

        For any thread. Batches that a Batch API has are still waited for; `close` leaves them.
        """
        self._stopping.set()

    def close(self) -> None:
        """Cancel calls in flight, commit what was received, close the store. Closing twice is the same as once."""
        # Under the lock, so that every list that was let in is cancelled.
        with self._lock:
            if not self._loop.is_closed():
                asyncio.run_coroutine_threadsafe(self._end_all(), self._loop).result()
                self._loop.call_soon_threadsafe(self._loop.stop)
                self._thread.join()
                self._loop.close()
        self._clock.tell()
        self._books.store.close()

    def __exit__(self, *_: object) -> None:
        self.close()

    def _look_up(self, asking: "_Asking") -> None:
        """Deliver the outcomes that are in the store."""
        found = self._books.store.lookup(list(asking.waiting))
        if found:
            self._books.store.count_reuse([asking.waiting[key] for key in found])
        for key, outcome in found.items():
            asking.deliver(key, outcome, shared=True)

    @contextmanager
    def _holding(self, shard: str, asking: "_Asking") -> Iterator[None]:
        """Claim a list of requests once no other thread or process holds it; a stopped one claims nothing."""
        with self._here.setdefault(shard, threading.Lock()):
            try:
                while not self._books.store.take_shard(shard) and not asking.is_stopped():
                    time.sleep(_AGAIN_SECONDS)
                yield
            finally:
                given_back = self._books.store.give_shard_back(shard)
            # By then the costs of this list are settled, too.
            given_back.result()

    def _ask_for_the_rest(self, shard: str, asking: "_Asking", endpoint: types.Endpoint) -> None:
        missing = dict(asking.waiting)
        # All if the endpoint says so; else those that are in a batch already.
        batched = missing.keys() if endpoint.batch else self._books.store.batched(list(missing))
        in_batches = {key: missing.pop(key) for key in list(missing) if key in batched}
        with self._lock:
            if self._loop.is_closed():
                raise Stopped("the call engine is closed; start the command again, what was received is stored")
            job = asyncio.run_coroutine_threadsafe(self._send(shard, asking, in_batches, missing, endpoint), self._loop)
        job.add_done_callback(lambda ended: asking.inbox.put(ended.result))
        try:
            while asking.waiting:
                asking.inbox.get()()
                self._clock.tell(older_than_seconds=_CLOCK_SECONDS)
            job.result()
        except CancelledError:
            raise Stopped("the calls were stopped while some were in flight; what was received is stored") from None
        finally:
            job.cancel()
            # The list is held until none of it is in flight.
            asking.ended.wait()

    async def _send(
        self,
        shard: str,
        asking: "_Asking",
        in_batches: Mapping[str, types.Request],
        single: Mapping[str, types.Request],
        endpoint: types.Endpoint,
    ) -> None:
        """Bring requests to their outcomes, through batches or on the line that all askers of an endpoint share."""
        from tapir_core.calls.endpoint import Line

        SHARD.set(shard)
        try:
            async with asyncio.TaskGroup() as group:
                if in_batches:
                    from tapir_core.calls.batch_sending import BatchSending

                    batches = BatchSending(
                        self._books, endpoint, asking.tell, asking.is_stopped, config=self._config, rng=self._rng
                    )
                    group.create_task(batches.send_all(in_batches))
                # Of an account: one without credit, or with a wrong key, is given up alone.
                if (account := (endpoint.base_urls, endpoint.api_key)) not in self._lines:
                    self._lines[account] = Line(endpoint, self._config, rng=self._rng, books=self._books)
                line = self._lines[account]
                line.admit(endpoint)
                for key, request in single.items():
                    # First a slot, then its task: a long list takes memory for calls in flight, not for its length.
                    slot = await line.slot()
                    task = group.create_task(self._send_one(asking, key, request, endpoint, slot))
                    # A task that is cancelled before its first step releases nothing itself.
                    task.add_done_callback(slot.release)
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        finally:
            asking.ended.set()

    async def _send_one(
        self, asking: "_Asking", key: str, request: types.Request, endpoint: types.Endpoint, slot: "Slot"
    ) -> None:
        if asking.is_stopped():
            asking.tell(key, STOPPED, False)
            return
        reply = await self._lines[endpoint.base_urls, endpoint.api_key].answer(key, request, endpoint, slot)
        self._books.meter.count_reply(reply)
        if isinstance(reply.outcome, types.Failure) and reply.outcome.retryable:
            asking.tell(key, reply.outcome, False)
        else:
            # A queued write cannot be taken back. The next attempt is booked behind it and so sent after this commit: a
            # kill loses only calls in flight.
            committed = self._books.store.put(key, request, reply)
            committed.add_done_callback(lambda done: asking.tell(key, done, False))

    async def _end_all(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        for line in self._lines.values():
            await line.close()


class _Asking:
    """One list of requests while it is answered, by key: equal requests are one key with several positions."""

    def __init__(
        self,
        requests: Sequence[types.Request],
        take: Callable[[int, types.Outcome], object],
        is_stopped: Callable[[], bool],
    ) -> None:
        self.is_stopped = is_stopped
        self.waiting: dict[str, types.Request] = {}
        """Requests without an outcome so far."""
        self.inbox: SimpleQueue[Callable[[], object]] = SimpleQueue()
        """What the caller's thread has to do next: deliver an outcome, or raise the error that ended the sending."""
        self.ended = threading.Event()
        """Set once none of it is in flight."""
        self._take = take
        self._places = defaultdict[str, list[int]](list)
        for place, request in enumerate(requests):
            key = request.key
            self.waiting.setdefault(key, request)
            self._places[key].append(place)

    def tell(self, key: str, outcome: types.Outcome | Future[types.Outcome], shared: bool) -> None:
        """Let the caller's thread deliver an outcome, or a future of one. For any thread."""
        self.inbox.put(partial(self.deliver, key, outcome, shared=shared))

    def deliver(self, key: str, outcome: types.Outcome | Future[types.Outcome], *, shared: bool) -> None:
        """Give an outcome to every position of ``key``. The first has paid for it, unless it was ``shared``."""
        came = outcome.result() if isinstance(outcome, Future) else outcome
        for_free = replace(came, stored=True) if isinstance(came, types.Answer) or not came.retryable else came
        del self.waiting[key]
        for place in self._places[key]:
            self._take(place, for_free if shared else came)
            shared = True


@dataclass(frozen=True, slots=True)
class Parsed(Generic[T]):
    """The result of one request."""

    value: T | None
    """The parsed last reply; None if the request failed or no reply could be parsed."""
    reason: str
    """Why there is no value: the parser's reason, or the failure's kind. Empty if there is a value."""
    outcomes: tuple[types.Outcome, ...]
    """One for each time it was sent; all but the last are answers that could not be parsed."""

    @property
    def outcome(self) -> types.Outcome:
        """The last outcome."""
        return self.outcomes[-1]

    @property
    def counts_as(self) -> types.Outcome:
        """The last outcome; if it could not be parsed, the failure ``bad_reply`` with the reply."""
        if isinstance(self.outcome, types.Failure) or not self.reason:
            return self.outcome
        return types.Failure("bad_reply", f"{self.reason}: {self.raw}", attempts=len(self.outcomes))

    @property
    def raw(self) -> str:
        """Text of the last reply; empty if the request failed."""
        return self.outcome.text if isinstance(self.outcome, types.Answer) else ""

    @property
    def retryable(self) -> bool:
        """True if a later retry may succeed."""
        return isinstance(self.outcome, types.Failure) and self.outcome.retryable


def ask_read(
    engine: CallEngine,
    requests: Sequence[types.Request],
    source: types.EndpointSource,
    read: Callable[[int, types.Answer], T | Unparsed],
    reasks: int,
    watch: types.Watch = types.UNWATCHED,
) -> list[Parsed[T]]:
    """Outcomes of ``requests`` with their parsed values, in their order.

    ``read`` gets the position of a row and its answer. If it returns `Unparsed`, the row is sent again, at most
    ``reasks`` times. ``watch`` gets each row once, when nothing more will be asked for it, with what it
    `counts_as`. Its first rows are finished before any other row is asked, so that a list whose replies cannot be read
    is stopped early.
    """
    endpoint = cache(source)
    parsed: list[Parsed[T]] = [Parsed(None, "", ())] * len(requests)
    rows: Sequence[int] = ()

    def take(place: int, outcome: types.Outcome) -> None:
        row = rows[place]
        parsed[row] = Parsed(*_read(row, outcome, read), (*parsed[row].outcomes, outcome))
        if not is_asked_again(row):
            watch.on_outcome(row, parsed[row].counts_as)

    def is_asked_again(row: int) -> bool:
        last = parsed[row]
        return len(last.outcomes) <= reasks and isinstance(last.outcome, types.Answer) and bool(last.reason)

    for rows in (range(min(watch.first, len(requests))), range(watch.first, len(requests))):
        while rows:
            asked = [_next(requests[row], parsed[row].outcomes[-1:], len(parsed[row].outcomes)) for row in rows]
            engine.ask(asked, endpoint, replace(watch, on_outcome=take))
            rows = [row for row in rows if is_asked_again(row)]
    return parsed


def forget_unread(
    engine: CallEngine,
    requests: Sequence[types.Request],
    read: Callable[[int, types.Answer], T | Unparsed],
    reasks: int,
) -> int:
    """Delete the stored replies of all requests that `ask_read` cannot parse, so that they are sent again.

    Replies of a later start that can be parsed stay, so a process that was killed half-way sends only the rest. Returns
    the number of deleted replies.
    """
    unread: dict[int, list[types.Request]] = {row: [] for row in range(len(requests))}
    asked = dict(enumerate(requests))
    for reask in range(1, reasks + 2):
        stored, following = engine.stored([*asked.values()]), dict[int, types.Request]()
        for row, each in asked.items():
            outcome = stored.get(each.key)
            if outcome is not None and _read(row, outcome, read)[1]:
                unread[row].append(each)
                following[row] = _next(requests[row], [outcome], reask)
            elif outcome is not None:
                unread[row] = []
        asked = following
    return engine.forget([each for of_row in unread.values() for each in of_row])


def _read(row: int, outcome: types.Outcome, read: Callable[[int, types.Answer], T | Unparsed]) -> tuple[T | None, str]:
    """The parsed value of an outcome, or None and the reason."""
    value = Unparsed(outcome.kind) if isinstance(outcome, types.Failure) else read(row, outcome)
    return (None, value.reason) if isinstance(value, Unparsed) else (value, "")


def _next(request: types.Request, said: Sequence[types.Outcome], reask: int) -> types.Request:
    """The request as it is sent after the outcome ``said``; the request itself if there is none."""
    index = request.sample_index
    assert index < REASK_STRIDE, "sample indices must stay below the stride of re-asks"
    messages = request.messages
    for reply in said:
        if request.sampling.temperature == 0 and isinstance(reply, types.Answer) and reply.text.strip():
            messages += (types.Message("assistant", reply.text), types.Message("user", MISSING))
    return replace(request, messages=messages, sample_index=index + reask * REASK_STRIDE) if reask else request
