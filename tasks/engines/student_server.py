"""A server for the student as a child of ours, whatever program it is: started, warmed up, kept, swapped, ended.

An engine adds how its program is started and what it needs here: a subclass of `StudentServer`. The evaluation of S_r
and the answers of round r + 1 ask for the same checkpoint and so share one start. A server is stopped before training,
which gets the whole machine.
"""

import logging
import secrets
import socket
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import httpx

from tapir_core.calls.types import Endpoint, EndpointSource
from tapir_core.config import SERVED_NAME, StudentConfig
from tapir_core.errors import ConfigError, EngineError, TapirError
from tasks.engines.logs import follow_log, last_words, tell
from tasks.engines.supervisor import Child, start_child

HOST = "127.0.0.1"

_POLL_SECONDS = 0.1
_PROGRESS_SECONDS = 10.0

Report = Callable[[str], None]
"""Told how a start gets on."""


@dataclass(frozen=True, slots=True)
class Student:
    """One student of a run."""

    number: int
    """The round after which it is the student (`BACKBONE`: before any training)."""
    folder: Path
    """Its checkpoint, on this machine."""
    identity: str
    """Under which its answers are stored."""


class Students(Protocol):
    """Gives endpoints for students. Thread-safe.

    Asking for another student may end what answers with the last one: ask for one at a time.
    """

    def source(self, student: Student) -> EndpointSource:
        """What gives the endpoint that answers with ``student``; nothing starts before it is called.

        The source raises TapirError where there is none.
        """

    def stop(self) -> None:
        """End what was started, and return when its accelerators are free. It starts again when it is asked for."""

    def abort(self) -> None:
        """Make everybody who waits for an endpoint give up, from any thread."""

    def close(self) -> None:
        """End what was started; the last thing that is done."""


@dataclass(frozen=True, slots=True)
class Installed:
    """What of an engine is on this machine."""

    in_words: str
    """Program, versions and settings, for `tapir doctor`."""
    device: Literal["cpu", "cuda"] | None
    """What it was built for, if that can be told."""


@dataclass(frozen=True, slots=True)
class Serving:
    """How the students of one kind of engine are served."""

    students: Callable[[StudentConfig, Path, Report], Students]
    """Made of the student's configuration, the log of what is started, and who is told how a start gets on."""
    installed: Callable[[Any], Installed | None]
    """What of such an engine is on this machine; nothing where none is needed. MissingPrerequisite names what lacks."""


@dataclass(frozen=True, slots=True)
class Launch:
    """How one server is started."""

    command: list[str]
    """Holds no secret: others can read it."""
    env: dict[str, str]
    """All its variables, the key among them."""
    concurrency: int
    """Requests that it takes at once."""
    start_timeout_seconds: float


