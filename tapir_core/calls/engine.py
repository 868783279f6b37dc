"""The call engine: lists of requests in, lists of outcomes out, nothing paid twice.

For each list: store look-up → the list is held → for each request limiter → each attempt booked, sent and settled → raw
reply stored and committed → outcome (sending.py; batch_sending.py where a Batch API is used). One background event loop
makes the calls; any number of threads may ask. Of equal requests in one list one is sent; who asks the same list, in
another thread or process, waits until it is answered. Equal requests in two lists at once may both be paid.

Parsing is free and separate (`ask_parsed`): every raw reply stays in the store, so a second run parses the same replies
again and pays for nothing. A re-ask is the same request under another sample index, and so another seed; a reply that
was cut off at temperature 0 is not asked for again.
"""

import asyncio
import queue
import random
import threading
import time
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from tapir_core.calls.answer_store import AnswerStore
from tapir_core.calls.asking import Asking, IsStopped, OnOutcome, never_stopped
from tapir_core.calls.budget import DRIVING, SHARD, LiveSpend, Spend, SpendMeter, WorkClock
from tapir_core.calls.sending import STOPPED, Attempts, Books, Sending, Tell, task_group
from tapir_core.calls.types import Answer, Endpoint, EndpointSource, Failure, Outcome, Request
from tapir_core.config import BudgetConfig, CallsConfig
from tapir_core.errors import Stopped
from tapir_core.text import Unparsed, digest

if TYPE_CHECKING:
    from tapir_core.calls.endpoint import Line

T = TypeVar("T")

_Inbox = queue.SimpleQueue[tuple[str, Outcome, bool] | None]
"""Key and outcome of each request as it is committed, and whether another process paid; nothing at the end."""

_AGAIN_SECONDS = 0.5
"""How long after a list of requests that somebody else holds is looked for again."""

REASK_STRIDE = 1_000_000
"""Re-ask k of sample i has sample index ``i + k * REASK_STRIDE``: samples are numbered below it, so none collides."""


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
        self._here: dict[str, threading.Lock] = {}
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
        shard = digest(sorted(asking.waiting))
        self._deliver_stored(asking)
        if asking.waiting:
            with self._holding(shard, asking) as held:
                if held:
                    # Who held it before may have answered meanwhile.
                    self._deliver_stored(asking)
                if held and asking.waiting and not self._stops(asking):
                    with self._books.clock.working(next(iter(asking.waiting.values())).role):
                        self._call_missing(shard, asking, endpoint())
        for key in list(asking.waiting):
            asking.deliver(key, STOPPED, shared=False)
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

    def _stops(self, asking: Asking) -> bool:
        return self._stopping.is_set() or asking.is_stopped()

    def _deliver_stored(self, asking: Asking) -> None:
        found = self._books.store.lookup(list(asking.waiting))
        if found:
            self._books.store.count_reuse([asking.waiting[key] for key in found])
        for key, outcome in found.items():
            self._books.meter.count_stored(asking.deliver(key, outcome, shared=True))

    @contextmanager
    def _holding(self, shard: str, asking: Asking) -> Iterator[bool]:
        """Hold a list of requests, once no other thread or process does; false where it was stopped before."""
        here = self._here.setdefault(shard, threading.Lock())
        while not here.acquire(timeout=_AGAIN_SECONDS):
            if self._stops(asking):
                yield False
                return
        try:
            while not self._books.store.take_shard(shard):
                if self._stops(asking):
                    yield False
                    return
                time.sleep(_AGAIN_SECONDS)
            try:
                yield True
            finally:
                given_back = self._books.store.give_shard_back(shard)
            # By then all is settled that this list has cost, too.
            given_back.result()
        finally:
            here.release()

    def _call_missing(self, shard: str, asking: Asking, endpoint: Endpoint) -> None:
        inbox: _Inbox = queue.SimpleQueue()
        missing = dict(asking.waiting)
        # Where the endpoint says so, and for what is in a batch already.
        batched = missing.keys() if endpoint.batch else self._books.store.batched(list(missing))
        sending = self._send(shard, missing, batched, endpoint, lambda *told: inbox.put(told), asking.is_stopped)
        job = self._loop.start(sending, on_end=lambda: inbox.put(None))
        ended = False
        try:
            while (received := inbox.get()) is not None:
                key, outcome, shared = received
                self._books.meter.count_stored(asking.deliver(key, outcome, shared=shared))
            ended = True
            job.result()
        finally:
            if not ended:
                job.cancel()
                # It is held until nothing is in flight any more.
                while inbox.get() is not None:
                    pass

    async def _send(
        self,
        shard: str,
        missing: Mapping[str, Request],
        batched: Collection[str],
        endpoint: Endpoint,
        tell: Tell,
        is_stopped: IsStopped,
    ) -> None:
        """Bring requests to their outcomes: those that are ``batched`` through batches, the rest call by call."""

        def stopped() -> bool:
            return self._stopping.is_set() or is_stopped()

        SHARD.set(shard)
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


