"""Follows the replicas of one checkpoint: which of them serve, which are to be replaced, when none will come any more.

One that was killed, whose machine went silent or whose server died in service is replaced. One that could not start is
not, for the next would fail alike; nor is one that a person cancelled. Who joins by itself is used as the others are.
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from tapir_core.calls.live import LiveAddress, LiveAddresses
from tapir_core.calls.store.replicas import Replica, ReplicaRegistry
from tapir_core.config import ReplicasEngine
from tapir_core.errors import TapirError

__all__ = ["Ended", "Fleet", "How", "ReplicaWatch", "Replicas"]

LOOK_SECONDS = 1.0

MOST_CRASHES = 3
"""Replicas that may be killed before they serve until nobody asks for another one."""

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


class ReplicaWatch:
    """From `begin` to `end`, or until there is nobody left to wait for."""

    def __init__(self, replicas: Replicas, number: int, checkpoint: str, live: LiveAddresses) -> None:
        self.checkpoint = checkpoint
        self.failed_to_start = False
        """True when all is over because none of them could start."""
        self._replicas = replicas
        self._number = number
        self._live = live
        self._asked: set[str] = set()
        """Those that count towards `replicas` and whose end has not been seen."""
        self._served: set[str] = set()
        self._ends: dict[str, Ended] = {}
        self._without_since = time.monotonic()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="tapir-replicas", daemon=True)

    @property
    def is_over(self) -> bool:
        """Whether nobody looks any more."""
        return self._over.is_set()

    def begin(self) -> None:
        """Ask for as many as lack; what an earlier driver's replicas still serve is used.

        Raises:
            TapirError: the first one cannot be asked for.
        """
        for each in self._replicas.registry.all():
            if each.holder is None:
                self._replicas.registry.remove(each.id)
                self._replicas.fleet.withdraw(each.id)
        self._asked = {each.id for each in self._ours() if not each.is_dead()}
        for _ in range(self._replicas.engine.replicas - len(self._asked)):
            self._ask_one()
        self._thread.start()

    def halt(self) -> None:
        """Look no more; does not wait for a look that is under way."""
        self._over.set()

    def end(self) -> None:
        """Look no more, from now on."""
        self.halt()
        if self._thread.ident is not None:
            self._thread.join()

    def _follow(self) -> None:
        said = ""
        try:
            while not self._over.is_set():
                try:
                    self._look()
                except TapirError as error:
                    # Database or Prefect server are away: those that serve go on, and the next look may succeed.
                    if str(error) != said:
                        said = str(error)
                        logger.warning("cannot look at the replicas of %s: %s", self.checkpoint, said)
                self._over.wait(LOOK_SECONDS)
        except BaseException as bug:  # raised again: who waits for a replica must hear of it
            self._give_up(f"the watch over the replicas ended: {bug!r}")
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
        before = len(self._live.now)
        addresses = [LiveAddress(each.base_url, each.concurrency, self._replicas.key_of(each.id)) for each in serving]
        if serving or before:
            self._live.set(addresses)
        if len(serving) != before:
            self._replicas.report(f"{len(serving)} of {self._replicas.engine.replicas} replicas serve")
        self._served |= {each.id for each in serving}
        if serving:
            self._without_since = time.monotonic()

    def _look_at_flow_run(self, replica: str, *, is_dead: bool) -> None:
        """One that no worker has taken, that is dead or that is not there any more."""
        ended = self._replicas.fleet.ended(replica)
        if ended is None and is_dead:
            ended = Ended("crashed", "its process or its machine is gone")
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
        replica = self._replicas.registry.ask(self._number, self.checkpoint)
        try:
            self._replicas.fleet.ask(self._number, replica)
        except TapirError:
            self._replicas.registry.remove(replica)
            raise
        self._asked.add(replica)

    def _wait_or_give_up(self, *, coming: bool) -> None:
        waited = time.monotonic() - self._without_since
        if not coming:
            self.failed_to_start = not self._served and {each.how for each in self._ends.values()} <= {
                "failed",
                "crashed",
            }
            self._give_up(f"no replica is left: {'; '.join(self._reasons())}")
        elif waited > self._replicas.engine.wait_seconds:
            self._give_up(
                f"no replica serves after {waited:.0f} s; look at the flow runs of serve-student and at the workers of "
                "the pool tapir-gpu, or raise student.engine.wait_seconds; then the same command goes on"
            )

    def _reasons(self) -> list[str]:
        return list(dict.fromkeys(f"{each.how}: {each.message}".rstrip(": ") for each in self._ends.values()))

    def _give_up(self, reason: str) -> None:
        self._over.set()
        self._live.give_up(reason)

    def _ours(self) -> list[Replica]:
        return [
            each for each in self._replicas.registry.all() if each.checkpoint == self.checkpoint and not each.leaving
        ]