class StudentServer(ABC):
    """A child that answers with one checkpoint as an OpenAI-compatible server, from `start` to `stop`."""

    engine: Any
    """The configuration of the engine; a subclass names its class."""

    def __init__(
        self,
        student: StudentConfig,
        checkpoint: Path,
        log_path: Path,
        *,
        report: Report,
        host: str = HOST,
        api_key: str | None = None,
        gpus: int = 1,
    ) -> None:
        """Nothing starts yet.

        Args:
            student: Its engine says how answers are generated.
            checkpoint: The student's folder.
            log_path: Gets the server's output.
            report: Told how the start gets on.
            host: The one address at which it listens, and at which it is asked.
            api_key: The only key that it takes; a random one for each start when there is none.
            gpus: GPUs that it may use; a server built for the CPU ignores them.
        """
        self.checkpoint = checkpoint
        self.student = student
        self.engine = student.engine
        self.host = host
        self.gpus = gpus
        self._log_path = log_path
        self._report = report
        self._api_key = api_key
        self._following = ExitStack()
        self._child: Child | None = None
        self._aborted = False

    @abstractmethod
    def launch(self, port: int, key: str) -> Launch:
        """How the server is started so that it listens at ``port`` and takes only ``key``.

        It serves `SERVED_NAME` under ``/v1/chat/completions`` and answers ``/health`` with 200 once it is ready.

        Raises:
            ConfigError: it cannot serve this checkpoint.
            MissingPrerequisite: its program is missing.
        """

    @classmethod
    @abstractmethod
    def installed(cls, engine: Any) -> Installed:
        """What of ``engine`` is on this machine; loads nothing heavy.

        Raises:
            MissingPrerequisite: its program is missing.
        """

    @property
    def runs(self) -> bool:
        """False before `start`, after `stop` and when the server died."""
        return self._child is not None and self._child.poll() is None

    def start(self) -> Endpoint:
        """Start, wait until it answers, warm it up.

        Raises:
            TapirError: as `launch`.
            EngineError: the server died, did not get ready in time or answers wrongly; names the log.
        """
        key = self._api_key or secrets.token_urlsafe(32)
        # Bound and never listening, it keeps the port from everyone but a server that names it (both reuse addresses).
        with socket.socket() as reserved:
            reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._bind(reserved)
            port = int(reserved.getsockname()[1])
            url, launch = f"http://{self.host}:{port}", self.launch(port, key)
            self._following.enter_context(follow_log("student server", self._log_path))
            self._child = child = start_child(
                launch.command, env=launch.env, log_path=self._log_path, name="student server"
            )
            try:
                # It is on this machine: whatever proxy the environment names has no part in it.
                with httpx.Client(base_url=url, trust_env=False) as client:
                    self._wait_until_healthy(child, client, launch.start_timeout_seconds)
                    self._warm_up(client, key)
            except BaseException:
                self.stop()
                raise
        return Endpoint(base_url=f"{url}/v1", concurrency=launch.concurrency, api_key=key)

    def stop(self) -> None:
        """End the server and everything it started; nothing is left when this returns."""
        try:
            # What breaks in a server that is told to end is no error.
            self._following.close()
        finally:
            if (child := self._child) is not None:
                child.terminate()
                self._child = None

    def abort(self) -> None:
        """End the server from another thread than the one that starts it, which then raises EngineError."""
        self._aborted = True
        self.stop()

    def _bind(self, reserved: socket.socket) -> None:
        try:
            reserved.bind((self.host, 0))
        except OSError as exc:
            raise ConfigError(f"the student server cannot listen at {self.host!r}: {exc}") from exc

    def _wait_until_healthy(self, child: Child, client: httpx.Client, timeout_seconds: float) -> None:
        began, reported = time.monotonic(), 0.0
        while not _is_healthy(client):
            waited = time.monotonic() - began
            if self._aborted:
                raise EngineError("the student server was told to stop before it was ready")
            code = child.poll()
            if code is not None:
                raise EngineError(
                    f"the student server for {self.checkpoint} ended with exit code {code} before it was ready:\n"
                    f"{last_words(child.output())}\nits log is {self._log_path}"
                )
            if waited > timeout_seconds:
                raise EngineError(
                    f"the student server for {self.checkpoint} is not ready after {waited:.0f} s; raise "
                    f"student.engine.start_timeout_seconds if it only needs longer; its log is {self._log_path}"
                )
            if waited - reported >= _PROGRESS_SECONDS:
                reported = waited
                self._report(f"student server starts ({waited:.0f} s)")
            time.sleep(_POLL_SECONDS)
        took = f"{time.monotonic() - began:.0f} s"
        self._report(f"student server is ready ({took})")
        tell(logging.INFO, f"student server ({self._log_path.absolute()}): ready with {self.checkpoint} after {took}")

    def _warm_up(self, client: httpx.Client, key: str) -> None:
        """One tiny answer: shows that template and key work, and pays what the first answer costs more."""
        body = {"model": SERVED_NAME, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}
        headers = {"Authorization": f"Bearer {key}"}
        try:
            reply = client.post("/v1/chat/completions", json=body, headers=headers, timeout=120)
        except httpx.HTTPError as exc:
            raise EngineError(f"the student server did not answer: {exc}; its log is {self._log_path}") from exc
        if not reply.is_success:
            raise EngineError(
                f"the student server cannot answer with {self.checkpoint} (status {reply.status_code}): "
                f"{reply.text[:500]}; its log is {self._log_path}"
            )


def _is_healthy(client: httpx.Client) -> bool:
    try:
        return client.get("/health", timeout=2).is_success
    except httpx.HTTPError:
        return False


class LocalStudents:
    """The `Students` that this process serves itself, one server at a time."""

    def __init__(self, server: type[StudentServer], student: StudentConfig, log_path: Path, report: Report) -> None:
        self._make = server
        self._student = student
        self._log_path = log_path
        self._report = report
        self._server: StudentServer | None = None
        self._endpoint: Endpoint | None = None
        self._lock = threading.RLock()
        self._aborted = False
        self._failures: dict[Path, TapirError] = {}
        """Why a checkpoint's server did not start: said to everyone who asks, and not tried again for each of them."""

    def source(self, student: Student) -> EndpointSource:
        """As `Students.source`; raises what `StudentServer.start` does."""
        return lambda: self._endpoint_for(student.folder)

    def stop(self) -> None:
        """End the server, if one runs."""
        with self._lock:
            if self._server is not None:
                self._server.stop()
            self._server = self._endpoint = None

    close = stop

    def abort(self) -> None:
        """End the server also while another thread waits for its start; that thread then gets an EngineError."""
        self._aborted = True
        if (server := self._server) is not None:
            server.abort()

    def _endpoint_for(self, checkpoint: Path) -> Endpoint:
        with self._lock:
            if self._endpoint and self._server and self._server.runs and self._server.checkpoint == checkpoint:
                return self._endpoint
            if self._aborted:
                raise EngineError("the student server was told to stop")
            if checkpoint in self._failures:
                raise self._failures[checkpoint]
            self.stop()
            self._server = self._make(self._student, checkpoint, self._log_path, report=self._report)
            try:
                self._endpoint = self._server.start()
            except TapirError as exc:
                self._failures[checkpoint] = exc
                raise
            return self._endpoint


def served_here(server: type[StudentServer]) -> Serving:
    """An engine whose students this process serves."""
    if lacking := ", ".join(sorted(server.__abstractmethods__)):
        raise TypeError(f"{server.__name__} lacks {lacking}; define what StudentServer says of it")
    return Serving(lambda student, log_path, report: LocalStudents(server, student, log_path, report), server.installed)
