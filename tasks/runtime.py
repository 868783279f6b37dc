"""What a process that works on a run holds: call engine, student engine, stand-in servers, progress.

Made lazily, once a process and run, so that a task finds the same things in the driver and on a worker. Closing ends
every child process.
"""

import atexit
import threading
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import partial, wraps
from pathlib import Path
from typing import Any, TypeVar, cast

from tapir_core import errors, leases, paths, run_files
from tapir_core.calls import AnswerStore, CallEngine, EndpointSource, store_url
from tapir_core.config import EndpointConfig, ModelIdentity, VllmEndpoint
from tapir_core.prompts import Prompt, load_prompt
from tapir_core.run_folder import RunFolder, RunRef
from tapir_core.stages import StageAt, checkpoint_at
from tasks.engines import backbone, student_server, supervisor
from tasks.engines.endpoints import Endpoints, endpoint_source
from tasks.progress import Progress

Key = TypeVar("Key", bound=Hashable)
Found = TypeVar("Found")


@dataclass(frozen=True, slots=True)
class AskedModel:
    """Who is asked: the identity that its answers are stored under, and the endpoint to call where there are none."""

    identity: ModelIdentity
    source: EndpointSource


class Runtime:
    """The engines of one run in this process."""

    def __init__(self, run: RunFolder, *, root: str | None = None) -> None:
        """``root`` has the models that are fetched; unset, that of the run."""
        self.run = run
        self._root = root or run.ref.root
        self.config = run.config
        self.progress = Progress()
        self._making = threading.Lock()
        self._calls: CallEngine | None = None
        self._students: student_server.Students | None = None
        self._make_students = self._serve_here
        self._endpoints = Endpoints(
            run.config.calls.concurrency,
            self.log,
            self._root,
            report=self.progress.note_current,
        )
        self.gpus = self._endpoints.gpus
        """This machine's, for a training beside servers that rest."""
        self._tables: dict[Hashable, Any] = {}
        self._reading = threading.RLock()
        self.checked: set[StageAt] = set()
        """Stages whose model was checked in this process."""
        self.lease: leases.RunLease | None = None
        """Set by the driver; a worker of another process has none."""
        self._stopping = threading.Event()

    @property
    def calls(self) -> CallEngine:
        """The paid-call engine, on the store that all runs of the root share."""
        with self._making:
            if self._calls is None:
                self._calls = CallEngine(
                    AnswerStore(store_url(self.config)),
                    self.config.calls,
                    run=self.run.record.id,
                    budget=self.config.budget,
                )
                if self._stopping.is_set():
                    self._calls.stop_sending()
            return self._calls

    @property
    def students(self) -> student_server.Students:
        """Serves one checkpoint at a time, started when an answer is missing."""
        with self._making:
            if self._students is None:
                self._students = self._make_students()
            return self._students

    def use_students(self, make: Callable[[], student_server.Students]) -> None:
        """Let others than this process serve the run's students from now on: GPU workers. Made when one is asked."""
        with self._making:
            if self._students is not None:
                self._students.close()
            self._students, self._make_students = None, make

    def stop(self) -> None:
        """Begin nothing more, from any thread: what is in flight ends; work that takes long calls `check_stop`."""
        with self._making:
            self._stopping.set()
            if self._calls is not None:
                self._calls.stop_sending()

    def check_stop(self, at: StageAt) -> None:
        """Called by work that takes long, where it can be left.

        Raises:
            Stopped: the run was told to stop.
        """
        if self._stopping.is_set():
            raise errors.Stopped(f"{at} was stopped before it was done; it goes on from what it has saved")

    def abort(self) -> None:
        """End what others wait for, from any thread, and begin nothing more; `close` still has to follow."""
        self._stopping.set()
        if self._students is not None:
            self._students.abort()
        self._endpoints.abort()
        if self.lease is not None:
            self.lease.hurry()
        if self._calls is not None:
            self._calls.close()

    def check_lease(self) -> None:
        """Called before a manifest is written: what two drivers do at once must not be promoted twice.

        Raises:
            RunBusy: another driver took the run over, because this one gave no sign of life for too long.
        """
        if self.lease is not None and not self.lease.holds():
            raise errors.RunBusy(
                f"another process took run {self.run.ref.name!r} over; this one stops and promotes nothing"
            )

    def table(self, key: Hashable, make: Callable[[], Found]) -> Found:
        """A table, or what is read from some, that all threads share: the first that asks makes it, the others wait.

        Kept until a stage is completed: nothing that a table is made of changes before.
        """
        with self._reading:
            if key not in self._tables:
                self._tables[key] = make()
            return cast(Found, self._tables[key])

    def forget_tables(self) -> None:
        """Called when a stage was completed: tables made of it are to be made anew."""
        with self._reading:
            self._tables.clear()

    @property
    def teacher(self) -> AskedModel:
        """Who labels, answers, expands and refines."""
        return self._role(self.config.teacher.endpoint, "teacher", "teacher.endpoint")

    @property
    def teacher_weights(self) -> Path:
        """Folder of a teacher that the run serves."""
        served = self.config.teacher.endpoint
        assert isinstance(served, VllmEndpoint), "who rolls out has a teacher of open weights"
        return self._endpoints.prepare(served, "teacher.endpoint", self.progress.note_current)[1].folder

    @property
    def judges(self) -> dict[str, AskedModel]:
        """Who scores: every judge by its name, the first judge first."""
        named = zip(self.config.judge.names, self.config.judge.endpoints.items(), strict=True)
        return {name: self._role(endpoint, "judge", field) for name, (field, endpoint) in named}

    def benchmark_judge(self, name: str) -> AskedModel:
        """Who judges the answers to a benchmark."""
        benchmark = self.config.evaluation.judged[name]
        field = "judge.endpoint" if benchmark.judge is None else f"evaluation.benchmarks.{name}.judge"
        return self._role(self.config.judge_of(benchmark), "judge", field)

    def student(self, number: int) -> AskedModel:
        """The student after round ``number`` (`BACKBONE`: before any training)."""
        student = self.student_at(number)
        engine, students = self.config.student.engine, self.students
        # Others do not need this machine for it.
        ask = students.endpoint if engine.served_by == "others" else partial(self._endpoints.in_turn, students)
        return AskedModel(ModelIdentity(engine.model_name(student.folder), student.identity), partial(ask, student))

    def free_accelerators(self, needed: int | None) -> None:
        """Let every server of this run rest, and return when its accelerators are free; each answers again when asked.

        Args:
            needed: Bytes of each GPU, or of a machine without, that are to be free. Where they are not, or it is None,
                servers are ended.
        """
        if self.config.student.engine.served_by == "workers":
            self.students.stop()
        self._endpoints.free(needed)

    def student_at(self, number: int) -> student_server.Student:
        """The student after round ``number``, wherever it is served."""
        folder, settings = self.checkpoint(number), self.config.student
        return student_server.Student(
            number, folder, backbone.checkpoint_digest(folder, settings.template) + settings.engine.identity_suffix
        )

    def checkpoint(self, number: int) -> Path:
        """Folder of the student after round ``number``, on this machine."""
        if number == paths.BACKBONE:
            return backbone.prepare_backbone(self.config.student, backbone.cache_of(self._root))
        # Every shard asks for it; one downloads it.
        with self._reading:
            return run_files.fetch_stage(self.run, checkpoint_at(number))

    def prompt(self, name: str) -> Prompt:
        """A prompt file, as this run uses it.

        Raises:
            RunChanged: the file was edited since the run was opened; its rows would go under the old file's key.
        """
        prompt = load_prompt(name, self.config.run.prompts)
        self.run.check_ingredient(f"prompt:{name}", prompt.version, f"the prompt {name!r}")
        return prompt

    def log(self, name: str) -> Path:
        """The log file of a child of this process."""
        return self.run.workplace.local(paths.log_file(name))

    def scripts(self, at: StageAt) -> supervisor.ScriptRunner:
        """Runs the scripts of a stage, until the run is told to stop."""
        return supervisor.ScriptRunner(self.log, lambda: self.check_stop(at))

    def close(self) -> None:
        """End what was started. Everything received is stored already."""
        if self._students is not None:
            self._students.close()
        if self._calls is not None:
            self._calls.close()
        self._endpoints.close()

    def _serve_here(self) -> student_server.Students:
        student = self.config.student
        return student_server.serving(student.engine)(student, self.log("student"), self.progress.note_current)

    def _role(self, endpoint: EndpointConfig, role: str, field: str) -> AskedModel:
        return AskedModel(endpoint.answers_as(role), endpoint_source(endpoint, self._endpoints, field))


_runtimes: dict[RunRef, Runtime] = {}
_lock = threading.Lock()


def current(run: RunFolder) -> Runtime:
    """This process's runtime for a run, made at first use."""
    with _lock:
        if run.ref not in _runtimes:
            _runtimes[run.ref] = Runtime(run)
        return _runtimes[run.ref]


def read_once(make: Callable[[RunFolder, Key], Found]) -> Callable[[RunFolder, Key], Found]:
    """What the shards of a stage have in common, such as a table: made once a process, until a stage is completed."""

    @wraps(make)
    def table(run: RunFolder, key: Key) -> Found:
        return current(run).table((make, key), lambda: make(run, key))

    return table


@atexit.register
def close_all() -> None:
    """Close every runtime of this process."""
    for runtime in runtimes():
        _runtimes.pop(runtime.run.ref, None)
        runtime.close()


def runtimes() -> list[Runtime]:
    """Every runtime of this process."""
    with _lock:
        return list(_runtimes.values())
