"""Where the student answers when GPU workers serve it: replicas of one checkpoint at a time, wherever they run.

The counterpart of `student_server.py` in a run that has a fleet. Replicas are asked for when the first missing answer
is, and asked to leave before training, which then finds the GPUs free. `watch.py` follows those that live.
"""

import logging
import threading
import time

from tapir_core.calls.live import LiveAddresses
from tapir_core.calls.types import Endpoint, EndpointSource
from tapir_core.errors import EngineError, TapirError
from tasks.engines.replicas.key import SECRET_VARIABLE
from tasks.engines.replicas.watch import Replicas, ReplicaWatch

__all__ = ["ReplicaHost"]

LEAVE_SECONDS = 120.0
"""Longest wait until the replicas have left; one without a sign of life is gone after 60 s."""

_POLL_SECONDS = 0.2

logger = logging.getLogger(__name__)


class ReplicaHost:
    """Gives endpoints for checkpoints; asks for their replicas, follows them and has them leave. Thread-safe.

    Asking for another checkpoint ends the replicas of the last one: ask for one at a time.
    """

    def __init__(self, replicas: Replicas) -> None:
        """Nothing is asked for yet."""
        self._replicas = replicas
        self._lock = threading.Lock()
        self._aborted = False
        self._watch: ReplicaWatch | None = None
        # A set for each checkpoint, kept: its calls go to its own replicas, whenever these come back.
        self._live: dict[str, LiveAddresses] = {}
        self._failures: dict[str, str] = {}
        """Why no replica of a checkpoint started: said to everyone who asks, and not tried again for each of them."""

    def source(self, number: int, checkpoint: str) -> EndpointSource:
        """What gives the endpoint of the student after round ``number``; replicas are asked for when it is called.

        The source raises EngineError when none comes, and what ``fleet.ask`` raises.
        """
        return lambda: self._endpoint_for(number, checkpoint)

    def stop(self) -> None:
        """Have every replica of the run leave, and wait until their GPUs are free.

        Raises:
            EngineError: one that lives does not leave.
        """
        with self._lock:
            self._stop()

    def abort(self) -> None:
        """Make everybody who waits for a replica give up, from any thread."""
        self._aborted = True
        watch = self._watch
        if watch is not None:
            watch.halt()
        for live in list(self._live.values()):
            live.give_up("the run was told to stop")

    def close(self) -> None:
        """Ask every replica to leave without waiting for it; the last thing that is done."""
        with self._lock:
            self._end_watch()
            try:
                self._dismiss()
            except TapirError as error:
                # They leave by themselves when the run is driven no more.
                logger.warning("the replicas were not asked to leave: %s", error)
            self._replicas.registry.close()

    def _endpoint_for(self, number: int, checkpoint: str) -> Endpoint:
        with self._lock:
            if checkpoint in self._failures:
                raise EngineError(self._failures[checkpoint])
            if any(each.checkpoint != checkpoint for each in self._replicas.registry.all()):
                self._stop()
            if self._aborted:
                raise EngineError("the run was told to stop")
            live = self._live.setdefault(checkpoint, LiveAddresses())
            if self._watch is None or self._watch.checkpoint != checkpoint or self._watch.is_over:
                self._end_watch()
                self._watch = self._begin_watch(number, checkpoint, live)
            watch = self._watch
        # The watch gives up earlier; one that comes and goes at once is replaced, and calls wait for that.
        came = live.wait(2 * self._replicas.engine.wait_seconds)
        if watch.failed_to_start:
            self._failures[checkpoint] = live.reason
        if live.reason or not came:
            raise EngineError(live.reason or f"no replica came within {self._replicas.engine.wait_seconds:g} s")
        concurrency = self._replicas.engine.replicas * self._replicas.engine.concurrency
        return Endpoint(f"replicas of {checkpoint}", concurrency, api_key_env=SECRET_VARIABLE, live=live)

    def _begin_watch(self, number: int, checkpoint: str, live: LiveAddresses) -> ReplicaWatch:
        live.set([])
        watch = ReplicaWatch(self._replicas, number, checkpoint, live)
        watch.begin()
        return watch

    def _stop(self) -> None:
        self._end_watch()
        deadline = time.monotonic() + LEAVE_SECONDS
        while (left := self._dismiss()) and not self._aborted:
            if time.monotonic() > deadline:
                raise EngineError(
                    f"the replicas {', '.join(left)} do not leave, so that their GPUs are not free; cancel their flow "
                    "runs of serve-student, then the same command goes on"
                )
            time.sleep(_POLL_SECONDS)

    def _end_watch(self) -> None:
        if self._watch is not None:
            self._watch.end()
        self._watch = None
        for live in self._live.values():
            live.set([])

    def _dismiss(self) -> list[str]:
        """Tell all of them, also those that came meanwhile; which of them still live."""
        for replica in self._replicas.registry.dismiss():
            self._replicas.fleet.withdraw(replica)
        left = []
        for each in self._replicas.registry.all():
            if each.is_dead():
                self._replicas.registry.remove(each.id)
            else:
                left.append(each.id)
        return left