@dataclass(frozen=True, slots=True)
class Parsed(Generic[T]):
    """What came of one request."""

    value: T | None
    """What the parser made of the last reply; nothing when it failed or never became parsable."""
    reason: str
    """Why there is no value: the parser's reason, or the failure's kind. Empty when there is one."""
    outcomes: tuple[Outcome, ...]
    """One for each time it was asked; all but the last are answers that could not be parsed."""

    @property
    def outcome(self) -> Outcome:
        """The last outcome: it decides."""
        return self.outcomes[-1]

    @property
    def settled(self) -> Outcome:
        """The last outcome; of a reply that never became parsable the failure ``bad_reply``, with the reply."""
        if isinstance(self.outcome, Failure) or not self.reason:
            return self.outcome
        return Failure("bad_reply", f"{self.reason}: {self.raw}", attempts=len(self.outcomes))

    @property
    def raw(self) -> str:
        """Text of the last reply; empty when it failed."""
        return self.outcome.text if isinstance(self.outcome, Answer) else ""

    @property
    def retryable(self) -> bool:
        """True when asking again later may succeed."""
        return isinstance(self.outcome, Failure) and self.outcome.retryable


def ask_parsed(
    engine: CallEngine,
    requests: Sequence[Request],
    source: EndpointSource,
    parse: Callable[[str], T | Unparsed],
    reasks: int,
    *,
    on_outcome: OnOutcome | None = None,
    is_stopped: IsStopped = never_stopped,
    first: int = 0,
) -> list[Parsed[T]]:
    """Outcomes of ``requests`` with their parsed values, in their order.

    A reply for which ``parse`` gives `Unparsed` is asked for again, at most ``reasks`` times. ``on_outcome`` is told
    each row once, when nothing more will be asked for it: what has `settled`. The ``first`` rows are brought so far
    before another one is asked: so that it is known early, and stopped, when no reply can be parsed.
    """
    return ask_read(
        engine,
        requests,
        source,
        lambda _, answer: parse(answer.text),
        reasks,
        on_outcome=on_outcome,
        is_stopped=is_stopped,
        first=first,
    )


def ask_read(
    engine: CallEngine,
    requests: Sequence[Request],
    source: EndpointSource,
    read: Callable[[int, Answer], T | Unparsed],
    reasks: int,
    *,
    on_outcome: OnOutcome | None = None,
    is_stopped: IsStopped = never_stopped,
    first: int = 0,
) -> list[Parsed[T]]:
    """Outcomes of ``requests`` with their values, as `ask_parsed` gives them, where the text alone does not say how.

    ``read`` is given the place of a row and the answer to it.
    """
    endpoint = cache(source)
    parsed: dict[int, Parsed[T]] = {}
    for part in (range(min(first, len(requests))), range(first, len(requests))):
        rows = list(part)
        for reask in range(reasks + 1):
            asked = [_reasked(requests[row], reask) for row in rows]
            take = _taker(requests, rows, parsed, read, on_outcome, last=reask == reasks)
            engine.ask(asked, endpoint, on_outcome=take, is_stopped=is_stopped)
            rows = [row for row in rows if _may_improve(requests[row], parsed[row])]
    return [parsed[row] for row in range(len(requests))]


