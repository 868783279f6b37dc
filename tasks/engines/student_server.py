"""Where the student answers: one checkpoint at a time, served when its first missing answer is asked for.

The evaluation of S_r and the answers of round r + 1 ask for the same checkpoint and so share one start. A server is
stopped before training, which gets the whole machine.
"""

import threading
from collections.abc import Callable
from pathlib import Path

from tapir_core.calls.types import Endpoint, EndpointSource
from tapir_core.config import EndpointEngine, StudentConfig, StudentEngine, VllmEngine
from tapir_core.errors import EngineError, TapirError
from tasks.engines.endpoints import api_key
from tasks.engines.vllm_command import SERVED_NAME
from tasks.engines.vllm_server import VllmServer

__all__ = ["StudentEngineHost", "student_model_name"]


def student_model_name(engine: StudentEngine, checkpoint: Path) -> str:
    """The model name that makes ``engine`` answer with ``checkpoint``."""
    if isinstance(engine, EndpointEngine):
        return engine.model.replace("{checkpoint}", str(checkpoint))
    return SERVED_NAME


class StudentEngineHost:
    """Gives endpoints for checkpoints; starts, keeps, swaps and stops the server behind them. Thread-safe.

    Asking for another checkpoint ends the server of the last one: ask for one at a time.
    """

    def __init__(
        self, student: StudentConfig, log_path: Path, *, report: Callable[[str], None] = lambda _line: None
    ) -> None:
        self.starts = 0
        """Servers started so far."""
        self._student = student
        self._log_path = log_path
        self._report = report
        self._server: VllmServer | None = None
        self._endpoint: Endpoint | None = None
        self._lock = threading.Lock()
        self._aborted = False
        self._failures: dict[Path, TapirError] = {}
        """Why a checkpoint's server did not start: said to everyone who asks, and not tried again for each of them."""

    def source(self, checkpoint: Path) -> EndpointSource:
        """What gives the endpoint that answers with ``checkpoint``; a server starts when it is called, not before.

        The source raises what `VllmServer.start` does, and MissingPrerequisite when the key of an endpoint is not set.
        """
        return lambda: self._endpoint_for(checkpoint)

    def stop(self) -> None:
        """End the server, if one runs. It starts again when it is asked for."""
        with self._lock:
            self._stop()

    def close(self) -> None:
        """End the server; the last thing that is done."""
        self.stop()

    def abort(self) -> None:
        """End the server also while another thread waits for its start; that thread then gets an EngineError."""
        self._aborted = True
        server = self._server
        if server is not None:
            server.abort()

    def __enter__(self) -> "StudentEngineHost":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _endpoint_for(self, checkpoint: Path) -> Endpoint:
        engine = self._student.engine
        if isinstance(engine, EndpointEngine):
            key = api_key(engine.api_key_env, "student.engine")
            return Endpoint(engine.base_url, engine.concurrency, api_key=key, api_key_env=engine.api_key_env)
        with self._lock:
            if self._endpoint and self._server and self._server.runs and self._server.checkpoint == checkpoint:
                return self._endpoint
            if self._aborted:
                raise EngineError("the student server was told to stop")
            if checkpoint in self._failures:
                raise self._failures[checkpoint]
            self._stop()
            template = Path(self._student.chat_template) if self._student.chat_template else None
            assert isinstance(engine, VllmEngine)
            self._server = VllmServer(engine, checkpoint, self._log_path, chat_template=template, report=self._report)
            try:
                self._endpoint = self._server.start()
            except TapirError as exc:
                self._failures[checkpoint] = exc
                raise
            self.starts += 1
            return self._endpoint

    def _stop(self) -> None:
        if self._server is not None:
            self._server.stop()
        self._server = self._endpoint = None
