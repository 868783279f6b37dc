"""The students of a run on GPU workers: replicas of one checkpoint at a time.

The run asks for replicas when the first answer is missing, and tells them to leave before training, so that the GPUs
are free. A replica is replaced if it was killed, its machine went silent or its server died after it had served. It is
not replaced if it could not start, as the next one would fail too, or if a person cancelled it. Replicas that join by
themselves are used like the others. What a replica does on its worker is in tasks/serving.py.
"""

import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, cast

from tapir_core import errors, leases
from tapir_core.calls import Endpoint, LiveAddress, LiveAddresses, run_key, store_url
from tapir_core.config.student import ReplicasEngine
from tapir_core.run_folder import RunFolder
from tasks.engines import keys, student_server

MOST_CRASHES = 3
"""Replicas killed before they served, after which no other one is asked for."""

_POLL_SECONDS = 0.2

logger = logging.getLogger(__name__)

How = Literal["completed", "failed", "crashed", "cancelled"]


@dataclass(frozen=True, slots=True)
class Ended:
    """How the flow run of a replica ended."""

    how: How
    message: str = ""


class Fleet(Protocol):
    """Starts flow runs that serve replicas, or are nodes of a training. Its methods raise TapirError if they cannot."""

    def ask(self, number: int, asked: str, /) -> None:
        """Start a flow run with this id: for the student after round ``number``, or the training of that round."""

    def ended(self, asked: str, /) -> Ended | None:
        """How its flow run ended; None while it has not."""

    def withdraw(self, asked: str, /) -> None:
        """Cancel its flow run, which no worker has started."""


