"""The stand-in inside this process, for tests and short experiments: a server in a thread with a loop of its own."""

import asyncio
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tapir_core.standin.behaviour import BatchRules, Behaviour, Preference
from tapir_core.standin.fault_spec import read_faults
from tapir_core.standin.server import Listening, listen
from tapir_core.standin.service import Service

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
        rules = batches or BatchRules()
        behaviour = Behaviour(
            position_bias, noise, latency_ms / 1000, read_faults(faults), rules, prefers=prefers, logprobs=logprobs
        )
        self._service = Service(behaviour, log_path)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="stand-in", daemon=True)
        self._listening: Listening | None = None

    @property
    def base_url(self) -> str:
        """Address up to and with `/v1`."""
        assert self._listening is not None, "enter the server with `with` first"
        return self._listening.base_url

    def stats(self) -> dict[str, Any]:
        """What `GET /stats` says."""
        return self._service.stats()

    def __enter__(self) -> Self:
        self._thread.start()
        starting = asyncio.run_coroutine_threadsafe(listen(self._service, "127.0.0.1", 0), self._loop)
        try:
            self._listening = starting.result()
        except BaseException:
            self._end_loop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._listening is not None
        asyncio.run_coroutine_threadsafe(self._listening.close(), self._loop).result()
        self._end_loop()

    def _end_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
