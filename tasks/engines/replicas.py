"""The students of a run on GPU workers: replicas of one checkpoint at a time, wherever they run.

Replicas are asked for when the first missing answer is, and asked to leave before training, which then finds the GPUs
free. One that was killed, whose machine went silent or whose server died in service is replaced. One that could not
start is not, for the next would fail alike; nor is one that a person cancelled. Who joins by itself is used as the
others are. What a replica does on its worker is in tasks/serving.py.
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, cast

from tapir_core.calls import run_key, store_url
from tapir_core.calls.types import Endpoint, EndpointSource, LiveAddress, LiveAddresses
from tapir_core.config import ReplicasEngine
from tapir_core.errors import EngineError, TapirError
from tapir_core.leases import Replica, ReplicaRegistry
from tapir_core.run_folder import RunFolder
from tasks.engines.keys import SECRET_VARIABLE, replica_key
from tasks.engines.student_server import Report, Student

LOOK_SECONDS = 1.0

LEAVE_SECONDS = 120.0
"""Longest wait until the replicas have left; one without a sign of life is gone after 60 s."""

MOST_CRASHES = 3
"""Replicas that may be killed before they serve until nobody asks for another one."""

_POLL_SECONDS = 0.2

logger = logging.getLogger(__name__)

How = Literal["completed", "failed", "crashed", "cancelled"]


@dataclass(frozen=True, slots=True)
class Ended:
    """How the flow run of a replica ended."""

    how: How
    message: str = ""


class Fleet(Protocol):
    """Starts flow runs that serve replicas. A method raises TapirError when it cannot be done."""

    def ask(self, number: int, replica: str) -> None:
        """Start a flow run that serves the student after round ``number`` under this id."""

    def ended(self, replica: str) -> Ended | None:
        """How its flow run ended; nothing while it has not."""

    def withdraw(self, replica: str) -> None:
        """Cancel its flow run, which no worker has begun."""


@dataclass(frozen=True, slots=True)
class Replicas:
    """The replicas of one run, whatever they serve."""

    engine: ReplicasEngine
    """How many of them, and how long one is waited for."""
    registry: ReplicaRegistry
    fleet: Fleet
    key_of: Callable[[str], str]
    """The key of a replica, by its id."""
    report: Callable[[str], None] = lambda _line: None
    """Told how many serve."""


def replicas_of(run: RunFolder, fleet: Fleet, report: Report) -> Replicas:
    """The replicas of a run whose engine asks for some."""
    return Replicas(
        cast(ReplicasEngine, run.config.student.engine),
        ReplicaRegistry(store_url(run.config), run_key(run.config)),
        fleet,
        key_of=lambda replica: replica_key(run.ref.root, run.record.id, replica),
        report=report,
    )


class ReplicaStudents:
    """The `Students` that GPU workers serve: asks for their replicas, follows them and has them leave."""

    def __init__(self, replicas: Replicas) -> None:
        """Nothing is asked for yet."""
        self._replicas = replicas
        self._lock = threading.RLock()
        self._aborted = False
        self._watches: dict[str, _Watch] = {}
        """By checkpoint; kept, for its calls go to its own replicas, whenever these come back."""

    def source(self, student: Student) -> EndpointSource:
        """As `Students.source`; raises EngineError when no replica comes, and what ``fleet.ask`` raises."""
        return lambda: self._endpoint_for(student.number, student.identity)

    def stop(self) -> None:
        """Have every replica of the run leave, and wait until their GPUs are free.

        Raises:
            EngineError: one that lives does not leave.
        """
        with self._lock:
            self._end_watches()
            deadline = time.monotonic() + LEAVE_SECONDS
            while (left := self._dismiss()) and not self._aborted:
                if time.monotonic() > deadline:
                    raise EngineError(
                        f"the replicas {', '.join(left)} do not leave, so that their GPUs are not free; cancel their "
                        "flow runs of serve-student, then the same command goes on"
                    )
                time.sleep(_POLL_SECONDS)

    def abort(self) -> None:
        """Make everybody who waits for a replica give up, from any thread."""
        self._aborted = True
        for watch in list(self._watches.values()):
            watch.give_up("the run was told to stop")

    def close(self) -> None:
        """Ask every replica to leave without waiting for it; the last thing that is done."""
        with self._lock:
            self._end_watches()
            try:
                self._dismiss()
            except TapirError as error:
                # They leave by themselves when the run is driven no more.
                logger.warning("the replicas were not asked to leave: %s", error)
            self._replicas.registry.close()

    def _endpoint_for(self, number: int, checkpoint: str) -> Endpoint:
        with self._lock:
            watch = self._watches.setdefault(checkpoint, _Watch(self._replicas, number, checkpoint))
            if watch.failure:
                raise EngineError(watch.failure)
            if any(each.checkpoint != checkpoint for each in self._replicas.registry.all()):
                self.stop()
            if self._aborted:
                raise EngineError("the run was told to stop")
            if watch.over.is_set():
                self._end_watches()
                watch.begin()
        # The watch gives up earlier; one that comes and goes at once is replaced, and calls wait for that.
        came = watch.live.wait(2 * self._replicas.engine.wait_seconds)
        if watch.live.reason or not came:
            raise EngineError(watch.live.reason or f"no replica came within {self._replicas.engine.wait_seconds:g} s")
        concurrency = self._replicas.engine.replicas * self._replicas.engine.concurrency
        return Endpoint(f"replicas of {checkpoint}", concurrency, api_key_env=SECRET_VARIABLE, live=watch.live)

    def _end_watches(self) -> None:
        for watch in self._watches.values():
            watch.end()

    def _dismiss(self) -> list[str]:
        """Tell all of them, also those that came meanwhile; which of them still live."""
        for replica in self._replicas.registry.dismiss():
            self._replicas.fleet.withdraw(replica)
        there = self._replicas.registry.all()
        dead = {each.id for each in there if each.is_dead()}
        for replica in dead:
            self._replicas.registry.remove(replica)
        return [each.id for each in there if each.id not in dead]


class _Watch:
    """The replicas of one checkpoint: followed from `begin` to `end`, or until there is nobody left to wait for."""

    def __init__(self, replicas: Replicas, number: int, checkpoint: str) -> None:
        self.live = LiveAddresses()
        self.failure = ""
        """Why none of them could start: said to everyone who asks, and not tried again for each of them."""
        self.over = threading.Event()
        """Set while nobody looks."""
        self.over.set()
        self._replicas = replicas
        self._number = number
        self._checkpoint = checkpoint
        self._thread: threading.Thread | None = None

    def begin(self) -> None:
        """Ask for as many as lack; what an earlier driver's replicas still serve is used.

        Raises:
            TapirError: the first one cannot be asked for.
        """
        self._served: set[str] = set()
        self._ends: dict[str, Ended] = {}
        self._without_since = time.monotonic()
        for each in self._replicas.registry.all():
            if each.holder is None:
                self._replicas.registry.remove(each.id)
                self._replicas.fleet.withdraw(each.id)
        # Those that count towards `replicas` and whose end has not been seen.
        self._asked = {each.id for each in self._ours() if not each.is_dead()}
        for _ in range(self._replicas.engine.replicas - len(self._asked)):
            self._ask_one()
        self.over.clear()
        self._thread = threading.Thread(target=self._follow, name="tapir-replicas", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Look no more, from now on, and send calls to none of them."""
        self.over.set()
        if self._thread is not None:
            self._thread.join()
        self.live.set([])

    def give_up(self, reason: str) -> None:
        """Look no more, and let everybody who waits hear why; from any thread."""
        self.over.set()
        self.live.give_up(reason)

    def _follow(self) -> None:
        said = ""
        try:
            while not self.over.is_set():
                try:
                    self._look()
                except TapirError as error:
                    # Database or Prefect server are away: those that serve go on, and the next look may succeed.
                    if str(error) != said:
                        said = str(error)
                        logger.warning("cannot look at the replicas of %s: %s", self._checkpoint, said)
                self.over.wait(LOOK_SECONDS)
        except BaseException as bug:  # raised again: who waits for a replica must hear of it
            self.give_up(f"the watch over the replicas ended: {bug!r}")
            raise

    def _look(self) -> None:
        ours = self._ours()
        there = {each.id for each in ours if not each.is_dead()}
        serving = [each for each in ours if each.id in there and each.base_url]
        self._say_who_serves(serving)
        if not serving:
            self._wait_or_give_up(coming=bool(there | self._asked))
        untaken = {each.id for each in ours if each.holder is None}
        dead = {each.id for each in ours} - there
        for replica in self._asked - (there - untaken):
            self._look_at_flow_run(replica, is_dead=replica in dead)
        for replica in dead | (untaken & self._ends.keys()):
            self._replicas.registry.remove(replica)

    def _say_who_serves(self, serving: list[Replica]) -> None:
        before = len(self.live.now)
        addresses = [LiveAddress(each.base_url, each.concurrency, self._replicas.key_of(each.id)) for each in serving]
        if serving or before:
            self.live.set(addresses)
        if len(serving) != before:
            self._replicas.report(f"{len(serving)} of {self._replicas.engine.replicas} replicas serve")
        self._served |= {each.id for each in serving}
        if serving:
            self._without_since = time.monotonic()

    def _look_at_flow_run(self, replica: str, *, is_dead: bool) -> None:
        """One that no worker has taken, that is dead or that is not there any more."""
        lost = Ended("crashed", "its process or its machine is gone") if is_dead else None
        ended = self._replicas.fleet.ended(replica) or lost
        if ended is None:
            return
        logger.warning("replica %s %s: %s", replica, ended.how, ended.message)
        if self._deserves_another(replica, ended):
            self._ask_one()
        self._asked.discard(replica)
        self._ends[replica] = ended

    def _deserves_another(self, replica: str, ended: Ended) -> bool:
        if replica in self._served:
            return ended.how in ("crashed", "failed")
        crashes = [each for each, end in self._ends.items() if end.how == "crashed" and each not in self._served]
        return ended.how == "crashed" and len(crashes) < MOST_CRASHES

    def _ask_one(self) -> None:
        replica = self._replicas.registry.ask(self._number, self._checkpoint)
        try:
            self._replicas.fleet.ask(self._number, replica)
        except TapirError:
            self._replicas.registry.remove(replica)
            raise
        self._asked.add(replica)

    def _wait_or_give_up(self, *, coming: bool) -> None:
        waited = time.monotonic() - self._without_since
        if not coming:
            ends = self._ends.values()
            reasons = dict.fromkeys(f"{each.how}: {each.message}".rstrip(": ") for each in ends)
            reason = f"no replica is left: {'; '.join(reasons)}"
            if not self._served and all(each.how in ("failed", "crashed") for each in ends):
                self.failure = reason
            self.give_up(reason)
        elif waited > self._replicas.engine.wait_seconds:
            self.give_up(
                f"no replica serves after {waited:.0f} s; look at the flow runs of serve-student and at the workers of "
                "the pool tapir-gpu, or raise student.engine.wait_seconds; then the same command goes on"
            )

    def _ours(self) -> list[Replica]:
        return [
            each for each in self._replicas.registry.all() if each.checkpoint == self._checkpoint and not each.leaving
        ]
