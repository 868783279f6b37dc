"""A server for the student as a child process: started, warmed up, kept, put to rest, stopped.

A subclass of `StudentServer` adds how an engine's program is started and what it needs on this machine. The evaluation
of S_r and the answers of round r + 1 ask for the same checkpoint and share one start. A server rests while a training
has the accelerators; one that cannot is stopped.
"""

import logging
import re
import secrets
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import httpx

from tapir_core.calls.types import Endpoint
from tapir_core.config import SERVED_NAME, StudentConfig, StudentEngine, by_kind
from tapir_core.errors import EngineError, TapirError
from tasks.engines import logs, machine, supervisor

ANSWER_SECONDS = 900.0
"""For one answer. A processor may need minutes, and a server that ends is noticed without a time-out."""

_POLL_SECONDS = 0.1
_PROGRESS_SECONDS = 10.0
_PACKAGES = {"libnuma.so.1": " (Debian, Ubuntu: libnuma1; Fedora: numactl-libs)"}
"""Of a library that minimal systems leave out."""

Report = Callable[[str], None]
"""Gets the progress of a start."""


@dataclass(frozen=True, slots=True)
class Student:
    """One student of a run."""

    number: int
    """The round after which it is the student (`BACKBONE`: before any training)."""
    folder: Path
    """Its checkpoint, on this machine."""
    identity: str
    """The identity under which its answers are stored."""


@dataclass(frozen=True, slots=True)
class Installed:
    """The part of an engine that is installed on this machine."""

    in_words: str
    """Program, versions and settings, for `tapir doctor`."""
    device: Literal["cpu", "cuda"] | None
    """What it was built for, if known."""


class Students(ABC):
    """Gives endpoints for students. Thread-safe; starts and stops nothing if others serve them.

    Asking for another student may end the server of the last one: ask for one at a time.
    """

    def __init__(self, student: StudentConfig, log_path: Path, report: Report) -> None:
        """Nothing starts yet.

        Args:
            student: Its engine says how answers are generated.
            log_path: Gets the output of what is started.
            report: Gets the progress of a start.
        """
        self.student = student
        self.engine: Any = student.engine
        self.log_path = log_path
        self._report = report
        self.gpus = machine.Gpus()
        """Held while it serves, or rests; those of its run where others of the run serve too."""

    @classmethod
    def installed(cls, engine: Any) -> Installed | None:
        """The installed part of ``engine``; None if it needs nothing here. Loads nothing heavy.

        Raises:
            MissingPrerequisite: its program is missing.
        """
        return None

    @property
    def in_words(self) -> str:
        """What answers, with this machine if it serves."""
        return str(self.engine.in_words)

    @abstractmethod
    def endpoint(self, student: Student) -> Endpoint:
        """The endpoint that answers with ``student``; its server is started if needed.

        Raises:
            TapirError: there is none.
        """

    def needs(self, _student: Student) -> int | None:
        """Bytes that it takes to answer with ``student``, of each GPU or of a machine without, beside what it holds.

        None where servers that rest must be ended for it: it is unknown, or others serve, maybe on the same machine.
        """
        return None

    def rest(self) -> None:
        """Leave the accelerators to others; what is served next may come sooner than after `stop`."""
        self.stop()

    def stop(self) -> None:  # noqa: B027  # who has started nothing has nothing to end
        """Stop the server, and return when its accelerators are free. It starts again when asked for."""

    def abort(self) -> None:  # noqa: B027  # who has started nothing has nothing to end
        """Make all callers that wait for an endpoint give up; from any thread."""

    def close(self) -> None:
        """Stop for good; the last call."""
        self.stop()


@by_kind(StudentEngine)
def serving(engine: StudentEngine) -> type[Students]:
    """What serves the students of this engine; its module must have been imported."""
    raise NotImplementedError  # never runs: `by_kind` names the kind that lacks it


def serve(kind: type[StudentEngine], how: type[Students]) -> None:
    """Register what serves the students of a kind of engine and of its subclasses that register nothing else."""
    if lacking := ", ".join(sorted(getattr(how, "__abstractmethods__", ()))):
        raise TypeError(f"{how.__name__} lacks {lacking}; define what StudentServer says of it")
    serving.register(kind, lambda _: how)