def forget_unread(
    engine: CallEngine, requests: Sequence[Request], read: Callable[[int, Answer], T | Unparsed], reasks: int
) -> int:
    """Delete the stored replies to those requests of which `ask_read` makes no value, so that they are asked anew.

    What was asked anew since, and can be read, stays: who was killed after it asks for the rest. Gives how many replies
    were deleted.
    """
    samples = [[_reasked(request, reask) for reask in range(reasks + 1)] for request in requests]
    stored = engine.stored([each for of_row in samples for each in of_row])
    unread: list[Request] = []
    for row, of_row in enumerate(samples):
        known = [each for each in of_row if each.key in stored]
        if all(_read(row, stored[each.key], read)[1] for each in known):
            unread += known
    return engine.forget(unread)


def _taker(
    requests: Sequence[Request],
    rows: list[int],
    parsed: dict[int, Parsed[T]],
    read: Callable[[int, Answer], T | Unparsed],
    on_outcome: OnOutcome | None,
    *,
    last: bool,
) -> OnOutcome:
    """A callback for one pass, which reads each reply into ``parsed`` and tells of rows that are asked no more."""

    def take(place: int, outcome: Outcome) -> None:
        row = rows[place]
        earlier = parsed[row].outcomes if row in parsed else ()
        found = parsed[row] = Parsed(*_read(row, outcome, read), (*earlier, outcome))
        if on_outcome is not None and (last or not _may_improve(requests[row], found)):
            on_outcome(row, found.settled)

    return take


def _read(row: int, outcome: Outcome, read: Callable[[int, Answer], T | Unparsed]) -> tuple[T | None, str]:
    if isinstance(outcome, Failure):
        return None, outcome.kind
    value = read(row, outcome)
    return (None, value.reason) if isinstance(value, Unparsed) else (value, "")


def _may_improve(request: Request, parsed: Parsed[T]) -> bool:
    """Whether to ask again: not for what spends its tokens at temperature 0, which it would spend again."""
    outcome = parsed.outcome
    if isinstance(outcome, Failure) or not parsed.reason:
        return False
    return outcome.finish_reason != "length" or request.sampling.temperature != 0


def _reasked(request: Request, reask: int) -> Request:
    assert request.sample_index < REASK_STRIDE, "sample indices must stay below the stride of re-asks"
    return replace(request, sample_index=request.sample_index + reask * REASK_STRIDE) if reask else request


class Job:
    """A coroutine on the loop, seen from the thread that started it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, on_end: Callable[[], None]) -> None:
        self._loop = loop
        self._on_end = on_end
        self._task: asyncio.Task[None] | None = None
        self._ended: Future[None] = Future()

    def begin(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Start; called on the loop."""
        self._task = self._loop.create_task(coroutine)
        self._task.add_done_callback(self._end)

    def cancel(self) -> None:
        """Ask the job to end early; one that has ended stays as it is."""
        if not self._ended.done():
            self._loop.call_soon_threadsafe(self._cancel)

    def result(self) -> None:
        """Wait for the end.

        Raises:
            Stopped: the loop was closed before the job was done.
            Exception: what the job raised.
        """
        self._ended.result()

    def _cancel(self) -> None:
        # The loop runs `begin` before it, for it was scheduled before it.
        assert self._task is not None
        self._task.cancel()

    def _end(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            stopped = "the calls were stopped while some were in flight; what was received is stored"
            self._ended.set_exception(Stopped(stopped))
        elif error := task.exception():
            self._ended.set_exception(error)
        else:
            self._ended.set_result(None)
        self._on_end()


class BackgroundLoop:
    """Started at once; a daemon thread, so that a process that forgets to close it still ends."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._lock = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)
        self._thread.start()

    def start(self, coroutine: Coroutine[Any, Any, None], *, on_end: Callable[[], None]) -> Job:
        """Run ``coroutine`` on the loop; ``on_end`` is called there when it has ended, in whatever way.

        Raises:
            Stopped: the loop is closed.
        """
        # Under the lock, so that `close` comes after every job that was let in and finds it.
        with self._lock:
            if self._closed:
                coroutine.close()
                raise Stopped("the call engine is closed; start the command again, what was received is stored")
            job = Job(self._loop, on_end)
            self._loop.call_soon_threadsafe(job.begin, coroutine)
            return job

    def close(self, finish: Callable[[], Awaitable[None]]) -> None:
        """Cancel every job, await ``finish()`` on the loop, end the thread. Closing twice is the same as once."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        asyncio.run_coroutine_threadsafe(self._shut_down(finish), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _shut_down(self, finish: Callable[[], Awaitable[None]]) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await finish()
