"""The stand-in inside this process: a server in a thread with a loop of its own."""

import asyncio
import threading
from pathlib import Path
from typing import Any, Self

from tapir_core.standin.batches import BatchRules
from tapir_core.standin.faults import read_faults
from tapir_core.standin.judge import Behaviour, Preference
from tapir_core.standin.server import Service, listen

__all__ = ["StandinServer"]


class StandinServer:
    """A stand-in on a free port of the loopback address while the ``with`` block runs.

    Example::

        with StandinServer(noise=0.0) as server:
            client = OpenAI(base_url=server.base_url, api_key="none")
    """

    def __init__(
        self,
        *,
        position_bias: float = 0.5,
        noise: float = 0.5,
        prefers: Preference = "better",
        logprobs: bool = True,
        latency_ms: int = 0,
        faults: str = "",
        batches: BatchRules | None = None,
        log_path: Path | None = None,
    ) -> None:
        """Prepare the server; ``faults`` is a spec or a file (docs/standin.md).

        Raises:
            ConfigError: the faults are wrong.
        """
        behaviour = Behaviour(position_bias, noise, prefers, logprobs)
        self._service = Service(
            behaviour, latency_ms=latency_ms, faults=read_faults(faults), batches=batches, log_path=log_path
        )
        self._listening = listen(self._service, "127.0.0.1", 0)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="stand-in", daemon=True)
        self.base_url = ""
        """Address up to and with `/v1`, once the block runs."""

    def stats(self) -> dict[str, Any]:
        """What `GET /stats` says."""
        return self._service.stats()

    def __enter__(self) -> Self:
        self._thread.start()
        try:
            port = asyncio.run_coroutine_threadsafe(self._listening.__aenter__(), self._loop).result()
        except BaseException:
            self._end_loop()
            raise
        self.base_url = f"http://127.0.0.1:{port}/v1"
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._listening.__aexit__(None, None, None), self._loop).result()
        self._end_loop()

    def _end_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