@dataclass(frozen=True, slots=True)
class ServedAs:
    """The names of a server."""

    model: str = SERVED_NAME
    """The model name that callers send."""
    title: str = "student server"
    """In messages."""
    field: str = "student.engine"
    """The configuration section with its settings."""


@dataclass(frozen=True, slots=True)
class Launch:
    """How one server is started."""

    command: list[str]
    """Holds no secret: others can read it."""
    env: dict[str, str]
    """All its variables, the key among them."""
    concurrency: int
    """Requests that it takes at the same time."""
    seed: bool = True
    """Whether it takes a seed."""


class StudentServer(Students):
    """The `Students` that this process serves itself: a child that answers with one checkpoint at a time.

    It is an OpenAI-compatible server, kept while the same checkpoint is asked for. Its engine has the field
    `start_timeout_seconds`.
    """

    checkpoint: Path
    """The folder of the student that is served."""

    def __init__(
        self,
        student: StudentConfig,
        log_path: Path,
        report: Report,
        *,
        host: str = machine.LOOPBACK,
        api_key: str | None = None,
        served_as: ServedAs = ServedAs(),
    ) -> None:
        """As `Students`; nothing starts yet.

        Args:
            student: Its engine says how answers are generated.
            log_path: Gets the server's output.
            report: Gets the progress of a start.
            host: The one address at which it listens.
            api_key: The only key that it takes; unset: a random one for each start.
            served_as: Its names.
        """
        super().__init__(student, log_path, report)
        self.host = host
        self.served_as = served_as
        self._api_key = api_key
        self._holding, self._following = ExitStack(), ExitStack()
        self._child: supervisor.Child | None = None
        self._endpoint: Endpoint | None = None
        self._aborted = False
        self._failures: dict[Path, TapirError] = {}
        """Why a checkpoint's server did not start: every caller gets this error, and none tries again."""
        self._lock = threading.RLock()

    @abstractmethod
    def launch(self, port: int, key: str) -> Launch:
        """How the server is started so that it listens at ``port`` and takes only ``key``.

        It serves `served_as.model` under ``/v1/chat/completions`` and answers ``/health`` with 200 once it is ready.

        Raises:
            ConfigError: it cannot serve this checkpoint.
            MissingPrerequisite: its program is missing.
        """

    @classmethod
    @abstractmethod
    def installed(cls, engine: Any) -> Installed:
        """As `Students.installed`; a program is needed here."""

    @property
    def in_words(self) -> str:
        """As `Students.in_words`, with this machine."""
        return f"{super().in_words} on {machine.in_words()}"

    @property
    def runs(self) -> bool:
        """False before `start`, after `stop` and when the server died."""
        return self._child is not None and self._child.poll() is None

    def endpoint(self, student: Student) -> Endpoint:
        """As `Students.endpoint`; raises what `start` does."""
        checkpoint = student.folder
        with self._lock:
            self._check_aborted()
            if self.runs and self._endpoint and self.take(checkpoint):
                return self._endpoint
            self._check_aborted()
            if checkpoint in self._failures:
                raise self._failures[checkpoint]
            self.stop()
            try:
                return self.start(checkpoint)
            except TapirError as exc:
                self._failures[checkpoint] = exc
                raise

    def take(self, checkpoint: Path) -> bool:
        """Whether the running server answers with ``checkpoint``; one that can exchange its weights does so here.

        One that tried in vain has been stopped.
        """
        return self.checkpoint == checkpoint

    def start(self, checkpoint: Path) -> Endpoint:
        """Start a server for ``checkpoint`` when no other run has the GPUs, wait until it answers, warm it up.

        Raises:
            TapirError: as `launch`.
            EngineError: the server died, did not get ready in time or answers wrongly; names the log.
        """
        self.checkpoint = checkpoint
        key = self._api_key or secrets.token_urlsafe(32)
        try:
            self._holding.enter_context(self.gpus.hold(self._report, self._check_aborted))
            with supervisor.reserved_port(self.host) as port:
                url, launch = f"http://{self.host}:{port}", self.launch(port, key)
                title = self.served_as.title
                self._following.enter_context(logs.follow_log(title, self.log_path))
                self._child = supervisor.start_child(launch.command, env=launch.env, log_path=self.log_path, name=title)
                self._wait_until_healthy(self._child, url)
                self._warm_up(url, key)
        except BaseException:
            self._end()
            raise
        self._endpoint = Endpoint(
            base_url=f"{url}/v1",
            concurrency=launch.concurrency,
            api_key=key,
            timeout_seconds=ANSWER_SECONDS,
            seed=launch.seed,
            proxy="",
        )
        return self._endpoint

    def stop(self) -> None:
        """Stop the server and everything it started; nothing is left when this returns."""
        with self._lock:
            self._end()

    def abort(self) -> None:
        """Stop the server even while another thread waits for its start; that thread then gets an EngineError."""
        self._aborted = True
        self._end()

    def _end(self) -> None:
        try:
            # Errors of a server that is told to stop are not reported.
            self._following.close()
        finally:
            if (child := self._child) is not None:
                child.terminate()
                self._child = None
            self._holding.close()

    def _check_aborted(self) -> None:
        if self._aborted:
            raise EngineError(f"the {self.served_as.title} was told to stop before it was ready")

    def _wait_until_healthy(self, child: supervisor.Child, url: str) -> None:
        waited, reported, title = 0.0, 0.0, self.served_as.title
        for waited in waits_until_healthy(url):
            self._check_aborted()
            if (code := child.poll()) is not None:
                said = child.output()
                # What comes of it later names an attribute of torch.
                lacks = re.search(r"(\S+\.so\S*): cannot open shared object file", said)
                why = (
                    f"this machine lacks {lacks[1]}: install its package{_PACKAGES.get(lacks[1], '')}\n"
                    if lacks
                    else ""
                )
                raise EngineError(
                    f"the {title} for {self.checkpoint} ended with exit code {code} before it was ready:\n{why}"
                    f"{logs.last_words(said)}\nits log is {self.log_path}"
                )
            if waited > self.engine.start_timeout_seconds:
                raise EngineError(
                    f"the {title} for {self.checkpoint} is not ready after {waited:.0f} s; raise "
                    f"{self.served_as.field}.start_timeout_seconds if it only needs longer; its log is {self.log_path}"
                )
            if waited - reported >= _PROGRESS_SECONDS:
                reported = waited
                self._report(f"{title} starts ({waited:.0f} s)")
        took = f"{waited:.0f} s"
        self._report(f"{title} is ready ({took})")
        logs.tell(logging.INFO, f"{title} ({self.log_path.absolute()}): ready with {self.checkpoint} after {took}")

    def _warm_up(self, url: str, key: str) -> None:
        """Ask for one tiny answer: it shows that template and key work, and the first answer is the slowest."""
        title, hello = self.served_as.title, {"role": "user", "content": "Hello"}
        try:
            reply = httpx.post(
                f"{url}/v1/chat/completions",
                json={"model": self.served_as.model, "messages": [hello], "max_tokens": 1},
                headers={"Authorization": f"Bearer {key}"},
                timeout=120,
                trust_env=False,
            )
        except httpx.HTTPError as exc:
            raise EngineError(f"the {title} did not answer: {exc}; its log is {self.log_path}") from exc
        if not reply.is_success:
            raise EngineError(
                f"the {title} cannot answer with {self.checkpoint} (status {reply.status_code}): "
                f"{reply.text[:500]}; its log is {self.log_path}"
            )


def waits_until_healthy(url: str) -> Iterator[float]:
    """Seconds waited so far, again and again until a server of this machine says that it is ready."""
    began = time.monotonic()
    # Without the proxy that the environment may name.
    with httpx.Client(base_url=url, trust_env=False) as client:
        while True:
            with suppress(httpx.HTTPError):
                if client.get("/health", timeout=2).is_success:
                    return
            yield time.monotonic() - began
            time.sleep(_POLL_SECONDS)