class ReplicaStudents(student_server.Students):
    """The `Students` that GPU workers serve: asks for replicas of one checkpoint, watches them and makes them leave."""

    def __init__(
        self,
        engine: ReplicasEngine,
        registry: leases.ReplicaRegistry,
        fleet: Fleet,
        key_of: Callable[[str], str],
        report: student_server.Report = lambda _line: None,
        *,
        look_seconds: float = 1.0,
        leave_seconds: float = 120.0,
    ) -> None:
        """Nothing is asked for yet.

        Args:
            engine: Number of replicas, and the longest wait for one.
            registry: The replicas of the run, whatever they serve.
            fleet: Starts them.
            key_of: Id of a replica → its key.
            report: Gets the number that serves.
            look_seconds: Between two looks at them.
            leave_seconds: Longest wait until they have left; one without a heartbeat is gone after 60 s.
        """
        self.engine, self._registry, self._fleet = engine, registry, fleet
        self._key_of, self._report = key_of, report
        self._look_seconds, self._leave_seconds = look_seconds, leave_seconds
        self._lock = threading.RLock()
        self._aborted = False
        self._live: defaultdict[str, LiveAddresses] = defaultdict(LiveAddresses)
        """By checkpoint; kept, because its calls go to its replicas whenever these come back."""
        self._failures: dict[str, str] = {}
        """Why no replica of a checkpoint could start: every caller gets this error, and none tries again."""
        self._over = threading.Event()
        """Set while no thread watches the replicas."""
        self._over.set()
        self._thread: threading.Thread | None = None

    def stop(self) -> None:
        """Make every replica of the run leave, and wait until their GPUs are free.

        Raises:
            EngineError: a live one does not leave.
        """
        with self._lock:
            self._look_no_more()
            deadline = time.monotonic() + self._leave_seconds
            while (left := self._dismiss()) and not self._aborted:
                if time.monotonic() > deadline:
                    raise errors.EngineError(
                        f"the replicas {', '.join(left)} do not leave, so that their GPUs are not free; cancel their "
                        "flow runs of serve-student, then the same command goes on"
                    )
                time.sleep(_POLL_SECONDS)

    def abort(self) -> None:
        """Make all callers that wait for a replica give up; from any thread."""
        self._aborted = True
        for checkpoint in list(self._live):
            self._give_up(checkpoint, "the run was told to stop")

    def close(self) -> None:
        """Tell every replica to leave, and do not wait for it; the last call."""
        with self._lock:
            self._look_no_more()
            try:
                self._dismiss()
            except errors.TapirError as error:
                # They leave by themselves when no driver is left.
                logger.warning("the replicas were not asked to leave: %s", error)
            self._registry.close()

    def endpoint(self, student: student_server.Student) -> Endpoint:
        """As `Students.endpoint`; raises EngineError when no replica comes, and what ``fleet.ask`` raises."""
        checkpoint, live = student.identity, self._live[student.identity]
        with self._lock:
            if checkpoint in self._failures:
                raise errors.EngineError(self._failures[checkpoint])
            if any(each.checkpoint != checkpoint for each in self._registry.all()):
                self.stop()
            if self._aborted:
                raise errors.EngineError("the run was told to stop")
            if self._over.is_set() or self._student != student:
                self._look_no_more()
                self._begin(student)
        # The watch gives up earlier; a replica that comes and goes at once is replaced, and calls wait for that.
        if not live.wait(2 * self.engine.wait_seconds) or live.reason:
            raise errors.EngineError(live.reason or f"no replica came within {self.engine.wait_seconds:g} s")
        return Endpoint(
            f"replicas of {checkpoint}",
            self.engine.replicas * self.engine.concurrency,
            api_key_env=keys.SECRET_VARIABLE,
            timeout_seconds=student_server.ANSWER_SECONDS,
            seed=bool(self.engine.seed),
            proxy="",
            live=live,
        )

    def _dismiss(self) -> list[str]:
        """Tell all of them to leave, also those that came since; the ids of those that still live."""
        dismiss(self._registry, self._fleet)
        return forget_dead(self._registry)

    def _begin(self, student: student_server.Student) -> None:
        """Ask for the missing replicas, and watch them; live ones of an earlier driver are used.

        Raises:
            TapirError: the first one cannot be asked for.
        """
        self._student = student
        self._served: set[str] = set()
        self._ends: dict[str, Ended] = {}
        self._without_since = time.monotonic()
        for each in self._registry.all():
            if each.holder is None:
                self._registry.remove(each.id)
                self._fleet.withdraw(each.id)
        # Count towards `replicas`: their end has not been seen.
        self._asked = {each.id for each in self._ours() if not each.is_dead()}
        for _ in range(self.engine.replicas - len(self._asked)):
            self._ask_one()
        self._over.clear()
        self._thread = threading.Thread(target=self._follow, name="tapir-replicas", daemon=True)
        self._thread.start()

    def _look_no_more(self) -> None:
        """Stop watching, and send calls to none of them."""
        self._over.set()
        if self._thread is not None:
            self._thread.join()
        for live in list(self._live.values()):
            live.set([])

    def _give_up(self, checkpoint: str, reason: str) -> None:
        """Stop watching, and tell all callers that wait why; from any thread."""
        self._over.set()
        self._live[checkpoint].set((), given_up=reason)

    def _follow(self) -> None:
        """Watch until there is no replica to wait for, or the watch is over."""
        said, checkpoint = "", self._student.identity
        try:
            while not self._over.is_set():
                try:
                    self._look()
                except errors.TapirError as error:
                    # Database or Prefect server cannot be reached: replicas go on, and the next look may succeed.
                    if str(error) != said:
                        said = str(error)
                        logger.warning("cannot look at the replicas of %s: %s", checkpoint, said)
                self._over.wait(self._look_seconds)
        except BaseException as bug:  # raised again, after callers that wait were told
            self._give_up(checkpoint, f"the watch over the replicas ended: {bug!r}")
            raise

    def _look(self) -> None:
        ours = self._ours()
        living = [each for each in ours if not each.is_dead()]
        serving = [each for each in living if each.base_url]
        self._say_who_serves(serving)
        if not serving:
            self._wait_or_give_up(coming=bool(living or self._asked))
        dead = {each.id for each in ours if each not in living}
        for replica in self._asked - {each.id for each in living if each.holder}:
            self._look_at_flow_run(replica, is_dead=replica in dead)
        for each in ours:
            if each.id in dead or (each.holder is None and each.id in self._ends):
                self._registry.remove(each.id)

    def _say_who_serves(self, serving: list[leases.Replica]) -> None:
        live = self._live[self._student.identity]
        before = len(live.now)
        if serving or before:
            live.set([LiveAddress(each.base_url, each.concurrency, self._key_of(each.id)) for each in serving])
        if len(serving) != before:
            self._report(f"{len(serving)} of {self.engine.replicas} replicas serve")
        self._served |= {each.id for each in serving}
        if serving:
            self._without_since = time.monotonic()

    def _look_at_flow_run(self, replica: str, *, is_dead: bool) -> None:
        """Check a replica that no worker has taken, that is dead or whose row is gone."""
        lost = Ended("crashed", "its process or its machine is gone") if is_dead else None
        ended = self._fleet.ended(replica) or lost
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
        replica = self._registry.ask(self._student.number, self._student.identity)
        try:
            self._fleet.ask(self._student.number, replica)
        except errors.TapirError:
            self._registry.remove(replica)
            raise
        self._asked.add(replica)

    def _wait_or_give_up(self, *, coming: bool) -> None:
        waited, checkpoint = time.monotonic() - self._without_since, self._student.identity
        if not coming:
            ends = self._ends.values()
            reasons = dict.fromkeys(f"{each.how}: {each.message}".rstrip(": ") for each in ends)
            reason = f"no replica is left: {'; '.join(reasons)}"
            if not self._served and all(each.how in ("failed", "crashed") for each in ends):
                self._failures[checkpoint] = reason
            self._give_up(checkpoint, reason)
        elif waited > self.engine.wait_seconds:
            self._give_up(
                checkpoint,
                f"no replica serves after {waited:.0f} s; look at the flow runs of serve-student and at the workers of "
                "the pool tapir-gpu, or raise student.engine.wait_seconds; then the same command goes on",
            )

    def _ours(self) -> list[leases.Replica]:
        return [each for each in self._registry.all() if each.checkpoint == self._student.identity and not each.leaving]


def dismiss(registry: leases.ReplicaRegistry, fleet: Fleet) -> list[str]:
    """Ask everyone in the registry to leave; gives those that no worker had taken, which never come."""
    untaken = registry.dismiss()
    for each in untaken:
        fleet.withdraw(each)
    return untaken


def forget_dead(registry: leases.ReplicaRegistry) -> list[str]:
    """Remove the rows of those that are dead; gives those that live."""
    there = registry.all()
    for each in there:
        if each.is_dead():
            registry.remove(each.id)
    return [each.id for each in there if not each.is_dead()]


def replicas_of(run: RunFolder, fleet: Fleet, report: student_server.Report) -> ReplicaStudents:
    """The students of a run whose engine asks for replicas."""
    return ReplicaStudents(
        cast(ReplicasEngine, run.config.student.engine),
        leases.ReplicaRegistry(store_url(run.config), run_key(run.config)),
        fleet,
        key_of=lambda replica: keys.replica_key(run.ref.root, run.record.id, replica),
        report=report,
    )
