"""Stand-in servers that a run starts for itself, one for each setting, when the first call must be made."""

import os
import sys
import threading
import time
from pathlib import Path

from tapir_core.calls.types import Endpoint
from tapir_core.config import StandinEndpoint
from tapir_core.errors import EngineError
from tasks.engines.endpoints import keyless_environment
from tasks.engines.supervisor import Child, start_child

__all__ = ["StandinServers"]

_START_TIMEOUT_SECONDS = 60.0


class StandinServers:
    """Starts stand-ins as supervised children and remembers their addresses."""

    def __init__(self, log_path: Path) -> None:
        self._log_path = log_path
        self._running: dict[StandinEndpoint, tuple[Child, str]] = {}
        self._lock = threading.Lock()

    def endpoint(self, settings: StandinEndpoint, concurrency: int) -> Endpoint:
        """The address of a stand-in with these settings, started if none runs.

        Raises:
            EngineError: it does not start; the message names its log.
        """
        with self._lock:
            child, base_url = self._running.get(settings, (None, ""))
            if child is None or child.poll() is not None:
                child, base_url = self._start(settings)
                self._running[settings] = (child, base_url)
        return Endpoint(base_url=base_url, concurrency=concurrency)

    def stop(self) -> None:
        """End every stand-in that was started."""
        with self._lock:
            for child, _ in self._running.values():
                child.terminate(grace_seconds=2)
            self._running.clear()

    def _start(self, settings: StandinEndpoint) -> tuple[Child, str]:
        port_file = self._log_path.with_name(f".standin-port-{os.getpid()}-{len(self._running)}")
        port_file.unlink(missing_ok=True)
        arguments = {
            "--port": 0,
            "--position-bias": settings.position_bias,
            "--noise": settings.noise,
            "--prefers": settings.prefers,
            "--latency-ms": settings.latency_ms,
            "--port-file": port_file,
        }
        argv = [sys.executable, "-m", "tapir_core.standin.server"]
        argv += [str(word) for pair in arguments.items() for word in pair]
        argv += [] if settings.logprobs else ["--no-logprobs"]
        child = start_child(argv, env=keyless_environment(), log_path=self._log_path, name="stand-in")
        deadline = time.monotonic() + _START_TIMEOUT_SECONDS
        while not port_file.exists():
            if child.poll() is not None or time.monotonic() > deadline:
                child.terminate(grace_seconds=1)
                raise EngineError(f"the stand-in did not start; its log is {self._log_path}")
            time.sleep(0.05)
        port = port_file.read_text().strip()
        port_file.unlink()
        return child, f"http://127.0.0.1:{port}/v1"
