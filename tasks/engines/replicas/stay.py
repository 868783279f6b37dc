"""Signs of life of a replica on its worker, and when it has to leave."""

import logging
import threading
import time
from collections.abc import Callable

from tapir_core.calls.store.replicas import ReplicaRegistry
from tapir_core.errors import TapirError

__all__ = ["Stay"]

BEAT_SECONDS = 10.0
LOOK_SECONDS = 1.0

logger = logging.getLogger(__name__)


class Stay:
    """Signs of life of a replica in a thread of its own, until there is a reason to leave."""

    def __init__(self, registry: ReplicaRegistry, replica: str) -> None:
        """Begin at once."""
        self.reason = ""
        """Why to leave, once there is a reason."""
        self.leave: Callable[[], None] = lambda: None
        """Called when there is a reason."""
        self._over = threading.Event()
        self._registry = registry
        self._replica = replica
        self._thread = threading.Thread(target=self._live, name="tapir-replica", daemon=True)
        self._thread.start()

    def lasts(self) -> bool:
        """Wait for the next look; whether there still is no reason to leave."""
        return not self._over.wait(LOOK_SECONDS)

    def end(self) -> None:
        """No sign of life follows."""
        self._over.set()
        self._thread.join()

    def _live(self) -> None:
        beat = time.monotonic()
        while not self._over.wait(LOOK_SECONDS):
            try:
                if time.monotonic() - beat >= BEAT_SECONDS:
                    self._registry.beat(self._replica)
                    beat = time.monotonic()
                self.reason = self._reason()
            except TapirError as error:
                # While the database is away the driver cannot look either, and both go on.
                logger.warning("no sign of life of replica %s: %s", self._replica, error)
            if self.reason:
                self.leave()
                self._over.set()

    def _reason(self) -> str:
        if not self._registry.is_wanted(self._replica):
            return "asked to leave"
        return "" if self._registry.is_driven() else "nobody drives the run any more"
